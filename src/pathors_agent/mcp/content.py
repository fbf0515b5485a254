"""Read the answers of an MCP server: definitions of tools, and results as values for the model. Pure.

The mcp package refuses a whole list of tools for one bad definition, and reports a finished call as
failed if its result breaks the protocol or the tool's `outputSchema`. So answers are repaired before
the package validates them: a bad definition is left out, and a result keeps everything that can be
read.
"""

import base64
import json
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from mcp.types import (
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    ContentBlock,
    CreateMessageRequestParams,
    EmbeddedResource,
    ImageContent,
    Prompt,
    PromptMessage,
    ReadResourceResult,
    Resource,
    ResourceTemplate,
    TextResourceContents,
)
from pydantic import TypeAdapter, ValidationError

from pathors_agent.errors import ToolError
from pathors_agent.json_text import write_json
from pathors_agent.media import audio_format
from pathors_agent.messages import (
    AssistantMessage,
    ContentPart,
    JSONValue,
    Message,
    SystemMessage,
    UserMessage,
)
from pathors_agent.schema.references import foreign_schema
from pathors_agent.tools.results import PartsError

# - repairs -

_BLOCK: TypeAdapter[ContentBlock] = TypeAdapter(ContentBlock)

# The other fields of a list of tools, in the version 2026-07-28.
_LISTING = ("resultType", "ttlMs", "cacheScope")


class RefusedDefinition(NamedTuple):
    """A definition that is left out: its name, and the path of the unusable part."""

    name: str
    path: str
    kind: str = "tool"


def repaired_tools(result: dict[str, Any]) -> tuple[dict[str, Any], list[RefusedDefinition]]:
    """Return a `tools/list` result with only the usable definitions, and the refused ones.

    Only the fields that are used are kept, so that a bad icon or `outputSchema` does no harm.
    """
    tools: list[dict[str, Any]] = []
    refused: list[RefusedDefinition] = []
    for number, given in enumerate(_list(result.get("tools"))):
        if path := _unusable(given):
            refused.append(RefusedDefinition(_shown_name(given, number), path))
        else:
            tools.append(_definition(given))
    repaired = {name: result[name] for name in _LISTING if name in result}
    if isinstance(result.get("nextCursor"), str):
        repaired["nextCursor"] = result["nextCursor"]
    return {**repaired, "tools": tools}, refused


_ENTRIES: dict[str, tuple[str, str, TypeAdapter[Any]]] = {
    "resources/list": ("resources", "resource", TypeAdapter(Resource)),
    "resources/templates/list": ("resourceTemplates", "resource", TypeAdapter(ResourceTemplate)),
    "prompts/list": ("prompts", "prompt", TypeAdapter(Prompt)),
}


def repaired_entries(
    method: str, result: dict[str, Any]
) -> tuple[dict[str, Any], list[RefusedDefinition]]:
    """Return the result of a list of resources or prompts without the entries that are unusable."""
    field, kind, adapter = _ENTRIES[method]
    entries: list[Any] = []
    refused: list[RefusedDefinition] = []
    for number, given in enumerate(_list(result.get(field))):
        try:
            adapter.validate_python(given, by_name=False)
            entries.append(given)
        except ValidationError as error:
            path = "/".join(map(str, error.errors()[0]["loc"]))
            refused.append(RefusedDefinition(_shown_name(given, number, field), path, kind))
    return {**result, field: entries}, refused


def _unusable(given: Any) -> str | None:
    """Return the path of the part that makes a definition unusable, or None."""
    if not isinstance(given, dict):
        return "tool"
    if not isinstance(given.get("name"), str) or not given["name"]:
        return "name"
    schema = given.get("inputSchema")
    if not isinstance(schema, dict):
        return "inputSchema"
    if schema.get("type") != "object":
        return "inputSchema/type"
    execution = given.get("execution")
    # The tool only runs as a task of the protocol, which the client does not support.
    if isinstance(execution, dict) and execution.get("taskSupport") == "required":
        return "execution/taskSupport"
    return None


def _shown_name(given: Any, number: int, field: str = "tools") -> str:
    name = given.get("name") if isinstance(given, dict) else None
    return name if isinstance(name, str) and name else f"{field}[{number}]"


def _definition(given: dict[str, Any]) -> dict[str, Any]:
    texts = {k: given[k] for k in ("title", "description") if isinstance(given.get(k), str)}
    return {"name": given["name"], **texts, "inputSchema": foreign_schema(given["inputSchema"])}


