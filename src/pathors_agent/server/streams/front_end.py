"""The parts that the protocols of front ends share: history, events as bytes, and errors."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from pathors_agent.agents.approvals import Decision
from pathors_agent.agents.stream import AsyncRunStream
from pathors_agent.core.conversation import Conversation
from pathors_agent.errors import AgentError, ConversationError, TransportError
from pathors_agent.messages import (
    AssistantMessage,
    Content,
    ContentPart,
    JSONValue,
    Message,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from pathors_agent.server.http.problems import log_bug, of_model
from pathors_agent.wire.messages import write_parts

# The client keeps the history. A history that no model could read is a mistake or an attack.
MAX_FRONT_END_MESSAGES = 10_000
_WENT_ON = "the user went on"
_PART_TYPES = frozenset({"text", "image_url", "input_audio", "file"})


class Body(BaseModel):
    """A part of a request's body: camel case names, and unknown fields are ignored."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        hide_input_in_errors=True,
        extra="ignore",
    )

    def __repr_args__(self) -> list[tuple[str | None, object]]:
        return []  # they contain texts of people


def frames(*events: Mapping[str, object]) -> bytes:
    """Return server-sent events, each with a JSON object."""
    return b"".join(
        b"data: " + json.dumps(each, separators=(",", ":")).encode() + b"\n\n" for each in events
    )


def add(conversation: Conversation, message: Message) -> None:
    """Append a message of the client's history; a user's message closes the open calls."""
    if isinstance(message, UserMessage) and conversation.open_calls:
        conversation.close_open_calls(_WENT_ON)
    conversation.append(message)


def refused(error: AgentError | ValidationError) -> ValueError:
    """Build the error for an invalid body."""
    if not isinstance(error, ValidationError):
        return ValueError(str(error))
    [first, *_] = error.errors(include_url=False, include_input=False, include_context=False)
    place = ".".join(map(str, first["loc"]))
    return ValueError(f"a message or tool call is not valid: {place}: {first['msg']}")


def shown_content(content: Content) -> JSONValue:
    """Return a result in the client's form: text, or a list of OpenAI's content parts."""
    return content if isinstance(content, str) else write_parts(content)


def read_content(value: JSONValue) -> Content:
    """Read the content of a result that a client sends: text, parts, or any other JSON value."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(map(_is_part, value)):
        return tuple(map(ContentPart.model_validate, value))
    return json.dumps(value, ensure_ascii=False)


def _is_part(value: JSONValue) -> bool:
    return isinstance(value, dict) and value.get("type") in _PART_TYPES


def file_part(url: str, media_type: str, filename: str | None) -> ContentPart:
    """Return the content part of a file that a client sends, as a `data:` URL or an address.

    Raises ValueError for the address of a file that is not an image, because endpoints do not fetch
    it.
    """
    if media_type.startswith("image/"):
        if not url.startswith(("data:", "https:", "http:")):
            raise ValueError("the URL of an image must begin with data: or https:")
        return ContentPart.image(url)
    if not url.startswith("data:"):
        raise ValueError("the URL of a file must begin with data:")
    if media_type.startswith("audio/"):
        return ContentPart.audio(url, media_type=media_type)
    return ContentPart.file(url, filename=filename, media_type=media_type)


def joined_parts(parts: Sequence[ContentPart]) -> Content:
    """Return the content of a user's message; a string if it has only text."""
    if all(part.type == "text" for part in parts):
        return "".join(part.text or "" for part in parts)
    return tuple(parts)


def progress_value(value: object) -> tuple[JSONValue, bool]:
    """Return a tool's progress as a JSON value, and whether it has one."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return None, False
    return value, True  # type: ignore[return-value]  # json.dumps has checked it


def parsed_arguments(call: ToolCall) -> dict[str, JSONValue] | None:
    """Return a call's arguments as an object, or None if they are not an object."""
    try:
        value = json.loads(call.arguments or "{}")
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def error_text(error: Exception) -> str:
    """Return the text of an error that a client may read; log other errors by class and place."""
    if isinstance(error, TransportError):
        return of_model(error).message
    if isinstance(error, ConversationError):
        return str(error)  # its text has calls and decisions, and no content
    log_bug("front_end_stream_failed", error)
    kind = f" ({type(error).__name__})" if isinstance(error, AgentError) else ""
    return f"The server could not finish the answer{kind}"


def unanswerable(stream: AsyncRunStream[Any]) -> str | None:
    """Return the error of a run that waits for a call inside an agent that runs as a tool."""
    conversation = stream.conversation
    if not any(conversation.suspended(call) for call in conversation.open_calls):
        return None
    return (
        "An agent that runs as a tool waits for an approval or for a result of the client. "
        "The client's history cannot hold that run: keep the conversation on the server"
    )


def denials(stream: AsyncRunStream[Any]) -> list[ToolMessage]:
    """Return the answers to the calls that this request denied."""
    added = stream.result.messages
    if any(isinstance(each, UserMessage) for each in added):
        return []  # a prompt closed the calls of an earlier message
    return [each for each in added if isinstance(each, ToolMessage)]


def decision(
    digest: str, *, approved: bool, reason: str = "", arguments: JSONValue = None
) -> Decision:
    """Return a person's decision, with the arguments that replace the model's, if any."""
    changed = json.dumps(arguments, ensure_ascii=False) if isinstance(arguments, dict) else None
    return Decision(digest, approved, reason=reason, arguments=changed if approved else None)


def answer_of(
    texts: Sequence[str], reasoning: Sequence[str], calls: Sequence[ToolCall]
) -> AssistantMessage | None:
    """Return the assistant message with these parts, or None if there are none."""
    text, thought = "".join(texts), "".join(reasoning)
    if not (text or calls):
        return None
    return AssistantMessage(
        content=text or None, tool_calls=tuple(calls), reasoning=thought or None
    )
