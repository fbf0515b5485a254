"""Write a turn's answer to its client: one JSON completion, or server-sent events."""

import asyncio
import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import anyio
from starlette.types import Message as ASGIMessage
from starlette.types import Send

from pathors_agent.messages import AssistantMessage, Message, ToolMessage
from pathors_agent.server.answer import Activity, Answer, Chunks, Position
from pathors_agent.server.connections import PING
from pathors_agent.server.join import BETWEEN_TEXTS
from pathors_agent.server.problems import Problem
from pathors_agent.server.repeats import MAX_KEPT_BYTES, KeptEvents
from pathors_agent.server.turn import Turn
from pathors_agent.wire.completion_bytes import DONE
from pathors_agent.wire.deltas import Delta, ReasoningDelta, TextDelta, ToolProgressDelta
from pathors_agent.wire.messages import write_call

_STREAM_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",  # nginx, and proxies that took its word over
}
_JSON = {"content-type": "application/json"}


class Line:
    """The way to a client: bytes go out in order, one write at a time, and not to who has left.

    Where it is `outlived` by its turn, what is stuck on it does not hold up the turn.
    """

    def __init__(self, send: Send, write_seconds: float, *, outlived: bool) -> None:
        self._send = send
        self._write_seconds = write_seconds
        self._lock = asyncio.Lock()
        self._write = anyio.CancelScope()
        self.now = asyncio.get_running_loop().time  # anyio's takes ten times as long
        self.outlived = outlived
        self.is_cut = False
        self.is_open = False
        self.last_sent = self.now()
        self.write_end = float("inf")

    @property
    def is_writing(self) -> bool:
        """Whether a write waits for the client."""
        return self.write_end != float("inf")

    def cut(self) -> None:
        """Send nothing more: the client left, or does not read."""
        self.is_cut = True
        self.write_end = float("inf")
        self._write.cancel()

    async def start(self, status: int, headers: dict[str, str]) -> None:
        """Send the status and the headers."""
        self.is_open = True
        raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
        await self._put({"type": "http.response.start", "status": status, "headers": raw})

    async def write(self, data: bytes, *, more: bool = True) -> None:
        """Send a piece of the body."""
        await self._put({"type": "http.response.body", "body": data, "more_body": more})

    async def _put(self, message: dict[str, Any]) -> None:
        async with self._lock:
            if self.is_cut:
                return
            self.last_sent = self.now()
            self.write_end = self.last_sent + self._write_seconds
            try:
                with self._interruptible():
                    await self._send(message)
            except OSError:  # the connection broke while this was on its way
                self.is_cut = True
            self.write_end = float("inf")

    def _interruptible(self) -> AbstractContextManager[object]:
        # A scope takes longer than all else here, and what dies with its client needs none.
        if not self.outlived:
            return nullcontext()
        self._write = anyio.CancelScope()
        return self._write


class WholeWriter:
    """Answers with one JSON completion."""

    def __init__(self, turn: Turn, line: Line, headers: dict[str, str]) -> None:
        self._line = line
        self._headers = headers

    @property
    def activities(self) -> list[Activity]:
        """Return nothing: only streams show what tools do."""
        return []

    async def item(self, item: Delta | Message) -> None:
        """Tell nothing before the end."""

    async def ping(self) -> None:
        """Nothing can be said before the status is known."""

    def close(self) -> None:
        """Do nothing: no client can follow this answer."""

    async def end(self, answer: Answer) -> None:
        """Send the answer."""
        headers = {**self._headers, **_rewound(answer.rewound)}
        await _send_whole(self._line, 200, headers, answer.body(), answer.head.session_id)

    async def fail(self, problem: Problem) -> None:
        """Send the problem."""
        await _send_whole(
            self._line, problem.status, {**self._headers, **problem.headers}, problem.body
        )


async def _send_whole(
    line: Line, status: int, headers: dict[str, str], body: bytes, session_id: str | None = None
) -> None:
    session = {} if session_id is None else {"x-session-id": session_id}
    length = {"content-length": str(len(body))}
    await line.start(status, {**headers, **session, **_JSON, **length})
    await line.write(body, more=False)


