"""Send a request to the next endpoint where one fails: a transport around transports.

An answer counts from the first byte of its body, as in `retry`.
"""

from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import fields

from pathors_agent.errors import TransportError
from pathors_agent.lifetime import AsyncLifetime, Lifetime
from pathors_agent.telemetry.events import emit
from pathors_agent.transports.base import (
    AsyncResponse,
    AsyncTransport,
    Request,
    Response,
    Transport,
)
from pathors_agent.transports.first_byte import AsyncOpened, Opened, open_answer, open_answer_async
from pathors_agent.wire.chat_completions import EndpointProfile


class FallbackTransport(Transport, Lifetime):
    """Send requests through the first of several transports that gives a good answer.

    The next one is tried after a `TransportError` that may pass, an answer 200 without a body, and
    the statuses of overload and trouble (408, 409, 429, 500, 502, 503, 504, 529); what the last
    one gives is given. Every request begins with the first.

    All get the same bytes, the model's name in them: the transports must have equal profiles, and
    their endpoints must know the model by one name. To try each several times, wrap each in a
    `RetryingTransport`. The transports stay open; close them yourself.
    """

    def __init__(self, first: Transport, second: Transport, *more: Transport) -> None:
        self._given = self._transports = (first, second, *more)
        self.profile = _one_profile([transport.profile for transport in self._transports])
        self.server_address = first.server_address

    @contextmanager
    def send(self, request: Request) -> Generator[Response]:
        """Send to one after another until there is an answer."""
        opened = self._open(request)
        with opened.stack:
            yield opened.response

    def _open(self, request: Request) -> Opened:
        *others, last = self._transports
        for position, transport in enumerate(others):
            try:
                opened = open_answer(transport, request)
            except TransportError as error:
                if not error.retryable:
                    raise
                _tell(request, position, transport, error=type(error).__name__)
            else:
                if not opened.failed:
                    return opened
                opened.stack.close()
                _tell(request, position, transport, status=opened.response.status)
        return open_answer(last, request)


class AsyncFallbackTransport(AsyncTransport, AsyncLifetime):
    """`FallbackTransport` for asyncio and trio."""

    def __init__(
        self, first: AsyncTransport, second: AsyncTransport, *more: AsyncTransport
    ) -> None:
        self._given = self._transports = (first, second, *more)
        self.profile = _one_profile([transport.profile for transport in self._transports])
        self.server_address = first.server_address

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncGenerator[AsyncResponse]:
        """As `FallbackTransport.send`."""
        opened = await self._open(request)
        async with opened.stack:
            yield opened.response

    async def _open(self, request: Request) -> AsyncOpened:
        *others, last = self._transports
        for position, transport in enumerate(others):
            try:
                opened = await open_answer_async(transport, request)
            except TransportError as error:
                if not error.retryable:
                    raise
                _tell(request, position, transport, error=type(error).__name__)
            else:
                if not opened.failed:
                    return opened
                await opened.stack.aclose()
                _tell(request, position, transport, status=opened.response.status)
        return await open_answer_async(last, request)


def _one_profile(profiles: Sequence[EndpointProfile]) -> EndpointProfile:
    first, *others = profiles
    names = [
        field.name
        for field in fields(EndpointProfile)
        if any(getattr(other, field.name) != getattr(first, field.name) for other in others)
    ]
    if names:
        raise ValueError(
            "A request is encoded once, for all the transports that it may be sent through: their "
            f"profiles may not differ, but do in {', '.join(names)}; pass each the same profile=."
        )
    return first


def _tell(
    request: Request,
    position: int,
    transport: Transport | AsyncTransport,
    *,
    status: int | None = None,
    error: str | None = None,
) -> None:
    (request.tell or emit)(
        "transport_fell_back",
        position=position,
        transport=type(transport).__name__,
        status=status,
        error=error,
    )
