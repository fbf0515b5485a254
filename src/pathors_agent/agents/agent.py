"""Agents: a transport with tools and limits, for blocking and for async code.

What the two share is in `agents.base`, which also says why runs import modules lazily.
"""

from collections.abc import Awaitable, Callable, Iterable
from threading import Lock
from typing import TYPE_CHECKING, Any, Generic, Unpack, cast, overload

from typing_extensions import TypeVar

from pathors_agent.agents.answers import OutputT
from pathors_agent.agents.approvals import Decision
from pathors_agent.agents.base import ARGUMENTS, AgentBase, AgentSettings, RunSettings
from pathors_agent.agents.mistakes import refuse_mistakes
from pathors_agent.concurrency.lifetime import AsyncLifetime, Lifetime, OneProcess
from pathors_agent.history.loading import GivenConversation, Prompt
from pathors_agent.history.trim import AsyncHistory, History
from pathors_agent.tools.registry import (
    AsyncToolChoice,
    ContextTool,
    ContextTools,
    ToolChoice,
    Tools,
    refuse_async,
)
from pathors_agent.tools.tool import Tool
from pathors_agent.transports.base import AsyncTransport, Transport

if TYPE_CHECKING:
    from pathors_agent.agents.hooks import AsyncHook, Hook
    from pathors_agent.agents.perform.tool_thread import ToolThread
    from pathors_agent.agents.result import RunResult
    from pathors_agent.agents.stream import AsyncRunStream, RunStream
    from pathors_agent.agents.sub_agent import Streaming


ContextT_contra = TypeVar("ContextT_contra", contravariant=True, default=Any)
ContextT = TypeVar("ContextT", default=Any)

Instructions = str | Callable[[ContextT], str | None] | None
"""A text, or a function from a run's context to the instructions of the next model call."""
AsyncInstructions = str | Callable[[ContextT], str | Awaitable[str | None] | None] | None
"""`Instructions`, or an async function of the same kind."""


class _AsTool(OneProcess):
    """An agent as a tool of other agents."""

    def as_tool(self, name: str, description: str, *, timeout: float | None = None) -> Tool:
        """Return a tool that runs this agent, for `tools=` of another agent of either kind.

        The model sees the tool's `name` and `description`. One call may take `timeout` seconds. The
        model passes a `prompt`, and the agent's answer is the result. Each call is a run of its
        own. Its deltas and messages are progress of the tool. Its tokens count to the outer run,
        and its tools get the context of the outer run. Cancelling the outer run cancels it. The
        result keeps the run in `extra["run"]`.

        If the inner run waits for an approval or a client's result, the outer run is suspended, and
        has its `approvals` and `open_calls`. Pass the decisions and results to the outer run to
        continue both. Inside a durable run, the inner run is durable as well.
        """
        from pathors_agent.agents.sub_agent import SubAgent

        function = SubAgent(cast("Streaming", self))
        return Tool.from_function(function, name=name, description=description, timeout=timeout)


