"""Read the messages that clients send, and write those that endpoints receive.

Both differ from the JSON object of a message (see `write_message`): clients send the API's fields
only, and others are ignored; an endpoint receives the object as its profile requires.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence

from pydantic import ValidationError

from pathors_agent.errors import ConversationError
from pathors_agent.json_text import is_json_object
from pathors_agent.messages import (
    AssistantMessage,
    Content,
    ContentPart,
    JSONValue,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
    parse_message,
)
from pathors_agent.wire.profiles import DEFAULT_PROFILE, EndpointProfile, ResultMedia

_CLIENT_FIELDS = ("role", "content", "name", "tool_calls", "tool_call_id", "refusal")
FIELDS_BY_ROLE = {
    "system": {"role", "content", "name"},
    "user": {"role", "content", "name"},
    "assistant": {"role", "content", "tool_calls", "refusal"},
    "tool": {"role", "content", "tool_call_id"},
}

# OpenAI's role of system messages for its newer models.
SAME_ROLE = {"developer": "system"}


def read_message(value: Mapping[str, JSONValue]) -> Message:
    """Return the message of its JSON object; raise `ConversationError` for any other value."""
    try:
        return parse_message(value)
    except ValidationError as error:
        raise ConversationError("; ".join(_problems(error, "message"))) from None


def read_client_messages(values: Iterable[JSONValue]) -> tuple[list[Message], list[str]]:
    """Read the messages of a request; return the valid ones, and the problems of the others.

    A problem is a path and a text: `messages[2].tool_call_id: ...`. Fields that are not part of the
    API are ignored, including those of this library.
    """
    messages: list[Message] = []
    problems: list[str] = []
    for index, value in enumerate(values):
        where = f"messages[{index}]"
        if not isinstance(value, dict):
            problems.append(f"{where}: must be an object with a role")
            continue
        try:
            messages.append(parse_message(_client_fields(value), is_flat=False))
        except ValidationError as error:
            problems += _problems(error, where)
    return messages, problems


def _client_fields(value: Mapping[str, JSONValue]) -> dict[str, object]:
    role = value.get("role")
    role = SAME_ROLE.get(role, role) if isinstance(role, str) else role
    known = FIELDS_BY_ROLE.get(role, _CLIENT_FIELDS) if isinstance(role, str) else _CLIENT_FIELDS
    # Clients write null for omitted fields.
    given = {k: v for k, v in value.items() if k in known and v is not None}
    if role != "assistant":
        given.setdefault("content", "")
    if isinstance(content := given.get("content"), list):
        given["content"] = [_part_of_chat(part) for part in content]
    if isinstance(calls := given.get("tool_calls"), list):
        given["tool_calls"] = [_call_of_message(call) for call in calls]
    return {**given, "role": role}


def _part_of_chat(part: JSONValue) -> JSONValue:
    """Return a text part of the Responses API as a text part of chat completions."""
    if not isinstance(part, dict) or part.get("type") not in ("input_text", "output_text"):
        return part
    return {"type": "text", "text": part.get("text")}


def _call_of_message(call: JSONValue) -> JSONValue:
    """Return a call without its index in a stream, which endpoints refuse, and without nulls."""
    if not isinstance(call, dict):
        return call
    return {name: value for name, value in call.items() if name != "index" and value is not None}


def _problems(error: ValidationError, where: str) -> list[str]:
    """Return the paths and texts of the problems, in terms of the API."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    # Content is a union: the member with the deepest problem is the intended one.
    deepest = max(len(problem["loc"]) for problem in found)
    lines = {}
    for problem in found:
        if problem["loc"][1:2] == ("content",) and len(problem["loc"]) < deepest:
            continue
        path, said = _WORDS.get(problem["type"], ("", problem["msg"]))
        if problem["loc"][1:2] == ("content",) and len(problem["loc"]) <= _WHOLE_CONTENT:
            said = "must be a string, null, or a list of content parts"
        lines[f"{where}{_path(problem['loc'])}{path}"] = said
    return [f"{path}: {said}" for path, said in lines.items()]


