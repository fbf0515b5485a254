"""Agents: a transport, tools and limits, and the two ways to run them, whole or streamed."""

import uuid
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Sequence,
)
from dataclasses import dataclass, field
from functools import cached_property, reduce
from operator import add
from types import TracebackType
from typing import Any, Generic, Self, TypedDict, Unpack, cast, overload

from pathors_agent.approvals import Approval, Approvals, Decision
from pathors_agent.chat_completions import ModelOptions, RequestTemplate
from pathors_agent.conversation import Conversation
from pathors_agent.drivers import drive, drive_async
from pathors_agent.errors import RunNotFinished
from pathors_agent.lifetime import AsyncLifetime, Lifetime
from pathors_agent.limits import Limits
from pathors_agent.message_builder import Delta, Quirk
from pathors_agent.messages import (
    AssistantMessage,
    ContentPart,
    JSONValue,
    Message,
    ToolCall,
    ToolMessage,
    Usage,
    UserMessage,
)
from pathors_agent.model_call import Bindings
from pathors_agent.request_history import AsyncHistory, History
from pathors_agent.run import Run, Status
from pathors_agent.structured import AnswerType, ArrivingAnswer, OutputT, answer_type
from pathors_agent.transport import AsyncTransport, Transport
from pathors_agent.turn_tools import (
    AsyncToolChoice,
    ToolChoice,
    Tools,
    choice_of,
    chosen,
    refuse_async,
    registry_of,
)

Prompt = str | Sequence[ContentPart] | UserMessage
"""What the user says: text, content parts, or a whole message."""

_NOTHING_USED = Usage(
    prompt_tokens=0, completion_tokens=0, total_tokens=0, cached_tokens=0, reasoning_tokens=0
)


@dataclass(frozen=True)
class RunResult(Generic[OutputT]):
    """Where a run stood when it ended, and all that it said.

    `messages` are those that this run added, the prompt first; `conversation` is the history that
    it grew, from which another run goes on. `open_calls` wait for the caller's results, and
    `approvals` are those of them that wait for a person's yes instead. `quirks` are what had to be
    read around in the provider's answers, each kind once.
    """

    conversation: Conversation
    messages: tuple[Message, ...]
    status: Status
    limit: str | None = None
    """The name of the limit that stopped the run."""
    open_calls: tuple[ToolCall, ...] = ()
    approvals: tuple[Approval, ...] = ()
    quirks: tuple[Quirk, ...] = ()
    answer: str | None = field(default=None, repr=False)
    """The text of the answer, as the model wrote it."""
    answers: AnswerType[OutputT] | None = field(default=None, repr=False)
    """The type of the answer, where it is more than text."""

    @cached_property
    def output(self) -> OutputT:
        """The answer: its text, or a value of the agent's `output` type.

        Raises `RunNotFinished` where there is none yet.
        """
        if self.status is Status.FINISHED and self.answer is not None:
            if self.answers is not None:
                return self.answers.read(self.answer)
            return cast(OutputT, self.answer)  # without a type it is `str`
        raise RunNotFinished(
            f"the run has no answer: {self._why_not()}",
            status=self.status,
            messages=self.conversation.messages,
        )

    @property
    def usage(self) -> Usage:
        """The tokens of this run, summed; a count that one answer left out is unknown (None)."""
        return reduce(add, (m.usage or Usage() for m in self._answers()), _NOTHING_USED)

    @property
    def finish_reason(self) -> str | None:
        """The finish_reason of the last answer, in the provider's words."""
        return next((m.finish_reason for m in reversed(self._answers())), None)

    @property
    def session_id(self) -> str | None:
        """The session that the endpoint keeps this conversation under."""
        return self.conversation.session_id

    def _answers(self) -> list[AssistantMessage]:
        return [m for m in self.messages if isinstance(m, AssistantMessage)]

    def _why_not(self) -> str:
        match self.status:
            case Status.SUSPENDED:
                names = ", ".join(sorted({call.name for call in self.open_calls}))
                if self.approvals:
                    return f"it waits for approval of {names}; run again with decisions="
                return f"it waits for the caller's results of {names}; append them and run again"
            case Status.LIMIT_REACHED if self.limit == "output_retries":
                return "no answer was of the type asked for, within limits.output_retries"
            case Status.LIMIT_REACHED:
                return f"it stopped at limits.{self.limit}; raise it and run again"
            case Status.RUNNING:
                return "it was left before its end; run the conversation again to go on"
            case Status.FINISHED:
                return "there was nothing to run; give a prompt"


