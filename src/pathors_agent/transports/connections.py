"""How connections are made: the route that the environment sets, and one client per event loop.

The rules for proxies and certificates are the same for all HTTP clients, so that errors can name
the variable that is wrong. A connection belongs to the event loop that opened it; a program that
calls `asyncio.run` several times has a new loop each time, and needs a new client.
"""

import os
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pathors_agent.concurrency.event_loops import in_trio_task
from pathors_agent.errors import InvalidSetting, TransportError

if TYPE_CHECKING:
    import ssl

    import httpx2

ClientT = TypeVar("ClientT")

CLOSED = "The transport was closed; create another one, or use it inside its `with` block."

_PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")
# In this order; the first variable that is set is used.
_TRUST_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


# - the route -


@dataclass(frozen=True, slots=True)
class Route:
    """How requests reach a host.

    `proxy` is the proxy's address with its user name and password; None without a proxy. `tls`
    verifies certificates; None if neither the host nor the proxy is reached by https.
    """

    proxy: "httpx2.URL | None" = None
    tls: "ssl.SSLContext | None" = None

    @property
    def proxy_shown(self) -> str:
        """The proxy's address without user name and password; empty without a proxy."""
        if self.proxy is None:
            return ""
        return str(self.proxy.copy_with(username=None, password=None)).rstrip("/")


def environment_is_plain(scheme: str) -> bool:
    """Return True if the environment sets neither a proxy nor, for https, certificates."""
    if sys.platform in ("darwin", "win32"):  # the system's settings may name a proxy
        return False
    names = (name.lower() for name, value in os.environ.items() if value)
    if any(name.endswith("_proxy") for name in names):
        return False
    return scheme == "http" or _trust_variable() is None


def route_to(url: "httpx2.URL") -> Route:
    """Return the route that the environment sets for an address.

    Raises `InvalidSetting` if the proxy or the file of certificates cannot be used.
    """
    proxy = _proxy(url)
    schemes = (url.scheme, proxy.scheme if proxy else "")
    return Route(proxy, _tls_context() if "https" in schemes else None)


def _proxy(url: "httpx2.URL") -> "httpx2.URL | None":
    from urllib.request import getproxies, proxy_bypass

    proxies = getproxies()
    scheme = url.scheme if proxies.get(url.scheme) else "all"
    address = proxies.get(scheme)
    if not address or proxy_bypass(url.netloc.decode()):
        return None
    if _is_in_network(url.host, proxies.get("no", "")):
        return None
    return _parsed_proxy(address, f"{scheme.upper()}_PROXY")


def _is_in_network(host: str, no_proxy: str) -> bool:
    """Return True if the host is an IP address in one of NO_PROXY's networks."""
    try:
        address = ip_address(host)
    except ValueError:
        return False
    for entry in no_proxy.split(","):
        try:
            if address in ip_network(entry.strip(), strict=False):
                return True
        except ValueError:  # a host name
            continue
    return False


def _parsed_proxy(address: str, variable: str) -> "httpx2.URL":
    import httpx2

    try:
        url = httpx2.URL(address if "://" in address else f"http://{address}")
    except (httpx2.InvalidURL, UnicodeError):
        url = httpx2.URL()
    # The address is not quoted: it may contain a password.
    if not url.host or url.scheme not in _PROXY_SCHEMES:
        raise InvalidSetting(
            f"The proxy in {variable} is not an address of the form http://host:port "
            "(https, socks5 and socks5h are allowed, too); correct or unset the variable."
        )
    return url


def _tls_context() -> "ssl.SSLContext":
    import httpx2

    try:
        return httpx2.create_ssl_context()
    except OSError as error:  # ssl.SSLError is one
        name = _trust_variable()
        if name is None:
            raise
        raise InvalidSetting(
            f"{name} names {os.environ[name]}, which has no certificates that can be read: "
            f"{error.strerror or error}; correct or unset the variable."
        ) from None


def trust_hint() -> str:
    """Return what decides which certificates are trusted, for the error about one that is not."""
    name = _trust_variable()
    if name is None:
        return "set SSL_CERT_FILE to a file with the certificate of its authority"
    return f"trusted are the authorities in {name}={os.environ[name]}"


