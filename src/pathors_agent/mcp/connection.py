"""Keep the connection to one MCP server, and make it anew when it was lost.

It lives in a task of its own, so that any task may call, and any call may find it lost.
"""

import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    suppress,
)
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias

import anyio
import httpx2
from anyio.abc import TaskGroup, TaskStatus
from anyio.lowlevel import EventLoopToken, checkpoint, current_token
from mcp import Client, MCPError, StdioServerParameters, stdio_client
from mcp.client import Transport
from mcp.client.streamable_http import streamable_http_client
from mcp.client.subscriptions import ListenNotSupportedError, SubscriptionLost
from mcp.types import (
    CONNECTION_CLOSED,
    REQUEST_TIMEOUT,
    CallToolResult,
    ToolListChangedNotification,
)
from mcp.types import Tool as ListedTool

from pathors_agent.calls.dispatch import Unanswered
from pathors_agent.errors import ToolError
from pathors_agent.telemetry.events import emit

# A package runner (npx, uvx) may have to fetch a server before it starts.
CONNECT_SECONDS = 60.0
TCP_CONNECT_SECONDS = 10.0

# For what a server may leave out: to list its tools anew, to promise to tell of changes.
LIST_SECONDS = 5.0

# Pages of a list of tools; a server that always names a next one must not hold us.
MAX_PAGES = 100

# Between the HTTP client and the calls: the server cannot have seen the request. No error code of
# JSON-RPC or MCP.
NOT_SENT = 402_911_737

_SESSION_HEADER = "mcp-session-id"

Streams: TypeAlias = AbstractAsyncContextManager[tuple[Any, Any]]
"""A connection as the mcp package has it: a stream of messages to read, and one to write."""


class Server(Protocol):
    """Where a server is, and how it is reached."""

    @property
    def shown(self) -> str:
        """What may be said of it in logs and errors."""

    def streams(self) -> Streams:
        """Connect."""

    def breaks_by(self, error: MCPError) -> bool:
        """Whether an error means that the connection broke."""


@dataclass(frozen=True, slots=True)
class StdioServer:
    """A server in a child process."""

    parameters: StdioServerParameters = field(repr=False)

    @property
    def shown(self) -> str:
        """The command without its arguments: they may hold keys."""
        return self.parameters.command

    def streams(self) -> Streams:
        """Start the process; what it writes to stderr goes to ours."""
        return stdio_client(self.parameters, sys.__stderr__ or sys.stderr)

    def breaks_by(self, error: MCPError) -> bool:
        """Nothing but the end of its output, which the connection sees for itself."""
        return False


@dataclass(frozen=True, slots=True)
class HTTPServer:
    """A server at a URL, spoken to by streamable HTTP."""

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)

    @property
    def shown(self) -> str:
        """The URL without what may hold keys."""
        return str(httpx2.URL(self.url).copy_with(userinfo=b"", query=None, fragment=None))

    @asynccontextmanager
    async def streams(self) -> AsyncIterator[tuple[Any, Any]]:
        """Make a client; the connection is opened by the first request."""
        # Calls have their own limit of time.
        timeout = httpx2.Timeout(None, connect=TCP_CONNECT_SECONDS)
        async with (
            _HTTPClient(headers=dict(self.headers), timeout=timeout) as client,
            streamable_http_client(self.url, http_client=client) as streams,
        ):
            yield streams

    def breaks_by(self, error: MCPError) -> bool:
        """The HTTP client's own word, or that of the mcp package for a stream that ended."""
        return error.code == CONNECTION_CLOSED


class _HTTPClient(httpx2.AsyncClient):
    """Answers by itself where no server does.

    The mcp package (2.3) would end every other call with the one whose request fails.
    """

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        try:
            response = await super().send(request, **options)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            return _said(request, NOT_SENT, str(error))
        except httpx2.TransportError as error:
            return _said(request, CONNECTION_CLOSED, str(error))
        if response.status_code == httpx2.codes.NOT_FOUND and _SESSION_HEADER in request.headers:
            await response.aclose()
            return _said(request, NOT_SENT, "the server has forgotten the session")
        return response


def _said(request: httpx2.Request, code: int, text: str) -> httpx2.Response:
    if request.method == "DELETE":  # of a session, which is gone in any case
        return httpx2.Response(httpx2.codes.NO_CONTENT, request=request)
    error = {"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": text}}
    return httpx2.Response(httpx2.codes.SERVICE_UNAVAILABLE, json=error, request=request)


@dataclass(slots=True, eq=False)
class _Session:
    """A connection that was made, the tools it listed last, and the event of its end."""

    client: Client
    lost: anyio.Event
    tools: list[ListedTool] = field(default_factory=list)
    is_stale: bool = False
    """Whether the server has said that it has other tools now."""
    lock: anyio.Lock = field(default_factory=anyio.Lock)

    async def list_tools(self) -> None:
        """List the server's tools where that is owed."""
        async with self.lock:
            if self.is_stale:
                self.is_stale = False
                self.tools = await _list_tools(self.client)

    async def notice(self, message: object) -> None:
        """Take what the server says by itself."""
        if isinstance(message, ToolListChangedNotification) and not self.lost.is_set():
            self.is_stale = True
            await self.list_tools()


class _NotSent(Exception):
    """The server cannot have seen the call."""


