"""The reader of usual chunks and the tolerant reader agree on every chunk."""

import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from pathors_agent.errors import TransportError
from pathors_agent.messages import AssistantMessage
from pathors_agent.wire.deltas import Delta
from pathors_agent.wire.response_stream import ResponseStream

texts = st.text(max_size=8) | st.sampled_from(["\ud83d", "\ude00", "a\ud83d\ude00", "error"])
odd = st.sampled_from([None, False, 0, 1, -1, 1.0, "", "x", [], {}, ["x"], {"a": 1}])


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


calls = st.fixed_dictionaries(
    {"index": st.integers(0, 2), "function": some(name=texts, arguments=texts)},
    optional={"id": texts, "type": texts},
)
deltas = some(
    role=st.just("assistant"),
    content=texts,
    tool_calls=st.lists(calls, max_size=3),
    reasoning=texts,
    reasoning_content=texts,
    refusal=st.none(),
)
reasons = st.sampled_from([None, "", "stop", "error"])
choices = st.fixed_dictionaries(
    {"delta": deltas},
    optional={"index": st.just(0), "finish_reason": reasons, "logprobs": st.none()},
)
chunks = st.fixed_dictionaries(
    {"choices": st.lists(choices, min_size=1, max_size=1)},
    optional={"id": texts, "model": texts, "session_id": texts, "usage": st.none()},
)

UNUSUAL = [
    *("error", "finish_reason", "tool_calls", "refusal", "function_call", "index", "delta"),
    *("message", "usage", "x_groq", "usageMetadata", "logprobs", "session_id", "content"),
]


@st.composite
def spoiled(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a usual chunk, and set one field somewhere in it to anything."""
    chunk = draw(chunks)
    place = draw(st.sampled_from(objects_in(chunk)))
    place[draw(st.sampled_from([*place, *UNUSUAL]))] = draw(odd)
    return chunk


def objects_in(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, list):
        return [found for item in value for found in objects_in(item)]
    if not isinstance(value, dict):
        return []
    return [value, *(found for item in value.values() for found in objects_in(item))]


def event(chunk: object) -> bytes:
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


# The tolerant reader reads the head of a stream, and alone takes these fields.
NAMED = {"id": "answer", "model": "m", "session_id": "s"}
HEAD = event({**NAMED, "choices": [{"index": 0, "delta": {"role": "assistant"}}]})
END = b"data: [DONE]\n\n"


def read(body: list[dict[str, Any]]) -> tuple[AssistantMessage | None, list[str], list[str], str]:
    stream = ResponseStream(turn=3)
    message, failure = None, ""
    found: list[Delta] = []
    for data in [HEAD, *map(event, body), END]:
        found += stream.feed(data)
    found += stream.close()
    try:
        message = stream.finish()
    except TransportError as error:
        failure = type(error).__name__
    said = [f"{delta!r}{getattr(delta, 'text', '')}" for delta in found]
    return message, said, [quirk.kind for quirk in stream.quirks], failure


EMPTY_PIECE = {"index": 0, "function": {}}
EMPTY_PIECES = {"choices": [{"delta": {"tool_calls": [EMPTY_PIECE, EMPTY_PIECE]}}]}


@given(st.lists(chunks | spoiled(), max_size=4))
@example([EMPTY_PIECES])
def test_chunks_are_read_alike_by_both_readers(body: list[dict[str, Any]]) -> None:
    # A usual chunk has one choice. The second one here has no content.
    tolerated = [
        {**chunk, "choices": [*chunk["choices"], {"index": 1}]}
        if isinstance(chunk.get("choices"), list)
        else chunk
        for chunk in body
    ]
    assert read(body) == read(tolerated)
