"""Bytes of an answer become deltas and one message, however they are cut or damaged."""

import json
import re
import tracemalloc
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathors_agent.errors import (
    IncompleteResponse,
    MalformedResponse,
    ProviderError,
    TransportError,
)
from pathors_agent.json_text import whole_characters
from pathors_agent.messages import AssistantMessage, ToolCall, Usage
from pathors_agent.wire.deltas import (
    MAX_NAME_CHARACTERS,
    Delta,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
)
from pathors_agent.wire.message_builder import MAX_CALLS, MAX_CHOICES
from pathors_agent.wire.response_stream import ResponseStream

QUIRKS = Path(__file__).parent.parent / "conformance" / "quirks"

CANARY = "hunter2-canary"
DONE = b"data: [DONE]\n\n"


def event(value: object) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


def chunk(
    delta: Mapping[str, object], *, finish_reason: str | None = None, index: int = 0
) -> bytes:
    choice = {"index": index, "delta": delta, "finish_reason": finish_reason}
    return event({"id": "chat-1", "model": "demo", "choices": [choice]})


def text(content: str) -> bytes:
    return chunk({"content": content})


def call(index: int, arguments: str, *, id: str = "", name: str = "") -> bytes:  # noqa: A002
    function = {"name": name, "arguments": arguments}
    piece = {"index": index, "id": id, "type": "function", "function": function}
    return chunk({"tool_calls": [piece]})


def end(finish_reason: str = "stop") -> bytes:
    return chunk({}, finish_reason=finish_reason) + DONE


OPENING = chunk({"role": "assistant", "content": ""})
# The first three events are read for the answer's id; the fast lanes begin after them.
HEAD = OPENING * 3


def whole(body: bytes) -> list[bytes]:
    return [body]


def bytewise(body: bytes) -> list[bytes]:
    return [body[i : i + 1] for i in range(len(body))]


def by_events(body: bytes) -> list[bytes]:
    return re.findall(rb".*?\n\n|.+", body, re.DOTALL)


CUTS = pytest.mark.parametrize("cut", [whole, bytewise, by_events])
Cut = Callable[[bytes], list[bytes]]


def read(pieces: Iterable[bytes]) -> tuple[ResponseStream, list[Delta]]:
    """Feed every piece; give the stream, closed, and all its deltas."""
    stream = ResponseStream()
    return stream, feed(stream, pieces)


def feed(stream: ResponseStream, pieces: Iterable[bytes]) -> list[Delta]:
    deltas: list[Delta] = []
    for piece in pieces:
        deltas += stream.feed(piece)
    return deltas + stream.close()


def message_of(body: bytes, cut: Cut = whole) -> AssistantMessage:
    return read(cut(body))[0].finish()


# - What comes when


def test_deltas_come_with_the_bytes_that_complete_them() -> None:
    stream = ResponseStream()
    first, second = text("Hel"), text("lo")

    assert stream.feed(OPENING) == []
    assert stream.feed(first[:-1]) == []
    assert stream.feed(first[-1:] + second[:9]) == [TextDelta("Hel")]
    assert stream.partial.content == "Hel"
    assert stream.feed(second[9:]) == [TextDelta("lo")]
    assert not stream.is_complete
    assert stream.feed(end()) == []
    assert stream.is_complete
    assert stream.ended
    assert stream.finish() == AssistantMessage(
        content="Hello", finish_reason="stop", model="demo", id="chat-1"
    )


def test_piece_of_a_call_says_which_call_it_belongs_to() -> None:
    stream = ResponseStream()
    feed_all = [
        call(0, "", id="call_a", name="add"),
        call(1, '{"b":', id="call_b", name="sub"),
        call(0, '{"a": [1'),
        call(0, ", 2]}"),
        call(1, " 3}"),
    ]

    deltas: list[ToolCallDelta] = []
    partials = []
    for data in feed_all:
        for delta in stream.feed(data):
            assert isinstance(delta, ToolCallDelta)
            deltas.append(delta)
            partials.append(json.dumps(delta.partial))

    assert [(d.index, d.id, d.name, d.arguments) for d in deltas] == [
        (0, "call_a", "add", ""),
        (1, "call_b", "sub", '{"b":'),
        (0, "call_a", "add", '{"a": [1'),
        (0, "call_a", "add", ", 2]}"),
        (1, "call_b", "sub", " 3}"),
    ]
    assert partials == ["null", "{}", '{"a": []}', '{"a": [1, 2]}', '{"b": 3}']


