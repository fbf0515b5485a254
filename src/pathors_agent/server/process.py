"""Serve in this process: give running turns their time when it is told to stop."""

import asyncio
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

import anyio
import uvicorn
from fastapi import FastAPI

from pathors_agent.concurrency.lifetime import CLOSE_SECONDS, end_process_within
from pathors_agent.server.connections import MAX_HEAD_BYTES, limited_protocol
from pathors_agent.server.runtime import Runtime

AppMaker = Callable[[], FastAPI]
"""Makes the app with `create_app`; for several workers it is pickled: no lambda."""

# The exit status of a server that a second signal ended, as shells report Ctrl-C.
INTERRUPTED = 130

# Above the 60 s after which common proxies close idle connections: it is they who close.
KEEP_ALIVE_SECONDS = 75
# Turns that were told to end give back what they hold in less.
END_SECONDS = 6.0
# What is left then are readers that do not read; uvicorn counts in whole seconds.
_CONNECTION_SECONDS = 1
_LOOK_SECONDS = 0.05
_BACKLOG = 2048

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def serve_here(
    make_app: AppMaker,
    listener: socket.socket,
    *,
    on_ready: Callable[[], object],
    stop_signals: Sequence[signal.Signals] = STOP_SIGNALS,
) -> int:
    """Serve in this process what comes to a socket; give the exit status."""
    app = make_app()
    config = uvicorn.Config(
        app,
        http=limited_protocol(),
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,  # addresses hold what people search for
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_CONNECTION_SECONDS,
        backlog=_BACKLOG,
    )
    server = _Server(config, app.state.runtime, on_ready, stop_signals)
    try:
        server.run(sockets=[listener])
    finally:
        server.note_end()
    return 0


class _Server(uvicorn.Server):
    """Gives running turns their time when it is told to stop, and answers meanwhile."""

    def __init__(
        self,
        config: uvicorn.Config,
        runtime: Runtime,
        on_ready: Callable[[], object],
        stop_signals: Sequence[signal.Signals],
    ) -> None:
        super().__init__(config)
        self._runtime = runtime
        self._on_ready = on_ready
        self._stop_signals = stop_signals
        self._note_end: Callable[[], None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        # Here, so that what keeps the store from opening is raised and not logged.
        await self._runtime.start()
        await super().startup(sockets)
        self._on_ready()

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Listen to signals; unlike uvicorn's own, these end the server and not the process."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in self._stop_signals}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop in good order; at the second time at once."""
        if self.should_exit:
            os._exit(INTERRUPTED)
        self.should_exit = True
        self._runtime.drain()
        # Also where a tool blocks the event loop, or a thread the end of it.
        within = self._runtime.grace_left + END_SECONDS + CLOSE_SECONDS
        self._note_end = end_process_within(within)

    def note_end(self) -> None:
        """Let the process go on: the server has ended."""
        if self._note_end is not None:
            self._note_end()

    async def main_loop(self) -> None:
        """Serve until told to stop, and then as long as turns run and have time."""
        await super().main_loop()
        self._runtime.drain()
        if await self._is_idle_within(self._runtime.grace_left):
            return
        self._runtime.end_turns()
        if not await self._is_idle_within(END_SECONDS):
            # A thread cannot be stopped: neither can a turn that waits for one, but with it.
            _say("error: turns were left in the middle: their tools did not end in time")
            os._exit(1)

    async def _is_idle_within(self, seconds: float) -> bool:
        with anyio.move_on_after(seconds):
            while self.server_state.tasks or self._runtime.has_turns_left:  # noqa: ASYNC110  (nobody tells)
                await asyncio.sleep(_LOOK_SECONDS)
            return True
        return False


def _say(text: str) -> None:
    with suppress(OSError, ValueError):  # there may be nobody to tell
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
