"""Give AiohttpTransport its client: whom it trusts, its proxy, the event loop it belongs to."""

import asyncio
import ssl
from typing import TYPE_CHECKING, Literal
from urllib.request import getproxies, proxy_bypass

import aiohttp
import yarl
from multidict import CIMultiDict, istr

from pathors_agent.errors import InvalidSetting
from pathors_agent.transports.base import Request
from pathors_agent.transports.endpoint import Endpoint
from pathors_agent.transports.exchange import KEEP_ALIVE_SECONDS
from pathors_agent.transports.watch import Watch

if TYPE_CHECKING:
    import httpx2

# What httpx2 reads of a head; aiohttp's own 8 KB are less than some gateways' headers.
LONGEST_HEADER_BYTES = 100 * 1024


class LoopClient:
    """A client for one event loop: the caller's, or made at the first request.

    With it come the address, the headers, and the watch over its answers.
    """

    def __init__(self, given: aiohttp.ClientSession | None, endpoint: Endpoint) -> None:
        self.watch = Watch()
        self._endpoint = endpoint
        self._url = yarl.URL(str(endpoint.url), encoded=True)
        # aiohttp keeps a request's headers while its answer is open: copies of this share them.
        self.headers = CIMultiDict((istr(n), value) for n, value in endpoint.headers.items())
        self._client = given
        self._owns_client = given is None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_closed = False
        self._tls = _tls(endpoint.url)
        self._proxy = _proxy(endpoint.url)

    def running(self) -> aiohttp.ClientSession:
        """Give the client; raise `RuntimeError` where it cannot run."""
        loop = _running_loop()
        if self._is_closed:
            raise RuntimeError(
                "The transport was closed: make another, or use it inside its `with`."
            )
        if self._client is None:
            self._client, self._loop = self._make(), loop
        if self._loop not in (None, loop):
            raise RuntimeError(
                "The transport belongs to another event loop; make one for each loop."
            )
        return self._client

    def address(self, request: Request) -> yarl.URL:
        """Give where a request goes; raise `TransportError` where it cannot be sent."""
        address = self._endpoint.address(request, self._endpoint.url)
        is_usual = address is self._endpoint.url
        return self._url if is_usual else yarl.URL(str(address), encoded=True)

    def _make(self) -> aiohttp.ClientSession:
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
        """Close the client, unless it is the caller's."""
        if self._owns_client:
            self._is_closed = True
            if self._client is not None:
                await self._client.close()


def _running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            "AiohttpTransport runs on asyncio alone; use AsyncHTTPTransport on trio."
        ) from None


def _tls(url: "httpx2.URL") -> ssl.SSLContext | Literal[True]:
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
