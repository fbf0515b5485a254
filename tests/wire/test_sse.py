"""Bytes to events by the letter of the standard, however they are cut."""

import gc
import re
import tracemalloc
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counting import check_linear
from pathors_agent.errors import MalformedResponse
from pathors_agent.wire.sse import (
    LineEnds,
    ServerSentEvent,
    SSEParser,
    encode_comment,
    encode_event,
)


def parsed(pieces: Iterable[bytes], parser: SSEParser | None = None) -> list[ServerSentEvent]:
    parser = parser or SSEParser()
    return [event for piece in pieces for event in parser.feed(piece)]


def one_by_one(body: bytes) -> list[bytes]:
    return [body[i : i + 1] for i in range(len(body))]


def message(data: str, id: str = "") -> ServerSentEvent:  # noqa: A002  (the field's name)
    return ServerSentEvent("message", data, id)


CASES: dict[str, tuple[bytes, list[ServerSentEvent]]] = {
    "nothing": (b"", []),
    "one event": (b"data: hi\n\n", [message("hi")]),
    "no space": (b"data:hi\n\n", [message("hi")]),
    "one space is dropped, not two": (b"data:  hi \n\n", [message(" hi ")]),
    "a tab is no space": (b"data:\thi\n\n", [message("\thi")]),
    "two lines": (b"data: a\ndata: b\n\n", [message("a\nb")]),
    "empty data": (b"data:\n\n", [message("")]),
    "data without a colon": (b"data\n\n", [message("")]),
    "two empty lines of data": (b"data\ndata\n\n", [message("\n")]),
    "carriage returns": (b"data: a\rdata: b\r\r", [message("a\nb")]),
    "both line ends": (b"data: a\r\ndata: b\r\n\r\n", [message("a\nb")]),
    "mixed line ends": (b"data: a\ndata: b\r\ndata: c\r\n\r", [message("a\nb\nc")]),
    "LF CR is two ends": (b"data: a\n\rdata: b\n\n", [message("a"), message("b")]),
    "other line ends of Unicode are text": (
        "data: a\u2028b\u2029c\x0bd\x0ce\x85f\n\n".encode(),
        [message("a\u2028b\u2029c\x0bd\x0ce\x85f")],
    ),
    "comments": (b": ping\n:\n\n:data: no\ndata: yes\n:\n\n", [message("yes")]),
    "many blank lines": (b"\n\n\ndata: a\n\n\n\n", [message("a")]),
    "event name": (b"event: delta\ndata: x\n\n", [ServerSentEvent("delta", "x")]),
    "the last event name counts": (b"event: a\nevent: b\ndata: x\n\n", [ServerSentEvent("b", "x")]),
    "empty event name": (b"event:\ndata: x\n\n", [message("x")]),
    "event name holds for one event": (
        b"event: a\ndata: x\n\ndata: y\n\n",
        [ServerSentEvent("a", "x"), message("y")],
    ),
    "event name without data is forgotten": (b"event: a\n\ndata: y\n\n", [message("y")]),
    "id": (b"id: 7\ndata: x\n\n", [message("x", id="7")]),
    "id stays": (b"id: 7\n\ndata: x\n\ndata: y\n\n", [message("x", "7"), message("y", "7")]),
    "empty id resets": (b"id: 7\nid\ndata: x\n\n", [message("x")]),
    "id with NUL is ignored": (b"id: 7\nid: a\0b\ndata: x\n\n", [message("x", "7")]),
    "NUL in data is kept": (b"data: a\0b\n\n", [message("a\0b")]),
    "unknown fields": (b"foo: 1\nfoo\ndata : no\n data: no\nDATA: no\ndata: x\n\n", [message("x")]),
    "colon in data": (b'data: {"a": "b: c"}\n\n', [message('{"a": "b: c"}')]),
    "byte order mark": (b"\xef\xbb\xbfdata: x\n\n", [message("x")]),
    "one mark only": (b"\xef\xbb\xbf\xef\xbb\xbfdata: x\n\n", []),
    "mark inside": ("data: a\ufeffb\n\n".encode(), [message("a\ufeffb")]),
    "mark before a later line": (b"data: x\n\xef\xbb\xbfdata: y\n\n", [message("x")]),
    "half a mark is part of the field": (b"\xef\xbbdata: x\n\n", []),
    "bytes that are no UTF-8": (b"data: a\xff\xf0\x9f\n\n", [message("a\ufffd\ufffd")]),
    "astral text": ("data: 🎈\n\n".encode(), [message("🎈")]),
    "cut off in the data": (b"data: x\n\ndata: y", [message("x")]),
    "cut off before the blank line": (b"data: x\n\ndata: y\n", [message("x")]),
    "cut off in the blank line": (b"data: x\r\n\r", [message("x")]),
}


