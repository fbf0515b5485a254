"""The endpoints of the API: chat completions, models, and sessions."""

import hashlib
import json
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from http import HTTPStatus

import anyio
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pathors_agent.agents.approvals import Approvals, digests_of
from pathors_agent.core.conversation import Conversation
from pathors_agent.errors import SessionConflict, SessionNotFound
from pathors_agent.json_text import iso, write_json
from pathors_agent.messages import AssistantMessage, Message, ToolMessage
from pathors_agent.server.http.bodies import (
    DEFAULT_LIMIT,
    DEFAULT_PAGE_SIZE,
    MAX_LIMIT,
    MAX_PAGE,
    MAX_SEARCHED,
    BodyT,
    CreateBody,
    EndBody,
    RenameBody,
    SearchBody,
)
from pathors_agent.server.http.body import parse_object, parsed, read_body, read_object
from pathors_agent.server.http.completion import check_header
from pathors_agent.server.http.edge import json_response
from pathors_agent.server.http.keys import Caller
from pathors_agent.server.http.problems import Problem, bad_request, unavailable
from pathors_agent.server.running.runtime import Runtime
from pathors_agent.server.turns.front_ends import COMPLETIONS, READERS, Read, writer_of
from pathors_agent.server.turns.project import DEFAULT_MODEL
from pathors_agent.server.turns.sending import TurnResponse
from pathors_agent.server.turns.turn import Turn, new_head
from pathors_agent.stores.base import MAX_SEARCH_BYTES
from pathors_agent.stores.texts import json_text, read_message_text, utf8_size
from pathors_agent.stores.values import RequestId, Session, SessionSummary, session_id_problem
from pathors_agent.telemetry.events import share
from pathors_agent.tools.registry import ToolRegistry


class Completions:
    """Answers requests for chat completions, or in the protocol of a front end."""

    def __init__(self, runtime: Runtime, protocol: str = COMPLETIONS) -> None:
        self._runtime = runtime
        self._read_fields = READERS[protocol]

    async def complete(self, request: Request, project_id: str) -> TurnResponse:
        """Read a request, and return the response that runs its turn."""
        runtime = self._runtime
        caller = await runtime.authenticated(request, project_id)
        if runtime.is_draining:
            raise unavailable("The server is stopping; try again")
        runtime.services.admission.check_rates(caller.id)
        with runtime.services.admission.reading(project_id, caller.id):
            body = await read_body(request, runtime.settings)
            asked, front_end = await parsed(len(body), lambda: self._read(body, request))
        request_id, digest = _request_id(request, caller), _digest(body, asked.session_id)
        project = runtime.projects[project_id]
        session_id = asked.session_id or _new_session_id(request_id, digest)
        turn = Turn(
            services=runtime.services,
            project=project,
            request=asked,
            session_id=session_id,
            caller=caller,
            head=new_head(project, asked, session_id),
            body=body,
            body_digest=digest,
            session_header=request.headers.get("x-session-id"),
            front_end=front_end,
            headers=request.headers,
            request_id=request_id,
        )
        share(session=turn.session_id)
        return TurnResponse(turn, runtime.start_soon, runtime.durable, writer_of=writer_of)

    def _read(self, body: bytes, request: Request) -> Read:
        settings = self._runtime.settings
        session = request.headers.get("x-session-id")
        return self._read_fields(parse_object(body, settings), session, settings)


def _digest(body: bytes, session_id: str | None) -> str:
    """Return a digest of a request, including a session id outside of the body."""
    return hashlib.sha256(body + b"\n" + (session_id or "").encode()).hexdigest()


def _new_session_id(request: RequestId | None, digest: str) -> str:
    """Return the id of the session of a request that names none.

    Requests with the same Idempotency-Key get the same id, so that a repeat finds the results of
    the tools of a failed attempt.
    """
    if request is None:
        return f"session-{secrets.token_hex(12)}"
    parts = [request.project, request.api_key, request.name, digest]
    return f"session-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]}"


