"""Serve requests whose form differs from what clients should send: at the edge of the app."""

from urllib.parse import unquote

import anyio
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# How long the rest of a refused body is read, so that its sender gets to the answer: in all, and
# for each piece.
LINGER_SECONDS = 30.0
LINGER_PIECE_SECONDS = 2.0


class Farewell(Response):
    """The last answer on a connection whose request was not read to its end.

    Closing a connection with unread data resets it, and a client that sends its whole body before
    it reads would lose the answer. So the rest of the body is read and dropped first.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer, then read what is left of the request."""

        async def sent(message: Message) -> None:
            is_last = message["type"] == "http.response.body"
            await send({**message, "more_body": True} if is_last else message)

        await super().__call__(scope, receive, sent)
        if not _waits_for_continue(scope):
            with anyio.move_on_after(LINGER_SECONDS):
                await _drop_body(receive)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


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


class Slashes:
    """ASGI middleware: reads doubled slashes of a path as one, and leaves out one at its end.

    Clients join a base URL and a path by hand. A slash inside of an id is percent-encoded, and
    stays as it is.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            path: str = scope["path"]
            if "//" in path or path.endswith("/"):
                scope = {**scope, "path": _tidy_path(scope)}
        await self._app(scope, receive, send)


def _tidy_path(scope: Scope) -> str:
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    raw = (scope.get("raw_path") or b"").decode("ascii", "replace")
    if unquote(raw) != path:  # a server that sends no raw path, or that of an outer app
        raw = path
    if not raw.startswith(root):
        root = ""
    rest = "/".join(part for part in raw[len(root) :].split("/") if part)
    return f"{root}/{unquote(rest) if raw is not path else rest}"


class TwoLengths:
    """ASGI middleware: closes the connection of a request that states its length in two ways.

    A proxy before this server may read another length than this server does, and take the rest of
    the body for a request. RFC 9112 (6.1) demands to close.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""

        async def last(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        await self._app(scope, receive, last if _has_two_lengths(scope) else send)


def _has_two_lengths(scope: Scope) -> bool:
    if scope["type"] != "http":
        return False
    names = {name for name, _ in scope["headers"]}
    return b"content-length" in names and b"transfer-encoding" in names