@CUTS
def test_all_that_an_answer_holds_is_in_its_message(cut: Cut) -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    body = b"".join(
        [
            OPENING,
            chunk({"reasoning_content": "Let me "}),
            chunk({"reasoning_content": "think."}),
            text("One "),
            text("moment."),
            call(0, '{"a":', id="call_a", name="add"),
            call(0, "1}"),
            call(1, "", id="call_b", name="now"),
            chunk({"reasoning_details": [{"signature": "x"}]}),
            chunk({}, finish_reason="tool_calls"),
            event({"id": "chat-1", "choices": [], "usage": usage}),
            DONE,
        ]
    )

    stream, deltas = read(cut(body))

    assert stream.finish() == AssistantMessage(
        content="One moment.",
        tool_calls=(
            ToolCall(id="call_a", name="add", arguments='{"a":1}'),
            ToolCall(id="call_b", name="now", arguments=""),
        ),
        reasoning="Let me think.",
        finish_reason="tool_calls",
        usage=Usage(prompt_tokens=7, completion_tokens=3, total_tokens=10),
        model="demo",
        id="chat-1",
        extra={"reasoning_details": [{"signature": "x"}]},
    )
    assert [type(delta).__name__ for delta in deltas] == [
        *["ReasoningDelta"] * 2,
        *["TextDelta"] * 2,
        *["ToolCallDelta"] * 3,
    ]
    assert stream.quirks == []


@CUTS
@pytest.mark.parametrize("head", [b"", HEAD])
def test_index_used_again_opens_a_call_only_after_whole_arguments(cut: Cut, head: bytes) -> None:
    changing_id = call(0, '{"a":', id="a", name="add") + call(0, " 1}", id="b", name="add")
    shared_index = call(0, '{"a": 1}', id="a", name="add") + call(0, "{}", id="b", name="add")

    [one] = message_of(head + changing_id + end(), cut).tool_calls
    two = message_of(head + shared_index + end(), cut).tool_calls

    assert (one.id, one.name, one.arguments) == ("a", "add", '{"a": 1}')
    assert [(c.id, c.arguments) for c in two] == [("a", '{"a": 1}'), ("b", "{}")]


NOTHING, OBJECT = "", '{"a": 1}'


@CUTS
@pytest.mark.parametrize("head", [b"", HEAD])
@pytest.mark.parametrize(
    ("pieces", "calls"),
    [
        pytest.param(
            [("a", "now", NOTHING), ("b", "add", OBJECT)],
            [("a", "now", NOTHING), ("b", "add", OBJECT)],
            id="first without arguments",
        ),
        pytest.param(
            [("a", "now", NOTHING), ("b", "now", NOTHING)],
            [("a", "now", NOTHING), ("b", "now", NOTHING)],
            id="both without arguments",
        ),
        pytest.param(
            [("a", "now", " "), ("b", "now", "{"), ("b", "", "}")],
            [("a", "now", " "), ("b", "now", "{}")],
            id="first with blank arguments",
        ),
        pytest.param(
            [("a", "now", NOTHING), ("b", "add", NOTHING), ("a", "", "{}"), ("b", "", OBJECT)],
            [("a", "now", "{}"), ("b", "add", OBJECT)],
            id="arguments come later, by id",
        ),
        pytest.param(
            [("", "now", NOTHING), ("", "add", OBJECT)],
            [("t0000c000", "now", NOTHING), ("t0000c001", "add", OBJECT)],
            id="without ids",
        ),
        pytest.param(
            [("", "add", OBJECT), ("", "add", '{"a": 2}')],
            [("t0000c000", "add", OBJECT), ("t0000c001", "add", '{"a": 2}')],
            id="whole calls without ids",
        ),
        pytest.param(
            [("a", "add", NOTHING), ("b", "", '{"a":'), ("c", "", " 1}")],
            [("a", "add", OBJECT)],
            id="one call whose id changes",
        ),
        pytest.param(
            [("a", "a", NOTHING), ("", "dd", NOTHING), ("", "", OBJECT)],
            [("a", "add", OBJECT)],
            id="one call whose name is split",
        ),
        pytest.param(
            [("a", "add", NOTHING), ("a", "add", OBJECT), ("a", "add", NOTHING)],
            [("a", "add", OBJECT)],
            id="one call whose head comes again",
        ),
        pytest.param(
            [("", "add", NOTHING), ("", "add", OBJECT), ("", "add", NOTHING)],
            [("t0000c000", "add", OBJECT)],
            id="one call without an id whose head comes again",
        ),
    ],
)
def test_calls_at_one_index_stay_apart(
    pieces: list[tuple[str, str, str]],
    calls: list[tuple[str, str, str]],
    head: bytes,
    cut: Cut,
) -> None:
    body = b"".join(call(0, arguments, id=i, name=name) for i, name, arguments in pieces)

    stream, _ = read(cut(head + body + end()))

    assert [(c.id, c.name, c.arguments) for c in stream.finish().tool_calls] == calls
    assert ("shared_index" in [quirk.kind for quirk in stream.quirks]) == (len(calls) > 1)


