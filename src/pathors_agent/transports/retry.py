"""Send a request again while its failure may pass.

One policy for all transports over HTTP, and for `RetryingTransport` around any other. An answer
counts from the first byte of its body; what fails after that is never sent again, for the caller
has seen the beginning. tenacity runs the attempts after the first.
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
from typing import TYPE_CHECKING, Any, TypeVar

from pathors_agent.concurrency.cancellation import Cancellation
from pathors_agent.concurrency.lifetime import AsyncLifetime, Lifetime
from pathors_agent.errors import InvalidSetting, ProviderError, TransportError
from pathors_agent.telemetry.events import emit
from pathors_agent.transports.base import (
    COMPLETIONS_PATH,
    AsyncResponse,
    AsyncTransport,
    Request,
    Response,
    Transport,
)
from pathors_agent.transports.first_byte import (
    AsyncOpened,
    AsyncSend,
    Opened,
    Send,
    open_answer,
    open_answer_async,
)

if TYPE_CHECKING:
    from tenacity import RetryCallState

# As OpenAI's own clients.
RETRIES = 2
# Waits of up to 0.5, 1 and 2 s between them: long enough for a server to restart.
ATTEMPTS = 4
FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 8.0
# A provider's limits are per minute; one that asks for more has a limit per day.
LONGEST_RETRY_AFTER_SECONDS = 60.0

_OK = 200
_CONFLICT = 409
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]*)?")

OpenedT = TypeVar("OpenedT", Opened, AsyncOpened)


class RetryingTransport(Transport, Lifetime):
    """Send requests through `transport`, up to `attempts` times each.

    For transports of your own, and around a `FallbackTransport`: those over HTTP retry by
    themselves, and leave it to this one inside of it.

    Sent again: after a `TransportError` that may pass, an answer 200 without a body, and the
    statuses 408, 409, 429 and 500 to 599. The waits are random and grow; they are at least what
    `Retry-After` asks, and a server that asks for more than `max_retry_after` seconds is not asked
    again. No wait goes beyond the time that the request may take. The last attempt's answer or
    error is returned or raised.

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
        sleep: Callable[[float], None] | None = None,
        clock: Callable[[], float] = time.time,
        seed: int | None = None,
    ) -> None:
        self._given = (transport,)
        self._transport = transport
        self.profile = transport.profile
        self.server_address = transport.server_address
        self._sleep = sleep
        self._retries = Retries(
            _retries(attempts),
            is_around=True,
            max_retry_after=max_retry_after,
            clock=clock,
            seed=seed,
        )

    @contextmanager
    def send(self, request: Request) -> Generator[Response]:
        """Send until there is an answer, or no hope of one."""
        opened = self._retries.open(self._transport.send, request, self._sleep)
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
        self._given = (transport,)
        self._transport = transport
        self.profile = transport.profile
        self.server_address = transport.server_address
        self._sleep = sleep
        self._retries = Retries(
            _retries(attempts),
            is_around=True,
            max_retry_after=max_retry_after,
            clock=clock,
            seed=seed,
        )

    def send(self, request: Request) -> AbstractAsyncContextManager[AsyncResponse]:
        """As `RetryingTransport.send`."""
        return RetriedSending(self._retries, self._transport.send, request, self._sleep)


def _retries(attempts: int) -> int:
    if attempts < 1:
        raise InvalidSetting(f"attempts must be at least 1, not {attempts}.")
    return attempts - 1


