"""Open an answer as far as the first byte of its body.

Until then nothing of it was given out, so that the request may be sent again, to this endpoint or
another; what fails after that is never sent again.
"""

import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from itertools import chain

from pathors_agent.transports.base import AsyncResponse, Request, Response
from pathors_agent.wire.provider_errors import is_retryable

_OK = 200

Send = Callable[[Request], AbstractContextManager[Response]]
AsyncSend = Callable[[Request], AbstractAsyncContextManager[AsyncResponse]]


@dataclass(frozen=True, slots=True)
class Opened:
    """An answer with its first byte read; `stack` holds it open."""

    response: Response
    stack: ExitStack
    is_empty: bool = False

    @property
    def failed(self) -> bool:
        """Whether another attempt may succeed: the answer is empty, or a passing error."""
        return self.is_empty or is_retryable(self.response.status)

    def close(self) -> None:
        """Release the connection."""
        self.stack.close()


@dataclass(frozen=True, slots=True)
class AsyncOpened:
    """`Opened` for an `AsyncTransport`; `sending` holds it open."""

    response: AsyncResponse
    sending: AbstractAsyncContextManager[AsyncResponse]
    is_empty: bool = False

    @property
    def failed(self) -> bool:
        """As `Opened.failed`."""
        return self.is_empty or is_retryable(self.response.status)

    async def aclose(self) -> None:
        """As `Opened.close`."""
        await self.sending.__aexit__(None, None, None)


def open_answer(send: Send, request: Request) -> Opened:
    """Send a request; read an answer 200 up to its first byte."""
    with ExitStack() as stack:
        response = stack.enter_context(send(request))
        if response.status != _OK:
            return Opened(response, stack.pop_all())
        pieces = iter(response.pieces)
        first = next(filter(None, pieces), b"")
        response = replace(response, pieces=chain(filter(None, [first]), pieces))
        return Opened(response, stack.pop_all(), is_empty=not first)


async def open_answer_async(send: AsyncSend, request: Request) -> AsyncOpened:
    """As `open_answer`."""
    # No exit stack: it would be kept, with each open stream.
    sending = send(request)
    response = await sending.__aenter__()
    if response.status != _OK:
        return AsyncOpened(response, sending)
    try:
        pieces = aiter(response.pieces)
        first = await _first_filled(pieces)
    except BaseException:
        await sending.__aexit__(*sys.exc_info())
        raise
    if isinstance(pieces, PutBack):
        pieces.put_back(first)
    else:
        response = replace(response, pieces=_FirstThenRest(first, pieces))
    return AsyncOpened(response, sending, is_empty=not first)


async def _first_filled(pieces: AsyncIterator[bytes]) -> bytes:
    async for piece in pieces:
        if piece:
            return piece
    return b""


class PutBack(ABC):
    """Pieces of which the last one read can be put back, to be read again.

    The other way, around pieces of any kind, costs each piece one call more.
    """

    __slots__ = ()

    @abstractmethod
    def put_back(self, piece: bytes) -> None:
        """Let this piece be the next one."""


class _FirstThenRest:
    """A piece that was read already, and those that follow it."""

    __slots__ = ("_first", "_rest")

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
