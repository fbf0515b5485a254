"""Check the origins of web pages that may call the API."""

import re
from collections.abc import Iterable

# What a browser sends as Origin: a scheme, a host and a port that is not the scheme's own.
# Extensions and desktop shells have schemes of their own, as chrome-extension://abc.
_ORIGIN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://"
    r"(?P<host>[^\s/?#@:\[\]\\*%]+|\[[0-9a-f:.]+\])"
    r"(?::(?P<port>[1-9]\d{0,4}))?",
    re.ASCII,
)
_DEFAULT_PORTS = {"http": "80", "https": "443"}
_MAX_PORT = 65_535
# The origins without a host: pages from files, in sandboxes, and of some desktop shells.
_WITHOUT_HOST = ("null", "file://")


def check_origins(origins: Iterable[str]) -> None:
    """Raise `ValueError` for an origin that no browser ever sends."""
    if isinstance(origins, str):
        raise ValueError(f"cors_origins must be a list of origins, as [{origins!r}]")
    for origin in origins:
        if problem := _problem(origin):
            raise ValueError(f"cors_origins: {origin!r} never matches: {problem}")


def _problem(origin: str) -> str | None:
    if origin == "*" or origin in _WITHOUT_HOST:
        return None
    if "*" in origin:
        return "wildcards are not supported; name each origin, or allow all with '*'"
    if not origin.isascii():
        return "browsers send international hosts in ASCII, as xn--..."
    if "://" not in origin:
        return f"the scheme is missing, as in 'https://{origin}'"
    if origin.endswith("/"):
        return f"an origin has no slash at its end; write {origin.rstrip('/')!r}"
    if origin != origin.lower():
        return f"browsers send origins in lower case; write {origin.lower()!r}"
    found = _ORIGIN.fullmatch(origin)
    if found is None or int(found["port"] or 0) > _MAX_PORT:
        return "an origin is a scheme, a host and perhaps a port, as 'https://example.com:8443'"
    if found["port"] and _DEFAULT_PORTS.get(found["scheme"]) == found["port"]:
        return f"browsers leave out the port {found['port']} of {found['scheme']}"
    return None
