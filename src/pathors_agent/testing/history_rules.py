"""Check that a history is what a run may leave behind, whatever its model did."""

import json
from collections.abc import Iterable, Sequence

from pathors_agent.core.conversation import Conversation
from pathors_agent.errors import ConversationError
from pathors_agent.history.loading import dump_messages, load_stored
from pathors_agent.json_text import is_json_object
from pathors_agent.messages import AssistantMessage, Message, ToolCall, ToolMessage
from pathors_agent.testing.request_rules import check_request
from pathors_agent.testing.usage import messages_of
from pathors_agent.wire.chat_completions import PROFILES, RequestTemplate

_CUT_REASONS = ("length", "content_filter")


def check_history(messages: Iterable[Message]) -> None:
    """Raise AssertionError if messages are not what a run may leave behind.

    - The history is legal: each call has an id of its own and one result; the calls of the last
      answer may be open.
    - No call whose arguments were cut has a value.
    - What is stored is loaded equal.
    - A request with this history is legal for an endpoint of every profile in `PROFILES`: call
      arguments are JSON objects, and tool messages hold images only where they are accepted.
    """
    history = messages_of(messages, function="check_history")
    try:
        conversation = Conversation(history)
    except ConversationError as error:
        raise AssertionError(f"the history must be legal: {error}") from error
    _require_distinct_ids(history)
    _require_no_value_of_cut_calls(history)
    loaded = load_stored(dump_messages(history))
    if loaded != history:
        raise AssertionError("what is stored must be loaded equal")
    _require_legal_requests(_without_open_calls(loaded, conversation))


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
        if outcomes.get(call.id) == "value" and not is_json_object(call.arguments):
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


def _without_open_calls(history: list[Message], conversation: Conversation) -> list[Message]:
    """Return the messages before an answer whose calls are open: the model is not asked there."""
    if not conversation.open_calls:
        return history
    answers = [i for i, message in enumerate(history) if isinstance(message, AssistantMessage)]
    return history[: answers[-1]]


def _require_legal_requests(history: Sequence[Message]) -> None:
    for profile in PROFILES.values():
        check_request(json.loads(RequestTemplate(profile=profile).encode(history)), profile)
