"""The session API: create, query, search, end, list."""

import json
from collections.abc import Mapping
from datetime import datetime
from http import HTTPStatus
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from pathors_agent.errors import SessionConflict, SessionNotFound
from pathors_agent.json_text import write_json
from pathors_agent.messages import JSONValue
from pathors_agent.server.body import read_object
from pathors_agent.server.completion_request import checked_session_id, whole_number
from pathors_agent.server.open_calls import mark_waiting
from pathors_agent.server.problems import Problem, bad_request
from pathors_agent.server.runtime import Runtime
from pathors_agent.stores.base import Session, SessionSummary
from pathors_agent.stores.texts import data_text
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


class SessionEndpoints:
    """Answers the requests of the session API."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def create(self, request: Request, project_id: str) -> Response:
        """Create a session, with variables for the project's instructions."""
        await self._runtime.authenticated(request, project_id)
        body = await read_object(request, self._runtime.settings)
        session_id = _required_id(body)
        share(session=session_id)
        variables, provider = _field(body, "variables", dict, {}), _field(body, "provider", str, "")
        if len(provider) > MAX_PROVIDER:
            raise bad_request(
                "Invalid request body", f"provider: is over {MAX_PROVIDER} characters"
            )
        store = self._runtime.store
        try:
            await store.create_session(
                project_id, session_id, variables=variables, provider=provider
            )
        except SessionConflict:
            raise Problem(
                HTTPStatus.CONFLICT, "The session exists with other content", param="session_id"
            ) from None
        return answered({"sessionId": session_id, "pathwayId": project_id})

    async def query(self, request: Request, project_id: str, session_id: str) -> Response:
        """Give a session's variables and messages."""
        await self._runtime.authenticated(request, project_id)
        share(session=_checked_id(session_id))
        try:
            session = await self._runtime.store.session(project_id, session_id)
        except SessionNotFound:
            raise Problem(HTTPStatus.NOT_FOUND, "Session not found") from None
        own_tools = self._runtime.projects[project_id].own_tools
        data = mark_waiting(_data(session), session, own_tools)
        return answered({"sessionId": session.id, "state": data, "data": data, **_times(session)})

    async def search(self, request: Request, project_id: str) -> Response:
        """Find sessions by a text in the JSON of their data."""
        await self._runtime.authenticated(request, project_id)
        body = await read_object(request, self._runtime.settings)
        if body.get("search_string") is None:
            raise bad_request("Invalid request body", "search_string: is required, a string")
        text = _field(body, "search_string", str, "")
        _check_searched(text, "search_string")
        limit = _count(body.get("limit"), "limit", DEFAULT_LIMIT, 1, MAX_LIMIT)
        offset = _count(body.get("offset"), "offset", 0, 0, MAX_OFFSET)
        page = await self._runtime.store.search_sessions(
            project_id, text, limit=limit, offset=offset
        )
        results = [
            {"sessionId": session.id, "data": _data(session), **_times(session)}
            for session in page.items
        ]
        pagination = {"limit": limit, "offset": offset, "total": page.total}
        return answered({"results": results, "pagination": pagination})

    async def end(self, request: Request, project_id: str) -> Response:
        """End a session: its variables and messages are gone for good."""
        await self._runtime.authenticated(request, project_id)
        body = await read_object(request, self._runtime.settings)
        session_id = _required_id(body)
        share(session=session_id)
        await self._runtime.store.end_session(project_id, session_id)
        message = "Session ended successfully"
        return answered({"success": True, "sessionId": session_id, "message": message})

    async def list_all(self, request: Request, project_id: str) -> Response:
        """List sessions, newest first, ended ones too."""
        await self._runtime.authenticated(request, project_id)
        query = request.query_params
        page = _count(_number(query.get("page")), "page", 1, 1, MAX_PAGE)
        size = _count(_number(query.get("pageSize")), "pageSize", DEFAULT_PAGE_SIZE, 1, MAX_LIMIT)
        text = query.get("search", "")
        _check_searched(text, "search")
        found = await self._runtime.store.list_sessions(
            project_id, limit=size, offset=(page - 1) * size, text=text
        )
        pages = -(-found.total // size)
        pagination = {"page": page, "totalPages": pages, "total": found.total}
        data = [_summary(session) for session in found.items]
        return answered({"data": data, "pagination": pagination})


def answered(value: object) -> Response:
    """Answer with JSON."""
    return Response(write_json(value), media_type="application/json")


def iso(time: datetime | None) -> str | None:
    """Write a time as the API does: UTC, milliseconds, Z."""
    if time is None:
        return None
    return time.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def _data(session: Session) -> Any:
    return json.loads(data_text(session.variables, session.messages))


def _times(session: Session) -> dict[str, str | None]:
    return {"createdAt": iso(session.created_at), "updatedAt": iso(session.updated_at)}


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