class Agent(_AsTool, AgentBase, Lifetime, Generic[OutputT, ContextT_contra]):
    """A model with tools, for blocking code.

    Tools run one after another. Async tools run on one event loop in a thread, so that an agent
    works in a notebook as well. The event loop runs until the agent is closed or collected, so that
    a client or pool that async tools share works in the next run. `AsyncAgent` runs the calls of one
    answer side by side.

    Used as a context manager, the agent opens and closes its transport, the tools that have a
    connection (`MCPTools`) and its event loop.

    - `output`: the type of the answers (a pydantic model, dataclass, TypedDict, union, ...), or a
      function that takes a value of such a type and returns the answer. If an answer does not fit,
      or the function raises `ValueError`, the model reads why and answers again. Without a type,
      answers are text.
    - `instructions`: sent before the history of every request, but not part of the history: a text,
      or a function of the run's context, called before each model call (async for `AsyncAgent`).
    - `history`: a function that selects the messages to send, unless the endpoint keeps the
      history itself; see `last_turns` and `token_budget`.
    - `hooks`: objects with `around_model` or `around_tool`, which wrap each call of the run.
    - `name`: the agent's name in traces, metrics and logs.
    - `model`: the name of the model, for endpoints that serve several.
    - `limits`: when a run stops; `options`: parameters of the requests.
    - `budget`: the most that all runs of this agent, and of other agents with the same budget, may
      spend.
    """

    @overload
    def __init__(
        self,
        transport: Transport,
        *,
        output: type[OutputT] | Callable[[Any], OutputT] | None = None,
        tools: Iterable[ContextTool[ContextT_contra]],
        instructions: Instructions[ContextT_contra] = None,
        history: History | None = None,
        hooks: "Iterable[Hook]" = (),
        **settings: Unpack[AgentSettings],
    ) -> None: ...

    @overload
    def __init__(
        self,
        transport: Transport,
        *,
        output: type[OutputT] | Callable[[Any], OutputT] | None = None,
        tools: ContextTools[ContextT_contra] | ToolChoice[ContextT_contra] = ...,
        instructions: Instructions[ContextT_contra] = None,
        history: History | None = None,
        hooks: "Iterable[Hook]" = (),
        **settings: Unpack[AgentSettings],
    ) -> None: ...

    @overload
    def __init__(
        self: "Agent[Any, ContextT]",
        transport: Transport,
        *,
        output: object,
        tools: ContextTools[ContextT] | ToolChoice[ContextT] = ...,
        instructions: Instructions[ContextT] = None,
        history: History | None = None,
        hooks: "Iterable[Hook]" = (),
        **settings: Unpack[AgentSettings],
    ) -> None: ...

    def __init__(
        self,
        transport: Transport | None = None,
        *,
        output: object = None,
        tools: Tools | ToolChoice = (),
        instructions: Instructions[Any] = None,
        history: History | None = None,
        hooks: "Iterable[Hook]" = (),
        **settings: Unpack[AgentSettings],
    ) -> None:
        given = {"tools": tools, "instructions": instructions, "history": history, **settings}
        refuse_mistakes("Agent", transport, Transport, given, ARGUMENTS)
        assert transport is not None  # or it was refused
        refuse_async("tools", tools)
        refuse_async("instructions", instructions)
        super().__init__(
            transport,
            output=output,
            tools=tools,
            instructions=instructions,
            history=history,
            hooks=hooks,
            is_async=False,
            **settings,
        )
        if self._answers and self._answers.is_async:
            raise TypeError("output= is an async function, which only AsyncAgent can await")
        self.transport = transport
        self._thread: ToolThread | None = None  # started by the first run
        self._starting = Lock()

    def __exit__(self, *raised: Any) -> None:
        try:
            if self._thread is not None:
                self._thread.close()  # its tools may use the connections that are closed next
        finally:
            super().__exit__(*raised)

    def run(
        self,
        prompt: Prompt | None = None,
        *,
        conversation: GivenConversation | None = None,
        session_id: str | None = None,
        context: ContextT_contra | None = None,
        decisions: Iterable[Decision] = (),
        tools: Tools | ToolChoice | None = None,
        **settings: Unpack[RunSettings],
    ) -> "RunResult[OutputT]":
        """Run until the model answers, a limit is reached, or the caller must run a call.

        Without a prompt, the pending effects of the conversation are performed. A `Conversation`
        grows during the run. A list of messages, or of OpenAI's dicts, begins a new conversation,
        which the result has. `session_id` names the endpoint's session. Tools get `context`.
        `decisions` answer the `approvals` of an earlier run. `tools`, `model`, `limits` and the
        `options` that are set override the agent's for this run. `budget` applies in addition to
        the agent's budget. Raises `TransportError` if a model call fails, with the history so far
        in its `messages`.
        """
        import pathors_agent.agents.drivers as runs

        refuse_async("tools", tools)
        with runs.open_stream(
            self,
            self.transport,
            self._tool_thread(),
            prompt,
            conversation,
            session_id,
            context,
            decisions,
            tools,
            settings,
            streams=False,
        ) as stream:
            for _ in stream:
                pass
        return stream.result

    def stream(
        self,
        prompt: Prompt | None = None,
        *,
        conversation: GivenConversation | None = None,
        session_id: str | None = None,
        context: ContextT_contra | None = None,
        decisions: Iterable[Decision] = (),
        tools: Tools | ToolChoice | None = None,
        **settings: Unpack[RunSettings],
    ) -> "RunStream[OutputT]":
        """Run, and stream deltas and messages: iterate the result inside a `with` block.

        The arguments are those of `run`.
        """
        import pathors_agent.agents.drivers as runs

        refuse_async("tools", tools)
        return runs.open_stream(
            self,
            self.transport,
            self._tool_thread(),
            prompt,
            conversation,
            session_id,
            context,
            decisions,
            tools,
            settings,
            streams=True,
        )

    def _tool_thread(self) -> "ToolThread":
        """Return the event loop of async tools, which all runs share."""
        from pathors_agent.agents.perform import tool_thread

        with self._starting:
            if self._thread is None:
                self._thread = tool_thread.ToolThread()
            return self._thread


