import json
import os
import pty
import re
import select
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from command_line import (
    PATIENCE_SECONDS,
    Gate,
    Server,
    environment,
    gate,
    run,
    serving,
    write_projects,
)
from pathors_agent import Request, testing
from servers import ScriptedServer, answer

pytestmark = pytest.mark.slow

StartServer = Callable[..., ScriptedServer]

QUESTION = "Allow it? y, n, a reason against it, or other arguments as JSON: "

MILLISECONDS = re.compile(r"  \d+\.\d ms$", re.MULTILINE)


@pytest.fixture(scope="module")
def a_gate() -> Iterator[Gate]:
    with gate() as made:
        yield made


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, a_gate: Gate) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("served")
    demo = (
        '[projects.demo]\ntransport = "pathors_agent.offline:AsyncOfflineTransport"\n'
        'tools = "pathors_agent.cli.demo_tools:calculate"\n'
    )
    config = write_projects(folder, demo)
    database = f"sqlite:///{folder}/sessions.db"
    with serving(database, "--config", config, GATE=a_gate.port) as server:
        yield server


def chat(
    server: Server, lines: str, *options: str, project: str = "demo"
) -> subprocess.CompletedProcess[str]:
    """Chat with lines from a pipe."""
    url = server.base(project)
    return run("chat", "--url", url, *options, stdin=lines, PATHORS_API_KEY=server.key(project))


class Terminal:
    """A chat on a terminal of its own, where Ctrl-C is a signal and Ctrl-D an end."""

    def __init__(
        self, server: Server, project: str, *options: str, has_echo: bool = False, **more: str
    ) -> None:
        code = (
            # What a login does: the terminal becomes the process's own, and Ctrl-C reaches it,
            # also where the tests run in the background and were told to ignore it.
            "import fcntl, signal, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "from pathors_agent.__main__ import main\n"
            "main(['chat', *sys.argv[1:]])"
        )
        self._ours, theirs = pty.openpty()
        attributes = termios.tcgetattr(theirs)
        if not has_echo:
            attributes[3] &= ~termios.ECHO
        termios.tcsetattr(theirs, termios.TCSANOW, attributes)
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, "--url", server.base(project), *options],
            env=environment(**{"PATHORS_API_KEY": server.key(project), "TERM": "dumb", **more}),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.shown = ""
        self._read_to = 0

    def wait_for(self, text: str) -> str:
        """Read until a text was shown; return what came with it."""
        while (found := self.shown.find(text, self._read_to)) < 0:
            assert self._read_within(PATIENCE_SECONDS), f"{text!r} was not shown: {self.shown!r}"
        before, self._read_to = self._read_to, found + len(text)
        return self.shown[before : self._read_to]

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def press_until(self, key: str, text: str) -> None:
        """Press keys again and again until a text is shown.

        The prompt is shown before Python waits for input, and it sleeps through a signal that
        comes in between.
        """
        self.type(key)
        while self.shown.find(text, self._read_to) < 0:
            if not self._read_within(1):
                self.type(key)
        self.wait_for(text)

    def _read_within(self, seconds: float) -> bool:
        if not select.select([self._ours], [], [], seconds)[0]:
            return False
        self.shown += os.read(self._ours, 4096).decode().replace("\r\n", "\n")
        return True

    def end(self) -> int:
        status = self.process.wait(PATIENCE_SECONDS)
        os.close(self._ours)
        return status


@contextmanager
def on_terminal(
    server: Server, project: str, *options: str, has_echo: bool = False, **more: str
) -> Iterator[Terminal]:
    terminal = Terminal(server, project, *options, has_echo=has_echo, **more)
    try:
        yield terminal
    finally:
        terminal.process.kill()
        terminal.process.wait()


# - on a terminal -


def test_ctrl_c_stops_the_answer_and_keeps_the_conversation(server: Server, a_gate: Gate) -> None:
    with on_terminal(server, "gated", NO_COLOR="1") as terminal:
        terminal.wait_for("you     ")
        terminal.type("First\n")
        a_gate.wait_for_turn()
        terminal.wait_for("One ")
        terminal.type("\x03")
        terminal.wait_for("(stopped)")
        a_gate.wait_for_cancellation()

        terminal.wait_for("you")
        terminal.type("Second\n")
        a_gate.wait_for_turn()
        a_gate.go_on("two")
        terminal.wait_for("One two")
        terminal.wait_for("you")
        terminal.type("/session\n")
        session = re.findall(r"session (session-\w+)", terminal.wait_for("you"))[0]
        terminal.type("\x04")

        assert terminal.end() == 0
    shown = run("sessions", "show", session, "--project", "gated", "--database", server.database)
    assert shown.stdout.splitlines()[1:] == ["you     First", "you     Second", "model   One two"]


