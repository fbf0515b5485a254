"""The reader of usual chunks and the tolerant reader agree on every chunk."""

import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from pathors_agent.errors import TransportError
from pathors_agent.messages import AssistantMessage
from pathors_agent.wire.chunks import read_completion
from pathors_agent.wire.deltas import Delta
from pathors_agent.wire.message_builder import MessageBuilder
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
def test_both_readers_read_chunks_equally(body: list[dict[str, Any]]) -> None:
    # A usual chunk has one choice. The second one here has no content.
    tolerated = [
        {**chunk, "choices": [*chunk["choices"], {"index": 1}]}
        if isinstance(chunk.get("choices"), list)
        else chunk
        for chunk in body
    ]
    assert read(body) == read(tolerated)


# - whole completions

counts = st.integers(0, 3)
usages = st.fixed_dictionaries(
    {"prompt_tokens": counts, "completion_tokens": counts, "total_tokens": counts},
    optional={
        "prompt_tokens_details": some(cached_tokens=counts, audio_tokens=counts),
        "completion_tokens_details": some(reasoning_tokens=counts) | st.none(),
    },
)
whole_calls = st.fixed_dictionaries(
    {"id": texts, "function": st.fixed_dictionaries({"name": texts, "arguments": texts})},
    optional={"type": texts, "index": st.integers(-1, 1)},
)
whole_messages = st.fixed_dictionaries(
    {"role": st.just("assistant")},
    optional={
        "content": texts,
        "tool_calls": st.lists(whole_calls, max_size=3) | st.none(),
        "refusal": st.none(),
        "annotations": st.just([]),
        "reasoning_content": texts,
    },
)
whole_choices = st.fixed_dictionaries(
    {"message": whole_messages},
    optional={"index": st.just(0), "finish_reason": reasons, "logprobs": st.none()},
)
completions = st.fixed_dictionaries(
    {"choices": st.lists(whole_choices, min_size=1, max_size=1)},
    optional={"id": texts, "model": texts, "session_id": texts, "usage": usages | st.none()},
)


@st.composite
def spoiled_completions(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a usual completion, and set one field somewhere in it to anything."""
    completion = draw(completions)
    place = draw(st.sampled_from(objects_in(completion)))
    place[draw(st.sampled_from([*place, *UNUSUAL, "annotations", "arguments"]))] = draw(odd)
    return completion


def read_body(body: bytes) -> tuple[AssistantMessage | None, str | None, list[str], list[str], str]:
    stream = ResponseStream(turn=3)
    message, failure = None, ""
    found = [*stream.feed(body), *stream.close()]
    try:
        message = stream.finish()
    except TransportError as error:
        failure = type(error).__name__
    said = [f"{delta!r}{getattr(delta, 'text', '')}" for delta in found]
    return (
        message,
        stream.builder.session_id,
        said,
        [quirk.kind for quirk in stream.quirks],
        failure,
    )


@given(completions | spoiled_completions())
def test_both_readers_read_completions_equally(completion: dict[str, Any]) -> None:
    # In a list, as some gateways wrap their answers, a completion has no usual shape.
    body = json.dumps(completion).encode()

    assert read_body(body) == read_body(b"[" + body + b"]")


def test_completion_of_openai_has_the_usual_shape() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "annotations": [],
    }
    details = {"cached_tokens": 1, "audio_tokens": 0}
    completion = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt",
        "choices": [
            {
                "index": 0,
                "message": {**message, "tool_calls": [call]},
                "logprobs": None,
                "finish_reason": "tool_calls",
            }
        ],
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 2,
            "total_tokens": 5,
            "prompt_tokens_details": details,
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        },
        "service_tier": "default",
        "system_fingerprint": None,
    }

    assert read_completion(json.dumps(completion).encode(), MessageBuilder(), [])
