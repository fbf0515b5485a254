"""Load and store histories: versioned JSON of this library, and the formats of other libraries. Pure.

The stored form is `{"version": 1, "messages": [...]}`, with the JSON objects of `write_message`.
Calls in the form of earlier versions are read as well. Loading what was dumped returns equal messages.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from reprlib import repr as short_repr
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, get_args, overload

import msgspec
from pydantic import ValidationError

from pathors_agent.core.conversation import REPAIR_HINT, Conversation
from pathors_agent.errors import ConversationError, refuse_other
from pathors_agent.json_text import write_json
from pathors_agent.messages import (
    ContentPart,
    JSONValue,
    Message,
    MessageBase,
    ToolMessage,
    UserMessage,
    own_fields,
    parse_message,
    write_message,
)

if TYPE_CHECKING:
    from pathors_agent.history.reading import HistoryReader

VERSION = 1

# A path and a reason in a line or two; a damaged history may hold a field name of a megabyte.
QUOTED_CHARACTERS = 200
# Problems in the text of one error; `left_out` receives all of them.
_SHOWN = 10

HistoryFormat = Literal["openai", "langchain", "pydantic-ai"]
"""The library whose messages a history holds."""

Prompt = (
    str
    | ContentPart
    | Sequence[str | ContentPart | Mapping[str, object]]
    | UserMessage
    | Mapping[str, object]
)
"""A user's input: text, a content part, a list of texts and content parts, or a whole message.

Parts and messages may be OpenAI's dicts.
"""

GivenConversation = Conversation | Iterable[Message | Mapping[str, object]]
"""A conversation, or the messages of a new one, also as OpenAI's dicts."""


# - prompts and conversations as arguments


def user_message(prompt: Prompt) -> UserMessage:
    """Build a user message from a prompt."""
    if isinstance(prompt, UserMessage):
        return prompt
    if isinstance(prompt, str):
        return UserMessage(content=prompt)
    if isinstance(prompt, Mapping):
        [message] = load_messages([prompt], format="openai")
        if not isinstance(message, UserMessage):
            raise ConversationError(
                f"prompt= is a message with the role {message.role}, not a user message; "
                "pass a history as conversation="
            )
        return message
    parts: object = prompt
    if isinstance(parts, ContentPart):
        return UserMessage(content=(parts,))
    if isinstance(parts, bytes | MessageBase) or not isinstance(parts, Iterable):
        raise TypeError(
            f"prompt= is of type {type(parts).__name__}; pass a text, a list of texts and content parts, "
            "or a UserMessage"
        )
    return UserMessage(content=tuple(_part(index, part) for index, part in enumerate(parts)))


def _part(index: int, part: object) -> ContentPart:
    if isinstance(part, str):
        return ContentPart(type="text", text=part)
    if isinstance(part, MessageBase) or (isinstance(part, Mapping) and "role" in part):
        raise ConversationError("prompt= is a list of messages; pass it as conversation=")
    try:
        return ContentPart.model_validate(part)
    except ValidationError as error:
        [first, *_] = error.errors(include_url=False, include_input=False, include_context=False)
        raise ConversationError(f"prompt[{index}]: {first['msg']}") from None


def conversation_of(given: GivenConversation | None) -> Conversation:
    """Return a conversation unchanged, or begin one with the given messages."""
    if isinstance(given, Conversation):
        return given
    if isinstance(given, str | bytes | Mapping):
        raise TypeError(
            f"conversation= is of type {type(given).__name__}; pass a Conversation or a list of "
            "messages, such as the result of load_messages()"
        )
    return Conversation(load_messages(given, format="openai") if given else ())


def added_messages(base: Sequence[Message], messages: Sequence[Message]) -> list[Message]:
    """Return the messages that a conversation got since it began with the messages of `base`.

    The results of an open batch are kept in call order: new ones may stand before the end of `base`.
    A conversation does not keep the messages of suspended calls that have later results, so its
    messages may stand at lower places than in `base`.
    """
    start = len(base)
    while start and isinstance(base[start - 1], ToolMessage):
        start -= 1
    known = {id(message) for message in base[start:]}
    ends = range(min(start, len(messages)), 0, -1)
    start = next((end for end in ends if messages[end - 1] is base[start - 1]), start)
    return [message for message in messages[start:] if id(message) not in known]


