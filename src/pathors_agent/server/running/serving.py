"""Run the app in one process or several: listen, shut down gracefully, restart dead workers."""

import asyncio
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import FrameType

import anyio
import uvicorn
from fastapi import FastAPI

from pathors_agent.concurrency.lifetime import CLOSE_SECONDS, end_process_within
from pathors_agent.errors import AgentError, CannotListen
from pathors_agent.server.running.connections import MAX_HEAD_BYTES, limited_protocol
from pathors_agent.server.running.runtime import Runtime
from pathors_agent.server.turns.metrics import forget_worker, shared_by_workers

AppMaker = Callable[[], FastAPI]
"""Builds the app with `create_app`. Several workers pickle it, so it must not be a lambda."""

# The exit status of a server that a second signal ended, as shells report Ctrl-C.
INTERRUPTED = 130

# Above the 60 s after which common proxies close idle connections, so that the proxy closes first.
KEEP_ALIVE_SECONDS = 75
# Turns that must end release their leases in less time.
END_SECONDS = 6.0
# By then, only clients that do not read are left; uvicorn counts in whole seconds.
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
    """Serve the connections of a socket in this process. Return the exit status."""
    app = make_app()
    config = uvicorn.Config(
        app,
        http=limited_protocol(),
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,  # addresses contain texts of searches
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_CONNECTION_SECONDS,
        backlog=_BACKLOG,
    )
    server = _UvicornServer(config, app.state.runtime, on_ready, stop_signals)
    try:
        server.run(sockets=[listener])
    finally:
        server.note_end()
    return 0


class _UvicornServer(uvicorn.Server):
    """Waits for running turns before it stops, and answers requests meanwhile."""

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
        # Here, so that an error of opening the store is raised and not logged.
        await self._runtime.start()
        await super().startup(sockets)
        self._on_ready()

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Listen to signals, which end the server and not the process, unlike uvicorn's."""
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
        """Shut down gracefully on the first signal, immediately on the second."""
        if self.should_exit:
            os._exit(INTERRUPTED)
        self.should_exit = True
        self._runtime.drain()
        # This works even if a tool blocks the event loop, or a thread blocks its end.
        within = self._runtime.grace_left + END_SECONDS + CLOSE_SECONDS
        self._note_end = end_process_within(within)

    def note_end(self) -> None:
        """Cancel the end of the process: the server has stopped."""
        if self._note_end is not None:
            self._note_end()

    async def main_loop(self) -> None:
        """Serve until the server must stop, and then while turns run, within the grace time."""
        await super().main_loop()
        self._runtime.drain()
        if await self._is_idle_within(self._runtime.grace_left):
            return
        self._runtime.end_turns()
        if not await self._is_idle_within(END_SECONDS):
            # A thread cannot be stopped, and neither can a turn that waits for it; the process can.
            _say("error: turns were left in the middle: their tools did not end in time")
            os._exit(1)

    async def _is_idle_within(self, seconds: float) -> bool:
        with anyio.move_on_after(seconds):
            while self.server_state.tasks or self._runtime.has_turns_left:  # noqa: ASYNC110  (no event exists)
                await asyncio.sleep(_LOOK_SECONDS)
            return True
        return False


