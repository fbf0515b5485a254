"""Say where requests go and what goes with each: the address, the key, the headers."""

import base64
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pathors_agent.errors import AuthenticationError, TransportError
from pathors_agent.exchange import Exchange, InvalidSetting, Timeouts
from pathors_agent.transport import Request

if TYPE_CHECKING:
    import httpx2

# Shorter header values are words like "gzip", not secrets to be looked for in error texts.
SHORTEST_SECRET = 8

_DEFAULT_BASE = "https://api.pathors.com/v1/projects/{project_id}"
# RFC 9110, 5.1 and 5.5, without the bytes above ASCII.
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
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
    ) -> None:
        import httpx2

        given = base_url or os.environ.get("PATHORS_BASE_URL")
        url = _parsed(given or _hosted_base(project_id))
        own = _authorization(api_key, url, needed=not given) | _checked_headers(headers)
        self._url = _completions_url(url)
        # Without what may be secret in an address: user name, password and query.
        self.shown = str(self._url.copy_with(query=None))
        self._host = str(self._url.copy_with(raw_path=b"")).rstrip("/")
        self._timeouts = timeouts
        self._session_header = _checked_name(session_header)
        self._headers = httpx2.Headers(_own_headers())
        self._headers.update(own)
        self._secrets = _secrets(url.password, *own.values())

    def exchange(self) -> Exchange:
        """Begin one: its clock starts now."""
        return Exchange(self._host, self._timeouts, self._secrets)

    def post(
        self,
        client: "httpx2.Client | httpx2.AsyncClient",
        request: Request,
        exchange: Exchange,
        on_trace: Callable[[str, dict[str, Any]], object],
    ) -> "httpx2.Request":
        """Make the HTTP request; raise `TransportError` where it cannot be sent."""
        return client.build_request(
            "POST",
            self._url,
            content=request.body,
            headers=self._headers_for(request),
            extensions={"timeout": exchange.httpx_timeouts(), "trace": on_trace},
        )

    def _headers_for(self, request: Request) -> "httpx2.Headers":
        headers = self._headers.copy()
        try:
            headers.update(_checked_headers(request.headers))
            if request.session_id is not None:
                headers[self._session_header] = _checked_value("The session id", request.session_id)
        except InvalidSetting as error:
            raise TransportError(str(error), retryable=False) from None
        return headers

    def head(self, answer: "httpx2.Response") -> dict[str, Any]:
        """Give what an answer says before its body, by the names of `Response`."""
        return {
            "status": answer.status_code,
            "headers": dict(answer.headers),
            "session_id": answer.headers.get(self._session_header),
        }


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
        if url.scheme in ("http", "https") and url.host:
            return url
    # The address is not quoted: it may hold a password.
    raise InvalidSetting("base_url is no address of the form https://host/path.")


def _completions_url(base: "httpx2.URL") -> "httpx2.URL":
    path, mark, query = base.raw_path.partition(b"?")
    raw_path = path.rstrip(b"/") + b"/chat/completions" + mark + query
    return base.copy_with(raw_path=raw_path, username=None, password=None, fragment=None)


def _authorization(api_key: str | None, url: "httpx2.URL", *, needed: bool) -> dict[str, str]:
    if api_key is None and url.userinfo:
        pair = base64.b64encode(f"{url.username}:{url.password}".encode()).decode()
        return {"Authorization": f"Basic {pair}"}
    key = os.environ.get("PATHORS_API_KEY", "") if api_key is None else api_key
    if key:
        return {"Authorization": f"Bearer {_checked_value('The API key', key)}"}
    if needed:
        raise AuthenticationError("No API key: pass api_key= or set PATHORS_API_KEY.")
    return {}


def _secrets(*values: str) -> list[str]:
    """Pick what must not stand in an error text: of "Bearer x" the x."""
    words = (value.rpartition(" ")[2] for value in values)
    return [word for word in words if len(word) >= SHORTEST_SECRET]


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
        "User-Agent": f"pathors-agent/{_version()}",
    }


@cache
def _version() -> str:
    try:
        return version("pathors-agent")
    except PackageNotFoundError:  # run from a source tree
        return "0"