# - loading


@overload
def load_messages(
    source: str | bytes | Mapping[str, Any] | Iterable[Any],
    *,
    format: HistoryFormat | None = None,
    left_out: list[str] | None = None,
    repair: Literal[False] = False,
) -> list[Message]: ...


@overload
def load_messages(
    source: str | bytes | Mapping[str, Any] | Iterable[Any],
    *,
    format: HistoryFormat | None = None,
    repair: Literal[True],
) -> tuple[list[Message], list[str]]: ...


def load_messages(
    source: str | bytes | Mapping[str, Any] | Iterable[Any],
    *,
    format: HistoryFormat | None = None,  # noqa: A002  (the plain word)
    left_out: list[str] | None = None,
    repair: bool = False,
) -> list[Message] | tuple[list[Message], list[str]]:
    """Load the output of `dump_messages`, or with a `format` the history of another library.

    The output of `dump_messages` is a text, or the values of it (`extra["run"]` of a tool message).
    The history of another library is a list of its messages, or its own dump of them, as values or
    as JSON text: OpenAI's chat completions ("openai"), LangChain's `messages_to_dict` or `dumpd`
    ("langchain"), pydantic-ai's `ModelMessagesTypeAdapter` ("pydantic-ai").

    Raises `ConversationError` with the path of each unsupported part. Pass a list as `left_out` to
    skip unsupported parts and collect their paths. Whether the messages form a legal history is
    checked by `Conversation`, not here.

    With `repair=True` the messages always form a legal history, and come with a report: a text for
    each change and each skipped part, beginning with its path, such as "messages[2]: ...". The report
    of a legal history is empty.
    """
    if repair and left_out is not None:
        raise TypeError("with repair=True the report names the skipped parts; remove left_out=")
    if format is None:
        if not isinstance(source, str | bytes | Mapping):
            raise TypeError("a stored history is a text; for a list of messages, pass format=")
        return _repaired_stored(source) if repair else load_stored(source)
    refuse_other("left_out=", left_out, list, NoneType)
    reader = _read(_values(source), format)
    if repair:
        return _repaired(zip(reader.indices, reader.messages, strict=True), reader.problems)
    if left_out is not None:
        left_out += reader.problems
    elif reader.problems:
        raise ConversationError(_report(reader.problems, format))
    return reader.messages


def _read(values: list[Any], name: HistoryFormat) -> "HistoryReader":
    # Imported lazily: most programs load no history of another library.
    match name:
        case "openai":
            from pathors_agent.history.reading import read_openai as read
        case "langchain":
            from pathors_agent.history.langchain_messages import read_langchain as read
        case "pydantic-ai":
            from pathors_agent.history.pydantic_ai_messages import read_pydantic_ai as read
        case _:
            known = ", ".join(get_args(HistoryFormat))
            raise ValueError(f"format={name!r} is not known; the formats are {known}")
    return read(values)


def _values(source: object) -> list[Any]:
    if isinstance(source, str | bytes):
        try:
            source = json.loads(source)
        except (ValueError, RecursionError) as error:
            raise ConversationError(f"a history must be JSON: {error}") from None
    if isinstance(source, Mapping):
        source = source.get("messages")
    if isinstance(source, str | bytes | Mapping) or not isinstance(source, Iterable):
        raise ConversationError('a history must be a list of messages, or {"messages": [...]}')
    return list(source)


def _report(problems: list[str], name: HistoryFormat) -> str:
    shown = "; ".join(problems[:_SHOWN])
    more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return (
        f"cannot load parts of this {name} history: {shown}{more} "
        "(pass left_out=[] to skip them and collect their paths, or repair=True to mend the history)"
    )


# - the stored form


def dump_messages(messages: Iterable[Message]) -> str:
    """Dump messages as one JSON text, which `load_messages` loads."""
    return _dumped(stored_form(messages))


