"""Any cutting of a JSON text gives the same values on the way, and the value of it all in the end."""

import copy
import json

from hypothesis import given
from hypothesis import strategies as st

from pathors_agent.messages import JSONValue
from pathors_agent.wire.partial_json import PartialJSON

# Halves of surrogate pairs included: json.dumps writes them as escapes.
characters = st.characters() | st.sampled_from('"\\/\n\t\x00é😀\ud83d\ude00 []{},:-0')
texts = st.text(characters, max_size=12)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
finite = scalars.filter(lambda v: v not in (float("inf"), float("-inf")))
values = st.recursive(
    finite, lambda v: st.lists(v, max_size=4) | st.dictionaries(texts, v, max_size=4), max_leaves=12
)


@st.composite
def json_texts(draw: st.DrawFn) -> str:
    """A JSON text, written in one of the ways that a model may choose."""
    return json.dumps(
        draw(values),
        ensure_ascii=draw(st.booleans()),
        indent=draw(st.sampled_from([None, 2, "\t"])),
        separators=draw(st.sampled_from([None, (",", ":"), (" ,\r\n", " : ")])),
    )


@st.composite
def damaged_texts(draw: st.DrawFn) -> str:
    """A JSON text with a character more, fewer or other."""
    text = draw(json_texts())
    at = draw(st.integers(0, len(text)))
    skipped = draw(st.integers(0, 1))
    return text[:at] + draw(st.text(characters, max_size=1)) + text[at + skipped :]


def cut(text: str, places: list[int]) -> list[str]:
    """Return the text in pieces, cut at these places."""
    ends = sorted({place % (len(text) + 1) for place in places} | {len(text)})
    return [text[a:b] for a, b in zip([0, *ends], ends, strict=False)]


def views(pieces: list[str]) -> dict[int, tuple[JSONValue, bool]]:
    """What was to be read after each piece, by how much of the text had come."""
    parser = PartialJSON()
    seen = {}
    length = 0
    for piece in pieces:
        parser.feed(piece)
        length += len(piece)
        seen[length] = (copy.deepcopy(parser.value), parser.is_whole_object)
    return seen


def whole(text: str) -> str:
    """Return a text in which each half of a surrogate pair became U+FFFD, and each pair one."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def whole_throughout(value: JSONValue) -> JSONValue:
    match value:
        case str():
            return whole(value)
        case list():
            return [whole_throughout(item) for item in value]
        case dict():
            return {whole(key): whole_throughout(item) for key, item in value.items()}
        case _:
            return value


@given(json_texts() | damaged_texts(), st.lists(st.integers(0, 10_000), max_size=8))
def test_cutting_changes_no_value_on_the_way(text: str, places: list[int]) -> None:
    by_character = views(list(text))

    for length, seen in views([p for p in cut(text, places) if p]).items():
        assert seen == by_character[length]


@given(json_texts(), st.lists(st.integers(0, 10_000), max_size=8))
def test_whole_text_has_the_value_that_python_reads(text: str, places: list[int]) -> None:
    parser = PartialJSON()
    for piece in cut(text, places):
        parser.feed(piece)
    parser.feed(" ")  # ends a number

    expected = whole_throughout(json.loads(text))
    value = whole_throughout(parser.value)  # a raw half is given as it came
    assert value == expected
    assert repr(value) == repr(expected)  # 1 is not 1.0, nor True
    assert parser.is_whole_object == isinstance(expected, dict)


@given(damaged_texts())
def test_object_is_whole_only_where_python_reads_one(text: str) -> None:
    parser = PartialJSON()
    parser.feed(text)

    try:
        # Python's NaN and Infinity are not JSON: texts of them do not end in a dict here.
        value = json.loads(text, parse_constant=lambda word: 1 / 0)
    except (ValueError, ZeroDivisionError):
        value = None

    assert parser.is_whole_object == isinstance(value, dict)
