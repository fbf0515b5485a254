"""Open an answer as far as the first byte of its body.

Until then nobody has seen anything of it, so that the request may be sent again, to this endpoint
or another; what fails after that is never sent again.
"""

from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, replace
from itertools import chain

from pathors_agent.transports.base import (
    AsyncResponse,
    AsyncTransport,
    Request,
    Response,
    Transport,
)
from pathors_agent.wire.provider_errors import RETRYABLE_STATUSES

_OK = 200


@dataclass(frozen=True, slots=True)
class Opened:
    """An answer with its first byte read; the stack holds it open."""

    response: Response
    stack: ExitStack
    is_empty: bool = False

    @property
    def failed(self) -> bool:
        """Whether another attempt may bring what this answer does not: it is empty, or trouble."""
        return self.is_empty or self.response.status in RETRYABLE_STATUSES


@dataclass(frozen=True, slots=True)
class AsyncOpened:
    """`Opened` for an `AsyncTransport`."""

    response: AsyncResponse
    stack: AsyncExitStack
    is_empty: bool = False

    @property
    def failed(self) -> bool:
        """As `Opened.failed`."""
        return self.is_empty or self.response.status in RETRYABLE_STATUSES


def open_answer(transport: Transport, request: Request) -> Opened:
    """Send a request; read an answer 200 up to its first byte."""
    with ExitStack() as stack:
        response = stack.enter_context(transport.send(request))
        if response.status != _OK:
            return Opened(response, stack.pop_all())
        pieces = iter(response.pieces)
        first = next(filter(None, pieces), b"")
        response = replace(response, pieces=chain(filter(None, [first]), pieces))
        return Opened(response, stack.pop_all(), is_empty=not first)


async def open_answer_async(transport: AsyncTransport, request: Request) -> AsyncOpened:
    """As `open_answer`."""
    async with AsyncExitStack() as stack:
        response = await stack.enter_async_context(transport.send(request))
        if response.status != _OK:
            return AsyncOpened(response, stack.pop_all())
        pieces = aiter(response.pieces)
        first = await _first_filled(pieces)
        response = replace(response, pieces=_FirstThenRest(first, pieces))
        return AsyncOpened(response, stack.pop_all(), is_empty=not first)


async def _first_filled(pieces: AsyncIterator[bytes]) -> bytes:
    async for piece in pieces:
        if piece:
            return piece
    return b""


class _FirstThenRest:
    """A piece that was read already, and those that follow it."""

    def __init__(self, first: bytes, rest: AsyncIterator[bytes]) -> None:
        self._first = first
        self._rest = rest

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    def __anext__(self) -> Awaitable[bytes]:
        # No coroutine of its own for the rest: that would cost each piece one more.
        if self._first:
            first, self._first = self._first, b""
            return _ready(first)
        return self._rest.__anext__()

    async def aclose(self) -> None:
        """Close where the rest comes from, as far as that can be closed."""
        close = getattr(self._rest, "aclose", None)
        if close is not None:
            await close()


async def _ready(piece: bytes) -> bytes:
    return piece
