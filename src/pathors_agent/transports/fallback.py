"""Send a request to the next endpoint where one fails: a transport around transports.

An answer counts from the first byte of its body, as in `retry`.
"""

import sys
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import fields, replace

from pathors_agent.concurrency.lifetime import AsyncLifetime, Lifetime
from pathors_agent.errors import TransportError
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
    """Send requests through the first of several transports that answers.

    The next transport is tried after a `TransportError` with `retryable`, an answer 200 without a
    body, and the statuses 408, 409, 429 and 500 to 599. Any other error is raised, and any other
    answer returned, at once. The last transport's answer or error is the result. Every request
    begins with the first transport.

    Each transport sends a request once, also those that would retry by themselves; wrap each in a
    `RetryingTransport` to try it several times, or wrap the whole to try all of them again.

    All transports get the same bytes, the model's name in them: they must have equal profiles, and
    their endpoints must know the model by one name. A `with` block opens and closes the transports
    that are context managers; without one, close them yourself.
    """

    def __init__(self, first: Transport, second: Transport, *more: Transport) -> None:
        self._given = self._transports = (first, second, *more)
        self.profile = _one_profile([transport.profile for transport in self._transports])
        self.server_address = first.server_address

    @contextmanager
    def send(self, request: Request) -> Generator[Response]:
        """Send to one transport after another until there is an answer."""
        opened = self._open(request)
        with opened.stack:
            yield opened.response

    def _open(self, request: Request) -> Opened:
        request = replace(request, retries=0)  # the next transport answers sooner than a wait
        *others, last = self._transports
        for position, transport in enumerate(others):
            try:
                opened = open_answer(transport.send, request)
            except TransportError as error:
                if not error.retryable:
                    raise
                _tell(request, position, transport, error=type(error).__name__)
            else:
                if not opened.failed:
                    return opened
                opened.close()
                _tell(request, position, transport, status=opened.response.status)
        return open_answer(last.send, request)


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
        try:
            yield opened.response
        except BaseException:
            if not await opened.sending.__aexit__(*sys.exc_info()):
                raise
        else:
            await opened.aclose()

    async def _open(self, request: Request) -> AsyncOpened:
        request = replace(request, retries=0)  # the next transport answers sooner than a wait
        *others, last = self._transports
        for position, transport in enumerate(others):
            try:
                opened = await open_answer_async(transport.send, request)
            except TransportError as error:
                if not error.retryable:
                    raise
                _tell(request, position, transport, error=type(error).__name__)
            else:
                if not opened.failed:
                    return opened
                await opened.aclose()
                _tell(request, position, transport, status=opened.response.status)
        return await open_answer_async(last.send, request)


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
