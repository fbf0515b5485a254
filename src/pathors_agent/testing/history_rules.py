"""Check that a history is legal in memory and on the wire."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pathors_agent.core.conversation import Conversation
from pathors_agent.errors import ConversationError
from pathors_agent.history.loading import dump_messages, load_stored
from pathors_agent.json_text import is_json_object
from pathors_agent.messages import AssistantMessage, JSONValue, Message, ToolCall, ToolMessage
from pathors_agent.testing.usage import messages_of
from pathors_agent.wire.chat_completions import RequestTemplate
from pathors_agent.wire.profiles import PROFILES, EndpointProfile

# OpenAI's rule for names of functions.
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_ROLES = ("system", "developer", "user", "assistant", "tool")
_TEXT_PARTS = ("text", "refusal")


def check_request(body: Mapping[str, Any], profile: EndpointProfile) -> None:
    """Raise AssertionError if the messages of a request are not legal for an endpoint.

    Every call has a JSON object as its arguments and one result, which follows at once; contents
    are there, and hold images, audio and files only where the profile allows them.
    """
    for problem in _problems(body.get("messages") or [], profile):
        raise AssertionError(f"the sent messages must be legal, but {problem}")


def _problems(messages: list[dict[str, Any]], profile: EndpointProfile) -> Iterator[str]:
    for index, message in enumerate(messages):
        place = f"messages[{index}]"
        if message.get("role") not in _ROLES:
            yield f"{place}.role is {message.get('role')!r}"
        yield from _content_problems(message, place, profile)
        for number, call in enumerate(message.get("tool_calls") or ()):
            yield from _call_problems(call, f"{place}.tool_calls[{number}]")
    yield from _order_problems(messages, profile)


def _content_problems(
    message: Mapping[str, Any], place: str, profile: EndpointProfile
) -> Iterator[str]:
    content = message.get("content")
    if content == [] or (content is None and not message.get("tool_calls")):
        yield f"{place}.content is {content!r}"
    if not isinstance(content, list) or _takes_media(str(message.get("role")), profile):
        return
    for number, part in enumerate(content):
        if part.get("type") in ("image_url", "input_audio", "file") or (
            message["role"] == "tool" and part.get("type") not in _TEXT_PARTS
        ):
            yield f"{place}.content[{number}] is no text, in a {message['role']} message"


def _takes_media(role: str, profile: EndpointProfile) -> bool:
    return role == "user" or (role == "tool" and profile.result_media == "tool_message")


def _call_problems(call: Mapping[str, Any], place: str) -> Iterator[str]:
    function: Mapping[str, JSONValue] = call["function"]
    if not call.get("id"):
        yield f"{place}.id is empty"
    if not _NAME.fullmatch(str(function.get("name"))):
        yield f"{place}.function.name has characters that endpoints refuse"
    arguments = function.get("arguments")
    if not isinstance(arguments, str) or not is_json_object(arguments):
        yield f"{place}.function.arguments are not the text of a JSON object"


def _order_problems(messages: list[dict[str, Any]], profile: EndpointProfile) -> Iterator[str]:
    """Follow the calls and their results. Endpoints that store the history are sent no calls."""
    if profile.sends == "new_messages":
        return
    waiting: list[str] = []
    before = ""
    for index, message in enumerate(messages):
        role = message["role"]
        if role == "tool":
            if message.get("tool_call_id") not in waiting:
                yield f"messages[{index}] is the result of no open call"
                return
            waiting.remove(message["tool_call_id"])
        elif waiting:
            yield f"messages[{index}] stands before the results of {', '.join(waiting)}"
            return
        elif role == "user" and before in ("tool", "user") and profile.answers_results:
            yield f"messages[{index}] is a user message that follows a {before} message"
        waiting += [call["id"] for call in message.get("tool_calls") or ()]
        before = role
    if waiting:
        yield f"the results of {', '.join(waiting)} are missing"


_CUT_REASONS = ("length", "content_filter")


def check_history(messages: Iterable[Message]) -> None:
    """Raise AssertionError if messages are not a legal result of a run.

    - The history is legal: each call has an id of its own and one result; the calls of the last
      answer may be open.
    - No call with truncated arguments has a value.
    - The messages are equal after they were stored and loaded.
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
        raise AssertionError("stored messages must be loaded equal")
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
    """Return the messages without a last answer whose calls are open, and its results."""
    if not conversation.open_calls:
        return history
    answers = [i for i, message in enumerate(history) if isinstance(message, AssistantMessage)]
    return history[: answers[-1]]


def _require_legal_requests(history: Sequence[Message]) -> None:
    for profile in PROFILES.values():
        check_request(json.loads(RequestTemplate(profile=profile).encode(history)), profile)
