"""Read the result of an MCP tool as the value of a tool: text, content parts, or an error. Pure."""

import json
from typing import TYPE_CHECKING

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


def value_of(result: "CallToolResult") -> str | list[ContentPart] | None:
    """Give the value for the model, or raise the `ToolError` that the server reports."""
    parts = [_part(block) for block in result.content]
    texts = [part.text for part in parts if part.text is not None]
    if result.is_error:
        raise ToolError("\n".join(texts) or "The tool failed, and did not say why.")
    structured = result.structured_content
    if structured is not None and not _is_said(texts, structured):
        texts.append(write_json(structured).decode())
        parts.append(_text(texts[-1]))
    if len(texts) < len(parts):
        return parts
    return "\n".join(texts) if texts else None


def _is_said(texts: list[str], structured: JSONValue) -> bool:
    """Whether the text says what the structured content says; servers mostly send both.

    mcp's own server wraps what is no object as {"result": ...}, and sends the items of a list as
    a text each.
    """
    bare = structured
    if isinstance(structured, dict) and structured.keys() == {"result"}:
        bare = structured["result"]
    said = [_read(text) for text in texts]
    forms: list[JSONValue] = [[structured], [bare], bare, [] if bare is None else bare]
    return any(form in (said, texts) for form in forms)


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
