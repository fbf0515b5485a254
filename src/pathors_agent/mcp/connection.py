"""The connection to one MCP server, which is reopened after it was lost.

The connection lives in a task of its own, so that any task may open it, call tools and close it.
"""

import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import anyio
from anyio.abc import TaskStatus
from anyio.lowlevel import EventLoopToken, checkpoint, current_token
from mcp import Client, MCPError
from mcp.client.subscriptions import ListenNotSupportedError, SubscriptionLost
from mcp.types import REQUEST_TIMEOUT, CallToolResult, ToolListChangedNotification
from mcp.types import Tool as ListedTool

from pathors_agent.agents.perform.calls import with_reports
from pathors_agent.agents.perform.tasks import LoopTask, Unanswered
from pathors_agent.errors import ToolError, WrongEventLoop, named_error
from pathors_agent.mcp.content import RefusedDefinition
from pathors_agent.mcp.requests import Elicit, Sample, elicitation, sampling
from pathors_agent.mcp.servers import NOT_AUTHORIZED, NOT_SENT, Server, watched
from pathors_agent.telemetry.events import emit, warn

# A package runner (npx, uvx) may download a server before it starts.
CONNECT_SECONDS = 60.0

# For optional requests: to list the tools again, and to subscribe to changes.
LIST_SECONDS = 5.0

# Pages of a list of tools; some servers always name a next page.
MAX_PAGES = 100

# Progress reports that wait for their reader; newer ones are dropped.
MAX_WAITING_PROGRESS = 100


T = TypeVar("T")


class Progress(dict[str, Any]):
    """A progress report of a running call: `progress`, and optionally `total` and `message`."""

    def __str__(self) -> str:
        counted = f"{self['progress']:g}"
        if "total" in self:
            counted += f"/{self['total']:g}"
        return f"{self['message']} ({counted})" if "message" in self else counted


@dataclass(slots=True, eq=False)
class _MCPSession:
    """An open connection, the tools that it listed last, and the event of its end."""

    client: Client
    lost: anyio.Event
    tools: list[ListedTool] = field(default_factory=list)
    is_stale: bool = False
    """Whether the server has reported that its tools changed."""
    lock: anyio.Lock = field(default_factory=anyio.Lock)

    async def list_tools(self) -> None:
        """List the server's tools, if they have changed."""
        async with self.lock:
            if self.is_stale:
                self.is_stale = False
                self.tools = await all_entries(
                    lambda cursor: self.client.list_tools(cursor=cursor), lambda page: page.tools
                )

    async def handle_notification(self, message: object, server: str) -> None:
        """List the tools again when the server reports a change; keep the old ones on failure."""
        if not isinstance(message, ToolListChangedNotification) or self.lost.is_set():
            return
        self.is_stale = True
        try:
            await self.list_tools()
        except Exception as error:  # noqa: BLE001  (of any kind: the old tools stay)
            warn("mcp_tools_not_listed", server=server, error=type(error).__name__)


class _NotSent(Exception):
    """The server cannot have received the call."""


