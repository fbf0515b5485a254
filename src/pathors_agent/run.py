"""Say which calls a conversation owes, and never make one. Pure: no I/O, no clock.

A run is derived from the history each time it is asked; it stores nothing of its own, so any
stored history can be taken up again, by any driver.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from enum import StrEnum

from pathors_agent.conversation import Conversation, Role
from pathors_agent.messages import AssistantMessage, Message, ToolCall, ToolMessage, unused_call_id

# A question that needs more model calls than this is a loop in almost every agent.
DEFAULT_TURNS = 25


class Status(StrEnum):
    """Where a run stands."""

    RUNNING = "running"
    SUSPENDED = "suspended"
    LIMIT_REACHED = "limit_reached"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Where a run stops by itself.

    `turns`: model calls since the user last spoke, at least 1.
    """

    turns: int = DEFAULT_TURNS

    def __post_init__(self) -> None:
        if self.turns < 1:
            raise ValueError(f"turns must be at least 1, not {self.turns}")


@dataclass(frozen=True, slots=True)
class CallModel:
    """The model is to be asked; `key` is the same on every replay of this history."""

    key: str
    messages: tuple[Message, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class CallTool:
    """A tool is to be run; `key` is the same on every replay of this history."""

    key: str
    call: ToolCall


Effect = CallModel | CallTool


class Run:
    """One pass of the loop over a conversation: what is owed, and where it stands.

    `client_tools` are the names of tools that only the caller can run: their calls stay open, and
    a run with nothing else to do is SUSPENDED.
    """

    def __init__(
        self,
        conversation: Conversation,
        *,
        limits: Limits | None = None,
        client_tools: Collection[str] = frozenset(),
    ) -> None:
        self.conversation = conversation
        self.limits = limits or Limits()
        self.client_tools = frozenset(client_tools)

    def effects(self) -> list[CallModel] | list[CallTool]:
        """The calls owed now, independent of each other; empty when there is nothing to do."""
        if self.status is not Status.RUNNING:
            return []
        if self.conversation.next_role is Role.TOOL:
            return self._open_local_calls()
        key = f"model/{self.conversation.turns}"
        return [CallModel(key, self.conversation.messages)]

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
        match self.conversation.next_role:
            case Role.USER:
                return Status.FINISHED
            case Role.ASSISTANT:
                return Status.RUNNING if self.limit is None else Status.LIMIT_REACHED
            case Role.TOOL:
                return Status.RUNNING if self._open_local_calls() else Status.SUSPENDED

    @property
    def limit(self) -> str | None:
        """The name of the limit that stops the run from asking the model, or None."""
        if self.conversation.next_role is not Role.ASSISTANT:
            return None
        return "turns" if self.conversation.turns_since_user >= self.limits.turns else None

    def _open_local_calls(self) -> list[CallTool]:
        turn = self.conversation.turns - 1
        places = {call.id: place for place, call in enumerate(self.conversation.calls)}
        return [
            CallTool(f"tool/{turn}/{places[call.id]}", call)
            for call in self.conversation.open_calls
            if call.name not in self.client_tools
        ]
