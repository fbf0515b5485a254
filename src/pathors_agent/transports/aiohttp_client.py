"""Send requests with aiohttp, and read their answers."""

import asyncio
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from time import monotonic
from types import TracebackType
from typing import Any, NamedTuple

import aiohttp
import yarl
from aiohttp.abc import AbstractStreamWriter
from aiohttp.connector import Connection
from multidict import CIMultiDict, CIMultiDictProxy, istr

from pathors_agent.concurrency.event_loops import in_trio_task
from pathors_agent.errors import InvalidSetting, TransportError
from pathors_agent.transports.base import AsyncResponse, Request
from pathors_agent.transports.connections import (
    LoopClients,
    Route,
    check_client,
    client_of_another_loop,
)
from pathors_agent.transports.endpoint import AsyncAnswer, Endpoint
from pathors_agent.transports.exchange import KEEP_ALIVE_SECONDS, Exchange

# The limit of httpx2; aiohttp's own 8 KB are too little for some gateways.
LONGEST_HEADER_BYTES = 100 * 1024

# Packings that aiohttp reads, one at a time, if it does not raise an error of its own.
_READABLE = ("br", "zstd")

# A read may wait this long for a connection that broke unnoticed; time limits are kept exactly.
CHECK_SECONDS = 1.0

# aiohttp's errors by name: the kind of failure, or the limit that was reached.
_KINDS = {
    "ConnectionTimeoutError": "connect",
    "ClientProxyConnectionError": "no proxy",
    "ClientHttpProxyError": "proxy",
    "ClientConnectorError": "refused",
    "ClientConnectionResetError": "write",
    "ClientOSError": "read",
    "ServerDisconnectedError": "format",
    "ClientPayloadError": "format",
    "ClientResponseError": "format",
    "ClientError": "other",
    "RuntimeError": "other",  # a read began after the connection broke
}


# - clients -


class AiohttpClients:
    """The clients of a transport, one for each event loop, with the address and the headers."""

    def __init__(self, given: aiohttp.ClientSession | None, endpoint: Endpoint) -> None:
        check_client(given, aiohttp.ClientSession)
        self.endpoint = endpoint
        self._url = yarl.URL(str(endpoint.url), encoded=True)
        # aiohttp keeps a request's headers while its answer is open; copies share the strings.
        self.headers = CIMultiDict((istr(n), value) for n, value in endpoint.headers.items())
        self._proxy = _checked_proxy(endpoint.route)
        self._clients: LoopClients[_AiohttpLoopClient] = LoopClients(
            self._make,
            _close,
            given=None if given is None else _AiohttpLoopClient(given, _Watchdog()),
        )

    def send(self, request: Request) -> "AiohttpAnswer":
        """Send a request once."""
        return AiohttpAnswer(request, self)

    async def running(self) -> "_AiohttpLoopClient":
        """Return the running loop's client. Raises `TransportError` if it cannot have one."""
        if in_trio_task():
            raise TransportError(
                "AiohttpTransport runs on asyncio alone; use AsyncHTTPTransport on trio.",
                retryable=False,
            )
        client = await self._clients.client()
        if self._clients.given_has_moved:
            raise client_of_another_loop()
        return client

    def failure(self, error: RuntimeError) -> TransportError:
        """Return the error for a RuntimeError of aiohttp, such as a closed client."""
        return self._clients.failure(error)

    def address(self, request: Request) -> yarl.URL:
        """Return the address of a request. Raises `TransportError` if it cannot be sent."""
        address = self.endpoint.address(request, self.endpoint.url)
        is_usual = address is self.endpoint.url
        return self._url if is_usual else yarl.URL(str(address), encoded=True)

    def _make(self) -> "_AiohttpLoopClient":
        session = aiohttp.ClientSession(
            # Answers are long: with a limit the next run would wait for the stream of another one.
            connector=_Connector(
                limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS, ssl=self.endpoint.route.tls or True
            ),
            # A cookie from one conversation must not be sent with another one.
            cookie_jar=aiohttp.DummyCookieJar(),
            proxy=self._proxy,
            max_line_size=LONGEST_HEADER_BYTES,
            max_field_size=LONGEST_HEADER_BYTES,
        )
        return _AiohttpLoopClient(session, _Watchdog())

    async def aclose(self) -> None:
        """Close the running loop's client, unless it belongs to the caller."""
        await self._clients.aclose()


class _AiohttpLoopClient(NamedTuple):
    """The client of one event loop, and the watchdog of its answers."""

    session: aiohttp.ClientSession
    watchdog: "_Watchdog"


async def _close(client: _AiohttpLoopClient) -> None:
    await client.session.close()


