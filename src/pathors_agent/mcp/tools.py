"""The tools of an MCP server as a registry.

The package `mcp` implements the protocol; it is imported when a server is named.
"""

import os
import re
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Container,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import AsyncExitStack, ExitStack, aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypedDict, TypeVar, Unpack

from anyio.from_thread import BlockingPortal, start_blocking_portal

from pathors_agent.agents.perform.tasks import Waiting
from pathors_agent.concurrency.event_loops import EventLoop, running_loop
from pathors_agent.concurrency.lifetime import OneProcess
from pathors_agent.errors import ToolDefinitionError
from pathors_agent.messages import ContentPart, Message
from pathors_agent.tools.registry import ToolRegistry
from pathors_agent.tools.tool import Tool
from pathors_agent.wire.messages import NAME_LENGTH, NOT_IN_NAMES

if TYPE_CHECKING:
    import httpx2
    from mcp import Client
    from mcp.types import Prompt, Resource, ResourceTemplate

    from pathors_agent.mcp.connection import ListPage
    from pathors_agent.mcp.requests import Elicit, Sample
    from pathors_agent.mcp.servers import Server

# Long enough for a search or a build.
CALL_SECONDS = 300.0

# To connect with `auth=`: a person may have to log in.
LOGIN_SECONDS = 300.0

# The connection must time out first, because it can cancel the call on the server.
MORE_SECONDS = 5.0

_PREFIX = re.compile(r"[a-zA-Z0-9_-]{0,32}")

Function = Callable[..., Any]
T = TypeVar("T")
PageT = TypeVar("PageT", bound="ListPage")


class MCPOptions(TypedDict, total=False):
    """The options of `MCPTools.stdio` and `MCPTools.http`; `MCPTools` explains each."""

    prefix: str
    timeout: float
    connect_timeout: float | None
    elicit: "Elicit | None"
    sample: "Sample | None"


