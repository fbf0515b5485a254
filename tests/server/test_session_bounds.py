"""The session API answers in bounded pieces, and keeps the event loop and other clients free."""

import json
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from time import monotonic
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from live_server import PATIENCE_SECONDS, Live, live, on_loop, project
from pathors_agent import AsyncResponse, AsyncTransport, Request, Tool
from pathors_agent.messages import AssistantMessage, ContentPart, Message, UserMessage
from pathors_agent.server import Project, ServerSettings
from pathors_agent.server.endpoints import BATCH_CHARACTERS, batches
from pathors_agent.stores import MAX_SEARCH_BYTES, MemoryStore, texts, values
from pathors_agent.testing import calls
from pathors_agent.wire import chat_completions
from pathors_agent.wire.completion_bytes import stream_events


def keep(server: Live, session_id: str, *messages: Message) -> None:
    """Store a session."""

    async def save() -> None:
        lease = await server.store.take_lease("demo", session_id, holder="test", seconds=60)
        assert lease is not None
        await server.store.save_turn(lease, messages, seen=None, drop=True)

    on_loop(server.app, save())


def said(megabytes: float) -> Message:
    return UserMessage(content="x" * int(megabytes * 1024 * 1024))


def search(server: Live, **fields: Any) -> Any:
    return server.client.post("/sessions/search", json={"search_string": "x", **fields}).json()


def test_page_of_a_search_ends_before_it_is_too_large() -> None:
    with live(project()) as server:
        for number in range(4):
            keep(server, f"s{number}", said(2.5))
        pages = [search(server, offset=offset) for offset in (0, 3)]

        ids = [[each["sessionId"] for each in page["results"]] for page in pages]
        assert ids == [["s3", "s2", "s1"], ["s0"]]
        assert [page["pagination"] for page in pages] == [
            {"limit": 50, "offset": 0, "count": 3, "total": 4},
            {"limit": 50, "offset": 3, "count": 1, "total": 4},
        ]


def test_session_larger_than_a_page_is_alone_on_its_page() -> None:
    with live(project()) as server:
        keep(server, "small", said(0.1))
        keep(server, "large", said(MAX_SEARCH_BYTES / 2**20 + 1))
        keep(server, "last", said(0.1))
        pages = [search(server, offset=offset) for offset in range(3)]

        ids = [[each["sessionId"] for each in page["results"]] for page in pages]
        assert ids == [["last"], ["large"], ["small"]]


def test_stored_text_is_served_as_it_is() -> None:
    text = '{"role":  "user", "content": "\\u0078"}'
    with live(project()) as server:
        keep(server, "s1", UserMessage(content="x"))
        assert isinstance(server.store, MemoryStore)
        stored = server.store._live["demo", "s1"]
        stored.session = replace(stored.session, message_texts=(text,))
        queried = server.client.get("/sessions/s1").text
        found = server.client.post("/sessions/search", json={"search_string": "u0078"}).text

        assert queried.count(text) == 2
        assert found.count(text) == 1


def test_search_and_list_parse_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(text: str) -> Message:
        raise AssertionError("a message was parsed")

    monkeypatch.setattr(values, "read_message_text", refuse)
    with live(project()) as server:
        keep(server, "s1", said(0.1), AssistantMessage(content="ok"))

        assert search(server)["pagination"]["total"] == 1
        assert server.client.get("/sessions?search=x").json()["pagination"]["total"] == 1


def test_query_parses_nothing_before_the_last_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[Message] = []

    def noted(text: str) -> Message:
        parsed.append(texts.read_message_text(text))
        return parsed[-1]

    monkeypatch.setattr(values, "read_message_text", noted)
    monkeypatch.setattr("pathors_agent.server.endpoints.read_message_text", noted)
    with live(project()) as server:
        keep(server, "s1", said(0.1), AssistantMessage(content="ok"))

        assert len(server.stored("s1")) == 2
        assert [message.role for message in parsed] == ["assistant"]


def test_large_history_is_parsed_written_and_searched_off_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads: dict[str, set[int]] = {}

    def watch(module: object, name: str) -> None:
        function: Callable[..., Any] = getattr(module, name)

        def noted(*arguments: Any, **named: Any) -> Any:
            threads.setdefault(name, set()).add(threading.get_ident())
            return function(*arguments, **named)

        monkeypatch.setattr(module, name, noted)

    async def loop_thread() -> int:
        return threading.get_ident()

    with live(project("ok")) as server:
        loop = on_loop(server.app, loop_thread())
        parts = (ContentPart(type="text", text=""),) * 10_000
        watch(texts, "message_text")
        keep(server, "s1", UserMessage(content=parts), AssistantMessage(content="xyz"))
        watch(values, "read_message_text")
        watch(chat_completions, "wire_message")
        watch(__import__("pathors_agent.server.turns.run", fromlist=["join"]), "join")
        watch(__import__("pathors_agent.stores.memory", fromlist=["x"]), "joined_text")
        server.complete("go on", session="s1")
        assert search(server, search_string="xyz")["pagination"]["total"] == 1

    # The turn's own two messages are small, and are written where the turn runs.
    assert loop in threads.pop("message_text")
    assert set(threads) == {"read_message_text", "wire_message", "join", "joined_text"}
    assert all(loop not in used for used in threads.values())


