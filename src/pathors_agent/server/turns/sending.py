"""Run a turn while its answer is sent over ASGI, and watch over its client and its session."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from http import HTTPStatus

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pathors_agent.concurrency.event_loops import task_is_cancelled
from pathors_agent.errors import StoreError, TransportError
from pathors_agent.server.http.edge import SEND_BODY
from pathors_agent.server.http.problems import (
    DO_NOT_RETRY,
    Problem,
    of_model,
    of_store,
    unavailable,
)
from pathors_agent.server.streams.kept import KeptEvents
from pathors_agent.server.turns.answer import SENDS_EVENTS
from pathors_agent.server.turns.metrics import CANCELLED
from pathors_agent.server.turns.run import DurableRunner, TurnRun
from pathors_agent.server.turns.turn import RENEWALS_PER_LEASE, Turn
from pathors_agent.server.turns.writers import ClientSender, EventWriter, WholeWriter

StartSoon = Callable[..., None]
"""Starts an async function with its arguments without waiting for it."""

WriterOf = Callable[[Turn, ClientSender, dict[str, str]], EventWriter | WholeWriter]
"""Returns the writer of a turn's answer, with the headers of the answer."""

# How long the last write to a client may take; a server that stops does not wait longer.
_LAST_WORD_SECONDS = 2.0


