"""Describe where an MCP server is and open the streams to it: a child process, or a URL."""

import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import httpx2
from mcp import MCPError, StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CONNECTION_CLOSED

TCP_CONNECT_SECONDS = 10.0

# Set by our HTTP client: the server cannot have seen the request. No error code of JSON-RPC or MCP.
NOT_SENT = 402_911_737

_SESSION_HEADER = "mcp-session-id"

Streams: TypeAlias = AbstractAsyncContextManager[tuple[Any, Any]]
"""A connection as the mcp package has it: a stream of messages to read, and one to write."""


class Server(Protocol):
    """A server, and how to reach it."""

    @property
    def shown(self) -> str:
        """The server's name in logs and errors, without secrets."""

    def streams(self) -> Streams:
        """Connect to the server."""

    def breaks_by(self, error: MCPError) -> bool:
        """Return whether an error means that the connection broke."""


@dataclass(frozen=True, slots=True)
class StdioServer:
    """A server in a child process."""

    parameters: StdioServerParameters = field(repr=False)

    @property
    def shown(self) -> str:
        """The command without its arguments, which may hold keys."""
        return self.parameters.command

    def streams(self) -> Streams:
        """Start the process; its stderr goes to ours."""
        return stdio_client(self.parameters, sys.__stderr__ or sys.stderr)

    def breaks_by(self, error: MCPError) -> bool:
        """Return False: the connection itself notices when the process ends its output."""
        return False


@dataclass(frozen=True, slots=True)
class HTTPServer:
    """A server at a URL, reached by streamable HTTP."""

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)

    @property
    def shown(self) -> str:
        """The URL without the parts that may hold keys."""
        return str(httpx2.URL(self.url).copy_with(userinfo=b"", query=None, fragment=None))

    @asynccontextmanager
    async def streams(self) -> AsyncIterator[tuple[Any, Any]]:
        """Open an HTTP client; the first request opens the connection."""
        # Calls have a timeout of their own.
        timeout = httpx2.Timeout(None, connect=TCP_CONNECT_SECONDS)
        async with (
            _HTTPClient(headers=dict(self.headers), timeout=timeout) as client,
            streamable_http_client(self.url, http_client=client) as streams,
        ):
            yield streams

    def breaks_by(self, error: MCPError) -> bool:
        """Return whether the HTTP client, or the mcp package, reports a stream that ended."""
        return error.code == CONNECTION_CLOSED


class _HTTPClient(httpx2.AsyncClient):
    """Turn failed requests into JSON-RPC errors.

    The mcp package (2.3) would end every other call together with the one whose request fails.
    """

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        try:
            response = await super().send(request, **options)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            return _error_response(request, NOT_SENT, str(error))
        except httpx2.TransportError as error:
            return _error_response(request, CONNECTION_CLOSED, str(error))
        if response.status_code == httpx2.codes.NOT_FOUND and _SESSION_HEADER in request.headers:
            await response.aclose()
            return _error_response(request, NOT_SENT, "the server has forgotten the session")
        return response


def _error_response(request: httpx2.Request, code: int, text: str) -> httpx2.Response:
    if request.method == "DELETE":  # of a session, which is gone in any case
        return httpx2.Response(httpx2.codes.NO_CONTENT, request=request)
    error = {"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": text}}
    return httpx2.Response(httpx2.codes.SERVICE_UNAVAILABLE, json=error, request=request)