def test_ctrl_c_at_the_prompt_ends_nothing_and_exit_does(server: Server) -> None:
    with on_terminal(server, "demo", NO_COLOR="1") as terminal:
        terminal.wait_for("you     ")
        terminal.type("half a li")
        terminal.press_until("\x03", "exit or Ctrl-D ends")
        # A key that was pressed once too often takes away the line after it.
        terminal.press_until("1 + 1\n", "model   1 + 1 = 2.\n")
        terminal.wait_for("you     ")
        terminal.type("exit\n")

        assert terminal.end() == 0
    assert 'call    calculate(expression="1 + 1")\nresult  1 + 1 = 2' in terminal.shown
    assert "\x1b" not in terminal.shown


def test_arrow_key_recalls_an_earlier_line(server: Server) -> None:
    with on_terminal(server, "demo", NO_COLOR="1", INPUTRC="/dev/null") as terminal:
        terminal.wait_for("you     ")
        terminal.type("2 + 3\n")
        terminal.wait_for("model   2 + 3 = 5.\n")
        terminal.wait_for("you     ")
        terminal.type("\x1b[A\n")
        terminal.wait_for("model   2 + 3 = 5.\n")
        terminal.wait_for("you     ")
        terminal.type("\x04")

        assert terminal.end() == 0


def test_person_is_asked_before_a_call_that_needs_approval(server: Server) -> None:
    with on_terminal(server, "shop", NO_COLOR="1") as terminal:
        terminal.wait_for("you     ")
        terminal.type("pay 5\n")
        terminal.wait_for(f"pay(amount=5) waits for your approval.\n{QUESTION}")
        terminal.type("y\n")
        terminal.wait_for("result  paid 5")
        terminal.wait_for("you     ")
        terminal.type("pay 6\n")
        terminal.wait_for(QUESTION)
        terminal.type("no, too much\n")
        assert "too much" in terminal.wait_for("you     ")
        terminal.type("pay 7\n")
        terminal.wait_for(QUESTION)
        terminal.type("{7\n")
        terminal.wait_for(f'must be a JSON object such as {{"amount": 5}}.\n{QUESTION}')
        terminal.type('{"amount": 8}\n')
        terminal.wait_for("result  paid 8")
        terminal.wait_for("you     ")
        terminal.type("\x04")

        assert terminal.end() == 0
    assert "paid 6" not in terminal.shown
    assert "paid 7" not in terminal.shown


@pytest.mark.parametrize("key", ["\x03", "\x04"], ids=["Ctrl-C", "Ctrl-D"])
def test_person_who_leaves_the_question_goes_on(server: Server, key: str) -> None:
    with on_terminal(server, "shop", NO_COLOR="1") as terminal:
        terminal.wait_for("you     ")
        terminal.type("pay 5\n")
        terminal.wait_for(QUESTION)
        if key == "\x03":
            terminal.press_until(key, "you     ")
        else:
            terminal.type(key)
            terminal.wait_for("you     ")
        # A key that was pressed once too often takes away the line after it.
        terminal.press_until("Hello\n", "model   I am a stand-in")
        terminal.wait_for("you     ")
        terminal.type("exit\n")

        assert terminal.end() == 0
    assert "error" not in terminal.shown


def test_call_left_open_by_a_pipe_is_decided_on_a_terminal(server: Server) -> None:
    shown = chat(server, "pay 5\npay 6\n", "--session", "later", project="shop")

    assert shown.returncode == 1
    assert shown.stdout == "call    pay(amount=5)\n"
    assert shown.stderr == (
        "pay(amount=5) waits for your approval.\nIt was not run. Decide on a terminal, with: "
        f"pathors-agent chat --url {server.base('shop')} --session later\n"
    )
    with on_terminal(server, "shop", "--session", "later", NO_COLOR="1") as terminal:
        terminal.wait_for(f"pay(amount=5) waits for your approval.\n{QUESTION}")
        terminal.type("y\n")
        terminal.wait_for("result  paid 5\n")
        terminal.wait_for("you     ")
        terminal.type("exit\n")

        assert terminal.end() == 0


