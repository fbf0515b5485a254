"""Send requests with httpx2, and read their answers.

httpcore2 looks up the read timeout once for a whole body, so that it can neither differ between
the first piece and the rest nor shrink towards the deadline of the exchange. So connections are
patched to ask the exchange before each read.
"""

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.cookiejar import CookieJar, DefaultCookiePolicy
from importlib.util import find_spec
from types import TracebackType
from typing import Any, NamedTuple, Self

import httpx2

from pathors_agent.errors import InvalidSetting, TransportError
from pathors_agent.transports.base import AsyncResponse, Request, Response
from pathors_agent.transports.connections import CLOSED, LoopClients, Route, check_client
from pathors_agent.transports.endpoint import AsyncAnswer, Endpoint
from pathors_agent.transports.exchange import KEEP_ALIVE_SECONDS, Exchange

# Eleven days: sockets reject infinity.
NEVER_SECONDS = 1e6

# Events of httpcore2: a connection was opened; a request is written to one.
_CONNECTED = (".connect_tcp.complete", ".connect_unix_socket.complete", ".start_tls.complete")
_WRITTEN = ".send_request_headers.started"

# httpx2's errors by name: the kind of failure, or the limit that was reached.
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
    "OSError": "other",  # of a transport of the caller's client
}
_FAILURES = (httpx2.HTTPError, OSError)

# - blocking -


class HTTPXClient:
    """A blocking client: the caller's, or one of our own."""

    def __init__(self, given: httpx2.Client | None, endpoint: Endpoint) -> None:
        check_client(given, httpx2.Client)
        self._endpoint = endpoint
        self._is_own = given is None
        self._client = given or httpx2.Client(**_own_client_settings(endpoint.route))
        self._requests = _RequestFactory(self._client, endpoint, _on_trace)

    @contextmanager
    def send(self, request: Request) -> Generator[Response]:
        """Send a request once."""
        exchange = self._endpoint.exchange(request)
        exchange.follow(request.cancellation)
        try:
            answer = self._open(request, exchange)
            pieces = _pieces(answer, exchange)
            try:
                yield Response(**_head(self._endpoint, exchange, answer), pieces=pieces)
                _drain(pieces, exchange)
            finally:
                exchange.release()
                answer.close()
        finally:
            exchange.release()

    def _open(self, request: Request, exchange: Exchange) -> httpx2.Response:
        posted = self._requests.build(request, exchange)
        try:
            return self._client.send(posted, stream=True, follow_redirects=False)
        except httpx2.HTTPStatusError as error:
            return _raised_answer(error)
        except _FAILURES as error:
            raise exchange.failure(error, _KINDS) from exchange.cause(error)
        except RuntimeError:
            if not self._client.is_closed:
                raise
            raise TransportError(CLOSED, retryable=False) from None

    def close(self) -> None:
        """Close the client, unless it belongs to the caller."""
        if self._is_own:
            self._client.close()


def _pieces(answer: httpx2.Response, exchange: Exchange) -> Iterator[bytes]:
    try:
        for piece in _plain_body(answer, exchange) or answer.iter_bytes():
            yield exchange.take(piece)
    except _FAILURES as error:
        raise exchange.failure(error, _KINDS) from exchange.cause(error)


def _drain(pieces: Iterator[bytes], exchange: Exchange) -> None:
    """Read the last bytes that are on their way, so that the connection can be reused."""
    exchange.hurry()
    with suppress(TransportError):
        while exchange.may_drain and next(pieces, None) is not None:
            pass


# - async -


class AsyncHTTPXClients:
    """The clients of an async transport, one for each event loop."""

    def __init__(self, given: httpx2.AsyncClient | None, endpoint: Endpoint) -> None:
        check_client(given, httpx2.AsyncClient)
        self.endpoint = endpoint
        settings = _own_client_settings(endpoint.route) if given is None else {}
        self.loops: LoopClients[_HTTPXLoopClient] = LoopClients(
            lambda: self._loop_client(httpx2.AsyncClient(**settings)),
            lambda loop_client: loop_client.client.aclose(),
            given=None if given is None else self._loop_client(given),
        )

    def _loop_client(self, client: httpx2.AsyncClient) -> "_HTTPXLoopClient":
        return _HTTPXLoopClient(client, _RequestFactory(client, self.endpoint, _on_trace_async))

    def send(self, request: Request) -> "_AsyncHTTPXAnswer":
        """Send a request once."""
        return _AsyncHTTPXAnswer(request, self)

    async def aclose(self) -> None:
        """Close the running loop's client, unless it belongs to the caller."""
        await self.loops.aclose()


class _HTTPXLoopClient(NamedTuple):
    """The client of one event loop, and the factory of its requests."""

    client: httpx2.AsyncClient
    requests: "_RequestFactory"


