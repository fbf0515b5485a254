"""Say where requests go and what goes with each: the address, the key, the headers."""

import base64
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote, urlsplit

from pathors_agent.errors import AuthenticationError, InvalidSetting, TransportError
from pathors_agent.telemetry.events import ServerAddress, library_version
from pathors_agent.transports.base import COMPLETIONS_PATH, Request
from pathors_agent.transports.exchange import Exchange, Secrets, Timeouts
from pathors_agent.transports.network import Route, route_to
from pathors_agent.wire.chat_completions import DEFAULT_PROFILE, EndpointProfile

if TYPE_CHECKING:
    import httpx2  # for its URL: one reading of addresses, whatever client calls them

# Shorter header values are words like "gzip", not secrets to be looked for in error texts.
SHORTEST_SECRET = 8

_HOST_BYTES, _LABEL_BYTES, _LAST_PORT = 254, 63, 65535
_DEFAULT_BASE = "https://api.pathors.com/v1/projects/{project_id}"
_PORTS = {"http": 80, "https": 443}
# A project's address: /projects/{id}, or /project/{id} in older ones.
_PROJECT = re.compile(r"/projects?/[^/]")
# RFC 9110, 5.1 and 5.5, without the bytes above ASCII.
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# RFC 3986, 3.3 and 3.4; a segment of dots would lead out of the base.
_CHARACTER = r"(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})"
_PATH = re.compile(rf"(?:/(?!\.{{1,2}}(?:[/?]|$)){_CHARACTER}*)+(?:\?(?:{_CHARACTER}|[/?])*)?")
_HEADER_VALUE = re.compile(r"[!-~]+(?:[ \t]+[!-~]+)*")


class Endpoint:
    """Where requests go and what goes with each of them."""

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
        given = base_url or os.environ.get("PATHORS_BASE_URL")
        base = _parsed(given or _hosted_base(project_id))
        headers = _checked_headers(headers)
        own = _merged(_authorization(api_key, base, headers, needed=not given), headers)
        self.url = _completions_url(base)
        self.route = route_to(self.url) if is_own_client else Route()
        # Without what may be secret in an address: user name, password and query.
        self.shown = str(self.url.copy_with(query=None))
        self.server = ServerAddress(self.url.host, self.url.port or _PORTS.get(self.url.scheme))
        self._host = str(self.url.copy_with(raw_path=b"")).rstrip("/")
        self._proxy = self.route.proxy_shown
        self._timeouts = timeouts
        self._session_header = _checked_name(session_header)
        self.headers = _merged(_own_headers(), own)
        self._keeps_history = keeps_history(str(base))
        self._secrets = _secrets(base, own, self.route)
        self._masked = self._secrets.masked_words  # one for all answers

    def profile(
        self, profile: EndpointProfile | None, sends: Literal["history", "new_messages"] | None
    ) -> EndpointProfile:
        """Return the profile for a transport's arguments; `keeps_history` decides without `sends`."""
        profile = profile or DEFAULT_PROFILE
        by_address = "new_messages" if self._keeps_history else profile.sends
        return replace(profile, sends=sends or by_address)

    def stores_turns(self, profile: EndpointProfile) -> bool:
        """Return True if the endpoint stores turns, and so needs to recognise a repeated one."""
        return self._keeps_history or profile.sends == "new_messages"

    def exchange(self, request: Request) -> Exchange:
        """Begin one: its clock starts now; it may take `request.seconds` where that is less."""
        timeouts, seconds = self._timeouts, request.seconds
        if request.tell is not None:
            request.tell("request_sent", **self.server._asdict())
        if seconds is not None and seconds < timeouts.seconds("whole"):
            timeouts = replace(timeouts, whole=seconds)
        return Exchange(self._host, timeouts, self._secrets, self._proxy)

    def headers_beside(self, request: Request) -> dict[str, str]:
        """Give what goes with this request beside, or instead of, `headers`.

        Raises `TransportError` where it cannot be sent.
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
        """Give where a request goes, by the address at which a client asks for completions.

        Raises `TransportError` where it cannot be sent.
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
        """Give what an answer says before its body, by the names of `Response`."""
        session_id = headers.get(self._session_header.lower())
        masked = self._masked
        return {"status": status, "headers": headers, "session_id": session_id, "masked": masked}


