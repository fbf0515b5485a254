"""Read pydantic-ai's histories. Pure."""

from collections.abc import Callable, Iterable
from typing import Any

from pathors_agent.history.reading import (
    Object,
    Reading,
    as_text,
    data_url,
    image,
    json_text,
    read_call,
)
from pathors_agent.messages import (
    AssistantMessage,
    ContentPart,
    SystemMessage,
    ToolMessage,
    Usage,
    UserMessage,
)


def read_pydantic_ai(values: Iterable[Any]) -> Reading:
    """Read pydantic-ai's messages: themselves, or as `ModelMessagesTypeAdapter` dumps them."""
    reading = Reading()
    for fields in reading.each(values):
        match fields.get("kind"):
            case "request":
                _request(reading, fields)
            case "response":
                _response(reading, fields)
            case kind:
                reading.note(f"a message of kind {kind!r} has no place here")
    return reading


# - what was said to the model -


def _request(reading: Reading, fields: Object) -> None:
    if fields.get("instructions"):
        reading.note("belongs to Agent(instructions=...), not to a history", ".instructions")
    for index, part in enumerate(fields.get("parts") or ()):
        with reading.at(f".parts[{index}]"):
            kind = part.get("part_kind")
            reader = _REQUEST_PARTS.get(kind)
            if reader is None:
                reading.note(f"a part of kind {kind!r} has no place here")
            else:
                reader(reading, part)


def _system(reading: Reading, part: Object) -> None:
    reading.add(lambda: SystemMessage(content=as_text(part.get("content"))))


def _user(reading: Reading, part: Object) -> None:
    content = part.get("content")
    if isinstance(content, list):
        made = [
            _item(reading, item, f".content[{index}]")
            for index, item in enumerate(content)
            if not _is_cache_point(item)
        ]
        content = tuple(item for item in made if item is not None)
    reading.add(lambda: UserMessage(content=content or ""))


def _is_cache_point(item: Any) -> bool:
    """Return True for a mark that says where a provider may cache, and nothing to a model."""
    return isinstance(item, dict) and item.get("kind") == "cache-point"


def _item(reading: Reading, item: Any, path: str) -> ContentPart | None:
    """Read one item of what a user said."""
    if isinstance(item, str):
        return ContentPart(type="text", text=item)
    kind = item.get("kind") if isinstance(item, dict) else None
    made = _ITEMS.get(kind, _nothing)(item)
    if made is None:
        reading.note(f"an item of kind {kind!r} has no place here", path)
        return None
    return reading.part(made, path)


def _nothing(item: Object) -> Object | None:
    return None


def _text_item(item: Object) -> Object | None:
    return {"type": "text", "text": item.get("content")}


def _image_url(item: Object) -> Object | None:
    return image(as_text(item.get("url")))


def _binary(item: Object) -> Object | None:
    media_type, data = as_text(item.get("media_type")), item.get("data")
    if not media_type.startswith("image/") or not isinstance(data, str):
        return None
    return image(data_url(media_type, data))


_ITEMS: dict[Any, Callable[[Object], Object | None]] = {
    "text-content": _text_item,
    "image-url": _image_url,
    "binary": _binary,
}


def _result(reading: Reading, part: Object) -> None:
    if part.get("metadata") is not None:
        reading.note("what no model was sent has no place here", ".metadata")
    is_value = part.get("outcome", "success") == "success"
    reading.add(
        lambda: ToolMessage(
            tool_call_id=as_text(part.get("tool_call_id")),
            content=json_text(part.get("content")),
            outcome="value" if is_value else "error",
        )
    )


def _retry(reading: Reading, part: Object) -> None:
    """A retry of a call is its result; any other is feedback to an answer."""
    text = json_text(part.get("content"))
    if not part.get("tool_name"):
        reading.add(lambda: UserMessage(content=text, feedback=True))
        return
    call_id = as_text(part.get("tool_call_id"))
    reading.add(lambda: ToolMessage(tool_call_id=call_id, content=text, outcome="error"))


_REQUEST_PARTS: dict[Any, Callable[[Reading, Object], None]] = {
    "system-prompt": _system,
    "user-prompt": _user,
    "tool-return": _result,
    "retry-prompt": _retry,
    "retry-feedback": _retry,
}


# - what the model said -


def _response(reading: Reading, fields: Object) -> None:
    said: dict[str, list[Object]] = {"text": [], "thinking": [], "tool-call": []}
    for index, part in enumerate(fields.get("parts") or ()):
        kind = str(part.get("part_kind"))
        if kind in said:
            said[kind].append(part)
            if part.get("signature"):
                reading.note("has no place here", f".parts[{index}].signature")
        else:
            reading.note(f"a part of kind {kind!r} has no place here", f".parts[{index}]")
    reading.add(
        lambda: AssistantMessage(
            content=_joined(said["text"]),
            reasoning=_joined(said["thinking"]),
            tool_calls=tuple(
                read_call(part.get("tool_call_id"), part.get("tool_name"), part.get("args"))
                for part in said["tool-call"]
            ),
            finish_reason=_REASONS.get(fields.get("finish_reason")),
            model=fields.get("model_name"),
            id=fields.get("provider_response_id"),
            usage=_usage(fields.get("usage") or {}),
        )
    )


def _joined(parts: Iterable[Object]) -> str | None:
    return "".join(as_text(part.get("content")) for part in parts) or None


# pydantic-ai's words for OpenAI's.
_REASONS: dict[Any, str] = {
    "stop": "stop",
    "length": "length",
    "content_filter": "content_filter",
    "tool_call": "tool_calls",
    "error": "error",
}


def _usage(usage: Object) -> Usage | None:
    """Read counts, under their older names too; 0 means that nothing was counted."""
    asked = usage.get("input_tokens") or usage.get("request_tokens") or 0
    said = usage.get("output_tokens") or usage.get("response_tokens") or 0
    if not asked and not said:
        return None
    return Usage(
        prompt_tokens=asked,
        completion_tokens=said,
        total_tokens=asked + said,
        cached_tokens=usage.get("cache_read_tokens"),
        reasoning_tokens=usage.get("output_reasoning_tokens"),
    )
