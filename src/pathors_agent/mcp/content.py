"""Read the result of an MCP tool as the value of a tool: text, content parts, or an error. Pure."""

import json
from typing import TYPE_CHECKING, Any, Final

from pathors_agent.errors import ToolError
from pathors_agent.json_text import write_json
from pathors_agent.messages import ContentPart, JSONValue

if TYPE_CHECKING:
    from mcp.types import (
        AudioContent,
        CallToolResult,
        ContentBlock,
        EmbeddedResource,
        ImageContent,
    )

# OpenAI's names for the formats that it takes; others are named by their MIME type.
_AUDIO_FORMATS = {"audio/mpeg": "mp3", "audio/mp3": "mp3", "audio/x-wav": "wav"}

# A shorter line may be equal by chance: the name of one file in a list of them.
_LINES_CHARACTERS = 20


def value_of(result: "CallToolResult") -> str | list[ContentPart] | None:
    """Return the value for the model, or raise the `ToolError` that the server reports.

    The structured content is added as JSON, without what the content says already.
    """
    parts = [_part(block) for block in result.content]
    texts = [part.text for part in parts if part.text is not None]
    rest = _Content(result.content, texts).rest(result.structured_content)
    if rest is not _SAID:
        texts.append(rest if isinstance(rest, str) else write_json(rest).decode())
        parts.append(_text(texts[-1]))
    if result.is_error:
        raise ToolError("\n".join(texts) or "The tool failed, and did not say why.")
    if len(texts) < len(parts):
        return parts
    return "\n".join(texts) if texts else None


_SAID: Final = "said already"
_Rest = Any  # a JSON value, or `_SAID` itself


class _Content:
    """The content of a result, and what of a structured value it says already.

    Servers send the same thing twice in many ways: the JSON as text, the text or the content blocks
    as a field, each item of a list as a text.
    """

    def __init__(self, blocks: "list[ContentBlock]", texts: list[str]) -> None:
        self._texts = [text.strip() for text in texts]
        self._media = {data for block in blocks if (data := _data(block))}
        values = [_read(text) for text in texts]
        self._values: list[JSONValue] = [*values, values, list(texts), "\n".join(self._texts)]

    def rest(self, structured: JSONValue) -> _Rest:
        """Return what the content does not say, or `_SAID`."""
        if structured is None or self._says(structured) or (structured == {} and self._texts):
            return _SAID
        if isinstance(structured, dict) and len(structured) == 1:
            [(name, only)] = structured.items()
            if self._says(only) or only in (None, []):
                return _SAID
            # mcp's own server wraps what is no object.
            if name == "result" and not isinstance(only, dict | list):
                return only
        return self._unsaid(structured)

    def _unsaid(self, value: JSONValue) -> _Rest:
        """Return a value without the texts, lists and objects that the content repeats."""
        if isinstance(value, str | list | dict) and value and self._says(value):
            return _SAID
        match value:
            case dict() if self._is_shown_block(value):
                return _SAID
            case dict():
                kept = {name: self._unsaid(item) for name, item in value.items()}
                kept = {name: item for name, item in kept.items() if item is not _SAID}
                return kept or _SAID if value else value
            case list():
                if value and all(self._unsaid(item) is _SAID for item in value):
                    return _SAID
                # Half of an item says nothing; but a picture is never sent as text.
                return self._without_media(value)
            case _:
                return value

    def _says(self, value: JSONValue) -> bool:
        if isinstance(value, str):
            return self._says_text(value)
        return any(value == said and _kind(value) is _kind(said) for said in self._values)

    def _says_text(self, text: str) -> bool:
        """Return whether a text is one of the content's, or stands in one as whole lines."""
        text = text.strip()
        if text in self._media or text in self._texts or text in self._values:
            return True
        if len(text) < _LINES_CHARACTERS:
            return False
        return any(f"\n{text}\n" in f"\n{said}\n" for said in self._texts)

    def _is_shown_block(self, value: dict[str, JSONValue]) -> bool:
        """Return whether a value is a content block that the content has, too."""
        payload = value.get("text", value.get("data"))
        is_block = value.get("type") in ("text", "image", "audio")
        return is_block and isinstance(payload, str) and self._says_text(payload)

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
    """Return the kind of a JSON value: true is not 1, and 1.0 is."""
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


def _text(text: str) -> ContentPart:
    return ContentPart(type="text", text=text)


def _image(block: "ImageContent") -> ContentPart:
    return _media("image_url", {"url": f"data:{block.mime_type};base64,{block.data}"})


def _audio(block: "AudioContent") -> ContentPart:
    kind = _AUDIO_FORMATS.get(block.mime_type, block.mime_type.rpartition("/")[2])
    return _media("input_audio", {"data": block.data, "format": kind})


def _resource(block: "EmbeddedResource") -> ContentPart:
    resource = block.resource
    kind = resource.mime_type or "of an unknown type"
    if hasattr(resource, "text"):
        return _text(resource.text)
    if kind.startswith("image/"):
        return _media("image_url", {"url": f"data:{kind};base64,{resource.blob}"})
    return _text(f"[resource {resource.uri}, {kind}, not shown]")


def _media(kind: str, value: JSONValue) -> ContentPart:
    return ContentPart.model_validate({"type": kind, kind: value})
