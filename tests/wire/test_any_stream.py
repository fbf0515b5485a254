"""Streams drawn at random and of providers, cut anywhere."""

import json
import tracemalloc
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathors_agent.errors import MalformedResponse, TransportError
from pathors_agent.messages import AssistantMessage
from pathors_agent.wire.deltas import TextDelta
from pathors_agent.wire.response_stream import ResponseStream
from stream_bodies import (
    DONE,
    HEAD,
    Outcome,
    by_events,
    bytewise,
    chunk,
    cut_at,
    event,
    outcome,
    places,
    read,
    text,
    whole,
)

QUIRKS = Path(__file__).parent.parent / "conformance" / "quirks"


# - Any stream, cut anywhere


def assert_every_cut_agrees(body: bytes, places: Iterable[int]) -> Outcome:
    wanted = outcome(whole(body))
    assert outcome(bytewise(body)) == wanted
    assert outcome(by_events(body)) == wanted
    assert outcome(cut_at(body, places)) == wanted
    return wanted


contents = st.text(max_size=8) | st.sampled_from(["{", '{"a": 1}', "\U0001f600", "\u2028", ""])
deltas_of_a_stream = st.one_of(
    contents.map(lambda content: {"content": content}),
    contents.map(lambda content: {"reasoning_content": content}),
    contents.map(lambda content: {"refusal": content}),
    st.builds(
        lambda index, call_id, name, arguments: {
            "tool_calls": [
                {"index": index, "id": call_id, "function": {"name": name, "arguments": arguments}}
            ]
        },
        st.integers(0, 2),
        st.sampled_from(["", "a", "b", None]),
        st.sampled_from(["", "add", "sub", None]),
        contents,
    ),
    contents.map(lambda content: {"x": content}),
    st.builds(
        lambda index, content: {"reasoning_details": [{"index": index, "text": content}]},
        st.integers(0, 1),
        contents,
    ),
)
chunks_of_a_stream = st.builds(
    chunk,
    deltas_of_a_stream,
    finish_reason=st.sampled_from([None] * 6 + ["stop"]),
    index=st.sampled_from([0, 0, 0, 1]),
)
counts = st.fixed_dictionaries({"prompt_tokens": st.integers(-1, 2)})
counted_chunks = st.builds(
    lambda place, usage, content: event(
        {
            "choices": [
                {"delta": {"content": content}, **({"usage": usage} if place == "choice" else {})}
            ],
            **({"usage": usage} if place == "usage" else {}),
            **({"x_groq": {"usage": usage}} if place == "x_groq" else {}),
        }
    ),
    st.sampled_from(["choice", "usage", "x_groq"]),
    counts,
    contents,
)
noise = st.sampled_from(
    [
        b": ping\n\n",
        b"\n",
        b"event: ping\ndata: {}\n\n",
        b"id: 1\nretry: 5\n\n",
        b'id: 1\ndata: {"choices": []}\n\n',
        b"id: 2\ndata: [DONE]\n\n",
        b"id: 3\n: ping\n\n",
        b"data: null\n\n",
        b'data: {"choices": [\ndata: ]}\n\n',
        b'data:{"choices":[]}\n\n',
        b'data: {"error": "gone"}\n\n',
        DONE,
    ]
)
line_ends = st.sampled_from([b"\n", b"\n", b"\r\n", b"\r"])
streams = st.builds(
    lambda events, line_end: b"".join(events).replace(b"\n", line_end),
    st.lists(chunks_of_a_stream | chunks_of_a_stream | counted_chunks | noise, max_size=12),
    line_ends,
)


@given(streams, places)
def test_made_stream_means_the_same_however_it_is_cut(body: bytes, places: list[int]) -> None:
    seen = assert_every_cut_agrees(body, places)

    if seen.message is not None:
        assert seen.text == (seen.message.content or "")
        assert seen.reasoning == (seen.message.reasoning or "")
        assert list(seen.arguments.values()) == [c.arguments for c in seen.message.tool_calls]


