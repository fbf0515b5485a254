"""Use the tools of an MCP server as a registry.

The package `mcp` does the talking; it is imported when a server is named.
"""

import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from anyio.from_thread import BlockingPortal, start_blocking_portal

from pathors_agent.errors import ToolDefinitionError
from pathors_agent.mcp.content import value_of
from pathors_agent.telemetry.events import emit
from pathors_agent.tools.registry import ToolRegistry
from pathors_agent.tools.tool import Tool

if TYPE_CHECKING:
    from pathors_agent.mcp.connection import Server

# Long enough for a search or a build; who waits longer says so.
CALL_SECONDS = 300.0

# The connection gives a call up first, as it knows what to say to server and model.
MORE_SECONDS = 5.0

# OpenAI's limit for the names of functions.
_NAME_LENGTH = 64
_PREFIX = re.compile(r"[a-zA-Z0-9_-]{0,32}")
_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_-]")

Function = Callable[..., Any]


class MCPTools:
    """The tools of one MCP server: a context manager that connects, and gives their registry.

    Needs the extra `mcp`. In `async with` the tools are async and belong to its event loop; in
    `with` they are for blocking code. An agent takes it as `tools=`, too: `async with agent`
    connects it, and closes it with the agent; there each turn has the tools that the server has by
    then. A lost connection is made anew by the next call.

    Names are mended to what models may call, and get the `prefix`; a tool whose definition is
    unusable is left out, with the event `mcp_tool_refused`. One call may take `timeout` seconds.
    """

    def __init__(self, server: "Server", *, prefix: str, timeout: float) -> None:
        from pathors_agent.mcp.connection import Connection

        if not _PREFIX.fullmatch(prefix):
            raise ValueError("prefix should be at most 32 of the characters a-z A-Z 0-9 _ -")
        self._connection = Connection(server, timeout)
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
        """A server that is started as a child process, and ended with the tools.

        It gets `env` beside a few harmless variables of ours (PATH, HOME), and no others.
        """
        _require_mcp()
        from mcp import StdioServerParameters

        from pathors_agent.mcp.connection import StdioServer

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
        """A server at a URL, by streamable HTTP; `headers` go with each request."""
        _require_mcp()
        from pathors_agent.mcp.connection import HTTPServer

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
        """The tools as the server listed them last: for `tools=`."""
        if self._registry is None:
            raise RuntimeError(f"{self!r} is not connected; use it, or the agent, in `async with`")
        if self._connection.tools is not self._listed:
            return self._take()
        return self._registry

    def _refuse_second_use(self) -> None:
        if self._registry is not None:
            raise RuntimeError(f"{self!r} is connected already")

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
            if _is_usable(tool):
                taken.add(tool.name)
                yield tool

    def _function(self, name: str) -> Function:
        """Make the function that calls a tool of the server."""
        connection, portal = self._connection, self._portal

        async def call(**arguments: Any) -> object:
            return value_of(await connection.call(name, arguments))

        def call_blocking(**arguments: Any) -> object:
            assert portal is not None
            return portal.call(partial(call, **arguments))

        return call if portal is None else call_blocking


def _is_usable(tool: Tool) -> bool:
    try:
        ToolRegistry([tool])
    except ToolDefinitionError as error:
        emit("mcp_tool_refused", tool=tool.name, path=error.path)
        return False
    return True


def _unused_name(name: str, taken: Container[str]) -> str:
    """Mend a name to one that models may call, and that no other tool has."""
    legal = _NOT_IN_NAMES.sub("_", name)[:_NAME_LENGTH] or "tool"
    mended, number = legal, 1
    while mended in taken:
        number += 1
        ending = f"_{number}"
        mended = legal[: _NAME_LENGTH - len(ending)] + ending
    return mended


def _require_mcp() -> None:
    try:
        import mcp  # noqa: F401  (only whether it is there)
    except ModuleNotFoundError as error:
        if error.name != "mcp":
            raise
        raise ModuleNotFoundError(
            "MCPTools needs mcp: pip install 'pathors-agent[mcp]'", name="mcp"
        ) from None
