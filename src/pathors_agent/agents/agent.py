"""Agents: a transport with tools and limits, for blocking and for async code.

The modules that perform runs are imported by the first run: they and asyncio would take a third of
the time in which a program imports this module and constructs an agent. Each run looks them up as
modules, which takes a third of the time of an import of names.
"""

import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict, replace
from random import Random
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypedDict, Unpack, cast, overload

from typing_extensions import TypeVar

from pathors_agent.agents.answers import ArrivingAnswer, OutputT, answer_type, name_taken
from pathors_agent.agents.approvals import Approval, Approvals, Decision
from pathors_agent.agents.budgets import Budget, charged_budgets
from pathors_agent.agents.mistakes import missing, refuse_mistakes, refuse_settings
from pathors_agent.concurrency.lifetime import AsyncLifetime, Lifetime
from pathors_agent.core.conversation import Conversation
from pathors_agent.core.limits import Limits
from pathors_agent.core.run import Run
from pathors_agent.history.loading import GivenConversation, Prompt, conversation_of, user_message
from pathors_agent.history.trim import AsyncHistory, History
from pathors_agent.tools.registry import (
    AsyncToolChoice,
    ContextTool,
    ContextTools,
    ToolChoice,
    Tools,
    choice_of,
    chosen,
    refuse_async,
    registry_of,
)
from pathors_agent.tools.tool import Tool
from pathors_agent.transports.base import AsyncTransport, Transport
from pathors_agent.wire.chat_completions import ModelOptions, RequestTemplate

if TYPE_CHECKING:
    from pathors_agent.agents.control import RunControl
    from pathors_agent.agents.hooks import AsyncHook, Hook, Hooks
    from pathors_agent.agents.perform.threads import ToolThread
    from pathors_agent.agents.result import RunResult
    from pathors_agent.agents.setup import RunSetup
    from pathors_agent.agents.stream import AsyncRunStream, Baseline, RunStream
    from pathors_agent.agents.sub_agent import Streaming


class RunSettings(TypedDict, total=False):
    """What takes the place of the agent's settings in one run.

    `options` replace those options of the agent that they set. A `budget` is spent beside the agent's.
    """

    model: str | None
    limits: Limits | None
    options: ModelOptions | None
    budget: Budget | None


class AgentSettings(RunSettings, total=False):
    """The settings that both agents share."""

    name: str | None


ContextT_contra = TypeVar("ContextT_contra", contravariant=True, default=Any)
ContextT = TypeVar("ContextT", default=Any)

Instructions = str | Callable[[ContextT], str | None] | None
"""A text, or a function from a run's context to the instructions of the next model call."""
AsyncInstructions = str | Callable[[ContextT], str | Awaitable[str | None] | None] | None
"""`Instructions`, or an async function of the same kind."""

_ARGUMENTS = (
    *("output", "tools", "instructions", "history", "hooks"),
    *AgentSettings.__annotations__,
)


_RUN_ARGUMENTS = ("tools", *RunSettings.__annotations__)