_COUNTS = st.fixed_dictionaries(
    {"prompt_tokens": st.integers(0, 3), "completion_tokens": st.integers(0, 3)},
    optional={
        "total_tokens": st.integers(0, 6),
        "prompt_tokens_details": st.sampled_from(
            [None, {}, {"cached_tokens": 1, "audio_tokens": 0}]
        ),
        "completion_tokens_details": st.just({"reasoning_tokens": 2}),
        "input_tokens": st.just(4),
    },
)
_END_CHUNKS = st.builds(
    lambda choices, fields: event({"choices": choices, **fields}),
    st.lists(
        st.fixed_dictionaries(
            {"delta": deltas_of_a_stream | st.just({"role": "assistant", "content": ""})},
            optional={
                "index": st.sampled_from([0, 0, 1]),
                "finish_reason": st.sampled_from([None, "", "stop", "length", "error"]),
                "usage": _COUNTS,
            },
        ),
        max_size=2,
    ),
    st.fixed_dictionaries(
        {},
        optional={
            "id": st.sampled_from(["", "chat-1", "chat-2", None]),
            "model": st.sampled_from(["", "demo", None]),
            "object": st.sampled_from(["chat.completion.chunk", "error"]),
            "created": st.sampled_from([1, 1.5]),
            "usage": _COUNTS | st.none(),
            "error": st.sampled_from([None, {}, "gone"]),
            "session_id": st.just("s1"),
            "detail": st.just("x"),
        },
    ),
)


@given(st.lists(_END_CHUNKS | chunks_of_a_stream, max_size=6))
def test_each_lane_reads_chunks_as_the_tolerant_reader_does(events: list[bytes]) -> None:
    plain = [*events, DONE]
    # The name of the event is the default, and leads past the lanes of single data lines.
    named = [each.replace(b"data: ", b"event: message\ndata: ", 1) for each in plain]

    assert outcome(plain) == outcome(named)


# - Chunks that differ only in their text

_COMMON_TEXTS = st.text(max_size=8) | st.sampled_from(['"', "\\", "\n", "?", "note", "content", ""])
# What servers, and broken ones, send around a text; %b is its JSON string.
_FRAMES = st.sampled_from(
    [
        b'{"id": "a", "choices": [{"delta": {"content": %b}, "finish_reason": null}]}',
        b'{"choices":[{"index":0,"delta":{"content":%b}}],"created":1}',
        b'{"choices":[{"index":0,"delta":{"content":%b}}],"created":2}',
        b'{"content":%b,"choices":[{"delta":{"content":"note"}}]}',
        b'{"content":"note","choices":[{"delta":{"role":"assistant","content":%b}}]}',
        b'{"choices":[{"delta":{"content":"?","content":%b}}]}',
        b'{"choices":[{"delta":{"content":%b,"content":"?"}}]}',
        b'{"choices":[{"delta":{"content":%b\n}}]}',
        b'{"choices":[{"delta":{"content":%b}},{"delta":{"content":"note"}}]}',
        b'{"choices":[{"delta":{"content":%b,"reasoning_content":"note"}}]}',
        b'{"choices":[{"delta":{"content":[%b]}}]}',
        b'{"choices":[{"delta":{"content":%b"}}]}',
    ]
)


@given(st.lists(st.tuples(_FRAMES, _COMMON_TEXTS, st.booleans()), max_size=12), line_ends, places)
def test_text_is_the_same_whatever_stands_around_it(
    chunks: list[tuple[bytes, str, bool]], line_end: bytes, places: list[int]
) -> None:
    events = [
        b"data: "
        + frame.replace(b"%b", json.dumps(content, ensure_ascii=is_ascii).encode())
        + b"\n\n"
        for frame, content, is_ascii in chunks
    ]

    assert_every_cut_agrees(b"".join([HEAD, *events]).replace(b"\n", line_end), places)


def test_known_frame_does_not_hide_the_end_of_a_text() -> None:
    stream, deltas = read(
        [text("one"), text("two"), text('thr"ee'), text(""), text("\u00e9\n"), DONE]
    )

    assert deltas == [
        TextDelta("one"),
        TextDelta("two"),
        TextDelta('thr"ee'),
        TextDelta("\u00e9\n"),
    ]
    assert stream.finish().content == 'onetwothr"ee\u00e9\n'


def test_text_is_never_the_one_of_another_field() -> None:
    events = [
        event({"content": other, "choices": [{"delta": {"content": "note"}}]})
        for other in ("note", "secret", "note")
    ]

    _, deltas = read([HEAD, *events, DONE])

    assert deltas == [TextDelta("note")] * 3


def test_frame_that_changes_with_each_chunk_changes_no_text() -> None:
    events = [event({"choices": [{"delta": {"content": "x"}}], "created": n}) for n in range(9)]

    stream, deltas = read([HEAD, *events, DONE])

    assert deltas == [TextDelta("x")] * 9
    assert stream.finish().content == "x" * 9