class _Connector(aiohttp.TCPConnector):
    """Records on an exchange whether its connection has served another request before."""

    async def connect(self, req: Any, *args: Any, **kwargs: Any) -> Connection:
        connection = await super().connect(req, *args, **kwargs)
        exchange = _exchange_of(req)
        if exchange is not None and exchange.reuse == "unknown":
            exchange.reuse = "kept"
        return connection

    async def _create_connection(self, req: Any, *args: Any, **kwargs: Any) -> Any:
        exchange = _exchange_of(req)
        if exchange is not None:
            exchange.reuse = "new"
        return await super()._create_connection(req, *args, **kwargs)


def _exchange_of(request: Any) -> Exchange | None:
    """Return the exchange of aiohttp's request, which its body carries."""
    body = getattr(request, "body", None)
    return body.exchange if isinstance(body, _Body) else None


def _checked_proxy(route: Route) -> str | None:
    if route.proxy is None:
        return None
    if route.proxy.scheme not in ("http", "https"):
        raise InvalidSetting(
            "The environment's proxy is not an HTTP proxy: AiohttpTransport cannot use it; "
            "AsyncHTTPTransport can, with httpx2[socks]."
        )
    return str(route.proxy)


# - answers -


class AiohttpAnswer(AsyncAnswer):
    """An answer that is read with aiohttp.

    A read costs no more than a look at the clock: a watchdog checks now and then whether it waits
    too long.
    """

    __slots__ = ("_answer", "_clients", "_content", "_is_late", "_waiting_since", "_watchdog")

    _answer: aiohttp.ClientResponse
    _content: aiohttp.StreamReader
    _watchdog: "_Watchdog"

    def __init__(self, request: Request, clients: AiohttpClients) -> None:
        super().__init__(request)
        self._clients = clients
        self._waiting_since: float | None = None
        self._is_late = False

    def _begin(self, request: Request) -> Exchange:
        return self._clients.endpoint.exchange(request)

    async def _open(self, request: Request) -> AsyncResponse:
        self._answer = answer = await self._send(request)
        if (connection := answer.connection) is not None:
            self._exchange.connection = connection.transport
        self._content = answer.content
        headers = LowerCaseHeaders(answer.headers)
        try:
            packing = headers.get("content-encoding", "identity").lower()
            readable = () if "," in packing else _READABLE
            self._exchange.check_packing(packing, answer.status, readable=readable)
            self._exchange.begin_answer(answer.status, headers)
        except TransportError:
            answer.close()
            raise
        self._watchdog.begin(self)
        return AsyncResponse(**self._clients.endpoint.head(answer.status, headers), pieces=self)

    async def _send(self, request: Request) -> aiohttp.ClientResponse:
        exchange = self._exchange
        client = await self._clients.running()
        self._watchdog = client.watchdog
        try:
            async with asyncio.timeout_at(exchange.whole_end) as limit:
                return await self._post(client.session, request, limit)
        except aiohttp.ClientError as error:
            raise _failure(exchange, error) from exchange.cause(error)
        except TimeoutError:
            raise exchange.timed_out() from None
        except RuntimeError as error:
            raise self._clients.failure(error) from exchange.cause(error)

    async def _post(
        self, client: aiohttp.ClientSession, request: Request, limit: asyncio.Timeout
    ) -> aiohttp.ClientResponse:
        headers = self._clients.headers.copy()
        headers.update(self._clients.endpoint.request_headers(request))
        body = _Body(request.body, self._exchange, limit) if request.body else None
        if body is None:
            headers.pop(aiohttp.hdrs.CONTENT_TYPE, None)
            # Nothing tells when all is sent: the limit of the answer includes connecting.
            limit.reschedule(self._exchange.read_end(monotonic()))
        # Without `ceil_threshold` aiohttp rounds a limit of more than 5 s up to a full second.
        connect = self._exchange.seconds_for("connect")
        return await client.request(
            request.method,
            self._clients.address(request),
            data=body,
            headers=headers,
            timeout=aiohttp.ClientTimeout(connect=connect, ceil_threshold=math.inf),
            allow_redirects=False,
            auto_decompress=True,
            raise_for_status=False,
        )

    async def __anext__(self) -> bytes:
        if self._pushed_back:
            piece, self._pushed_back = self._pushed_back, b""
            return piece
        exchange = self._exchange
        self._waiting_since = now = monotonic()
        if now >= exchange.whole_end:
            raise exchange.closed() if exchange.is_closed else exchange.timed_out("whole")
        try:
            piece = await self._content.readany()
        except (aiohttp.ClientError, RuntimeError) as error:
            piece = self._take_rest()
            if not piece:
                raise self._read_failure(error) from exchange.cause(error)
        self._waiting_since = None
        if not piece:
            raise StopAsyncIteration
        exchange.received += len(piece)
        return exchange.masked(piece) if exchange.is_error else piece

    def _take_rest(self) -> bytes:
        """Return the bytes that arrived before a failure: aiohttp would hold them back."""
        failure = self._content.exception()
        is_over = self._is_late or self._exchange.is_closed
        if is_over or failure is None or not self._has_data:
            return b""
        self._content.set_exception(None)  # type: ignore[arg-type]  # it does nothing but set it
        try:
            return self._content.read_nowait()
        finally:
            self._content.set_exception(failure)

    def _read_failure(self, error: Exception) -> TransportError:
        if self._exchange.is_closed:
            return self._exchange.closed()
        return self._exchange.timed_out() if self._is_late else _failure(self._exchange, error)

    @property
    def _has_data(self) -> bool:
        return self._content.total_bytes > self._exchange.received

    def check(self, now: float) -> float:
        """Abort the answer if its connection broke or its time is over; return the next check."""
        self._wake_read_of_broken_connection()
        is_waiting = self._waiting_since is not None and not self._has_data
        when = self._exchange.next_check(self._waiting_since if is_waiting else None, now)
        if when > now:
            return when
        self._is_late = True
        self._answer.close()
        return math.inf

    def _wake_read_of_broken_connection(self) -> None:
        """Fail a read that would wait in vain: aiohttp reports bad chunks to the connection only."""
        connection = self._answer.connection
        if connection is None or connection.protocol is None or self._content.exception():
            return
        if error := connection.protocol.exception():
            failure = aiohttp.ClientPayloadError()
            failure.__cause__ = error
            self._content.set_exception(failure)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None and not self._content.is_eof():
                await self._drain()
        finally:
            self._watchdog.end(self)
            self._exchange.release()
            self._exchange.close()
            self._answer.close()

    async def _drain(self) -> None:
        self._exchange.hurry()
        self._watchdog.begin(self)
        await super()._drain()