# The length of the path of a content itself: role, field, and pydantic's name of the union member.
_WHOLE_CONTENT = 3
_ROLE = (".role", "must be one of system, developer, user, assistant, tool")
_WORDS = {
    "union_tag_invalid": _ROLE,
    "union_tag_not_found": _ROLE,
    "missing": ("", "is required"),
    "tuple_type": ("", "must be a list"),
    "string_type": ("", "must be a string"),
    "string_too_short": ("", "must not be empty"),
    "string_unicode": ("", "must not hold half a character"),
    "model_type": ("", "must be an object"),
    "model_attributes_type": ("", "must be an object"),
}


def _path(loc: tuple[int | str, ...]) -> str:
    """Return a path such as `.tool_calls[0].function.name`; the first item of `loc` is the role."""
    names = [name for name in loc[1:] if "tuple[" not in str(name) and name != "str"]
    path = "".join(f"[{name}]" if isinstance(name, int) else f".{name}" for name in names)
    in_call = len(names) > 2 and names[0] == "tool_calls" and names[2] in ("name", "arguments")
    return path.replace("].", "].function.", 1) if in_call else path


# - as an endpoint of a profile reads them

# OpenAI's rule for function names; some servers answer 400 to a history that breaks it.
NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_-]")
NAME_LENGTH = 64
# OpenAI's rule for the names of users and system messages.
_NOT_IN_SPEAKERS = re.compile(r"[\s<|\\/>]+")
_NINE = re.compile(r"[A-Za-z0-9]{9}")


def wire_message(message: Message, profile: EndpointProfile = DEFAULT_PROFILE) -> dict[str, object]:
    """Return the JSON object of a message for an endpoint of this profile."""
    match message:
        case SystemMessage():
            content = text_content(message.content)
            return {"role": profile.system_role, **_name(message), "content": content}
        case ToolMessage():
            call_id = sent_call_id(message.tool_call_id, profile)
            content = result_content(message.content, profile.result_media)
            return {"role": "tool", "tool_call_id": call_id, "content": content}
        case AssistantMessage():
            return _wire_assistant(message, profile)
        case UserMessage():
            return {"role": "user", **_name(message), "content": any_content(message.content)}


def _name(message: SystemMessage | UserMessage) -> dict[str, object]:
    if not message.name:
        return {}
    return {"name": _NOT_IN_SPEAKERS.sub("_", message.name)[:NAME_LENGTH]}


def _wire_assistant(message: AssistantMessage, profile: EndpointProfile) -> dict[str, object]:
    wire: dict[str, object] = {"role": "assistant"}
    if message.content is not None:
        wire["content"] = text_content(message.content)
    elif not message.tool_calls:
        # An empty answer, or a refusal: a message without calls needs a text as content.
        wire["content"] = message.refusal or ""
    elif profile.null_content:
        wire["content"] = None
    if message.tool_calls:
        wire["tool_calls"] = [_wire_call(call, profile) for call in message.tool_calls]
        if profile.reasoning_field and message.reasoning:
            wire[profile.reasoning_field] = message.reasoning
    for name in profile.echoed_fields:
        if name in message.extra:
            wire[name] = message.extra[name]
    return wire


def _wire_call(call: ToolCall, profile: EndpointProfile) -> dict[str, object]:
    extra = call.extra if profile.echoes_call_fields else {}
    function = {
        "name": NOT_IN_NAMES.sub("_", call.name)[:NAME_LENGTH] or "unnamed",
        # vLLM, SGLang and llama.cpp refuse a conversation if the arguments of one call are not a JSON
        # object. The result of the call describes the problem to the model.
        "arguments": call.arguments if is_json_object(call.arguments) else "{}",
    }
    return {**extra, "id": sent_call_id(call.id, profile), "type": "function", "function": function}


