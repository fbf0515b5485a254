"""Write a turn's answer to its client: one JSON completion, or server-sent events."""

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import Any

import anyio
from starlette.types import Message as ASGIMessage
from starlette.types import Send

from pathors_agent.messages import (
    AssistantMessage,
    Content,
    JSONValue,
    Message,
    SystemMessage,
    ToolMessage,
    UserMessage,
    write_call,
)
from pathors_agent.server.http.problems import Problem
from pathors_agent.server.streams.front_end import media_parts
from pathors_agent.server.streams.kept import MAX_KEPT_BYTES, KeptEvents
from pathors_agent.server.turns.answer import PING, Activity, Chunks, Position, TurnAnswer
from pathors_agent.server.turns.join import BETWEEN_TEXTS
from pathors_agent.server.turns.turn import Turn
from pathors_agent.wire.deltas import (
    Delta,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    ToolProgressDelta,
)

_STREAM_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",  # for nginx, and proxies that use its header
}
_JSON = {"content-type": "application/json"}


class ClientSender:
    """Sends bytes to a client in order, one write at a time, until the client disconnects.

    If its turn outlives the client (`outlived`), a blocked write does not block the turn. The body
    goes to `send_body`, if there is a shorter way for it than `send`.
    """

    def __init__(
        self, send: Send, write_seconds: float, *, outlived: bool, send_body: Send | None = None
    ) -> None:
        self._send = send
        self._send_body = send_body or send
        self._write_seconds = write_seconds
        self._written: asyncio.Event | None = None  # for a write that waits for an earlier write
        self._write: anyio.CancelScope | None = None
        self.now = asyncio.get_running_loop().time  # anyio's takes ten times as long
        self.outlived = outlived
        self.is_writing = False
        self.is_cut = False
        self.is_open = False
        self.last_sent = self.now()

    @property
    def write_end(self) -> float:
        """When the client is abandoned because it does not read; infinity if nothing waits."""
        waits = self.is_writing and not self.is_cut
        return self.last_sent + self._write_seconds if waits else math.inf

    def cut(self) -> None:
        """Stop sending: the client disconnected, or does not read."""
        self.is_cut = True
        if self._write is not None:
            self._write.cancel()

    async def start(self, status: int, headers: dict[str, str]) -> None:
        """Send the status and the headers."""
        self.is_open = True
        raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
        await self.put({"type": "http.response.start", "status": status, "headers": raw})
        self._send = self._send_body

    async def write(self, data: bytes, *, more: bool = True) -> None:
        """Send a piece of the body."""
        await self.put({"type": "http.response.body", "body": data, "more_body": more})

    async def put(self, message: dict[str, Any]) -> None:
        """Send a message of ASGI, after the previous one."""
        # A lock, and a scope in turns that end with their client, would cost more than the rest.
        while self.is_writing:
            self._written = self._written or asyncio.Event()
            await self._written.wait()
        if self.is_cut:
            return
        self.is_writing = True
        self.last_sent = self.now()
        try:
            if self.outlived:
                with anyio.CancelScope() as self._write:
                    await self._send(message)
            else:
                await self._send(message)
        except OSError:  # the connection broke during this write
            self.is_cut = True
        finally:
            self.is_writing = False
            if self._written is not None:
                self._written.set()
                self._written = None


class WholeWriter:
    """Answers with one JSON completion."""

    def __init__(self, turn: Turn, sender: ClientSender, headers: dict[str, str]) -> None:
        self._sender = sender
        self._headers = headers

    @property
    def is_unread(self) -> bool:
        """Whether the client has disconnected, or does not read."""
        return self._sender.is_cut

    def begin(self, rewound: int, denied: Sequence[ToolMessage]) -> None:
        """Do nothing: the answer itself has the number."""

    @property
    def activities(self) -> list[Activity]:
        """Return nothing: only streams show what tools do."""
        return []

    async def items(self, items: Iterable[Delta | Message]) -> None:
        """Send nothing before the end."""

    async def ping(self) -> None:
        """Send nothing: the status is not known yet."""

    def close(self) -> None:
        """Do nothing: no client can follow this answer."""

    async def end(self, answer: TurnAnswer) -> None:
        """Send the answer."""
        headers = {**self._headers, **_rewound(answer.rewound)}
        await _send_whole(self._sender, 200, headers, answer.body(), answer.head.session_id)

    async def fail(self, problem: Problem) -> None:
        """Send the problem."""
        await _send_whole(
            self._sender, problem.status, {**self._headers, **problem.headers}, problem.body
        )


async def _send_whole(
    sender: ClientSender,
    status: int,
    headers: dict[str, str],
    body: bytes,
    session_id: str | None = None,
) -> None:
    session = {} if session_id is None else {"x-session-id": session_id}
    length = {"content-length": str(len(body))}
    await sender.start(status, {**headers, **session, **_JSON, **length})
    await sender.write(body, more=False)