class AgentSettings(TypedDict, total=False):
    """What is said in the same way of both agents."""

    model: str | None
    instructions: str | None
    limits: Limits | None
    options: ModelOptions | None


class _AgentBase:
    """What both agents are made of."""

    def __init__(
        self,
        transport: Transport | AsyncTransport,
        *,
        output: object = None,
        tools: Tools | AsyncToolChoice = (),
        history: AsyncHistory | None = None,
        model: str | None = None,
        instructions: str | None = None,
        limits: Limits | None = None,
        options: ModelOptions | None = None,
    ) -> None:
        self._given: tuple[object, ...] = (transport, tools)
        self._choice = choice_of(tools)
        self.tools = registry_of(() if callable(tools) else tools)
        self.limits = limits or Limits()
        self._known_quirks: set[str] = set()
        self._history = history
        template = RequestTemplate(
            model=model,
            instructions=instructions,
            tools=self.tools.definitions(),
            options=options or ModelOptions(),
            profile=transport.profile,
        )
        self._answers = answer_type(output, transport.profile.structured, self.tools)
        self._template = self._answers.asked_by(template) if self._answers else template

    def _start(
        self, conversation: Conversation | None, session_id: str | None, context: object
    ) -> tuple[Run, "_Before", Bindings]:
        """Take up a conversation, or a new one."""
        if conversation is None:
            conversation = Conversation()
        if session_id is not None:
            _refuse_other_session(conversation, session_id)
        bindings = self._bindings(context, Approvals(conversation, self.tools))
        run = Run(
            conversation,
            limits=self.limits,
            client_tools=self.tools.client_tools,
            is_held=bindings.approvals.is_held,
            answers=self._answers,
        )
        return run, _Before(conversation), bindings

    def approvals(self, conversation: Conversation, *, context: object = None) -> list[Approval]:
        """The calls of a stored conversation that wait for a person's approval.

        Where `tools` is a function, it is asked with the context.
        """
        tools = chosen(self._choice, context) if self._choice else self.tools
        return Approvals(conversation, tools).open()

    def _bindings(self, context: object, approvals: Approvals) -> Bindings:
        return Bindings(
            tools=self.tools,
            choice=self._choice,
            approvals=approvals,
            template=self._template,
            context=context,
            known_quirks=self._known_quirks,
            answers=self._answers,
            arriving=ArrivingAnswer(self._answers) if self._answers else None,
            history=self._history,
        )