def _trust_variable() -> str | None:
    return next((name for name in _TRUST_VARIABLES if os.environ.get(name)), None)


# - one client for each event loop -


class LoopClients(Generic[ClientT]):
    """Clients by event loop: opened by a loop's first request, closed when the loop shuts down.

    A client that was `given` belongs to the caller: it is used on every loop and never closed.
    """

    def __init__(
        self,
        make: Callable[[], ClientT],
        close: Callable[[ClientT], Awaitable[object]],
        *,
        given: ClientT | None = None,
    ) -> None:
        self._make = make
        self._close = close
        self._given = given
        self._given_loop: object = None
        self._clients: dict[object, ClientT] = {}
        self._closers: dict[object, AsyncGenerator[None]] = {}
        self._is_closed = False

    async def client(self) -> ClientT:
        """Return the client of the running loop. Raises `TransportError` after `aclose`."""
        loop = _running_loop()
        client = self._clients.get(loop)
        if client is not None:
            return client
        if self._is_closed:
            raise TransportError(CLOSED, retryable=False)
        if self._given is not None:
            self._given_loop = self._given_loop or loop
            return self._given
        return await self._open(loop)

    async def _open(self, loop: object) -> ClientT:
        self._drop_closed_loops()
        self._clients[loop] = client = self._make()
        self._closers[loop] = closer = _closes_with_loop(self._close, client)
        await anext(closer)  # from now on the loop knows the generator and ends it at its shutdown
        return client

    def _drop_closed_loops(self) -> None:
        import asyncio

        for loop in list(self._clients):
            if isinstance(loop, asyncio.AbstractEventLoop) and loop.is_closed():
                self._forget(loop)

    def _forget(self, loop: object) -> AsyncGenerator[None] | None:
        self._clients.pop(loop, None)
        return self._closers.pop(loop, None)

    @property
    def given_has_moved(self) -> bool:
        """Whether a given client was first used on another loop."""
        return self._given is not None and self._given_loop not in (None, _running_loop())

    def failure(self, error: RuntimeError) -> TransportError:
        """Return the error for a client that is closed or belongs to another loop."""
        if self.given_has_moved:
            return client_of_another_loop()
        return TransportError(f"The request cannot be sent: {error}", retryable=False)

    async def aclose(self) -> None:
        """Close the running loop's client and refuse further requests.

        The other loops close their own clients. A given client stays open and usable.
        """
        if self._given is not None:
            return
        self._is_closed = True
        closer = self._forget(_running_loop())
        if closer is not None:
            await closer.aclose()


def check_client(given: object, wanted: type[object]) -> None:
    """Raise `InvalidSetting` for a `client=` of another kind, such as one of httpx."""
    if given is not None and not isinstance(given, wanted):
        raise InvalidSetting(
            f"client= is {_full_name(type(given))}; pass an {_full_name(wanted)}, or leave it out."
        )


def _full_name(kind: type[object]) -> str:
    return f"{kind.__module__.partition('.')[0]}.{kind.__qualname__}".removeprefix("builtins.")


def client_of_another_loop() -> TransportError:
    """Return the error for a given client that was first used on another event loop."""
    return TransportError(
        "The client passed as client= belongs to another event loop; create a transport for each "
        "loop, or leave out client=: the transport then opens a client for each loop.",
        retryable=False,
    )


async def _closes_with_loop(
    close: Callable[[ClientT], Awaitable[object]], client: ClientT
) -> AsyncGenerator[None]:
    """Close the client at the end of this generator: event loops end all generators at shutdown."""
    try:
        yield
    finally:
        await close(client)


def _running_loop() -> object:
    """Return what identifies the running event loop: asyncio's loop, or trio's token."""
    if in_trio_task():
        trio: Any = sys.modules["trio"]
        return trio.lowlevel.current_trio_token()
    import asyncio

    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise TransportError(
            "No event loop is running: async transports need asyncio or trio.", retryable=False
        ) from None
