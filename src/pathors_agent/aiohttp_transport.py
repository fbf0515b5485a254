"""Carry many requests at once to an endpoint over HTTP, on asyncio.

aiohttp does the work; it is imported when a transport is constructed.
"""

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from time import monotonic
from typing import TYPE_CHECKING, Literal, Self
from urllib.request import getproxies, proxy_bypass

from pathors_agent.chat_completions import EndpointProfile
from pathors_agent.endpoint import Endpoint, chosen_profile
from pathors_agent.errors import TransportError
from pathors_agent.exchange import (
    DEFAULT_TIMEOUTS,
    KEEP_ALIVE_SECONDS,
    Exchange,
    InvalidSetting,
    Timeouts,
)
from pathors_agent.transport import AsyncResponse, AsyncTransport, Request

if TYPE_CHECKING:
    import ssl

    import aiohttp
    import httpx2
    import yarl

# What httpx2 reads of a head; aiohttp's own 8 KB are less than some gateways' headers.
LONGEST_HEADER_BYTES = 100 * 1024
# A read may wait so long for a connection that broke unnoticed; limits of time are kept exactly.
LOOK_SECONDS = 1.0


class AiohttpTransport(AsyncTransport):
    """`AsyncHTTPTransport` for many streams at once: a fraction of its time per piece, on asyncio.

    Needs the extra `aiohttp`. A `client` is used as it is and left open; otherwise close the
    transport, or use it in an `async with` statement. It belongs to the event loop of its first
    request.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        project_id: str | None = None,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
        headers: Mapping[str, str] | None = None,
        session_header: str = "X-Session-ID",
        sends: Literal["history", "new_messages"] | None = None,
        profile: EndpointProfile | None = None,
        client: "aiohttp.ClientSession | None" = None,
    ) -> None:
        _require_aiohttp()
        self._endpoint = Endpoint(
            base_url, api_key, project_id, timeouts, headers or {}, session_header
        )
        self.profile = chosen_profile(profile, sends)
        self._url = _yarl_url(self._endpoint.url)
        self._is_closed = False
        self._client = client
        self._owns_client = client is None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tls = _tls(self._endpoint.url)
        self._proxy = _proxy(self._endpoint.url)

    def __repr__(self) -> str:
        return f"AiohttpTransport({self._endpoint.shown!r})"

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncGenerator[AsyncResponse]:
        """As `HTTPTransport.send`."""
        exchange = self._endpoint.exchange()
        answer = await self._open(request, exchange)
        try:
            headers = _joined(answer.headers)
            exchange.opened(answer.status, headers)
            with _Pieces(answer, exchange) as pieces:
                yield AsyncResponse(**self._endpoint.head(answer.status, headers), pieces=pieces)
                await pieces.drain()
        finally:
            answer.close()

    async def _open(self, request: Request, exchange: Exchange) -> "aiohttp.ClientResponse":
        import aiohttp

        client = self._running_client()
        headers = self._endpoint.headers_for(request)
        # aiohttp would round a limit of more than 5 s up to a full second of its clock.
        connect = aiohttp.ClientTimeout(
            connect=exchange.seconds_for("connect"), ceil_threshold=math.inf
        )
        headers["Content-Length"] = str(len(request.body))
        try:
            async with asyncio.timeout_at(exchange.whole_end) as limit:
                return await client.post(
                    self._url,
                    data=_Body(request.body, exchange, limit),
                    headers=headers,
                    timeout=connect,
                    allow_redirects=False,
                    auto_decompress=True,
                    raise_for_status=False,
                )
        except aiohttp.ClientError as error:
            raise _failure(exchange, error) from exchange.cause(error)
        except TimeoutError:
            raise exchange.timed_out() from None

    def _running_client(self) -> "aiohttp.ClientSession":
        loop = _running_loop()
        if self._is_closed:
            raise RuntimeError("The transport was closed.")
        if self._client is None:
            self._client, self._loop = self._make_client(), loop
        if self._loop not in (None, loop):
            raise RuntimeError(
                "The transport belongs to another event loop; make one for each loop."
            )
        return self._client

    def _make_client(self) -> "aiohttp.ClientSession":
        import aiohttp

        return aiohttp.ClientSession(
            # Answers are long: a bound here would make the next run wait for another's stream.
            connector=aiohttp.TCPConnector(
                limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS, ssl=self._tls
            ),
            # A cookie given to one conversation must not be sent with another's.
            cookie_jar=aiohttp.DummyCookieJar(),
            proxy=self._proxy,
            max_line_size=LONGEST_HEADER_BYTES,
            max_field_size=LONGEST_HEADER_BYTES,
        )

    async def aclose(self) -> None:
        """As `HTTPTransport.close`."""
        if self._owns_client:
            self._is_closed = True
            if self._client is not None:
                await self._client.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class _Body:
    """A request's body; says how long each step may take when aiohttp comes to it."""

    def __init__(self, data: bytes, exchange: Exchange, limit: asyncio.Timeout) -> None:
        self._data = data
        self._exchange = exchange
        self._limit = limit

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        data, self._data = self._data, b""
        if not data:  # all is sent
            self._limit_to(self._exchange.read_end(monotonic()))
            raise StopAsyncIteration
        self._limit_to(self._exchange.write_end(monotonic()))
        return data

    def _limit_to(self, end: float) -> None:
        with suppress(RuntimeError):  # the answer was there before all was sent
            self._limit.reschedule(end)


