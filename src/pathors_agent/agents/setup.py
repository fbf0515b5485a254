"""The setup of a run: its tools, the template of its requests, its hooks and its observers."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

from msgspec import Struct, field

from pathors_agent.agents.answers import AnswerType, ArrivingAnswer, name_taken
from pathors_agent.agents.approvals import Approvals
from pathors_agent.agents.budgets import Budget, charging
from pathors_agent.agents.hooks import NO_HOOKS, Hooks
from pathors_agent.core.run import CallModel, CallTool, Run
from pathors_agent.history.trim import AsyncHistory, checked, spending
from pathors_agent.messages import Message, ToolMessage, Usage
from pathors_agent.telemetry.runs import RunTelemetry, report_answered
from pathors_agent.tools.registry import (
    AsyncToolChoice,
    BoundCall,
    ToolRegistry,
    chosen,
    chosen_async,
    not_awaited,
)
from pathors_agent.wire.chat_completions import RequestTemplate
from pathors_agent.wire.message_builder import Quirk

InstructionsFunction = Callable[[Any], str | Awaitable[str | None] | None]
"""A function from a run's context to the instructions of the next model call."""


class Journal(Protocol):
    """Records that calls begin and end, so that another process knows of them after a crash."""

    async def begin(self, run: Run, effect: CallTool, bound: BoundCall) -> ToolMessage | None:
        """Record that a call begins, or return the result of a call that must not run again."""

    async def end(self, message: ToolMessage) -> None:
        """Record the result of a call, before the conversation does."""


class RunSetup(Struct, kw_only=True):
    """The parts that a driver needs to perform the effects of a run.

    Tools get `context` as `ToolContext.context`. `choice` returns the `tools` of each turn, and
    `instruct` its instructions, if they are functions; `plain` is the `template` without what
    `answers` adds. `quirks` are the deviations of this run's answers from the wire format, one of
    each kind; `known_quirks` are the kinds that were logged before. `answers` is the type of the
    answers, and `arriving` shows an answer while it arrives. `hooks` wrap its calls. Without
    `streams`, nothing reads the deltas. `history` selects the messages to send, and `spent` has the
    tokens that it used. `telemetry` observes the run. `journal` records its tool calls, in async
    code only.
    """

    tools: ToolRegistry
    template: RequestTemplate
    approvals: Approvals
    context: object = None
    hooks: Hooks = NO_HOOKS
    budgets: tuple[Budget, ...] = ()
    streams: bool = True
    choice: AsyncToolChoice | None = None
    instruct: InstructionsFunction | None = None
    plain: RequestTemplate | None = None
    quirks: tuple[Quirk, ...] = ()
    known_quirks: set[str] = field(default_factory=set)
    answers: AnswerType[Any] | None = None
    arriving: ArrivingAnswer | None = None
    history: AsyncHistory | None = None
    spent: list[Usage] | None = None  # allocated when `history` runs
    telemetry: RunTelemetry = field(default_factory=RunTelemetry)
    journal: Journal | None = None

    def begin_turn(self, run: Run) -> None:
        """Choose the tools and the instructions of the next turn, if functions return them."""
        self.choose_tools(run)
        if self.instruct is not None:
            with self.attached():
                text = not_awaited("instructions=", self.instruct(self.context))
            self._instruct(text)

    async def begin_turn_async(self, run: Run) -> None:
        """As `begin_turn`; the functions may be async."""
        await self.choose_tools_async(run)
        if self.instruct is not None:
            with self.attached():
                text = self.instruct(self.context)
                said = await text if isinstance(text, Awaitable) else text
            self._instruct(said)

    def choose_tools(self, run: Run) -> None:
        """Choose the tools of the next turn, if they are chosen for each turn."""
        if self.choice is not None:
            with self.attached():
                tools = chosen(self.choice, self.context)
            self._take(tools, run)

    async def choose_tools_async(self, run: Run) -> None:
        """Choose the tools of the next turn; the function may be async."""
        if self.choice is not None:
            with self.attached():
                tools = await chosen_async(self.choice, self.context)
            self._take(tools, run)

    def offer_tools(self, messages: Sequence[Message]) -> RequestTemplate:
        """Return the template with the tools that the model sees after these messages."""
        offered = self.tools.offered(messages)
        if offered != self.template.tools:
            self.template = replace(self.template, tools=offered)
        return self.template

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Charge runs that hooks and functions of the caller start to the run's budgets.

        Their spans are below the run's.
        """
        with charging(self.budgets), self.telemetry.attached():
            yield

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count tokens that are used inside the block, beside the run's own answers, to the run.

        Runs that are started inside the block are charged to the run's budgets.
        """
        if self.spent is None:
            self.spent = []
        with spending(self.spent), charging(self.budgets):
            yield

    def select(self, effect: CallModel) -> Sequence[Message]:
        """Return the messages to send."""
        if (choose := self._history()) is None:
            return effect.messages
        with self._choosing():
            messages = not_awaited("history=", choose(effect.messages))
        return self._checked(effect, messages)

    async def select_async(self, effect: CallModel) -> Sequence[Message]:
        """Return the messages to send; `history` may be async."""
        if (choose := self._history()) is None:
            return effect.messages
        with self._choosing():
            messages = choose(effect.messages)
            if isinstance(messages, Awaitable):
                messages = await messages
        return self._checked(effect, messages)

    def _history(self) -> AsyncHistory | None:
        """Return the function that selects messages, or None if the endpoint keeps the history."""
        keeps_history = self.template.profile.sends == "new_messages"
        return None if keeps_history else self.history

    @contextmanager
    def _choosing(self) -> Iterator[None]:
        """Count the tokens that `history=` uses to this run, and put its spans below the run's."""
        with self.counting(), self.telemetry.attached():
            yield

    def _checked(self, effect: CallModel, messages: Sequence[Message]) -> Sequence[Message]:
        if messages is effect.messages:
            return messages
        return checked(messages, source="history=")

    def report_answered(
        self, effect: CallTool, message: ToolMessage, *, error: str | None = None
    ) -> None:
        """Report a call whose tool did not run; `error` is the reason if its arguments are valid."""
        name = effect.call.name
        is_known = name in self.tools or bool(self.answers and name == self.answers.final_tool)
        report_answered(
            self.telemetry, effect.key, effect.call, message, is_known=is_known, error=error
        )

    def _instruct(self, text: object) -> None:
        if text is not None and not isinstance(text, str):
            kind = type(text).__name__
            raise TypeError(f"instructions= returned a {kind}, and not a text or None")
        assert self.plain is not None
        if text != self.plain.instructions:
            self.plain = replace(self.plain, instructions=text)
            asked = self.answers.asked_by(self.plain) if self.answers else self.plain
            self.template = replace(asked, tools=self.template.tools)

    def _take(self, tools: ToolRegistry, run: Run) -> None:
        if tools is not self.tools:
            if self.answers and self.answers.final_tool in tools:
                raise name_taken()
            self.template = replace(self.template, tools=tools.definitions())
        self.tools = self.approvals.tools = tools
        run.client_tools = tools.client_tools
