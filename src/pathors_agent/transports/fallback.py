"""Send a request to the next endpoint when one fails: a transport around transports.

An endpoint has answered with the first byte of the body, as in `retry`.
"""

import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace

from pathors_agent.concurrency.lifetime import AsyncLifetime, Lifetime
from pathors_agent.errors import TransportError
from pathors_agent.telemetry.events import emit
from pathors_agent.transports.base import (
    AroundTransport,
    AsyncOpenedAnswer,
    AsyncResponse,
    AsyncTransport,
    OpenedAnswer,
    Request,
    Response,
    Transport,
    TransportT,
    check_inner,
    failure_fields,
    open_answer,
    open_answer_async,
)
from pathors_agent.wire.profiles import EndpointProfile, changed_settings


class _Fallback(AroundTransport[TransportT]):
    """The transports of a fallback, in the order in which they are tried."""

    def __init__(self, first: TransportT, second: TransportT, *more: TransportT) -> None:
        super().__init__(first)
        for transport in (second, *more):
            check_inner(transport, self)
            _check_profile(transport.profile, first.profile)
        self._given = self._transports = (first, second, *more)

    def _failed(
        self, request: Request, position: int, failure: TransportError | Response | AsyncResponse
    ) -> None:
        """Report that the next transport is tried; raise an error that is final."""
        if isinstance(failure, TransportError) and not failure.retryable:
            raise failure
        (request.on_event or emit)(
            "transport_fell_back",
            position=position,
            transport=type(self._transports[position]).__name__,
            **failure_fields(failure),
        )


class FallbackTransport(_Fallback[Transport], Transport, Lifetime):
    """Send requests through the first of several transports that answers.

    The next transport is tried after a `TransportError` with `retryable`, an answer 200 without a
    body, and the statuses 408, 409, 429 and 500 to 599. Any other error is raised, and any other
    answer returned, at once. The last transport's answer or error is the result. Every request
    begins with the first transport.

    Each transport sends a request once, even if it retries otherwise. To try each one several
    times, wrap each in a `RetryingTransport`; to try all of them again, wrap the fallback.

    All transports get the same bytes, including the name of the model. So their profiles must be
    equal, and their endpoints must know the model by the same name. A `with` block opens and
    closes the transports that are context managers; without one, close them yourself.
    """

    @contextmanager
    def send(self, request: Request) -> Generator[Response]:
        """Send to one transport after another until one answers."""
        opened = self._open(replace(request, retries=0))  # the next transport is faster than a wait
        with opened.stack:
            yield opened.response

    def _open(self, request: Request) -> OpenedAnswer:
        *others, last = self._transports
        for position, transport in enumerate(others):
            try:
                opened = open_answer(transport.send, request)
            except TransportError as error:
                self._failed(request, position, error)
            else:
                if not opened.failed:
                    return opened
                opened.close()
                self._failed(request, position, opened.response)
        return open_answer(last.send, request)


class AsyncFallbackTransport(_Fallback[AsyncTransport], AsyncTransport, AsyncLifetime):
    """`FallbackTransport` for asyncio and trio."""

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncGenerator[AsyncResponse]:
        """As `FallbackTransport.send`."""
        opened = await self._open(replace(request, retries=0))
        try:
            yield opened.response
        except BaseException:
            if not await opened.sending.__aexit__(*sys.exc_info()):
                raise
        else:
            await opened.aclose()

    async def _open(self, request: Request) -> AsyncOpenedAnswer:
        *others, last = self._transports
        for position, transport in enumerate(others):
            try:
                opened = await open_answer_async(transport.send, request)
            except TransportError as error:
                self._failed(request, position, error)
            else:
                if not opened.failed:
                    return opened
                await opened.aclose()
                self._failed(request, position, opened.response)
        return await open_answer_async(last.send, request)


def _check_profile(profile: EndpointProfile, first: EndpointProfile) -> None:
    if names := changed_settings(profile, first):
        raise ValueError(
            "A request is encoded once for all transports of a fallback, so their profiles must be "
            f"equal, but they differ in {', '.join(names)}; pass each the same profile=."
        )
