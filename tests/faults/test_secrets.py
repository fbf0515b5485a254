"""A key and a text that must not be seen, in every input, on every way that ends in an error."""

import asyncio
import json
import logging
import pickle
import sqlite3
import traceback
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import pytest

from faults.case_server import serving
from faults.test_answers import CASES, ERROR
from faults.whole_agents import KEY, Client, with_each_client
from live_server import Live, events, external, live, on_loop, result
from pathors_agent import (
    Agent,
    Approval,
    AssistantMessage,
    Conversation,
    HTTPTransport,
    RunResult,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
    tool,
)
from pathors_agent.messages import Message
from pathors_agent.server import Project, make_key
from pathors_agent.stores import SQLStore
from pathors_agent.testing import AsyncScriptedTransport, ScriptedTransport, calls, http_error
from pathors_agent.transports.base import Request, Response
from request_contract import taken_problems
from servers import answer

TEXT = "swordfish-canary"


class Logged:
    """All that anybody logs, at DEBUG, and what is written past the logs, as uvicorn does."""

    def __init__(self, logs: pytest.LogCaptureFixture, files: pytest.CaptureFixture[str]) -> None:
        self._logs, self._files, self._written = logs, files, ""

    @property
    def text(self) -> str:
        out, err = self._files.readouterr()
        self._written += out + err
        return self._logs.text + self._written


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Logged:
    caplog.set_level(logging.DEBUG)
    caplog.handler.setFormatter(logging.Formatter("%(name)s %(message)s %(args)s"))
    return Logged(caplog, capfd)


def shown(error: BaseException) -> str:
    """All that can be seen of an error, and of those it came from."""
    parts = [str(error), repr(error), *traceback.format_exception(error)]
    parts.append(pickle.dumps(error).decode("latin-1"))
    chained = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if chained is not None:
        parts.append(shown(chained) if is_ours(chained) else repr(chained))
    return "\n".join(parts)


def is_ours(error: BaseException) -> bool:
    return type(error).__module__.startswith("pathors_agent")


# - the client -

ECHOES = {
    "the key in JSON": [
        answer(ERROR.replace(b"pig is", KEY.encode()), "401 No", Connection="close")
    ],
    "the key in a page": [answer(b"<p>Bearer " + KEY.encode(), "403 No", Connection="close")],
    "the key at 200": [answer(ERROR.replace(b"pig is", KEY.encode()), Connection="close")],
    "the key as its code": [
        answer(ERROR.replace(b'"full"', f'"{KEY}"'.encode()), Connection="close")
    ],
    "the key in a stream": [
        answer(b"data: " + ERROR.replace(b"pig is", KEY.encode()) + b"\n\n", Connection="close")
    ],
    "the key in no JSON": [answer(f"data: {{{KEY}\n\n".encode() * 2, Connection="close")],
    "the key in the status line": [f"HTTP/1.1 200 {KEY}\r\nContent-Length: {KEY}\r\n\r\n".encode()],
    "the key in chunks": [
        f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{KEY}\r\n".encode()
    ],
    "the key in an address": [
        answer(b"", "307 Go", Location=f"http://127.0.0.1/{KEY}", Connection="close")
    ],
}


@with_each_client
def test_key_and_texts_are_in_no_error_and_no_log_of_a_client(
    client: Client, logged: Logged
) -> None:
    with serving({name: [case.script] for name, case in CASES.items()}) as server:
        all_seen = client.run_all(server, [f"{name}\n{TEXT}" for name in CASES])
    for name, seen in zip(CASES, all_seen, strict=True):
        words = shown(seen.error) if seen.error else ""
        assert KEY not in words, name
        assert TEXT not in words + repr(seen), name
    assert {seen.error is None for seen in all_seen} == {True, False}
    assert "POST" in logged.text or client.way == "aiohttp"  # somebody did log
    assert KEY not in logged.text
    assert TEXT not in logged.text


@with_each_client
def test_key_that_a_server_says_again_is_in_no_error(client: Client, logged: Logged) -> None:
    with serving({name: [script] for name, script in ECHOES.items()}) as server:
        all_seen = client.run_all(server, list(ECHOES))
    for name, seen in zip(ECHOES, all_seen, strict=True):
        assert KEY not in shown(seen.raised) + repr(seen), name
    # The HTTP client tells, at DEBUG, the heads that servers send.
    own = [line for line in logged.text.splitlines() if line.startswith("pathors_agent")]
    assert KEY not in "".join(own)


