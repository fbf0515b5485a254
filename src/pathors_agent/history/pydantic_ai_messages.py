"""Read the histories of pydantic-ai. Pure."""

from collections.abc import Callable, Iterable
from typing import Any

from pathors_agent.history.reading import (
    HistoryReader,
    Object,
    PartReaders,
    as_text,
    data_url,
    image,
    json_text,
    read_call,
)
from pathors_agent.messages import AssistantMessage, SystemMessage, ToolMessage, Usage, UserMessage


def read_pydantic_ai(values: Iterable[Any]) -> HistoryReader:
    """Read messages of pydantic-ai: its objects, or the output of `ModelMessagesTypeAdapter`."""
    reader = HistoryReader()
    for fields in reader.each(values):
        match fields.get("kind"):
            case "request":
                _request(reader, fields)
            case "response":
                _response(reader, fields)
            case kind:
                reader.note(f"a message of kind {kind!r} is not supported")
    return reader


# - requests -


def _request(reader: HistoryReader, fields: Object) -> None:
    if fields.get("instructions"):
        reader.note("is not part of a history; pass it as Agent(instructions=...)", ".instructions")
    for index, part in enumerate(fields.get("parts") or ()):
        with reader.at(f".parts[{index}]"):
            kind = part.get("part_kind")
            read = _REQUEST_PARTS.get(kind)
            if read is None:
                reader.note(f"a part of kind {kind!r} is not supported")
            else:
                read(reader, part)


def _user(reader: HistoryReader, part: Object) -> None:
    content = part.get("content")
    if isinstance(content, list):
        items = [
            reader.part(item, f".content[{index}]", "kind", _ITEMS)
            for index, item in enumerate(content)
            # A marker of where a provider may cache, which no model reads.
            if not (isinstance(item, dict) and item.get("kind") == "cache-point")
        ]
        content = tuple(item for item in items if item is not None)
    reader.add(lambda: UserMessage(content=content or ""))


def _binary(item: Object) -> Object | None:
    media_type, data = as_text(item.get("media_type")), item.get("data")
    if not media_type.startswith("image/") or not isinstance(data, str):
        return None
    return image(data_url(media_type, data))


_ITEMS: PartReaders = {
    "text-content": lambda item: {"type": "text", "text": item.get("content")},
    "image-url": lambda item: image(as_text(item.get("url"))),
    "binary": _binary,
}


def _result(reader: HistoryReader, part: Object) -> None:
    if part.get("metadata") is not None:
        reader.note("is not sent to models", ".metadata")
    is_value = part.get("outcome", "success") == "success"
    reader.add(
        lambda: ToolMessage(
            tool_call_id=as_text(part.get("tool_call_id")),
            content=json_text(part.get("content")),
            outcome="value" if is_value else "error",
        )
    )


def _retry(reader: HistoryReader, part: Object) -> None:
    """Read the retry of a call as its result, and any other retry as feedback on an answer."""
    text = json_text(part.get("content"))
    if not part.get("tool_name"):
        reader.add(lambda: UserMessage(content=text, feedback=True))
        return
    call_id = as_text(part.get("tool_call_id"))
    reader.add(lambda: ToolMessage(tool_call_id=call_id, content=text, outcome="error"))


_REQUEST_PARTS: dict[Any, Callable[[HistoryReader, Object], None]] = {
    "system-prompt": lambda reader, part: reader.add(
        lambda: SystemMessage(content=as_text(part.get("content")))
    ),
    "user-prompt": _user,
    "tool-return": _result,
    "retry-prompt": _retry,
    "retry-feedback": _retry,
}


# - responses -


def _response(reader: HistoryReader, fields: Object) -> None:
    parts: dict[str, list[Object]] = {"text": [], "thinking": [], "tool-call": []}
    for index, part in enumerate(fields.get("parts") or ()):
        kind = str(part.get("part_kind"))
        if kind in parts:
            parts[kind].append(part)
            if part.get("signature"):
                reader.note("is not supported", f".parts[{index}].signature")
        else:
            reader.note(f"a part of kind {kind!r} is not supported", f".parts[{index}]")
    reader.add(
        lambda: AssistantMessage(
            content=_joined(parts["text"]),
            reasoning=_joined(parts["thinking"]),
            tool_calls=tuple(
                read_call(part.get("tool_call_id"), part.get("tool_name"), part.get("args"))
                for part in parts["tool-call"]
            ),
            finish_reason=_REASONS.get(fields.get("finish_reason")),
            model=fields.get("model_name"),
            id=fields.get("provider_response_id"),
            usage=_usage(fields.get("usage") or {}),
        )
    )


def _joined(parts: Iterable[Object]) -> str | None:
    return "".join(as_text(part.get("content")) for part in parts) or None


# OpenAI's finish reasons by pydantic-ai's.
_REASONS: dict[Any, str] = {
    "stop": "stop",
    "length": "length",
    "content_filter": "content_filter",
    "tool_call": "tool_calls",
    "error": "error",
}


def _usage(usage: Object) -> Usage | None:
    """Read counts, also under their older names; 0 means that nothing was counted."""
    prompt = usage.get("input_tokens") or usage.get("request_tokens") or 0
    completion = usage.get("output_tokens") or usage.get("response_tokens") or 0
    if not prompt and not completion:
        return None
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        cached_tokens=usage.get("cache_read_tokens"),
        reasoning_tokens=usage.get("output_reasoning_tokens"),
    )
