"""The endpoint of the transports over HTTP: its address and headers, and answers read from it."""

import base64
import os
import re
from abc import abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import replace
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote, urlsplit

from pathors_agent.errors import AuthenticationError, InvalidSetting, TransportError
from pathors_agent.telemetry.events import ServerAddress, library_version
from pathors_agent.transports.base import COMPLETIONS_PATH, AsyncResponse, PushBack, Request
from pathors_agent.transports.connections import Route, environment_is_plain, route_to
from pathors_agent.transports.exchange import Exchange, Secrets, Timeouts
from pathors_agent.wire.profiles import DEFAULT_PROFILE, EndpointProfile

if TYPE_CHECKING:
    import httpx2  # for its URL: one reading of addresses, whatever client calls them

# Shorter header values are words like "gzip", not secrets.
SHORTEST_SECRET = 8

_HOST_BYTES, _LABEL_BYTES, _LAST_PORT = 254, 63, 65535
_DEFAULT_BASE = "https://api.pathors.com/v1/projects/{project_id}"
_THIS_MACHINE = frozenset({"localhost", "127.0.0.1", "::1"})
_PORTS = {"http": 80, "https": 443}
# A project's address: /projects/{id}, or /project/{id} in older ones.
_PROJECT = re.compile(r"/projects?/[^/]")
# An address that httpx2.URL returns unchanged: lower case, without escapes, dot segments, user
# names and queries.
_LABEL = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_IP = r"127\.0\.0\.1"
_USUAL = re.compile(
    rf"(?P<origin>(?P<scheme>https?)://(?P<host>{_IP}|(?:{_LABEL}\.)*[a-z](?:[a-z0-9-]*[a-z0-9])?)"
    r"(?::(?P<port>[1-9][0-9]{0,4}))?)(?P<path>(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*/?)"
)
# RFC 9110, 5.1 and 5.5, without the bytes above ASCII.
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# RFC 3986, 3.3 and 3.4; a segment of dots would lead out of the base.
_CHARACTER = r"(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})"
_PATH = re.compile(rf"(?:/(?!\.{{1,2}}(?:[/?]|$)){_CHARACTER}*)+(?:\?(?:{_CHARACTER}|[/?])*)?")
_HEADER_VALUE = re.compile(r"[!-~]+(?:[ \t]+[!-~]+)*")


