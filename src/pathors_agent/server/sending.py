"""Send a turn's answer over ASGI: whole or as a stream, while watching over client and session."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pathors_agent.errors import StoreError, TransportError
from pathors_agent.messages import AssistantMessage, Message, ToolMessage
from pathors_agent.server.answer import Answer, Chunks, error_event
from pathors_agent.server.connections import PING, SENDS_EVENTS
from pathors_agent.server.join import BETWEEN_TEXTS
from pathors_agent.server.metrics import CANCELLED
from pathors_agent.server.problems import (
    DO_NOT_RETRY,
    Problem,
    of_model,
    of_store,
    unavailable,
)
from pathors_agent.server.turn import KEPT_PER_LEASE, Turn, Writer
from pathors_agent.wire.message_builder import Delta, ReasoningDelta, TextDelta, ToolProgressDelta
from pathors_agent.wire.messages import write_call

RunBeside = Callable[..., None]
"""Starts an async function with its arguments, and does not wait for it."""


class Carrier(Protocol):
    """Runs turns in a way of its own."""

    async def run(self, turn: Turn, writer: Writer) -> None:
        """As `Turn.run`."""


# For who still reads; a server that is to stop does not wait for others.
_LAST_WORD_SECONDS = 2.0

_STREAM_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",  # nginx, and proxies that took its word over
}
_JSON = {"content-type": "application/json"}


class TurnResponse(Response):
    """An ASGI response that runs a turn while it answers.

    Where the client goes away, the turn is cancelled, or runs on `beside`, as the project says; a
    `durable` one runs on.
    """

    def __init__(self, turn: Turn, beside: "RunBeside", durable: "Carrier | None" = None) -> None:
        super().__init__()
        self._turn = turn
        self._durable = durable
        self._beside = beside

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the turn and answer."""
        outlived = self._durable is not None or self._turn.project.on_disconnect == "finish"
        self._turn.outlives_client = outlived
        line = Line(send, self._turn.shared.settings.write_seconds, outlived=outlived)
        headers = {"x-session-id": self._turn.session_id}
        if self._turn.request.stream:
            scope.get("state", {})[SENDS_EVENTS] = True
            writer: StreamWriter | WholeWriter = StreamWriter(self._turn, line, headers)
        else:
            writer = WholeWriter(self._turn, line, headers)
        served = anyio.Event()
        async with anyio.create_task_group() as here:
            if outlived:
                self._beside(_serve, self._turn, writer, line, served, self._durable)
                here.start_soon(_listen, receive, line, self._leave(served))
                await served.wait()
            else:
                here.start_soon(_listen, receive, line, here.cancel_scope.cancel)
                await _serve(self._turn, writer, line, served)
            here.cancel_scope.cancel()

    def _leave(self, served: anyio.Event) -> Callable[[], object]:
        def leave() -> None:
            self._turn.client_left = True
            served.set()

        return leave


async def _listen(receive: Receive, line: "Line", gone: Callable[[], object]) -> None:
    """Wait for the client to go away."""
    while (await receive())["type"] != "http.disconnect":
        pass
    line.cut()
    gone()


async def _serve(
    turn: Turn,
    writer: "StreamWriter | WholeWriter",
    line: "Line",
    served: anyio.Event,
    durable: "Carrier | None" = None,
) -> None:
    """Run a turn under watch; whatever goes wrong is told to the client."""
    problem: Problem | None = None
    begun, status = line.now(), CANCELLED
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_watch, turn, writer, line, served)
            try:
                await (durable.run(turn, writer) if durable else turn.run(writer))
                status = "200"
            except (anyio.get_cancelled_exc_class(), GeneratorExit):
                raise
            # A bug must not be a cut connection, and what a tool raises (SystemExit) not the end
            # of the server.
            except BaseException as error:  # noqa: BLE001
                problem = _problem(error, turn)
            tasks.cancel_scope.cancel()
    except* _TOLD as group:  # the watch lost the session, or the reader
        problem = _problem(group.exceptions[0], turn)
    finally:
        if problem is not None:
            status = str(int(problem.status))
            if turn.repeats_tools:
                problem.headers.update(DO_NOT_RETRY)
            with anyio.move_on_after(_LAST_WORD_SECONDS):
                await writer.fail(problem)
        turn.shared.metrics.turn(turn.project.id, status, line.now() - begun)
        served.set()


_TOLD = (Problem, TransportError, StoreError)