def test_text_typed_while_an_answer_streams_waits_for_the_next_prompt(
    server: Server, a_gate: Gate
) -> None:
    with on_terminal(server, "gated", NO_COLOR="1", has_echo=True) as terminal:
        terminal.wait_for("you     ")
        terminal.type("First\n")
        a_gate.wait_for_turn()
        terminal.wait_for("One ")
        terminal.type("Second\n")
        a_gate.go_on("two")
        assert "Second" not in terminal.wait_for("two\n")
        a_gate.wait_for_turn()
        terminal.wait_for("you     Second\n")
        a_gate.go_on("three")
        terminal.wait_for("One three\n")
        terminal.wait_for("you     ")
        terminal.type("exit\n")

        assert terminal.end() == 0


def test_last_question_is_asked_again_and_edited_in_its_session(server: Server) -> None:
    with on_terminal(server, "demo", "--session", "edited", NO_COLOR="1") as terminal:
        for line, answer in (("1 + 1", "1 + 1 = 2."), ("2 + 2", "2 + 2 = 4."), ("/retry", "= 4.")):
            terminal.wait_for("you     ")
            terminal.type(f"{line}\n")
            terminal.wait_for(f"{answer}\n")
        terminal.wait_for("you     ")
        terminal.type("/edit\n")
        terminal.wait_for("you     ")
        terminal.type("1\n")  # the line is filled with the question: 2 + 21
        terminal.wait_for("model   2 + 21 = 23.\n")
        terminal.wait_for("you     ")
        terminal.type("3 + 3\n")
        terminal.wait_for("model   3 + 3 = 6.\n")
        terminal.wait_for("you     ")
        terminal.type("exit\n")

        assert terminal.end() == 0
    kept = run("sessions", "show", "edited", "--database", server.database).stdout
    asked = re.findall(r"^you     (.*)$", kept, re.MULTILINE)
    assert asked == ["1 + 1", "2 + 21", "3 + 3"]


def test_sessions_are_listed_and_continued(server: Server) -> None:
    chat(server, "What is 20 * 7?\n", "--session", "listed")

    shown = chat(server, "/sessions\n/sessions listed\nDivide that by 2\n/tools\n/new\n/session\n")

    assert shown.returncode == 0
    assert re.search(
        r"^ +\d+  \d{4}-\d\d-\d\dT\S+Z  4 messages  What is 20 \* 7\?$", shown.stdout, re.M
    )
    assert "model   140 / 2 = 70.\n" in shown.stdout
    assert shown.stdout.endswith(
        "Called so far: calculate.\nA new conversation.\nsession (none yet)\n"
    )


def test_markdown_is_rendered_on_a_terminal(server: Server) -> None:
    with on_terminal(server, "markdown", TERM="xterm") as terminal:
        terminal.wait_for("you")
        terminal.type("Hi\n")
        shown = terminal.wait_for("\x1b[1mbold\x1b[0m and ")
        terminal.wait_for("you")
        terminal.type("\x04")

        assert terminal.end() == 0
    assert "**bold** and [link](https://example.org/)" in shown


def test_terminal_gets_colours_and_no_controls_of_the_model(server: Server) -> None:
    with on_terminal(server, "hostile") as terminal:
        terminal.wait_for("you")
        terminal.type("Hi\n")
        terminal.wait_for("\x1b[1;35mmodel\x1b[0m   \ufffd[2Jgone\ufffd\ufffd\n")
        terminal.wait_for("you")
        terminal.type("\x04")

        assert terminal.end() == 0


# - from a pipe -


def test_lines_of_a_pipe_are_one_conversation(server: Server) -> None:
    shown = chat(server, "What is 6 * 7?\n\n/session\nDivide that by 2\n")

    assert shown.returncode == 0
    assert shown.stderr == ""
    lines = MILLISECONDS.sub("", shown.stdout).splitlines()
    assert re.fullmatch(r"session session-[0-9a-f]+", lines.pop(3))
    assert lines == [
        'call    calculate(expression="6 * 7")',
        "result  6 * 7 = 42",
        "model   6 * 7 = 42.",
        'call    calculate(expression="42 / 2")',
        "result  42 / 2 = 21",
        "model   42 / 2 = 21.",
    ]


