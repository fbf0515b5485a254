"""Send a request again when its failure may be temporary.

One policy serves all transports over HTTP, and `RetryingTransport` around any other. An attempt
succeeds with the first byte of the body; a later failure is never retried, because the caller has
seen the beginning of the answer.
"""

import random
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import partial
from types import TracebackType
from typing import Any, Generic, TypeVar

from pathors_agent.concurrency.event_loops import Cancellation
from pathors_agent.concurrency.lifetime import AsyncLifetime, Lifetime
from pathors_agent.errors import InvalidSetting, ProviderError, TransportError
from pathors_agent.telemetry.events import emit
from pathors_agent.transports.base import (
    COMPLETIONS_PATH,
    AroundTransport,
    AsyncOpenedAnswer,
    AsyncResponse,
    AsyncSend,
    AsyncTransport,
    OpenedAnswer,
    Request,
    Response,
    Send,
    Transport,
    TransportT,
    failure_fields,
    open_answer,
    open_answer_async,
)
from pathors_agent.wire.provider_errors import MAX_ERROR_BODY_BYTES, decode_error

# As OpenAI's own clients.
RETRIES = 2
# With waits of up to 0.5, 1 and 2 s between them: long enough for a server to restart.
ATTEMPTS = 4
FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 8.0
# Most limits of providers are per minute; a longer wait means a limit per day.
LONGEST_RETRY_AFTER_SECONDS = 60.0

_OK = 200
_CONFLICT = 409
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]*)?")

OpenedT = TypeVar("OpenedT", OpenedAnswer, AsyncOpenedAnswer)
SleepT = TypeVar("SleepT")

Sleep = Callable[[float], None]
AsyncSleep = Callable[[float], Awaitable[None]]


class _Retrying(AroundTransport[TransportT], Generic[TransportT, SleepT]):
    """The settings of a transport that retries requests around another transport."""

    def __init__(
        self,
        transport: TransportT,
        *,
        attempts: int = ATTEMPTS,
        max_retry_after: float = LONGEST_RETRY_AFTER_SECONDS,
        sleep: SleepT | None = None,
        clock: Callable[[], float] = time.time,
        seed: int | None = None,
    ) -> None:
        if type(attempts) is not int or attempts < 1:
            raise InvalidSetting(f"attempts must be a whole number from 1, not {attempts!r}.")
        super().__init__(transport)
        self._sleep = sleep
        self._policy = RetryPolicy(
            attempts - 1, is_around=True, max_retry_after=max_retry_after, clock=clock, seed=seed
        )


class RetryingTransport(_Retrying[Transport, Sleep], Transport, Lifetime):
    """Send requests through `transport`, up to `attempts` times each.

    Use it for transports of your own, and around a `FallbackTransport`. The transports over HTTP
    retry by themselves, except inside a `RetryingTransport`.

    A request is sent again after a `TransportError` with `retryable`, an answer 200 without a
    body, and the statuses 408, 409, 429 and 500 to 599. The waits are random and grow. A wait is
    at least as long as `Retry-After` asks; if a server asks for more than `max_retry_after`
    seconds, the request is not sent again. No wait exceeds the time that the request may take. The
    answer or error of the last attempt is returned or raised.

    A `with` block opens and closes the transport inside. All attempts carry the same
    `Idempotency-Key`, so that a server that supports the header stores a turn once.
    `sleep`, `clock` (seconds since 1970) and `seed` are for tests.
    """

    @contextmanager
    def send(self, request: Request) -> Generator[Response]:
        """Send the request until an attempt succeeds or the failure is final."""
        opened = self._policy.open(self._transport.send, request, self._sleep)
        with opened.stack:
            yield opened.response


class AsyncRetryingTransport(_Retrying[AsyncTransport, AsyncSleep], AsyncTransport, AsyncLifetime):
    """`RetryingTransport` for asyncio and trio; `sleep` is awaited."""

    def send(self, request: Request) -> AbstractAsyncContextManager[AsyncResponse]:
        """As `RetryingTransport.send`."""
        return RetriedAnswer(self._policy, self._transport.send, request, self._sleep)


