import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from command_line import (
    PATIENCE_SECONDS,
    PROGRAM,
    Answered,
    Gate,
    Server,
    bearer,
    environment,
    gate,
    run,
    serving,
    until,
    write_projects,
)

pytestmark = pytest.mark.slow

KEY = re.compile(r"sk_[0-9A-Za-z]{43}")


@pytest.fixture
def a_gate() -> Iterator[Gate]:
    with gate() as made:
        yield made


@pytest.fixture
def database(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/sessions.db"


class Asking:
    """A request that is being answered while the test goes on."""

    def __init__(self, server: Server, text: str, session: str) -> None:
        server.key("gated")
        self._answer: list[Answered] = []
        self._thread = threading.Thread(target=self._ask, args=(server, text, session))
        self._thread.start()

    def _ask(self, server: Server, text: str, session: str) -> None:
        self._answer.append(server.ask(text, project="gated", session=session))

    def answer(self) -> Answered:
        self._thread.join(PATIENCE_SECONDS)
        return self._answer[0]


def read_up_to(process: subprocess.Popen[str], last: str) -> str:
    """Read what a process writes, up to a line that begins with a text."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.strip().startswith(last):
            break
    return "".join(lines)


def printed_by_serve(folder: Path, *options: str) -> tuple[str, list[Answered]]:
    """Serve with a data folder; return what is printed, and the answer to the request to try."""
    with subprocess.Popen(
        [*PROGRAM, "serve", "--port", "0", *options],
        env=environment(PATHORS_DATA_DIR=str(folder)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            printed = read_up_to(process, "-d '")
            port = int(re.findall(r"Listening on http://127\.0\.0\.1:(\d+)\n", printed)[0])
            server = Server(process, port, "", {})
            (sent,) = re.findall(r"-d '(.+)'", printed)
            question = json.loads(sent)["messages"][0]["content"]
            answers = [server.ask(question, key=key) for key in KEY.findall(printed)]
        finally:
            process.kill()
    return printed, answers


def test_serve_alone_shows_a_key_once_and_a_stream_is_answered_with_it(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "ours"

    first, answers = printed_by_serve(folder)
    second, _ = printed_by_serve(folder)

    told = [(200, "26.2 mile = 42.1648128 km.")]
    assert [(a.status, a.text) for a in answers] == told, answers
    assert answers[0].body.endswith("data: [DONE]\n\n")
    assert "server" not in answers[0].headers
    assert not KEY.search(second)
    assert "pathors-agent keys create --project demo" in second
    assert re.search(r"curl http://127\.0\.0\.1:\d+/v1/projects/demo/chat/completions", first)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "sessions.db").stat().st_mode) == 0o600


def test_request_to_try_suits_projects_of_a_file(tmp_path: Path) -> None:
    printed, _ = printed_by_serve(tmp_path / "data", "--config", write_projects(tmp_path))

    assert printed.splitlines()[-1].endswith("""[{"role": "user", "content": "Hello!"}]}'""")


def test_data_folder_is_in_the_systems_place_for_data(tmp_path: Path) -> None:
    shown = run("keys", "list", XDG_DATA_HOME=str(tmp_path))

    file = tmp_path / "pathors-agent" / "sessions.db"
    assert shown.stderr == f"sqlite:///{file} has no keys.\n"
    assert file.is_file()


def test_projects_of_a_file_get_no_key_by_themselves(tmp_path: Path, database: str) -> None:
    with serving(database, "--config", write_projects(tmp_path)) as server:
        assert server.keys == {}
        assert server.ask("Hi", project="process").text == str(server.process.pid)


# - the end -


def test_running_turn_is_finished_after_sigterm_while_new_ones_are_refused(
    tmp_path: Path, database: str, a_gate: Gate
) -> None:
    config = write_projects(tmp_path)
    with serving(database, "--config", config, GATE=a_gate.port) as server:
        asking = Asking(server, "Hi", "s-1")
        a_gate.wait_for_turn()

        server.signal()
        until(lambda: is_draining(server))
        refused = server.ask("Hi", project="gated")
        alive = server.get("/healthz")
        a_gate.go_on("two")

        assert refused.status == 503
        assert refused.headers["retry-after"] == "1"
        assert alive.status == 200
        assert asking.answer().text == "One two"
        assert asking.answer().body.endswith("data: [DONE]\n\n")
        assert server.end() == (0, "")
    shown = run("sessions", "show", "s-1", "--project", "gated", "--database", database)
    assert shown.stdout.splitlines()[1:] == ["you     Hi", "model   One two"]