class EventWriter(ABC):
    """Answers with server-sent events, each with an id, from the first delta of the model on.

    If the turn outlives its client and its stream has a name, its events are `kept` while it runs,
    so that a client that reconnects can follow them.
    """

    def __init__(self, turn: Turn, sender: ClientSender, headers: dict[str, str]) -> None:
        self._turn = turn
        self._sender = sender
        self._headers = headers
        self._is_asked = False  # the model is asked: the answer's status is known
        self._rewound = 0
        self.activities: list[Activity] = []
        self._activity_bytes = 0
        self._keeps_activities = turn.is_named
        self._kept: KeptEvents | None = None
        self._followed_to: str | None = None  # the last event of another's stream that was sent
        self._shows_reasoning = turn.project.shows_reasoning(turn.request)
        self._shows_ids = turn.services.settings.event_ids

    @property
    def is_unread(self) -> bool:
        """Whether the client has disconnected, or does not read."""
        return self._sender.is_cut

    def begin(self, rewound: int, denied: Sequence[ToolMessage] = ()) -> None:
        """Record that the model is about to be called, and how many stored messages are replaced."""
        self._is_asked, self._rewound = True, rewound

    @abstractmethod
    def items(self, items: Iterable[Delta | Message]) -> Awaitable[None]:
        """Send deltas and messages that came together, in one write."""

    @abstractmethod
    async def end(self, answer: TurnAnswer) -> None:
        """Send the rest of the answer."""

    @abstractmethod
    async def fail(self, problem: Problem) -> None:
        """Send the problem: as the status if none was sent, else as the last event."""

    async def ping(self) -> None:
        """Send a comment, if the model was called."""
        if self._is_asked:
            await self._start()
            await self._sender.write(PING)

    async def follow(self, kept: KeptEvents) -> None:
        """Send the events of a running turn, after the last one that the client has."""
        self._is_asked, self._rewound = True, kept.rewound
        await self._start()
        async for event in kept.after(self._turn.last_event_id):
            await self._send([event], are_kept=True)
            self._followed_to = event[len(b"id: ") : event.index(b"\n")].decode()
        await self._sender.write(b"", more=False)

    def close(self) -> None:
        """Stop keeping events: the whole answer is stored, or the turn failed."""
        if self._kept is not None:
            self._kept.close()

    def _keep_events(self, replay: bytes = b"") -> None:
        turn = self._turn
        if turn.outlives_client and turn.stream_name is not None:
            running = turn.services.running_streams
            self._kept = KeptEvents(running, turn.stream_name, rewound=self._rewound, replay=replay)

    def _keep_activity(self, value: dict[str, Any], size: int, place: tuple[int, int]) -> None:
        """Keep an event about a tool for repeats of the request, with its place in the answer."""
        self._activity_bytes += size
        if self._keeps_activities and self._activity_bytes <= MAX_KEPT_BYTES:
            self.activities.append(Activity(value, *place))

    async def _start(self) -> None:
        """Send the status and the headers, unless they were sent."""
        if not self._sender.is_open:
            rewound = _rewound(self._rewound)
            await self._sender.start(200, {**self._headers, **rewound, **_STREAM_HEADERS})

    def _send(
        self, events: Sequence[bytes], *, more: bool = True, are_kept: bool = False
    ) -> Coroutine[Any, Any, None]:
        """Send events in one write, and keep them for the clients that follow.

        They are sent without their ids if the setting says so.
        """
        if self._kept is not None and not are_kept:
            for number, event in enumerate(events, 1):
                self._kept.add(event, is_last=not more and number == len(events))
        if not self._shows_ids:
            events = [event.partition(b"\n")[2] for event in events]
        data = b"".join(events)
        return self._sender.put({"type": "http.response.body", "body": data, "more_body": more})

    async def _refuse(self, problem: Problem) -> None:
        """Send a problem as a status: nothing was sent yet."""
        headers = {**self._headers, **problem.headers}
        await _send_whole(self._sender, problem.status, headers, problem.body)