class MCPConnection:
    """The connection to one server; an async context manager.

    Any task of the event loop may close it, not only the task that opened it.
    """

    def __init__(
        self,
        server: Server,
        call_seconds: float,
        *,
        connect_seconds: float | None = None,
        elicit: Elicit | None = None,
        sample: Sample | None = None,
    ) -> None:
        self._server = server
        self._call_seconds = call_seconds
        self._connect_seconds = connect_seconds
        self._on_elicit = elicitation(elicit, server.shown, call_seconds)
        self._on_sample = sampling(sample, server.shown, call_seconds)
        self._session: _MCPSession | None = None
        self._host: LoopTask[None] | None = None
        self._refused: set[RefusedDefinition] = set()

    async def __aenter__(self) -> Self:
        self._refused.clear()
        self._loop: EventLoopToken = current_token()
        self._lock = anyio.Lock()
        ready = anyio.Event()
        self._host = LoopTask(partial(self._host_tasks, ready))
        self._host.start()
        try:
            await ready.wait()
            await self._connected()
        except BaseException:
            await self._close(self._host)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        host, self._host = self._host, None
        self._session = None
        self._refuse_other_loop()
        if host is not None:
            await self._close(host)

    async def _host_tasks(self, ready: anyio.Event) -> None:
        """Keep the task group of the connection open until this task is cancelled."""
        async with anyio.create_task_group() as self._tasks:
            ready.set()
            await anyio.sleep_forever()

    async def _close(self, host: LoopTask[None]) -> None:
        self._session = self._host = None
        await host.stop(math.inf)

    def _refuse_other_loop(self) -> None:
        if current_token() != self._loop:
            raise WrongEventLoop(
                f"the tools of {self._server.shown} were connected on another event loop; call and "
                "close them on that loop (for example inside one asyncio.run), or connect them "
                "with `with`, which works with any loop"
            )

    @property
    def is_open(self) -> bool:
        """Whether it was opened, and neither closed nor ended with its event loop."""
        return self._host is not None and not self._host.has_ended

    @property
    def tools(self) -> list[ListedTool]:
        """The tools that the server listed last; a new list object after each change."""
        assert self._session is not None
        return self._session.tools

    async def read(self, ask: Callable[[Client], Awaitable[T]]) -> T:
        """Send a request that does not change the server; repeat it once if the connection is lost.

        Raises `MCPError` for an error of the server, and TimeoutError after the time of a call.
        """
        self._refuse_other_loop()
        try:
            return await _repeated(partial(self._read, ask))
        except _NotSent as error:
            raise ConnectionError(
                f"the connection to {self._server.shown} broke: {error}"
            ) from None

    async def _read(self, ask: Callable[[Client], Awaitable[T]]) -> T:
        session = await self._connected()
        try:
            with anyio.fail_after(self._call_seconds):
                return await ask(session.client)
        except TimeoutError:
            shown, seconds = self._server.shown, self._call_seconds
            raise TimeoutError(f"{shown} sent no answer within {seconds:g} s") from None
        except MCPError as error:
            is_lost = session.lost.is_set() or self._server.breaks_by(error)
            if error.code == NOT_SENT or is_lost:
                session.lost.set()
                raise _NotSent(error.message) from None
            raise

    async def call(
        self, name: str, arguments: dict[str, Any]
    ) -> AsyncGenerator[Progress | CallToolResult, None]:
        """Call a tool; yield the server's progress reports, and the result last.

        The call is repeated if the server cannot have received it.
        """
        self._refuse_other_loop()

        async def call(report: Callable[[Progress], Awaitable[None]]) -> CallToolResult:
            async def on_progress(
                progress: float, total: float | None, message: str | None
            ) -> None:
                fields = {"progress": progress, "total": total, "message": message}
                await report(Progress({k: v for k, v in fields.items() if v is not None}))

            return await self._call(name, arguments, on_progress)

        items = with_reports(call, waiting=MAX_WAITING_PROGRESS, drops=True)
        async with aclosing(items):
            async for item in items:
                yield item

    async def _call(
        self, name: str, arguments: dict[str, Any], report: "_OnProgress"
    ) -> CallToolResult:
        try:
            return await _repeated(partial(self._ask, name, arguments, report))
        except _NotSent as error:
            raise ToolError(f"The tool's server could not be reached ({error}).") from None

    async def _ask(
        self, name: str, arguments: dict[str, Any], report: "_OnProgress"
    ) -> CallToolResult:
        session = await self._connected()
        try:
            result = await session.client.call_tool(name, arguments, self._call_seconds, report)
        except MCPError as error:
            raise self._call_error(error, session) from None
        # Shielded, and its errors suppressed: the call has already happened.
        with anyio.move_on_after(LIST_SECONDS, shield=True), suppress(Exception):
            await checkpoint()  # handles the notifications that arrived before the result
            await session.list_tools()
        return result

    def _call_error(self, error: MCPError, session: _MCPSession) -> Exception:
        """Return the exception for a failed call.

        Mark the session as lost if the connection broke.
        """
        if error.code == NOT_SENT:
            session.lost.set()
            return _NotSent(error.message)
        if session.lost.is_set() or self._server.breaks_by(error):
            session.lost.set()
            text = (
                f"The connection to the tool's server broke ({error.message}). {_OUTCOME_UNKNOWN}"
            )
            return Unanswered(text, outcome="unknown")
        if error.code == NOT_AUTHORIZED:
            return ToolError("The login at the tool's server failed.")
        if error.code == REQUEST_TIMEOUT:
            text = (
                f"The tool returned no result within {self._call_seconds:g} s. {_OUTCOME_UNKNOWN}"
            )
            return Unanswered(text, outcome="timeout")
        return ToolError(error.message)

    async def _connected(self) -> _MCPSession:
        async with self._lock:
            if self._session is None or self._session.lost.is_set():
                self._session = await self._connect()
            return self._session

    async def _connect(self) -> _MCPSession:
        where = f"no MCP server answers at {self._server.shown}"
        seconds = CONNECT_SECONDS if self._connect_seconds is None else self._connect_seconds
        try:
            with anyio.fail_after(seconds):
                session: _MCPSession = await self._tasks.start(self._hold)
        except TimeoutError:
            raise ConnectionError(f"{where} within {seconds:g} s") from None
        except Exception as error:
            raise ConnectionError(f"{where}: {_cause(error)}") from error
        emit("mcp_connected", server=self._server.shown, tools=len(session.tools))
        return session

    async def _hold(self, *, task_status: TaskStatus[_MCPSession]) -> None:
        """Connect, and keep the connection open until it is lost."""
        lost = anyio.Event()
        session: _MCPSession | None = None
        begun = False

        async def handle(message: object) -> None:
            if session is not None:
                await session.handle_notification(message, self._server.shown)

        streams = watched(self._server.streams(), lost, self.refuse)
        try:
            async with Client(
                streams,
                cache=None,
                message_handler=handle,
                elicitation_callback=self._on_elicit,
                sampling_callback=self._on_sample,
            ) as client:
                session = _MCPSession(client, lost, is_stale=True)
                asked = anyio.Event()
                self._tasks.start_soon(_listen, client, asked)
                with anyio.move_on_after(LIST_SECONDS):
                    await asked.wait()
                await session.list_tools()
                begun = True
                task_status.started(session)
                await lost.wait()
        # The open calls report the error that broke the connection.
        except Exception:
            if not begun:
                raise
        finally:
            lost.set()
        emit("mcp_connection_lost", server=self._server.shown)

    def refuse(self, refused: RefusedDefinition) -> None:
        """Log a warning for an entry that is left out, once: lists may arrive many times."""
        if refused not in self._refused:
            self._refused.add(refused)
            fields = {refused.kind: refused.name, "path": refused.path}
            warn(f"mcp_{refused.kind}_refused", server=self._server.shown, **fields)


