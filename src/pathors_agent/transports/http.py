"""Carry requests to an endpoint over HTTP.

httpx2 does the work; it is imported when a transport is constructed.
"""

from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from functools import partial
from http.cookiejar import CookieJar, DefaultCookiePolicy
from importlib.util import find_spec
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from pathors_agent.errors import InvalidSetting, TransportError
from pathors_agent.transports.asked_timeouts import (
    ask_before_reads,
    asked_timeouts,
    on_trace,
    on_trace_async,
)
from pathors_agent.transports.base import (
    AsyncResponse,
    AsyncTransport,
    Request,
    Response,
    Transport,
)
from pathors_agent.transports.endpoint import Endpoint
from pathors_agent.transports.exchange import (
    DEFAULT_TIMEOUTS,
    KEEP_ALIVE_SECONDS,
    Exchange,
    Timeouts,
)
from pathors_agent.transports.first_byte import PutBack
from pathors_agent.transports.loops import CLOSED, LoopClients
from pathors_agent.transports.network import Route
from pathors_agent.transports.retry import RETRIES, RetriedSending, Retries
from pathors_agent.wire.chat_completions import EndpointProfile

if TYPE_CHECKING:
    import httpx2


__all__ = ["AsyncHTTPTransport", "HTTPTransport", "Timeouts"]


