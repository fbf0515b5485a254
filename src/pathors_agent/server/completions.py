"""The chat completion endpoint: whose request it is, what it asks for, and the turn for it."""

import hashlib
import json
import secrets

from starlette.requests import Request

from pathors_agent.server.body import parse_object, parsed, read_body
from pathors_agent.server.completion_request import (
    CompletionRequest,
    check_id,
    read_request,
)
from pathors_agent.server.keys import Caller
from pathors_agent.server.problems import bad_request, unavailable
from pathors_agent.server.runtime import Runtime
from pathors_agent.server.sending import TurnResponse
from pathors_agent.server.turn import Turn
from pathors_agent.stores.base import RequestId
from pathors_agent.telemetry.events import share


class Completions:
    """Answers requests for chat completions."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def complete(self, request: Request, project_id: str) -> TurnResponse:
        """Read a request, and give the response that runs its turn."""
        runtime = self._runtime
        caller = await runtime.authenticated(request, project_id)
        if runtime.is_draining:
            raise unavailable("The server is stopping; try again")
        runtime.shared.admission.check_rates(caller.id)
        with runtime.shared.admission.reading(project_id, caller.id):
            body = await read_body(request, runtime.settings)
            asked = await parsed(len(body), lambda: self._read(body, request))
        request_id, digest = _request_id(request, caller), _digest(body, asked.session_id)
        turn = Turn(
            shared=runtime.shared,
            project=runtime.projects[project_id],
            request=asked,
            session_id=asked.session_id or _new_session_id(request_id, digest),
            caller=caller,
            body_digest=digest,
            request_id=request_id,
            headers=request.headers,
            said=(body, request.headers.get("x-session-id")),
        )
        share(session=turn.session_id)
        return TurnResponse(turn, runtime.start_soon, runtime.durable)

    def _read(self, body: bytes, request: Request) -> CompletionRequest:
        settings = self._runtime.settings
        session = request.headers.get("x-session-id")
        return read_request(parse_object(body, settings), session, settings)


def _digest(body: bytes, session_id: str | None) -> str:
    """Tell requests of one Idempotency-Key apart; the session may be named beside the body."""
    return hashlib.sha256(body + b"\n" + (session_id or "").encode()).hexdigest()


def _new_session_id(request: RequestId | None, digest: str) -> str:
    """Return the id of the session of a request that names none.

    A request with an Idempotency-Key always gets the same one, so that a repeat finds what the
    tools of a failed attempt did.
    """
    if request is None:
        return f"session-{secrets.token_hex(12)}"
    parts = [request.project, request.api_key, request.name, digest]
    return f"session-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]}"


def _request_id(request: Request, caller: Caller) -> RequestId | None:
    name = request.headers.get("idempotency-key")
    if name is None:
        return None
    problems: list[str] = []
    check_id(name, problems.append, "Idempotency-Key")
    if problems:
        raise bad_request("Invalid header", *problems, param="Idempotency-Key")
    return RequestId(project=caller.space, api_key=caller.id, name=name)
