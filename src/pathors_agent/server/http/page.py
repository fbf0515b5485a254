"""The pages: static files from this package, under headers that let nothing else in."""

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from importlib.resources import files
from pathlib import PurePath

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

# By the suffix of the file: machines have different types for .js, and browsers refuse a wrong
# type.
_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}

# Only scripts, styles and requests of this origin, nothing inline, and no text becomes markup.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",  # images in messages
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",  # for browsers that do not know frame-ancestors
}


def add_page(app: FastAPI, folder: str = "static", *, shared: Sequence[str] = ()) -> None:
    """Show a folder's page at the app's root, and its files and `shared` files beside it."""
    package = files("pathors_agent.server")
    for file in (*(package / folder).iterdir(), *(package / "static" / name for name in shared)):
        path = "/" if file.name == "index.html" else f"/static/{file.name}"
        endpoint = _file_endpoint(file.read_bytes(), _TYPES[PurePath(file.name).suffix])
        app.add_api_route(path, endpoint, methods=["GET", "HEAD"], include_in_schema=False)


def _file_endpoint(content: bytes, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    """Return the endpoint of a file, which each browser loads once."""
    tag = f'"{hashlib.sha256(content).hexdigest()[:20]}"'
    headers = {**_HEADERS, "ETag": tag}

    async def endpoint(request: Request) -> Response:
        # A list of tags; a proxy that compresses the answer marks them as weak.
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type=media_type)

    return endpoint