class RetryPolicy:
    """How often a request is sent again, and after which waits.

    With `retries=0` nothing is retried. With `adds_key` all attempts carry one idempotency key,
    for endpoints that would store a turn twice. With `is_around` the policy belongs to a transport
    around another one: it ignores `Request.retries`, and leaves broken connections to the
    transport inside.
    """

    def __init__(
        self,
        retries: int,
        *,
        adds_key: bool = True,
        is_around: bool = False,
        max_retry_after: float = LONGEST_RETRY_AFTER_SECONDS,
        clock: Callable[[], float] = time.time,
        seed: int | None = None,
    ) -> None:
        if type(retries) is not int or retries < 0:
            raise InvalidSetting(f"retries must be a whole number from 0, not {retries!r}.")
        self.retries = retries
        self.is_around = is_around
        self.max_retry_after = max_retry_after
        self.clock = clock
        self.random = random.Random(seed)  # noqa: S311  (spreads clients out; protects nothing)
        self._adds_key = adds_key

    def limit(self, request: Request) -> int:
        """Return how often the request may be sent again after a wait."""
        if self.is_around or request.retries is None:
            return self.retries
        return min(self.retries, request.retries)

    def prepared(self, request: Request) -> Request:
        """Return the request as each attempt sends it."""
        changes: dict[str, Any] = {}
        if self._adds_key and not _has_idempotency_key(request.headers):
            changes["headers"] = {**request.headers, "Idempotency-Key": str(uuid.uuid4())}
        if self.is_around:
            changes["retries"] = 0  # otherwise the transport inside would multiply the attempts
        return replace(request, **changes) if changes else request

    def open(self, send: Send, request: Request, sleep: Sleep | None = None) -> OpenedAnswer:
        """Send a request until an attempt succeeds or the failure is final."""
        attempts = _Attempts(self, request)
        while True:
            try:
                opened = open_answer(send, attempts.next_request())
            except TransportError as error:
                seconds = attempts.wait_after(error)
                if seconds is None:
                    raise
            else:
                seconds = attempts.wait_after(opened)
                if seconds is None:
                    return attempts.counted(opened)
                opened.close()
            (sleep or attempts.cancellation.sleep)(seconds)

    async def open_async(
        self, send: AsyncSend, request: Request, sleep: AsyncSleep | None = None
    ) -> AsyncOpenedAnswer:
        """As `open`."""
        attempts = _Attempts(self, request)
        while True:
            try:
                opened = await open_answer_async(send, attempts.next_request())
            except TransportError as error:
                seconds = attempts.wait_after(error)
                if seconds is None:
                    raise
            else:
                seconds = attempts.wait_after(opened)
                if seconds is None:
                    return attempts.counted(opened)
                await opened.aclose()
            await (sleep or attempts.cancellation.sleep_async)(seconds)


class RetriedAnswer:
    """The answer to a request that may be sent several times: an async context manager."""

    __slots__ = ("_open", "_sending")

    _sending: AbstractAsyncContextManager[AsyncResponse]

    def __init__(
        self,
        policy: RetryPolicy,
        send: AsyncSend,
        request: Request,
        sleep: AsyncSleep | None = None,
    ) -> None:
        self._open: Callable[[], Awaitable[AsyncOpenedAnswer]] | None
        self._open = partial(policy.open_async, send, request, sleep)

    async def __aenter__(self) -> AsyncResponse:
        assert self._open  # entered once
        # An open stream must not keep its request, whose body may have megabytes.
        open_, self._open = self._open, None
        opened = await open_()
        self._sending = opened.sending
        return opened.response

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return await self._sending.__aexit__(kind, error, traceback)


Outcome = OpenedAnswer | AsyncOpenedAnswer | TransportError


