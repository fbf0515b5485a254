"""Messages as the objects that OpenAI's API has for them: as clients send them, as stores keep them.

A stored message is such an object with the fields beside it that the API has no place for; what a
client sends is read without those, so that nobody can claim what only this library says.
"""

from collections.abc import Iterable, Mapping
from functools import cache

from pydantic import TypeAdapter, ValidationError

from pathors_agent.errors import ConversationError
from pathors_agent.messages import AssistantMessage, ContentPart, JSONValue, Message, ToolCall


@cache
def message_adapter() -> TypeAdapter[Message]:
    """Return the validator of messages; built lazily, which saves a millisecond of imports."""
    return TypeAdapter(Message)


_CLIENT_FIELDS = ("role", "content", "name", "tool_calls", "tool_call_id", "refusal")
FIELDS_BY_ROLE = {
    "system": {"role", "content", "name"},
    "user": {"role", "content", "name"},
    "assistant": {"role", "content", "tool_calls", "refusal"},
    "tool": {"role", "content", "tool_call_id"},
}
_CALL_FIELDS = {"id", "type", "function"}

# What OpenAI calls a system message for its newer models.
SAME_ROLE = {"developer": "system"}


def dump_message(message: Message) -> dict[str, JSONValue]:
    """Return a message as JSON values: its role and the fields that differ from their defaults."""
    return {"role": message.role, **message.model_dump(mode="json", exclude_defaults=True)}


def write_message(message: Message) -> dict[str, JSONValue]:
    """Give a message as its JSON object, complete: `read_message` gives an equal one."""
    fields = dump_message(message)
    wire: dict[str, JSONValue] = {"role": message.role, "content": None, **fields}
    if isinstance(message, AssistantMessage) and message.tool_calls:
        wire["tool_calls"] = [write_call(call) for call in message.tool_calls]
    return wire


def write_call(call: ToolCall) -> dict[str, JSONValue]:
    """Give a call as its JSON object."""
    function: dict[str, JSONValue] = {"name": call.name, "arguments": call.arguments}
    return {**call.extra, "id": call.id, "type": "function", "function": function}


def read_message(value: Mapping[str, JSONValue]) -> Message:
    """Read what `write_message` wrote; `ConversationError` for anything else."""
    try:
        return message_adapter().validate_python(_own_fields(value))
    except ValidationError as error:
        raise ConversationError("; ".join(_problems(error, "message"))) from None


def read_client_messages(values: Iterable[JSONValue]) -> tuple[list[Message], list[str]]:
    """Read the messages of a request; give them, and what is wrong with the others.

    Each problem is `messages[2].tool_call_id: ...`. Fields that the API does not know are left
    out, and so are those that say what only this library can know.
    """
    messages: list[Message] = []
    problems: list[str] = []
    for index, value in enumerate(values):
        where = f"messages[{index}]"
        if not isinstance(value, dict):
            problems.append(f"{where}: must be an object with a role")
            continue
        try:
            messages.append(message_adapter().validate_python(_client_fields(value)))
        except ValidationError as error:
            problems += _problems(error, where)
    return messages, problems


def _client_fields(value: Mapping[str, JSONValue]) -> dict[str, object]:
    role = value.get("role")
    role = SAME_ROLE.get(role, role) if isinstance(role, str) else role
    known = FIELDS_BY_ROLE.get(role, _CLIENT_FIELDS) if isinstance(role, str) else _CLIENT_FIELDS
    # Clients write null for what they leave out.
    given = {k: v for k, v in value.items() if k in known and v is not None}
    if role != "assistant":
        given.setdefault("content", "")
    return _own_fields({**given, "role": role})


def _own_fields(value: Mapping[str, JSONValue]) -> dict[str, object]:
    """Rename the fields that have another name in our messages."""
    fields: dict[str, object] = dict(value)
    calls = fields.get("tool_calls")
    if isinstance(calls, list):
        fields["tool_calls"] = [_own_call(call) for call in calls]
    parts = fields.get("content")
    if isinstance(parts, list):
        known: dict[str, ContentPart] = {}
        return {**fields, "content": [_own_part(part, known) for part in parts]}
    return fields


def _own_part(part: JSONValue, known: dict[str, ContentPart]) -> object:
    """Return a plain text part as a value, the same one for each equal text.

    A few megabytes hold hundreds of thousands of parts. As many objects would stop the whole
    process for half a second whenever Python collects garbage.
    """
    match part:
        case {"type": "text", "text": str(text), **extra} if not extra:
            return known.get(text) or known.setdefault(text, ContentPart(type="text", text=text))
        case _:
            return part


def _own_call(call: JSONValue) -> JSONValue:
    if not isinstance(call, dict):
        return call
    function = call.get("function")
    extra = {k: v for k, v in call.items() if k not in _CALL_FIELDS}
    fields = function if isinstance(function, dict) else {}
    known = {k: fields[k] for k in ("name", "arguments") if fields.get(k) is not None}
    return {"id": call.get("id"), **known, **({"extra": extra} if extra else {})}


def _problems(error: ValidationError, where: str) -> list[str]:
    """Say where in the message and what, in the API's words."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    # Of the kinds that a content may be, the one that the path goes deepest into was meant.
    deepest = max(len(problem["loc"]) for problem in found)
    lines = {}
    for problem in found:
        if problem["loc"][1:2] == ("content",) and len(problem["loc"]) < deepest:
            continue
        path, said = _WORDS.get(problem["type"], ("", problem["msg"]))
        if problem["loc"][1:2] == ("content",) and len(problem["loc"]) <= _WHOLE_CONTENT:
            said = "must be a string, null, or a list of content parts"
        lines[f"{where}{_path(problem['loc'])}{path}"] = said.removeprefix("Value error, ")
    return [f"{path}: {said}" for path, said in lines.items()]


# Of a place that is a content itself: role, field, and pydantic's name for the kind.
_WHOLE_CONTENT = 3
_ROLE = (".role", "must be one of system, developer, user, assistant, tool")
_WORDS = {
    "union_tag_invalid": _ROLE,
    "union_tag_not_found": _ROLE,
    "missing": ("", "is required"),
    "tuple_type": ("", "must be a list"),
    "string_type": ("", "must be a string"),
    "string_too_short": ("", "must not be empty"),
    "model_type": ("", "must be an object"),
    "model_attributes_type": ("", "must be an object"),
}


def _path(loc: tuple[int | str, ...]) -> str:
    """Write a place as `.tool_calls[0].function.name`; the first part is the role."""
    names = [name for name in loc[1:] if "tuple[" not in str(name) and name != "str"]
    path = "".join(f"[{name}]" if isinstance(name, int) else f".{name}" for name in names)
    in_call = len(names) > 2 and names[0] == "tool_calls" and names[2] in ("name", "arguments")
    return path.replace("].", "].function.", 1) if in_call else path