def keeps_history(address: str) -> bool:
    """Return True if the endpoint at this address keeps the history of each session itself.

    The hosted service does, and so does every address whose path holds `/projects/{id}` or
    `/project/{id}`. Such an endpoint gets only the new messages, and the id of the session that
    it named. Every other endpoint gets the whole history, and a session id only if the caller
    names one. `sends=` overrides this.
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
        raise InvalidSetting("project_id cannot be part of an address.")
    return _DEFAULT_BASE.format(project_id=quote(project, safe=""))


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
    # The address is not quoted: it may hold a password.
    raise InvalidSetting("base_url is no address of the form https://host/path.")


def _can_be_host(host: bytes) -> bool:
    """Return False for names that the system's resolver cannot look up (RFC 1035, 2.3.4)."""
    labels = host.removesuffix(b".").split(b".")
    return len(host) <= _HOST_BYTES and all(0 < len(label) <= _LABEL_BYTES for label in labels)


def _can_be_port(port: int | None) -> bool:
    return port is None or 0 < port <= _LAST_PORT


def _completions_url(base: "httpx2.URL") -> "httpx2.URL":
    """Return the address for completions; a base that ends with their path already keeps it."""
    path, mark, query = base.raw_path.partition(b"?")
    suffix = COMPLETIONS_PATH.encode()
    path = path.rstrip(b"/").removesuffix(suffix).rstrip(b"/")
    raw_path = path + suffix + mark + query
    return base.copy_with(raw_path=raw_path, username=None, password=None, fragment=None)


def _authorization(
    api_key: str | None, url: "httpx2.URL", headers: Mapping[str, str], *, needed: bool
) -> dict[str, str]:
    if url.userinfo:
        return _basic_authorization(api_key, url, headers)
    key = os.environ.get("PATHORS_API_KEY", "") if api_key is None else api_key
    if key:
        return {"Authorization": f"Bearer {_checked_value('The API key', key)}"}
    if needed:
        raise AuthenticationError("No API key: pass api_key= or set PATHORS_API_KEY.")
    return {}


def _basic_authorization(
    api_key: str | None, url: "httpx2.URL", headers: Mapping[str, str]
) -> dict[str, str]:
    """Return the header for a user name and password in the address (RFC 7617)."""
    if api_key or any(name.lower() == "authorization" for name in headers):
        raise InvalidSetting(
            "base_url holds a user name or password, and api_key= or an Authorization header is "
            "given, too; only one of them can be sent: leave out the other."
        )
    if ":" in url.username:
        raise InvalidSetting("The user name in base_url holds a colon, which cannot be sent.")
    pair = base64.b64encode(f"{url.username}:{url.password}".encode()).decode()
    return {"Authorization": f"Basic {pair}"}


def _secrets(base: "httpx2.URL", headers: Mapping[str, str], route: Route) -> Secrets:
    """Pick what must not stand in an error: of "Bearer x" the x."""
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
    """Join groups of headers; the last of a name wins, in whatever case it is written."""
    named = {name.lower(): (name, value) for group in groups for name, value in group.items()}
    return dict(named.values())


def _checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    return {
        _checked_name(name): _checked_value(f"The header {name}", value)
        for name, value in headers.items()
    }


def _checked_name(name: str) -> str:
    if not _HEADER_NAME.fullmatch(name):
        raise InvalidSetting("A header's name is empty or has a character that it may not have.")
    return name


def _checked_value(what: str, value: str) -> str:
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
