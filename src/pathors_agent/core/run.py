"""Decide which calls of a conversation are pending, and never make one. Pure: no I/O, no clock.

A run is derived from the history; it only caches counts of it. Any driver can go on with
any stored history.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from sys import intern
from typing import Protocol

from msgspec import Struct

from pathors_agent.core.batch import CallState
from pathors_agent.core.conversation import Conversation, Role
from pathors_agent.core.limits import MAY_RUN, CallVerdict, Limits, Tally, run_tokens
from pathors_agent.messages import (
    AssistantMessage,
    EndedBy,
    Message,
    ToolCall,
    ToolMessage,
    UserMessage,
    unused_call_id,
)

Produced = AssistantMessage | ToolMessage | UserMessage
"""A message that an effect produces."""


class Status(StrEnum):
    """The status of a run.

    - RUNNING: effects are pending.
    - SUSPENDED: only calls of client tools, or calls that wait for approval, are open.
    - LIMIT_REACHED: a limit stopped the run.
    - NO_ANSWER: an answer of a type was requested, and the model refused, or the answer was cut off.
    - FINISHED: the model has answered.
    """

    RUNNING = "running"
    SUSPENDED = "suspended"
    LIMIT_REACHED = "limit_reached"
    NO_ANSWER = "no_answer"
    FINISHED = "finished"


class CallModel(Struct, frozen=True):
    """Call the model. `key` is equal on every replay of this history.

    For the `last_word` the model is called without tools, because a limit is reached.
    """

    key: str
    messages: tuple[Message, ...]
    last_word: bool = False

    def __repr__(self) -> str:
        return f"CallModel(key={self.key!r}, last_word={self.last_word!r})"


class CallTool(Struct, frozen=True):
    """Run a tool. `key` is equal on every replay of this history.

    `verdict` is the decision of the limits: a refused call does not run.
    """

    key: str
    call: ToolCall
    verdict: CallVerdict = MAY_RUN


@dataclass(frozen=True, slots=True)
class GiveFeedback:
    """Send the model a user message about the fault in its answer."""

    key: str
    message: UserMessage = field(repr=False)


Effect = CallModel | CallTool | GiveFeedback


class AnswerCheck(Protocol):
    """Decides which answers fit, if a run requests answers of one type."""

    @property
    def final_tool(self) -> str | None:
        """The name of the tool whose call is the answer, or None."""

    def answer(self, messages: Sequence[Message]) -> str | None:
        """Return the JSON text of the answer that a history ends with, or None."""

    def feedback(self, messages: Sequence[Message]) -> UserMessage | None:
        """Return the problem of the text answer that a history ends with, or None."""

    def ended_by(self, messages: Sequence[Message]) -> EndedBy | None:
        """Return what ended the last answer early, if asking again would not help, or None."""


class Run:
    """One pass of the loop over a conversation: its pending effects and its status.

    `client_tools` are the names of tools that only the caller can run. `is_held` returns True for a
    call that waits for approval. Both kinds of calls stay open, and a run with no other effects is
    SUSPENDED. `answers` decides which answers fit, if answers of a type are requested.
    """

    __slots__ = (
        "_answers",
        "_final_tool",
        "_is_held",
        "_tally",
        "cancelled",
        "client_tools",
        "conversation",
        "limits",
        "notes_begun_calls",
        "stopped_at",
    )

    def __init__(
        self,
        conversation: Conversation,
        *,
        limits: Limits | None = None,
        client_tools: Collection[str] = frozenset(),
        is_held: Callable[[ToolCall], bool] | None = None,
        answers: AnswerCheck | None = None,
    ) -> None:
        self.conversation = conversation
        self.limits = limits or Limits()
        self.client_tools = frozenset(client_tools)
        self.stopped_at: str | None = None
        """The limit at which the driver stopped the run: `limits.seconds`, or one of the caller's."""
        self.cancelled = False
        """Set by the driver when the run is cancelled; its effects are still pending."""
        self.notes_begun_calls = False
        """Set by a driver that calls `begin` before it begins a tool call."""
        self._is_held = is_held
        self._answers = answers
        self._final_tool = answers.final_tool if answers else None
        self._tally = Tally(self.limits, self._final_tool)

    def effects(self) -> list[CallModel] | list[CallTool] | list[GiveFeedback]:
        """Return the pending effects, which are independent of each other."""
        match self.conversation._next_role:
            case Role.USER:
                return self._feedback()
            case Role.TOOL:
                return self._open_local_calls()
            case Role.ASSISTANT:
                return self._model_call()

    @property
    def tokens_left(self) -> int | None:
        """How many tokens are left for an agent that a tool runs, or None without a limit."""
        left = self._counted().tokens_left
        if left is None:
            return None
        results = self.conversation.messages[len(self.conversation.settled) :]
        return left - sum(run_tokens(m) for m in results if isinstance(m, ToolMessage))

    def call_key(self, effect: CallTool) -> str:
        """Return the idempotency key of a call, which is equal on every replay."""
        return f"{self.conversation.id}/{effect.key}"

    def keyed_calls(self) -> Iterator[tuple[str, ToolCall]]:
        """Yield all calls of the last answer with the keys of their effects."""
        messages = reversed(self.conversation.messages)
        answer = next((m for m in messages if isinstance(m, AssistantMessage)), None)
        for place, call in enumerate(answer.tool_calls if answer else ()):
            yield self._tool_key(place), call

    def _tool_key(self, place: int) -> str:
        return f"tool/{self.conversation.turns - 1}/{place}"

    def record(self, message: Produced) -> Produced:
        """Append the message that an effect produced, and return it as it was appended.

        A call whose id was used before gets another id: endpoints refuse a history with two equal
        ids.
        """
        conversation = self.conversation
        if not isinstance(message, AssistantMessage) or not message.tool_calls:
            conversation._add(message)  # not a result of the caller
            return message
        message = self._with_unused_ids(message)
        conversation._add(message)
        if self.notes_begun_calls:
            for call in message.tool_calls:
                is_clients = call.name in self.client_tools
                state = CallState.HANDED_OUT if is_clients else CallState.NOT_BEGUN
                conversation.note_call_state(call, state)
        return message

    def begin(self, effect: CallTool) -> None:
        """Mark a call as begun: if it is closed without a result, it was interrupted."""
        self.conversation.note_call_state(effect.call, CallState.BEGUN)

    def hand_out_client_calls(self) -> None:
        """Mark the open calls of client tools as handed out to the caller."""
        for call in self.conversation.open_calls if self.client_tools else ():
            if call.name in self.client_tools:
                self.conversation.note_call_state(call, CallState.HANDED_OUT)

    def _with_unused_ids(self, message: AssistantMessage) -> AssistantMessage:
        used = self.conversation._call_ids
        if not used or used.isdisjoint([call.id for call in message.tool_calls]):
            return message
        taken = {*used, *(call.id for call in message.tool_calls)}
        calls = []
        for position, call in enumerate(message.tool_calls):
            if call.id in used:
                call_id = unused_call_id(self.conversation.turns, position, taken)
                taken.add(call_id)
                call = call.model_copy(update={"id": call_id})  # noqa: PLW2901  (or unchanged)
            calls.append(call)
        return message.model_copy(update={"tool_calls": tuple(calls)})

    @property
    def status(self) -> Status:
        """The status of the run, derived from the history."""
        if self.effects():
            return Status.RUNNING
        match self.conversation.next_role:
            case Role.USER:
                is_over = self._fault() is None
            case Role.TOOL:
                return Status.LIMIT_REACHED if self.stopped_at else Status.SUSPENDED
            case Role.ASSISTANT:
                is_over = self._is_answered()
        if is_over:
            return Status.FINISHED
        return Status.NO_ANSWER if self._is_cut_off() else Status.LIMIT_REACHED

    @property
    def ended_by(self) -> EndedBy | None:
        """The reason why the last answer ended early, or None."""
        if self._answers is not None:
            return self._answers.ended_by(self.conversation.messages)
        answer = self._last_answer()
        return None if answer is None else answer.ended_by

    @property
    def limit(self) -> str | None:
        """The name of the limit that stops the run, or None."""
        if self.status is not Status.LIMIT_REACHED:
            return None
        if self._fault() and not self.stopped_at:
            return "output_retries"
        return self.stopped_at or self._counted().limit

    @property
    def answer(self) -> str | None:
        """The text of the answer, if the history ends with one that fits, or None."""
        if self._answers is not None:
            return self._answers.answer(self.conversation.messages)
        answer = self._last_answer()
        return None if answer is None else answer.text

    def _last_answer(self) -> AssistantMessage | None:
        """Return the answer that the history ends with, unless it calls tools."""
        history = self.conversation._messages
        last = history[-1] if history else None
        return last if isinstance(last, AssistantMessage) and not last.tool_calls else None

    def _is_answered(self) -> bool:
        if self._answers is None or self._final_tool is None:
            return False
        return self._answers.answer(self.conversation.messages) is not None

    def _is_cut_off(self) -> bool:
        """Return True if an answer of a type was requested, and asking again would not help."""
        return self._answers is not None and self.ended_by is not None

    def _fault(self) -> UserMessage | None:
        """Return the feedback about the last answer, if it does not fit, or None."""
        if self._answers is None:
            return None
        return self._answers.feedback(self.conversation.messages)

    def _feedback(self) -> list[GiveFeedback]:
        fault = None if self._answers is None else self._fault()
        if fault is None or self.stopped_at or self._is_cut_off():
            return []
        if self._counted().failed_answers >= self.limits.output_retries:
            return []
        return [GiveFeedback(f"feedback/{self.conversation.turns}", fault)]

    def _counted(self) -> Tally:
        tally, history = self._tally, self.conversation._messages
        if tally.place != len(history):
            tally.read(history)
        return tally

    def _model_call(self) -> list[CallModel]:
        if self._answers is not None and (self._is_answered() or self._is_cut_off()):
            return []
        tally, conversation = self._counted(), self.conversation
        limit = self.stopped_at or tally.limit
        if limit is not None:
            # A last word would not help at the limits of the driver, and of failed answers.
            may_speak = self.limits.last_word and not self.stopped_at and limit != "output_retries"
            if not may_speak or tally.limit_before is not None:
                return []
        key = intern(f"model/{conversation._turns}")  # shared by all runs
        return [CallModel(key, conversation.messages, limit is not None)]

    def _open_local_calls(self) -> list[CallTool]:
        if self.stopped_at:
            return []
        verdicts, is_held = self._counted().verdicts, self._is_held
        pending = []
        for place, call in self.conversation.open_places:
            verdict = verdicts.get(call.id, MAY_RUN)
            waits = call.name in self.client_tools or (is_held is not None and is_held(call))
            if verdict.refusal or not waits:
                pending.append(CallTool(self._tool_key(place), call, verdict))
        return pending