@CUTS
def test_second_choice_is_kept_apart_and_gives_no_deltas(cut: Cut) -> None:
    body = OPENING + text("mine") + chunk({"content": "other"}, index=1) * 4 + end()

    stream, deltas = read(cut(body))

    assert deltas == [TextDelta("mine")]
    assert stream.finish().content == "mine"
    assert stream.choices[1].content == "otherotherotherother"
    assert list(stream.choices) == [0, 1]


@CUTS
@pytest.mark.parametrize("odd", [b"", b": a comment \xcd\n\n", b"retry: 5\n\n", b"x: y\nz: 1\n\n"])
@pytest.mark.parametrize("place", [1, 2, 6])
def test_events_with_ids_are_read_alike_in_each_cut(cut: Cut, odd: bytes, place: int) -> None:
    chunks = [{"id": "answer", "choices": [{"index": 0, "delta": {"content": "a"}}]}] * 8
    events = [b"id: %d\n" % n + event(each) for n, each in enumerate(chunks)]
    events[place] = b"id: 9\n" + event({**chunks[0], "model": "late"})
    body = b"".join(events) + odd + DONE

    message = message_of(body, cut)

    # A usual chunk after the first three is not searched for names.
    assert (message.text, message.model) == ("a" * 8, "late" if place < 3 else None)


@CUTS
def test_what_follows_the_end_is_dropped(cut: Cut) -> None:
    body = HEAD + text("Hello") + end() + text(" world") + event({"error": {"message": "late"}})

    stream, deltas = read(cut(body))

    assert deltas == [TextDelta("Hello")]
    assert stream.finish().content == "Hello"
    assert stream.feed(text("again")) == []


def test_finish_tells_the_same_each_time() -> None:
    good, _ = read([OPENING + end()])
    broken, _ = read([OPENING])

    assert good.finish() == good.finish()
    for _ in range(2):
        with pytest.raises(IncompleteResponse):
            broken.finish()


def test_reprs_of_deltas_hold_no_content() -> None:
    body = HEAD + text(CANARY) + chunk({"reasoning": CANARY}) + call(0, CANARY, name="add") + end()

    _, deltas = read([body])

    assert len(deltas) == 3
    assert CANARY not in repr(deltas)


# - What goes wrong


@CUTS
def test_stream_without_an_end_is_incomplete_and_gives_what_came(cut: Cut) -> None:
    body = HEAD + text("Hel") + call(0, '{"a"', id="call_a", name="add")

    with pytest.raises(IncompleteResponse, match=f"after {len(body)} bytes") as broken:
        message_of(body, cut)

    assert broken.value.partial == AssistantMessage(
        content="Hel",
        tool_calls=(ToolCall(id="call_a", name="add", arguments='{"a"'),),
        model="demo",
        id="chat-1",
    )
    assert broken.value.retryable


