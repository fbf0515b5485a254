"""Streams: each event as a plain writer writes it, and one write for all that a read brings."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import CoroutineType
from typing import Any

import anyio
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from starlette.responses import StreamingResponse

from effort import examples
from pathors_agent import AsyncResponse, AsyncTransport, Request
from pathors_agent.json_text import whole_characters
from pathors_agent.server import Project, ServerSettings, create_app
from pathors_agent.server.http.keys import Principal
from pathors_agent.server.turns.answer import Chunks, Head
from pathors_agent.server.turns.writers import ClientSender
from pathors_agent.stores import MemoryStore

PATH = "/v1/projects/demo/chat/completions"
SCOPE = {
    "type": "http",
    "asgi": {"version": "3.0"},
    "http_version": "1.1",
    "scheme": "http",
    "query_string": b"",
    "root_path": "",
    "headers": [(b"content-type", b"application/json")],
    "client": ("127.0.0.1", 1),
    "server": ("demo", 80),
}
ROLE = {"role": "assistant", "content": "", "refusal": None}

# - events -


def plain_event(head: Head, delta: object, position: str, *, include_usage: bool) -> bytes:
    """Write an event as the standard library does."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
    chunk = {
        "id": head.id,
        "object": "chat.completion.chunk",
        "created": head.created,
        "model": whole_characters(head.model),
        "session_id": whole_characters(head.session_id),
        "choices": [choice],
        **({"usage": None} if include_usage else {}),
    }
    return (
        f"id: {head.id}:{position}\ndata: {json.dumps(chunk, separators=(',', ':'))}\n\n".encode()
    )


def plainly(event: bytes) -> bytes:
    """Escape DEL, as the standard library does; msgspec leaves it."""
    return event.replace(b"\x7f", rb"\u007f")


ANY_TEXT = st.text(st.characters()) | st.text(st.sampled_from('aé\u2028"\\\n\x00\x7f\ud83d\ude00<'))
HEADS = st.builds(
    Head,
    id=st.from_regex(r"[\w-]{1,20}", fullmatch=True),
    created=st.integers(0, 2**40),
    model=ANY_TEXT,
    session_id=ANY_TEXT,
)


@settings(max_examples=examples(500))
@given(HEADS, st.lists(st.tuples(st.booleans(), ANY_TEXT), max_size=5), st.booleans())
@example(Head(id="c", created=1, model="m", session_id="s"), [(False, "\ud83d\ude00")], True)
def test_events_are_those_of_a_plain_writer(
    head: Head, pieces: list[tuple[bool, str]], include_usage: bool
) -> None:
    chunks = Chunks(head, include_usage=include_usage)
    text = reasoning = 0

    opening = plain_event(head, ROLE, "0:0:0:0", include_usage=include_usage)
    assert plainly(chunks.opening()) == opening
    for is_reasoning, piece in pieces:
        whole = whole_characters(piece)
        if is_reasoning:
            reasoning += len(piece)
            written, delta = chunks.reasoning(piece), {"reasoning_content": whole}
        else:
            text += len(piece)
            written, delta = chunks.text(piece), {"content": whole}
        position = f"{text}:{reasoning}:0:0"
        expected = plain_event(head, delta, position, include_usage=include_usage)
        assert plainly(written) == expected


# - writes -


class Reads(AsyncTransport):
    """A model whose answer comes in reads of several pieces of text each."""

    def __init__(self, reads: list[list[str]]) -> None:
        self._reads = reads

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncGenerator[AsyncResponse]:
        async def pieces() -> AsyncGenerator[bytes]:
            for texts in self._reads:
                yield b"".join(_event({"content": text}) for text in texts)
            yield _event({}, "stop") + b"data: [DONE]\n\n"

        yield AsyncResponse(status=200, pieces=pieces())