def sent_call_id(call_id: str, profile: EndpointProfile) -> str:
    """Return a call id that the endpoint accepts, the same for each occurrence."""
    if profile.call_ids == "any" or _NINE.fullmatch(call_id):
        return call_id
    return hashlib.blake2b(call_id.encode(), digest_size=5).hexdigest()[:9]


# - contents
#
# OpenAI accepts images, audio and files in user messages only, and only of some types. It refuses a
# request with any other, and then each later request of the conversation.

RESULT_ORIGIN = "From the result of tool call "
"""The text before the parts of each result if a user message has several; the call id follows."""

_IN_USER_MESSAGE = "in the next user message"
_NOT_SENT = "not sent"

# Names for the model of the part types that only user messages can have.
_PART_WORDS = {"image_url": "image", "input_audio": "audio", "file": "file"}
_IMAGE_STARTS = tuple(f"data:image/{name};" for name in ("png", "jpeg", "jpg", "gif", "webp"))
_AUDIO_FORMATS = ("wav", "mp3")


def any_content(content: Content) -> JSONValue:
    """Return a content with all of its parts."""
    # Endpoints refuse an empty list.
    return content if isinstance(content, str) else write_parts(content) or ""


def text_content(content: Content) -> JSONValue:
    """Return the content of a system or assistant message; notes replace images, audio and files."""
    if isinstance(content, str) or not any(part.type in _PART_WORDS for part in content):
        return any_content(content)
    return _lines(content)


def result_content(content: Content, media: ResultMedia) -> JSONValue:
    """Return the content of a tool message; notes replace parts that are sent elsewhere or omitted.

    With "left_out", it is always a string: some endpoints refuse lists of parts there.
    """
    if isinstance(content, str) or media == "tool_message":
        return any_content(content)
    if media == "user_message" and not _others(content):
        return any_content(content)
    return _lines(content, carried_parts(content, media))


def carried_parts(content: Content, media: ResultMedia) -> list[ContentPart]:
    """Return the parts of a tool's result that a user message carries."""
    if isinstance(content, str) or media != "user_message":
        return []
    return [part for part in _others(content) if _is_accepted(part)]


def write_parts(parts: Sequence[ContentPart]) -> list[JSONValue]:
    """Return parts in the stored form, so that a loaded message is sent as the same bytes."""
    return [_write_part(part) for part in parts]


def _write_part(part: ContentPart) -> JSONValue:
    if part.type == "text" and not part.model_extra:  # four times as fast, for most parts
        return {"type": "text", "text": part.text}
    dumped: dict[str, JSONValue] = part.model_dump(mode="json", exclude_defaults=True)
    return dumped


def _others(parts: Sequence[ContentPart]) -> list[ContentPart]:
    return [part for part in parts if part.type != "text"]


def _lines(parts: Sequence[ContentPart], carried: Sequence[ContentPart] = ()) -> str:
    """Return text parts as lines, and other parts as notes such as "[image: not sent]"."""
    lines = []
    for part in parts:
        where = _IN_USER_MESSAGE if part in carried else _NOT_SENT
        note = f"[{_PART_WORDS.get(part.type, part.type)}: {where}]"
        lines.append(part.text or "" if part.type == "text" else note)
    return "\n".join(lines)


def _is_accepted(part: ContentPart) -> bool:
    """Return False for parts that OpenAI refuses; unknown types may suit other endpoints."""
    value = (part.model_extra or {}).get(part.type)
    match part.type:
        case "image_url":
            return _is_image(value)
        case "input_audio":
            return isinstance(value, dict) and value.get("format") in _AUDIO_FORMATS
        case "file":
            return isinstance(value, dict)
        case _:
            return True


def _is_image(value: JSONValue) -> bool:
    url = value.get("url") if isinstance(value, dict) else None
    if not isinstance(url, str):
        return False
    return not url.startswith("data:") or url.startswith(_IMAGE_STARTS)
