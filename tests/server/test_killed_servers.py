"""Servers that are killed in the middle of a turn: what began is not begun again, and is told."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from http.client import HTTPException
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from command_line import Answered, Server, answered, bearer, gate, serving, until, write_projects
from durable_program import lines

PROJECTS = """
[server]
lease_seconds = 2

[projects.killed]
transport = "served_program:transport"
tools = "served_program:tools"
"""

WRITES = {"a", "b", "d"}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@contextmanager
def served(database: str, folder: Path, *options: str) -> Iterator[Server]:
    config = folder / "projects.toml"
    config.write_text(PROJECTS)
    more = {"FOLDER": str(folder), "PYTHONPATH": os.pathsep.join(sys.path)}
    with serving(database, "--config", str(config), *options, **more) as server:
        yield server


def ask(
    server: Server, key: str, name: str, address: str = "chat/completions", *, body: Any = None
) -> Answered:
    """Ask in a session, under an Idempotency-Key; both have the same name."""
    headers = {**bearer(key), "X-Session-ID": name, "Idempotency-Key": name}
    body = body or {"messages": [{"role": "user", "content": "go"}]}
    path = f"/v1/projects/killed/{address}"
    return answered(server.connection(), "POST", path, headers, json.dumps(body))


def ask_and_kill(
    server: Server, key: str, name: str, place: str, folder: Path, **asked: Any
) -> None:
    (folder / "kill").write_text(place)
    with suppress(OSError, HTTPException):
        ask(server, key, name, **asked)
    assert server.process.wait(30) == -9


def stored(server: Server, key: str, name: str) -> list[dict[str, Any]] | None:
    """Return the messages of a session that is there."""
    path = f"/v1/projects/killed/sessions/{name}"
    answer = answered(server.connection(), "GET", path, bearer(key))
    messages: list[dict[str, Any]] | None = None
    if answer.status == 200:
        messages = answer.json["data"]["messages"]
    return messages


def check(messages: list[dict[str, Any]], folder: Path) -> set[str]:
    """Check that nothing was done twice; return the lines whose writing is in doubt."""
    assert [message["role"] for message in messages] == [
        "user",
        *("assistant", "tool", "tool", "tool"),
        *("assistant", "tool", "tool"),
        *("assistant", "tool"),
        "assistant",
    ]
    calls = {call["id"]: call for m in messages for call in m.get("tool_calls") or ()}
    unknown = {
        json.loads(calls[message["tool_call_id"]]["function"]["arguments"])["line"]
        for message in messages
        if message["role"] == "tool" and "Outcome unknown" in message["content"]
    }
    written = [line.split()[1] for line in lines(folder / "lines")]
    assert len(written) == len(set(written))
    assert WRITES - unknown <= set(written) <= WRITES
    assert [line.split()[1] for line in lines(folder / "ledger")] == ["1", "2"]
    assert {line.split()[1] for line in lines(folder / "put")} == {"c"}
    for name in ("lines", "ledger", "put"):
        (folder / name).unlink()
    return unknown


def test_repeat_of_a_killed_turn_runs_no_tool_twice(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/sessions.db"
    with served(database, tmp_path) as server:
        key = server.key("killed")
        ask_and_kill(server, key, "s1", "after writing a", tmp_path)
    with served(database, tmp_path) as server:
        answer = until(lambda: success(ask(server, key, "s1")))
        messages = stored(server, key, "s1")

        assert answer.json["choices"][0]["message"]["content"] == "done"
        assert messages is not None
        assert "a" in check(messages, tmp_path)


def success(answer: Answered) -> Answered | None:
    """Return an answer, unless it says that the request is still running."""
    return answer if answer.status == 200 else None


# Where a turn is killed, and what of it must be in doubt and may be.
PLACES = {
    "model asked": (set(), set()),
    "after writing b": ({"b"}, {"a", "b"}),
    "before writing d": ({"d"}, {"d"}),
}


def test_turn_survives_its_server_and_its_repeat_gets_the_answer(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/sessions.db"
    key = ""
    for number, (place, (must, may)) in enumerate(PLACES.items()):
        name = f"s{number}"
        with served(database, tmp_path, "--durable") as server:
            key = key or server.key("killed")
            ask_and_kill(server, key, name, place, tmp_path)
        with served(database, tmp_path, "--durable") as server:
            # No client asks again: the next server goes on by itself.
            messages = until(partial(stored, server, key, name))
            unknown = check(messages, tmp_path)
            answer = ask(server, key, name)

            assert must <= unknown <= may, place
            assert answer.status == 200
            assert answer.json["choices"][0]["message"]["content"] == "done"
            assert stored(server, key, name) == messages
            assert not (tmp_path / "lines").exists()


def test_another_server_takes_a_dead_ones_turn_over(postgres_url: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        dead, other = (
            stack.enter_context(served(postgres_url, tmp_path, "--durable")) for _ in range(2)
        )
        key = dead.key("killed")
        ask_and_kill(dead, key, "s1", "after charging 2", tmp_path)
        # The repeat comes before anybody took the turn over, and waits for it; on a machine that is
        # too busy to keep a lease up it is told to come again.
        answer = until(lambda: success(ask(other, key, "s1")))

        assert answer.json["choices"][0]["message"]["content"] == "done"
        assert check(stored(other, key, "s1") or [], tmp_path) == set()


def test_turn_of_a_stopped_server_continues_in_the_next_server(tmp_path: Path) -> None:
    config = write_projects(tmp_path, "\n[server]\ngrace_seconds = 0.1\n")
    database = f"sqlite:///{tmp_path}/sessions.db"
    answers: list[Answered] = []
    with gate() as first, gate() as second:
        with serving(database, "--config", config, "--durable", GATE=first.port) as server:
            key = server.key("gated")
            asking = Thread(
                target=lambda: answers.append(
                    server.ask("Hi", project="gated", key=key, session="s1")
                )
            )
            asking.start()
            first.wait_for_turn()
            server.signal()
            asking.join()
            assert server.end()[0] == 0
        assert "The server is stopping" in answers[0].body
        with serving(database, "--config", config, "--durable", GATE=second.port) as server:
            second.wait_for_turn()
            second.go_on("two")
            path = "/v1/projects/gated/sessions/s1"
            until(lambda: answered(server.connection(), "GET", path, bearer(key)).status == 200)


@pytest.mark.parametrize("before", ["new", "there", "made again"])
def test_turn_of_a_session_that_was_ended_meanwhile_stores_nothing(
    before: str, tmp_path: Path
) -> None:
    database = f"sqlite:///{tmp_path}/sessions.db"
    with served(database, tmp_path, "--durable") as server:
        key = server.key("killed")
        if before == "there":
            assert session_api(server, key, "POST").status == 200
        ask_and_kill(server, key, "s1", "after writing b", tmp_path)
    with served(database, tmp_path) as server:
        assert session_api(server, key, "DELETE").status == 200
        if before == "made again":
            assert session_api(server, key, "POST").status == 200
    with served(database, tmp_path, "--durable") as server:
        # The next server takes the turn up, and refuses it.
        assert server.process.stderr is not None
        assert any("session_ended" in line for line in server.process.stderr)
        messages = stored(server, key, "s1")

    assert messages == ([] if before == "made again" else None)


def session_api(server: Server, key: str, method: str) -> Answered:
    body = json.dumps({"session_id": "s1"})
    return answered(server.connection(), method, "/v1/projects/killed/sessions", bearer(key), body)


FRONT_ENDS: dict[str, tuple[dict[str, Any], str]] = {
    "ui-messages": (
        {"messages": [{"role": "user", "parts": [{"type": "text", "text": "go"}]}]},
        '"finish"',
    ),
    "ag-ui": (
        {"threadId": "t", "runId": "r", "messages": [{"role": "user", "content": "go"}]},
        '"RUN_FINISHED"',
    ),
}


def test_turn_of_a_front_end_survives_its_server_and_its_repeat_gets_the_answer(
    tmp_path: Path,
) -> None:
    database = f"sqlite:///{tmp_path}/sessions.db"
    key = ""
    for address, (body, end) in FRONT_ENDS.items():
        asked: Any = {"address": address, "body": body}
        with served(database, tmp_path, "--durable", "--front-ends") as server:
            key = key or server.key("killed")
            ask_and_kill(server, key, address, "after writing b", tmp_path, **asked)
        with served(database, tmp_path, "--durable", "--front-ends") as server:
            messages = until(partial(stored, server, key, address))
            check(messages, tmp_path)
            repeated = ask(server, key, address, **asked)

            assert end in repeated.body
            assert '"done"' in repeated.body
            assert (tmp_path / "lines").exists() is False  # nothing ran again