def test_turn_over_its_grace_time_gets_an_error_and_stores_nothing(
    tmp_path: Path, database: str, a_gate: Gate
) -> None:
    config = write_projects(tmp_path, "[server]\ngrace_seconds = 0.1\n")
    with serving(database, "--config", config, GATE=a_gate.port) as server:
        asking = Asking(server, "Hi", "s-1")
        a_gate.wait_for_turn()

        server.signal()
        a_gate.wait_for_cancellation()

        *_, last = asking.answer().body.strip().splitlines()
        assert json.loads(last[6:])["error"]["message"] == "The server is stopping; try again"
        status, errors = server.end()
        assert status == 0
        (line,) = errors.splitlines()
        assert " warning turn_failed " in line
        assert line.endswith("cause='The server is stopping; try again'")
    shown = run("sessions", "show", "s-1", "--project", "gated", "--database", database)
    assert shown.returncode == 1


def test_second_signal_ends_at_once(tmp_path: Path, database: str, a_gate: Gate) -> None:
    config = write_projects(tmp_path)
    with serving(database, "--config", config, GATE=a_gate.port) as server:
        connection = server.connection()
        body = '{"messages": [{"role": "user", "content": "Hi"}], "stream": true}'
        headers = bearer(server.key("gated"))
        connection.request("POST", "/v1/projects/gated/chat/completions", body, headers)
        a_gate.wait_for_turn()

        server.signal()
        until(lambda: is_draining(server))
        server.signal()

        assert server.end() == (130, "")
        connection.close()


def test_ctrl_c_ends_a_server_in_good_order(database: str) -> None:
    with serving(database) as server:
        server.signal(signal.SIGINT)

        assert server.end() == (0, "")


# - workers -


def test_two_workers_answer_and_a_dead_one_is_replaced(tmp_path: Path, database: str) -> None:
    config = write_projects(tmp_path)
    with serving(database, "--config", config, "--workers", "2") as server:
        first: set[int] = set()
        until(lambda: len(seen(first, pid(server))) == 2)
        killed = first.pop()
        os.kill(killed, signal.SIGKILL)
        new = until(lambda: {pid(server)} - first - {killed, 0})

        server.signal()
        status, errors = server.end()

    assert server.process.pid not in {*first, *new, killed}
    assert status == 0
    assert errors == f"worker {killed} ended with status -9; starting another\n"
    assert not any(is_alive(worker) for worker in {*first, *new})


def test_workers_end_with_their_supervisor(tmp_path: Path, database: str) -> None:
    config = write_projects(tmp_path)
    with serving(database, "--config", config, "--workers", "2") as server:
        worker = pid(server)

        server.process.kill()
        server.process.wait()

        until(lambda: not is_alive(worker))


def test_second_signal_ends_all_workers_at_once(
    tmp_path: Path, database: str, a_gate: Gate
) -> None:
    config = write_projects(tmp_path)
    with serving(database, "--config", config, "--workers", "2", GATE=a_gate.port) as server:
        connection = server.connection()
        body = '{"messages": [{"role": "user", "content": "Hi"}], "stream": true}'
        headers = bearer(server.key("gated"))
        connection.request("POST", "/v1/projects/gated/chat/completions", body, headers)
        a_gate.wait_for_turn()

        server.signal()
        until(lambda: is_draining(server))
        server.signal()

        assert server.end()[0] == 130
        a_gate.wait_for_cancellation()
        connection.close()


def is_draining(server: Server) -> bool:
    try:
        return server.get("/readyz").status == 503
    except OSError:  # of a worker that is on its way out
        return False


def seen(processes: set[int], process: int) -> set[int]:
    processes |= {process} - {0}
    return processes


def pid(server: Server) -> int:
    """Ask for the process that answers; one that dies meanwhile gives 0."""
    try:
        return int(server.ask("Hi", project="process").text or 0)
    except (OSError, ValueError):
        return 0


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"


# - connections -


def patched_serve(database: str, patch: str) -> subprocess.Popen[str]:
    code = (
        "import pathors_agent.server.running.connections as connections\n"
        f"{patch}\n"
        "from pathors_agent.__main__ import main\n"
        f"main(['serve', '--json', '--port', '0', '--database', {database!r}])"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code], env=environment(), stdout=subprocess.PIPE, text=True
    )


def test_connection_without_a_whole_head_is_closed(database: str) -> None:
    with patched_serve(database, "connections.HEAD_SECONDS = 0.1") as process:
        assert process.stdout is not None
        port = int(json.loads(process.stdout.readline())["url"].rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS) as silent:
            assert silent.recv(1) == b""
        with socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS) as slow:
            slow.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            received = b""
            while not received.endswith(b"}"):
                received += slow.recv(1000)
            slow.sendall(b"GET /healthz HTT")
            assert slow.recv(1) == b""
        process.terminate()