def _say(text: str) -> None:
    with suppress(OSError, ValueError):  # the terminal may be gone
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def serve(
    make_app: AppMaker,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    workers: int = 1,
    on_ready: Callable[[str], object] | None = None,
) -> int:
    """Serve until SIGTERM or Ctrl-C. Return the exit status.

    Port 0 is any free port. `on_ready` is called with the address, such as "http://127.0.0.1:8000",
    when the server answers requests. After the first signal no new turns are taken, and running
    turns may go on for the settings' `grace_seconds`; a second signal ends the process at once.
    Each of several `workers` is a process with an app of its own, on the same socket.

    The status is 0 after a graceful shutdown, else 1.
    """
    if workers > 1 and os.name != "posix":  # it has no signals to stop them gracefully
        raise CannotListen("Windows can run one worker only: leave out `workers` (`--workers`)")
    with _listening(host, port) as listener:
        address = _address(listener)

        def tell() -> None:
            if on_ready is not None:
                on_ready(address)

        if workers > 1:
            with shared_by_workers():
                return Supervisor(make_app, listener, workers, tell).run()
        return serve_here(make_app, listener, on_ready=tell)


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """Yield a socket that is bound to the address and does not listen yet."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise CannotListen(f"cannot listen on {host}: {error.strerror}") from None
    with listener:
        if os.name == "posix":  # elsewhere it would let two programs share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            reason = f"cannot listen on {host}, port {port}: {error.strerror}"
            raise CannotListen(reason) from None
        yield listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


# - several processes -


# A worker that dies before it serves would die again at once. Its database may be back later.
RESTART_SECONDS = 1.0

# Not forked: a copy of a process that has threads may hang.
_SPAWN = multiprocessing.get_context("spawn")


@dataclass(slots=True)
class _WorkerProcess:
    process: SpawnProcess
    ready: Connection
    is_ready: bool = False


class Supervisor:
    """Keeps a number of workers alive, and passes signals on to them."""

    def __init__(
        self, make_app: AppMaker, listener: socket.socket, size: int, on_ready: Callable[[], object]
    ) -> None:
        self._make_app = make_app
        self._listener = listener
        self._size = size
        self._on_ready = on_ready
        self._workers: list[_WorkerProcess] = []
        self._restarts: list[float] = []
        self._has_served = False
        self._is_stopping = False
        self._status = 0

    def run(self) -> int:
        """Serve until a signal. Return the exit status."""
        with self._listening_to_signals() as wakeup:
            for _ in range(self._size):
                self._start()
            while self._workers or (self._restarts and not self._is_stopping):
                self._wait(wakeup)
        return self._status

    # - events -

    def _wait(self, wakeup: socket.socket) -> None:
        """Wait for the next event of a worker or a signal, and handle it."""
        sources = {worker.process.sentinel: worker for worker in self._workers}
        readiness = {worker.ready: worker for worker in self._workers if not worker.is_ready}
        happened = wait([wakeup, *readiness, *sources], self._pause())
        for source in happened:
            if isinstance(source, Connection):
                self._note_ready(readiness[source])
            elif isinstance(source, int):
                self._reap(sources[source])
            else:
                wakeup.recv(1024)
                self._stop()
        self._restart()

    def _note_ready(self, worker: _WorkerProcess) -> None:
        try:
            worker.is_ready = bool(worker.ready.recv())
        except (EOFError, OSError):  # it is dying; its sentinel follows
            return
        if not self._has_served and sum(w.is_ready for w in self._workers) == self._size:
            self._has_served = True
            self._on_ready()

    def _reap(self, worker: _WorkerProcess) -> None:
        worker.process.join()
        code, pid = worker.process.exitcode, worker.process.pid
        forget_worker(pid)
        worker.ready.close()
        worker.process.close()
        self._workers.remove(worker)
        if self._is_stopping:
            # A worker that SIGTERM ended before it listened to signals had nothing to finish.
            self._status = self._status or int(code not in (0, -signal.SIGTERM))
        elif not self._has_served:
            self._status = 1
            self._stop()
        else:
            sys.stderr.write(f"worker {pid} ended with status {code}; starting another\n")
            pause = 0.0 if worker.is_ready else RESTART_SECONDS
            self._restarts.append(time.monotonic() + pause)

    def _restart(self) -> None:
        now = time.monotonic()
        while self._restarts and self._restarts[0] <= now and not self._is_stopping:
            self._restarts.pop(0)
            self._start()

    def _pause(self) -> float | None:
        return max(0.0, self._restarts[0] - time.monotonic()) if self._restarts else None

    # - actions -

    def _start(self) -> None:
        ready, told = _SPAWN.Pipe(duplex=False)
        arguments = (self._make_app, self._listener, told)
        process = _SPAWN.Process(target=_work, args=arguments, name="pathors-agent worker")
        # The worker inherits the mask, and unblocks the signals when it can handle them.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            process.start()
            self._workers.append(_WorkerProcess(process, ready))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        told.close()

    def _stop(self) -> None:
        self._is_stopping = True
        for worker in self._workers:
            worker.process.terminate()

    @contextmanager
    def _listening_to_signals(self) -> Iterator[socket.socket]:
        """Yield a socket that is readable after the first signal.

        A second signal ends everything.
        """
        ours, theirs = socket.socketpair()
        signals = 0

        def note(number: int, frame: FrameType | None) -> None:
            nonlocal signals
            signals += 1
            if signals > 1:
                self._end_at_once()
            theirs.send(b"!")

        before = {number: signal.signal(number, note) for number in STOP_SIGNALS}
        try:
            with ours, theirs:
                yield ours
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _end_at_once(self) -> None:
        for worker in self._workers:
            worker.process.kill()
        os._exit(INTERRUPTED)


def _work(make_app: AppMaker, listener: socket.socket, told: Connection) -> None:
    """Serve as a worker until the supervisor stops it or dies."""
    # Ctrl-C reaches every process of a terminal; only the supervisor handles it.
    signal.signal(signal.SIGINT, lambda number, frame: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        status = serve_here(
            make_app,
            listener,
            on_ready=lambda: told.send(True),  # noqa: FBT003
            stop_signals=(signal.SIGTERM,),
        )
    except AgentError as error:
        sys.stderr.write(f"error: {error}\n")
        status = 1
    end_process_within(CLOSE_SECONDS)
    sys.exit(status)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