class MCPTools(OneProcess):
    """The tools of one MCP server: a context manager that connects and returns a registry.

    Needs the extra `mcp`. With `async with` the tools belong to the running event loop, and any of
    its tasks may leave the block; with `with` they work on any event loop and in blocking code. An
    agent also accepts it as `tools=`: `async with agent` connects and closes it, and each turn gets
    the tools that the server has at that time. The next call reopens a lost connection. Progress
    reports of the server are streamed as `ToolProgressDelta`.

    Characters that models do not accept in names are replaced. A tool with an unusable definition is
    left out, with the event `mcp_tool_refused`.

    - `prefix`: precedes the names of the tools.
    - `timeout`: seconds that a call or a read may take.
    - `connect_timeout`: seconds to connect; the default is 60, and with `auth` 300.
    - `elicit`: a function, sync or async, that answers the server's questions to the user. It gets
      the mcp package's `ElicitRequestParams`, and returns the values, True to consent without
      values, or None to decline.
    - `sample`: a function, sync or async, that answers the server's questions to a model. It gets a
      list of messages and the package's `CreateMessageRequestParams`, and returns text.

    Without these functions the server is told that its questions are not answered. With `with`, an
    async function runs on the event loop of the connection.
    """

    def __init__(
        self,
        server: "Server",
        *,
        prefix: str = "",
        timeout: float = CALL_SECONDS,
        connect_timeout: float | None = None,
        elicit: "Elicit | None" = None,
        sample: "Sample | None" = None,
    ) -> None:
        from pathors_agent.mcp.connection import MCPConnection

        if not hasattr(server, "shown"):
            raise TypeError(
                "MCPTools takes a server, not a value of type "
                f"{type(server).__name__}; call MCPTools.stdio(command, args) or MCPTools.http(url)"
            )
        for name, function in (("elicit", elicit), ("sample", sample)):
            if function is not None and not callable(function):
                raise TypeError(f"{name}= should be a function, not {type(function).__name__}")
        if not _PREFIX.fullmatch(prefix):
            raise ValueError("prefix should be at most 32 of the characters a-z A-Z 0-9 _ -")
        self._connection = MCPConnection(
            server, timeout, connect_seconds=connect_timeout, elicit=elicit, sample=sample
        )
        self._prefix = prefix
        self._timeout = timeout
        self._registry: ToolRegistry | None = None
        self._portal: BlockingPortal | None = None
        self._process = os.getpid()
        self._shown = server.shown

    @classmethod
    def stdio(
        cls,
        command: str,
        args: Sequence[str] = (),
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        **options: Unpack[MCPOptions],
    ) -> Self:
        """Return the tools of a server that runs as a child process until the tools are closed.

        `command` is the program, `args` are its arguments, and `cwd` is its working directory. Its
        environment is `env`, and a few harmless variables of this process (PATH, HOME).
        """
        _require_mcp()
        from mcp import StdioServerParameters

        from pathors_agent.mcp.servers import StdioServer

        parameters = StdioServerParameters(
            command=command, args=list(args), env=dict(env or {}), cwd=cwd
        )
        return cls(StdioServer(parameters), **options)

    @classmethod
    def http(
        cls,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        auth: "httpx2.Auth | None" = None,
        **options: Unpack[MCPOptions],
    ) -> Self:
        """Return the tools of a server at a URL (streamable HTTP); each request carries `headers`.

        `auth` authorises the requests: an `OAuthClientProvider` of the mcp package, or any other
        `httpx2.Auth`.
        """
        _require_mcp()
        from pathors_agent.mcp.servers import HTTPServer

        if auth is not None and options.get("connect_timeout") is None:
            options["connect_timeout"] = LOGIN_SECONDS
        return cls(HTTPServer(url, headers or {}, auth), **options)

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
        if self._process == os.getpid():
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
        if self._process == os.getpid():
            self._blocking_exits.close()

    def __call__(self, context: object = None) -> ToolRegistry:
        """Return the tools that the server listed last; agents call this for `tools=`."""
        self._require_open()
        if self._registry is None or self._connection.tools is not self._listed:
            return self._take()
        return self._registry

    # - resources and prompts -

    async def list_resources(self) -> "list[Resource]":
        """Return the server's resources, as objects of the mcp package; each has a `uri`.

        These methods work on the event loops that the tools work on. They raise `mcp.MCPError` with
        an error of the server, TimeoutError after `timeout`, and ConnectionError if the server
        cannot be reached.
        """
        return await self._list(
            "resources", lambda client: client.list_resources, lambda page: page.resources
        )

    async def list_resource_templates(self) -> "list[ResourceTemplate]":
        """Return the server's templates of resources; fill in `uri_template` to read one."""
        return await self._list(
            "resources",
            lambda client: client.list_resource_templates,
            lambda page: page.resource_templates,
        )

    async def read_resource(self, uri: str) -> list[ContentPart]:
        """Return the contents of a resource as parts for a prompt: texts, images, audio and files."""
        from pathors_agent.mcp.content import resource_parts

        return resource_parts(await self._read(lambda client: client.read_resource(uri)))

    async def list_prompts(self) -> "list[Prompt]":
        """Return the server's prompts, with the arguments that each takes."""
        return await self._list(
            "prompts", lambda client: client.list_prompts, lambda page: page.prompts
        )

    async def get_prompt(
        self, name: str, arguments: Mapping[str, str] | None = None
    ) -> list[Message]:
        """Return the messages of a prompt, for `conversation=` of a run."""
        from pathors_agent.mcp.content import prompt_messages

        given = dict(arguments or {})
        result = await self._read(lambda client: client.get_prompt(name, given))
        return prompt_messages(result.messages)

    async def _list(
        self,
        capability: str,
        method: "Callable[[Client], Callable[..., Awaitable[PageT]]]",
        entries_of: "Callable[[PageT], list[T]]",
    ) -> list[T]:
        """Return all entries of a list, or none if the server does not have the capability."""
        from pathors_agent.mcp.connection import all_entries

        async def ask(client: "Client") -> list[T]:
            if getattr(client.server_capabilities, capability) is None:
                return []
            return await all_entries(lambda cursor: method(client)(cursor=cursor), entries_of)

        return await self._read(ask)

    async def _read(self, ask: "Callable[[Client], Awaitable[T]]") -> T:
        """Read from the server, on the event loop of the connection."""
        self._require_open()
        if self._portal is None:
            return await self._connection.read(ask)

        async def values() -> AsyncGenerator[T, None]:
            yield await self._connection.read(ask)

        async with aclosing(_through(self._portal, values())) as items:
            return await anext(items)

    def _require_open(self) -> None:
        if self._registry is None:
            raise RuntimeError(f"{self!r} is not connected; use it, or the agent, in `async with`")
        if self._process != os.getpid():  # its threads, its loop and its pipes are the parent's
            raise RuntimeError(f"{self!r} was connected by another process; connect a new one here")

    def _refuse_second_use(self) -> None:
        if self._registry is not None and self._connection.is_open:
            raise RuntimeError(f"{self!r} is already connected")
        self._process = os.getpid()

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
            from pathors_agent.mcp.content import RefusedDefinition

            self._connection.refuse(RefusedDefinition(listed_name, error.path))
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
    legal = NOT_IN_NAMES.sub("_", name)[:NAME_LENGTH] or "tool"
    name, number = legal, 1
    while name in taken:
        number += 1
        ending = f"_{number}"
        name = legal[: NAME_LENGTH - len(ending)] + ending
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
