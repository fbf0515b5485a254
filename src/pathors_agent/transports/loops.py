"""Keep one HTTP client for each event loop.

A connection belongs to the event loop that opened it. A program that calls `asyncio.run` several
times has a new loop each time, so that a client of the last one would fail.
"""

import asyncio
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Generic, TypeVar

from pathors_agent.concurrency.event_loops import in_trio_task
from pathors_agent.errors import TransportError

ClientT = TypeVar("ClientT")


class LoopClients(Generic[ClientT]):
    """Clients by event loop: opened at a loop's first request, closed when the loop shuts down.

    A `given` client belongs to the caller: it is used on every loop and never closed.
    """

    def __init__(
        self,
        make: Callable[[], ClientT],
        close: Callable[[ClientT], Awaitable[object]],
        *,
        given: ClientT | None = None,
    ) -> None:
        self._make = make
        self._close = close
        self._given = given
        self._given_loop: object = None
        self._clients: dict[object, ClientT] = {}
        self._closers: dict[object, AsyncGenerator[None]] = {}
        self._is_closed = False

    async def client(self) -> ClientT:
        """Return the client of the running loop. Raises `TransportError` after `aclose`."""
        loop = running_loop()
        client = self._clients.get(loop)
        if client is not None:
            return client
        if self._is_closed:
            raise TransportError(CLOSED, retryable=False)
        if self._given is not None:
            self._given_loop = self._given_loop or loop
            return self._given
        return await self._open(loop)

    async def _open(self, loop: object) -> ClientT:
        self._drop_closed_loops()
        self._clients[loop] = client = self._make()
        self._closers[loop] = closer = _closes_with_loop(self._close, client)
        await anext(closer)  # from here on the loop knows it, and ends it at its shutdown
        return client

    def _drop_closed_loops(self) -> None:
        for loop in list(self._clients):
            if isinstance(loop, asyncio.AbstractEventLoop) and loop.is_closed():
                self._forget(loop)

    def _forget(self, loop: object) -> AsyncGenerator[None] | None:
        self._clients.pop(loop, None)
        return self._closers.pop(loop, None)

    @property
    def given_has_moved(self) -> bool:
        """Whether a given client was used on another loop before."""
        return self._given is not None and self._given_loop not in (None, running_loop())

    def failure(self, error: RuntimeError) -> TransportError:
        """Return the error for what a client raises that is closed or belongs to another loop."""
        if self.given_has_moved:
            return moved()
        return TransportError(f"The request cannot be sent: {error}", retryable=False)

    async def aclose(self) -> None:
        """Close the running loop's client and send no more; other loops close their own.

        A given client stays open, and can be used on.
        """
        if self._given is not None:
            return
        self._is_closed = True
        closer = self._forget(running_loop())
        if closer is not None:
            await closer.aclose()


CLOSED = "The transport was closed; make another one, or use it inside its `with` block."


def moved() -> TransportError:
    """Return the error for a given client that was used on another event loop before."""
    return TransportError(
        "The client passed as client= belongs to another event loop; make a transport for each "
        "loop, or leave out client=: the transport then opens a client for each loop.",
        retryable=False,
    )


async def _closes_with_loop(
    close: Callable[[ClientT], Awaitable[object]], client: ClientT
) -> AsyncGenerator[None]:
    """Close the client at the generator's end: event loops end all generators at their shutdown."""
    try:
        yield
    finally:
        await close(client)


def running_loop() -> object:
    """Return what identifies the running event loop: asyncio's loop, or trio's token."""
    if in_trio_task():
        trio: Any = sys.modules["trio"]
        return trio.lowlevel.current_trio_token()
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise TransportError(
            "No event loop is running: async transports need asyncio or trio.", retryable=False
        ) from None
