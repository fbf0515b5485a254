"""Check that a history is what a run may leave behind, whatever its model did."""

import json
from collections.abc import Iterable

from pathors_agent.conversation import Conversation
from pathors_agent.errors import ConversationError
from pathors_agent.history.stored import dump_messages, load_stored
from pathors_agent.messages import AssistantMessage, Message, ToolCall, ToolMessage

_CUT_REASONS = ("length", "content_filter")


def check_history(messages: Iterable[Message]) -> None:
    """Raise AssertionError where messages are not what a run may leave behind.

    The history must be legal, each call have an id of its own and one result (those of the last
    answer may be open), no call whose arguments were cut have a value, and what is stored be
    loaded equal.
    """
    history = list(messages)
    try:
        Conversation(history)
    except ConversationError as error:
        raise AssertionError(f"the history must be legal: {error}") from error
    _require_distinct_ids(history)
    _require_no_value_of_cut_calls(history)
    if load_stored(dump_messages(history)) != history:
        raise AssertionError("what is stored must be loaded equal")


def _require_distinct_ids(history: list[Message]) -> None:
    seen: set[str] = set()
    for call in _calls(history):
        if call.id in seen:
            raise AssertionError(f"each call must have an id of its own; two have {call.id!r}")
        seen.add(call.id)


def _require_no_value_of_cut_calls(history: list[Message]) -> None:
    outcomes = {m.tool_call_id: m.outcome for m in history if isinstance(m, ToolMessage)}
    cut = [m for m in history if isinstance(m, AssistantMessage)]
    for call in _calls(m for m in cut if m.finish_reason in _CUT_REASONS):
        if outcomes.get(call.id) == "value" and not _is_object(call.arguments):
            raise AssertionError(
                f"a call that was cut must not be run; {call.name} ({call.id}) has a value"
            )


def _calls(messages: Iterable[Message]) -> list[ToolCall]:
    return [
        call
        for message in messages
        if isinstance(message, AssistantMessage)
        for call in message.tool_calls
    ]


def _is_object(arguments: str) -> bool:
    try:
        return isinstance(json.loads(arguments), dict)
    except (ValueError, RecursionError):
        return False
