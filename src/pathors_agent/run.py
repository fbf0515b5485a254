"""Say which calls a conversation owes, and never make one. Pure: no I/O, no clock.

A run is derived from the history each time it is asked; it stores nothing of its own, so any
stored history can be taken up again, by any driver.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from pathors_agent.conversation import Conversation, Role
from pathors_agent.limits import MAY_RUN, Limits, Verdict, had_last_word, judge, limit_reached
from pathors_agent.messages import AssistantMessage, Message, ToolCall, ToolMessage, unused_call_id


class Status(StrEnum):
    """Where a run stands."""

    RUNNING = "running"
    SUSPENDED = "suspended"
    LIMIT_REACHED = "limit_reached"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class CallModel:
    """The model is to be asked; `key` is the same on every replay of this history.

    On its `last_word` it is asked without tools, because a limit is reached.
    """

    key: str
    messages: tuple[Message, ...] = field(repr=False)
    last_word: bool = False


@dataclass(frozen=True, slots=True)
class CallTool:
    """A tool is to be run; `key` is the same on every replay of this history.

    What the limits say of it is its `verdict`: a call that is refused is not run.
    """

    key: str
    call: ToolCall
    verdict: Verdict = MAY_RUN


Effect = CallModel | CallTool


class Run:
    """One pass of the loop over a conversation: what is owed, and where it stands.

    `client_tools` are the names of tools that only the caller can run, and `is_held` says whether
    a call waits for somebody's approval: such calls stay open, and a run with nothing else to do
    is SUSPENDED.
    """

    def __init__(
        self,
        conversation: Conversation,
        *,
        limits: Limits | None = None,
        client_tools: Collection[str] = frozenset(),
        is_held: Callable[[ToolCall], bool] | None = None,
    ) -> None:
        self.conversation = conversation
        self.limits = limits or Limits()
        self.client_tools = frozenset(client_tools)
        self.out_of_time = False
        """Set by whoever drives the run, when `limits.seconds` are over."""
        self._is_held = is_held

    def effects(self) -> list[CallModel] | list[CallTool]:
        """The calls owed now, independent of each other; empty when there is nothing to do."""
        match self.conversation.next_role:
            case Role.USER:
                return []
            case Role.TOOL:
                return self._open_local_calls()
            case Role.ASSISTANT:
                return self._model_call()

    def record(self, message: AssistantMessage | ToolMessage) -> AssistantMessage | ToolMessage:
        """Append the message that an effect produced; the only way to move on.

        A call whose id was used before gets another: endpoints refuse a history with two of one.
        Gives the message as it was appended.
        """
        if isinstance(message, AssistantMessage):
            message = self._with_unused_ids(message)
        self.conversation.append(message)
        return message

    def _with_unused_ids(self, message: AssistantMessage) -> AssistantMessage:
        used = self.conversation.call_ids
        if not any(call.id in used for call in message.tool_calls):
            return message
        taken = {*used, *(call.id for call in message.tool_calls)}
        calls = []
        for position, call in enumerate(message.tool_calls):
            if call.id in used:
                call_id = unused_call_id(self.conversation.turns, position, taken)
                taken.add(call_id)
                call = call.model_copy(update={"id": call_id})  # noqa: PLW2901  (or as it was)
            calls.append(call)
        return message.model_copy(update={"tool_calls": tuple(calls)})

    @property
    def status(self) -> Status:
        """Where the run stands, derived from the history."""
        if self.conversation.next_role is Role.USER:
            return Status.FINISHED
        if self.effects():
            return Status.RUNNING
        waits = self.conversation.next_role is Role.TOOL and not self.out_of_time
        return Status.SUSPENDED if waits else Status.LIMIT_REACHED

    @property
    def limit(self) -> str | None:
        """The name of the limit that stops the run, or None."""
        if self.status is not Status.LIMIT_REACHED:
            return None
        return self._limit(self.conversation.messages)

    def _limit(self, messages: Sequence[Message]) -> str | None:
        return "seconds" if self.out_of_time else limit_reached(messages, self.limits)

    def _model_call(self) -> list[CallModel]:
        messages = self.conversation.messages
        reached = self._limit(messages) is not None
        if reached and (not self.limits.last_word or self._last_word_is_over(messages)):
            return []
        return [CallModel(f"model/{self.conversation.turns}", messages, last_word=reached)]

    def _last_word_is_over(self, messages: Sequence[Message]) -> bool:
        return self.out_of_time or had_last_word(messages, self.limits)

    def _open_local_calls(self) -> list[CallTool]:
        if self.out_of_time:
            return []
        verdicts = judge(self.conversation.messages, self.limits)
        turn = self.conversation.turns - 1
        places = {call.id: place for place, call in enumerate(self.conversation.calls)}
        return [
            CallTool(f"tool/{turn}/{places[call.id]}", call, verdicts[call.id])
            for call in self.conversation.open_calls
            if verdicts[call.id].refusal or not self._is_somebody_elses(call)
        ]

    def _is_somebody_elses(self, call: ToolCall) -> bool:
        if call.name in self.client_tools:
            return True
        return self._is_held is not None and self._is_held(call)