class _OnProgress(Protocol):
    async def __call__(self, progress: float, total: float | None, message: str | None) -> None: ...


async def _listen(client: Client, asked: anyio.Event) -> None:
    """Subscribe to changes of the tools, if the server supports it."""
    tools = client.server_capabilities.tools
    try:
        if tools is not None and tools.list_changed:
            async with client.listen(tools_list_changed=True) as changes:
                asked.set()
                async for _ in changes:
                    pass  # the message handler also receives each of them
    except (ListenNotSupportedError, SubscriptionLost, MCPError, TimeoutError):
        pass
    finally:
        asked.set()


_OUTCOME_UNKNOWN = "It is unknown whether the tool did its work."


async def _repeated(send: Callable[[], Awaitable[T]]) -> T:
    """Send a request, and send it once more if the server cannot have received it."""
    with suppress(_NotSent):
        return await send()
    return await send()


class ListPage(Protocol):
    """A page of a list of the server."""

    @property
    def next_cursor(self) -> str | None:
        """The cursor of the next page; None after the last one."""


PageT = TypeVar("PageT", bound=ListPage)


async def all_entries(
    page_at: Callable[[str | None], Awaitable[PageT]], entries_of: Callable[[PageT], list[T]]
) -> list[T]:
    """Return the entries of all pages of a list."""
    entries: list[T] = []
    cursor = None
    for _ in range(MAX_PAGES):
        page = await page_at(cursor)
        entries += entries_of(page)
        cursor = page.next_cursor
        if cursor is None:
            break
    return entries


def _cause(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return named_error(error)