def _request_id(request: Request, caller: Caller) -> RequestId | None:
    name = request.headers.get("idempotency-key")
    if name is None:
        return None
    check_header(name, "Idempotency-Key")
    return RequestId(project=caller.space, api_key=caller.id, name=name)


# - models: a project has one, its agent -


class ModelEndpoints:
    """Answers requests for the models of a project, which chat front ends send first."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._created = int(time.time())

    async def list_all(self, request: Request, project_id: str) -> Response:
        """List the project's one model."""
        await self._runtime.authenticated(request, project_id)
        return json_response({"object": "list", "data": [self._model(project_id)]})

    async def query(self, request: Request, project_id: str, model_id: str) -> Response:
        """Return the project's model, if it has this name."""
        await self._runtime.authenticated(request, project_id)
        model = self._model(project_id)
        if model["id"] != model_id:
            raise Problem(
                HTTPStatus.NOT_FOUND, "Model not found", code="model_not_found", param="model"
            )
        return json_response(model)

    def _model(self, project_id: str) -> dict[str, object]:
        return {
            "id": self._runtime.projects[project_id].model or DEFAULT_MODEL,
            "object": "model",
            "created": self._created,
            "owned_by": "pathors-agent",
        }


# The most characters of one write: a connection takes them without waiting.
BATCH_CHARACTERS = 64 * 1024

Pieces = Sequence[str]
"""A JSON text in pieces."""