class StreamWriter(EventWriter):
    """Answers with the chunks of a completion."""

    def __init__(self, turn: Turn, sender: ClientSender, headers: dict[str, str]) -> None:
        super().__init__(turn, sender, headers)
        self._chunks = Chunks(turn.head, include_usage=turn.request.shows_usage)
        # The kind of the last write: "" for none, "opening", "text", or text before a "break".
        self._sent_kind = ""
        self._has_reasoned = False
        self._reasoning_break = ""

    def items(self, items: Iterable[Delta | Message]) -> Awaitable[None]:
        """Send text, and events about the project's tools if the client asked, in one write."""
        # Not a coroutine around the one of the sender, which would take time for each piece of text.
        events: list[bytes] = []
        chunks = self._chunks
        if is_first := not self._sent_kind:
            self._keep_events()
            events.append(self._opening())
        for item in items:
            if isinstance(item, TextDelta):
                if self._sent_kind != "text":
                    if self._sent_kind == "break":
                        events.append(chunks.text(BETWEEN_TEXTS))
                    self._sent_kind = "text"
                events.append(chunks.text(item.text))
            else:
                events += self._events(item)
        if is_first:
            return self._send_first(events)
        return self._send(events) if events else _nothing()

    async def _send_first(self, events: Sequence[bytes]) -> None:
        await self._start()
        await self._send(events)

    def _events(self, item: Delta | Message) -> Iterator[bytes]:
        """Yield the events of all items except text."""
        if isinstance(item, ReasoningDelta) and self._shows_reasoning:
            # The reasoning of each model call but the first begins after an empty line.
            yield self._chunks.reasoning(self._reasoning_break + item.text)
            self._has_reasoned, self._reasoning_break = True, ""
            return
        if isinstance(item, AssistantMessage):
            self._reasoning_break = BETWEEN_TEXTS if self._has_reasoned else ""
            if self._sent_kind == "text":
                self._sent_kind = "break"
        if self._turn.request.shows_tool_activity:
            yield from map(self._shown_activity, activity(item))

    def _shown_activity(self, value: dict[str, Any]) -> bytes:
        """Return an event about a tool, and keep it for repeats of the request."""
        event = self._chunks.activity(value)
        place = self._chunks.text_sent, self._chunks.reasoning_sent
        self._keep_activity(value, len(event), place)
        return event

    async def end(self, answer: TurnAnswer) -> None:
        """Send the rest of the answer.

        For a stored answer, the events after the client's last one.
        """
        events: list[bytes] = []
        if not self._sent_kind:
            events += await self._open_stored(answer)
        for activity in answer.activities[self._chunks.activities_sent :]:
            events += self._missing(answer, activity.text, activity.reasoning)
            events.append(self._chunks.activity(activity.value))
        events += self._missing(answer, None, None)
        events += self._chunks.end(answer)
        await self._send(events, more=False)

    def _missing(
        self, answer: TurnAnswer, text_to: int | None, reasoning_to: int | None
    ) -> Iterator[bytes]:
        """Yield the unsent rest of an answer's reasoning and text, up to these places."""
        reasoning = (answer.reasoning or "")[self._chunks.reasoning_sent : reasoning_to]
        if reasoning and not self._has_reasoned:
            yield self._chunks.reasoning(reasoning)
        text = (answer.text or "")[self._chunks.text_sent : text_to]
        if text and self._sent_kind not in ("text", "break"):
            yield self._chunks.text(text)

    async def fail(self, problem: Problem) -> None:
        """Send the problem: as the status if none was sent, else as the last event."""
        if self._sender.is_open:
            event = self._chunks.error(problem.body, after=self._followed_to)
            await self._send([event], more=False)
        else:
            await self._refuse(problem)

    async def follow(self, kept: KeptEvents) -> None:
        """Send the events of a running turn, after the last one that the client has."""
        if Position.read(self._turn.last_event_id):
            self._followed_to = self._turn.last_event_id
        await super().follow(kept)

    async def _open_stored(self, answer: TurnAnswer) -> list[bytes]:
        """Begin an answer whose client has nothing of it yet: it is stored, or has no text."""
        turn = self._turn
        after = Position.read(turn.last_event_id)
        if after is not None and after.completion != answer.head.id:
            after = None
        include_usage = turn.request.shows_usage
        self._chunks = Chunks(answer.head, include_usage=include_usage, after=after)
        self._headers["x-session-id"] = answer.head.session_id
        self._rewound = answer.rewound
        await self._start()
        return [self._opening()] if after is None else []

    def _opening(self) -> bytes:
        self._sent_kind = "opening"
        return self._chunks.opening()


async def _nothing() -> None:
    """Send nothing."""


def unread_sender() -> ClientSender:
    """Return the sender of a turn whose client disconnected.

    Clients that reconnect may follow the turn.
    """
    sender = ClientSender(_drop, math.inf, outlived=True)
    sender.cut()
    return sender


async def _drop(message: ASGIMessage) -> None:
    """Send nothing."""


def _rewound(count: int) -> dict[str, str]:
    return {"x-session-rewound": str(count)} if count else {}


def _media(
    content: Content | None, extra: Mapping[str, JSONValue] | None = None
) -> list[dict[str, Any]]:
    """Return an event with the parts of a mixed content and of `extra`."""
    parts = media_parts(content, extra)
    return [{"parts": parts}] if parts else []


def activity(item: Delta | Message) -> list[dict[str, Any]]:
    """Return the events about tools for clients that asked for them."""
    match item:
        case AssistantMessage():
            return [
                *_media(item.content, item.extra),
                *({"call": write_call(call)} for call in item.tool_calls),
            ]
        case ToolMessage():
            said = {"tool_call_id": item.tool_call_id, "outcome": item.outcome}
            parts = next(iter(_media(item.content)), {})
            return [{"result": {**said, "content": item.text, **parts}}]
        case ToolProgressDelta():
            said = {"tool_call_id": item.call.id, "value": str(item.value)}
            return [{"progress": said}]
        case TextDelta() | ReasoningDelta() | ToolCallDelta() | UserMessage() | SystemMessage():
            return []