@CUTS
@pytest.mark.parametrize("body", [b"", b"\n\n", b"\xef\xbb", b": ping\n\n", b"  \r\n"])
def test_body_that_says_nothing_is_an_error(cut: Cut, body: bytes) -> None:
    with pytest.raises(TransportError):
        message_of(body, cut)


@CUTS
def test_error_in_a_stream_comes_after_its_deltas(cut: Cut) -> None:
    error = {"message": "overloaded", "type": "server_error", "code": 503}
    body = HEAD + text("Hel") + text("lo") + event({"error": error}) + text("!") + end()

    stream, deltas = read(cut(body))

    assert deltas == [TextDelta("Hel"), TextDelta("lo")]
    with pytest.raises(ProviderError, match="overloaded") as failed:
        stream.finish()
    assert (failed.value.status, failed.value.code, failed.value.type) == (
        200,
        "503",
        "server_error",
    )
    assert failed.value.retryable
    assert failed.value.partial is not None
    assert failed.value.partial.content == "Hello"
    assert not stream.is_complete


@CUTS
def test_error_after_the_finish_reason_takes_the_message_back(cut: Cut) -> None:
    body = HEAD + text("Hello") + chunk({}, finish_reason="stop") + event({"error": "aborted"})

    with pytest.raises(ProviderError, match="aborted"):
        message_of(body, cut)


@CUTS
def test_chunk_that_is_no_json_is_malformed_and_says_where(cut: Cut) -> None:
    before = HEAD + text("Hello")
    broken = b'data: {"choices": [}\n\n'

    stream, deltas = read(cut(before + broken + text("!") + end()))

    assert deltas == [TextDelta("Hello")]
    with pytest.raises(MalformedResponse, match="an event is not JSON") as failed:
        stream.finish()
    assert failed.value.data == '{"choices": [}'
    assert failed.value.offset >= len(before)
    assert failed.value.partial is not None
    assert failed.value.partial.content == "Hello"
    assert not failed.value.retryable


@CUTS
@pytest.mark.parametrize("head", [b"", HEAD])
def test_bytes_that_are_no_utf8_become_replacement_characters(cut: Cut, head: bytes) -> None:
    body = head + text("a@b").replace(b"@", b"\xff") + end()

    stream, deltas = read(cut(body))

    assert deltas == [TextDelta("a\ufffdb")]
    assert stream.finish().content == "a\ufffdb"


def test_plain_completion_that_is_no_utf8_gets_replacement_characters() -> None:
    message = {"role": "assistant", "content": "a@b"}
    completion = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}

    body = json.dumps(completion).encode().replace(b"@", b"\xff")

    assert message_of(body).content == "a\ufffdb"


@CUTS
@pytest.mark.parametrize("head", [b"", HEAD])
@pytest.mark.parametrize("depth", [150, 5_000, 100_000])
def test_nesting_without_end_is_malformed(cut: Cut, head: bytes, depth: int) -> None:
    nested = b"[" * depth + b"]" * depth
    body = head + b'data: {"choices": [{"delta": {"x": ' + nested + b"}}]}\n\n" + end()

    with pytest.raises(MalformedResponse, match="nested"):
        message_of(body, cut)


@pytest.mark.parametrize("field", ["x", "content", "tool_calls", "role"])
@pytest.mark.parametrize("value", [r'"\ud83d"', "1e999", "-1e999", "NaN", "1" * 400, "[null]"])
def test_odd_value_gives_a_message_that_can_be_stored(field: str, value: str) -> None:
    odd = f'data: {{"choices": [{{"delta": {{"{field}": {value}}}}}]}}\n\n'.encode()

    message = message_of(HEAD + odd + end())

    assert AssistantMessage.model_validate_json(message.model_dump_json()) == message


@pytest.mark.parametrize("field", ["id", "model", "finish_reason"])
def test_half_a_character_in_a_name_does_not_reach_the_message(field: str) -> None:
    fields = {"id": "1", "model": "demo", "finish_reason": "stop", field: "\ud800"}
    choice = {"index": 0, "delta": {}, "finish_reason": fields["finish_reason"]}
    chunk = {"id": fields["id"], "model": fields["model"], "choices": [choice]}

    message = message_of(b"data: " + json.dumps(chunk).encode() + b"\n\n")

    assert getattr(message, field) == "\ufffd"