class HTTPTransport(Transport):
    """A transport that posts to an OpenAI-compatible endpoint, for blocking code.

    `base_url` (or PATHORS_BASE_URL) is the address before "/chat/completions"; without it the
    project `project_id` (or PATHORS_PROJECT_ID) of the hosted service is called. `api_key` (or
    PATHORS_API_KEY) is the bearer token; "" sends none. A `client` is used as it is and left
    open; otherwise close the transport, or use it in a `with` statement.
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
        retries: int = RETRIES,
        client: "httpx2.Client | None" = None,
    ) -> None:
        import httpx2

        self._endpoint = Endpoint(
            base_url,
            api_key,
            project_id,
            timeouts,
            headers or {},
            session_header,
            is_own_client=client is None,
        )
        self.profile = self._endpoint.profile(profile, sends)
        self._retries = Retries(retries, adds_key=self._endpoint.stores_turns(self.profile))
        self.server_address = self._endpoint.server
        self._owns_client = client is None
        self._client = client or httpx2.Client(**_own_client_settings(self._endpoint.route))
        self._posting = _Posting(self._client, self._endpoint, on_trace)
        self._http_error = httpx2.HTTPError

    def __repr__(self) -> str:
        return f"HTTPTransport({self._endpoint.shown!r})"

    @contextmanager
    def send(self, request: Request) -> Generator[Response]:
        """Post the request, again if need be; the answer is closed when the `with` block ends."""
        if not self._retries.retries:
            with self._send_once(request) as response:
                yield response
            return
        opened = self._retries.open(self._send_once, request)
        with opened.stack:
            yield opened.response

    @contextmanager
    def _send_once(self, request: Request) -> Generator[Response]:
        exchange = self._endpoint.exchange(request)
        exchange.follow(request.cancellation)
        try:
            answer = self._open(request, exchange)
            pieces = self._pieces(answer, exchange)
            try:
                yield Response(**_head(self._endpoint, exchange, answer), pieces=pieces)
                self._drain(pieces, exchange)
            finally:
                exchange.let_go()
                answer.close()
        finally:
            exchange.let_go()

    def _open(self, request: Request, exchange: Exchange) -> "httpx2.Response":
        posted = self._posting.request(request, exchange)
        try:
            return self._client.send(posted, stream=True, follow_redirects=False)
        except self._http_error as error:
            raise exchange.failure(error, _KINDS) from exchange.cause(error)
        except RuntimeError:
            if not self._client.is_closed:
                raise
            raise TransportError(CLOSED, retryable=False) from None

    def _drain(self, pieces: Iterator[bytes], exchange: Exchange) -> None:
        """Read the last bytes that are on their way, so that the connection can serve again."""
        exchange.hurry()
        with suppress(TransportError):
            while exchange.may_drain and next(pieces, None) is not None:
                pass

    def _pieces(self, answer: "httpx2.Response", exchange: Exchange) -> Iterator[bytes]:
        try:
            for piece in _body(answer) or answer.iter_bytes():
                exchange.count(piece)
                yield exchange.masked(piece)
        except self._http_error as error:
            raise exchange.failure(error, _KINDS) from exchange.cause(error)

    def close(self) -> None:
        """Close the connections, unless they belong to a client that was passed in."""
        if self._owns_client:
            self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncHTTPTransport(AsyncTransport):
    """`HTTPTransport` for asyncio and trio; closed by `aclose` or `async with`."""

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
        retries: int = RETRIES,
        client: "httpx2.AsyncClient | None" = None,
    ) -> None:
        import httpx2

        self._endpoint = Endpoint(
            base_url,
            api_key,
            project_id,
            timeouts,
            headers or {},
            session_header,
            is_own_client=client is None,
        )
        self.profile = self._endpoint.profile(profile, sends)
        self._retries = Retries(retries, adds_key=self._endpoint.stores_turns(self.profile))
        self.server_address = self._endpoint.server
        settings = _own_client_settings(self._endpoint.route)
        self._clients: LoopClients[_LoopClient] = LoopClients(
            lambda: self._loop_client(httpx2.AsyncClient(**settings)),
            lambda held: held.client.aclose(),
            given=None if client is None else self._loop_client(client),
        )
        self._http_error = httpx2.HTTPError

    def _loop_client(self, client: "httpx2.AsyncClient") -> "_LoopClient":
        return _LoopClient(client, _Posting(client, self._endpoint, on_trace_async))

    def __repr__(self) -> str:
        return f"AsyncHTTPTransport({self._endpoint.shown!r})"

    def send(self, request: Request) -> AbstractAsyncContextManager[AsyncResponse]:
        """As `HTTPTransport.send`."""
        if self._retries.retries:
            return RetriedSending(self._retries, self._send_once, request)
        return self._send_once(request)

    def _send_once(self, request: Request) -> "_AsyncSending":
        return _AsyncSending(request, self)

    async def aclose(self) -> None:
        """Close the running loop's connections, unless they belong to a client passed in."""
        await self._clients.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class _AsyncSending(PutBack):
    """One request and its answer: the context manager of `send`, and the body's pieces.

    No generator: one that is left half read needs closing, and its frame weighs more than this.
    """

    __slots__ = ("_answer", "_exchange", "_held", "_put_back", "_request", "_source", "_transport")

    _exchange: Exchange
    _answer: "httpx2.Response"

    def __init__(self, request: Request, transport: AsyncHTTPTransport) -> None:
        self._request: Request | None = request
        self._transport = transport
        self._source: AsyncIterator[bytes] | None = None
        self._held: AsyncIterable[bytes] | None = None
        self._put_back = b""

    async def __aenter__(self) -> AsyncResponse:
        assert self._request  # entered once
        request, self._request = self._request, None
        held = await self._transport._clients.client()
        self._exchange = exchange = self._transport._endpoint.exchange(request)
        exchange.follow(request.cancellation)
        try:
            self._answer = await self._open(request, held)
            head = await self._head()
        except BaseException:
            exchange.let_go()
            raise
        return AsyncResponse(**head, pieces=self)

    async def _head(self) -> dict[str, Any]:
        try:
            return _head(self._transport._endpoint, self._exchange, self._answer)
        except TransportError:
            await self._answer.aclose()
            raise

    async def _open(self, request: Request, held: "_LoopClient") -> "httpx2.Response":
        exchange = self._exchange
        posted = held.posting.request(request, exchange)
        try:
            return await held.client.send(posted, stream=True, follow_redirects=False)
        except self._transport._http_error as error:
            raise exchange.failure(error, _KINDS) from exchange.cause(error)
        except RuntimeError as error:
            raise self._transport._clients.failure(error) from error

    def __aiter__(self) -> AsyncIterator[bytes]:
        if self._source is None:
            self._source = aiter(_body(self._answer) or self._unpacked())
        return self

    def _unpacked(self) -> AsyncIterator[bytes]:
        if not self._answer.is_stream_consumed:
            from pathors_agent.transports.packed_body import HeldStream

            assert not isinstance(self._answer.stream, Iterable)  # of an async client
            self._held = self._answer.stream = HeldStream(self._answer.stream)
        return self._answer.aiter_bytes()

    def put_back(self, piece: bytes) -> None:
        """Let this piece be the next one."""
        self._put_back = piece

    async def __anext__(self) -> bytes:
        if self._put_back:
            piece, self._put_back = self._put_back, b""
            return piece
        assert self._source  # made by __aiter__
        try:
            piece = await self._source.__anext__()
        except self._transport._http_error as error:
            raise self._exchange.failure(error, _KINDS) from self._exchange.cause(error)
        self._exchange.count(piece)
        return self._exchange.masked(piece)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                await self._drain()
        finally:
            self._exchange.let_go()
            await self._answer.aclose()
            await self._unwind()

    async def _drain(self) -> None:
        """As `HTTPTransport._drain`."""
        self._exchange.hurry()
        with suppress(TransportError):
            async for _ in self:
                if not self._exchange.may_drain:
                    break

    async def _unwind(self) -> None:
        """End the generators below, after the connection was closed, by reading on.

        httpx2 leaves the innermost one to the garbage collector when they are closed from
        outside, of which trio warns; an error from within ends them all.
        """
        self._exchange.close()
        for source in filter(None, [self._source, self._held]):
            with suppress(TransportError, self._transport._http_error):
                async for _ in source:
                    pass