class TurnResponse(Response):
    """An ASGI response that runs a turn while it answers.

    If the client disconnects, the turn is cancelled or continues in the background, depending on
    its lifetime. With `kept`, no turn is run: the client gets the events of a running turn.
    """

    def __init__(
        self,
        turn: Turn,
        start_soon: StartSoon,
        durable: DurableRunner | None = None,
        *,
        writer_of: WriterOf,
        kept: KeptEvents | None = None,
    ) -> None:
        super().__init__()
        if durable is not None:
            turn = turn.made_durable()
        elif turn.project.on_disconnect == "finish":
            turn = replace(turn, lifetime="server")
        self._turn = turn
        self._durable = durable
        self._start_soon = start_soon
        self._writer_of = writer_of
        self._kept = kept or self._named_events()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the turn and answer."""
        turn, kept = self._turn, self._kept
        outlived = turn.outlives_client and kept is None
        sender = ClientSender(
            send,
            turn.services.settings.write_seconds,
            outlived=outlived,
            send_body=scope.get(SEND_BODY),
        )
        headers = {"x-session-id": turn.session_id}
        scope.get("state", {})[SENDS_EVENTS] = bool(turn.request.stream)
        writer = self._writer_of(turn, sender, headers)
        serving = _Serving(turn, writer, sender, self._durable, kept)
        # Not in this task, where each read would resume the coroutines of all layers of the app.
        if outlived:
            self._start_soon(serving.serve)
            await serving.listen(receive)
        else:
            task = asyncio.create_task(serving.serve())
            try:
                await serving.listen(receive)
            finally:
                if not task.done():
                    serving.cancel()
                    with anyio.CancelScope(shield=True):
                        await asyncio.wait([task])
            task.result()  # raises a bug

    def _named_events(self) -> KeptEvents | None:
        """Return the events of the running turn that the request repeats."""
        turn = self._turn
        if turn.front_end is not None or not turn.last_event_id or not turn.request.stream:
            return None
        return turn.services.running_streams.get(turn.stream_name)


class _Serving:
    """A turn and its client, which gets the answer or any error.

    A timer of the event loop renews the lease, sends comments in long silences, and abandons a
    client that does not read. It needs less time and memory than a task.
    """

    def __init__(
        self,
        turn: Turn,
        writer: EventWriter | WholeWriter,
        sender: ClientSender,
        durable: DurableRunner | None,
        kept: KeptEvents | None,
    ) -> None:
        self._turn = turn
        self._writer = writer
        self._sender = sender
        self._durable = durable
        self._kept = kept
        self._run = TurnRun(turn, writer)
        self._listening = asyncio.timeout(None)
        self._is_listening = True
        self._scope = anyio.CancelScope()
        self._error: Exception | None = None
        self._loop = asyncio.get_running_loop()
        self._renewed_at = sender.now()
        self._timer: asyncio.TimerHandle | None = None
        self._chore: asyncio.Task[None] | None = None

    async def listen(self, receive: Receive) -> None:
        """Wait until the client disconnects or is abandoned, and send it nothing more."""
        try:
            async with self._listening:
                while (await receive())["type"] != "http.disconnect":
                    pass
                self._sender.cut()
        except TimeoutError:
            if not self._listening.expired():
                raise
        finally:
            self._is_listening = False

    def cancel(self) -> None:
        """Cancel the turn; what it holds is released."""
        self._scope.cancel()

    async def serve(self) -> None:
        """Run the turn under watch."""
        problem: Problem | None = None
        begun, status = self._sender.now(), CANCELLED
        ending = self._turn.services.ending
        ending.add(self._end)
        try:
            self._wait()
            with self._scope:
                try:
                    await self._answer()
                    status = "200"
                # A bug must not cut the connection, and a tool's SystemExit must not end the
                # server. A cancelled future that the turn awaits is a bug as well.
                except BaseException as error:
                    is_stop = isinstance(error, asyncio.CancelledError) and task_is_cancelled()
                    if is_stop or isinstance(error, GeneratorExit):
                        raise
                    problem = self._problem(error)
            if self._error is not None and status != "200":
                problem = self._problem(self._error)
        finally:
            ending.remove(self._end)
            try:
                await self._stop_watching()
                if problem is not None:
                    status = str(int(problem.status))
                    await self._send_problem(problem)
            finally:
                self._finish(status, self._sender.now() - begun)

    def _finish(self, status: str, seconds: float) -> None:
        """Count the turn, and end its request."""
        self._writer.close()
        self._turn.services.metrics.turn(self._turn.project.id, status, seconds)
        # Most servers end the request by themselves, now that it is answered.
        self._loop.call_soon(self._leave)

    async def _send_problem(self, problem: Problem) -> None:
        """Send the error to the client."""
        if self._run.repeats_tools:
            problem.headers.update(DO_NOT_RETRY)
        with anyio.move_on_after(_LAST_WORD_SECONDS):
            await self._writer.fail(problem)

    def _answer(self) -> Awaitable[None]:
        """Run the turn, or follow the events of one that runs."""
        if self._kept is not None and isinstance(self._writer, EventWriter):
            return self._writer.follow(self._kept)
        return self._run.run() if self._durable is None else self._durable.run(self._run)

    def _leave(self) -> None:
        """End the request, unless the client has left."""
        if self._is_listening:
            self._is_listening = False
            self._listening.reschedule(self._loop.time())

    def _problem(self, error: BaseException) -> Problem:
        """Return the problem for the client of a failed turn, and log its cause."""
        match error:
            case Problem() if error.status == HTTPStatus.TOO_MANY_REQUESTS:
                return error  # refused like requests before their body is read; not a failed turn
            case Problem():
                problem = error
            case TransportError():
                turn = self._turn
                problem = of_model(error, names_model=turn.project.takes_model_of(turn.request))
            case StoreError():
                problem = of_store(error)
            case _:
                problem = Problem(500, "Internal server error")
        self._turn.log_failure(error, problem.status)
        return problem

    # - the watch -

    def _wait(self) -> None:
        """Set the timer for the next chore."""
        self._timer = self._loop.call_at(
            min(self._renew_at, self._ping_at, self._sender.write_end), self._look
        )

    @property
    def _renew_at(self) -> float:
        lease_seconds = self._turn.services.settings.lease_seconds
        return self._renewed_at + lease_seconds / RENEWALS_PER_LEASE

    @property
    def _ping_at(self) -> float:
        if self._sender.is_writing:  # not a silence: a comment would wait behind unread data
            return float("inf")
        return self._sender.last_sent + self._turn.services.settings.ping_seconds

    def _look(self) -> None:
        """Begin the chores that are due."""
        now = self._sender.now()
        if self._sender.write_end <= now:
            self._give_up()
        if min(self._renew_at, self._ping_at) <= now:
            self._chore = self._loop.create_task(self._do_chores(now))
        else:
            self._wait()

    async def _do_chores(self, now: float) -> None:
        """Renew the lease and send a comment, if they are due."""
        try:
            if self._renew_at <= now:
                self._renewed_at = now
                await self._run.held.renew()
            if self._ping_at <= now:
                self._sender.last_sent = now
                await self._writer.ping()
        except Exception as error:  # noqa: BLE001  (it ends the turn)
            self._interrupt(error)
        else:
            self._chore = None  # a task that has ended takes as much memory as a running one
            self._wait()

    def _give_up(self) -> None:
        """Abandon a client that does not read.

        Its turn continues only if it outlives its client.
        """
        self._sender.cut()
        if self._sender.outlived:
            self._leave()
        else:
            self._interrupt(Problem(408, "The client does not read"))

    def _end(self) -> None:
        """End the turn, because the server stops."""
        self._interrupt(unavailable("The server is stopping; try again"))

    def _interrupt(self, error: Exception) -> None:
        """End the turn with an error."""
        self._error = self._error or error
        self._scope.cancel()

    async def _stop_watching(self) -> None:
        if self._chore is not None and not self._chore.done():
            self._chore.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait([self._chore])
        if self._timer is not None:
            self._timer.cancel()
