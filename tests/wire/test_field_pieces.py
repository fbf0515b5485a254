"""Fields of a message that the reader does not know are merged over the chunks that bring them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathors_agent.messages import AssistantMessage
from pathors_agent.wire.chat_completions import encode_message
from pathors_agent.wire.message_builder import Fields
from pathors_agent.wire.response_stream import ResponseStream


def event(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def read(*deltas: Mapping[str, object]) -> tuple[AssistantMessage, list[str]]:
    """Read a stream of these deltas; return its message and the kinds of its quirks."""
    stream = ResponseStream()
    for delta in deltas:
        stream.feed(event({"id": "1", "model": "m", "choices": [{"index": 0, "delta": delta}]}))
    stream.feed(event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}))
    return stream.finish(), [quirk.kind for quirk in stream.quirks]


def details(**fields: object) -> dict[str, object]:
    """One piece of a reasoning entry, as OpenRouter sends it."""
    kind = {"type": "reasoning.text", "format": "anthropic-claude-v1", "index": 0}
    return {"reasoning_details": [kind | fields]}


def test_pieces_of_one_entry_become_one_entry_with_its_signature() -> None:
    message, quirks = read(details(text="Let me "), details(text="see."), details(signature="SIG"))

    assert message.extra["reasoning_details"] == [
        {
            "type": "reasoning.text",
            "format": "anthropic-claude-v1",
            "index": 0,
            "text": "Let me see.",
            "signature": "SIG",
        }
    ]
    assert quirks == []


@pytest.mark.parametrize(
    ("field", "pieces", "merged"),
    [
        pytest.param(
            "thinking_blocks",
            [
                {"type": "thinking", "thinking": "Let me "},
                {"type": "thinking", "thinking": "see."},
                {"type": "thinking", "thinking": "", "signature": "S1"},
                {"type": "thinking", "thinking": "Now"},
                {"type": "thinking", "signature": "S2"},
            ],
            [
                {"type": "thinking", "thinking": "Let me see.", "signature": "S1"},
                {"type": "thinking", "thinking": "Now", "signature": "S2"},
            ],
            id="a signature ends a block",
        ),
        pytest.param(
            "thinking_blocks",
            [
                {"type": "redacted_thinking", "data": "D1"},
                {"type": "redacted_thinking", "data": "D2"},
                {"type": "thinking", "thinking": "a"},
            ],
            [
                {"type": "redacted_thinking", "data": "D1"},
                {"type": "redacted_thinking", "data": "D2"},
                {"type": "thinking", "thinking": "a"},
            ],
            id="data is a block of its own",
        ),
        pytest.param(
            "reasoning_details",
            [
                {"type": "reasoning.summary", "summary": "a"},
                {"type": "reasoning.text", "text": "b"},
                {"type": "reasoning.text", "text": "b"},
                {"type": "reasoning.encrypted", "data": "D", "id": "r1"},
            ],
            [
                {"type": "reasoning.summary", "summary": "a"},
                {"type": "reasoning.text", "text": "bb"},
                {"type": "reasoning.encrypted", "data": "D", "id": "r1"},
            ],
            id="a type begins a block",
        ),
        pytest.param(
            "annotations",
            [{"type": "cited", "text": "a"}, {"type": "cited", "text": "b"}],
            [{"type": "cited", "text": "a"}, {"type": "cited", "text": "b"}],
            id="items of other lists are whole",
        ),
    ],
)
def test_reasoning_without_an_index_continues_the_last_block(
    field: str, pieces: list[object], merged: object
) -> None:
    message, quirks = read(*({field: [piece]} for piece in pieces))

    assert message.extra[field] == merged
    assert quirks == []


def test_reasoning_blocks_are_sent_back() -> None:
    blocks = {"thinking_blocks": [{"type": "thinking", "thinking": "a", "signature": "S"}]}
    call = {"index": 0, "id": "a", "function": {"name": "add", "arguments": "{}"}}

    message, _ = read(
        blocks | {"reasoning_text": "a", "reasoning_opaque": "O"}, {"tool_calls": [call]}
    )

    wire = json.loads(encode_message(message))
    assert wire["thinking_blocks"] == blocks["thinking_blocks"]
    assert (wire["reasoning_text"], wire["reasoning_opaque"]) == ("a", "O")


@pytest.mark.parametrize(
    ("pieces", "merged"),
    [
        pytest.param(
            [{"index": 0, "text": "ha"}, {"index": 0, "text": "ha"}],
            [{"index": 0, "text": "haha"}],
            id="equal pieces of a text are still two",
        ),
        pytest.param(
            [{"index": 1, "text": "b"}, {"index": 0, "text": "a"}, {"index": 1, "text": "c"}],
            [{"index": 1, "text": "bc"}, {"index": 0, "text": "a"}],
            id="entries keep the order in which they began",
        ),
        pytest.param(
            [{"index": 0, "type": "a", "summary": "s"}, {"index": 0, "type": "b", "data": "d"}],
            [{"index": 0, "type": "a", "summary": "s"}, {"index": 0, "type": "b", "data": "d"}],
            id="entries of two types share an index",
        ),
        pytest.param(
            [{"index": 0, "id": "r1", "text": "a"}, {"index": 0, "id": "r2", "text": "b"}],
            [{"index": 0, "id": "r1", "text": "a"}, {"index": 0, "id": "r2", "text": "b"}],
            id="entries of two ids share an index",
        ),
        pytest.param(
            [{"index": 0, "text": "a"}, {"index": 0, "id": "r1", "type": "t", "text": "b"}],
            [{"index": 0, "id": "r1", "type": "t", "text": "ab"}],
            id="an id and a type may come late",
        ),
        pytest.param(
            [{"index": 0, "text": "a", "signature": None}, {"index": 0, "text": None, "n": 1}],
            [{"index": 0, "text": "a", "signature": None, "n": 1}],
            id="null takes nothing back",
        ),
        pytest.param(
            [{"index": 0, "n": 1, "done": False}, {"index": 0, "n": 2, "done": True}],
            [{"index": 0, "n": 2, "done": True}],
            id="numbers and booleans are replaced",
        ),
        pytest.param(
            [{"index": 0, "at": {"text": "a"}}, {"index": 0, "at": {"text": "b"}}],
            [{"index": 0, "at": {"text": "ab"}}],
            id="objects in entries are merged",
        ),
        pytest.param(
            [{"text": "a"}, {"text": "b"}, "c", {"index": "0"}],
            [{"text": "a"}, {"text": "b"}, "c", {"index": "0"}],
            id="items without an index stay apart",
        ),
    ],
)
def test_items_of_a_list_are_merged_by_index(pieces: list[object], merged: list[object]) -> None:
    one_by_one, _ = read(*({"blocks": [piece]} for piece in pieces))
    at_once, _ = read({"blocks": pieces})

    assert one_by_one.extra["blocks"] == merged
    assert at_once.extra["blocks"] == merged


def test_pieces_of_audio_are_joined_and_its_id_is_set() -> None:
    message, quirks = read(
        {"audio": {"id": "audio_1", "transcript": "Hel"}},
        {"audio": {"id": "audio_1", "transcript": "lo", "data": "UklG"}},
        {"audio": {"data": "Rg==", "expires_at": 12}},
    )

    audio = {"id": "audio_1", "transcript": "Hello", "data": "UklGRg==", "expires_at": 12}
    assert message.extra["audio"] == audio
    assert quirks == []


@pytest.mark.parametrize(
    ("field", "values", "kept", "quirks"),
    [
        ("thinking", ["Let me ", "see."], "Let me see.", []),
        ("reasoning_text", ["ha", "ha"], "haha", []),
        ("musing", ["Let me ", "see."], "Let me see.", ["field_in_pieces"]),
        ("tier", ["fast", "fast", "fast"], "fast", ["repeated_field"]),
        ("tier", ["fast"], "fast", []),
        ("tier", ["ha", "ha", "!"], "haha!", ["field_in_pieces"]),
        ("channel", ["analysis", "analysis", "final"], "final", []),
        ("half", ["\ud83d", "\ude00"], "\U0001f600", ["field_in_pieces"]),
        ("half", ["\ud83d"], "\ufffd", []),
        ("seed", [1, 2], 2, []),
    ],
)
def test_pieces_of_an_unknown_field_are_joined(
    field: str, values: list[object], kept: object, quirks: list[str]
) -> None:
    message, noted = read(*({field: value} for value in values))

    assert message.extra == {field: kept}
    assert noted == quirks


def test_unknown_field_of_a_call_is_merged_as_those_of_a_message() -> None:
    def piece(**fields: object) -> dict[str, object]:
        return {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "now"}} | fields]}

    message, _ = read(
        piece(extra_content={"google": {"thought_signature": "c2ln"}}),
        piece(extra_content={"google": {"thought": True}}, note=None),
    )

    [call] = message.tool_calls
    signed = {"thought_signature": "c2ln", "thought": True}
    assert call.extra == {"extra_content": {"google": signed}}


def test_entries_of_a_whole_message_are_not_changed() -> None:
    entries = [{"index": 0, "text": "a"}, {"index": 0, "text": "b"}]
    answer = {"role": "assistant", "content": "", "blocks": entries}
    stream = ResponseStream()

    stream.feed(json.dumps({"choices": [{"message": answer, "finish_reason": "stop"}]}).encode())

    assert stream.finish().extra == {"blocks": entries}


texts = st.text(max_size=4)


@st.composite
def entries_in_pieces(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Draw entries, and pieces of them in any order that keeps the pieces of each in theirs."""
    pieces_of: dict[int, list[dict[str, Any]]] = {}
    for index in draw(st.permutations(range(3))):
        parts = draw(st.lists(st.tuples(texts, texts), min_size=1, max_size=4))
        pieces_of[index] = [{"index": index, "text": a, "data": b} for a, b in parts]
    order = draw(st.permutations([index for index, parts in pieces_of.items() for _ in parts]))
    left = {index: iter(parts) for index, parts in pieces_of.items()}
    pieces = [next(left[index]) for index in order]
    return [_joined(index, pieces_of[index]) for index in dict.fromkeys(order)], pieces


def _joined(index: int, parts: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    texts = {name: "".join(part[name] for part in parts) for name in ("text", "data")}
    return {"index": index, **texts}


@given(entries_in_pieces())
def test_any_entries_are_read_back_equal(
    drawn: tuple[list[dict[str, Any]], list[dict[str, Any]]],
) -> None:
    entries, pieces = drawn

    message, quirks = read(*({"reasoning_details": [piece]} for piece in pieces))

    assert message.extra["reasoning_details"] == entries
    assert quirks == []


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.dictionaries(texts | st.just("index"), json_values, max_size=3), max_size=4))
def test_any_values_can_be_merged_and_sizes_never_shrink(chunks: list[dict[str, Any]]) -> None:
    fields = Fields()

    sizes = [fields.add_all(chunk) for chunk in chunks]

    assert all(size >= 0 for size in sizes)
    settled = fields.merged(lambda kind, detail: None)
    assert json.loads(json.dumps(settled)) == settled
    assert list(settled) == list(dict.fromkeys(name for chunk in chunks for name in chunk))
