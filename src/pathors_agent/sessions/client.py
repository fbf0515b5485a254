"""Create, read, search, list and end the sessions of a project, over any transport.

Each operation is one request and raises the same errors as a completion. All are idempotent, so
that transports retry them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar
from urllib.parse import quote, urlencode

from pathors_agent.errors import SessionConflict, SessionNotFound, StoreError, refuse_other
from pathors_agent.json_text import write_json
from pathors_agent.messages import JSONValue
from pathors_agent.sessions.answers import (
    MAX_ANSWER_BYTES,
    NewSession,
    Object,
    SessionEntry,
    SessionPage,
    SessionRecord,
    read_end,
    read_found,
    read_listed,
    read_new_session,
    read_object,
    read_session,
)
from pathors_agent.transports.base import (
    GOOD_STATUSES,
    AsyncResponse,
    AsyncTransport,
    Request,
    Response,
    Transport,
    read_body,
    read_body_async,
)
from pathors_agent.transports.retry import refusal
from pathors_agent.wire.provider_errors import MAX_ERROR_BODY_BYTES

ResultT = TypeVar("ResultT")

Variables = Mapping[str, JSONValue]
"""The variables of a session: JSON values by name."""

# The API's own defaults.
SEARCH_LIMIT = 50
PAGE_SIZE = 20

_NO_CONTENT, _NOT_FOUND, _CONFLICT = 204, 404, 409
_PATH = "/sessions"


class EndpointSessions:
    """The sessions of the project that a transport sends to.

    Each method sends one request with the `transport`. An error status raises `ProviderError`, and
    an answer of the wrong form `MalformedResponse`. The transport stays open; close it yourself.
    """

    def __init__(self, transport: Transport) -> None:
        refuse_other("EndpointSessions", transport, Transport)
        self._transport = transport

    def create(
        self, session_id: str, *, variables: Variables | None = None, provider: str = ""
    ) -> NewSession:
        """Create a session; its instructions refer to the variables as `{{name}}`.

        `provider` is sent with it, if it is set, and shown in the list of sessions. Idempotent.
        Raises `SessionConflict` if the session exists with other content.
        """
        return self._perform(_create(session_id, variables, provider))

    def get(self, session_id: str) -> SessionRecord:
        """Return a session. Raises `SessionNotFound` if it does not exist or has ended."""
        return self._perform(_get(session_id))

    def search(
        self, text: str, *, limit: int = SEARCH_LIMIT, offset: int = 0
    ) -> SessionPage[SessionRecord]:
        """Return the sessions that contain a text, the most recently updated first.

        The search is case-sensitive and includes all fields. A page that would be too large has
        fewer than `limit` items: the next page begins at `offset` plus the number of its items.
        """
        return self._perform(_search(text, limit, offset))

    def end(self, session_id: str) -> None:
        """Delete a session's variables and messages permanently. Idempotent."""
        self._perform(_end(session_id))

    def list(
        self, *, page: int = 1, page_size: int = PAGE_SIZE, search: str = ""
    ) -> SessionPage[SessionEntry]:
        """Return one page of the sessions, including ended ones; `search` selects those with a text."""
        return self._perform(_list(page, page_size, search))

    def _perform(self, operation: "_SessionOperation[ResultT]") -> ResultT:
        with self._transport.send(operation.request) as response:
            body = read_body(response.pieces, _most_bytes(response))
        return operation.result(response, body)