class _Pieces:
    """The body of an answer as it arrives, watched by one timer of the event loop.

    A read costs nothing but its clock: the timer looks now and then whether one waits too long.
    """

    __slots__ = (
        "_answer",
        "_content",
        "_errors",
        "_exchange",
        "_is_late",
        "_loop",
        "_read",
        "_timer",
        "_waiting_since",
    )

    def __init__(self, answer: "aiohttp.ClientResponse", exchange: Exchange) -> None:
        from aiohttp import ClientError

        self._answer = answer
        self._content = answer.content
        self._read = answer.content.readany
        self._exchange = exchange
        self._errors = (ClientError, RuntimeError)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._waiting_since: float | None = None
        self._is_late = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        self._waiting_since = monotonic()
        try:
            piece = await self._read()
        except self._errors as error:
            piece = self._take_rest()
            if not piece:
                raise self._failure(error) from self._exchange.cause(error)
        self._waiting_since = None
        if not piece:
            raise StopAsyncIteration
        self._exchange.count(piece)
        return self._exchange.masked(piece)

    def _take_rest(self) -> bytes:
        """Take what arrived before a failure and was not read yet; aiohttp keeps it back."""
        failure = self._content.exception()
        is_over = self._is_late or self._exchange.is_closed
        if is_over or failure is None or not self._has_data:
            return b""
        self._content.set_exception(None)  # type: ignore[arg-type]  # it does nothing but set it
        try:
            return self._content.read_nowait()
        finally:
            self._content.set_exception(failure)

    def _failure(self, error: Exception) -> TransportError:
        if self._exchange.is_closed:
            return self._exchange.closed()
        return self._exchange.timed_out() if self._is_late else _failure(self._exchange, error)

    @property
    def _has_data(self) -> bool:
        return self._content.total_bytes > self._exchange.received

    def __enter__(self) -> Self:
        self._look()
        return self

    def __exit__(self, *_: object) -> None:
        self._exchange.close()
        self._stop_looking()

    def _stop_looking(self) -> None:
        if self._timer:
            self._timer.cancel()

    def _look(self) -> None:
        """Break off an answer that is broken or whose time is over; else come again."""
        self._tell_of_a_broken_connection()
        now = monotonic()
        is_waiting = self._waiting_since is not None and not self._has_data
        when = self._exchange.next_look(self._waiting_since if is_waiting else None, now)
        if when <= now:
            self._is_late = True
            self._answer.close()
        else:
            self._timer = self._loop.call_at(min(when, now + LOOK_SECONDS), self._look)

    def _tell_of_a_broken_connection(self) -> None:
        """Wake a read that waits in vain: of a garbled chunk, aiohttp tells the connection alone."""
        connection = self._answer.connection
        if connection is None or connection.protocol is None or self._content.exception():
            return
        if error := connection.protocol.exception():
            from aiohttp import ClientPayloadError

            failure = ClientPayloadError()
            failure.__cause__ = error
            self._content.set_exception(failure)

    async def drain(self) -> None:
        """As `HTTPTransport._drain`."""
        if self._content.is_eof():
            return
        self._stop_looking()
        self._exchange.hurry()
        self._look()
        with suppress(TransportError):
            async for _ in self:
                if not self._exchange.may_drain:
                    break


def _require_aiohttp() -> None:
    try:
        import aiohttp  # noqa: F401  (only whether it is there)
    except ModuleNotFoundError as error:
        if error.name != "aiohttp":
            raise
        raise ModuleNotFoundError(
            "AiohttpTransport needs aiohttp: pip install 'pathors-agent[aiohttp]'", name="aiohttp"
        ) from None


def _running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            "AiohttpTransport runs on asyncio alone; use AsyncHTTPTransport on trio."
        ) from None


def _yarl_url(url: "httpx2.URL") -> "yarl.URL":
    import yarl

    return yarl.URL(str(url), encoded=True)


def _tls(url: "httpx2.URL") -> "ssl.SSLContext | Literal[True]":
    """Trust whom AsyncHTTPTransport trusts."""
    import httpx2

    return httpx2.create_ssl_context() if url.scheme == "https" else True


def _proxy(url: "httpx2.URL") -> str | None:
    """Find the environment's proxy for an address; aiohttp would look for it at each request."""
    proxies = getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(url.netloc.decode()):
        return None
    if "://" not in proxy:
        return f"http://{proxy}"
    if not proxy.startswith(("http://", "https://")):
        raise InvalidSetting(
            "The environment's proxy is no HTTP proxy: AiohttpTransport cannot use it; "
            "AsyncHTTPTransport can, with httpx2[socks]."
        )
    return proxy


def _joined(headers: Mapping[str, str]) -> dict[str, str]:
    """Give an answer's headers by their names in lower case, each once."""
    joined: dict[str, str] = {}
    for name, value in headers.items():
        key = name.lower()
        joined[key] = f"{joined[key]}, {value}" if key in joined else value
    return joined


def _failure(exchange: Exchange, error: Exception) -> TransportError:
    """Tell an error of aiohttp in our words."""
    said = getattr(error, "os_error", None) or error.__cause__ or error
    is_packing = type(said).__name__ == "ContentEncodingError"
    kinds = {"ClientError": "packing"} if is_packing else _KINDS
    return exchange.failure(error, kinds, reason=_words(said))


def _words(error: BaseException) -> str:
    """Give an error's own words, without the request and answer that some quote whole."""
    message = getattr(error, "message", str(error))
    text = message if isinstance(message, str) else type(error).__name__
    return " ".join(text.split()).rstrip("^ ")


# Errors of aiohttp by name: the kind of failure, or the limit that ran out.
_KINDS = {
    "ConnectionTimeoutError": "connect",
    "ClientProxyConnectionError": "proxy",
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
