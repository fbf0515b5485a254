"""Serve in several processes on one socket, and start another where one dies."""

import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import FrameType

from pathors_agent.concurrency.lifetime import CLOSE_SECONDS, end_process_within
from pathors_agent.errors import AgentError
from pathors_agent.server.metrics import forget_worker
from pathors_agent.server.process import INTERRUPTED, STOP_SIGNALS, AppMaker, serve_here

# A worker that dies before it serves would die again: its database may be back later.
RESTART_SECONDS = 1.0

# Not forked: a copy of a process that has threads may hang.
_SPAWN = multiprocessing.get_context("spawn")


@dataclass(slots=True)
class _Worker:
    process: SpawnProcess
    news: Connection
    is_ready: bool = False


class Supervisor:
    """Keeps a number of workers alive, and passes on when they are to stop."""

    def __init__(
        self,
        make_app: AppMaker,
        listener: socket.socket,
        size: int,
        on_ready: Callable[[], object],
    ) -> None:
        self._make_app = make_app
        self._listener = listener
        self._size = size
        self._on_ready = on_ready
        self._workers: list[_Worker] = []
        self._restarts: list[float] = []
        self._has_served = False
        self._is_stopping = False
        self._status = 0

    def run(self) -> int:
        """Serve until a signal; give the exit status."""
        with self._listening_to_signals() as wakeup:
            for _ in range(self._size):
                self._start()
            while self._workers or (self._restarts and not self._is_stopping):
                self._look(wakeup)
        return self._status

    # - what happens -

    def _look(self, wakeup: socket.socket) -> None:
        """Wait for something to happen, and see to it."""
        sources = {worker.process.sentinel: worker for worker in self._workers}
        news = {worker.news: worker for worker in self._workers if not worker.is_ready}
        happened = wait([wakeup, *news, *sources], self._pause())
        for source in happened:
            if isinstance(source, Connection):
                self._hear(news[source])
            elif isinstance(source, int):
                self._bury(sources[source])
            else:
                wakeup.recv(1024)
                self._stop()
        self._restart()

    def _hear(self, worker: _Worker) -> None:
        try:
            worker.is_ready = bool(worker.news.recv())
        except (EOFError, OSError):  # it is dying; its end is told, too
            return
        if not self._has_served and sum(w.is_ready for w in self._workers) == self._size:
            self._has_served = True
            self._on_ready()

    def _bury(self, worker: _Worker) -> None:
        worker.process.join()
        code, pid = worker.process.exitcode, worker.process.pid
        forget_worker(pid)
        worker.news.close()
        worker.process.close()
        self._workers.remove(worker)
        if self._is_stopping:
            # One that was told before it listened to signals had nothing to end.
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

    # - what is done -

    def _start(self) -> None:
        news, told = _SPAWN.Pipe(duplex=False)
        arguments = (self._make_app, self._listener, told)
        process = _SPAWN.Process(target=_work, args=arguments, name="pathors-agent worker")
        # A worker inherits that these wait, until it can do what they ask for.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            process.start()
            self._workers.append(_Worker(process, news))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        told.close()

    def _stop(self) -> None:
        self._is_stopping = True
        for worker in self._workers:
            worker.process.terminate()

    @contextmanager
    def _listening_to_signals(self) -> Iterator[socket.socket]:
        """Give a socket that can be read when a first signal came; a second ends everything."""
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
    """Be a worker: serve until the supervisor says so, or is gone."""
    # Ctrl-C reaches every process of a terminal; the supervisor says what it means.
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