def test_head_without_end_is_cut_off(database: str) -> None:
    with serving(database) as server:
        with socket.create_connection(("127.0.0.1", server.port), PATIENCE_SECONDS) as endless:
            endless.sendall(b"GET /healthz HTTP/1.1\r\n")
            with suppress(ConnectionError):
                for number in range(1_000):
                    endless.sendall(b"X-%d: %s\r\n" % (number, b"x" * 1000))
                endless.sendall(b"\r\n")
                answer = b"".join(iter(partial(endless.recv, 4096), b""))
                assert answer.startswith(b"HTTP/1.1 431 ")
        assert server.get("/healthz").status == 200


# - what cannot be served -


def test_port_in_use_is_one_line_on_stderr(database: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        shown = run("serve", "--port", port, "--database", database)

    assert shown.returncode == 1
    assert shown.stdout == ""
    assert shown.stderr == (
        f"error: cannot listen on 127.0.0.1, port {port}: Address already in use\n"
    )


def test_host_that_is_none_is_one_line_on_stderr(database: str) -> None:
    shown = run("serve", "--host", "999.1.1.1", "--database", database)

    assert shown.returncode == 1
    assert re.fullmatch(r"error: cannot listen on 999\.1\.1\.1: .*\n", shown.stderr)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[projects.x]\n", "projects.x needs either base_url or transport"),
        ("[projects.x\n", "is not valid TOML"),
        ("[server]\ngrace = 1\n", "server.grace is not a setting; the settings are access_log"),
        ("[server]\ngrace_seconds = '1'\n", "server.grace_seconds is of the wrong type"),
        ("[server]\ngrace_seconds = 0\n", "ServerSettings.grace_seconds must be over 0"),
    ],
)
def test_bad_project_file_is_one_line_on_stderr(
    tmp_path: Path, database: str, text: str, problem: str
) -> None:
    demo = '[projects.demo]\ntransport = "pathors_agent.offline:AsyncOfflineTransport"\n'
    file = tmp_path / "projects.toml"
    file.write_text(text + (demo if "[server]" in text else ""))

    shown = run("serve", "--config", str(file), "--database", database, "--workers", "2")

    assert shown.returncode == 1
    assert re.fullmatch(rf"error: {re.escape(str(file))}: .*{problem}.*\n", shown.stderr)


def test_password_of_a_database_is_never_shown() -> None:
    shown = run("serve", "--database", "postgresql://me:s3cret@127.0.0.1:1/x")

    assert shown.returncode == 1
    assert shown.stderr.startswith("error: ")
    assert shown.stderr.count("\n") == 1
    assert "s3cret" not in shown.stdout + shown.stderr


def test_log_has_json_lines_of_requests_and_failures(tmp_path: Path, database: str) -> None:
    config = write_projects(tmp_path)
    with serving(database, "--config", config, "--access-log", "json") as server:
        asked = server.ask("Hi", project="process", session="s1")
        server.signal()
        status, errors = server.end()

    lines = [json.loads(line) for line in errors.splitlines()]
    (turn,) = [line for line in lines if line["path"].endswith("/chat/completions")]
    assert status == 0
    assert {line["event"] for line in lines} == {"request"}
    assert turn["request_id"] == asked.headers["x-request-id"]
    named = {name: turn[name] for name in ("level", "method", "status", "project", "session")}
    assert named == {
        "level": "info",
        "method": "POST",
        "status": 200,
        "project": "process",
        "session": "s1",
    }
    assert turn["bytes"] == len(asked.body)
    assert 0 < turn["seconds"] < PATIENCE_SECONDS


def test_log_of_requests_is_off_and_takes_one_of_two_forms(database: str) -> None:
    with serving(database) as server:
        server.get("/healthz")
        server.signal()
        assert server.end() == (0, "")
    wrong = run("serve", "--database", database, "--access-log", "xml")
    assert wrong.returncode == 2
    assert "'text', 'json'" in wrong.stderr


def test_control_characters_stay_in_their_line_of_the_log() -> None:
    program = (
        "import logging; from pathors_agent.cli.output import log_to_stderr\n"
        "log_to_stderr(everything=True, as_json=False)\n"
        "logging.getLogger('uvicorn').warning('one\\ntwo\\x1b[2J')\n"
        "from pathors_agent.telemetry.events import emit\n"
        "emit('turn_served', session='a\\nb\\u202e')\n"
    )
    written = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stderr

    first, second = written.splitlines()
    assert first.endswith(r" warning one\ntwo\x1b[2J")
    assert second.endswith(r" info turn_served session='a\nb\u202e'")
