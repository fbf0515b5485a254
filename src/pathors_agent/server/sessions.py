"""The session API: create, query, search, end, list."""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from http import HTTPStatus
from typing import Any

import anyio
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pathors_agent.errors import SessionConflict, SessionNotFound
from pathors_agent.json_text import write_json
from pathors_agent.messages import JSONValue
from pathors_agent.server.body import parsed, read_object
from pathors_agent.server.completion_request import checked_session_id, whole_number
from pathors_agent.server.keys import Caller
from pathors_agent.server.open_calls import mark_waiting, read_tail
from pathors_agent.server.problems import Problem, bad_request
from pathors_agent.server.runtime import Runtime
from pathors_agent.stores.base import MAX_SEARCH_BYTES, Session, SessionSummary
from pathors_agent.stores.texts import json_text, utf8_size
from pathors_agent.telemetry.events import share

DEFAULT_LIMIT = 50
MAX_LIMIT = 200
# What a page of a list shows at once.
DEFAULT_PAGE_SIZE = 20
# SQLite and PostgreSQL count rows in 64 bits.
MAX_OFFSET = 2**53
MAX_PAGE = MAX_OFFSET // MAX_LIMIT
MAX_PROVIDER = 255
# To look for a text takes time by its length, too, and databases do it without a pause.
MAX_SEARCHED = 1_000


# Sent at once: what a connection takes without waiting.
BATCH_CHARACTERS = 64 * 1024

Pieces = Sequence[str]
"""A JSON text in pieces."""


