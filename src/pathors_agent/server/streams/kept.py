"""The events of running streams, kept for clients that reconnect."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Hashable

import anyio

from pathors_agent.server.http.problems import unavailable

# A client that reconnects to a longer stream waits until its answer is stored.
MAX_KEPT_BYTES = 8 * 2**20

StreamName = Hashable


class KeptEvents:
    """The events of a running stream, for clients that reconnect.

    It is in `running` under its name until it is closed. A client without events reads `replay`, if
    there is one, in place of the first event.
    """

    def __init__(
        self,
        running: "dict[StreamName, KeptEvents]",
        name: StreamName,
        *,
        rewound: int = 0,
        replay: bytes = b"",
    ) -> None:
        running[name] = self
        self._running = running
        self._name = name
        self._replay = replay
        self.rewound = rewound
        self._events: list[bytes] = []
        self._size = 0
        self._is_closed = self._is_whole = self._has_readers = False
        self._change = anyio.Event()

    def add(self, event: bytes, *, is_last: bool = False) -> None:
        """Keep an event, and send it to the clients that follow."""
        if self._is_closed:
            return
        self._events.append(event)
        self._size += len(event)
        self._is_whole = is_last
        if is_last or self._size > MAX_KEPT_BYTES:
            self.close()
        elif self._has_readers:
            self._wake()

    def close(self) -> None:
        """Keep no more events; a repeat finds the stored answer."""
        self._is_closed = True
        if self._running.get(self._name) is self:
            del self._running[self._name]
        self._wake()

    async def after(self, event_id: str, *, replays: bool = True) -> AsyncIterator[bytes]:
        """Yield the events after the event with this id, or all events, as they arrive."""
        index = self._index_after(event_id)
        while True:
            while index < len(self._events):
                is_replay = index == 0 and replays and self._replay
                yield self._replay if is_replay else self._events[index]
                index += 1
            if self._is_closed:
                break
            self._has_readers = True
            await self._change.wait()
        if not self._is_whole:
            raise unavailable("The stream ended before its answer; repeat it with Last-Event-ID")

    def _index_after(self, event_id: str) -> int:
        start = f"id: {event_id}\n".encode()
        count = len(self._events)
        found = (i for i in range(count, 0, -1) if self._events[i - 1].startswith(start))
        return next(found, 0)

    def _wake(self) -> None:
        self._has_readers = False
        self._change.set()
        self._change = anyio.Event()


class RunningStreams:
    """Runs streams that outlive their clients, so that a client can reconnect to its stream.

    For an application of your own, on asyncio. The streams are in this process. A stream of more
    than `MAX_KEPT_BYTES` ends for its clients.
    """

    def __init__(self) -> None:
        self._kept: dict[StreamName, KeptEvents] = {}
        self._tasks: dict[KeptEvents, asyncio.Task[None]] = {}

    def start(
        self, name: str, events: AsyncGenerator[bytes, None], *, replay: bytes = b""
    ) -> AsyncIterator[bytes]:
        """Read `events` to their end in the background, and yield them to the first client.

        A client that reconnects reads the `replay` of the request in place of the first event.
        """
        kept = KeptEvents(self._kept, name, replay=replay)
        task = asyncio.create_task(self._read(kept, events))
        self._tasks[kept] = task  # the event loop itself keeps weak references only
        task.add_done_callback(lambda _: self._tasks.pop(kept))
        return kept.after("", replays=False)

    def follow(self, name: str) -> AsyncIterator[bytes] | None:
        """Yield all events of a running stream; return None if no stream of this name is running."""
        kept = self._kept.get(name)
        return None if kept is None else kept.after("")

    def stop(self, name: str) -> None:
        """Cancel a running stream. Idempotent."""
        if (kept := self._kept.get(name)) is not None:
            self._tasks[kept].cancel()

    async def _read(self, kept: KeptEvents, events: AsyncGenerator[bytes, None]) -> None:
        try:
            async for data in events:
                kept.add(data)
        finally:
            kept.add(b"", is_last=True)
