"""Bytes of an answer become deltas and one message, however they are cut or damaged."""

import json

import pytest

from pathors_agent.errors import IncompleteResponse, ProviderError
from pathors_agent.messages import AssistantMessage, JSONValue, ToolCall, Usage
from pathors_agent.wire.deltas import TextDelta, ToolCallDelta
from pathors_agent.wire.response_stream import ResponseStream
from stream_bodies import (
    CUTS,
    DONE,
    HEAD,
    OPENING,
    Cut,
    call,
    chunk,
    end,
    event,
    message_of,
    read,
    text,
)

CANARY = "hunter2-canary"


# - What comes when


def test_deltas_are_returned_with_the_bytes_that_complete_them() -> None:
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
            [("a", "add", '{"a":'), ("b", "now", NOTHING), ("a", "", " 1}")],
            [("a", "add", OBJECT), ("b", "now", NOTHING)],
            id="second inside the arguments of the first",
        ),
        pytest.param(
            [("a", "add", '{"a": 1'), ("b", "now", "{}")],
            [("a", "add", '{"a": 1'), ("b", "now", "{}")],
            id="first with arguments that are cut off",
        ),
        pytest.param(
            [("", "add", '{"a": 1'), ("", "now", "{}")],
            [("t0000c000", "add", '{"a": 1'), ("t0000c001", "now", "{}")],
            id="first with arguments that are cut off, without ids",
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
    pieces: list[tuple[str, str, str]], calls: list[tuple[str, str, str]], head: bytes, cut: Cut
) -> None:
    body = b"".join(call(0, arguments, id=i, name=name) for i, name, arguments in pieces)

    stream, _ = read(cut(head + body + end()))

    assert [(c.id, c.name, c.arguments) for c in stream.finish().tool_calls] == calls
    assert ("shared_index" in [quirk.kind for quirk in stream.quirks]) == (len(calls) > 1)


ADD = {"name": "add", "arguments": OBJECT}


@CUTS
@pytest.mark.parametrize("head", [b"", HEAD])
@pytest.mark.parametrize(
    ("delta", "quirk"),
    [
        ({"tool_calls": [{"index": 0, "id": "a", **ADD}]}, "flat_tool_call"),
        ({"tool_calls": {"index": 0, "id": "a", "function": ADD}}, None),
        (
            {"tool_calls": [{"index": 0, "id": "a", "function": ADD}], "function_call": ADD},
            "function_call",
        ),
    ],
)
def test_call_of_another_shape_is_one_call(
    delta: dict[str, object], quirk: str | None, head: bytes, cut: Cut
) -> None:
    stream, _ = read(cut(head + chunk(delta) + end("tool_calls")))

    [call] = stream.finish().tool_calls
    assert (call.id, call.name, call.arguments, call.extra) == ("a", "add", OBJECT, {})
    assert [each.kind for each in stream.quirks] == [quirk] * (quirk is not None)


@CUTS
@pytest.mark.parametrize("head", [b"", HEAD])
@pytest.mark.parametrize("tail", [b"", b"\n", b"data: [DONE]\n", b'data: {"choices":[{"in'])
def test_events_without_blank_lines_between_them_are_read(
    head: bytes, tail: bytes, cut: Cut
) -> None:
    events = text("a") + text("b") + chunk({}, finish_reason="stop")
    stream, _ = read(cut(head + events.replace(b"\n\n", b"\n") + tail))

    assert stream.finish().content == "ab"
    assert [quirk.kind for quirk in stream.quirks] == ["joined_events"]


@CUTS
def test_second_choice_is_kept_separately_without_deltas(cut: Cut) -> None:
    body = OPENING + text("mine") + chunk({"content": "other"}, index=1) * 4 + end()

    stream, deltas = read(cut(body))

    assert deltas == [TextDelta("mine")]
    assert stream.finish().content == "mine"
    assert stream.choices[1].content == "otherotherotherother"
    assert list(stream.choices) == [0, 1]