def test_no_repr_shows_a_key_or_a_text() -> None:
    @tool(approve=True)
    def pay(to: str) -> str:
        """Pay."""
        return to

    call = ToolCall(id="c1", name="pay", arguments=json.dumps({"to": TEXT}))
    messages: list[Message] = [
        SystemMessage(content=TEXT),
        UserMessage(content=TEXT),
        AssistantMessage(content=TEXT, tool_calls=(call,), reasoning=TEXT),
        ToolMessage(tool_call_id="c1", content=TEXT),
    ]
    transport = HTTPTransport(base_url="http://127.0.0.1:9/v1", api_key=KEY, headers={"X-A": TEXT})
    scripted = ScriptedTransport(calls(("pay", {"to": TEXT})), TEXT)
    agent = Agent(scripted, instructions=TEXT, tools=[pay])
    run = agent.run(TEXT)
    approval = Approval(call, "digest")
    things: list[object] = [
        *messages,
        call,
        transport,
        agent,
        run,
        *run.messages,
        *run.approvals,
        Conversation(messages),
        approval,
        approval.approve({"to": TEXT}),
        approval.deny(TEXT),
        Request(headers={"Authorization": KEY}, body=TEXT.encode()),
        Response(status=200, headers={"x": TEXT}, pieces=[TEXT.encode()]),
        agent.stream(TEXT),
        *scripted.sent,
    ]
    with agent.stream(conversation=Conversation(messages)) as stream:
        things += [stream, *stream, stream.result]
    transport.close()
    # print(result) and print(conversation) show what was said: there the reader asks for it.
    words = "\n".join(
        repr(thing) if isinstance(thing, RunResult | Conversation) else f"{thing!r} {thing}"
        for thing in things
    )

    assert TEXT not in words
    assert KEY not in words


# - the server -


@tool
def leave(word: str) -> str:
    """End the program, with a word."""
    raise SystemExit(word)


@tool
def give(word: str) -> str:
    """Give a word."""
    raise ValueError(word)


async def break_down(messages: Any) -> Any:
    raise RuntimeError(TEXT)


def projects() -> list[Project]:
    asked = calls(("leave", {"word": TEXT}))
    scripts: dict[str, list[Any]] = {
        "demo": [],
        "failing": [http_error(status, TEXT) for status in (400, 401, 429, 500)],
        "leaving": [asked, asked],
        "giving": [calls(("give", {"word": TEXT}))],
        "breaking": [],
    }
    return [
        Project(
            id=name,
            transport=AsyncScriptedTransport(*script, then=TEXT),
            instructions=TEXT,
            tools=[leave, give],
            history=break_down if name == "breaking" else None,
        )
        for name, script in scripts.items()
    ]


BAD: list[dict[str, Any]] = [
    {"messages": TEXT},
    {"messages": []},
    {"messages": [{"role": TEXT, "content": TEXT}]},
    {"messages": [{"role": "user", "content": [{"type": TEXT, "text": TEXT}]}]},
    {"messages": [result("nowhere", TEXT)]},
    {"messages": [{"role": "user", "content": TEXT}], "tools": [{"type": TEXT}]},
    {"messages": [{"role": "user", "content": TEXT}], "tools": [external("give", a=TEXT)]},
    {"messages": [{"role": "user", "content": TEXT}], "stream": TEXT},
    {"messages": [{"role": "user", "content": TEXT}], "temperature": TEXT},
    {"messages": [{"role": "user", "content": TEXT}], "response_format": {"type": TEXT}},
    {"messages": [{"role": "user", "content": TEXT}], "session_id": f"{TEXT} {TEXT}"},
]


def ask(
    server: Live, project: str, headers: dict[str, str] | None = None, *, stream: bool = False
) -> httpx2.Response:
    body = {"messages": [{"role": "user", "content": TEXT}], "stream": stream}
    url = f"{server.url}/v1/projects/{project}/chat/completions"
    return server.client.post(url, json=body, headers=headers)