class _AgentBase:
    """The parts that both agents share."""

    def __init__(
        self,
        transport: Transport | AsyncTransport,
        *,
        output: object = None,
        tools: Tools | AsyncToolChoice = (),
        history: AsyncHistory | None = None,
        hooks: "Hooks | None" = None,
        name: str | None = None,
        model: str | None = None,
        instructions: AsyncInstructions[Any] = None,
        limits: Limits | None = None,
        options: ModelOptions | None = None,
        budget: Budget | None = None,
    ) -> None:
        self.budget = budget
        self._given: tuple[object, ...] = (transport, tools)
        self.name = name
        self._server_address = transport.server_address
        self._choice = choice_of(tools)
        self.tools = registry_of(() if callable(tools) else tools)
        self.limits = limits or Limits()
        self._known_quirks: set[str] = set()
        self._history = history
        self._hooks = hooks
        self._instruct = instructions if callable(instructions) else None
        self._plain = RequestTemplate(
            model=model,
            instructions=None if callable(instructions) else instructions,
            tools=self.tools.definitions(),
            options=options or ModelOptions(),
            profile=transport.profile,
        )
        self._answers = answer_type(output, transport.profile.structured, self.tools)
        self._template = self._asked(self._plain)

    def _asked(self, template: RequestTemplate) -> RequestTemplate:
        """Return the template of requests for answers of the agent's type."""
        return self._answers.asked_by(template) if self._answers else template

    if not TYPE_CHECKING:  # a type checker that saw __getattr__ would accept any name

        def __getattr__(self, name: str) -> object:
            raise missing(self, name)

    def as_tool(self, name: str, description: str, *, timeout: float | None = None) -> Tool:
        """Return a tool that runs this agent, for `tools=` of another agent of either kind.

        The model sees the tool's `name` and `description`. One call may take `timeout` seconds. The
        model passes a `prompt`; the agent's answer is the result. Each call is a run of its
        own: its deltas and messages are progress of the tool, its tokens count to the outer run,
        whose context reaches its tools, and cancelling the outer run cancels it. The result keeps
        the run in `extra["run"]`.

        A run that waits for an approval or a client's result suspends the outer run, whose
        `approvals` and `open_calls` are those of the inner one; the decisions and results go to the
        outer run, and the inner one goes on. In a durable run it is a durable run of its own.
        """
        from pathors_agent.agents.sub_agent import SubAgent

        function = SubAgent(cast("Streaming", self))
        return Tool.from_function(function, name=name, description=description, timeout=timeout)

    def approvals(self, conversation: Conversation, *, context: object = None) -> list[Approval]:
        """Return the calls of a stored conversation that wait for a person's approval.

        If `tools` is a function, it is called with the context.
        """
        tools = chosen(self._choice, context) if self._choice else self.tools
        return Approvals(conversation, tools, context).open()


def prepare_run(
    agent: _AgentBase,
    given: GivenConversation | None,
    *,
    session_id: str | None = None,
    context: object = None,
    tools: Tools | AsyncToolChoice | None = None,
    settings: RunSettings | None = None,
    streams: bool = True,
) -> "tuple[Run, Baseline, RunSetup]":
    """Return a run of the agent that goes on with a conversation, or begins a new one.

    `tools` and `settings` take the place of the agent's. Without `streams`, nothing reads its deltas.
    Nothing is performed yet, and nothing is appended to the conversation.
    """
    from pathors_agent.agents import hooks, stream
    from pathors_agent.agents.setup import RunSetup
    from pathors_agent.telemetry import runs

    conversation = Conversation() if given is None else conversation_of(given)
    if session_id is not None:
        _refuse_other_session(conversation, session_id)
    answers = agent._answers.for_run() if agent._answers else None
    settings = settings or {}
    refuse_settings("a run", {"tools": tools, **settings}, _RUN_ARGUMENTS)
    budgets = charged_budgets(agent.budget, settings.get("budget"))
    choice, registry = agent._choice, agent.tools
    if tools is not None:
        choice, registry = choice_of(tools), registry_of(() if callable(tools) else tools)
        if answers and answers.final_tool in registry:
            raise name_taken()
    plain, template = agent._plain, agent._template
    if tools is not None or settings.get("model") or settings.get("options"):
        plain = replace(
            plain,
            model=settings.get("model") or plain.model,
            options=plain.options.updated(settings.get("options")),
            tools=registry.definitions(),
        )
        template = agent._asked(plain)
    setup = RunSetup(
        tools=registry,
        choice=choice,
        instruct=agent._instruct,
        approvals=Approvals(conversation, registry, context),
        plain=plain,
        template=template,
        context=context,
        known_quirks=agent._known_quirks,
        answers=answers,
        arriving=ArrivingAnswer(answers) if answers else None,
        history=agent._history,
        hooks=agent._hooks or hooks.NO_HOOKS,
        budgets=budgets,
        streams=streams,
        telemetry=runs.RunTelemetry(agent.name, model=template.model, server=agent._server_address),
    )
    run = Run(
        conversation,
        limits=settings.get("limits") or agent.limits,
        client_tools=registry.client_tools,
        is_held=setup.approvals.is_held,
        answers=answers,
    )
    return run, stream.Baseline(conversation), setup


