"""Write completions, streamed or plain.

The output has every field that OpenAI sends, and is the same for equal messages.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import msgspec

from pathors_agent.json_text import write_json
from pathors_agent.messages import AssistantMessage, JSONValue, ToolCall, Usage, write_call
from pathors_agent.wire.sse import encode_event

# A fixed time (2024-01-01, 00:00 UTC), so that an answer has the same bytes on every run.
CREATED = 1_704_067_200

DONE = encode_event("[DONE]")

Object = Mapping[str, object]
Split = Callable[[str], Iterable[str]]
"""Splits a text into pieces, each of which becomes a delta."""


class ChunkTemplate:
    """The chunks of one answer as JSON text; the text around a delta is written once.

    `fields` are those that each chunk repeats, and `write` encodes a value. With `include_usage` each
    chunk has the field `usage`, which is null except in the chunk that `usage` returns.
    """

    __slots__ = ("_shared", "_usage", "_write", "after", "before")

    def __init__(
        self, fields: Object, *, include_usage: bool, write: Callable[[object], str]
    ) -> None:
        self._write = write
        self._shared = write(fields)[:-1]
        self._usage = ',"usage":null' if include_usage else ""
        self.before = self._shared + ',"choices":[{"index":0,"delta":'
        """The text before a delta."""
        self.after = f',"logprobs":null,"finish_reason":null}}]{self._usage}}}'
        """The text after a delta."""

    def delta(self, delta: Object) -> str:
        """Return the chunk of a delta."""
        return f"{self.before}{self._write(delta)}{self.after}"

    def end(self, finish_reason: str | None) -> str:
        """Return the chunk with the finish reason."""
        reason = f',"logprobs":null,"finish_reason":{self._write(finish_reason)}}}]'
        return f"{self.before}{{}}{reason}{self._usage}}}"

    def usage(self, usage: Object) -> str:
        """Return the chunk with the token counts."""
        return f'{self._shared},"choices":[],"usage":{self._write(usage)}}}'


def completion(
    fields: Object, message: Object, *, finish_reason: str | None, usage: Object
) -> bytes:
    """Return one JSON completion with a message as its only choice."""
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}
    return write_json({**fields, "choices": [choice], "usage": usage})


def answer_object(
    text: str | None,
    *,
    refusal: str | None,
    reasoning: str | None,
    calls: Sequence[Object] = (),
    function_call: Object | None = None,
) -> Object:
    """Return an assistant message as the object of a completion."""
    optional = {
        "reasoning_content": reasoning,
        "tool_calls": calls or None,
        "function_call": function_call,
    }
    present = {name: value for name, value in optional.items() if value is not None}
    return {"role": "assistant", "content": text, "refusal": refusal, **present}


def stream_events(
    message: AssistantMessage, *, split: Split, include_usage: bool = False
) -> list[bytes]:
    """Return the message as server-sent events, including the closing `[DONE]`.

    With `include_usage` each chunk has the field `usage`, and an additional chunk has the counts.
    """
    fields = _fields(message, "chat.completion.chunk")
    chunks = ChunkTemplate(fields, include_usage=include_usage, write=_text)
    texts = [chunks.delta(delta) for delta in _deltas(message, split)]
    texts.append(chunks.end(message.finish_reason))
    if include_usage:
        texts.append(chunks.usage(usage_fields(message.usage)))
    return [*map(encode_event, texts), DONE]


def plain_body(message: AssistantMessage) -> bytes:
    """Return the message as one JSON completion."""
    answer = answer_object(
        message.text if message.content is not None else None,
        refusal=message.refusal,
        reasoning=message.reasoning,
        calls=[write_call(call) for call in message.tool_calls],
    )
    return completion(
        _fields(message, "chat.completion"),
        answer,
        finish_reason=message.finish_reason,
        usage=usage_fields(message.usage),
    )


def error_body(
    message: str,
    *,
    type: str,  # noqa: A002  (OpenAI's name for the field)
    code: str | None = None,
    param: str | None = None,
    details: Iterable[str] = (),
) -> bytes:
    """Return an error in the form of the API."""
    return msgspec.json.encode(
        {
            "error": {
                "message": message,
                "type": type,
                "param": param,
                "code": code,
                "details": list(details),
            }
        }
    )


def usage_fields(usage: Usage | None) -> dict[str, JSONValue]:
    """Return OpenAI's usage object; unknown counts are -1, unknown details are omitted."""
    usage = usage or Usage()
    counts = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }
    fields: dict[str, JSONValue] = {k: -1 if v is None else v for k, v in counts.items()}
    if usage.cached_tokens is not None:
        fields["prompt_tokens_details"] = {"cached_tokens": usage.cached_tokens}
    if usage.reasoning_tokens is not None:
        fields["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning_tokens}
    return fields


def _fields(message: AssistantMessage, kind: str) -> dict[str, object]:
    return {
        "id": message.id or "chatcmpl-1",
        "object": kind,
        "created": CREATED,
        "model": message.model or "unknown",
        "system_fingerprint": "fp_pathors_agent",
    }


def _text(value: object) -> str:
    return write_json(value).decode()


def _deltas(message: AssistantMessage, split: Split) -> Iterator[Object]:
    """Yield the deltas in OpenAI's order: role, reasoning, text, refusal, then each call."""
    opening = None if message.content is None else ""
    yield {"role": "assistant", "content": opening, "refusal": None}
    yield from ({"reasoning_content": piece} for piece in split(message.reasoning or ""))
    yield from ({"content": piece} for piece in split(message.text))
    yield from ({"refusal": piece} for piece in split(message.refusal or ""))
    for index, call in enumerate(message.tool_calls):
        yield from ({"tool_calls": [piece]} for piece in _call_pieces(index, call, split))


def _call_pieces(index: int, call: ToolCall, split: Split) -> Iterator[Object]:
    opening = write_call(call.model_copy(update={"arguments": ""}))
    yield {"index": index, **opening}
    for piece in split(call.arguments):
        yield {"index": index, "function": {"arguments": piece}}
