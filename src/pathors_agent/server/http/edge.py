"""The edge of the app: ASGI middleware, and responses for requests of a bad form."""

import asyncio
import logging
import re
from collections.abc import Awaitable
from time import perf_counter
from urllib.parse import quote, unquote

import anyio
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pathors_agent.agents.stream import unique_id
from pathors_agent.concurrency.event_loops import task_is_cancelled
from pathors_agent.json_text import write_json
from pathors_agent.server.http.problems import Problem, log_bug
from pathors_agent.telemetry.events import LOG, observe, shared_fields, write

# How long the rest of a refused body is read, so that its sender can read the answer: in total, and
# for each piece.
LINGER_SECONDS = 30.0
LINGER_PIECE_SECONDS = 2.0


class LastResponse(Response):
    """The last answer on a connection whose request was not read to its end.

    Closing a connection with unread data resets it, and a client that sends its whole body before
    it reads would lose the answer. So the rest of the body is first read and dropped.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer, then read the rest of the request."""

        async def sent(message: Message) -> None:
            is_last = message["type"] == "http.response.body"
            await send({**message, "more_body": True} if is_last else message)

        await super().__call__(scope, receive, sent)
        if not _waits_for_continue(scope):
            with anyio.move_on_after(LINGER_SECONDS):
                await _drop_body(receive)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def problem_response(problem: Problem) -> Response:
    """Return the response that tells a client of a problem."""
    kind = LastResponse if problem.headers.get("Connection") == "close" else Response
    return kind(
        problem.body, problem.status, headers=problem.headers, media_type="application/json"
    )


async def answer_problem(request: Request, error: Problem) -> Response:
    """Handle a `Problem` that an endpoint raised."""
    return problem_response(error)


def _waits_for_continue(scope: Scope) -> bool:
    """Return whether the client sends no body before the server asks for it."""
    headers = dict(scope["headers"])
    return headers.get(b"expect", b"").lower() == b"100-continue" and b"content-length" in headers


async def _drop_body(receive: Receive) -> None:
    while True:
        with anyio.move_on_after(LINGER_PIECE_SECONDS) as waiting:
            message = await receive()
        if waiting.cancelled_caught or not message.get("more_body", False):
            return


class Addresses:
    """ASGI middleware: tidies paths, and adds headers to the answers of unusual requests.

    - Doubled slashes in a path become one, and a slash at its end is removed: clients join a base
      URL and a path by hand. A slash inside an id is percent-encoded, and is not changed.
    - The connection of a request that states its length in two ways is closed (RFC 9112, 6.1). A
      proxy may read another length, and take the rest of the body for another request.
    - The answers of older addresses get the header `Deprecation`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    # Not a coroutine, which would take memory while a stream is open.
    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one request."""
        if scope["type"] == "http":
            path: str = scope["path"]
            if "//" in path or path.endswith("/"):
                scope = {**scope, "path": _tidy_path(scope)}
            if _has_two_lengths(scope):
                send = _with_header(send, b"connection", b"close")
            if _is_old(scope):
                send = _with_header(send, b"deprecation", b"true")
        return self._app(scope, receive, send)


def _tidy_path(scope: Scope) -> str:
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    raw = (scope.get("raw_path") or b"").decode("ascii", "replace")
    if unquote(raw) != path:  # the server sends no raw path, or the path of an outer app
        raw = path
    if not raw.startswith(root):
        root = ""
    rest = "/".join(part for part in raw[len(root) :].split("/") if part)
    return f"{root}/{unquote(rest) if raw is not path else rest}"


def _has_two_lengths(scope: Scope) -> bool:
    names = {name for name, _ in scope["headers"]}
    return b"content-length" in names and b"transfer-encoding" in names


def _is_old(scope: Scope) -> bool:
    path: str = scope["path"].removeprefix(scope.get("root_path", ""))
    return path.startswith(("/project/", "/api/project/"))


def _with_header(send: Send, name: bytes, value: bytes) -> Send:
    """Return a `send` that adds a header to the answer."""

    def sent(message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (name, value)]
        return send(message)

    return sent