class Retries:
    """How often a request is sent again, and after which wait.

    0 switches retries off. `adds_key`: all attempts carry one idempotency key, for endpoints that
    would store a turn twice. `is_around`: the policy of a transport around another, which does not
    heed `Request.retries`, and leaves connections to the one inside.
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
        if retries < 0:
            raise InvalidSetting(f"retries must be 0 or more, not {retries}.")
        self.retries = retries
        self.adds_key = adds_key
        self.is_around = is_around
        self.max_retry_after = max_retry_after
        self.clock = clock
        # tenacity's own random wait takes no seed.
        self.random = random.Random(seed)  # noqa: S311  (spreads clients out; guards nothing)

    def limit(self, request: Request) -> int:
        """Return how often the request may be sent again after a wait."""
        if self.is_around or request.retries is None:
            return self.retries
        return min(self.retries, request.retries)

    def marked(self, request: Request) -> Request:
        """Return the request as each attempt sends it."""
        changes: dict[str, Any] = {}
        if self.adds_key and not _has_idempotency_key(request.headers):
            changes["headers"] = {**request.headers, "Idempotency-Key": str(uuid.uuid4())}
        if self.is_around:
            # The transport inside does not retry: attempts of attempts would multiply.
            changes["retries"] = 0
        return replace(request, **changes) if changes else request

    def open(
        self, send: Send, request: Request, sleep: Callable[[float], None] | None = None
    ) -> Opened:
        """Send a request until there is an answer, or no hope of one."""
        request, start = self.marked(request), time.monotonic()
        first: Opened | TransportError
        try:
            first = open_answer(send, request)
            attempts = _Attempts(self, request, start)
            if not attempts.may_pass(first):
                return first
        except TransportError as error:
            attempts = _Attempts(self, request, start)
            if not attempts.may_pass(error):
                raise
            first = error

        from tenacity import Retrying

        outcomes = [first]  # tenacity's first attempt was made
        del first  # a local variable would keep an error, its traceback and this frame alive

        def attempt() -> Opened:
            if outcomes:
                return _result(outcomes.pop())
            return open_answer(send, attempts.next_request())

        retrying = Retrying(
            sleep=sleep or (request.cancellation or Cancellation()).sleep,
            before_sleep=attempts.close_and_note,
            **attempts.settings(),
        )
        with attempts.counted():
            opened = retrying(attempt)
        return attempts.mark(opened)

    async def open_async(
        self,
        send: AsyncSend,
        request: Request,
        sleep: Callable[[float], Awaitable[None]] | None = None,
    ) -> AsyncOpened:
        """As `open`."""
        request, start = self.marked(request), time.monotonic()
        first: AsyncOpened | TransportError
        try:
            first = await open_answer_async(send, request)
            attempts = _Attempts(self, request, start)
            if not attempts.may_pass(first):
                return first
        except TransportError as error:
            attempts = _Attempts(self, request, start)
            if not attempts.may_pass(error):
                raise
            first = error

        from tenacity import AsyncRetrying

        outcomes = [first]
        del first

        async def attempt() -> AsyncOpened:
            if outcomes:
                return _result(outcomes.pop())
            return await open_answer_async(send, attempts.next_request())

        retrying = AsyncRetrying(
            sleep=sleep or (request.cancellation or Cancellation()).sleep_async,
            before_sleep=attempts.close_and_note_async,
            **attempts.settings(),
        )
        with attempts.counted():
            opened: AsyncOpened = await retrying(attempt)
        return attempts.mark(opened)


class RetriedSending:
    """A request that is sent again as needed: the async context manager of `send`."""

    __slots__ = ("_how", "_sending")

    _sending: AbstractAsyncContextManager[AsyncResponse]

    def __init__(
        self,
        retries: Retries,
        send: AsyncSend,
        request: Request,
        sleep: Callable[[float], Awaitable[None]] | None = None,
    ) -> None:
        self._how: Callable[[], Awaitable[AsyncOpened]] | None
        self._how = partial(retries.open_async, send, request, sleep)

    async def __aenter__(self) -> AsyncResponse:
        assert self._how  # entered once
        # An open stream holds on to nothing of its request: the body may have megabytes.
        how, self._how = self._how, None
        opened = await how()
        self._sending = opened.sending
        return opened.response

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return await self._sending.__aexit__(kind, error, traceback)


Outcome = Opened | AsyncOpened | BaseException


class _Attempts:
    """The attempts at one request: how many there were, and whether another follows."""

    __slots__ = ("_end", "_limit", "_request", "_retries", "_sent", "_waits", "_was_resent")

    def __init__(self, retries: Retries, request: Request, start: float) -> None:
        self._retries = retries
        self._limit = retries.limit(request)
        self._end = None if request.seconds is None else start + request.seconds
        self._request = request
        self._sent = 1
        self._waits = 0
        self._was_resent = False

    def next_request(self) -> Request:
        """Return the request for another attempt, with the time that is left."""
        self._sent += 1
        if self._end is None:
            return self._request
        return replace(self._request, seconds=self._end - time.monotonic())

    def settings(self) -> dict[str, Any]:
        """Return tenacity's settings."""
        return {
            "stop": self._stop,
            "wait": self._wait,
            "retry": lambda state: self.may_pass(_outcome(state)),
            "retry_error_callback": _last_result,
        }

    def may_pass(self, outcome: Outcome) -> bool:
        """Return True if another attempt may bring an answer."""
        if self._request.cancellation is not None and self._request.cancellation.is_set:
            return False
        if isinstance(outcome, TransportError):
            may_pass = outcome.retryable
        elif isinstance(outcome, BaseException):
            return False
        else:
            may_pass = self._answer_may_pass(outcome)
        return may_pass and self._asked(outcome) <= self._retries.max_retry_after

    def _answer_may_pass(self, opened: Opened | AsyncOpened) -> bool:
        response, is_completion = opened.response, self._request.path == COMPLETIONS_PATH
        if response.status == _OK:
            return opened.is_empty and is_completion  # other operations may answer with nothing
        said = response.headers.get("x-should-retry", "").lower()
        if said in ("true", "false"):
            return said == "true"
        # Two turns can be in each other's way; other conflicts stay.
        is_final = response.status == _CONFLICT and not is_completion
        return opened.failed and not is_final

    def _asked(self, outcome: Outcome) -> float:
        """Return how many seconds the server asks to wait."""
        if isinstance(outcome, BaseException):
            return (isinstance(outcome, ProviderError) and outcome.retry_after) or 0.0
        return retry_after(outcome.response.headers, now=self._retries.clock())

    def _is_resent_at_once(self, outcome: Outcome) -> bool:
        """Return True for the first connection that was closed while it was idle.

        The server did not begin to answer, and a new connection will do: no wait, and no retry
        spent.
        """
        was_idle = isinstance(outcome, TransportError) and outcome.was_idle
        return was_idle and not self._was_resent and not self._retries.is_around

    def _wait(self, state: "RetryCallState") -> float:
        outcome = _outcome(state)
        if self._is_resent_at_once(outcome):
            return 0.0
        # The full width is random, so that clients that failed together do not return together.
        width = min(FIRST_WAIT_SECONDS * 2**self._waits, LONGEST_WAIT_SECONDS)
        return max(self._retries.random.uniform(0, width), self._asked(outcome))

    def _stop(self, state: "RetryCallState") -> bool:
        if self._end is not None and time.monotonic() + state.upcoming_sleep >= self._end:
            return True
        return self._waits >= self._limit and not self._is_resent_at_once(_outcome(state))

    def close_and_note(self, state: "RetryCallState") -> None:
        """Release the failed attempt's connection, and report the retry."""
        outcome = _outcome(state)
        if isinstance(outcome, Opened):
            outcome.close()
        self._note(outcome, state.upcoming_sleep)

    async def close_and_note_async(self, state: "RetryCallState") -> None:
        """As `close_and_note`."""
        outcome = _outcome(state)
        if isinstance(outcome, AsyncOpened):
            await outcome.aclose()
        self._note(outcome, state.upcoming_sleep)

    def _note(self, outcome: Outcome, seconds: float) -> None:
        error = outcome if isinstance(outcome, BaseException) else None
        (self._request.tell or emit)(
            "request_retried",
            attempt=self._sent,
            status=outcome.response.status if not isinstance(outcome, BaseException) else None,
            error=None if error is None else type(error).__name__,
            seconds=round(seconds, 3),
        )
        if self._is_resent_at_once(outcome):
            self._was_resent = True
        else:
            self._waits += 1

    def mark(self, opened: OpenedT) -> OpenedT:
        """Return the answer with the number of attempts in its response."""
        return replace(opened, response=replace(opened.response, attempts=self._sent))

    @contextmanager
    def counted(self) -> Generator[None]:
        """Add the number of attempts to an error."""
        try:
            yield
        except TransportError as error:
            error.attempts = self._sent
            if self._sent > 1:
                error.args = (f"{error} The request was sent {self._sent} times.",)
            raise


def _outcome(state: "RetryCallState") -> Outcome:
    assert state.outcome is not None  # tenacity asks only after an attempt
    error = state.outcome.exception()
    outcome: Outcome = state.outcome.result() if error is None else error
    return outcome


def _last_result(state: "RetryCallState") -> object:
    assert state.outcome is not None  # as above
    return state.outcome.result()


def _result(outcome: OpenedT | BaseException) -> OpenedT:
    """Return what an attempt returned, or raise what it raised."""
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def retry_after(headers: Mapping[str, str], *, now: float) -> float:
    """Read how many seconds a server asks to wait; 0 without a readable header.

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


def _has_idempotency_key(headers: Mapping[str, str]) -> bool:
    return any(name.lower() == "idempotency-key" for name in headers)
