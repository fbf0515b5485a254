"""Servers in several processes on one database: one turn at a time in a session, even if one dies."""

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import partial
from http.client import HTTPException
from pathlib import Path

import pytest

from command_line import Server, answered, bearer, gate, run, serving, until, write_projects
from pathors_agent import AssistantMessage, Conversation, UserMessage
from pathors_agent.wire.messages import read_message

pytestmark = pytest.mark.slow

LEASE_SECONDS = 1.0
SETTINGS = f"\n[server]\nlease_seconds = {LEASE_SECONDS}\n"
PROCESSES, TASKS = 4, 20


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/sessions.db"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def servers(database: str, tmp_path: Path) -> Iterator[list[Server]]:
    config = write_projects(tmp_path, SETTINGS)
    with ExitStack() as stack:
        yield [
            stack.enter_context(serving(database, "--config", config, GATE="0"))
            for _ in range(PROCESSES)
        ]


def test_session_holds_a_turn_for_each_200_and_none_between_two_others(
    servers: list[Server],
) -> None:
    first = servers[0]
    key = first.key("process")
    statuses: dict[str, int] = {}

    def ask(number: int) -> None:
        server = servers[number % PROCESSES]
        text = f"turn {number}"
        statuses[text] = server.ask(text, project="process", key=key, session="s1").status

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(TASKS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    path = "/v1/projects/process/sessions/s1"
    stored = answered(first.connection(), "GET", path, bearer(key)).json["data"]["messages"]
    messages = [read_message(message) for message in stored]
    users = [message.text for message in messages[::2]]
    answers = {message.text for message in messages[1::2]}
    Conversation(messages)
    assert all(isinstance(message, UserMessage) for message in messages[::2])
    assert all(isinstance(message, AssistantMessage) for message in messages[1::2])
    assert sorted(users) == sorted(text for text, status in statuses.items() if status == 200)
    assert len(users) == TASKS
    assert answers == {str(server.process.pid) for server in servers}


def test_session_of_a_process_that_was_killed_in_a_turn_is_free_within_its_lease(
    database: str, tmp_path: Path
) -> None:
    config = write_projects(tmp_path, SETTINGS)
    with gate() as first_gate, ExitStack() as stack:
        options = ("--config", config)
        killed = stack.enter_context(serving(database, *options, GATE=first_gate.port))
        next_one = stack.enter_context(serving(database, *options, GATE="0"))
        key = killed.key("gated")
        other = next_one.key("process")
        asking = threading.Thread(target=ask_and_lose, args=(killed, key))
        asking.start()
        first_gate.wait_for_turn()
        killed.signal(signal.SIGKILL)
        asking.join()
        # The same session of the same project: its key is that of the dead process's turn.
        answer = until(lambda: first_success(next_one, key))

        assert "nothing of the killed turn" not in answer
        assert next_one.ask("Hi", project="process", key=other, session="s1").status == 200
        path = "/v1/projects/gated/sessions/s1"
        assert answered(next_one.connection(), "GET", path, bearer(key)).status == 404


def ask_and_lose(server: Server, key: str) -> None:
    with suppress(OSError, HTTPException):  # cut in its head, or in its body
        server.ask("nothing of the killed turn", project="gated", key=key, session="s1")


def first_success(server: Server, key: str) -> str | None:
    """Ask in the session; its model cannot be reached, so that a 502 says who got in."""
    answer = server.ask("next", project="gated", key=key, session="s1")
    return answer.body if answer.status in (500, 502) else None


def test_key_that_one_process_revoked_is_refused_by_the_others(servers: list[Server]) -> None:
    key = servers[0].key("process")
    assert all(each.ask("Hi", project="process", key=key).status == 200 for each in servers)
    database = servers[0].database
    (key_id,) = [
        each["id"]
        for each in json.loads(run("keys", "list", "--json", "--database", database).stdout)["data"]
        if each["project"] == "process"
    ]
    run("keys", "revoke", key_id, "--database", database)

    for server in servers:
        until(partial(is_refused, server, key))


def is_refused(server: Server, key: str) -> bool:
    return server.ask("Hi", project="process", key=key).status == 401
