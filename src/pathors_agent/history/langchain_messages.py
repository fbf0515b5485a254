"""Read the histories of LangChain. Pure."""

from collections.abc import Callable, Iterable, Mapping
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
from pathors_agent.messages import (
    AssistantMessage,
    ContentPart,
    SystemMessage,
    ToolMessage,
    Usage,
    UserMessage,
)

# Blocks of an answer whose data other fields of it have as well.
_CALL_BLOCKS = frozenset({"tool_use", "tool_call", "invalid_tool_call", "function_call"})
_THOUGHTS = frozenset({"reasoning", "thinking"})


def read_langchain(values: Iterable[Any]) -> HistoryReader:
    """Read messages of LangChain: its objects, or the output of `messages_to_dict` or `dumpd`."""
    reader = HistoryReader()
    for value in reader.each(values):
        fields = _fields(value)
        kind = fields.get("type")
        read = _READERS.get(kind) if isinstance(kind, str) else None
        if read is None:
            reader.note(f"a message of type {kind!r} is not supported")
        else:
            read(reader, fields)
    return reader


def _fields(value: Object) -> Object:
    """Return the fields of a message in any of the written forms, `type` among them."""
    if isinstance(value.get("data"), Mapping):
        return {**value["data"], "type": value.get("type")}
    if isinstance(value.get("kwargs"), Mapping):
        return dict(value["kwargs"])
    return value


def _input(
    kind: type[SystemMessage] | type[UserMessage],
) -> Callable[[HistoryReader, Object], None]:
    def read(reader: HistoryReader, fields: Object) -> None:
        content = _content(reader, fields.get("content"))
        reader.add(lambda: kind(content=content, name=fields.get("name")))

    return read


def _answer(reader: HistoryReader, fields: Object) -> None:
    metadata = fields.get("response_metadata") or {}
    more = fields.get("additional_kwargs") or {}
    calls = [*(fields.get("tool_calls") or ()), *(fields.get("invalid_tool_calls") or ())]
    calls = calls or [_openai_call(call) for call in more.get("tool_calls") or ()]
    content = _content(reader, fields.get("content"))
    if more.get("function_call"):
        reader.note("a call without an id is not supported", ".additional_kwargs.function_call")
    reader.add(
        lambda: AssistantMessage(
            content=content or None,
            tool_calls=tuple(read_call(c.get("id"), c.get("name"), c.get("args")) for c in calls),
            reasoning=_thoughts(fields.get("content")) or more.get("reasoning_content"),
            refusal=more.get("refusal"),
            finish_reason=metadata.get("finish_reason"),
            model=metadata.get("model_name"),
            id=fields.get("id"),
            usage=_usage(fields.get("usage_metadata")),
            extra={"name": fields["name"]} if fields.get("name") else {},
        )
    )


def _openai_call(call: Object) -> Object:
    """Convert a call that LangChain, before version 0.2, kept only in OpenAI's form."""
    function = call.get("function") or {}
    return {"id": call.get("id"), "name": function.get("name"), "args": function.get("arguments")}


def _thoughts(content: Any) -> str:
    blocks = content if isinstance(content, list) else []
    thoughts = (b for b in blocks if isinstance(b, Mapping) and b.get("type") in _THOUGHTS)
    return "".join(as_text(b.get("reasoning") or b.get("thinking")) for b in thoughts)


def _usage(usage: Object | None) -> Usage | None:
    if not usage:
        return None
    return Usage(
        prompt_tokens=usage.get("input_tokens"),
        completion_tokens=usage.get("output_tokens"),
        total_tokens=usage.get("total_tokens"),
        cached_tokens=(usage.get("input_token_details") or {}).get("cache_read"),
        reasoning_tokens=(usage.get("output_token_details") or {}).get("reasoning"),
    )


def _result(reader: HistoryReader, fields: Object) -> None:
    if fields.get("artifact") is not None:
        reader.note("is not sent to models", ".artifact")
    content = fields.get("content")
    is_text = isinstance(content, list | str) or content is None
    content = _content(reader, content) if is_text else json_text(content)
    is_error = fields.get("status") == "error"
    reader.add(
        lambda: ToolMessage(
            tool_call_id=as_text(fields.get("tool_call_id")),
            content=content,
            outcome="error" if is_error else "value",
        )
    )


_READERS: dict[str, Callable[[HistoryReader, Object], None]] = {
    "system": _input(SystemMessage),
    "SystemMessageChunk": _input(SystemMessage),
    "human": _input(UserMessage),
    "HumanMessageChunk": _input(UserMessage),
    "ai": _answer,
    "AIMessageChunk": _answer,
    "tool": _result,
    "ToolMessageChunk": _result,
}


# - contents -


def _content(reader: HistoryReader, content: Any) -> str | tuple[ContentPart, ...]:
    if not isinstance(content, list):
        return as_text(content)
    read = [_part(reader, block, f".content[{index}]") for index, block in enumerate(content)]
    parts = tuple(part for part in read if part is not None)
    if all(part.type == "text" for part in parts):
        return "".join(part.text or "" for part in parts)
    return parts


def _part(reader: HistoryReader, block: Any, path: str) -> ContentPart | None:
    kind = block.get("type") if isinstance(block, Mapping) else None
    if isinstance(kind, str) and kind in _CALL_BLOCKS | _THOUGHTS:
        if block.get("signature"):
            reader.note("is not supported", f"{path}.signature")
        return None
    return reader.part(block, path, "type", _BLOCKS)


def _image(block: Object) -> Object | None:
    if url := as_text(block.get("url")):
        return image(url)
    base64 = _base64(block)
    return image(data_url(_media_type(block), base64)) if base64 else None


def _audio(block: Object) -> Object | None:
    base64, form = _base64(block), _media_type(block).rpartition("/")[2]
    if not base64:
        return None
    return {
        "type": "input_audio",
        "input_audio": {"data": base64, "format": _FORMS.get(form, form)},
    }


def _file(block: Object) -> Object | None:
    if isinstance(block.get("file"), Mapping):
        return block
    if file_id := block.get("file_id"):
        return {"type": "file", "file": {"file_id": file_id}}
    base64 = _base64(block)
    if not base64:
        return None
    name = (block.get("metadata") or block.get("extras") or {}).get("filename")
    named = {"filename": name} if name else {}
    return {"type": "file", "file": {**named, "file_data": data_url(_media_type(block), base64)}}


def _base64(block: Object) -> str:
    """Return the bytes of a block: the field `base64`, or `data` before version 1.0."""
    return as_text(block.get("base64") or block.get("data"))


def _media_type(block: Object) -> str:
    return as_text(block.get("mime_type")) or "application/octet-stream"


# OpenAI's names of formats by their MIME subtypes.
_FORMS = {"mpeg": "mp3", "x-wav": "wav", "wave": "wav"}

_BLOCKS: PartReaders = {
    "text": lambda block: {"type": "text", "text": block.get("text")},
    "image": _image,
    "audio": _audio,
    "file": _file,
    "image_url": dict,
    "input_audio": dict,
}