@pytest.mark.parametrize(("body", "events"), CASES.values(), ids=CASES)
def test_body_is_read_as_these_events_whole_and_byte_by_byte(
    body: bytes, events: list[ServerSentEvent]
) -> None:
    assert parsed([body]) == events
    assert parsed(one_by_one(body)) == events
    assert parsed([b"", *one_by_one(body), b"", b""]) == events
    for cut in range(1, len(body)):
        assert parsed([body[:cut], body[cut:]]) == events


def test_event_is_returned_with_the_byte_that_completes_it() -> None:
    parser = SSEParser()

    assert parser.feed(b"data: x\n") == []
    assert parser.feed(b"\n") == [message("x")]
    assert parser.feed(b"data: y\r\n") == []
    assert parser.feed(b"\r") == [message("y")]
    assert parser.feed(b"\n") == []


@pytest.mark.parametrize(
    ("body", "retry"),
    [
        (b"", None),
        (b"retry: 3000\n", 3000),
        (b"retry:0\n", 0),
        (b"retry: 10\nretry: 20\n", 20),
        (b"retry: 10\nretry: x\nretry:\nretry\nretry: -1\nretry: 1.5\nretry: 1 \n", 10),
        ("retry: 10\nretry: ٣\nretry: ²\n".encode(), 10),
        (b"retry: " + b"9" * 10_000 + b"\n", 99_999_999_999_999),
        (b"retry: 3000", None),
    ],
)
def test_retry_is_digits_only(body: bytes, retry: int | None) -> None:
    parser = SSEParser()

    parsed(one_by_one(body), parser)

    assert parser.retry == retry


@pytest.mark.parametrize(
    ("body", "pending"),
    [
        (b"", None),
        (b"data: x\n\n", None),
        (b"data: x\n", message("x")),
        (b"data: x", message("x")),
        (b"data: x\r", message("x")),
        (b"data: x\ndata: y", message("x\ny")),
        (b"event: a\nid: 1\ndata: x", ServerSentEvent("a", "x", "1")),
        (b"event: a\n", None),
        (b"event: a", None),
        (b": comment", None),
        (b"dat", None),
        (b"data", message("")),
        (b"data: \xf0\x9f", message("\ufffd")),
        (b"\xef\xbb", None),
        (b"data: x\n\ndata: y", message("y")),
    ],
)
def test_pending_is_the_event_that_the_end_cut_off(
    body: bytes, pending: ServerSentEvent | None
) -> None:
    for pieces in ([body], one_by_one(body)):
        parser = SSEParser()
        parsed(pieces, parser)

        assert parser.pending() == pending
        assert parser.pending() is None


def by_the_letter(body: bytes) -> list[ServerSentEvent]:
    """Read a whole body the way the standard is worded; slow, the oracle."""
    text = body.decode(errors="replace").removeprefix("\ufeff")
    lines = re.split("\r\n|\n|\r", text)[:-1]
    events, data, kind, last_id = [], "", "", ""
    for line in lines:
        field, colon, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                events.append(ServerSentEvent(kind or "message", data.removesuffix("\n"), last_id))
            data = kind = ""
        elif colon and not field:
            continue
        elif field == "data":
            data += value + "\n"
        elif field == "event":
            kind = value
        elif field == "id" and "\0" not in value:
            last_id = value
    return events


INTERESTING = [
    *(b"\n", b"\r", b"\r\n", b"\n\n", b"\r\n\r\n", b"\n\r", b":", b" ", b"\0"),
    *(b"data", b"data:", b"data: ", b"event: ", b"event", b"id: ", b"id", b"retry: 1"),
    *(
        b"\xef\xbb\xbf",
        b"\xef",
        b"\xbb",
        b"\xbf",
        b"\xff",
        b"\xf0\x9f\x8e",
        b"\x88",
        b"\xe2\x80\xa8",
    ),
    *(b"x", b"[DONE]", b'{"a": 1}', "ü".encode(), "🎈".encode(), b"data: x\n\n", b": ping\n\n"),
]
bodies = st.lists(st.sampled_from(INTERESTING) | st.binary(max_size=3), max_size=25).map(b"".join)