class _AsyncHTTPXAnswer(AsyncAnswer):
    """An answer that is read with httpx2."""

    __slots__ = ("_answer", "_clients", "_source", "_unpacked")

    _answer: httpx2.Response

    def __init__(self, request: Request, clients: AsyncHTTPXClients) -> None:
        super().__init__(request)
        self._clients = clients
        self._source: AsyncIterator[bytes] | None = None
        self._unpacked: AsyncIterable[bytes] | None = None

    def _begin(self, request: Request) -> Exchange:
        return self._clients.endpoint.exchange(request)

    async def _open(self, request: Request) -> AsyncResponse:
        loop_client = await self._clients.loops.client()
        self._answer = await self._post(loop_client, request)
        try:
            head = _head(self._clients.endpoint, self._exchange, self._answer)
        except TransportError:
            await self._answer.aclose()
            raise
        return AsyncResponse(**head, pieces=self)

    async def _post(self, loop_client: _HTTPXLoopClient, request: Request) -> httpx2.Response:
        exchange = self._exchange
        posted = loop_client.requests.build(request, exchange)
        try:
            return await loop_client.client.send(posted, stream=True, follow_redirects=False)
        except httpx2.HTTPStatusError as error:
            return _raised_answer(error)
        except _FAILURES as error:
            raise exchange.failure(error, _KINDS) from exchange.cause(error)
        except RuntimeError as error:
            raise self._clients.loops.failure(error) from error

    def __aiter__(self) -> AsyncIterator[bytes]:
        if self._source is None:
            self._source = aiter(_plain_body(self._answer, self._exchange) or self._unpack())
        return self

    def _unpack(self) -> AsyncIterator[bytes]:
        if not self._answer.is_stream_consumed:
            assert isinstance(self._answer.stream, httpx2.AsyncByteStream)  # of an async client
            self._unpacked = self._answer.stream = _ResumableStream(self._answer.stream)
        return self._answer.aiter_bytes()

    async def __anext__(self) -> bytes:
        if self._pushed_back:
            piece, self._pushed_back = self._pushed_back, b""
            return piece
        assert self._source  # set by __aiter__
        try:
            piece = await self._source.__anext__()
        except _FAILURES as error:
            raise self._exchange.failure(error, _KINDS) from self._exchange.cause(error)
        return self._exchange.take(piece)

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
            self._exchange.release()
            await self._answer.aclose()
            await self._unwind()

    async def _unwind(self) -> None:
        """End httpx2's generators by reading on after the connection was closed.

        When they are closed from outside, the innermost generator is left to the garbage
        collector, and trio warns about it. An error from within ends all of them.
        """
        self._exchange.close()
        for source in filter(None, [self._source, self._unpacked]):
            with suppress(TransportError, httpx2.HTTPError):
                async for _ in source:
                    pass


class _ResumableStream(httpx2.AsyncByteStream):
    """The source of a compressed body, which can be read to its end after its reader failed.

    httpx2 decompresses in a generator around other generators. When decompression fails, the
    innermost generator is left to the garbage collector, and trio warns about it.
    """

    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream
        self._pieces = aiter(stream)

    def __aiter__(self) -> Self:
        return self  # not a generator, which its reader would close

    def __anext__(self) -> Awaitable[bytes]:
        return self._pieces.__anext__()

    async def aclose(self) -> None:
        """Close the stream."""
        await self._stream.aclose()


# - both -


def _plain_body(answer: httpx2.Response, exchange: Exchange) -> Any:
    """Return the body as it arrives, or None if it must be decompressed.

    This avoids two generators for each piece.
    """
    packing = answer.headers.get("content-encoding", "identity").lower()
    is_plain = packing == "identity"
    asked_for = "" if is_plain else answer.request.headers.get("accept-encoding", "")
    exchange.check_packing(packing, answer.status_code, readable=asked_for)
    return answer.stream if is_plain and not answer.is_stream_consumed else None


def _head(endpoint: Endpoint, exchange: Exchange, answer: httpx2.Response) -> dict[str, Any]:
    """Take over the connection of an answer; return the fields of the `Response`."""
    exchange.begin_answer(answer.status_code, answer.headers)
    _ask_before_reads(answer.extensions.get("network_stream"))
    return endpoint.head(answer.status_code, answer.headers)


def _raised_answer(error: httpx2.HTTPStatusError) -> httpx2.Response:
    """Return the answer whose status a hook of the caller's client has raised.

    It has as much of the body as the hook read: httpx2 closes the answer of a hook that raises.
    """
    answer, body = error.response, b""
    with suppress(httpx2.ResponseNotRead):
        body = answer.content
    headers = answer.headers.copy()
    for name in ("content-encoding", "content-length", "transfer-encoding"):
        headers.pop(name, None)
    return httpx2.Response(
        answer.status_code, headers=headers, content=body, request=answer.request
    )