class Endpoint:
    """The endpoint of a transport: its address, and the headers of every request."""

    def __init__(
        self,
        base_url: str | None,
        api_key: str | None,
        project_id: str | None,
        timeouts: Timeouts,
        headers: Mapping[str, str],
        session_header: str,
        *,
        is_own_client: bool,
    ) -> None:
        _check_kind("base_url", base_url, str | None, "a string, such as str(url)")
        _check_kind("project_id", project_id, str | None, "a string")
        _check_kind("timeouts", timeouts, Timeouts, "Timeouts(...), such as Timeouts(whole=60)")
        address = base_url or os.environ.get("PATHORS_BASE_URL")
        self._base = address or _hosted_base(project_id)
        self._is_own_client = is_own_client
        usual = _usual_parts(self._base) if is_own_client else None
        base = None if usual else _parsed(self._base)
        headers = _checked_headers(headers)
        if base is not None and base.userinfo:
            authorization = _basic_authorization(api_key, base, headers)
        else:
            host = usual[1].address if usual else base.host if base else ""
            key = _environment_key(host if base_url else None) if api_key is None else api_key
            authorization = _bearer_authorization(key, needed=not address)
        self._own = _merged(authorization, headers)
        self._timeouts = timeouts
        self._session_header = _checked_name("session_header", session_header)
        self.headers = _merged(_own_headers(), self._own)
        self._keeps_history = keeps_history(str(base or self._base))
        self.is_resolved = False
        if usual:
            self.shown, self.server = usual
        else:
            self.resolve(base)
            # User name, password and query may be secret.
            self.shown = str(self.url.copy_with(query=None))
            self.server = ServerAddress(self.url.host, self.url.port or _PORTS[self.url.scheme])

    def resolve(self, base: "httpx2.URL | None" = None) -> None:
        """Parse the address, and read the route to it from the environment. Imports httpx2.

        Nothing is sent before. For usual addresses this waits for the first request.
        """
        base = base or _parsed(self._base)
        self.url = _completions_url(base)
        self.route = route_to(self.url) if self._is_own_client else Route()
        self._host = str(self.url.copy_with(raw_path=b"")).rstrip("/")
        self._proxy = self.route.proxy_shown
        self._secrets = _secrets(base, self._own, self.route)
        self._masked = self._secrets.masked_words  # bound once, not for each answer
        self.is_resolved = True

    def profile(
        self, profile: EndpointProfile | None, sends: Literal["history", "new_messages"] | None
    ) -> EndpointProfile:
        """Return the profile for a transport's arguments; `keeps_history` decides without `sends`."""
        _check_kind("profile", profile, EndpointProfile | None, "an EndpointProfile")
        if sends not in (None, "history", "new_messages"):
            raise InvalidSetting('sends= must be "history" or "new_messages", or left out.')
        profile = profile or DEFAULT_PROFILE
        by_address = "new_messages" if self._keeps_history else profile.sends
        return replace(profile, sends=sends or by_address)

    def stores_turns(self, profile: EndpointProfile) -> bool:
        """Return True if the endpoint stores turns, so that repeated requests need a key."""
        return self._keeps_history or profile.sends == "new_messages"

    def exchange(self, request: Request) -> Exchange:
        """Start an exchange now; it may take `request.seconds` if that is less than the timeout."""
        timeouts, seconds = self._timeouts, request.seconds
        if request.on_event is not None:
            request.on_event("request_sent", **self.server._asdict())
        if seconds is not None and seconds < timeouts.seconds("whole"):
            timeouts = replace(timeouts, whole=seconds)
        return Exchange(self._host, timeouts, self._secrets, self._proxy)

    def request_headers(self, request: Request) -> dict[str, str]:
        """Return the headers of this request that are added to `headers` or replace them.

        Raises `TransportError` if they cannot be sent.
        """
        session_id = request.session_id
        try:
            headers = _checked_headers(request.headers)
            if session_id is None:
                return headers
            session = {self._session_header: _checked_value("The session id", session_id)}
            return _merged(headers, session)
        except InvalidSetting as error:
            raise TransportError(str(error), retryable=False) from None

    def address(self, request: Request, completions: "httpx2.URL") -> "httpx2.URL":
        """Return the address of a request; `completions` is the client's address for completions.

        Raises `TransportError` if the method or path cannot be sent.
        """
        if request.path == COMPLETIONS_PATH and request.method == "POST":
            return completions
        if not _PATH.fullmatch(request.path) or not _HEADER_NAME.fullmatch(request.method):
            raise TransportError(
                "The request's method or path cannot be sent: a path begins with a slash and is "
                "percent-encoded.",
                retryable=False,
            )
        base, _, query = completions.raw_path.partition(b"?")
        path, _, own_query = request.path.encode().partition(b"?")
        path = base.removesuffix(COMPLETIONS_PATH.encode()) + path
        query = b"&".join(filter(None, [query, own_query]))
        return completions.copy_with(raw_path=path + b"?" * bool(query) + query)

    def head(self, status: int, headers: Mapping[str, str]) -> dict[str, Any]:
        """Return the fields of a `Response` that are known before its body."""
        session_id = headers.get(self._session_header.lower())
        masked = self._masked
        return {"status": status, "headers": headers, "session_id": session_id, "masked": masked}