class AsyncEndpointSessions:
    """`EndpointSessions` for asyncio and trio; its methods have the same arguments."""

    def __init__(self, transport: AsyncTransport) -> None:
        refuse_other("AsyncEndpointSessions", transport, AsyncTransport)
        self._transport = transport

    async def create(
        self, session_id: str, *, variables: Variables | None = None, provider: str = ""
    ) -> NewSession:
        """As `EndpointSessions.create`."""
        return await self._perform(_create(session_id, variables, provider))

    async def get(self, session_id: str) -> SessionRecord:
        """As `EndpointSessions.get`."""
        return await self._perform(_get(session_id))

    async def search(
        self, text: str, *, limit: int = SEARCH_LIMIT, offset: int = 0
    ) -> SessionPage[SessionRecord]:
        """As `EndpointSessions.search`."""
        return await self._perform(_search(text, limit, offset))

    async def end(self, session_id: str) -> None:
        """As `EndpointSessions.end`."""
        await self._perform(_end(session_id))

    async def list(
        self, *, page: int = 1, page_size: int = PAGE_SIZE, search: str = ""
    ) -> SessionPage[SessionEntry]:
        """As `EndpointSessions.list`."""
        return await self._perform(_list(page, page_size, search))

    async def _perform(self, operation: "_SessionOperation[ResultT]") -> ResultT:
        async with self._transport.send(operation.request) as response:
            body = await read_body_async(response.pieces, _most_bytes(response))
        return operation.result(response, body)


# - the operations -


@dataclass(frozen=True, slots=True)
class _SessionOperation(Generic[ResultT]):
    """A request, the function that reads its answer, and the errors of special statuses."""

    request: Request
    read: Callable[[Object], ResultT]
    refusals: Mapping[int, StoreError] = field(default_factory=dict)

    def result(self, response: Response | AsyncResponse, body: bytes) -> ResultT:
        if response.status in GOOD_STATUSES:
            is_silent = response.status == _NO_CONTENT and not body
            return self.read({} if is_silent else read_object(body))
        error = refusal(response, body)
        if response.status in self.refusals:
            raise self.refusals[response.status] from error
        raise error


def _create(
    session_id: str, variables: Variables | None, provider: str
) -> _SessionOperation[NewSession]:
    content: dict[str, object] = {"session_id": session_id}
    if variables is not None:
        content["variables"] = variables
    if provider:
        content["provider"] = provider
    refused = SessionConflict(f"the session {session_id!r} exists with other content")
    return _SessionOperation(
        _request("POST", _PATH, content), read_new_session, {_CONFLICT: refused}
    )


def _get(session_id: str) -> _SessionOperation[SessionRecord]:
    refused = SessionNotFound(f"the provider knows no session {session_id!r}")
    if not session_id:  # its address is that of the list
        raise refused
    return _SessionOperation(
        _request("GET", f"{_PATH}/{_segment(session_id)}"), read_session, {_NOT_FOUND: refused}
    )


def _search(text: str, limit: int, offset: int) -> _SessionOperation[SessionPage[SessionRecord]]:
    content = {"search_string": text, "limit": limit, "offset": offset}
    return _SessionOperation(_request("POST", f"{_PATH}/search", content), read_found)


def _end(session_id: str) -> _SessionOperation[None]:
    return _SessionOperation(_request("DELETE", _PATH, {"session_id": session_id}), read_end)


def _list(page: int, page_size: int, search: str) -> _SessionOperation[SessionPage[SessionEntry]]:
    query: dict[str, object] = {"page": page, "pageSize": page_size}
    if search:
        query["search"] = search
    return _SessionOperation(
        _request("GET", f"{_PATH}?{urlencode(query, quote_via=quote, safe='')}"), read_listed
    )


def _request(method: str, path: str, content: Mapping[str, object] | None = None) -> Request:
    body = b"" if content is None else write_json(content)
    return Request(method=method, path=path, body=body)


def _segment(session_id: str) -> str:
    """Return an id as one segment of a path; a segment of dots would lead out of it."""
    encoded = quote(session_id, safe="")
    return encoded if encoded.strip(".") else encoded.replace(".", "%2E")


def _most_bytes(response: Response | AsyncResponse) -> int:
    return MAX_ANSWER_BYTES if response.status in GOOD_STATUSES else MAX_ERROR_BODY_BYTES