# - assign each request an id, return it in the answer, and log the request when its answer ends -


# The characters of UUIDs, trace ids, base64 and proxies' ids; none that a log or a page could
# misread.
_WELL_FORMED = re.compile(rb"[A-Za-z0-9._~:+/=@-]{1,128}")
_HEADER = b"x-request-id"

# The client disconnected before the answer began; nginx uses this status.
CLIENT_LEFT = 499
# The key of `_Sent` in a request's scope. If each layer inspected all messages, each chunk of a
# stream would take more time.
_SENT = "pathors_agent.sent"
# The key of the `send` for the body of an answer, past the layers that only read or change its head.
SEND_BODY = "pathors_agent.send_body"

# Longer paths are attacks or mistakes.
_PATH_CHARACTERS = 500

_ACCESS = logging.getLogger("pathors_agent.access")


class _Sent:
    """The status of an answer, and how many bytes of its body were sent."""

    __slots__ = ("size", "status")

    def __init__(self) -> None:
        self.status, self.size = CLIENT_LEFT, 0


class RequestLog:
    """ASGI middleware: adds an `X-Request-ID` to each answer, and its id to each log event.

    With `writes_lines`, each request is an event `request` of the logger `pathors_agent.access`.
    The queries of addresses are left out, because they contain the texts of searches.
    """

    def __init__(self, app: ASGIApp, *, writes_lines: bool) -> None:
        self._app = app
        self._writes_lines = writes_lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        header = (_HEADER, request_id.encode())
        begun = perf_counter()
        scope[_SENT] = sent = _Sent()

        # Not a coroutine, which would take time for each chunk of a stream.
        def noted(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                sent.status = int(message["status"])
                message["headers"] = [*message.get("headers", ()), header]
            else:
                sent.size += len(message.get("body", b""))
            return send(message)

        scope[SEND_BODY] = noted if self._writes_lines else send
        with shared_fields(request_id=request_id):
            try:
                await self._app(scope, receive, noted)
            finally:
                if self._writes_lines:
                    seconds = round(perf_counter() - begun, 6)
                    fields = {"method": scope["method"], "path": _path(scope)}
                    fields |= {"status": sent.status, "bytes": sent.size, "seconds": seconds}
                    observe(LOG, write, "request", fields, to=_ACCESS)


def _request_id(scope: Scope) -> str:
    """Return the client's own id if it is well formed, else a new one."""
    given = [value for name, value in scope["headers"] if name == _HEADER]
    if len(given) == 1 and _WELL_FORMED.fullmatch(given[0]):
        return str(given[0], "ascii")
    return f"req_{unique_id(24)}"


def _path(scope: Scope) -> str:
    raw: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
    return raw.partition(b"?")[0].decode("ascii", "backslashreplace")[:_PATH_CHARACTERS]


class UnexpectedErrors:
    """ASGI middleware inside of `RequestLog`: answers unexpected exceptions with 500, and logs them.

    An ASGI server would log its text, which may hold what users write. A response that an endpoint
    left with `answer_after_routing` is sent from here.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
            if (response := scope.pop(_RESPONSE, None)) is not None:
                await response(scope, receive, send)
        except (Exception, asyncio.CancelledError) as error:  # any bug
            if isinstance(error, asyncio.CancelledError) and task_is_cancelled():
                raise
            log_bug("request_failed", error)
            if scope[_SENT].status != CLIENT_LEFT:
                raise _BodyCutOff from None
            answer = problem_response(Problem(500, "Internal server error"))
            await answer(scope, receive, send)


# The key of the response in a request's scope that is sent after routing.
_RESPONSE = "pathors_agent.response"


def answer_after_routing(scope: Scope, response: ASGIApp) -> None:
    """Send a response after the router and its layers have returned.

    For answers that stay open: the layers would take memory as long, and time for each chunk.
    """
    scope[_RESPONSE] = response


class _BodyCutOff(Exception):
    """Ends the connection in the middle of an answer."""


def json_response(value: object) -> Response:
    """Return a response with a JSON body."""
    return Response(write_json(value), media_type="application/json")