class AsyncAnswer(PushBack):
    """One request and its answer: the context manager of `send`, and the iterator of its pieces.

    Not an async generator: a generator that is left half read must be closed, and its frame
    needs more memory for each open stream.
    """

    __slots__ = ("_exchange", "_pushed_back", "_request")

    _exchange: Exchange

    def __init__(self, request: Request) -> None:
        self._request: Request | None = request
        self._pushed_back = b""

    @abstractmethod
    def _begin(self, request: Request) -> Exchange:
        """Start the exchange."""

    @abstractmethod
    async def _open(self, request: Request) -> AsyncResponse:
        """Send the request; return the response, whose pieces this object reads."""

    @abstractmethod
    async def __anext__(self) -> bytes: ...

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __aenter__(self) -> AsyncResponse:
        assert self._request  # entered once
        # An open stream must not keep its request, whose body may have megabytes.
        request, self._request = self._request, None
        self._exchange = exchange = self._begin(request)
        exchange.follow(request.cancellation)
        try:
            return await self._open(request)
        except BaseException:
            exchange.release()
            raise

    def push_back(self, piece: bytes) -> None:
        """Return this piece again from the next read."""
        self._pushed_back = piece

    async def _drain(self) -> None:
        """Read the last bytes that are on their way, so that the connection can be reused."""
        self._exchange.hurry()
        with suppress(TransportError):
            async for _ in self:
                if not self._exchange.may_drain:
                    break


def keeps_history(address: str) -> bool:
    """Return True if the endpoint at this address keeps the history of each session itself.

    True for the hosted service, and for every address whose path contains `/projects/{id}` or
    `/project/{id}`. Such an endpoint receives only the new messages, and the id of the session
    that it named. Every other endpoint receives the whole history, and a session id only if the
    caller passes one. `sends=` overrides this.
    """
    return _PROJECT.search(urlsplit(address).path) is not None


def _hosted_base(project_id: str | None) -> str:
    project = project_id or os.environ.get("PATHORS_PROJECT_ID")
    if not project:
        raise AuthenticationError(
            "No project: pass project_id= or set PATHORS_PROJECT_ID; for another endpoint pass "
            "base_url= or set PATHORS_BASE_URL."
        )
    if not project.strip("."):
        raise InvalidSetting("project_id must not consist of dots only.")
    return _DEFAULT_BASE.format(project_id=quote(project, safe=""))


def _usual_parts(base: str) -> tuple[str, ServerAddress] | None:
    """Return the address of completions and the server of a usual base URL, otherwise None.

    A usual base URL is one that httpx2 accepts and does not change, and that is reached by a plain
    connection. It need not be parsed before the first request.
    """
    if not (match := _USUAL.fullmatch(base)):
        return None
    scheme, host, port = match["scheme"], match["host"], int(match["port"] or 0)
    if "xn--" in host or not _can_be_host(host.encode()) or port > _LAST_PORT:
        return None
    if port == _PORTS[scheme] or not environment_is_plain(scheme):
        return None
    path = match["path"].rstrip("/").removesuffix(COMPLETIONS_PATH).rstrip("/")
    server = ServerAddress(host, port or _PORTS[scheme])
    return f"{match['origin']}{path}{COMPLETIONS_PATH}", server


def _parsed(base: str) -> "httpx2.URL":
    import httpx2

    with suppress(httpx2.InvalidURL, UnicodeError):
        url = httpx2.URL(base)
        if (
            url.scheme in ("http", "https")
            and _can_be_host(url.raw_host)
            and _can_be_port(url.port)
        ):
            return url
    # The address is not quoted: it may contain a password.
    raise InvalidSetting("base_url is not an address of the form https://host/path.")


def _can_be_host(host: bytes) -> bool:
    """Return False for names that the system's resolver cannot look up (RFC 1035, 2.3.4)."""
    labels = host.removesuffix(b".").split(b".")
    return len(host) <= _HOST_BYTES and all(0 < len(label) <= _LABEL_BYTES for label in labels)


def _can_be_port(port: int | None) -> bool:
    return port is None or 0 < port <= _LAST_PORT


def _completions_url(base: "httpx2.URL") -> "httpx2.URL":
    """Return the address of completions; the base may end with their path already."""
    path, mark, query = base.raw_path.partition(b"?")
    suffix = COMPLETIONS_PATH.encode()
    path = path.rstrip(b"/").removesuffix(suffix).rstrip(b"/")
    raw_path = path + suffix + mark + query
    return base.copy_with(raw_path=raw_path, username=None, password=None, fragment=None)


