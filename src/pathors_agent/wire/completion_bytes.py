"""Write an assistant message as the bytes of a chat completion, streamed or plain.

The output has every field that OpenAI sends, and is the same for equal messages.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec

from pathors_agent.messages import AssistantMessage, JSONValue, ToolCall, Usage
from pathors_agent.wire.sse import encode_event

# A fixed time (2024-01-01, 00:00 UTC), so that an answer has the same bytes on every run.
CREATED = 1_704_067_200

DONE = encode_event("[DONE]")

Object = Mapping[str, object]
Split = Callable[[str], Iterable[str]]
"""Splits a text into pieces, each of which becomes a delta."""


def stream_events(
    message: AssistantMessage, *, split: Split, include_usage: bool = False
) -> list[bytes]:
    """Return the message as server-sent events, including the closing `[DONE]`.

    With `include_usage` each chunk has the field `usage`, and an additional chunk has the counts.
    """
    shared = _shared_fields(message, "chat.completion.chunk")
    if include_usage:
        shared["usage"] = None
    chunks = [_chunk(shared, delta) for delta in _deltas(message, split)]
    chunks.append(_chunk(shared, {}, message.finish_reason))
    if include_usage:
        chunks.append({**shared, "choices": [], "usage": usage_fields(message.usage)})
    return [*(encode_event(msgspec.json.encode(chunk)) for chunk in chunks), DONE]


def plain_body(message: AssistantMessage) -> bytes:
    """Return the message as one JSON completion."""
    answer: dict[str, object] = {
        "role": "assistant",
        "content": message.text if message.content is not None else None,
        "refusal": message.refusal,
    }
    if message.reasoning is not None:
        answer["reasoning_content"] = message.reasoning
    if message.tool_calls:
        answer["tool_calls"] = [_call_fields(call) for call in message.tool_calls]
    choice = {
        "index": 0,
        "message": answer,
        "logprobs": None,
        "finish_reason": message.finish_reason,
    }
    completion = _shared_fields(message, "chat.completion")
    return msgspec.json.encode(
        {**completion, "choices": [choice], "usage": usage_fields(message.usage)}
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


def _shared_fields(message: AssistantMessage, kind: str) -> dict[str, object]:
    return {
        "id": message.id or "chatcmpl-1",
        "object": kind,
        "created": CREATED,
        "model": message.model or "unknown",
        "system_fingerprint": "fp_pathors_agent",
    }


def _chunk(shared: Object, delta: Object, finish_reason: str | None = None) -> Object:
    choice = {
        "index": 0,
        "delta": delta,
        "logprobs": None,
        "finish_reason": finish_reason,
    }
    return {**shared, "choices": [choice]}


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
    opening = _call_fields(call.model_copy(update={"arguments": ""}))
    yield {"index": index, **opening}
    for piece in split(call.arguments):
        yield {"index": index, "function": {"arguments": piece}}


def _call_fields(call: ToolCall) -> Object:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function, **call.extra}