class Agent(_AgentBase, Lifetime, Generic[OutputT, ContextT_contra]):
    """A model with tools, for blocking code.

    Tools run one after another. Async tools run on one event loop in a thread, so that an agent
    works in a notebook as well. The event loop runs until the agent is closed or collected, so that
    a client or pool that async tools share works in the next run. `AsyncAgent` runs the calls of one
    answer side by side.

    Used as a context manager, the agent opens and closes its transport, the tools that have a
    connection (`MCPTools`) and its event loop.

    - `output`: the type of the answers (a pydantic model, dataclass, TypedDict, union, ...), or a
      function of a value of such a type, which returns the answer. An answer that does not fit, or
      that the function refuses with a `ValueError`, goes back to the model. Without a type, answers
      are text.
    - `instructions`: sent before the history of every request, but not part of the history: a text,
      or a function of the run's context, called before each model call (async for `AsyncAgent`).
    - `history`: a function that selects the messages to send, unless the endpoint keeps the
      history itself; see `last_turns` and `token_budget`.
    - `hooks`: objects with `around_model` or `around_tool`, which wrap each call of the run.
    - `name`: the agent's name in traces, metrics and logs.
    - `model`: the name of the model, for endpoints that serve several.
    - `limits`: when a run stops by itself; `options`: parameters of the requests.
    - `budget`: what all runs of the agent may spend, and the runs of agents that share it.
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
        refuse_mistakes("Agent", transport, Transport, given, _ARGUMENTS)
        assert transport is not None  # or it was refused
        refuse_async("tools", tools)
        refuse_async("instructions", instructions)
        super().__init__(
            transport,
            output=output,
            tools=tools,
            instructions=instructions,
            history=history,
            hooks=_methods_of(hooks, is_async=False),
            **settings,
        )
        if self._answers and self._answers.is_async:
            raise TypeError("output= is an async function, which only AsyncAgent can await")
        self.transport = transport
        self._thread: ToolThread | None = None  # started by the first run
        self._starting = Lock()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if self._thread is not None:
                self._thread.close()  # its tools may use the connections that are closed next
        finally:
            super().__exit__(kind, error, traceback)

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
        """Run until the model answers, a limit is reached, or only the caller can run a call.

        Without a prompt, the pending effects of the conversation are performed. A `Conversation`
        grows during the run; a list of messages, or of OpenAI's dicts, begins a new one, which the
        result holds. `session_id` names the endpoint's session. Tools get `context`. `decisions`
        answer the `approvals` of an earlier run. `tools`, `model`, `limits` and the `options` that are
        set take the place of the agent's in this run; `budget` is spent beside the agent's. Raises
        `TransportError` if a model call fails, with the history so far in its `messages`.
        """
        with self._stream(
            prompt, conversation, session_id, context, decisions, tools, settings, streams=False
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
        return self._stream(
            prompt, conversation, session_id, context, decisions, tools, settings, streams=True
        )

    def _stream(
        self,
        prompt: Prompt | None,
        conversation: GivenConversation | None,
        session_id: str | None,
        context: object,
        decisions: Iterable[Decision],
        tools: Tools | ToolChoice | None,
        settings: RunSettings,
        *,
        streams: bool,
    ) -> "RunStream[OutputT]":
        from pathors_agent.agents import control as controls
        from pathors_agent.agents import drivers, stream

        refuse_async("tools", tools)
        run, baseline, setup = prepare_run(
            self,
            conversation,
            session_id=session_id,
            context=context,
            tools=tools,
            settings=settings,
            streams=streams,
        )
        if run.conversation.open_calls:
            setup.choose_tools(run)
        control = controls.RunControl(run, setup.budgets)
        _open(setup, run, control, prompt, session_id, decisions)
        items = drivers.drive(run, self.transport, setup, control, self._tool_thread())
        return stream.RunStream(run, baseline, setup, control, items)

    def _tool_thread(self) -> "ToolThread":
        """Return the event loop of async tools, which all runs share."""
        from pathors_agent.agents.perform import threads

        with self._starting:
            if self._thread is None:
                self._thread = threads.ToolThread()
            return self._thread


class AsyncAgent(_AgentBase, AsyncLifetime, Generic[OutputT, ContextT_contra]):
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
        refuse_mistakes("AsyncAgent", transport, AsyncTransport, given, _ARGUMENTS)
        assert transport is not None  # or it was refused
        super().__init__(
            transport,
            output=output,
            tools=tools,
            instructions=instructions,
            history=history,
            hooks=_methods_of(hooks, is_async=True),
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
        async with self.stream(
            prompt,
            conversation=conversation,
            session_id=session_id,
            context=context,
            decisions=decisions,
            tools=tools,
            **settings,
        ) as stream:
            async for _ in stream:
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
        from pathors_agent.agents import control as controls
        from pathors_agent.agents import drivers, stream

        run, baseline, setup = prepare_run(
            self,
            conversation,
            session_id=session_id,
            context=context,
            tools=tools,
            settings=settings,
        )
        control = controls.RunControl(run, setup.budgets)
        items = drivers.drive_async(run, self.transport, setup, control)
        if setup.choice is None or not run.conversation.open_calls:
            _open(setup, run, control, prompt, session_id, decisions)
            return stream.AsyncRunStream(run, baseline, setup, control, items)

        async def open_with_its_tools() -> None:
            await setup.choose_tools_async(run)
            _open(setup, run, control, prompt, session_id, decisions)

        return stream.AsyncRunStream(run, baseline, setup, control, items, open_with_its_tools)


# Ids must be unique, not secret: asking the operating system for each would take ten times as long.
_IDS = Random()  # noqa: S311
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_IDS.seed)

# The reason that the model reads of a call that was open when the user spoke again.
_WENT_ON = "the user went on"


def _open(
    setup: "RunSetup",
    run: Run,
    control: "RunControl",
    prompt: Prompt | None,
    session_id: str | None,
    decisions: Iterable[Decision],
) -> None:
    """Append the decisions and the prompt to the history.

    A prompt closes the open calls, unless one of them was approved with it.
    """
    conversation = run.conversation
    message = None if prompt is None else user_message(prompt)
    control.take_conversation()
    try:
        setup.telemetry.add_denied(setup.approvals.decide(decisions))
        if message is not None and not setup.approvals.has_approved:
            run.hand_out_client_calls()
            conversation.close_open_calls(_WENT_ON)
        conversation.append_queued()
        if message is not None:
            conversation.append(message)
    finally:
        control.release_conversation()
    conversation.session_id = conversation.session_id or session_id
    # Set before the first effect, so that code that stores the growing history can store it as well.
    conversation.id = conversation.id or session_id or f"{_IDS.getrandbits(128):032x}"


def dump_settings(settings: RunSettings) -> dict[str, Any]:
    """Return the settings of a run as JSON."""
    refuse_settings("a stored run", settings, ("model", "options", "limits"))
    fields: dict[str, Any] = {"model": settings.get("model")}
    if options := settings.get("options"):
        fields["options"] = asdict(options)
    if limits := settings.get("limits"):
        fields["limits"] = asdict(limits)
    return fields


def load_settings(fields: Mapping[str, Any]) -> RunSettings:
    """Read what `dump_settings` wrote."""
    settings: RunSettings = {"model": fields.get("model")}
    if options := fields.get("options"):
        settings["options"] = ModelOptions(**options)
    if limits := fields.get("limits"):
        settings["limits"] = Limits(**limits)
    return settings


def _methods_of(hooks: Iterable[object], *, is_async: bool) -> "Hooks | None":
    given = tuple(hooks)
    if not given:
        return None
    from pathors_agent.agents.hooks import Hooks

    return Hooks.of(given, is_async=is_async)


def _refuse_other_session(conversation: Conversation, session_id: str) -> None:
    if conversation.session_id not in (None, session_id):
        raise ValueError(
            f"the conversation belongs to session {conversation.session_id!r}, "
            f"not to session_id={session_id!r}; pass one of the two"
        )
