"""Wake workers and waiting callers when there is work or a result, instead of frequent polls.

Inside a process a bell rings at once. Between processes PostgreSQL's NOTIFY carries it. A bell may
stay silent (SQLite, a pooler without LISTEN, a lost connection), so waiting code also polls slowly.
"""

import asyncio
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from pathors_agent.durable import engine
from pathors_agent.durable.records import SEPARATOR
from pathors_agent.telemetry.events import emit

CHANNEL = "pathors_durable"

# How often a listener checks whether it should end, and its pause before it reconnects.
_LISTEN_SECONDS = 1.0

_Listener = tuple[asyncio.AbstractEventLoop, asyncio.Event]

_LISTENERS: defaultdict[tuple[str, str], set[_Listener]] = defaultdict(set)
_LOCK = threading.Lock()


class Bell:
    """Rings topics of one database: names of queues, and ids of runs."""

    def __init__(self, url: sa.URL) -> None:
        self._place = url.render_as_string(hide_password=True)
        self._url = url

    @contextmanager
    def listen(self, topic: str) -> Iterator[asyncio.Event]:
        """Return an event of the running loop that is set each time the topic rings."""
        listener = asyncio.get_running_loop(), asyncio.Event()
        with _LOCK:
            _LISTENERS[self._place, topic].add(listener)
        try:
            yield listener[1]
        finally:
            with _LOCK:
                _LISTENERS[self._place, topic].discard(listener)
                if not _LISTENERS[self._place, topic]:
                    del _LISTENERS[self._place, topic]

    def ring(self, topic: str) -> None:
        """Ring in this process; may be called from any thread."""
        with _LOCK:
            listeners = [*_LISTENERS.get((self._place, topic), ())]
        for loop, event in listeners:
            if not loop.is_closed():
                loop.call_soon_threadsafe(event.set)

    @contextmanager
    def receiving(self) -> Iterator[None]:
        """Ring in this process when another process rings, on PostgreSQL."""
        if self._url.get_backend_name() != "postgresql":
            yield
            return
        ended = threading.Event()
        thread = threading.Thread(
            target=self._receive, args=(ended,), name="pathors-bell", daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            ended.set()

    def _receive(self, ended: threading.Event) -> None:
        import psycopg

        address = self._url.set(drivername="postgresql").render_as_string(hide_password=False)
        while not ended.is_set():
            try:
                with psycopg.connect(address, autocommit=True, connect_timeout=10) as connection:
                    # A LISTEN would stay in a session of a pooler, and its notifications would
                    # reach another client.
                    if engine.is_pooled(connection):
                        emit("listen_impossible")
                        return
                    connection.execute(f"LISTEN {CHANNEL}")
                    while not ended.is_set():
                        for notice in connection.notifies(timeout=_LISTEN_SECONDS):
                            self.ring(notice.payload)
            except psycopg.Error as error:
                emit("listen_failed", error=type(error).__name__)
                ended.wait(_LISTEN_SECONDS)


def ended_topic(segment: str) -> str:
    """Return the topic that rings when a segment of the same run ends."""
    return f"ended {segment.partition(SEPARATOR)[0]}"


def notify(connection: sa.Connection, topic: str) -> None:
    """Ring in other processes once the transaction commits, on PostgreSQL."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_notify(CHANNEL, topic)))