def test_given_ids_never_meet_the_ids_that_came() -> None:
    own = [message_of(HEAD + call(i, "{}", name="add") + end()) for i in range(2)]
    taken = own[0].tool_calls[0].id
    body = HEAD + call(0, "{}", name="add") + call(1, "{}", id=taken, name="add") + end()

    ids = [c.id for c in message_of(body).tool_calls]

    assert len(set(ids)) == 2
    assert all(re.fullmatch("[A-Za-z0-9]{9}", i) for i in ids)


@CUTS
@pytest.mark.parametrize("head", [OPENING, HEAD])
def test_finish_reason_of_error_is_an_error_wherever_in_the_stream(cut: Cut, head: bytes) -> None:
    body = head + call(0, "{}", id="a", name="add") + end("error")

    with pytest.raises(ProviderError, match="an error inside its answer"):
        message_of(body, cut)


@CUTS
@pytest.mark.parametrize("head", [b"", HEAD])
def test_empty_finish_reason_takes_none_back(cut: Cut, head: bytes) -> None:
    body = head + chunk({"content": "Hi"}, finish_reason="stop") + chunk({}, finish_reason="")

    assert message_of(body, cut).finish_reason == "stop"


@CUTS
@pytest.mark.parametrize("head", [b"", HEAD])
def test_half_a_character_at_the_end_becomes_one_that_can_be_sent(cut: Cut, head: bytes) -> None:
    half = b'data: {"choices":[{"index":0,"delta":{"content":"\\ud83d"}}]}\n\n'

    stream, deltas = read(cut(head + half + end()))

    assert stream.finish().content == "\ufffd"
    assert deltas == [TextDelta("\ufffd")]


@CUTS
def test_piece_without_index_goes_to_the_call_of_its_id(cut: Cut) -> None:
    def piece(call_id: str, name: str, arguments: str) -> bytes:
        function = {"name": name, "arguments": arguments}
        return chunk({"tool_calls": [{"id": call_id, "function": function}]})

    body = piece("a", "add", '{"a":') + piece("b", "now", "{") + piece("a", "", "1}")
    calls = message_of(body + piece("b", "", "}") + end(), cut).tool_calls

    assert [(c.id, c.name, c.arguments) for c in calls] == [
        ("a", "add", '{"a":1}'),
        ("b", "now", "{}"),
    ]


@pytest.mark.parametrize("head", [OPENING, HEAD * 2])
def test_index_below_zero_is_none_wherever_in_the_stream(head: bytes) -> None:
    body = head + call(-1, "{}", id="a", name="add") + call(-1, "{}", id="b", name="add") + end()

    assert [c.id for c in message_of(body).tool_calls] == ["a", "b"]


@pytest.mark.parametrize("head", [OPENING, HEAD * 2])
def test_bare_error_beside_empty_choices_is_an_error_wherever_in_the_stream(head: bytes) -> None:
    body = head + event({"choices": [], "message": "no room", "code": 400}) + end()

    with pytest.raises(ProviderError, match="no room"):
        message_of(body)


@CUTS
def test_page_of_a_proxy_is_quoted_however_it_is_cut(cut: Cut) -> None:
    with pytest.raises(ProviderError, match=r"no completion: upstream connect error: 111$"):
        message_of(b"upstream connect error: 111", cut)


@CUTS
@pytest.mark.parametrize("space", [b" ", b"\n", b"\r\n", b"\xef\xbb\xbf\n"])
def test_blank_start_of_any_length_means_nothing(cut: Cut, space: bytes) -> None:
    blank = space + b" " * 3_000 + b"\n"

    assert message_of(blank + text("Hello") + end(), cut).content == "Hello"


@pytest.mark.parametrize("blank", [b"\n\n\n", b"\r\n\n\n", b"\n\n\n\n\n"])
def test_more_blank_lines_change_nothing_wherever_they_are_cut(blank: bytes) -> None:
    # Whether a name that comes late is read depends on the way its event is read.
    nameless = event({"id": "chat-1", "choices": [{"index": 0, "delta": {"content": "a"}}]})
    named = text("b").replace(b"\n\n", blank)
    body = nameless * 4 + named + named + nameless + DONE

    for place in range(len(body)):
        assert outcome(cut_at(body, [place])) == outcome([body])