def cut_at(body: bytes, places: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(body) + 1) for place in places), len(body)]
    return [body[a:b] for a, b in pairwise(edges)]


@given(bodies)
def test_events_are_those_of_the_standard(body: bytes) -> None:
    assert parsed([body]) == by_the_letter(body)


@given(bodies, st.lists(st.integers(0, 200), max_size=12))
def test_any_cut_yields_the_same_events(body: bytes, places: list[int]) -> None:
    pieces = cut_at(body, places)
    assert b"".join(pieces) == body
    whole, cut, single = SSEParser(), SSEParser(), SSEParser()

    events = parsed([body], whole)

    assert parsed(pieces, cut) == events
    assert parsed(one_by_one(body), single) == events
    assert whole.retry == cut.retry == single.retry
    assert whole.offset == cut.offset == single.offset == len(body)
    assert whole.pending() == cut.pending() == single.pending()


@given(bodies, st.lists(st.integers(0, 200), max_size=12))
def test_line_ends_are_the_same_for_any_cut(body: bytes, places: list[int]) -> None:
    line_ends = LineEnds()

    normalised = b"".join(line_ends.normalise(piece) for piece in cut_at(body, places))

    assert normalised == re.sub(b"\r\n|\r", b"\n", body)
    assert line_ends.pending == body.endswith(b"\r")


# - writing -


@pytest.mark.parametrize(
    ("data", "event", "written"),
    [
        ("hi", None, b"data: hi\n\n"),
        (b"hi", None, b"data: hi\n\n"),
        ("", None, b"data: \n\n"),
        ("a\nb\r\nc\rd", None, b"data: a\ndata: b\ndata: c\ndata: d\n\n"),
        ("a\n", None, b"data: a\ndata: \n\n"),
        (" x", "delta", b"event: delta\ndata:  x\n\n"),
        ("ü🎈", None, "data: ü🎈\n\n".encode()),
    ],
)
def test_event_is_written_as(data: str | bytes, event: str | None, written: bytes) -> None:
    assert encode_event(data, event=event) == written


@pytest.mark.parametrize(
    ("text", "written"),
    [("ping", b": ping\n\n"), ("", b": \n\n"), ("a\nb", b": a\n: b\n\n"), ("\r", b": \n: \n\n")],
)
def test_comment_is_written_as(text: str, written: bytes) -> None:
    assert encode_comment(text) == written


names = st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), min_size=1)


@given(st.text(), names)
def test_dumped_value_is_read_back(data: str, name: str | None) -> None:
    written = encode_event(data, event=name)

    kept = re.sub("\r\n|\r", "\n", data)
    assert parsed(one_by_one(written)) == [ServerSentEvent(name or "message", kept)]
    assert encode_event(data.encode(), event=name) == written


@given(st.text())
def test_comments_are_never_read_as_events(text: str) -> None:
    assert parsed([b"data: x\n\n" + encode_comment(text) + b"data: y\n\n"]) == [
        message("x"),
        message("y"),
    ]


# - bounds -


@pytest.mark.parametrize("bad", ["a\nb", "a\ndata: forged", "\r", "a\r\n\r\n"])
def test_event_name_with_a_line_end_is_rejected(bad: str) -> None:
    with pytest.raises(ValueError, match="line end"):
        encode_event("x", event=bad)


