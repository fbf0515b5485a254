"""Assign each request an id, return it in the answer, and log the request when its answer ends."""

import logging
import re
import secrets
from time import perf_counter
from urllib.parse import quote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pathors_agent.telemetry.events import LOG, observe, shared_fields, write

# UUIDs, trace ids, base64 and what proxies make; nothing that a log or a page could misread.
_WELL_FORMED = re.compile(rb"[A-Za-z0-9._~:+/=@-]{1,128}")
_HEADER = b"x-request-id"

# The client went away before the answer began; the number that nginx made common.
CLIENT_LEFT = 499

# Longer paths are attacks or mistakes.
_PATH_CHARACTERS = 500

_ACCESS = logging.getLogger("pathors_agent.access")


class RequestLog:
    """ASGI middleware: every answer has an `X-Request-ID`, and every event of the log its id.

    With `writes_lines`, each request is an event `request` of the logger `pathors_agent.access`.
    Queries of addresses are left out: they hold what people search for.
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
        begun, status, size = perf_counter(), CLIENT_LEFT, 0

        async def noted(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = int(message["status"])
                message["headers"] = [*message.get("headers", ()), header]
            else:
                size += len(message.get("body", b""))
            await send(message)

        with shared_fields(request_id=request_id):
            try:
                await self._app(scope, receive, noted)
            finally:
                if self._writes_lines:
                    seconds = round(perf_counter() - begun, 6)
                    fields = {"method": scope["method"], "path": _path(scope), "status": status}
                    fields |= {"bytes": size, "seconds": seconds}
                    observe(LOG, write, "request", fields, to=_ACCESS)


def _request_id(scope: Scope) -> str:
    """Return the client's own id if it is well formed, else a new one."""
    given = [value for name, value in scope["headers"] if name == _HEADER]
    if len(given) == 1 and _WELL_FORMED.fullmatch(given[0]):
        return str(given[0], "ascii")
    return f"req_{secrets.token_hex(12)}"


def _path(scope: Scope) -> str:
    raw: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
    return raw.partition(b"?")[0].decode("ascii", "backslashreplace")[:_PATH_CHARACTERS]
