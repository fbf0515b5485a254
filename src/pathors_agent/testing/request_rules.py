"""Check that a request body is one that endpoints accept."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pathors_agent.json_text import is_json_object
from pathors_agent.messages import JSONValue
from pathors_agent.wire.chat_completions import EndpointProfile

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
        raise AssertionError(f"what is sent must be legal, but {problem}")


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
    """Follow the calls and their results; an endpoint that keeps the history gets no calls."""
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