class _Attempts:
    """The attempts at one request: how many there were, and whether another one follows."""

    __slots__ = ("_end", "_limit", "_policy", "_request", "_sent", "_waits", "_was_resent")

    def __init__(self, policy: RetryPolicy, request: Request) -> None:
        self._policy = policy
        self._limit = policy.limit(request)
        self._end = None if request.seconds is None else time.monotonic() + request.seconds
        self._request = policy.prepared(request)
        self._sent = 0
        self._waits = 0
        self._was_resent = False

    @property
    def cancellation(self) -> Cancellation:
        """The cancellation that ends the waits."""
        return self._request.cancellation or Cancellation()

    def next_request(self) -> Request:
        """Return the request for the next attempt, with the time that is left."""
        self._sent += 1
        if self._end is None or self._sent == 1:
            return self._request
        return replace(self._request, seconds=self._end - time.monotonic())

    def wait_after(self, outcome: Outcome) -> float | None:
        """Return the seconds to wait before the next attempt, or None if this one was the last.

        Counts and reports the retry. An error that is final gets the number of attempts.
        """
        if self._may_pass(outcome):
            is_resent = self._is_resent_at_once(outcome)
            seconds = 0.0 if is_resent else self._wait(outcome)
            has_time = self._end is None or time.monotonic() + seconds < self._end
            if has_time and (is_resent or self._waits < self._limit):
                self._report(outcome, seconds)
                self._was_resent |= is_resent
                self._waits += not is_resent
                return seconds
        if isinstance(outcome, TransportError) and self._sent > 1:
            outcome.attempts = self._sent
            outcome.args = (f"{outcome} The request was sent {self._sent} times.",)
        return None

    def counted(self, opened: OpenedT) -> OpenedT:
        """Return the answer with the number of attempts in its response."""
        if self._sent == 1:
            return opened
        return replace(opened, response=replace(opened.response, attempts=self._sent))

    def _may_pass(self, outcome: Outcome) -> bool:
        """Return True if another attempt may succeed."""
        if self._request.cancellation is not None and self._request.cancellation.is_set:
            return False
        if isinstance(outcome, TransportError):
            may_pass = outcome.retryable
        else:
            may_pass = self._answer_may_pass(outcome)
        return may_pass and self._asked(outcome) <= self._policy.max_retry_after

    def _answer_may_pass(self, opened: OpenedAnswer | AsyncOpenedAnswer) -> bool:
        response, is_completion = opened.response, self._request.path == COMPLETIONS_PATH
        if response.status == _OK:
            return opened.is_empty and is_completion  # other operations may return nothing
        advice = response.headers.get("x-should-retry", "").lower()
        if advice in ("true", "false"):
            return advice == "true"
        # Concurrent turns of one session are a temporary conflict; other conflicts are permanent.
        is_final = response.status == _CONFLICT and not is_completion
        return opened.failed and not is_final

    def _asked(self, outcome: Outcome) -> float:
        """Return how many seconds the server asks to wait."""
        if isinstance(outcome, TransportError):
            return (isinstance(outcome, ProviderError) and outcome.retry_after) or 0.0
        return retry_after(outcome.response.headers, now=self._policy.clock())

    def _is_resent_at_once(self, outcome: Outcome) -> bool:
        """Return True for the first failure of a connection that the server closed while idle.

        The server has not begun to answer, and a new connection will work: no wait is needed, and
        no retry is used up.
        """
        was_idle = isinstance(outcome, TransportError) and outcome.was_idle
        return was_idle and not self._was_resent and not self._policy.is_around

    def _wait(self, outcome: Outcome) -> float:
        # Full jitter: clients that failed together must not return together.
        width = min(FIRST_WAIT_SECONDS * 2**self._waits, LONGEST_WAIT_SECONDS)
        return max(self._policy.random.uniform(0, width), self._asked(outcome))

    def _report(self, outcome: Outcome, seconds: float) -> None:
        failure = outcome if isinstance(outcome, TransportError) else outcome.response
        (self._request.on_event or emit)(
            "request_retried",
            attempt=self._sent,
            **failure_fields(failure),
            seconds=round(seconds, 3),
        )


def retry_after(headers: Mapping[str, str], *, now: float) -> float:
    """Return how many seconds a server asks to wait; 0 without a readable header.

    `headers` have lower-case names; `now` is in seconds since 1970.
    """
    milliseconds = headers.get("retry-after-ms", "").strip()
    if _NUMBER.fullmatch(milliseconds):
        return float(milliseconds) / 1000
    text = headers.get("retry-after", "").strip()
    if _NUMBER.fullmatch(text):
        return float(text)
    return max(0.0, _http_date(text, otherwise=now) - now)


def refusal(response: Response | AsyncResponse, body: bytes) -> ProviderError:
    """Return the error for an answer with an error status; its body is quoted within bounds."""
    wait = retry_after(response.headers, now=time.time()) or None
    body = body[:MAX_ERROR_BODY_BYTES]
    return decode_error(response.status, body, retry_after=wait, attempts=response.attempts)


def _http_date(text: str, *, otherwise: float) -> float:
    try:
        date = parsedate_to_datetime(text)
        return date.replace(tzinfo=date.tzinfo or UTC).timestamp()
    except (ValueError, OverflowError):
        return otherwise


def _has_idempotency_key(headers: Mapping[str, str]) -> bool:
    return any(name.lower() == "idempotency-key" for name in headers)