def repaired_call(result: dict[str, Any]) -> dict[str, Any]:
    """Return the result of a finished `tools/call` in the protocol's form.

    An unreadable content block becomes a text block of its JSON. A result that is not final (the
    server asks for input first) is returned unchanged.
    """
    if result.get("resultType", "complete") != "complete":
        return result
    repaired: dict[str, Any] = {"content": [_block(each) for each in _list(result.get("content"))]}
    repaired["isError"] = result.get("isError") is True
    structured = result.get("structuredContent", result.get("toolResult"))
    if structured is not None and not isinstance(structured, dict):
        # Versions before 2026-07-28 allow objects only; the reader removes this wrapper again.
        structured = {"result": structured}
    if structured is None and not {"content", "structuredContent"} & result.keys():
        structured = {k: v for k, v in result.items() if k not in ("_meta", "isError")} or None
    if structured is not None:
        repaired["structuredContent"] = structured
    return {**{k: result[k] for k in ("resultType",) if k in result}, **repaired}


def _block(given: Any) -> dict[str, Any]:
    try:
        _BLOCK.validate_python(given, by_name=False)
    except ValidationError:
        text = given if isinstance(given, str) else write_json(given).decode()
        return {"type": "text", "text": text}
    block: dict[str, Any] = given
    return block


def _list(value: Any) -> list[Any]:
    """Return a list unchanged, an empty list for None, and a list of any other single value."""
    if isinstance(value, list):
        return value
    return [] if value is None else [value]


# - results -

# A shorter line may be equal by chance, such as the name of a file in a list of files.
_LINES_CHARACTERS = 20


def value_of(result: "CallToolResult") -> str | list[ContentPart] | None:
    """Return the value for the model, or raise the `ToolError` that the server reports.

    The structured content is added as JSON, without the parts that the content repeats.
    """
    parts = [_part(block) for block in result.content]
    texts = [part.text for part in parts if part.text is not None]
    rest = _Content(result.content, texts).rest(result.structured_content)
    if rest is not _REPEATED:
        texts.append(rest if isinstance(rest, str) else write_json(rest).decode())
        parts.append(_text(texts[-1]))
    if result.is_error:
        raise _failure(texts, parts)
    if len(texts) < len(parts):
        return parts
    return "\n".join(texts) if texts else None


def _failure(texts: list[str], parts: list[ContentPart]) -> ToolError:
    if len(texts) == len(parts):
        return ToolError("\n".join(texts) or "The tool failed without an error message.")
    if not texts:
        parts = [_text("The tool failed, and returned this:"), *parts]
    return PartsError("\n".join(texts) or "The tool failed.", parts)


_REPEATED: Final = "repeated"
_Rest = Any  # a JSON value, or `_REPEATED` itself


class _Content:
    """The content of a result, compared with its structured value.

    Servers repeat the value in many ways: the JSON as text, the text or the content blocks as a
    field, or each item of a list as a text.
    """

    def __init__(self, blocks: "list[ContentBlock]", texts: list[str]) -> None:
        self._texts = [text.strip() for text in texts]
        self._media = {data for block in blocks if (data := _data(block))}
        values = [_read(text) for text in texts]
        self._values: list[JSONValue] = [*values, values, list(texts), "\n".join(self._texts)]

    def rest(self, structured: JSONValue) -> _Rest:
        """Return the part of a structured value that the content does not contain, or `_REPEATED`."""
        if structured is None or self._contains(structured) or (structured == {} and self._texts):
            return _REPEATED
        if isinstance(structured, dict) and len(structured) == 1:
            [(name, only)] = structured.items()
            if self._contains(only) or only in (None, []):
                return _REPEATED
            # The server of the mcp package wraps values that are not objects.
            if name == "result" and not isinstance(only, dict | list):
                return only
        return self._not_repeated(structured)

    def _not_repeated(self, value: JSONValue) -> _Rest:
        """Return a value without the texts, lists and objects that the content repeats."""
        if isinstance(value, str | list | dict) and value and self._contains(value):
            return _REPEATED
        match value:
            case dict() if self._is_shown_block(value):
                return _REPEATED
            case dict():
                kept = {name: self._not_repeated(item) for name, item in value.items()}
                kept = {name: item for name, item in kept.items() if item is not _REPEATED}
                return kept or _REPEATED if value else value
            case list():
                if value and all(self._not_repeated(item) is _REPEATED for item in value):
                    return _REPEATED
                # A part of an item is useless without the rest, but an image is never sent as text.
                return self._without_media(value)
            case _:
                return value

    def _contains(self, value: JSONValue) -> bool:
        if isinstance(value, str):
            return self._contains_text(value)
        return any(value == other and _kind(value) is _kind(other) for other in self._values)

    def _contains_text(self, text: str) -> bool:
        """Return True if a text of the content is this text, or contains it as whole lines."""
        text = text.strip()
        if text in self._media or text in self._texts or text in self._values:
            return True
        if len(text) < _LINES_CHARACTERS:
            return False
        return any(f"\n{text}\n" in f"\n{other}\n" for other in self._texts)

    def _is_shown_block(self, value: dict[str, JSONValue]) -> bool:
        """Return True if a value is a content block that the content also contains."""
        payload = value.get("text", value.get("data"))
        is_block = value.get("type") in ("text", "image", "audio")
        return is_block and isinstance(payload, str) and self._contains_text(payload)

    def _without_media(self, value: JSONValue) -> JSONValue:
        match value:
            case str() if value in self._media:
                return "(shown above)"
            case dict():
                return {name: self._without_media(item) for name, item in value.items()}
            case list():
                return [self._without_media(item) for item in value]
            case _:
                return value


