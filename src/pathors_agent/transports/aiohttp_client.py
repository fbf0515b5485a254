"""Open the clients of AiohttpTransport: one for each event loop."""

from typing import Any, NamedTuple

import aiohttp
import yarl
from aiohttp.connector import Connection
from multidict import CIMultiDict, istr

from pathors_agent.concurrency.event_loops import in_trio_task
from pathors_agent.errors import InvalidSetting, TransportError
from pathors_agent.transports.base import Request
from pathors_agent.transports.endpoint import Endpoint
from pathors_agent.transports.exchange import KEEP_ALIVE_SECONDS, Exchange
from pathors_agent.transports.loops import LoopClients, moved
from pathors_agent.transports.network import Route
from pathors_agent.transports.watch import Watch

# What httpx2 reads of a head; aiohttp's own 8 KB are less than some gateways' headers.
LONGEST_HEADER_BYTES = 100 * 1024


class LoopClient(NamedTuple):
    """The client of one event loop, and the watch over its answers."""

    session: aiohttp.ClientSession
    watch: Watch


class AiohttpClients:
    """One client for each event loop, and what they share: the address and the headers."""

    def __init__(self, given: aiohttp.ClientSession | None, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._url = yarl.URL(str(endpoint.url), encoded=True)
        # aiohttp keeps a request's headers while its answer is open: copies of this share them.
        self.headers = CIMultiDict((istr(n), value) for n, value in endpoint.headers.items())
        self._proxy = _checked_proxy(endpoint.route)
        self._clients = LoopClients(
            self._make, _close, given=None if given is None else LoopClient(given, Watch())
        )

    async def running(self) -> LoopClient:
        """Return the running loop's client; raise `TransportError` if there can be none."""
        if in_trio_task():
            raise TransportError(
                "AiohttpTransport runs on asyncio alone; use AsyncHTTPTransport on trio.",
                retryable=False,
            )
        client = await self._clients.client()
        if self._clients.given_has_moved:
            raise moved()
        return client

    def failure(self, error: RuntimeError) -> TransportError:
        """Return the error for a RuntimeError of aiohttp: its client is closed, say."""
        return self._clients.failure(error)

    def address(self, request: Request) -> yarl.URL:
        """Give where a request goes; raise `TransportError` where it cannot be sent."""
        address = self._endpoint.address(request, self._endpoint.url)
        is_usual = address is self._endpoint.url
        return self._url if is_usual else yarl.URL(str(address), encoded=True)

    def _make(self) -> LoopClient:
        session = aiohttp.ClientSession(
            # Answers are long: a bound here would make the next run wait for another's stream.
            connector=_Connector(
                limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS, ssl=self._endpoint.route.tls or True
            ),
            # A cookie given to one conversation must not be sent with another's.
            cookie_jar=aiohttp.DummyCookieJar(),
            proxy=self._proxy,
            max_line_size=LONGEST_HEADER_BYTES,
            max_field_size=LONGEST_HEADER_BYTES,
        )
        return LoopClient(session, Watch())

    async def aclose(self) -> None:
        """Close the running loop's client, unless it is the caller's."""
        await self._clients.aclose()


async def _close(client: LoopClient) -> None:
    await client.session.close()


class _Connector(aiohttp.TCPConnector):
    """Notes on an exchange whether its connection has served another request before."""

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
    """Return the exchange of a request of aiohttp, by the body that it was given."""
    body = getattr(getattr(request, "body", None), "_value", None)
    exchange = getattr(body, "exchange", None)
    return exchange if isinstance(exchange, Exchange) else None


def _checked_proxy(route: Route) -> str | None:
    if route.proxy is None:
        return None
    if route.proxy.scheme not in ("http", "https"):
        raise InvalidSetting(
            "The environment's proxy is no HTTP proxy: AiohttpTransport cannot use it; "
            "AsyncHTTPTransport can, with httpx2[socks]."
        )
    return str(route.proxy)