SHAPES: dict[str, Callable[[int], list[Message]]] = {
    "equal parts": lambda size: [UserMessage(content=(part(""),) * size)],
    "messages": lambda size: [
        message
        for number in range(size // 2)
        for message in (UserMessage(content=f"q{number}"), AssistantMessage(content=f"a{number}"))
    ],
    "other parts": lambda size: [UserMessage(content=tuple(part(str(n)) for n in range(size)))],
}


def part(text: str) -> ContentPart:
    return ContentPart(type="text", text=text)


@pytest.mark.parametrize("shape", list(SHAPES))
def test_turn_does_no_work_on_the_event_loop_in_proportion_to_its_session(shape: str) -> None:
    few, many = (calls_on_loop(SHAPES[shape](size)) for size in (4_000, 8_000))

    assert many < few + 2_000


class Fixed(AsyncTransport):
    """A model that answers without reading the request, so that the server's own work is counted."""

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncIterator[AsyncResponse]:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"".join(
                stream_events(AssistantMessage(content="ok", finish_reason="stop"), split=list)
            )

        yield AsyncResponse(
            status=200, headers={"content-type": "text/event-stream"}, pieces=pieces()
        )


def calls_on_loop(messages: list[Message]) -> int:
    """Count the calls of functions that the event loop makes during a turn of a stored session."""
    count = 0

    def note(_frame: FrameType, event: str, _: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    async def trace(function: Any) -> None:
        sys.setprofile(function)

    with live(Project(id="demo", transport=Fixed())) as server:
        keep(server, "s1", *messages, AssistantMessage(content="ok"))
        on_loop(server.app, trace(note))
        try:
            assert server.complete("go on", session="s1").status_code == 200
        finally:
            on_loop(server.app, trace(None))
    return count


def test_equal_text_parts_are_one_object() -> None:
    # Python's collector stops everything while it visits each object of a large history.
    message = texts.read_message_text(texts.message_text(UserMessage(content=(part("x"),) * 3)))

    assert isinstance(message.content, tuple)
    assert len({id(each) for each in message.content}) == 1


def test_turn_of_a_session_that_is_too_large_is_refused() -> None:
    with live(project(), settings=ServerSettings(max_session_bytes=1000)) as server:
        keep(server, "s1", UserMessage(content="x" * 1000))
        refused = server.complete("go on", session="s1")

        assert refused.status_code == 413
        assert refused.json()["error"]["code"] == "session_too_large"
        assert len(server.stored("s1")) == 1


class Gate:
    """A tool that begins, and ends when it is let go."""

    def __init__(self) -> None:
        self.has_begun, self.may_end = threading.Event(), threading.Event()

    def wait(self) -> str:
        """Wait."""
        self.has_begun.set()
        self.may_end.wait(PATIENCE_SECONDS)
        return "done"


REQUESTS: list[tuple[str, str, object]] = [
    ("POST", "/sessions", {"session_id": "s1"}),
    ("GET", "/sessions/s1", None),
    ("POST", "/sessions/search", {"search_string": ""}),
    ("DELETE", "/sessions", {"session_id": "s1"}),
    ("GET", "/sessions", None),
    ("GET", "/session-history", None),
]
ONE_AT_ONCE = ServerSettings(turns_per_key=1, queue_length=0, write_seconds=0.3)


def test_session_api_is_admitted_like_turns() -> None:
    gate = Gate()
    served = project(calls(("wait", {})), "ok", tools=[Tool.from_function(gate.wait)])
    with live(served, settings=ONE_AT_ONCE) as server:
        turn = threading.Thread(target=server.complete, args=("Hi",))
        turn.start()
        assert gate.has_begun.wait(PATIENCE_SECONDS)
        full = [server.client.request(m, path, json=body) for m, path, body in REQUESTS]
        gate.may_end.set()
        turn.join(PATIENCE_SECONDS)
        free = [server.client.request(m, path, json=body) for m, path, body in REQUESTS]

        assert [each.status_code for each in full] == [429] * len(REQUESTS)
        assert {each.json()["error"]["code"] for each in full} == {"too_many_turns"}
        assert [each.status_code for each in free] == [200] * len(REQUESTS)


def test_client_that_reads_nothing_loses_its_place() -> None:
    with live(project(), settings=ONE_AT_ONCE) as server, socket.socket() as lazy:
        keep(server, "s1", said(20))
        # The kernel takes less than the answer.
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.connect(("127.0.0.1", server.port))
        head = f"GET /v1/projects/demo/sessions/s1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.key}\r\n\r\n"
        lazy.sendall(head.encode())
        assert lazy.recv(12) == b"HTTP/1.1 200"
        status, until = 429, monotonic() + PATIENCE_SECONDS
        while status == 429 and monotonic() < until:
            status = server.client.get("/sessions").status_code

        assert status == 200


@given(st.lists(st.text(max_size=20) | st.integers(0, 200_000).map("é".__mul__), max_size=8))
def test_batches_are_the_text_in_bounded_pieces(pieces: list[str]) -> None:
    sent = list(batches(pieces))

    assert b"".join(sent).decode() == "".join(pieces)
    assert all(0 < len(batch.decode()) < 2 * BATCH_CHARACTERS for batch in sent)
    assert all(len(batch.decode()) >= BATCH_CHARACTERS for batch in sent[:-1])


def test_answer_in_pieces_states_its_length() -> None:
    with live(project()) as server:
        keep(server, "s1", UserMessage(content="é" * 100_000))
        answered = server.client.get("/sessions/s1")

        assert int(answered.headers["content-length"]) == len(answered.content)
        assert json.loads(answered.content)["data"]["messages"][0]["content"] == "é" * 100_000