def ways_to_feed(body: bytes) -> list[list[bytes]]:
    halves = [body[: len(body) // 2], body[len(body) // 2 :]]
    threes = [body[i : i + 3] for i in range(0, len(body), 3)]
    return [[body], halves, threes, one_by_one(body)]


# An event may have 20 bytes: the lines of its data, and the line ends between them.
FITTING = {
    "one line": b"data: 12345678901234\n\n",
    "several lines": b"data: 12\ndata: 45678\n\n",
    "in UTF-8": "data: ÄÖÜäöüß\n\n".encode(),
    "many events": b"data: 12345678901234\n\n" * 50,
    "carriage returns": b"data: 12345678901234\r\n\r\n" * 2,
    "many comments": b": 345678901234567890\n" * 50 + b"data: x\n\n",
    "comments between events": b"data: 12345678901234\n\n: 345678901234567890\n\n" * 3,
    "many other fields": b"event: 8901234567890\nid: 5\n" * 50 + b"data: x\n\n",
}
TOO_LONG = {
    "one line": b"data: 123456789012345\n\n",
    "a line without an end": b"data: 123456789012345",
    "no field at all": b"x" * 21,
    "a comment": b": 3456789012345678901\n",
    "an event name": b"event: 89012345678901\n",
    "two lines": b"data: 12\ndata: 456789\n\n",
    "many lines": b"data: x\n" * 3,
    "many empty lines": b"data\n" * 5,
    "in UTF-8": "data: ÄÖÜäöüß.\n\n".encode(),
    "in wide UTF-8": "data: €€€€€\n\n".encode(),
    "after a good event": b"data: x\n\n" + b"data: 123456789012345\n\n",
}


@pytest.mark.parametrize("body", FITTING.values(), ids=FITTING)
def test_event_within_the_bound_is_read_however_it_is_cut(body: bytes) -> None:
    for pieces in ways_to_feed(body):
        assert parsed(pieces, SSEParser(max_event_bytes=20)) == by_the_letter(body)


@pytest.mark.parametrize("body", TOO_LONG.values(), ids=TOO_LONG)
def test_event_beyond_the_bound_is_rejected_however_it_is_cut(body: bytes) -> None:
    for pieces in ways_to_feed(body):
        parser = SSEParser(max_event_bytes=20)
        with pytest.raises(MalformedResponse, match="longer than 20 bytes") as caught:
            parsed(pieces, parser)

        assert caught.value.offset == parser.offset
        assert 20 < caught.value.offset <= len(body)
        assert not caught.value.retryable


def test_error_names_the_byte_where_the_bound_was_passed() -> None:
    parser = SSEParser(max_event_bytes=20)

    with pytest.raises(MalformedResponse) as caught:
        parsed(one_by_one(b"data: x\n\n" + b"data: " + b"y" * 1_000), parser)

    assert caught.value.offset == 9 + 21
    assert str(caught.value) == (
        "an event is longer than 20 bytes (max_event_bytes), at byte 30 of the body"
    )


def test_endless_line_is_rejected_at_the_default_bound() -> None:
    parser = SSEParser()
    piece = b"x" * (1024 * 1024)

    for _ in range(8):
        parser.feed(piece)
    with pytest.raises(MalformedResponse):
        parser.feed(b"x")


@given(bodies, st.lists(st.integers(0, 200), max_size=12), st.integers(1, 30))
def test_bound_is_passed_by_every_cut_or_by_none(
    body: bytes, places: list[int], bound: int
) -> None:
    def passes(pieces: list[bytes]) -> bool:
        try:
            parsed(pieces, SSEParser(max_event_bytes=bound))
        except MalformedResponse:
            return False
        return True

    assert passes([body]) == passes(cut_at(body, places)) == passes(one_by_one(body))


# - growth -

SIZE = 20_000


def one_long_line(size: int) -> list[bytes]:
    return one_by_one(b"data: " + b"x" * size + b"\n\n")


def many_data_lines(size: int) -> list[bytes]:
    return one_by_one(b"data: xyz\n" * (size // 10) + b"\n")


def many_carriage_returns(size: int) -> list[bytes]:
    return one_by_one(b"data: xyz\r\r\n" * (size // 12))


def one_piece_of_many_lines(size: int) -> list[bytes]:
    return [b"data: xyz\n" * size + b"\n"]


def one_piece_of_many_events(size: int) -> list[bytes]:
    return [b"data: xyz\n\n" * size]


SHAPES = [
    one_long_line,
    many_data_lines,
    many_carriage_returns,
    one_piece_of_many_lines,
    one_piece_of_many_events,
]


def peak_bytes(pieces: list[bytes]) -> int:
    gc.collect()
    tracemalloc.start()
    try:
        parsed(pieces)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("shape", SHAPES)
def test_work_is_linear_in_the_bytes(shape: Callable[[int], list[bytes]]) -> None:
    def reading(size: int) -> Callable[[], object]:
        pieces = shape(size)
        return lambda: parsed(pieces)

    check_linear(reading, SIZE // 50)


@pytest.mark.parametrize("shape", [one_long_line, many_data_lines])
def test_memory_grows_with_the_bytes(shape: Callable[[int], list[bytes]]) -> None:
    small, large = peak_bytes(shape(SIZE)), peak_bytes(shape(2 * SIZE))

    assert large < 3 * small
    assert small < 10 * SIZE