# - Bounds


def failing(body: bytes, cut: Cut, **bounds: int) -> MalformedResponse:
    stream = ResponseStream(**bounds)
    feed(stream, cut(body))
    with pytest.raises(MalformedResponse) as failed:
        stream.finish()
    assert 0 < failed.value.offset <= len(body)
    assert f"the first {failed.value.offset} bytes" in str(failed.value)
    return failed.value


def passing(body: bytes, cut: Cut, **bounds: int) -> AssistantMessage:
    stream = ResponseStream(**bounds)
    feed(stream, cut(body))
    return stream.finish()


def sized_event(size: int, *, multibyte: bool, comments: bool) -> bytes:
    """Make a chunk of this many bytes, without the blank line that ends it."""
    start, stop = b'data: {"choices":[{"delta":{"content":"', b'"}}]}'
    comment = b": ping\n" if comments else b""
    room = size - len(comment + start + stop)
    content = "é".encode() * (room // 2) + b"x" * (room % 2) if multibyte else b"x" * room
    return comment + start + content + stop


@CUTS
@pytest.mark.parametrize("multibyte", [False, True])
@pytest.mark.parametrize("comments", [False, True])
@pytest.mark.parametrize("head", [b"", HEAD, HEAD + b"\n\n\n"])
def test_event_may_have_as_many_bytes_as_its_bound(
    cut: Cut, multibyte: bool, comments: bool, head: bytes
) -> None:
    fits = sized_event(300, multibyte=multibyte, comments=comments) + b"\n\n"
    over = sized_event(301, multibyte=multibyte, comments=comments) + b"\n\n"

    assert passing(head + fits + end(), cut, max_event_bytes=300).text.startswith(
        "é" if multibyte else "x"
    )
    error = failing(head + over + end(), cut, max_event_bytes=300)
    assert "an event is longer than 300 bytes" in str(error)


@CUTS
def test_event_that_never_ends_is_given_up_at_its_bound(cut: Cut) -> None:
    error = failing(HEAD + b"data: {" + b"x" * 1_000, cut, max_event_bytes=300)

    assert "an event is longer than 300 bytes" in str(error)


@CUTS
def test_endless_line_after_the_end_does_no_harm(cut: Cut) -> None:
    body = HEAD + text("Hello") + end() + b"x" * 1_000

    assert passing(body, cut, max_event_bytes=300).content == "Hello"


@CUTS
def test_plain_body_may_have_as_many_bytes_as_a_message(cut: Cut) -> None:
    message = {"role": "assistant", "content": "x" * 100}
    body = json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}).encode()

    assert passing(body, cut, max_message_bytes=len(body)).text == "x" * 100
    error = failing(body, cut, max_message_bytes=len(body) - 1)
    assert f"the body is longer than {len(body) - 1} bytes" in str(error)


@CUTS
@pytest.mark.parametrize("field", ["content", "reasoning_content", "refusal"])
def test_message_is_held_to_its_bound(cut: Cut, field: str) -> None:
    body = HEAD + b"".join(chunk({field: "0123456789"}) for _ in range(20)) + end()

    # 20 pieces of 10 characters, each a string that takes 64 bytes more.
    assert passing(body, cut, max_message_bytes=1480).finish_reason == "stop"
    error = failing(body, cut, max_message_bytes=1479)
    assert "the message takes more than 1479 bytes (max_message_bytes)" in str(error)


@CUTS
def test_arguments_are_held_to_their_bound(cut: Cut) -> None:
    pieces = [call(0, "0123456789", name="add" if i == 0 else "") for i in range(20)]
    body = HEAD + b"".join(pieces) + end()

    assert passing(body, cut, max_arguments_bytes=200).tool_calls[0].arguments == "0123456789" * 20
    error = failing(body, cut, max_arguments_bytes=199)
    assert "the arguments of a call are over 199 bytes (max_arguments_bytes)" in str(error)