class StreamWriter:
    """Answers with server-sent events, the first as soon as the model says anything.

    The events of a turn that outlives its client are `kept` while it runs, if its request has a
    name, so that a client that comes back can follow them.
    """

    def __init__(self, turn: Turn, line: Line, headers: dict[str, str]) -> None:
        self._turn = turn
        self._line = line
        self._headers = headers
        self._chunks = Chunks(turn.head, include_usage=turn.request.include_usage)
        self.activities: list[Activity] = []
        self._activity_bytes = 0
        self._kept: KeptEvents | None = None
        self._followed_to: str | None = None  # the last event sent of another's stream
        self._said = ""  # the kind of what was sent: nothing, the opening, or text
        self._pending_break = False
        self._shows_reasoning = turn.project.shows_reasoning(turn.request)
        self._shows_ids = turn.shared.settings.event_ids
        self._has_reasoned = False
        self._reasoning_break = ""

    async def item(self, item: Delta | Message) -> None:
        """Send a piece of text at once, and tell of the project's tools if that is wanted."""
        if not self._said:
            self._keep_events()
            await self._open()
        if isinstance(item, TextDelta):
            if self._pending_break:
                self._pending_break = False
                await self._send(self._chunks.text(BETWEEN_TEXTS))
            await self._send(self._chunks.text(item.text))
            self._said = "text"
            return
        if isinstance(item, ReasoningDelta) and self._shows_reasoning:
            await self._reason(item.text)
            return
        if isinstance(item, AssistantMessage):
            self._reasoning_break = BETWEEN_TEXTS if self._has_reasoned else ""
            self._pending_break = self._said == "text"
        if self._turn.request.include_tool_activity:
            for value in _activity(item):
                await self._show_activity(value)

    async def _show_activity(self, value: dict[str, Any]) -> None:
        """Send an event about a tool, and keep it for repeats of the request."""
        event = self._chunks.activity(value)
        self._activity_bytes += len(event)
        if self._turn.is_named and self._activity_bytes <= MAX_KEPT_BYTES:
            place = self._chunks.text_sent, self._chunks.reasoning_sent
            self.activities.append(Activity(value, *place))
        await self._send(event)

    async def _reason(self, text: str) -> None:
        """Send a piece of reasoning; that of the next model call begins after an empty line."""
        await self._send(self._chunks.reasoning(self._reasoning_break + text))
        self._has_reasoned, self._reasoning_break = True, ""

    async def ping(self) -> None:
        """Break a silence, once the model was asked."""
        if self._turn.is_running:
            await self._start()
            await self._line.write(PING)

    async def end(self, answer: Answer) -> None:
        """Send the rest of the answer; one that was given before, after the client's last event."""
        if not self._said:
            await self._open_stored(answer)
        for activity in answer.activities[self._chunks.activities_sent :]:
            await self._catch_up(answer, activity.text, activity.reasoning)
            await self._send(self._chunks.activity(activity.value))
        await self._catch_up(answer, None, None)
        for event in self._chunks.end(answer):
            await self._send(event, is_last=event.endswith(DONE))
        await self._line.write(b"", more=False)

    async def _catch_up(
        self, answer: Answer, text_to: int | None, reasoning_to: int | None
    ) -> None:
        """Send what was not sent yet of an answer's reasoning and text, up to these places."""
        reasoning = (answer.reasoning or "")[self._chunks.reasoning_sent : reasoning_to]
        if reasoning and not self._has_reasoned:
            await self._send(self._chunks.reasoning(reasoning))
        text = (answer.text or "")[self._chunks.text_sent : text_to]
        if text and self._said != "text":
            await self._send(self._chunks.text(text))

    async def fail(self, problem: Problem) -> None:
        """Send the problem: by status where none was sent, else as the last event."""
        if not self._line.is_open:
            headers = {**self._headers, **problem.headers}
            await _send_whole(self._line, problem.status, headers, problem.body)
            return
        event = self._chunks.error(problem.body, after=self._followed_to)
        if self._kept is not None:
            self._kept.add(event, is_last=True)
        await self._write(event, more=False)

    async def follow(self, kept: KeptEvents) -> None:
        """Send the events of a running turn, after the last one that the client has."""
        turn = self._turn
        turn.rewound, turn.is_running = kept.rewound, True
        if Position.read(turn.last_event_id):
            self._followed_to = turn.last_event_id
        await self._start()
        async for event in kept.after(turn.last_event_id):
            await self._write(event)
            self._followed_to = event[len(b"id: ") : event.index(b"\n")].decode()
        await self._line.write(b"", more=False)

    def close(self) -> None:
        """Keep the events no longer; the whole answer is stored, or the turn failed."""
        if self._kept is not None:
            self._kept.close()

    def _keep_events(self) -> None:
        turn = self._turn
        if turn.outlives_client and turn.is_named and turn.request_id is not None:
            running = turn.shared.running_streams
            name = (turn.request_id, turn.body_digest)
            self._kept = KeptEvents(running, name, rewound=turn.rewound)

    async def _open_stored(self, answer: Answer) -> None:
        """Begin with an answer of which this turn sent nothing: it is stored, or has no text."""
        turn = self._turn
        after = Position.read(turn.last_event_id)
        if after is not None and after.completion != answer.head.id:
            after = None
        include_usage = turn.request.include_usage
        self._chunks = Chunks(answer.head, include_usage=include_usage, after=after)
        self._headers["x-session-id"] = answer.head.session_id
        turn.rewound = answer.rewound
        if after is None:
            await self._open()
        else:
            await self._start()

    async def _open(self) -> None:
        await self._start()
        await self._send(self._chunks.opening())
        self._said = "opening"

    async def _start(self) -> None:
        if not self._line.is_open:
            rewound = _rewound(self._turn.rewound)
            await self._line.start(200, {**self._headers, **rewound, **_STREAM_HEADERS})

    async def _send(self, event: bytes, *, is_last: bool = False) -> None:
        if self._kept is not None:
            self._kept.add(event, is_last=is_last)
        await self._write(event)

    async def _write(self, event: bytes, *, more: bool = True) -> None:
        """Send an event, without the line of its id if the server is set so."""
        await self._line.write(event if self._shows_ids else event.partition(b"\n")[2], more=more)


def unread_writer(turn: Turn) -> WholeWriter | StreamWriter:
    """Return the writer of a turn whose client is gone; others may come back and follow it."""
    line = Line(_drop, math.inf, outlived=True)
    line.cut()
    return (StreamWriter if turn.request.stream else WholeWriter)(turn, line, {})


async def _drop(message: ASGIMessage) -> None:
    """Send nothing."""


def _rewound(count: int) -> dict[str, str]:
    return {"x-session-rewound": str(count)} if count else {}


def _activity(item: Delta | Message) -> list[dict[str, Any]]:
    """What is told of the tools, by those who asked for it."""
    match item:
        case AssistantMessage():
            return [{"call": write_call(call)} for call in item.tool_calls]
        case ToolMessage():
            said = {"tool_call_id": item.tool_call_id, "outcome": item.outcome}
            return [{"result": {**said, "content": item.text}}]
        case ToolProgressDelta():
            said = {"tool_call_id": item.call.id, "value": str(item.value)}
            return [{"progress": said}]
        case _:
            return []