class Connection:
    """The connection to one server; an async context manager."""

    def __init__(self, server: Server, call_seconds: float) -> None:
        self._server = server
        self._call_seconds = call_seconds
        self._session: _Session | None = None

    async def __aenter__(self) -> Self:
        self._loop: EventLoopToken = current_token()
        self._lock = anyio.Lock()
        async with AsyncExitStack() as exits:
            self._tasks: TaskGroup = anyio.create_task_group()
            await self._tasks.__aenter__()
            exits.push_async_callback(self._end_tasks)
            await self._connected()
            self._exits = exits.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._exits.aclose()

    async def _end_tasks(self) -> None:
        self._session = None
        self._tasks.cancel_scope.cancel()
        # Without the caller's exception, which a task group would wrap into a group.
        await self._tasks.__aexit__(None, None, None)

    @property
    def tools(self) -> list[ListedTool]:
        """The tools that the server listed last: another list when they have changed."""
        assert self._session is not None
        return self._session.tools

    async def call(self, name: str, arguments: dict[str, Any]) -> CallToolResult:
        """Call a tool; once more where the server cannot have seen the call."""
        if current_token() != self._loop:
            raise RuntimeError(
                "these tools belong to the event loop that connected them; where Agent is to use "
                "them, connect by `with` instead of `async with`"
            )
        try:
            return await self._ask(name, arguments)
        except _NotSent:
            pass
        try:
            return await self._ask(name, arguments)
        except _NotSent as error:
            raise ToolError(f"The tool's server could not be reached ({error}).") from None

    async def _ask(self, name: str, arguments: dict[str, Any]) -> CallToolResult:
        session = await self._connected()
        try:
            result = await session.client.call_tool(name, arguments, self._call_seconds)
        except MCPError as error:
            raise self._told(error, session) from None
        # Shielded, and never failing: what was done is known by now.
        with anyio.move_on_after(LIST_SECONDS, shield=True), suppress(Exception):
            await checkpoint()  # what the server said before its result is handled
            await session.list_tools()
        return result

    def _told(self, error: MCPError, session: _Session) -> Exception:
        """What a call's failure means, and what it means for the connection."""
        if error.code == NOT_SENT:
            session.lost.set()
            return _NotSent(error.message)
        if session.lost.is_set() or self._server.breaks_by(error):
            session.lost.set()
            text = f"The connection to the tool's server broke ({error.message}). {_PERHAPS_DONE}"
            return Unanswered(text, outcome="unknown")
        if error.code == REQUEST_TIMEOUT:
            text = f"The tool gave no result within {self._call_seconds:g} s. {_PERHAPS_DONE}"
            return Unanswered(text, outcome="timeout")
        return ToolError(error.message)

    async def _connected(self) -> _Session:
        async with self._lock:
            if self._session is None or self._session.lost.is_set():
                self._session = await self._connect()
            return self._session

    async def _connect(self) -> _Session:
        where = f"no MCP server answers at {self._server.shown}"
        try:
            with anyio.fail_after(CONNECT_SECONDS):
                session: _Session = await self._tasks.start(self._hold)
        except TimeoutError:
            raise ConnectionError(f"{where} within {CONNECT_SECONDS:g} s") from None
        except Exception as error:
            raise ConnectionError(f"{where}: {_cause(error)}") from error
        emit("mcp_connected", server=self._server.shown, tools=len(session.tools))
        return session

    async def _hold(self, *, task_status: TaskStatus[_Session]) -> None:
        """Connect, and stay connected until the connection is lost."""
        lost = anyio.Event()
        session: _Session | None = None
        begun = False

        async def notice(message: object) -> None:
            if session is not None:
                await session.notice(message)

        streams = _watched(self._server.streams(), lost)
        try:
            async with Client(streams, cache=None, message_handler=notice) as client:
                session = _Session(client, lost, is_stale=True)
                asked = anyio.Event()
                self._tasks.start_soon(_listen, client, asked)
                with anyio.move_on_after(LIST_SECONDS):
                    await asked.wait()
                await session.list_tools()
                begun = True
                task_status.started(session)
                await lost.wait()
        # What broke an open connection is told by the calls that it broke.
        except Exception:
            if not begun:
                raise
        finally:
            lost.set()
        emit("mcp_connection_lost", server=self._server.shown)


async def _listen(client: Client, asked: anyio.Event) -> None:
    """Ask a server to tell of changes, as newer ones want to be; those who cannot say so."""
    tools = client.server_capabilities.tools
    try:
        if tools is not None and tools.list_changed:
            async with client.listen(tools_list_changed=True) as changes:
                asked.set()
                async for _ in changes:
                    pass  # each comes to the connection's `notice`, too
    except (ListenNotSupportedError, SubscriptionLost, MCPError, TimeoutError):
        pass
    finally:
        asked.set()


_PERHAPS_DONE = "Whether it did what was asked is not known."


async def _list_tools(client: Client) -> list[ListedTool]:
    tools: list[ListedTool] = []
    cursor = None
    for _ in range(MAX_PAGES):
        page = await client.list_tools(cursor=cursor)
        tools += page.tools
        cursor = page.next_cursor
        if cursor is None:
            break
    return tools


def _cause(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"


@asynccontextmanager
async def _transport(streams: Streams, lost: anyio.Event) -> AsyncIterator[tuple[Any, Any]]:
    async with streams as (incoming, outgoing):
        yield _Watched(incoming, lost), outgoing


def _watched(streams: Streams, lost: anyio.Event) -> Transport:
    """Set `lost` when the incoming stream ends."""
    transport: Any = _transport(streams, lost)
    return transport  # type: ignore[no-any-return]  # the package's protocol, met by duck type


class _Watched:
    """A stream of messages that tells when it ended."""

    def __init__(self, stream: Any, lost: anyio.Event) -> None:
        self._stream = stream
        self._lost = lost

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        try:
            return await self._stream.__anext__()
        except (StopAsyncIteration, anyio.ClosedResourceError):
            self._lost.set()
            raise

    async def __aenter__(self) -> Self:
        await self._stream.__aenter__()
        return self

    async def __aexit__(self, *exception: Any) -> Any:
        return await self._stream.__aexit__(*exception)
