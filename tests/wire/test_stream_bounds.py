"""Bounds of a stream, and what goes wrong in it."""

import json
import re

import pytest

from pathors_agent.errors import (
    IncompleteResponse,
    MalformedResponse,
    ProviderError,
    TransportError,
)
from pathors_agent.messages import AssistantMessage, ToolCall
from pathors_agent.wire.deltas import MAX_NAME_CHARACTERS, TextDelta
from pathors_agent.wire.message_builder import MAX_CALLS, MAX_CHOICES
from pathors_agent.wire.response_stream import ResponseStream
from stream_bodies import (
    CUTS,
    DONE,
    HEAD,
    OPENING,
    Cut,
    call,
    chunk,
    cut_at,
    end,
    event,
    feed,
    message_of,
    outcome,
    read,
    text,
)

# - What goes wrong


@CUTS
def test_stream_without_an_end_is_incomplete_and_has_its_partial(cut: Cut) -> None:
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
def test_error_in_a_stream_is_raised_after_its_deltas(cut: Cut) -> None:
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
def test_odd_value_becomes_a_message_that_can_be_stored(field: str, value: str) -> None:
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


def test_derived_ids_never_equal_the_ids_of_the_server() -> None:
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
def test_piece_without_index_belongs_to_the_call_of_its_id(cut: Cut) -> None:
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
def test_bare_error_with_empty_choices_is_an_error_anywhere_in_the_stream(head: bytes) -> None:
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
    """Build a chunk of this many bytes, without the blank line that ends it."""
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
def test_endless_event_is_refused_at_its_bound(cut: Cut) -> None:
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