def test_key_and_texts_are_in_no_log_of_a_server_and_the_key_in_no_database(
    logged: Logged, tmp_path: Path
) -> None:
    file = tmp_path / "sessions.db"
    store = SQLStore(f"sqlite:///{file}", timeout=2)
    for name in ("httpx2", "httpcore2"):  # the test's own client
        logging.getLogger(name).setLevel(logging.WARNING)
    with live(*projects(), store=store) as server:
        statuses = [ask(server, "demo", stream=stream).status_code for stream in (False, True)]
        statuses += [answer.status_code for answer in bad_requests(server)]
        made = {"session_id": "s1", "variables": {"name": TEXT}}
        statuses.append(server.client.post("/sessions", json=made).status_code)
        other = {**made, "variables": {"name": TEXT * 2}}
        statuses.append(server.client.post("/sessions", json=other).status_code)
        statuses.append(ask(server, "demo", NAMED).status_code)
        statuses.append(ask(server, "demo", NAMED, stream=True).status_code)
        statuses += [
            status
            for project in ("failing", "leaving", "giving", "breaking")
            for status in wrong_turns(server, project)
        ]
        with closing(sqlite3.connect(file, isolation_level=None)) as other_program:
            other_program.execute("BEGIN IMMEDIATE")
            statuses.append(ask(server, "demo").status_code)
        key = server.key
    taken_problems()  # a client's part of an unknown type goes to the model as it came

    assert {200, 400, 401, 404, 409, 422, 429, 500, 502, 503} <= set(statuses)
    assert "turn_failed" in logged.text
    assert "turn_served" in logged.text
    for name in (key, TEXT):
        lines = [line for line in logged.text.splitlines() if name in line]
        assert lines == [], lines[0][:500]
    stored = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert TEXT.encode() in b"".join(stored.values())
    assert [name for name, content in stored.items() if key.encode() in content] == []


def bad_requests(server: Live) -> list[httpx2.Response]:
    post, get = server.client.post, server.client.get
    broken = (f"{{{TEXT}", f'{{"messages": "{TEXT}"', f'["{TEXT}"]')
    wrong_keys = (f"sk_{TEXT}", f"Basic {TEXT}", TEXT * 100)
    return [
        *[post("/chat/completions", json=body) for body in BAD],
        *[post("/chat/completions", content=raw, headers=JSON_TYPE) for raw in broken],
        *[get("/sessions", headers={"Authorization": f"Bearer {key}"}) for key in wrong_keys],
        *map(get, (f"/sessions/{TEXT}", f"/sessions?search={TEXT}", f"/{TEXT}")),
    ]


NAMED = {"Idempotency-Key": "k1"}
JSON_TYPE = {"Content-Type": "application/json"}


def wrong_turns(server: Live, project: str) -> list[int]:
    """Ask another project, with a key of its own, twice whole and twice as a stream."""
    text, stored = make_key(project)
    on_loop(server.app, server.store.add_key(stored))
    answers = [
        ask(server, project, {"Authorization": f"Bearer {text}"}, stream=stream)
        for stream in (False, True, False, True)
    ]
    for each in answers:
        if each.status_code == 400:  # the model refused the client's request: its words go back
            assert each.json()["error"]["message"] == TEXT
        elif each.status_code != 200:
            assert TEXT not in each.text
        elif "event-stream" in each.headers["content-type"]:
            assert TEXT not in json.dumps([e for e in events(each.text) if "error" in e])
    return [each.status_code for each in answers]


class BrokenStore(SQLStore):
    async def list_sessions(self, *arguments: Any, **more: Any) -> Any:
        raise RuntimeError(TEXT)


def test_text_of_a_bug_outside_of_turns_is_in_no_log(logged: Logged, tmp_path: Path) -> None:
    with live(*projects(), store=BrokenStore(f"sqlite:///{tmp_path}/sessions.db")) as server:
        answered = server.client.get("/sessions")

    assert answered.status_code == 500
    assert answered.json()["error"]["message"] == "Internal server error"
    assert "request_failed" in logged.text
    assert TEXT not in logged.text


def test_asyncio_in_debug_mode_logs_no_contents(logged: Logged, tmp_path: Path) -> None:
    agent = Agent(ScriptedTransport(calls(("give", {"word": TEXT})), TEXT), tools=[give])

    async def main() -> None:
        await asyncio.to_thread(agent.run, TEXT)

    asyncio.run(main(), debug=True)

    assert TEXT not in logged.text