class SessionEndpoints:
    """Answers the requests of the session API."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def create(self, request: Request, project_id: str) -> Response:
        """Create a session, with variables for the project's instructions."""
        caller, body = await self._read(request, project_id, CreateBody)
        session_id, variables, provider = body.session_id, body.variables or {}, body.provider or ""
        share(session=session_id)

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

        A page has at most `limit` sessions and `MAX_SEARCH_BYTES`.
        """
        caller, body = await self._read(request, project_id, SearchBody)
        text, limit, offset = body.search_string, body.limit or DEFAULT_LIMIT, body.offset or 0

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

    async def rename(self, request: Request, project_id: str, session_id: str) -> Response:
        """Set a session's title."""
        caller, body = await self._read(request, project_id, RenameBody)
        share(session=_checked_id(session_id))

        async def rename() -> Pieces:
            if not await self._runtime.store.rename_session(caller.space, session_id, body.title):
                raise Problem(HTTPStatus.NOT_FOUND, "Session not found")
            return [json_text({"sessionId": session_id, "title": body.title})]

        return AdmittedResponse(self._runtime, caller, rename)

    async def end(self, request: Request, project_id: str) -> Response:
        """End a session: delete its variables and messages permanently."""
        caller, body = await self._read(request, project_id, EndBody)
        session_id = body.session_id
        share(session=session_id)

        async def end() -> Pieces:
            await self._runtime.store.end_session(caller.space, session_id)
            message = "Session ended successfully"
            return [json_text({"success": True, "sessionId": session_id, "message": message})]

        return AdmittedResponse(self._runtime, caller, end)

    async def list_all(self, request: Request, project_id: str) -> Response:
        """List sessions, newest first, including ended ones."""
        caller = await self._runtime.authenticated(request, project_id)
        query = request.query_params
        page = _number(query.get("page"), "page", 1, MAX_PAGE)
        size = _number(query.get("pageSize"), "pageSize", DEFAULT_PAGE_SIZE, MAX_LIMIT)
        text = query.get("search", "")
        if len(text) > MAX_SEARCHED:
            raise bad_request("Invalid request", f"search: is over {MAX_SEARCHED} characters")

        async def list_all() -> Pieces:
            found = await self._runtime.store.list_sessions(
                caller.space, limit=size, offset=(page - 1) * size, text=text
            )
            pages = -(-found.total // size)
            pagination = {"page": page, "totalPages": pages, "total": found.total}
            data = [_summary(session) for session in found.items]
            return [write_json({"data": data, "pagination": pagination}).decode()]

        return AdmittedResponse(self._runtime, caller, list_all)

    async def _read(
        self, request: Request, project_id: str, model: type[BodyT]
    ) -> tuple[Caller, BodyT]:
        """Return the request's caller and its body."""
        caller = await self._runtime.authenticated(request, project_id)
        with self._runtime.services.admission.reading(project_id, caller.id):
            fields = await read_object(request, self._runtime.settings)
        return caller, model.read(fields)


class AdmittedResponse(Response):
    """An ASGI response that holds a place of its key and its project until it is sent.

    `work` returns the JSON text of the answer in pieces, which are sent without a copy of the whole
    text.
    """

    def __init__(
        self, runtime: Runtime, caller: Caller, work: Callable[[], Awaitable[Pieces]]
    ) -> None:
        super().__init__()
        self._runtime = runtime
        self._caller = caller
        self._work = work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Build the answer and send it."""
        async with self._runtime.services.admission.turn(self._caller.project, self._caller.id):
            pieces = await self._work()
            size = sum(map(utf8_size, pieces))
            headers = {"content-type": "application/json", "content-length": str(size)}
            raw = [(name.encode(), value.encode()) for name, value in headers.items()]
            await send({"type": "http.response.start", "status": 200, "headers": raw})
            # If a client does not read, its place becomes free, and its answer stays incomplete.
            with suppress(TimeoutError):
                for batch in batches(pieces):
                    with anyio.fail_after(self._runtime.settings.write_seconds):
                        await send({"type": "http.response.body", "body": batch, "more_body": True})
                        await anyio.lowlevel.checkpoint()  # a fast client must not hold the loop
                await send({"type": "http.response.body", "body": b""})


def batches(pieces: Pieces) -> Iterator[bytes]:
    """Yield the bytes of a text: join small pieces, and cut large ones."""
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


def _session_pieces(session: Session, *names: str) -> list[str]:
    """Write a session as an object that has its data under each of the names."""
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
        "title": session.title,
    }


def _checked_id(session_id: str) -> str:
    if problem := session_id_problem(session_id):
        raise bad_request("Invalid session id", f"session_id: {problem}")
    return session_id


def _number(text: str | None, name: str, default: int, most: int) -> int:
    """Return a number of a query, from 1 on."""
    if text is None:
        return default
    is_number = text.isascii() and text.isdigit() and len(text) < _DIGITS
    if not is_number or not 1 <= int(text) <= most:
        raise bad_request("Invalid request", f"{name}: must be an integer from 1 to {most}")
    return int(text)


_DIGITS = 16


# - calls that wait for approval -


def read_tail(session: Session) -> list[Message]:
    """Return the session's last message that is not a tool result, and the results after it.

    Only calls in this tail can be open, so the rest of the session need not be parsed.
    """
    tail: list[Message] = []
    for text in reversed(session.message_texts):
        tail.append(read_message_text(text))
        if not isinstance(tail[-1], ToolMessage):
            break
    return tail[::-1]


def mark_waiting(session: Session, tail: list[Message], own_tools: ToolRegistry) -> Session:
    """Return the session with the `approval` of each open call that waits.

    It is the same as in the answer that made the call.
    """
    if not tail or not isinstance(tail[0], AssistantMessage) or not tail[0].tool_calls:
        return session
    waiting = Approvals(Conversation(tail), own_tools).open()
    if not waiting:
        return session
    texts = list(session.message_texts)
    message = json.loads(texts[-len(tail)])
    digests = digests_of(tail[0].tool_calls, waiting)
    for call, (_, digest) in zip(message["tool_calls"], digests, strict=True):
        if digest is not None:
            call["approval"] = {"digest": digest}
    texts[-len(tail)] = json_text(message)
    return replace(session, message_texts=tuple(texts))
