"""The addresses of MCP servers, and the streams to them: a child process, or a URL."""

import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, TypeAlias

import anyio
import httpx2
from mcp import MCPError, StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CONNECTION_CLOSED, JSONRPCNotification, JSONRPCRequest, JSONRPCResponse

from pathors_agent.errors import named_error
from pathors_agent.mcp.content import (
    RefusedDefinition,
    repaired_call,
    repaired_entries,
    repaired_tools,
)

TCP_CONNECT_SECONDS = 10.0

# Set by our HTTP client: the server cannot have received the request. Not a code of JSON-RPC or MCP.
NOT_SENT = 402_911_737

# Set by our HTTP client: `auth=` raised. Not a code of JSON-RPC or MCP.
NOT_AUTHORIZED = 402_911_738

_SESSION_HEADER = "mcp-session-id"

Streams: TypeAlias = AbstractAsyncContextManager[tuple[Any, Any]]
"""A connection of the mcp package: a stream of messages to read, and one to write."""


class Server(Protocol):
    """The address of a server."""

    @property
    def shown(self) -> str:
        """The server's name in logs and errors, without secrets."""

    def streams(self) -> Streams:
        """Connect to the server."""

    def breaks_by(self, error: MCPError) -> bool:
        """Return True if an error means that the connection broke."""


@dataclass(frozen=True, slots=True)
class StdioServer:
    """A server in a child process."""

    parameters: StdioServerParameters = field(repr=False)

    @property
    def shown(self) -> str:
        """The command without its arguments, which may contain keys."""
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
    auth: httpx2.Auth | None = field(default=None, repr=False)

    @property
    def shown(self) -> str:
        """The URL without the parts that may contain keys."""
        return str(httpx2.URL(self.url).copy_with(userinfo=b"", query=None, fragment=None))

    @asynccontextmanager
    async def streams(self) -> AsyncIterator[tuple[Any, Any]]:
        """Open an HTTP client; the first request opens the connection."""
        # Calls have a timeout of their own.
        timeout = httpx2.Timeout(None, connect=TCP_CONNECT_SECONDS)
        async with (
            _HTTPClient(headers=dict(self.headers), auth=self.auth, timeout=timeout) as client,
            streamable_http_client(self.url, http_client=client) as streams,
        ):
            yield streams

    def breaks_by(self, error: MCPError) -> bool:
        """Return True if the HTTP client or the mcp package reports a stream that ended."""
        return error.code == CONNECTION_CLOSED


class _HTTPClient(httpx2.AsyncClient):
    """Turns failed requests into JSON-RPC errors.

    With the mcp package (2.3) a failed request would end all other calls, too.
    """

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        try:
            response = await super().send(request, **options)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            return _error_response(request, NOT_SENT, str(error))
        except httpx2.TransportError as error:
            return _error_response(request, CONNECTION_CLOSED, str(error))
        except Exception as error:
            if self.auth is None:
                raise
            # The login failed: in the mcp package, or in a function of the caller.
            return _error_response(request, NOT_AUTHORIZED, named_error(error))
        if response.status_code == httpx2.codes.NOT_FOUND and _SESSION_HEADER in request.headers:
            await response.aclose()
            return _error_response(request, NOT_SENT, "the server has forgotten the session")
        return response


def _error_response(request: httpx2.Request, code: int, text: str) -> httpx2.Response:
    if request.method == "DELETE":  # ends a session, which has already ended
        return httpx2.Response(httpx2.codes.NO_CONTENT, request=request)
    error = {"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": text}}
    return httpx2.Response(httpx2.codes.SERVICE_UNAVAILABLE, json=error, request=request)


# - wrapped streams -

_CANCELLED = "notifications/cancelled"

OnRefused = Callable[[RefusedDefinition], None]


@asynccontextmanager
async def watched(
    streams: Streams, lost: anyio.Event, on_refused: OnRefused
) -> AsyncIterator[tuple[Any, Any]]:
    """Repair the results of a connection, and set `lost` when its incoming stream ends."""
    async with streams as (incoming, outgoing):
        methods: dict[str, str] = {}
        yield (
            _IncomingStream(incoming, lost, methods, on_refused),
            _OutgoingStream(outgoing, methods),
        )


class _Wrapped:
    """A stream that delegates to another one."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def __aenter__(self) -> Self:
        await self._stream.__aenter__()
        return self

    async def __aexit__(self, *exception: Any) -> Any:
        return await self._stream.__aexit__(*exception)


class _OutgoingStream(_Wrapped):
    """A stream that remembers the method of each open request, because results do not name it."""

    def __init__(self, stream: Any, methods: dict[str, str]) -> None:
        super().__init__(stream)
        self._methods = methods

    async def send(self, item: Any) -> None:
        message = item.message
        if isinstance(message, JSONRPCRequest):
            self._methods[str(message.id)] = message.method
        elif isinstance(message, JSONRPCNotification) and message.method == _CANCELLED:
            self._methods.pop(str((message.params or {}).get("requestId")), None)
        await self._stream.send(item)


class _IncomingStream(_Wrapped):
    """A stream that repairs results, and sets `lost` when it ends."""

    def __init__(
        self, stream: Any, lost: anyio.Event, methods: dict[str, str], on_refused: OnRefused
    ) -> None:
        super().__init__(stream)
        self._lost = lost
        self._methods = methods
        self._on_refused = on_refused

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        try:
            item = await self._stream.__anext__()
        except (StopAsyncIteration, anyio.ClosedResourceError):
            self._lost.set()
            raise
        message = getattr(item, "message", None)
        if isinstance(message, JSONRPCResponse):
            item.message = message.model_copy(update={"result": self._repaired(message)})
        return item

    def _repaired(self, message: JSONRPCResponse) -> dict[str, Any]:
        match self._methods.pop(str(message.id), ""):
            case "tools/list":
                result, refused = repaired_tools(message.result)
            case "resources/list" | "resources/templates/list" | "prompts/list" as method:
                result, refused = repaired_entries(method, message.result)
            case "tools/call":
                return repaired_call(message.result)
            case _:
                return message.result
        for each in refused:
            self._on_refused(each)
        return result
