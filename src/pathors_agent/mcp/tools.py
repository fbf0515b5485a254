"""The tools of an MCP server as a registry.

The package `mcp` implements the protocol; it is imported when a server is named.
"""

import re
from collections.abc import AsyncGenerator, Callable, Container, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

from pathors_agent.agents.perform.tasks import Waiting
from pathors_agent.concurrency.event_loops import EventLoop, running_loop
from pathors_agent.errors import ToolDefinitionError
from pathors_agent.tools.registry import ToolRegistry
from pathors_agent.tools.tool import Tool

if TYPE_CHECKING:
    from pathors_agent.mcp.servers import Server

# Long enough for a search or a build.
CALL_SECONDS = 300.0

# The connection must time out first, because it can cancel the call on the server.
MORE_SECONDS = 5.0

# OpenAI's limit for the names of functions.
_NAME_LENGTH = 64
_PREFIX = re.compile(r"[a-zA-Z0-9_-]{0,32}")
_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_-]")

Function = Callable[..., Any]
T = TypeVar("T")


class MCPTools:
    """The tools of one MCP server: a context manager that connects and returns a registry.

    Needs the extra `mcp`. With `async with` the tools belong to the running event loop, and any of
    its tasks may leave the block; with `with` they work on any event loop and in blocking code. An
    agent also accepts it as `tools=`: `async with agent` connects and closes it, and each turn gets
    the tools that the server has at that time. The next call reopens a lost connection. Progress
    reports of the server are streamed as `ToolProgressDelta`.

    Characters that models do not accept in names are replaced, and names get the `prefix`. A tool
    with an unusable definition is left out, with the event `mcp_tool_refused`. One call may take
    `timeout` seconds.
    """

    def __init__(self, server: "Server", *, prefix: str, timeout: float) -> None:
        from pathors_agent.mcp.connection import MCPConnection

        if not _PREFIX.fullmatch(prefix):
            raise ValueError("prefix should be at most 32 of the characters a-z A-Z 0-9 _ -")
        self._connection = MCPConnection(server, timeout)
        self._prefix = prefix
        self._timeout = timeout
        self._registry: ToolRegistry | None = None
        self._portal: BlockingPortal | None = None
        self._shown = server.shown

    @classmethod
    def stdio(
        cls,
        command: str,
        args: Sequence[str] = (),
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        prefix: str = "",
        timeout: float = CALL_SECONDS,
    ) -> Self:
        """Return the tools of a server that runs as a child process until the tools are closed.

        Its environment is `env`, and a few harmless variables of this process (PATH, HOME).
        """
        _require_mcp()
        from mcp import StdioServerParameters

        from pathors_agent.mcp.servers import StdioServer

        parameters = StdioServerParameters(
            command=command, args=list(args), env=dict(env or {}), cwd=cwd
        )
        return cls(StdioServer(parameters), prefix=prefix, timeout=timeout)

    @classmethod
    def http(
        cls,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        prefix: str = "",
        timeout: float = CALL_SECONDS,
    ) -> Self:
        """Return the tools of a server at a URL (streamable HTTP); each request carries `headers`."""
        _require_mcp()
        from pathors_agent.mcp.servers import HTTPServer

        return cls(HTTPServer(url, headers or {}), prefix=prefix, timeout=timeout)

    def __repr__(self) -> str:
        return f"MCPTools({self._shown!r})"

    async def __aenter__(self) -> ToolRegistry:
        self._refuse_second_use()
        async with AsyncExitStack() as exits:
            await exits.enter_async_context(self._connection)
            registry = self._take()
            self._exits = exits.pop_all()
        return registry

    async def __aexit__(self, *_: object) -> None:
        self._registry = None
        await self._exits.aclose()

    def __enter__(self) -> ToolRegistry:
        self._refuse_second_use()
        with ExitStack() as exits:
            self._portal = exits.enter_context(start_blocking_portal())
            exits.enter_context(self._portal.wrap_async_context_manager(self._connection))
            registry = self._take()
            self._blocking_exits = exits.pop_all()
        return registry

    def __exit__(self, *_: object) -> None:
        self._registry = self._portal = None
        self._blocking_exits.close()

    def __call__(self, context: object = None) -> ToolRegistry:
        """Return the tools that the server listed last; agents call this for `tools=`."""
        if self._registry is None:
            raise RuntimeError(f"{self!r} is not connected; use it, or the agent, in `async with`")
        if self._connection.tools is not self._listed:
            return self._take()
        return self._registry

    def _refuse_second_use(self) -> None:
        if self._registry is not None and self._connection.is_open:
            raise RuntimeError(f"{self!r} is already connected")

    def _take(self) -> ToolRegistry:
        self._listed = self._connection.tools
        self._registry = ToolRegistry(self._usable_tools())
        return self._registry

    def _usable_tools(self) -> Iterable[Tool]:
        taken: set[str] = set()
        for listed in self._listed:
            tool = Tool(
                name=_unused_name(self._prefix + listed.name, taken),
                description=listed.description or listed.title or "",
                parameters=listed.input_schema,
                function=self._function(listed.name),
                timeout=self._timeout + MORE_SECONDS,
            )
            if self._is_usable(tool, listed.name):
                taken.add(tool.name)
                yield tool

    def _is_usable(self, tool: Tool, listed_name: str) -> bool:
        try:
            ToolRegistry([tool])
        except ToolDefinitionError as error:
            from pathors_agent.mcp.content import RefusedTool

            self._connection.refuse(RefusedTool(listed_name, error.path))
            return False
        return True

    def _function(self, name: str) -> Function:
        """Return a function that calls a tool; it yields progress reports, and the value last."""
        from pathors_agent.mcp.content import value_of

        connection, portal = self._connection, self._portal

        async def call(**arguments: Any) -> AsyncGenerator[object, None]:
            items = connection.call(name, arguments)
            async with aclosing(items if portal is None else _through(portal, items)) as reports:
                async for report in reports:
                    yield report if isinstance(report, dict) else value_of(report)

        return call


async def _through(
    portal: BlockingPortal, items: AsyncGenerator[T, None]
) -> AsyncGenerator[T, None]:
    """Yield the items of an async generator that runs on the event loop of a portal."""

    async def next_item() -> T | None:
        return await anext(items, None)

    loop = running_loop()
    assert loop is not None  # a coroutine runs
    while True:
        arrival = Waiting()
        future = portal.start_task_soon(next_item)
        future.add_done_callback(partial(_call_soon, loop, arrival.end))
        try:
            await arrival.wait(None)
        finally:
            future.cancel()  # without effect on one that is done
        item = future.result()
        if item is None:
            return
        try:
            yield item
        except GeneratorExit:
            portal.start_task_soon(items.aclose)
            raise


def _call_soon(loop: EventLoop, end: Callable[[], None], _: object) -> None:
    loop.call_soon(end)


def _unused_name(name: str, taken: Container[str]) -> str:
    """Return a name that models accept and that no other tool has."""
    legal = _NOT_IN_NAMES.sub("_", name)[:_NAME_LENGTH] or "tool"
    name, number = legal, 1
    while name in taken:
        number += 1
        ending = f"_{number}"
        name = legal[: _NAME_LENGTH - len(ending)] + ending
    return name


def _require_mcp() -> None:
    try:
        import mcp  # noqa: F401  (checks that it is installed)
    except ModuleNotFoundError as error:
        if error.name != "mcp":
            raise
        raise ModuleNotFoundError(
            "MCPTools needs mcp: pip install 'pathors-agent[mcp]'", name="mcp"
        ) from None