def _event(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
    chunk = {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}
    return f"data: {json.dumps(chunk)}\n\n".encode()


async def bodies_of_stream(
    reads: list[list[str]], settings: ServerSettings, on_send: Callable[[], None] = lambda: None
) -> list[bytes]:
    """Return what the app sends to a client of a stream, by write."""

    async def let_in(request: object) -> Principal:
        return Principal(project="demo", id="ada")

    project = Project(id="demo", transport=Reads(reads))
    app = create_app([project], MemoryStore(), settings, authenticate=let_in)
    body = json.dumps({"messages": [{"role": "user", "content": "Hi"}], "stream": True}).encode()
    incoming = [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if incoming:
            return incoming.pop()
        await anyio.sleep_forever()
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message)
        on_send()

    await app({**SCOPE, "method": "POST", "path": PATH}, receive, send)
    await app.state.runtime.stop()
    assert sent[0]["status"] == 200
    assert [message["more_body"] for message in sent[1:]] == [True] * (len(sent) - 2) + [False]
    return [message["body"] for message in sent[1:]]


def contents(body: bytes) -> list[str]:
    """Return the pieces of text in the events of a write; a mark for every other event."""
    found = []
    for event in body.decode().removesuffix("\n\n").split("\n\n"):
        data = event.rpartition("data: ")[2]
        delta = {} if data == "[DONE]" else json.loads(data)["choices"][0]["delta"]
        found.append(delta.get("content", "end"))
    return found


@pytest.mark.parametrize("event_ids", [True, False])
def test_all_deltas_of_a_read_are_sent_in_one_write(*, event_ids: bool) -> None:
    reads = [["a"], ["b", "c", "d"], ["e", "f"]]

    async def ask() -> list[bytes]:
        return await bodies_of_stream(reads, ServerSettings(event_ids=event_ids))

    bodies = anyio.run(ask)

    assert [contents(body) for body in bodies] == [
        ["", "a"],
        ["b", "c", "d"],
        ["e", "f"],
        ["end", "end"],
    ]
    assert all((b"\nid: " in b"\n" + body) is event_ids for body in bodies)


def test_layers_of_the_router_have_returned_when_a_stream_begins() -> None:
    waiting: set[str] = set()

    async def ask() -> None:
        request: Any = asyncio.current_task()

        def look() -> None:
            part = request.get_coro()
            while isinstance(part, CoroutineType):
                waiting.add(part.__qualname__)
                part = part.cr_await

        await bodies_of_stream([["a"], ["b"]], ServerSettings(), look)

    anyio.run(ask)

    assert {"RequestLog.__call__", "TurnResponse.__call__"} <= waiting
    assert not any("Router" in name or "Route." in name for name in waiting)


# - the sender -


def with_sender(
    test: Callable[[ClientSender, list[bytes], anyio.Event], Awaitable[None]], *, outlived: bool
) -> list[bytes]:
    """Run a test with a sender whose first write waits; return the bodies in the order sent."""
    sent: list[bytes] = []

    async def main() -> None:
        may_go_on = anyio.Event()

        async def send(message: Any) -> None:
            if not sent:
                sent.append(b"begun " + message["body"])
                await may_go_on.wait()
            sent.append(message["body"])

        await test(ClientSender(send, 60.0, outlived=outlived), sent, may_go_on)

    anyio.run(main)
    return sent


@pytest.mark.parametrize("outlived", [False, True])
def test_writes_wait_for_the_one_before(*, outlived: bool) -> None:
    async def test(sender: ClientSender, sent: list[bytes], may_go_on: anyio.Event) -> None:
        async with anyio.create_task_group() as tasks:
            for data in (b"1", b"2", b"3"):
                tasks.start_soon(sender.write, data)
            await anyio.wait_all_tasks_blocked()
            assert sent == [b"begun 1"]
            assert sender.is_writing
            may_go_on.set()
        assert not sender.is_writing

    assert with_sender(test, outlived=outlived) == [b"begun 1", b"1", b"2", b"3"]


@pytest.mark.parametrize("outlived", [False, True])
def test_nothing_is_sent_after_a_write_was_cut_off(*, outlived: bool) -> None:
    async def test(sender: ClientSender, sent: list[bytes], may_go_on: anyio.Event) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sender.write, b"1")
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(sender.write, b"2")
            await anyio.wait_all_tasks_blocked()
            sender.cut()
            if not outlived:  # its turn is cancelled instead of the write
                tasks.cancel_scope.cancel()
        await sender.write(b"3")

    assert with_sender(test, outlived=outlived) == [b"begun 1"]


def test_write_that_was_cancelled_leaves_the_way_to_the_next() -> None:
    async def test(sender: ClientSender, sent: list[bytes], may_go_on: anyio.Event) -> None:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(sender.write, b"1")
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
        await sender.write(b"2")

    assert with_sender(test, outlived=False) == [b"begun 1", b"2"]


@pytest.mark.parametrize("path", ["/broken", "/broken/", "//broken"])
def test_answer_that_breaks_off_is_not_answered_again(path: str) -> None:
    app = create_app([Project(id="demo", transport=Reads([]))], MemoryStore())
    sent: list[str] = []

    async def pieces() -> AsyncGenerator[bytes]:
        yield b"a"
        raise RuntimeError("a bug")

    async def broken() -> StreamingResponse:
        return StreamingResponse(pieces())

    app.add_api_route("/broken", broken)

    async def receive() -> dict[str, Any]:
        await anyio.sleep_forever()
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message["type"])

    with pytest.raises(Exception, match=r"^$"):
        anyio.run(app, {**SCOPE, "method": "GET", "path": path}, receive, send)
    assert sent == ["http.response.start", "http.response.body"]