def _kind(value: JSONValue) -> type:
    """Return a JSON value's type.

    Integers and floats are one type, so that 1 equals 1.0 but not true.
    """
    return float if type(value) is int else type(value)


def _data(block: "ContentBlock") -> str | None:
    data: str | None = getattr(block, "data", None) or getattr(
        getattr(block, "resource", None), "blob", None
    )
    return data


def _read(text: str) -> JSONValue:
    try:
        value: JSONValue = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value


def _part(block: "ContentBlock") -> ContentPart:
    match block.type:
        case "text":
            return _text(block.text)
        case "image":
            return _image(block)
        case "audio":
            return _audio(block)
        case "resource":
            return _resource(block)
        case "resource_link":
            said = f": {block.description}" if block.description else ""
            return _text(f"[resource {block.name} at {block.uri}{said}]")
        case kind:  # tools of a model that the server asks; they are not announced
            raise ValueError(f"a content block of type {kind} is not supported here")


def _text(text: str) -> ContentPart:
    return ContentPart(type="text", text=text)


def _image(block: "ImageContent") -> ContentPart:
    return _image_of(block.mime_type, block.data)


def _image_of(kind: str, data: str) -> ContentPart:
    if (plain := _base64(data)) is None:
        return _text(f"[image, {kind}, not shown: its data is not base64]")
    return _media("image_url", {"url": f"data:{kind};base64,{plain}"})


def _audio(block: "AudioContent") -> ContentPart:
    if (data := _base64(block.data)) is None:
        return _text(f"[audio, {block.mime_type}, not shown: its data is not base64]")
    return _media("input_audio", {"data": data, "format": audio_format(block.mime_type)})


def _base64(data: str) -> str | None:
    """Return data as plain base64, or None: endpoints would refuse each request that has it.

    Some servers send a whole `data:` URL, or lines.
    """
    if data.startswith("data:"):
        data = data.partition(",")[2]
    data = "".join(data.split())
    try:
        is_data = bool(base64.b64decode(data, validate=True))
    except ValueError:
        return None
    return data if is_data else None


def _resource(block: "EmbeddedResource") -> ContentPart:
    resource = block.resource
    kind = resource.mime_type or "of an unknown type"
    if hasattr(resource, "text"):
        return _text(resource.text)
    if kind.startswith("image/"):
        return _image_of(kind, resource.blob)
    return _text(f"[resource {resource.uri}, {kind}, not shown]")


def _media(kind: str, value: JSONValue) -> ContentPart:
    return ContentPart.model_validate({"type": kind, kind: value})


# - resources, prompts and questions to a model -


def resource_parts(result: ReadResourceResult) -> list[ContentPart]:
    """Return the contents of a resource: texts, images, audio clips and files."""
    return [_resource_part(content) for content in result.contents]


def _resource_part(content: TextResourceContents | BlobResourceContents) -> ContentPart:
    if isinstance(content, TextResourceContents):
        return _text(content.text)
    kind = content.mime_type or "application/octet-stream"
    url = f"data:{kind};base64,{content.blob}"
    match kind.partition("/")[0]:
        case "image":
            return ContentPart.image(url, media_type=kind)
        case "audio":
            return ContentPart.audio(url, media_type=kind)
        case _:
            name = content.uri.rstrip("/").rpartition("/")[2]
            return ContentPart.file(url, filename=name or None, media_type=kind)


def prompt_messages(messages: Iterable[PromptMessage]) -> list[Message]:
    """Return the messages of a prompt."""
    return [_message(message.role, [message.content]) for message in messages]


def sampled_messages(request: CreateMessageRequestParams) -> list[Message]:
    """Return the messages that a server sends to a model, with its system prompt first."""
    messages: list[Message] = []
    if request.system_prompt:
        messages.append(SystemMessage(content=request.system_prompt))
    for message in request.messages:
        given = message.content
        messages.append(_message(message.role, given if isinstance(given, list) else [given]))
    return messages


def _message(role: str, blocks: Iterable[Any]) -> Message:
    parts = tuple(_part(block) for block in blocks)
    content = parts[0].text or "" if len(parts) == 1 and parts[0].type == "text" else parts
    if role == "assistant":
        return AssistantMessage(content=content)
    return UserMessage(content=content)
