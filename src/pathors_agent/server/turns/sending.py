"""Run a turn while its answer is sent over ASGI, and watch over its client and its session."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pathors_agent.errors import StoreError, TransportError
from pathors_agent.server.http.problems import (
    DO_NOT_RETRY,
    Problem,
    of_model,
    of_store,
    unavailable,
)
from pathors_agent.server.turns.answer import SENDS_EVENTS, KeptEvents
from pathors_agent.server.turns.metrics import CANCELLED
from pathors_agent.server.turns.run import DurableRunner, TurnRun
from pathors_agent.server.turns.turn import RENEWALS_PER_LEASE, Turn
from pathors_agent.server.turns.writers import ClientSender, StreamWriter, WholeWriter

StartSoon = Callable[..., None]
"""Starts an async function with its arguments, and does not wait for it."""

# To send the last words to a client may take this long; a server that stops does not wait longer.
_LAST_WORD_SECONDS = 2.0


class TurnResponse(Response):
    """An ASGI response that runs a turn while it answers.

    If the client disconnects, the turn is cancelled, or goes on in the background, as its lifetime
    says.
    """

    def __init__(
        self, turn: Turn, start_soon: StartSoon, durable: DurableRunner | None = None
    ) -> None:
        super().__init__()
        if durable is not None:
            turn = turn.made_durable()
        elif turn.project.on_disconnect == "finish":
            turn = replace(turn, lifetime="server")
        self._turn = turn
        self._durable = durable
        self._start_soon = start_soon

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the turn and answer."""
        turn, kept = self._turn, self._kept_events()
        outlived = turn.outlives_client and kept is None
        sender = ClientSender(send, turn.services.settings.write_seconds, outlived=outlived)
        headers = {"x-session-id": turn.session_id}
        writer: StreamWriter | WholeWriter
        if turn.request.stream:
            scope.get("state", {})[SENDS_EVENTS] = True
            writer = StreamWriter(turn, sender, headers)
        else:
            writer = WholeWriter(turn, sender, headers)
        async with anyio.create_task_group() as here:
            leave = here.cancel_scope.cancel
            serving = _Serving(turn, writer, sender, self._work(kept), leave)
            # Not in this task, where each read would resume the coroutines of all layers of the app.
            if outlived:
                self._start_soon(serving.serve)
            else:
                here.start_soon(serving.serve)
            await _listen(receive, sender)
            leave()

    def _kept_events(self) -> KeptEvents | None:
        """Return the events of the running turn that the client comes back to."""
        turn = self._turn
        if turn.stream_name is None or not turn.last_event_id or not turn.request.stream:
            return None
        return turn.services.running_streams.get(turn.stream_name)

    def _work(
        self, kept: KeptEvents | None
    ) -> "Callable[[TurnRun, StreamWriter | WholeWriter], Awaitable[None]]":
        """Return how the client gets its answer."""

        async def work(run: TurnRun, writer: StreamWriter | WholeWriter) -> None:
            if kept is not None and isinstance(writer, StreamWriter):
                await writer.follow(kept)
            elif self._durable is not None:
                await self._durable.run(run)
            else:
                await run.run()

        return work


async def _listen(receive: Receive, sender: ClientSender) -> None:
    """Wait until the client disconnects, and send it nothing more."""
    while (await receive())["type"] != "http.disconnect":
        pass
    sender.cut()


class _Serving:
    """A turn on its way to a client: whatever goes wrong is sent to it."""

    def __init__(
        self,
        turn: Turn,
        writer: StreamWriter | WholeWriter,
        sender: ClientSender,
        work: Callable[[TurnRun, StreamWriter | WholeWriter], Awaitable[None]],
        leave: Callable[[], None],
    ) -> None:
        self._turn = turn
        self._writer = writer
        self._sender = sender
        self._work = work
        self._run = TurnRun(turn, writer)
        self._leave = leave  # ends the request

    async def serve(self) -> None:
        """Run the turn under watch."""
        turn, sender = self._turn, self._sender
        problem: Problem | None = None
        begun, status = sender.now(), CANCELLED
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._watch)
                try:
                    await self._work(self._run, self._writer)
                    status = "200"
                except (anyio.get_cancelled_exc_class(), GeneratorExit):
                    raise
                # A bug must not cut the connection, nor what a tool raises (SystemExit) end the
                # server.
                except BaseException as error:  # noqa: BLE001
                    problem = self._problem(error)
                tasks.cancel_scope.cancel()
        except* _KNOWN_ERRORS as group:  # the watch lost the session, or the reader
            problem = self._problem(group.exceptions[0])
        finally:
            if problem is not None:
                status = str(int(problem.status))
                if self._run.repeats_tools:
                    problem.headers.update(DO_NOT_RETRY)
                with anyio.move_on_after(_LAST_WORD_SECONDS):
                    await self._writer.fail(problem)
            self._writer.close()
            turn.services.metrics.turn(turn.project.id, status, sender.now() - begun)
            self._leave()

    def _problem(self, error: BaseException) -> Problem:
        """Return what the client reads about a failed turn, and log its cause."""
        match error:
            case Problem():
                problem = error
            case TransportError():
                problem = of_model(error)
            case StoreError():
                problem = of_store(error)
            case _:
                problem = Problem(500, "Internal server error")
        self._turn.log_failure(error, problem.status)
        return problem

    async def _watch(self) -> None:
        """Renew the lease, break long silences, and give up on a client that does not read."""
        services, sender = self._turn.services, self._sender
        renew_every = services.settings.lease_seconds / RENEWALS_PER_LEASE
        renewed_at = sender.now()
        while True:
            now = sender.now()
            ping_at = sender.last_sent + services.settings.ping_seconds
            if sender.is_writing:  # no silence: a comment would wait behind unread data
                ping_at = float("inf")
            due = min(renewed_at + renew_every, ping_at, sender.write_end)
            if now < due:
                await _pause(due - now, services.ending)
                continue
            if sender.write_end <= now:
                self._give_up()
            if now >= renewed_at + renew_every:
                renewed_at = now
                await self._run.held.renew()
            if now >= ping_at:
                sender.last_sent = now
                await self._writer.ping()

    def _give_up(self) -> None:
        """Leave a client that does not read; its turn goes on only if it outlives its client."""
        self._sender.cut()
        if not self._sender.outlived:
            raise Problem(408, "The client does not read")
        self._leave()


_KNOWN_ERRORS = (Problem, TransportError, StoreError)


async def _pause(seconds: float, ending: anyio.Event) -> None:
    with anyio.move_on_after(seconds):
        await ending.wait()
        raise unavailable("The server is stopping; try again")