class _RequestFactory:
    """Builds the HTTP requests of one client."""

    _sample: httpx2.Request

    def __init__(
        self,
        client: httpx2.Client | httpx2.AsyncClient,
        endpoint: Endpoint,
        trace: Callable[[Exchange, str, dict[str, Any]], object],
    ) -> None:
        self._client = client
        self._endpoint = endpoint
        self._trace = trace
        self._settings: tuple[object, ...] = ()  # equal to no client's, so the sample is built

    def build(self, request: Request, exchange: Exchange) -> httpx2.Request:
        """Return the HTTP request. Raises `TransportError` if it cannot be sent."""
        # A copy costs a sixth of `build_request`, whose result the answer would keep, too.
        sample = self._current_sample()
        headers = sample.headers.copy()
        _describe_body(headers, request)
        headers.update(self._endpoint.request_headers(request))
        return httpx2.Request(
            request.method,
            self._endpoint.address(request, sample.url),
            headers=headers,
            stream=httpx2.ByteStream(request.body),
            extensions={"timeout": _timeouts(exchange), "trace": partial(self._trace, exchange)},
        )

    def _current_sample(self) -> httpx2.Request:
        """Return a request with the client's present settings: the caller may change a client."""
        if self._client.cookies:
            return self._build_sample()
        settings = self._client.headers.raw, self._client.params
        if settings != self._settings:
            self._sample, self._settings = self._build_sample(), settings
        return self._sample

    def _build_sample(self) -> httpx2.Request:
        return self._client.build_request(
            "POST", self._endpoint.url, content=b"", headers=self._endpoint.headers
        )


def _describe_body(headers: httpx2.Headers, request: Request) -> None:
    if "Content-Length" in headers:
        headers["Content-Length"] = str(len(request.body))
    if not request.body:
        headers.pop("Content-Type", None)
        if request.method == "GET":  # servers expect no body at all, not an empty one
            headers.pop("Content-Length", None)


def _own_client_settings(route: Route) -> dict[str, Any]:
    return {
        "trust_env": False,  # the route has read the environment
        "verify": route.tls or False,
        "proxy": _proxy(route),
        # Answers are long: with a limit the next run would wait for the stream of another one.
        "limits": httpx2.Limits(
            max_connections=None, max_keepalive_connections=20, keepalive_expiry=KEEP_ALIVE_SECONDS
        ),
        # A cookie from one conversation must not be sent with another one.
        "cookies": CookieJar(DefaultCookiePolicy(allowed_domains=[])),
    }


def _proxy(route: Route) -> httpx2.Proxy | None:
    if route.proxy is None:
        return None
    if route.proxy.scheme.startswith("socks") and find_spec("socksio") is None:
        raise InvalidSetting(
            "The environment's proxy is a SOCKS proxy, which needs a package: "
            "pip install 'httpx2[socks]'."
        )
    tls = route.tls if route.proxy.scheme == "https" else None
    return httpx2.Proxy(route.proxy, ssl_context=tls)


# - timeouts that change between reads -


def _timeouts(exchange: Exchange) -> dict[str, float | None]:
    """Return the limits of an exchange in the form that httpx2 expects."""
    connect = exchange.seconds_for("connect")
    read = _ReadTimeout(exchange.seconds_for("first_byte") or NEVER_SECONDS)
    read.exchange = exchange
    write = exchange.seconds_for("between_bytes")
    return {"connect": connect, "pool": connect, "write": write, "read": read}


def _on_trace(exchange: Exchange, event: str, info: dict[str, Any]) -> None:
    """Patch a new connection before anything is read from it; recognise a kept one."""
    if event.endswith(_CONNECTED):
        exchange.reuse = "new"
        _ask_before_reads(info["return_value"])
    elif event.endswith(_WRITTEN) and exchange.reuse == "unknown":
        exchange.reuse = "kept"


async def _on_trace_async(exchange: Exchange, event: str, info: dict[str, Any]) -> None:
    """As `_on_trace`."""
    _on_trace(exchange, event, info)


def _ask_before_reads(stream: Any) -> None:
    """Patch a connection; None is the connection of a test client."""
    if stream is not None and not isinstance(stream.read, _AskingRead):
        stream.read = _AskingRead(stream)


class _ReadTimeout(float):
    """A read timeout that patched connections look up before each read; a number to others."""

    __slots__ = ("exchange",)

    exchange: Exchange


class _AskingRead:
    """The `read` of a patched connection."""

    __slots__ = ("_read", "_stream")

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._read: Callable[..., Any] = stream.read

    def __call__(self, max_bytes: int, timeout: float | None = None) -> Any:
        if isinstance(timeout, _ReadTimeout):
            exchange = timeout.exchange
            exchange.connection = self._stream
            timeout = exchange.seconds_left()
        return self._read(max_bytes, timeout)
