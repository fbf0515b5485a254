"""The addresses of front ends: one for each protocol, and one to reconnect to its running stream."""

from http import HTTPStatus
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from pathors_agent.server.http.completion import CompletionRequest
from pathors_agent.server.http.document import COMPLETION_HEADERS, SESSION_HEADERS, about
from pathors_agent.server.http.problems import bad_request
from pathors_agent.server.running.runtime import Runtime
from pathors_agent.server.streams.ag_ui import AGUIRequest
from pathors_agent.server.streams.front_end import FrontEndRequest
from pathors_agent.server.streams.ui_messages import UIMessageRequest
from pathors_agent.server.turns.front_ends import writer_of
from pathors_agent.server.turns.sending import TurnResponse
from pathors_agent.server.turns.turn import Turn, front_end_stream, new_head
from pathors_agent.stores.values import session_id_problem
from pathors_agent.telemetry.events import share


class RunningTurns:
    """Answers clients that reconnect to the running turn of their chat."""

    def __init__(self, runtime: Runtime, protocol: type[FrontEndRequest]) -> None:
        self._runtime = runtime
        self._protocol = protocol

    async def follow(self, request: Request, project_id: str, session_id: str) -> Response:
        """Send the events of the session's running turn, after the one of `Last-Event-ID`.

        The status is 204 if this process runs no turn of the session that outlives its client.
        """
        runtime = self._runtime
        caller = await runtime.authenticated(request, project_id)
        if problem := session_id_problem(session_id):
            raise bad_request("Invalid session id", problem)
        share(session=session_id)
        name = front_end_stream(self._protocol, caller, session_id)
        kept = runtime.services.running_streams.get(name)
        if kept is None or request.method == "HEAD":
            return Response(status_code=HTTPStatus.NO_CONTENT if kept is None else HTTPStatus.OK)
        project = runtime.projects[project_id]
        asked = CompletionRequest.model_construct(messages=(), stream=True)
        turn = Turn(
            services=runtime.services,
            project=project,
            request=asked,
            session_id=session_id,
            caller=caller,
            head=new_head(project, asked, session_id),
            body=b"",
            body_digest="",
            # This request does not contain the messages of the turn, and none of them are sent.
            front_end=self._protocol.model_construct(
                messages=[], thread_id=session_id, run_id=session_id
            ),
            headers=request.headers,
        )
        return TurnResponse(turn, runtime.start_soon, writer_of=writer_of, kept=kept)


# - the OpenAPI document -


# A JSON object of the protocol, or `[DONE]`.
_EVENT = {"type": "object", "required": ["data"], "properties": {"data": {"type": "string"}}}


def _events(description: str) -> dict[str, Any]:
    return {
        "description": description,
        "headers": SESSION_HEADERS,
        "content": {"text/event-stream": {"schema": _EVENT}},
    }


def _about_turn(summary: str, description: str, body: type[FrontEndRequest]) -> dict[str, Any]:
    said = about(summary, description, None, body, *(409, 422, 429, 502, 504))
    said["openapi_extra"]["parameters"] = COMPLETION_HEADERS[:2]
    said["responses"][200] = _events("The events of the turn")
    return said


def _about_stream(summary: str) -> dict[str, Any]:
    said = about(summary, "From its first event on, or after the one of `Last-Event-ID`.", None)
    said["openapi_extra"]["parameters"] = COMPLETION_HEADERS[2:]
    said["responses"][200] = _events("The events of the running turn")
    said["responses"][204] = {
        "description": "No turn of the session runs, or it ends with its client"
    }
    return said


ABOUT_TURNS = {
    UIMessageRequest: _about_turn(
        "Chat with useChat",
        "The UI message stream of Vercel's AI SDK. The session is the chat's id.",
        UIMessageRequest,
    ),
    AGUIRequest: _about_turn(
        "Run an agent of AG-UI", "The session is the id of the thread.", AGUIRequest
    ),
}
ABOUT_STREAMS = {
    UIMessageRequest: _about_stream("Resume a stream of useChat"),
    AGUIRequest: _about_stream("Resume a run of AG-UI"),
}