class AsyncAgent(_AsTool, AgentBase, AsyncLifetime, Generic[OutputT, ContextT_contra]):
    """A model with tools, for asyncio and trio.

    The tool calls of one answer run side by side, sync tools in worker threads. The arguments are
    those of `Agent`; `history`, the function that chooses the tools and an `output` function may be
    async.
    """

    @overload
    def __init__(
        self,
        transport: AsyncTransport,
        *,
        output: Callable[[Any], Awaitable[OutputT]],
        tools: ContextTools[ContextT_contra] | AsyncToolChoice[ContextT_contra] = ...,
        instructions: AsyncInstructions[ContextT_contra] = None,
        history: AsyncHistory | None = None,
        hooks: "Iterable[AsyncHook]" = (),
        **settings: Unpack[AgentSettings],
    ) -> None: ...

    @overload
    def __init__(
        self,
        transport: AsyncTransport,
        *,
        output: type[OutputT] | Callable[[Any], OutputT] | None = None,
        tools: Iterable[ContextTool[ContextT_contra]],
        instructions: AsyncInstructions[ContextT_contra] = None,
        history: AsyncHistory | None = None,
        hooks: "Iterable[AsyncHook]" = (),
        **settings: Unpack[AgentSettings],
    ) -> None: ...

    @overload
    def __init__(
        self,
        transport: AsyncTransport,
        *,
        output: type[OutputT] | Callable[[Any], OutputT] | None = None,
        tools: ContextTools[ContextT_contra] | AsyncToolChoice[ContextT_contra] = ...,
        instructions: AsyncInstructions[ContextT_contra] = None,
        history: AsyncHistory | None = None,
        hooks: "Iterable[AsyncHook]" = (),
        **settings: Unpack[AgentSettings],
    ) -> None: ...

    @overload
    def __init__(
        self: "AsyncAgent[Any, ContextT]",
        transport: AsyncTransport,
        *,
        output: object,
        tools: ContextTools[ContextT] | AsyncToolChoice[ContextT] = ...,
        instructions: AsyncInstructions[ContextT] = None,
        history: AsyncHistory | None = None,
        hooks: "Iterable[AsyncHook]" = (),
        **settings: Unpack[AgentSettings],
    ) -> None: ...

    def __init__(
        self,
        transport: AsyncTransport | None = None,
        *,
        output: object = None,
        tools: Tools | AsyncToolChoice = (),
        instructions: AsyncInstructions[Any] = None,
        history: AsyncHistory | None = None,
        hooks: "Iterable[AsyncHook]" = (),
        **settings: Unpack[AgentSettings],
    ) -> None:
        given = {"tools": tools, "instructions": instructions, "history": history, **settings}
        refuse_mistakes("AsyncAgent", transport, AsyncTransport, given, ARGUMENTS)
        assert transport is not None  # or it was refused
        super().__init__(
            transport,
            output=output,
            tools=tools,
            instructions=instructions,
            history=history,
            hooks=hooks,
            **settings,
        )
        self.transport = transport

    async def run(
        self,
        prompt: Prompt | None = None,
        *,
        conversation: GivenConversation | None = None,
        session_id: str | None = None,
        context: ContextT_contra | None = None,
        decisions: Iterable[Decision] = (),
        tools: Tools | AsyncToolChoice | None = None,
        **settings: Unpack[RunSettings],
    ) -> "RunResult[OutputT]":
        """Run as `Agent.run` does, with the same arguments."""
        import pathors_agent.agents.drivers as runs

        async with runs.open_async_stream(
            self,
            self.transport,
            prompt,
            conversation,
            session_id,
            context,
            decisions,
            tools,
            settings,
            streams=False,
        ) as stream:
            async for _ in stream._items:  # nothing else can read it
                pass
        return stream.result

    def stream(
        self,
        prompt: Prompt | None = None,
        *,
        conversation: GivenConversation | None = None,
        session_id: str | None = None,
        context: ContextT_contra | None = None,
        decisions: Iterable[Decision] = (),
        tools: Tools | AsyncToolChoice | None = None,
        **settings: Unpack[RunSettings],
    ) -> "AsyncRunStream[OutputT]":
        """Run, and stream deltas and messages: iterate the result inside `async with`.

        The arguments are those of `run`.
        """
        import pathors_agent.agents.drivers as runs

        return runs.open_async_stream(
            self,
            self.transport,
            prompt,
            conversation,
            session_id,
            context,
            decisions,
            tools,
            settings,
            streams=True,
        )
