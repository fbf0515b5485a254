"""Read from the environment how to reach a host: through which proxy, and whom TLS trusts.

The rules are the same for all HTTP clients, so that their errors can name what failed.
"""

import os
import ssl
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

from pathors_agent.errors import InvalidSetting

if TYPE_CHECKING:
    import httpx2

_PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")


@dataclass(frozen=True, slots=True)
class Route:
    """How requests reach a host.

    `proxy` is the proxy's address with its user name and password; None without a proxy. `tls` is
    what trusts certificates; None if neither the host nor the proxy is reached by https.
    """

    proxy: "httpx2.URL | None" = None
    tls: ssl.SSLContext | None = None

    @property
    def proxy_shown(self) -> str:
        """The proxy's address without user name and password; empty without a proxy."""
        if self.proxy is None:
            return ""
        return str(self.proxy.copy_with(username=None, password=None)).rstrip("/")


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
    return _parsed(address, f"{scheme.upper()}_PROXY")


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


def _parsed(address: str, variable: str) -> "httpx2.URL":
    import httpx2

    try:
        url = httpx2.URL(address if "://" in address else f"http://{address}")
    except (httpx2.InvalidURL, UnicodeError):
        url = httpx2.URL()
    # The address is not quoted: it may hold a password.
    if not url.host or url.scheme not in _PROXY_SCHEMES:
        raise InvalidSetting(
            f"The proxy in {variable} is no address of the form http://host:port "
            "(https, socks5 and socks5h are allowed, too); correct or unset the variable."
        )
    return url


def _tls_context() -> ssl.SSLContext:
    import httpx2

    try:
        return httpx2.create_ssl_context()
    except OSError as error:  # ssl.SSLError is one
        name = next((n for n in _TRUST if os.environ.get(n)), None)
        if name is None:
            raise
        raise InvalidSetting(
            f"{name} names {os.environ[name]}, which has no certificates that can be read: "
            f"{error.strerror or error}; correct or unset the variable."
        ) from None


# In this order; the first that is set is used.
_TRUST = ("SSL_CERT_FILE", "SSL_CERT_DIR")


def trust_hint() -> str:
    """Return what decides which certificates are trusted, for an error about one that is not."""
    name = next((n for n in _TRUST if os.environ.get(n)), None)
    if name is None:
        return "set SSL_CERT_FILE to a file with the certificate of its authority"
    return f"trusted are the authorities in {name}={os.environ[name]}"
