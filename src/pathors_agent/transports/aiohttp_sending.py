"""Send one request with aiohttp, and read its answer."""

import asyncio
import math
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from time import monotonic
from types import TracebackType

import aiohttp
from multidict import CIMultiDict, CIMultiDictProxy

from pathors_agent.errors import TransportError
from pathors_agent.transports.aiohttp_client import AiohttpClients
from pathors_agent.transports.base import AsyncResponse, Request
from pathors_agent.transports.endpoint import Endpoint
from pathors_agent.transports.exchange import Exchange
from pathors_agent.transports.first_byte import PutBack
from pathors_agent.transports.watch import Watch


class Sending(PutBack):
    """One request and its answer: the context manager of `send`, and the body's pieces.

    A read costs nothing but its clock: `Watch` looks now and then whether one waits too long.
    There is no generator, whose frame would be kept for each open stream.
    """

    __slots__ = (
        "_answer",
        "_clients",
        "_content",
        "_endpoint",
        "_exchange",
        "_is_late",
        "_put_back",
        "_request",
        "_waiting_since",
        "_watch",
    )

    _answer: aiohttp.ClientResponse
    _content: aiohttp.StreamReader
    _exchange: Exchange
    _watch: Watch

    def __init__(self, request: Request, endpoint: Endpoint, clients: AiohttpClients) -> None:
        self._request: Request | None = request
        self._endpoint = endpoint
        self._clients = clients
        self._waiting_since: float | None = None
        self._put_back = b""
        self._is_late = False

    # - the request -

    async def __aenter__(self) -> AsyncResponse:
        assert self._request  # entered once
        # Let go of the body when it is sent: it may hold megabytes.
        request, self._request = self._request, None
        self._exchange = exchange = self._endpoint.exchange(request)
        exchange.follow(request.cancellation)
        try:
            self._answer = await self._open(request)
        except BaseException:
            exchange.let_go()
            raise
        if (connection := self._answer.connection) is not None:
            exchange.connection = connection.transport
        self._content = self._answer.content
        headers = LowerNames(self._answer.headers)
        try:
            self._exchange.opened(self._answer.status, headers)
        except TransportError:
            exchange.let_go()
            self._answer.close()
            raise
        self._watch.begin(self)
        return AsyncResponse(**self._endpoint.head(self._answer.status, headers), pieces=self)

    async def _open(self, request: Request) -> aiohttp.ClientResponse:
        exchange = self._exchange
        client = await self._clients.running()
        self._watch = client.watch
        try:
            async with asyncio.timeout_at(exchange.whole_end) as limit:
                return await self._post(
                    client.session, request, Body(request.body, exchange, limit)
                )
        except aiohttp.ClientError as error:
            raise failure_of(exchange, error) from exchange.cause(error)
        except TimeoutError:
            raise exchange.timed_out() from None
        except RuntimeError as error:
            raise self._clients.failure(error) from exchange.cause(error)

    async def _post(
        self, client: aiohttp.ClientSession, request: Request, body: "Body"
    ) -> aiohttp.ClientResponse:
        headers = self._clients.headers.copy()
        headers.update(self._endpoint.headers_beside(request))
        if request.body:
            headers[aiohttp.hdrs.CONTENT_LENGTH] = str(len(request.body))
        else:
            body.leave_out(headers)
        # aiohttp would round a limit of more than 5 s up to a full second of its clock.
        connect = self._exchange.seconds_for("connect")
        return await client.request(
            request.method,
            self._clients.address(request),
            data=body if request.body else None,
            headers=headers,
            timeout=aiohttp.ClientTimeout(connect=connect, ceil_threshold=math.inf),
            allow_redirects=False,
            auto_decompress=True,
            raise_for_status=False,
        )

    # - its answer -

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    def put_back(self, piece: bytes) -> None:
        """Let this piece be the next one."""
        self._put_back = piece

    async def __anext__(self) -> bytes:
        if self._put_back:
            piece, self._put_back = self._put_back, b""
            return piece
        self._waiting_since = monotonic()
        try:
            piece = await self._content.readany()
        except (aiohttp.ClientError, RuntimeError) as error:
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
        return self._exchange.timed_out() if self._is_late else failure_of(self._exchange, error)

    @property
    def _has_data(self) -> bool:
        return self._content.total_bytes > self._exchange.received

    def look(self, now: float) -> float:
        """Break off an answer that is broken or whose time is over."""
        self._tell_of_a_broken_connection()
        is_waiting = self._waiting_since is not None and not self._has_data
        when = self._exchange.next_look(self._waiting_since if is_waiting else None, now)
        if when > now:
            return when
        self._is_late = True
        self._answer.close()
        return math.inf

    def _tell_of_a_broken_connection(self) -> None:
        """Wake a read that waits in vain: of a garbled chunk, aiohttp tells the connection alone."""
        connection = self._answer.connection
        if connection is None or connection.protocol is None or self._content.exception():
            return
        if error := connection.protocol.exception():
            failure = aiohttp.ClientPayloadError()
            failure.__cause__ = error
            self._content.set_exception(failure)

    # - its end -

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
            self._watch.end(self)
            self._exchange.let_go()
            self._exchange.close()
            self._answer.close()

    async def _drain(self) -> None:
        """Read the last bytes that are on their way, so that the connection can serve again."""
        self._exchange.hurry()
        self._watch.begin(self)
        with suppress(TransportError):
            async for _ in self:
                if not self._exchange.may_drain:
                    break


class Body:
    """A request's body; says how long each step may take when aiohttp comes to it."""

    def __init__(self, data: bytes, exchange: Exchange, limit: asyncio.Timeout) -> None:
        self._data = data
        self.exchange = exchange
        self._limit = limit

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        data, self._data = self._data, b""
        if not data:  # all is sent
            self._limit_to(self.exchange.read_end(monotonic()))
            raise StopAsyncIteration
        self._limit_to(self.exchange.write_end(monotonic()))
        return data

    def leave_out(self, headers: CIMultiDict[str]) -> None:
        """Send none; the connection, too, must then be there before the answer is due."""
        headers.pop("Content-Type", None)
        self._limit_to(self.exchange.read_end(monotonic()))

    def _limit_to(self, end: float) -> None:
        with suppress(RuntimeError):  # the answer was there before all was sent
            self._limit.reschedule(end)


class LowerNames(Mapping[str, str]):
    """Headers of aiohttp by their names in lower case, each once: made when somebody looks."""

    __slots__ = ("_headers",)

    def __init__(self, headers: CIMultiDictProxy[str]) -> None:
        self._headers = headers

    def __getitem__(self, name: str) -> str:
        return ", ".join(self._headers.getall(name))

    def __iter__(self) -> Iterator[str]:
        return iter({name.lower(): None for name in self._headers})

    def __len__(self) -> int:
        return len({name.lower() for name in self._headers})


def failure_of(exchange: Exchange, error: Exception) -> TransportError:
    """Tell an error of aiohttp in our words."""
    said = getattr(error, "os_error", None) or error.__cause__ or error
    is_packing = type(said).__name__ == "ContentEncodingError"
    kinds = {"ClientError": "packing"} if is_packing else _KINDS
    return exchange.failure(error, kinds, reason=_words(said))


def _words(error: BaseException) -> str:
    """Give an error's own words, without the request and answer that some quote whole."""
    message = getattr(error, "message", str(error))
    text = message if isinstance(message, str) else type(error).__name__
    if isinstance(error, aiohttp.ClientHttpProxyError):
        text = f"{error.status} {text}"
    return " ".join(text.split()).rstrip("^ ")


# Errors of aiohttp by name: the kind of failure, or the limit that ran out.
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
