"""Send a turn's answer over ASGI: whole or as a stream, while watching over client and session."""

from collections.abc import Callable
from typing import Protocol

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pathors_agent.errors import StoreError, TransportError
from pathors_agent.server.connections import SENDS_EVENTS
from pathors_agent.server.metrics import CANCELLED
from pathors_agent.server.problems import DO_NOT_RETRY, Problem, of_model, of_store, unavailable
from pathors_agent.server.repeats import KeptEvents
from pathors_agent.server.turn import KEPT_PER_LEASE, Turn, Writer
from pathors_agent.server.writers import Line, StreamWriter, WholeWriter

RunBeside = Callable[..., None]
"""Starts an async function with its arguments, and does not wait for it."""


class Carrier(Protocol):
    """Runs turns in a way of its own."""

    async def run(self, turn: Turn, writer: Writer) -> None:
        """As `Turn.run`."""


class _Follower:
    """Carries out a repeat of a request whose turn runs: it sends the events of that turn."""

    def __init__(self, kept: KeptEvents) -> None:
        self._kept = kept

    async def run(self, turn: Turn, writer: Writer) -> None:
        """Send the events until the turn ends."""
        assert isinstance(writer, StreamWriter)
        await writer.follow(self._kept)


# For who still reads; a server that is to stop does not wait for others.
_LAST_WORD_SECONDS = 2.0


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
        kept = self._kept_events()
        finishes = self._durable is not None or self._turn.project.on_disconnect == "finish"
        outlived = finishes and kept is None
        self._turn.outlives_client = outlived
        line = Line(send, self._turn.shared.settings.write_seconds, outlived=outlived)
        headers = {"x-session-id": self._turn.session_id}
        carrier = self._durable if kept is None else _Follower(kept)
        if self._turn.request.stream:
            scope.get("state", {})[SENDS_EVENTS] = True
            writer: StreamWriter | WholeWriter = StreamWriter(self._turn, line, headers)
        else:
            writer = WholeWriter(self._turn, line, headers)
        served = anyio.Event()
        async with anyio.create_task_group() as here:
            if outlived:
                self._beside(_serve, self._turn, writer, line, served, carrier)
                here.start_soon(_listen, receive, line, self._leave(served))
                await served.wait()
            else:
                here.start_soon(_listen, receive, line, here.cancel_scope.cancel)
                await _serve(self._turn, writer, line, served, carrier)
            here.cancel_scope.cancel()

    def _kept_events(self) -> KeptEvents | None:
        """Return the events of the running turn that the client comes back to."""
        turn = self._turn
        if turn.request_id is None or not turn.last_event_id or not turn.request.stream:
            return None
        return turn.shared.running_streams.get((turn.request_id, turn.body_digest))

    def _leave(self, served: anyio.Event) -> Callable[[], object]:
        def leave() -> None:
            self._turn.client_left = True
            served.set()

        return leave


async def _listen(receive: Receive, line: Line, gone: Callable[[], object]) -> None:
    """Wait for the client to go away."""
    while (await receive())["type"] != "http.disconnect":
        pass
    line.cut()
    gone()


async def _serve(
    turn: Turn,
    writer: "StreamWriter | WholeWriter",
    line: Line,
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
        writer.close()
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
    turn: Turn, writer: "StreamWriter | WholeWriter", line: Line, served: anyio.Event
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


def _give_up(turn: Turn, line: Line, served: anyio.Event) -> None:
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