class Agent(_AgentBase, Lifetime, Generic[OutputT]):
    """A model with tools, for blocking code.

    `instructions` go before the history of every request and are no part of it. Tools run one
    after another; async ones on an event loop in a thread of their own, so that an agent works in
    a notebook too. `AsyncAgent` runs the calls of one answer side by side. A `with` block around
    its use opens and closes the transport, and tools that have a connection (`MCPTools`).

    - `output`: the type of the answers (a pydantic model, dataclass, TypedDict, union, ...); what
      does not fit goes back to the model. Without one they are text.
    - `history`: a function from messages to messages that chooses what of the history is sent,
      where the endpoint does not keep the history itself; see `last_turns`, `token_budget`.
    """

    @overload
    def __init__(
        self,
        transport: Transport,
        *,
        output: type[OutputT] | None = None,
        tools: Tools | ToolChoice = (),
        history: History | None = None,
        **settings: Unpack[AgentSettings],
    ) -> None: ...

    @overload
    def __init__(
        self: "Agent[Any]",
        transport: Transport,
        *,
        output: object,
        tools: Tools | ToolChoice = (),
        history: History | None = None,
        **settings: Unpack[AgentSettings],
    ) -> None: ...

    def __init__(
        self,
        transport: Transport,
        *,
        output: object = None,
        tools: Tools | ToolChoice = (),
        history: History | None = None,
        **settings: Unpack[AgentSettings],
    ) -> None:
        if not isinstance(transport, Transport):
            raise TypeError(_wrong_transport(transport, "Transport", "AsyncAgent"))
        refuse_async(tools)
        super().__init__(transport, output=output, tools=tools, history=history, **settings)
        self.transport = transport

    def run(
        self,
        prompt: Prompt | None = None,
        *,
        conversation: Conversation | None = None,
        session_id: str | None = None,
        context: object = None,
        decisions: Iterable[Decision] = (),
    ) -> RunResult[OutputT]:
        """Run until there is an answer, a limit, or a call that only the caller can run.

        Without a prompt, go on with what the conversation owes. `conversation` grows as the run
        goes; `session_id` names the endpoint's session; `context` reaches the tools; `decisions`
        answer the `approvals` that an earlier run waits for. Raises
        `TransportError` when no answer could be had, with the history so far in its `messages`.
        """
        with self.stream(
            prompt,
            conversation=conversation,
            session_id=session_id,
            context=context,
            decisions=decisions,
        ) as stream:
            for _ in stream:
                pass
        return stream.result

    def stream(
        self,
        prompt: Prompt | None = None,
        *,
        conversation: Conversation | None = None,
        session_id: str | None = None,
        context: object = None,
        decisions: Iterable[Decision] = (),
    ) -> "RunStream[OutputT]":
        """As `run`, giving deltas and messages as they come: iterate it inside a `with`."""
        run, before, bindings = self._start(conversation, session_id, context)
        if run.conversation.open_calls:
            bindings.choose_tools(run)
        _open(bindings, run, prompt, session_id, decisions)
        return RunStream(run, before, bindings, drive(run, self.transport, bindings))


class AsyncAgent(_AgentBase, AsyncLifetime, Generic[OutputT]):
    """A model with tools, for asyncio and trio.

    The tool calls of one answer run side by side; sync tools in worker threads. `instructions` go
    before the history of every request and are no part of it. `output` and `history` are as in
    `Agent`; the function may be async.
    """

    @overload
    def __init__(
        self,
        transport: AsyncTransport,
        *,
        output: type[OutputT] | None = None,
        tools: Tools | AsyncToolChoice = (),
        history: AsyncHistory | None = None,
        **settings: Unpack[AgentSettings],
    ) -> None: ...

    @overload
    def __init__(
        self: "AsyncAgent[Any]",
        transport: AsyncTransport,
        *,
        output: object,
        tools: Tools | AsyncToolChoice = (),
        history: AsyncHistory | None = None,
        **settings: Unpack[AgentSettings],
    ) -> None: ...

    def __init__(
        self,
        transport: AsyncTransport,
        *,
        output: object = None,
        tools: Tools | AsyncToolChoice = (),
        history: AsyncHistory | None = None,
        **settings: Unpack[AgentSettings],
    ) -> None:
        if not isinstance(transport, AsyncTransport):
            raise TypeError(_wrong_transport(transport, "AsyncTransport", "Agent"))
        super().__init__(transport, output=output, tools=tools, history=history, **settings)
        self.transport = transport

    async def run(
        self,
        prompt: Prompt | None = None,
        *,
        conversation: Conversation | None = None,
        session_id: str | None = None,
        context: object = None,
        decisions: Iterable[Decision] = (),
    ) -> RunResult[OutputT]:
        """As `Agent.run`."""
        async with self.stream(
            prompt,
            conversation=conversation,
            session_id=session_id,
            context=context,
            decisions=decisions,
        ) as stream:
            async for _ in stream:
                pass
        return stream.result

    def stream(
        self,
        prompt: Prompt | None = None,
        *,
        conversation: Conversation | None = None,
        session_id: str | None = None,
        context: object = None,
        decisions: Iterable[Decision] = (),
    ) -> "AsyncRunStream[OutputT]":
        """As `run`, giving deltas and messages as they come: iterate it inside `async with`."""
        run, before, bindings = self._start(conversation, session_id, context)
        items = drive_async(run, self.transport, bindings)
        if not self._choice or not run.conversation.open_calls:
            _open(bindings, run, prompt, session_id, decisions)
            return AsyncRunStream(run, before, bindings, items)

        async def open_with_its_tools() -> None:
            await bindings.choose_tools_async(run)
            _open(bindings, run, prompt, session_id, decisions)

        return AsyncRunStream(run, before, bindings, items, open_with_its_tools)


