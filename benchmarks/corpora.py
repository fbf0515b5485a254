"""Streams to measure with, made by code: what servers send, without anybody's recordings."""

import json
from collections.abc import Iterator

TEXT_CHUNKS = 2_000
PIECE_CHARACTERS = 8

JSONObject = dict[str, object]

_WORDS = "The quick brown fox jumps over the lazy dog while it rains in the far hills".split()


def openai_text(chunks: int = TEXT_CHUNKS) -> bytes:
    """An answer of `chunks` words with all the fields that OpenAI sends."""
    deltas: list[JSONObject] = [{"role": "assistant", "content": "", "refusal": None}]
    deltas += [{"content": word} for word in _words(chunks)]
    return _stream(deltas, "stop", OPENAI_FIELDS)


def openai_arguments(characters: int = 20_000) -> bytes:
    """One tool call whose arguments come in pieces of 8 characters."""
    head = _call(0, "call_aB3dE5fG7hJ9kL1mN3pQ5rS7", "write_report", "")
    pieces = _pieces(arguments_text(characters))
    deltas: list[JSONObject] = [
        {"role": "assistant", "content": None, "tool_calls": [head], "refusal": None},
        *[_delta(tool_calls=[_piece(0, piece)]) for piece in pieces],
    ]
    return _stream(deltas, "tool_calls", OPENAI_FIELDS)


def openai_calls(calls: int = 8, characters: int = 2_000) -> bytes:
    """Eight calls whose pieces come in turn."""
    heads: list[JSONObject] = [
        {"tool_calls": [_call(i, f"call_{i:024d}", f"lookup_{i}", "")]} for i in range(calls)
    ]
    pieces = list(_pieces(arguments_text(characters)))
    turns: list[JSONObject] = [
        {"tool_calls": [_piece(i, piece)]} for piece in pieces for i in range(calls)
    ]
    deltas: list[JSONObject] = [{"role": "assistant", "content": None}, *heads, *turns]
    return _stream(deltas, "tool_calls", OPENAI_FIELDS)


def vllm_text(chunks: int = TEXT_CHUNKS) -> bytes:
    """The short chunks of vLLM."""
    deltas: list[JSONObject] = [
        {"role": "assistant", "content": ""},
        *[_delta(content=word) for word in _words(chunks)],
    ]
    fields = {
        "id": "chatcmpl-7f3e",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": "m",
    }
    return _stream(deltas, "stop", fields, logprobs=None)


def llamacpp_text(chunks: int = TEXT_CHUNKS) -> bytes:
    """The chunks of llama.cpp's server."""
    deltas: list[JSONObject] = [
        {"role": "assistant", "content": None},
        *[_delta(content=word) for word in _words(chunks)],
    ]
    fields = {
        "created": 1700000000,
        "id": "chatcmpl-Yk3Wc1",
        "model": "gguf",
        "system_fingerprint": "b4000",
        "object": "chat.completion.chunk",
    }
    return _stream(deltas, "stop", fields)


def crlf_with_comments(chunks: int = TEXT_CHUNKS) -> bytes:
    """CR LF line ends, and a comment before every tenth event."""
    events = openai_text(chunks).split(b"\n\n")[:-1]
    commented = [
        (b": OPENROUTER PROCESSING\n\n" if i % 10 == 0 else b"") + event
        for i, event in enumerate(events)
    ]
    return (b"\n\n".join(commented) + b"\n\n").replace(b"\n", b"\r\n")


def arguments_text(characters: int) -> str:
    """A JSON object of about so many characters: short fields, lists and some prose."""
    items: list[JSONObject] = []
    size = 0
    while size < characters:
        item = {
            "id": len(items),
            "title": "Line é " + " ".join(_words(4)),
            "done": len(items) % 2 == 0,
            "score": len(items) / 8,
            "tags": ["a", "b\n", None],
        }
        size += len(json.dumps(item, ensure_ascii=False)) + 2
        items.append(item)
    return json.dumps({"items": items, "summary": "end"}, ensure_ascii=False)


def reads(body: bytes, size: int | None) -> list[bytes]:
    """Cut a body into reads of `size` bytes; None gives one event a read."""
    if size is not None:
        return [body[i : i + size] for i in range(0, len(body), size)]
    end = b"\r\n\r\n" if b"\r\n" in body else b"\n\n"
    return [event + end for event in body.split(end)[:-1]]


OPENAI_FIELDS: JSONObject = {
    "id": "chatcmpl-BxY8nZ0q3kJ5m7L9p1R3t5V7w9X1z",
    "object": "chat.completion.chunk",
    "created": 1741569952,
    "model": "gpt-4.1-mini-2025-04-14",
    "service_tier": "default",
    "system_fingerprint": "fp_7c233bf9d1",
}


def _stream(deltas: list[JSONObject], finish: str, fields: JSONObject, **choice: object) -> bytes:
    logprobs = {"logprobs": None} if "service_tier" in fields else choice
    chunks = [
        {**fields, "choices": [{"index": 0, "delta": delta, **logprobs, "finish_reason": None}]}
        for delta in deltas
    ]
    chunks.append(
        {**fields, "choices": [{"index": 0, "delta": {}, **logprobs, "finish_reason": finish}]}
    )
    lines = (json.dumps(chunk, separators=(",", ":"), ensure_ascii=False) for chunk in chunks)
    return "".join(f"data: {line}\n\n" for line in lines).encode() + b"data: [DONE]\n\n"


def _delta(**fields: object) -> JSONObject:
    return fields


def _words(count: int) -> Iterator[str]:
    return (" " + _WORDS[i % len(_WORDS)] for i in range(count))


def _pieces(text: str) -> Iterator[str]:
    return (text[i : i + PIECE_CHARACTERS] for i in range(0, len(text), PIECE_CHARACTERS))


def _call(index: int, call_id: str, name: str, arguments: str) -> JSONObject:
    function = {"name": name, "arguments": arguments}
    return {"index": index, "id": call_id, "type": "function", "function": function}


def _piece(index: int, arguments: str) -> JSONObject:
    return {"index": index, "function": {"arguments": arguments}}