@given(st.lists(chunks_of_a_stream, max_size=8), line_ends, places)
def test_ids_of_events_change_nothing(
    chunks: list[bytes], line_end: bytes, places: list[int]
) -> None:
    chunks = [*chunks, DONE]
    numbered = b"".join(b"id: %d\n%b" % (number, each) for number, each in enumerate(chunks))
    seen = assert_every_cut_agrees(numbered.replace(b"\n", line_end), places)

    assert seen.message == outcome(whole(b"".join(chunks))).message


BODIES = [path.read_bytes() for path in sorted(QUIRKS.glob("*/body.sse"))]
INSERTED = [
    *(b"\n", b"\r", b"\r\n", b"\n\n", b"\xff", b"\xef\xbb\xbf", b":", b"data: ", b"event: error"),
    *(b"{", b"}", b'"', b"[", b"null", b"-1", b"1e999", b"\\ud83d", b"\\", DONE, b"[" * 200),
    *(b'"error":"x",', b'"content":"\\ud83d",', b'"content":"\\ude00",'),
]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A body of a quirk with bytes or events flipped, dropped, swapped, repeated, put in."""
    body = draw(st.sampled_from(BODIES))
    for _ in range(draw(st.integers(1, 4))):
        body = draw(damages(body))
    return body


def damages(body: bytes) -> st.SearchStrategy[bytes]:
    place = st.integers(0, len(body))
    size = st.sampled_from([0, 1, 1, 2, 5, 40])
    cut = st.tuples(place, size)
    byte = st.binary(min_size=1, max_size=1)
    events = body.split(b"\n\n")
    return st.one_of(
        st.builds(lambda at, put: body[: at[0]] + put + body[sum(at) :], cut, byte),
        st.builds(lambda at: body[: at[0]] + body[sum(at) :], cut),
        st.builds(lambda at: body[: sum(at)] + body[at[0] :], cut),
        st.builds(
            lambda at, put: body[: at[0]] + put + body[sum(at) :], cut, st.sampled_from(INSERTED)
        ),
        st.permutations(events).map(b"\n\n".join),
        st.sampled_from(events).map(lambda event: b"\n\n".join([*events, event])),
        line_ends.map(lambda line_end: body.replace(b"\n", line_end)),
    )


@given(damaged(), places)
def test_damaged_stream_is_a_message_or_our_error_in_any_cut(
    body: bytes, places: list[int]
) -> None:
    seen = assert_every_cut_agrees(body, places)

    if seen.message is not None:
        assert seen.text == (seen.message.content or "")
        assert AssistantMessage.model_validate(seen.message.model_dump()) == seen.message


@given(streams)
def test_stream_that_ended_early_is_never_complete(body: bytes) -> None:
    unfinished = body.split(b"[DONE]")[0]
    if b'"stop"' in unfinished:
        unfinished = unfinished.split(b'"stop"')[0]

    stream, _ = read([unfinished])

    assert not stream.is_complete
    with pytest.raises(TransportError):
        stream.finish()


def small(delta: object) -> bytes:
    """An event with the least around its delta."""
    text = json.dumps({"choices": [{"delta": delta}]}, separators=(",", ":"))
    return b"data: " + text.encode() + b"\n\n"


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        pytest.param(HEAD, small({"content": "ab"}) * 20, id="tiny pieces"),
        pytest.param(HEAD, small({"content": "x" * 4_000}), id="long pieces"),
        pytest.param(
            HEAD,
            small({"tool_calls": [{"index": 0, "function": {"arguments": "ab"}}]}) * 20,
            id="tiny arguments",
        ),
        pytest.param(
            HEAD,
            small({"reasoning_details": [{"index": 0, "text": "ab"}]}) * 20,
            id="tiny pieces of an entry",
        ),
        pytest.param(HEAD, small({"x": [{"a": "b"}, {"a": "b"}]}) * 20, id="tiny items"),
        pytest.param(HEAD, small({"x": "ab"}) * 20, id="tiny pieces of a field"),
        pytest.param(HEAD, b"x" * 1_024, id="endless line"),
        pytest.param(HEAD, b"data: x\n" * 100, id="endless event"),
        pytest.param(HEAD, b": " + b"x" * 1_000, id="endless comment"),
        pytest.param(b"{", b" " * 1_024, id="endless body"),
    ],
)
def test_memory_stays_under_twice_the_bound(head: bytes, piece: bytes) -> None:
    bound = 256 * 1024
    stream = ResponseStream(
        max_event_bytes=bound, max_message_bytes=bound, max_arguments_bytes=bound
    )
    stream.feed(head)
    tracemalloc.start()

    while not stream.ended:
        stream.feed(piece)
        assert stream.received < 20 * bound

    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * bound + 4096
    with pytest.raises(MalformedResponse, match=rf"{bound} bytes"):
        stream.finish()
