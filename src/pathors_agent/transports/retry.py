"""Send a request again while its failure may pass: a transport around a transport.

An answer counts from the first byte of its body; what fails after that is never sent again, for
the caller has seen the beginning. tenacity decides when to stop; it is imported when a transport
is constructed.
"""

import random
import re
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from pathors_agent.cancellation import Cancellation
from pathors_agent.errors import ProviderError, TransportError
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

if TYPE_CHECKING:
    from tenacity import RetryCallState

# Waits of up to 0.5, 1 and 2 s between them: a server's restart, and nobody's patience.
ATTEMPTS = 4
FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 8.0
# A provider's limits are per minute; one that asks for more has a limit per day.
LONGEST_RETRY_AFTER_SECONDS = 60.0

_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]*)?")


class RetryingTransport(Transport, Lifetime):
    """Send requests through `transport`, up to `attempts` times each.

    Sent again: after a `TransportError` that may pass, an answer 200 without a body, and the
    statuses of overload and trouble (408, 409, 429, 500, 502, 503, 504, 529). The waits are
    random and grow; they are at least what `Retry-After` asks, and a server that asks for more
    than `max_retry_after` seconds is not asked again. What the last attempt gave is given.

    A `with` block around its use opens and closes the transport inside. All attempts carry one
    `Idempotency-Key`, so that a server that knows it stores a turn once.
    `sleep`, `clock` (seconds since 1970) and `seed` are there for tests.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        attempts: int = ATTEMPTS,
        max_retry_after: float = LONGEST_RETRY_AFTER_SECONDS,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.time,
        seed: int | None = None,
    ) -> None:
        from tenacity import Retrying

        self._given = (transport,)
        self._transport = transport
        self.profile = transport.profile
        self.server_address = transport.server_address
        self._policy = _Policy(attempts, max_retry_after, clock, seed)
        self._retrying = Retrying
        self._sleep = sleep

    @contextmanager
    def send(self, request: Request) -> Generator[Response]:
        """Send until there is an answer, or no hope of one."""
        sleep = self._sleep
        if sleep is time.sleep and request.cancellation is not None:
            sleep = request.cancellation.sleep
        retrying = self._retrying(sleep=sleep, before_sleep=_give_up, **self._policy.settings())
        opened: Opened = retrying(open_answer, self._transport, _with_idempotency_key(request))
        with opened.stack:
            yield opened.response


class AsyncRetryingTransport(AsyncTransport, AsyncLifetime):
    """`RetryingTransport` for asyncio and trio; `sleep` is awaited."""

    def __init__(
        self,
        transport: AsyncTransport,
        *,
        attempts: int = ATTEMPTS,
        max_retry_after: float = LONGEST_RETRY_AFTER_SECONDS,
        sleep: Callable[[float], Awaitable[None]] | None = None,
        clock: Callable[[], float] = time.time,
        seed: int | None = None,
    ) -> None:
        from tenacity import AsyncRetrying

        self._given = (transport,)
        self._transport = transport
        self.profile = transport.profile
        self.server_address = transport.server_address
        self._policy = _Policy(attempts, max_retry_after, clock, seed)
        self._retrying = AsyncRetrying
        self._sleep = sleep

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncGenerator[AsyncResponse]:
        """As `RetryingTransport.send`."""
        sleep = self._sleep
        if sleep is None:
            cancellation = request.cancellation or Cancellation()
            sleep = cancellation.sleep_async
        retrying = self._retrying(
            sleep=sleep, before_sleep=_give_up_async, **self._policy.settings()
        )
        opened: AsyncOpened = await retrying(
            open_answer_async, self._transport, _with_idempotency_key(request)
        )
        async with opened.stack:
            yield opened.response


class _Policy:
    """Whether to try again, and after how long."""

    def __init__(
        self, attempts: int, max_retry_after: float, clock: Callable[[], float], seed: int | None
    ) -> None:
        from tenacity import stop_after_attempt, wait_exponential

        self._stop = stop_after_attempt(attempts)
        self._widening = wait_exponential(multiplier=FIRST_WAIT_SECONDS, max=LONGEST_WAIT_SECONDS)
        self._max_retry_after = max_retry_after
        self._clock = clock
        # tenacity's own random wait takes no seed.
        self._random = random.Random(seed)  # noqa: S311  (spreads clients out; guards nothing)

    def settings(self) -> dict[str, Any]:
        """Give tenacity's settings; it keeps state per object, so that each request has its own."""
        return {
            "stop": self._stop,
            "wait": self._wait,
            "retry": self._should_retry,
            "retry_error_callback": _outcome,
        }

    def _should_retry(self, state: "RetryCallState") -> bool:
        return _may_pass(state) and self._asked(state) <= self._max_retry_after

    def _wait(self, state: "RetryCallState") -> float:
        # The full width is random, so that clients that failed together do not return together.
        return max(self._random.uniform(0, self._widening(state)), self._asked(state))

    def _asked(self, state: "RetryCallState") -> float:
        """Give the seconds that the server asks us to wait."""
        error = _error(state)
        if error is not None:
            return (isinstance(error, ProviderError) and error.retry_after) or 0.0
        return retry_after(_outcome(state).response.headers, now=self._clock())


def retry_after(headers: Mapping[str, str], *, now: float) -> float:
    """Read how many seconds a server asks to wait; 0 where it does not ask, or unreadably.

    `headers` have lower-case names; `now` is in seconds since 1970.
    """
    milliseconds = headers.get("retry-after-ms", "").strip()
    if _NUMBER.fullmatch(milliseconds):
        return float(milliseconds) / 1000
    text = headers.get("retry-after", "").strip()
    if _NUMBER.fullmatch(text):
        return float(text)
    return max(0.0, _http_date(text, otherwise=now) - now)


def _http_date(text: str, *, otherwise: float) -> float:
    try:
        date = parsedate_to_datetime(text)
        return date.replace(tzinfo=date.tzinfo or UTC).timestamp()
    except (ValueError, OverflowError):
        return otherwise


def _may_pass(state: "RetryCallState") -> bool:
    error = _error(state)
    if error is not None:
        return isinstance(error, TransportError) and error.retryable
    opened = _outcome(state)
    if opened.response.headers.get("x-should-retry", "").lower() == "false":
        return False
    return bool(opened.failed)


def _error(state: "RetryCallState") -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _outcome(state: "RetryCallState") -> Any:
    """Give what the attempt gave, or raise what it raised."""
    assert state.outcome is not None  # tenacity asks only after an attempt
    return state.outcome.result()


def _give_up(state: "RetryCallState") -> None:
    """Release the failed attempt's connection, and tell of the next."""
    if _error(state) is None:
        _outcome(state).stack.close()
    _tell(state)


async def _give_up_async(state: "RetryCallState") -> None:
    if _error(state) is None:
        await _outcome(state).stack.aclose()
    _tell(state)


def _tell(state: "RetryCallState") -> None:
    error = _error(state)
    _, request = state.args
    (request.tell or emit)(
        "request_retried",
        attempt=state.attempt_number,
        status=_outcome(state).response.status if error is None else None,
        error=None if error is None else type(error).__name__,
        seconds=round(state.upcoming_sleep, 3),
    )


def _with_idempotency_key(request: Request) -> Request:
    if any(name.lower() == "idempotency-key" for name in request.headers):
        return request
    return replace(request, headers={**request.headers, "Idempotency-Key": str(uuid.uuid4())})