def _dumped(stored: dict[str, JSONValue]) -> str:
    try:
        return msgspec.json.encode(stored).decode()
    except UnicodeEncodeError:  # unpaired surrogates, which JSON can hold as escapes
        return json.dumps(stored, separators=(",", ":"))


def stored_form(messages: Iterable[Message]) -> dict[str, JSONValue]:
    """Return the output of `dump_messages` as values."""
    messages = list(messages)
    for index, message in enumerate(messages):
        if not isinstance(message, MessageBase):
            raise TypeError(
                f"messages[{index}] is of type {type(message).__name__}, and no message; read the "
                "messages of another library with load_messages(..., format=...)"
            )
    return {"version": VERSION, "messages": [write_message(message) for message in messages]}


def load_stored(text: str | bytes | Mapping[str, Any]) -> list[Message]:
    """Load the output of `dump_messages`, as text or as its values.

    Raises `ConversationError` for any other text, with the index of the first invalid message.
    """
    try:
        return [load_message(value, index=i) for i, value in enumerate(_stored_values(text))]
    except ConversationError as error:
        if error.index is not None:
            error.args = (f"{error}{REPAIR_HINT}",)
        raise


def _stored_values(text: str | bytes | Mapping[str, Any]) -> list[JSONValue]:
    try:
        document = text if isinstance(text, Mapping) else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConversationError(f"a stored history must be JSON: {error}") from None
    if not isinstance(document, Mapping) or not isinstance(document.get("messages"), list):
        raise ConversationError('a stored history must be {"version": 1, "messages": [...]}')
    version = document.get("version")
    if type(version) is not int or version != VERSION:
        raise ConversationError(
            f"a stored history of version {short_repr(version)} cannot be read; "
            f"this library reads version {VERSION}"
        )
    values: list[JSONValue] = document["messages"]
    return values


def _repaired_stored(text: str | bytes | Mapping[str, Any]) -> tuple[list[Message], list[str]]:
    loaded: list[tuple[int, Message]] = []
    problems: list[str] = []
    for index, value in enumerate(_stored_values(text)):
        try:
            fields = _with_text_arguments(own_fields(value), f"messages[{index}]", problems)
            loaded.append((index, load_message(fields, index=index)))
        except ConversationError as error:
            problems.append(f"{error}; left out")
    return _repaired(loaded, problems)


def _with_text_arguments(value: object, path: str, changes: list[str]) -> object:
    """Return the fields of a message with JSON text in place of arguments that are other values."""
    calls = value.get("tool_calls") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(calls, list):
        return value
    texts: list[object] = []
    for place, call in enumerate(calls):
        if isinstance(call, dict) and not isinstance(call.get("arguments", ""), str):
            changes.append(f"{path}.tool_calls[{place}].arguments: are no text; now JSON text")
            texts.append({**call, "arguments": write_json(call["arguments"]).decode()})
        else:
            texts.append(call)
    return {**value, "tool_calls": texts}


def _repaired(
    placed: Iterable[tuple[int, Message]], problems: list[str]
) -> tuple[list[Message], list[str]]:
    from pathors_agent.history.repair import HistoryRepair  # lazily, as the readers

    repair = HistoryRepair()
    for index, message in placed:
        repair.add(index, message)
    return repair.messages(), [*problems, *repair.report]


def load_message(value: object, *, index: int = 0) -> Message:
    """Load one message of the stored form; `index` is its position, for the error."""
    try:
        return parse_message(value)
    except ValidationError as error:
        raise ConversationError(f"messages[{index}]{_problem(error)}", index=index) from None


def _problem(error: ValidationError) -> str:
    """Return the path and the text of the deepest problem."""
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    # The first problem of a list with an invalid part is that the list is not a string.
    deepest = max(problems, key=lambda problem: len(problem["loc"]))
    # pydantic's name for the list among the kinds of content is not part of the path.
    path = "".join(f".{part}" for part in deepest["loc"] if "tuple[" not in str(part))
    return f"{_clipped(path)}: {_clipped(deepest['msg'])}"


def _clipped(text: str) -> str:
    return text if len(text) <= QUOTED_CHARACTERS else text[:QUOTED_CHARACTERS] + "..."