class _Watchdog:
    """Checks open answers now and then, with one timer for all answers of an event loop."""

    def __init__(self) -> None:
        self._answers: set[AiohttpAnswer] = set()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, answer: AiohttpAnswer) -> None:
        """Check an answer now and from now on, also if its deadline has become earlier."""
        self._answers.add(answer)
        self._check_at(answer.check(monotonic()))

    def end(self, answer: AiohttpAnswer) -> None:
        """Stop checking an answer."""
        self._answers.discard(answer)

    def _check_at(self, when: float) -> None:
        when = min(when, monotonic() + CHECK_SECONDS)
        if self._timer is None or when < self._timer.when():
            if self._timer:
                self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_at(when, self._check)

    def _check(self) -> None:
        self._timer = None
        now = monotonic()
        if times := [answer.check(now) for answer in self._answers]:
            self._check_at(min(times))


class _Body(aiohttp.Payload):
    """A request's body, which sets the deadline of each step when aiohttp reaches it."""

    _autoclose = True  # it has nothing to close
    _value: bytes

    def __init__(self, data: bytes, exchange: Exchange, limit: asyncio.Timeout) -> None:
        super().__init__(data)
        self._size = len(data)
        self._limit = limit
        self.exchange = exchange

    async def write_with_length(self, writer: AbstractStreamWriter, _: int | None) -> None:
        """Write the body."""
        self._reschedule(self.exchange.write_end(monotonic()))
        await writer.write(self._value)
        self._value = b""  # an open stream must not keep it
        self._reschedule(self.exchange.read_end(monotonic()))

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Write the body."""
        await self.write_with_length(writer, None)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Return the body as text."""
        return self._value.decode(encoding, errors)

    def _reschedule(self, end: float) -> None:
        with suppress(RuntimeError):  # the answer arrived before all was sent
            self._limit.reschedule(end)


class LowerCaseHeaders(Mapping[str, str]):
    """aiohttp's headers by lower-case names, converted when they are read."""

    __slots__ = ("_headers",)

    def __init__(self, headers: CIMultiDictProxy[str]) -> None:
        self._headers = headers

    def __getitem__(self, name: str) -> str:
        return ", ".join(self._headers.getall(name))

    def __iter__(self) -> Iterator[str]:
        return iter({name.lower(): None for name in self._headers})

    def __len__(self) -> int:
        return len({name.lower() for name in self._headers})


# - failures -


def _failure(exchange: Exchange, error: Exception) -> TransportError:
    """Return the `TransportError` for an error of aiohttp."""
    cause = getattr(error, "os_error", None) or error.__cause__ or error
    names = {type(each).__name__ for each in (cause, cause.__cause__)}
    is_packing = "ContentEncodingError" in names
    kinds = {"ClientError": "packing"} if is_packing else _KINDS
    return exchange.failure(error, kinds, reason=_text(cause))


def _text(error: BaseException) -> str:
    """Return an error's own text, without the request and answer that some errors quote."""
    message = getattr(error, "message", str(error))
    text = message if isinstance(message, str) else type(error).__name__
    if isinstance(error, aiohttp.ClientHttpProxyError):
        text = f"{error.status} {text}"
    return " ".join(text.split()).rstrip("^ ")