@CUTS
@pytest.mark.parametrize("head", [b"", HEAD])
def test_calls_are_counted(cut: Cut, head: bytes) -> None:
    calls = [call(i, "{}", id=f"call_{i}", name="add") for i in range(MAX_CALLS + 1)]

    assert len(passing(head + b"".join(calls[:-1]) + end(), cut).tool_calls) == 128
    error = failing(head + b"".join(calls) + end(), cut)
    assert "more than 128 tool calls in one answer (MAX_CALLS)" in str(error)


@CUTS
def test_choices_are_counted(cut: Cut) -> None:
    choices = [chunk({"content": "x"}, index=i) for i in range(MAX_CHOICES + 2)]

    assert passing(b"".join(choices[:-1]) + end(), cut).content == "x"
    error = failing(b"".join(choices) + end(), cut)
    assert "more than 128 choices in one answer (MAX_CHOICES)" in str(error)


@CUTS
def test_name_in_pieces_does_not_grow_for_ever(cut: Cut) -> None:
    def named(pieces: int) -> bytes:
        return HEAD + b"".join(call(0, "", name=f"{i:04d}") for i in range(pieces)) + end()

    fitting = MAX_NAME_CHARACTERS // 4
    assert len(passing(named(fitting), cut).tool_calls[0].name) == 1024
    error = failing(named(fitting + 1), cut)
    assert "longer than 1024 characters (MAX_NAME_CHARACTERS)" in str(error)


# - Any stream, cut anywhere


@dataclass(frozen=True)
class Outcome:
    """All that a caller sees of an answer; byte counts, which depend on the cut, left out."""

    message: AssistantMessage | None
    choices: Mapping[int, AssistantMessage]
    error: tuple[str, str] | None
    text: str
    reasoning: str
    arguments: Mapping[int, str]
    quirks: list[str]


def outcome(pieces: Iterable[bytes]) -> Outcome:
    stream, deltas = read(pieces)
    message, error = None, None
    try:
        message = stream.finish()
    except TransportError as raised:
        message = getattr(raised, "partial", None)
        error = (type(raised).__name__, re.sub(r"(first|after) \d+ bytes", "bytes", str(raised)))
    return Outcome(
        message=message,
        choices=stream.choices,
        error=error,
        text="".join(d.text for d in deltas if isinstance(d, TextDelta)),
        reasoning="".join(d.text for d in deltas if isinstance(d, ReasoningDelta)),
        arguments=joined_arguments(deltas),
        quirks=sorted(quirk.kind for quirk in stream.quirks),
    )


def joined_arguments(deltas: Iterable[Delta]) -> dict[int, str]:
    joined: dict[int, str] = {}
    for delta in deltas:
        if isinstance(delta, ToolCallDelta):
            joined[delta.index] = joined.get(delta.index, "") + delta.arguments
    return {index: whole_characters(arguments) for index, arguments in joined.items()}


def cut_at(body: bytes, places: Iterable[int]) -> list[bytes]:
    marks = sorted({place % (len(body) + 1) for place in places})
    starts, ends = [0, *marks], [*marks, len(body)]
    return [body[start:stop] for start, stop in zip(starts, ends, strict=True)]


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
                {
                    "index": index,
                    "id": call_id,
                    "function": {"name": name, "arguments": arguments},
                }
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
places = st.lists(st.integers(0, 10_000), max_size=12)


@given(streams, places)
def test_made_stream_means_the_same_however_it_is_cut(body: bytes, places: list[int]) -> None:
    seen = assert_every_cut_agrees(body, places)

    if seen.message is not None:
        assert seen.text == (seen.message.content or "")
        assert seen.reasoning == (seen.message.reasoning or "")
        assert list(seen.arguments.values()) == [c.arguments for c in seen.message.tool_calls]


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
            lambda at, put: body[: at[0]] + put + body[sum(at) :],
            cut,
            st.sampled_from(INSERTED),
        ),
        st.permutations(events).map(b"\n\n".join),
        st.sampled_from(events).map(lambda event: b"\n\n".join([*events, event])),
        line_ends.map(lambda line_end: body.replace(b"\n", line_end)),
    )


@given(damaged(), places)
def test_damaged_stream_gives_a_message_or_our_error_however_it_is_cut(
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
    bound = 1024 * 1024
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