class _Before:
    """What a conversation held before a run: results of an open batch may come in between."""

    def __init__(self, conversation: Conversation) -> None:
        still_open = {call.id for call in conversation.open_calls}
        self._results = {call.id for call in conversation.calls} - still_open
        self._start = len(conversation) - len(self._results)
        self._batch_end = self._start + len(conversation.calls)

    def added(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """Give those of the messages that came later."""
        batch = messages[self._start : self._batch_end]
        return (*(m for m in batch if not self._held(m)), *messages[self._batch_end :])

    def _held(self, message: Message) -> bool:
        return isinstance(message, ToolMessage) and message.tool_call_id in self._results


class _StreamBase(Generic[OutputT]):
    def __init__(self, run: Run, before: "_Before", bindings: Bindings) -> None:
        self._run = run
        self._before = before
        self._bindings = bindings

    @property
    def conversation(self) -> Conversation:
        """The history, growing as the run goes."""
        return self._run.conversation

    @property
    def partial(self) -> JSONValue:
        """The answer so far as a value, for display only; None while there is none.

        Only agents with an `output` type have one. It is parsed when asked, in linear time; the
        containers go on growing: copy what you keep.
        """
        return self._bindings.arriving.value if self._bindings.arriving else None

    @property
    def result(self) -> RunResult[OutputT]:
        """Where the run stands now; after the last item, its result."""
        conversation = self._run.conversation
        return RunResult(
            conversation=conversation,
            messages=self._before.added(conversation.messages),
            status=self._run.status,
            limit=self._run.limit,
            open_calls=conversation.open_calls,
            approvals=tuple(self._bindings.approvals.open()),
            quirks=tuple(self._bindings.quirks.values()),
            answer=self._run.answer,
            answers=self._bindings.answers,
        )


class RunStream(_StreamBase[OutputT]):
    """A run as it goes: a context manager, and an iterable of deltas and messages.

    Leaving the `with` block early ends the model call; the history keeps what was recorded, and
    running the conversation again goes on from there.
    """

    def __init__(
        self,
        run: Run,
        before: "_Before",
        bindings: Bindings,
        items: Generator[Delta | Message, None, None],
    ) -> None:
        super().__init__(run, before, bindings)
        self._items = items

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._items.close()

    def __iter__(self) -> Iterator[Delta | Message]:
        return self._items


class AsyncRunStream(_StreamBase[OutputT]):
    """`RunStream` for asyncio and trio: an async context manager and async iterable."""

    def __init__(
        self,
        run: Run,
        before: "_Before",
        bindings: Bindings,
        items: AsyncGenerator[Delta | Message, None],
        opening: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__(run, before, bindings)
        self._items = items
        self._opening = opening

    async def __aenter__(self) -> Self:
        if self._opening is not None:
            await self._opening()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._items.aclose()

    def __aiter__(self) -> AsyncIterator[Delta | Message]:
        # The driver itself: another layer would cost each item a coroutine.
        return self._items


def _open(
    bindings: Bindings,
    run: Run,
    prompt: Prompt | None,
    session_id: str | None,
    decisions: Iterable[Decision],
) -> None:
    """Take what was decided, and what the user says, into the history."""
    conversation = run.conversation
    bindings.approvals.decide(decisions)
    if prompt is not None:
        conversation.append(_user_message(prompt))
    conversation.session_id = conversation.session_id or session_id
    conversation.id = conversation.id or session_id or uuid.uuid4().hex


def _user_message(prompt: Prompt) -> UserMessage:
    if isinstance(prompt, UserMessage):
        return prompt
    return UserMessage(content=prompt if isinstance(prompt, str) else tuple(prompt))


def _refuse_other_session(conversation: Conversation, session_id: str) -> None:
    if conversation.session_id not in (None, session_id):
        raise ValueError(
            f"the conversation belongs to session {conversation.session_id!r}, "
            f"not to session_id={session_id!r}; pass one of the two"
        )


def _wrong_transport(transport: object, wanted: str, other: str) -> str:
    kind = type(transport).__name__
    return f"transport is a {kind}, not a {wanted}; is {other} the agent you want?"