@CUTS
@pytest.mark.parametrize("odd", [b"", b": a comment \xcd\n\n", b"retry: 5\n\n", b"x: y\nz: 1\n\n"])
@pytest.mark.parametrize("place", [1, 2, 6])
def test_events_with_ids_are_read_equally_in_each_cut(cut: Cut, odd: bytes, place: int) -> None:
    chunks = [{"id": "answer", "choices": [{"index": 0, "delta": {"content": "a"}}]}] * 8
    events = [b"id: %d\n" % n + event(each) for n, each in enumerate(chunks)]
    events[place] = b"id: 9\n" + event({**chunks[0], "model": "late"})
    body = b"".join(events) + odd + DONE

    message = message_of(body, cut)

    # A usual chunk after the first three is not searched for names.
    assert (message.text, message.model) == ("a" * 8, "late" if place < 3 else None)


@CUTS
def test_data_after_the_end_is_dropped(cut: Cut) -> None:
    body = HEAD + text("Hello") + end() + text(" world") + event({"error": {"message": "late"}})

    stream, deltas = read(cut(body))

    assert deltas == [TextDelta("Hello")]
    assert stream.finish().content == "Hello"
    assert stream.feed(text("again")) == []


@pytest.mark.parametrize(
    "reason",
    [
        "error",
        "ERROR",
        "network_error",
        "insufficient_system_resource",
        "abort",
        "MALFORMED_FUNCTION_CALL",
        "function_call_filter: MALFORMED_FUNCTION_CALL",
    ],
)
def test_finish_reason_of_a_failure_is_an_error_and_no_short_answer(reason: str) -> None:
    choice = {"delta": {}, "finish_reason": reason}
    stream, _ = read([HEAD + text("Hel") + event({"choices": [choice]}) + DONE])
    whole = {"choices": [{"message": {"role": "assistant"}, "finish_reason": reason}]}
    plain, _ = read([json.dumps(whole).encode()])

    for answer in (stream, plain):
        with pytest.raises(ProviderError, match=f"the finish_reason is {reason}") as caught:
            answer.finish()
        assert caught.value.retryable
    assert stream.partial.content == "Hel"


@pytest.mark.parametrize("end", [DONE, b""], ids=["DONE", "no DONE"])
@pytest.mark.parametrize(
    "fields",
    [
        {"errors": [{"message": "No credit."}]},
        {"success": False, "message": "No credit."},
        {"status": 500, "message": "No credit."},
        {"base_resp": {"status_code": 1008, "status_msg": "No credit."}, "choices": None},
    ],
)
def test_stream_without_any_chunk_is_an_error_with_the_words_of_its_events(
    fields: dict[str, JSONValue], end: bytes
) -> None:
    stream, _ = read([event(fields) + end])

    with pytest.raises(ProviderError, match="No credit"):
        stream.finish()


def test_event_that_is_no_chunk_does_no_harm_to_an_answer() -> None:
    odd = event({"status": "loading", "message": "Wait."})

    assert message_of(odd * 4 + text("Hi") + odd + DONE).content == "Hi"
    assert message_of(odd + text("Hi") + odd + end()).content == "Hi"


def test_error_in_the_fields_of_groq_is_an_error() -> None:
    choice = {"delta": {}, "finish_reason": "stop"}
    stream, _ = read(
        [HEAD + event({"choices": [choice], "x_groq": {"error": "over capacity"}}) + DONE]
    )

    with pytest.raises(ProviderError, match="over capacity"):
        stream.finish()


@pytest.mark.parametrize("kind", [str, float])
def test_index_of_a_call_may_be_a_text_or_a_float(kind: type) -> None:
    def piece(index: int, arguments: str, **more: str) -> bytes:
        function = {"arguments": arguments, **more}
        delta = {"tool_calls": [{"index": kind(index), "function": function}]}
        return event({"choices": [{"delta": delta}]})

    heads = piece(0, '{"a":', name="add") + piece(1, '{"b":', name="sub")
    message = message_of(HEAD + heads + piece(0, "1}") + piece(1, "2}") + end())

    assert [(c.name, c.arguments) for c in message.tool_calls] == [
        ("add", '{"a":1}'),
        ("sub", '{"b":2}'),
    ]


def test_piece_that_is_text_is_refused() -> None:
    with pytest.raises(TypeError, match="a piece of an answer is a str; pieces are bytes"):
        ResponseStream().feed(DONE.decode())  # type: ignore[arg-type]  # as an odd transport does


def test_finish_returns_the_same_each_time() -> None:
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