class SessionEndpoints:
    """Answers the requests of the session API."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def create(self, request: Request, project_id: str) -> Response:
        """Create a session, with variables for the project's instructions."""
        caller, body = await self._read(request, project_id)
        session_id = _required_id(body)
        share(session=session_id)
        variables, provider = _field(body, "variables", dict, {}), _field(body, "provider", str, "")
        if len(provider) > MAX_PROVIDER:
            raise bad_request(
                "Invalid request body", f"provider: is over {MAX_PROVIDER} characters"
            )

        async def create() -> Pieces:
            try:
                await self._runtime.store.create_session(
                    caller.space, session_id, variables=variables, provider=provider
                )
            except SessionConflict:
                raise Problem(
                    HTTPStatus.CONFLICT, "The session exists with other content", param="session_id"
                ) from None
            return [json_text({"sessionId": session_id, "pathwayId": project_id})]

        return AdmittedResponse(self._runtime, caller, create)

    async def query(self, request: Request, project_id: str, session_id: str) -> Response:
        """Return a session's variables and messages."""
        caller = await self._runtime.authenticated(request, project_id)
        share(session=_checked_id(session_id))

        async def query() -> Pieces:
            try:
                session = await self._runtime.store.session(caller.space, session_id)
            except SessionNotFound:
                raise Problem(HTTPStatus.NOT_FOUND, "Session not found") from None
            tail = await parsed(session.size, lambda: read_tail(session))
            own_tools = self._runtime.projects[project_id].own_tools
            return _session_pieces(mark_waiting(session, tail, own_tools), "state", "data")

        return AdmittedResponse(self._runtime, caller, query)

    async def search(self, request: Request, project_id: str) -> Response:
        """Find sessions by a text in the JSON of their data.

        A page holds as many sessions as `limit` says and `MAX_SEARCH_BYTES` have room for.
        """
        caller, body = await self._read(request, project_id)
        if body.get("search_string") is None:
            raise bad_request("Invalid request body", "search_string: is required, a string")
        text = _field(body, "search_string", str, "")
        _check_searched(text, "search_string")
        limit = _count(body.get("limit"), "limit", DEFAULT_LIMIT, 1, MAX_LIMIT)
        offset = _count(body.get("offset"), "offset", 0, 0, MAX_OFFSET)

        async def search() -> Pieces:
            page = await self._runtime.store.search_sessions(
                caller.space, text, limit=limit, offset=offset, max_bytes=MAX_SEARCH_BYTES
            )
            pieces = ['{"results":[']
            for index, session in enumerate(page.items):
                pieces += [","] if index else []
                pieces += _session_pieces(session, "data")
            pagination = {"limit": limit, "offset": offset}
            held = {"count": len(page.items), "total": page.total}
            return [*pieces, '],"pagination":', json_text({**pagination, **held}), "}"]

        return AdmittedResponse(self._runtime, caller, search)

    async def end(self, request: Request, project_id: str) -> Response:
        """End a session: delete its variables and messages for good."""
        caller, body = await self._read(request, project_id)
        session_id = _required_id(body)
        share(session=session_id)

        async def end() -> Pieces:
            await self._runtime.store.end_session(caller.space, session_id)
            message = "Session ended successfully"
            return [json_text({"success": True, "sessionId": session_id, "message": message})]

        return AdmittedResponse(self._runtime, caller, end)

    async def list_all(self, request: Request, project_id: str) -> Response:
        """List sessions, newest first, ended ones too."""
        caller = await self._runtime.authenticated(request, project_id)
        query = request.query_params
        page = _count(_number(query.get("page")), "page", 1, 1, MAX_PAGE)
        size = _count(_number(query.get("pageSize")), "pageSize", DEFAULT_PAGE_SIZE, 1, MAX_LIMIT)
        text = query.get("search", "")
        _check_searched(text, "search")

        async def list_all() -> Pieces:
            found = await self._runtime.store.list_sessions(
                caller.space, limit=size, offset=(page - 1) * size, text=text
            )
            pages = -(-found.total // size)
            pagination = {"page": page, "totalPages": pages, "total": found.total}
            data = [_summary(session) for session in found.items]
            return [write_json({"data": data, "pagination": pagination}).decode()]

        return AdmittedResponse(self._runtime, caller, list_all)

    async def _read(self, request: Request, project_id: str) -> tuple[Caller, dict[str, JSONValue]]:
        """Return the request's caller, and the JSON object that its body holds."""
        caller = await self._runtime.authenticated(request, project_id)
        with self._runtime.shared.admission.reading(project_id, caller.id):
            return caller, await read_object(request, self._runtime.settings)


class AdmittedResponse(Response):
    """An ASGI response that works and is sent while it holds a place of its key and its project.

    `work` returns the JSON text of the answer in pieces, which are sent without a copy of the
    whole text.
    """

    def __init__(
        self, runtime: Runtime, caller: Caller, work: Callable[[], Awaitable[Pieces]]
    ) -> None:
        super().__init__()
        self._runtime = runtime
        self._caller = caller
        self._work = work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Do the work and answer."""
        async with self._runtime.shared.admission.turn(self._caller.project, self._caller.id):
            pieces = await self._work()
            size = sum(map(utf8_size, pieces))
            headers = {"content-type": "application/json", "content-length": str(size)}
            raw = [(name.encode(), value.encode()) for name, value in headers.items()]
            await send({"type": "http.response.start", "status": 200, "headers": raw})
            # A client that reads nothing for so long keeps no place, and its answer stays unfinished.
            with suppress(TimeoutError):
                for batch in batches(pieces):
                    with anyio.fail_after(self._runtime.settings.write_seconds):
                        await send({"type": "http.response.body", "body": batch, "more_body": True})
                        await anyio.lowlevel.checkpoint()  # a fast client must not hold the loop
                await send({"type": "http.response.body", "body": b""})


def batches(pieces: Pieces) -> Iterator[bytes]:
    """Yield the bytes of a text: small pieces together, large ones cut."""
    waiting: list[str] = []
    size = 0
    for piece in pieces:
        for start in range(0, len(piece), BATCH_CHARACTERS):
            part = piece[start : start + BATCH_CHARACTERS]
            waiting.append(part)
            size += len(part)
            if size >= BATCH_CHARACTERS:
                yield "".join(waiting).encode()
                waiting, size = [], 0
    if waiting:
        yield "".join(waiting).encode()


def answered(value: object) -> Response:
    """Answer with JSON."""
    return Response(write_json(value), media_type="application/json")


def iso(time: datetime | None) -> str | None:
    """Write a time as the API does: UTC, milliseconds, Z."""
    if time is None:
        return None
    return time.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def _session_pieces(session: Session, *names: str) -> list[str]:
    """Write a session as an object that holds its data under each of the names."""
    pieces = ['{"sessionId":', json_text(session.id)]
    for name in names:
        pieces += [f',"{name}":', *session.data_pieces()]
    created, updated = iso(session.created_at), iso(session.updated_at)
    return [*pieces, f',"createdAt":"{created}","updatedAt":"{updated}"}}']


def _summary(session: SessionSummary) -> dict[str, object]:
    return {
        "sessionId": session.id,
        "startTime": iso(session.created_at),
        "endTime": iso(session.ended_at),
        "provider": session.provider,
        "messageCount": session.message_count,
    }


def _required_id(body: Mapping[str, JSONValue]) -> str:
    session_id = body.get("session_id")
    if session_id is None or session_id == "":
        raise bad_request("session_id is required", param="session_id")
    if not isinstance(session_id, str):
        raise bad_request("Invalid request body", "session_id: must be a string")
    return _checked_id(session_id)


def _checked_id(session_id: str) -> str:
    problems: list[str] = []
    checked_session_id(session_id, problems.append, "session_id")
    if problems:
        raise bad_request("Invalid session id", *problems, param="session_id")
    return session_id


def _field(body: Mapping[str, JSONValue], name: str, kind: type, default: Any) -> Any:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, kind):
        wanted = "an object" if kind is dict else "a string"
        raise bad_request("Invalid request body", f"{name}: must be {wanted}")
    return value


def _check_searched(text: str, name: str) -> None:
    if len(text) > MAX_SEARCHED:
        raise bad_request("Invalid request", f"{name}: is over {MAX_SEARCHED} characters")


def _number(text: str | None) -> JSONValue:
    """Read a number of a query; what is none stays text, to be refused."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 16 else text


def _count(value: JSONValue, name: str, default: int, least: int, most: int) -> int:
    if value is None:
        return default
    value = whole_number(value)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise bad_request("Invalid request", f"{name}: must be an integer from {least} to {most}")
    return value