def _environment_key(host: str | None) -> str:
    """Return PATHORS_API_KEY if it is meant for a host that the caller named, or for no named host.

    It is meant for the hosted service, the host of PATHORS_BASE_URL and this machine. A program that
    names another provider does not send it the key.
    """
    key = os.environ.get("PATHORS_API_KEY", "")
    addresses = (_DEFAULT_BASE, os.environ.get("PATHORS_BASE_URL", ""))
    meant = {urlsplit(address).hostname for address in addresses}
    return key if host is None or host in _THIS_MACHINE or host in meant else ""


def _bearer_authorization(api_key: object, *, needed: bool) -> dict[str, str]:
    if api_key or not isinstance(api_key, str):
        if str(api_key)[:7].lower() == "bearer ":
            raise InvalidSetting(
                'The API key begins with "Bearer", which the transport adds itself.'
            )
        return {"Authorization": f"Bearer {_checked_value('The API key', api_key)}"}
    if needed:
        raise AuthenticationError("No API key: pass api_key= or set PATHORS_API_KEY.")
    return {}


def _basic_authorization(
    api_key: str | None, url: "httpx2.URL", headers: Mapping[str, str]
) -> dict[str, str]:
    """Return the header for a user name and password in the address (RFC 7617)."""
    if api_key or any(name.lower() == "authorization" for name in headers):
        raise InvalidSetting(
            "base_url contains a user name or password, and api_key= or an Authorization header is "
            "given, too; only one of them can be sent: leave out the other."
        )
    if ":" in url.username:
        raise InvalidSetting("The user name in base_url contains a colon, which cannot be sent.")
    pair = base64.b64encode(f"{url.username}:{url.password}".encode()).decode()
    return {"Authorization": f"Basic {pair}"}


def _secrets(base: "httpx2.URL", headers: Mapping[str, str], route: Route) -> Secrets:
    """Return the texts that errors must not contain, such as the x of "Bearer x"."""
    values = [base.password, *headers.values()]
    if route.proxy is not None:
        values += [route.proxy.password, route.proxy.userinfo.decode()]
    words = (value.rpartition(" ")[2] for value in values)
    query = base.query.decode()
    return Secrets(
        [word for word in words if len(word) >= SHORTEST_SECRET],
        query if len(query) >= SHORTEST_SECRET else "",
    )


def _merged(*groups: Mapping[str, str]) -> dict[str, str]:
    """Merge headers; names are case-insensitive, and the last value of a name wins."""
    named = {name.lower(): (name, value) for group in groups for name, value in group.items()}
    return dict(named.values())


def _check_kind(name: str, value: object, kind: type[object] | UnionType, wanted: str) -> None:
    """Raise `InvalidSetting` for an argument of another type, which would fail in a request."""
    if not isinstance(value, kind):
        # The value is not quoted: it may be a secret.
        raise InvalidSetting(f"{name}= is of the type {type(value).__name__}; it must be {wanted}.")


def _checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    _check_kind("headers", headers, Mapping, "a mapping of names to values")
    return {
        _checked_name("headers", name): _checked_value(f"The header {name}", value)
        for name, value in headers.items()
    }


def _checked_name(setting: str, name: object) -> str:
    if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
        raise InvalidSetting(
            f"{setting}= has a name that is not a string, is empty, or has a character that header "
            "names cannot have."
        )
    return name


def _checked_value(what: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidSetting(f"{what} is of the type {type(value).__name__}, not a string.")
    # The value is not quoted: it may be a secret.
    if not _HEADER_VALUE.fullmatch(value):
        raise InvalidSetting(
            f"{what} cannot be sent in an HTTP header: it is empty, begins or ends with a space or "
            "a line break, or has a character that is not visible ASCII."
        )
    return value


def _own_headers() -> dict[str, str]:
    return {
        "Content-Type": "application/json",
        "Accept": "text/event-stream, application/json",
        "User-Agent": f"pathors-agent/{library_version()}",
    }
