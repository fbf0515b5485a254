"""Requests that their clients name by an Idempotency-Key: answered once, whoever repeats them."""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio

from pathors_agent.errors import SessionConflict
from pathors_agent.server.answer import Answer
from pathors_agent.server.problems import Problem, unavailable
from pathors_agent.stores.base import RequestId, RequestRecord, Store

_FIELD = "Idempotency-Key"
_LAST_EVENT = "Last-Event-ID"

# How often it is asked whether a request was answered that another process answers.
_LOOK_SECONDS = 0.25
# Giving back what a request held is worth this long, also when it was cancelled.
CLEAN_UP_SECONDS = 5.0
# A client that comes back to a longer stream waits until its answer is stored.
MAX_KEPT_BYTES = 8 * 2**20

StreamName = tuple[RequestId, str]
"""A request, and the digest of its body."""


@asynccontextmanager
async def held(
    store: Store,
    request: RequestId,
    body_digest: str,
    *,
    lease_seconds: float,
    patience: float,
    is_lost: Callable[[], bool],
) -> AsyncGenerator[Answer | None]:
    """Hold a request while it is answered; give the answer where it was answered before.

    One that another answers is waited for, for the seconds of `patience`. One that `is_lost` to
    another is left to that.
    """
    record = await _begun(store, request, body_digest, lease_seconds, patience)
    if record.answer is not None:
        yield Answer.loaded(record.answer)
        return
    try:
        yield None
    except BaseException as error:
        if is_lost() or isinstance(error, SessionConflict):
            raise  # another may answer it by now; if nobody does, it is over in a moment
        with anyio.move_on_after(CLEAN_UP_SECONDS, shield=True):
            await store.forget_request(request)
        raise


async def _begun(
    store: Store, request: RequestId, body_digest: str, seconds: float, patience: float
) -> RequestRecord:
    until = time.monotonic() + patience
    while True:
        record = await store.begin_request(request, body_digest, seconds=seconds)
        if record.body_digest != body_digest:
            raise Problem(422, f"The {_FIELD} was used with another body", param=_FIELD)
        if record.state != "running":
            return record
        if time.monotonic() >= until:
            raise Problem(
                409,
                f"The request with this {_FIELD} is being answered; try again",
                param=_FIELD,
                headers={"Retry-After": "1"},
            )
        await anyio.sleep(_LOOK_SECONDS)


class KeptEvents:
    """The events of a running stream, for clients that come back to it.

    It is in `running`, under its name, until it is closed.
    """

    def __init__(
        self, running: "dict[StreamName, KeptEvents]", name: StreamName, *, rewound: int
    ) -> None:
        running[name] = self
        self._running = running
        self._name = name
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
        """Keep nothing more; a repeat finds the stored answer."""
        self._is_closed = True
        if self._running.get(self._name) is self:
            del self._running[self._name]
        self._wake()

    async def after(self, event_id: str) -> AsyncIterator[bytes]:
        """Yield the events after the one with this id as they come; all of them if there is none."""
        index = self._index_after(event_id)
        while True:
            while index < len(self._events):
                yield self._events[index]
                index += 1
            if self._is_closed:
                break
            self._has_readers = True
            await self._change.wait()
        if not self._is_whole:
            raise unavailable(f"The stream ended before its answer; repeat it with {_LAST_EVENT}")

    def _index_after(self, event_id: str) -> int:
        start = f"id: {event_id}\n".encode()
        count = len(self._events)
        found = (i for i in range(count, 0, -1) if self._events[i - 1].startswith(start))
        return next(found, 0)

    def _wake(self) -> None:
        self._has_readers = False
        self._change.set()
        self._change = anyio.Event()