def _problem(error: BaseException, turn: Turn) -> Problem:
    """Return what the client is told about a failed turn, and log its cause."""
    match error:
        case Problem():
            problem = error
        case TransportError():
            problem = of_model(error)
        case StoreError():
            problem = of_store(error)
        case _:
            problem = Problem(500, "Internal server error")
    turn.log_failure(error, problem.status)
    return problem


async def _watch(
    turn: Turn, writer: "StreamWriter | WholeWriter", line: "Line", served: anyio.Event
) -> None:
    """Keep the session, break long silences, and give up on who does not read."""
    settings = turn.shared.settings
    keep_every = settings.lease_seconds / KEPT_PER_LEASE
    kept_at = line.now()
    while True:
        now = line.now()
        ping_at = line.last_sent + settings.ping_seconds
        if line.is_writing:  # no silence: a comment would wait here for what is not read
            ping_at = float("inf")
        due = min(kept_at + keep_every, ping_at, line.write_end)
        if now < due:
            await _pause(due - now, turn.shared.ending)
            continue
        if line.write_end <= now:
            _give_up(turn, line, served)
        if now >= kept_at + keep_every:
            kept_at = now
            await turn.keep()
        if now >= ping_at:
            line.last_sent = now
            await writer.ping()


def _give_up(turn: Turn, line: "Line", served: anyio.Event) -> None:
    """Leave a client that does not read; its turn goes on only where the project says so."""
    line.cut()
    turn.client_left = True
    if not line.outlived:
        raise Problem(408, "The client does not read")
    served.set()


async def _pause(seconds: float, ending: anyio.Event) -> None:
    with anyio.move_on_after(seconds):
        await ending.wait()
        raise unavailable("The server is stopping; try again")


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

    async def item(self, item: Delta | Message) -> None:
        """Tell nothing before the end."""

    async def ping(self) -> None:
        """Nothing can be said before the status is known."""

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
    """Answers with server-sent events, the first as soon as the model says anything."""

    def __init__(self, turn: Turn, line: Line, headers: dict[str, str]) -> None:
        self._turn = turn
        self._line = line
        self._headers = headers
        self._chunks = Chunks(turn.head, include_usage=turn.request.include_usage)
        self._said = ""  # the kind of what was sent: nothing, the opening, or text
        self._pending_break = False
        self._shows_reasoning = turn.project.shows_reasoning(turn.request)
        self._has_reasoned = False
        self._reasoning_break = ""

    async def item(self, item: Delta | Message) -> None:
        """Send a piece of text at once, and tell of the project's tools if that is wanted."""
        if not self._said:
            await self._open()
        if isinstance(item, TextDelta):
            if self._pending_break:
                self._pending_break = False
                await self._line.write(self._chunks.text(BETWEEN_TEXTS))
            await self._line.write(self._chunks.text(item.text))
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
                await self._line.write(self._chunks.activity(value))

    async def _reason(self, text: str) -> None:
        """Send a piece of reasoning; that of the next model call begins after an empty line."""
        await self._line.write(self._chunks.reasoning(self._reasoning_break + text))
        self._has_reasoned, self._reasoning_break = True, ""

    async def ping(self) -> None:
        """Break a silence, once the model was asked."""
        if self._turn.is_running:
            await self._start()
            await self._line.write(PING)

    async def end(self, answer: Answer) -> None:
        """Send what is left of the answer."""
        if not self._said:
            # Nothing went out yet: the answer was given before, or it has no text.
            self._chunks = Chunks(answer.head, include_usage=self._turn.request.include_usage)
            self._headers["x-session-id"] = answer.head.session_id
            self._turn.rewound = answer.rewound
            await self._open()
        if answer.reasoning and not self._has_reasoned:
            await self._reason(answer.reasoning)
        if self._said != "text" and answer.text:
            await self._line.write(self._chunks.text(answer.text))
        for event in self._chunks.end(answer):
            await self._line.write(event)
        await self._line.write(b"", more=False)

    async def fail(self, problem: Problem) -> None:
        """Send the problem: by status where none was sent, else as the last event."""
        if not self._line.is_open:
            headers = {**self._headers, **problem.headers}
            await _send_whole(self._line, problem.status, headers, problem.body)
        else:
            await self._line.write(error_event(problem.body), more=False)

    async def _open(self) -> None:
        await self._start()
        await self._line.write(self._chunks.opening())
        self._said = "opening"

    async def _start(self) -> None:
        if not self._line.is_open:
            rewound = _rewound(self._turn.rewound)
            await self._line.start(200, {**self._headers, **rewound, **_STREAM_HEADERS})


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