def _body(answer: "httpx2.Response") -> Any:
    """Give the body as it comes where it needs no unpacking: two generators less for each piece."""
    is_plain = answer.headers.get("content-encoding", "identity") == "identity"
    return answer.stream if is_plain and not answer.is_stream_consumed else None


class _Posting:
    """Makes the HTTP requests of one client."""

    _sample: "httpx2.Request"

    def __init__(
        self,
        client: "httpx2.Client | httpx2.AsyncClient",
        endpoint: Endpoint,
        trace: Callable[[Exchange, str, dict[str, Any]], object],
    ) -> None:
        import httpx2

        self._client = client
        self._endpoint = endpoint
        self._trace = trace
        self._request, self._body = httpx2.Request, httpx2.ByteStream
        self._settings: tuple[object, ...] = ()  # of no client: the sample comes with a request

    def request(self, request: Request, exchange: Exchange) -> "httpx2.Request":
        """Make one; raise `TransportError` where it cannot be sent."""
        # The client's own making costs six times more than a copy, and is kept with the answer.
        sample = self._current_sample()
        headers = sample.headers.copy()
        _describe_body(headers, request)
        headers.update(self._endpoint.headers_beside(request))
        return self._request(
            request.method,
            self._endpoint.address(request, sample.url),
            headers=headers,
            stream=self._body(request.body),
            extensions={
                "timeout": asked_timeouts(exchange),
                "trace": partial(self._trace, exchange),
            },
        )

    def _current_sample(self) -> "httpx2.Request":
        """Give a request as the client makes them now: one of the caller's may change."""
        if self._client.cookies:
            return self._made_by_client()
        settings = self._settings_of_client()
        if settings != self._settings:
            self._sample, self._settings = self._made_by_client(), settings
        return self._sample

    def _settings_of_client(self) -> tuple[object, ...]:
        return self._client.headers.raw, self._client.params

    def _made_by_client(self) -> "httpx2.Request":
        return self._client.build_request(
            "POST", self._endpoint.url, content=b"", headers=self._endpoint.headers
        )


class _LoopClient(NamedTuple):
    """A client of one event loop, and what makes its requests."""

    client: "httpx2.AsyncClient"
    posting: _Posting


def _describe_body(headers: "httpx2.Headers", request: Request) -> None:
    if "Content-Length" in headers:
        headers["Content-Length"] = str(len(request.body))
    if not request.body:
        headers.pop("Content-Type", None)
        if request.method == "GET":  # its servers expect no body, not even an empty one
            headers.pop("Content-Length", None)


def _head(endpoint: Endpoint, exchange: Exchange, answer: "httpx2.Response") -> dict[str, Any]:
    """Take over an answer: its connection, and what it says before its body."""
    exchange.opened(answer.status_code, answer.headers)
    ask_before_reads(answer.extensions.get("network_stream"))
    return endpoint.head(answer.status_code, answer.headers)


# Errors of httpx2 by name: the kind of failure, or the limit that ran out.
_KINDS = {
    "ConnectTimeout": "connect",
    "PoolTimeout": "connect",
    "WriteTimeout": "between_bytes",
    "ReadTimeout": "wait",
    "ConnectError": "refused",
    "ProxyError": "proxy",
    "WriteError": "write",
    "ReadError": "read",
    "RemoteProtocolError": "format",
    "DecodingError": "packing",
    "LocalProtocolError": "request",
    "UnsupportedProtocol": "request",
    "HTTPError": "other",
}


def _proxy(route: Route) -> "httpx2.Proxy | None":
    import httpx2

    if route.proxy is None:
        return None
    if route.proxy.scheme.startswith("socks") and find_spec("socksio") is None:
        raise InvalidSetting(
            "The environment's proxy is a SOCKS proxy, which needs a package: "
            "pip install 'httpx2[socks]'."
        )
    tls = route.tls if route.proxy.scheme == "https" else None
    return httpx2.Proxy(route.proxy, ssl_context=tls)


def _own_client_settings(route: Route) -> dict[str, Any]:
    import httpx2

    return {
        # The route has read the environment.
        "trust_env": False,
        "verify": route.tls or False,
        "proxy": _proxy(route),
        # Answers are long: a bound here would make the next run wait for another's stream.
        "limits": httpx2.Limits(
            max_connections=None,
            max_keepalive_connections=20,
            keepalive_expiry=KEEP_ALIVE_SECONDS,
        ),
        # A cookie given to one conversation must not be sent with another's.
        "cookies": CookieJar(DefaultCookiePolicy(allowed_domains=[])),
    }