def test_bytes_of_a_pipe_that_are_no_text_are_replaced(server: Server) -> None:
    here = {"PATHORS_API_KEY": server.key("demo"), "PYTHONIOENCODING": "ascii"}

    shown = run("chat", "--url", server.base("demo"), stdin="What is 6 * 7? Caf\u00e9\n", **here)

    assert (shown.returncode, shown.stderr) == (0, "")
    assert "model   6 * 7 = 42." in shown.stdout


def test_session_is_taken_up(server: Server) -> None:
    chat(server, "What is 6 * 7?\n", "--session", "mine")

    shown = chat(server, "Divide that by 2\nDivide that by 3\n", "--session", "mine", "--json")

    told = [json.loads(line) for line in shown.stdout.splitlines()]
    assert [each["output"] for each in told] == ["42 / 2 = 21.", "21 / 3 = 7."]
    assert {each["session_id"] for each in told} == {"mine"}
    kept = run("sessions", "show", "mine", "--database", server.database).stdout
    assert re.findall(r"^you     (.*)$", kept, re.MULTILINE) == [
        "What is 6 * 7?",
        "Divide that by 2",
        "Divide that by 3",
    ]


def test_json_has_calls_results_and_tokens(server: Server) -> None:
    shown = chat(server, "6 * 7\n", "--json")

    told = json.loads(shown.stdout)
    call, result = told["tool_activity"]
    assert call["call"]["function"]["name"] == "calculate"
    assert result["result"]["content"] == "6 * 7 = 42"
    assert told["finish_reason"] == "stop"
    assert told["usage"]["total_tokens"] > 0


def test_timeline_has_the_calls_of_the_server_too(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "chat.html"
    shown = chat(server, "6 * 7\n", "--timeline", str(file))

    assert shown.returncode == 0
    assert shown.stderr == f"{file} shows all calls.\n"
    text = file.read_text(encoding="utf-8")
    assert re.findall("<h1>(.*)</h1>", text) == ["6 * 7"]
    assert re.findall(r'<th scope="row"[^>]*>(\w+)<', text) == ["model", "calculate"]


def test_json_has_the_calls_that_wait_for_an_approval(server: Server) -> None:
    shown = chat(server, "pay 5\n", "--json", project="shop")

    assert shown.returncode == 1
    (waiting,) = json.loads(shown.stdout)["waiting"]
    assert (waiting["tool"], json.loads(waiting["arguments"])) == ("pay", {"amount": 5})
    assert re.fullmatch(r"[0-9a-f]{32}", waiting["digest"])


def test_wrong_key_is_one_line_and_ends_it(server: Server) -> None:
    shown = run("chat", "--url", server.base("demo"), "--key", "sk_wrong_one", stdin="Hi\nHo\n")

    assert shown.returncode == 1
    assert re.fullmatch(r"error: .*Invalid authentication.*\n", shown.stderr)
    assert "sk_wrong_one" not in shown.stdout + shown.stderr


def test_server_that_is_not_there_is_one_line(server: Server) -> None:
    shown = run("chat", "--url", "http://127.0.0.1:1/v1", stdin="Hi\n")

    assert shown.returncode == 1
    assert re.fullmatch(r"error: .*\n", shown.stderr)


def test_other_endpoint_gets_the_whole_history_and_nothing_it_may_not_know(
    scripted_server: StartServer,
) -> None:
    bodies = []
    for text in ("One.", "Two."):
        script = testing.ScriptedTransport(text)
        with script.send(Request(body=b'{"stream": true}')) as response:
            bodies.append(b"".join(response.pieces))
    other = scripted_server(*([answer(body, Content_Type="text/event-stream")] for body in bodies))

    shown = run("chat", "--url", other.url, "--model", "m-1", stdin="First\nSecond\n")

    assert shown.stdout.splitlines() == ["model   One.", "model   Two."]
    sent = [json.loads(received.body) for received in other.requests]
    assert [m["content"] for m in sent[1]["messages"]] == ["First", "One.", "Second"]
    assert sent[1]["stream_options"] == {"include_usage": True}
    assert sent[1]["model"] == "m-1"
    assert "x-session-id" not in other.requests[1].headers
