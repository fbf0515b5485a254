"""What a JSON text that is still arriving is worth, written out by hand."""

import itertools
import json
import math
import sys
from collections.abc import Callable

import pytest

from counting import check_linear
from pathors_agent.messages import JSONValue
from pathors_agent.wire.partial_json import MAX_DEPTH, PartialJSON


def value_of(*pieces: str) -> JSONValue:
    parser = PartialJSON()
    for piece in pieces:
        parser.feed(piece)
    return parser.value


def is_whole(text: str) -> bool:
    parser = PartialJSON()
    parser.feed(text)
    return parser.is_whole_object


def test_no_text_has_no_value() -> None:
    assert value_of() is None
    assert value_of("") is None
    assert value_of(" \t\r\n") is None


def test_partial_string_is_returned() -> None:
    assert value_of('{"city": "Os') == {"city": "Os"}


def test_member_without_a_value_is_left_out() -> None:
    assert value_of('{"city": "Oslo", "cou') == {"city": "Oslo"}
    assert value_of('{"city": "Oslo", "country"') == {"city": "Oslo"}
    assert value_of('{"city": "Oslo", "country" : ') == {"city": "Oslo"}


def test_number_is_left_out_until_something_follows_it() -> None:
    assert value_of('{"a": 12') == {}
    assert value_of('{"a": 12 ') == {"a": 12}
    assert value_of("[-0.5e+2") == []
    assert value_of("[-0.5e+2,") == [-50.0]


def test_number_cut_into_pieces_is_one_number() -> None:
    assert value_of("[1", "2", ".", "5", "e", "1", "]") == [125.0]


def test_word_is_yielded_with_its_last_letter() -> None:
    assert value_of("[tru") == []
    assert value_of("[tru", "e") == [True]
    assert value_of("[", "n", "u", "l", "l") == [None]
    assert value_of("[false") == [False]


@pytest.mark.parametrize("cut", range(1, 6))
def test_word_counts_before_text_that_runs_into_it(cut: int) -> None:
    assert value_of("[null0]"[:cut], "[null0]"[cut:]) == [None]
    assert value_of("[nullx]"[:cut], "[nullx]"[cut:]) == [None]
    assert value_of("[nulx]"[:cut], "[nulx]"[cut:]) == []


def test_integers_stay_integers() -> None:
    value = value_of("[1, 1.0, -0, 100000000000000000000]")

    assert value == [1, 1.0, 0, 100000000000000000000]
    assert isinstance(value, list)
    assert [type(item) for item in value] == [int, float, int, int]


def test_number_beyond_all_floats_is_infinite_as_for_python() -> None:
    assert value_of("[1e999]") == [math.inf]


def test_containers_are_there_as_soon_as_they_open() -> None:
    assert value_of("{") == {}
    assert value_of("[") == []
    assert value_of('[[], {"a": [') == [[], {"a": []}]


def test_value_after_nested_containers_belongs_to_the_outer_one() -> None:
    assert value_of('{"a": {"b": [1, {"c": 2}], "d": 3}, "e": [4') == {
        "a": {"b": [1, {"c": 2}], "d": 3},
        "e": [],
    }
    assert value_of('[{"a": 1}, [2], "x"') == [{"a": 1}, [2], "x"]


def test_last_of_two_equal_keys_counts() -> None:
    assert value_of('{"a": [1], "a": "x"}') == {"a": "x"}


def test_escapes_are_read_also_where_they_are_cut() -> None:
    assert value_of('["a\\', 'n\\"\\', "\\\\/\\b\\f\\r\\t") == ['a\n"\\/\b\f\r\t']
    assert value_of('["\\', "u", "0", "0e", "9x") == ["éx"]


def test_escapes_in_keys_are_read() -> None:
    assert value_of('{"\\u00e9\\', 'n":1}') == {"é\n": 1}


def test_escape_that_has_not_ended_is_left_out() -> None:
    assert value_of('["a\\') == ["a"]
    assert value_of('["a\\u00e') == ["a"]


def test_surrogate_pair_is_one_character_however_it_is_cut() -> None:
    assert value_of('["\\ud83d\\ude00"]') == ["😀"]
    assert value_of('["x\\ud83d', "\\", "ude00") == ["x😀"]
    assert value_of('{"\\ud83d\\ude00": 1}') == {"😀": 1}


def test_first_half_of_a_pair_waits_for_the_second() -> None:
    assert value_of('["x\\ud83d') == ["x"]
    assert value_of('["x\\ud83d\\ude0') == ["x"]


def test_half_of_a_pair_alone_becomes_a_replacement_character() -> None:
    assert value_of('["\\ud83d"]') == ["\ufffd"]
    assert value_of('["\\ud83dx') == ["\ufffdx"]
    assert value_of('["\\ud83d\\n') == ["\ufffd\n"]
    assert value_of('["\\ud83d\\u0041') == ["\ufffdA"]
    assert value_of('["\\ud83d\\ud83d\\ude00') == ["\ufffd😀"]
    assert value_of('["\\ude00') == ["\ufffd"]


@pytest.mark.parametrize(
    ("text", "before"),
    [
        ("[1,]", [1]),
        ("[1,,2]", [1]),
        ("[,1]", []),
        ("[01]", []),
        ("[1 2]", [1]),
        ("[+1]", []),
        ("[.5]", []),
        ("[1.]", []),
        ("[1e]", []),
        ("[\u0661]", []),
        ("[NaN]", []),
        ("[-Infinity]", []),
        ("[True]", []),
        ("[trueish]", [True]),
        ('{"a":1,}', {"a": 1}),
        ('{"a" 1}', {}),
        ("{a:1}", {}),
        ('{"a":1]', {"a": 1}),
        ("[1}", [1]),
        ('["a\nb"]', ["a"]),
        ('["\\x"]', [""]),
        ('["\\u12g4"]', [""]),
        ('{"a":1} {', {"a": 1}),
        ("{}}", {}),
        ("{}\u00a0", {}),
        ("\ufeff{}", None),
        ("]", None),
    ],
)
def test_text_that_is_no_json_leaves_the_value_before_it(text: str, before: JSONValue) -> None:
    assert value_of(text) == before
    assert value_of(text, ' "more": [1, 2]}') == before
    assert not is_whole(text)


def test_whole_object_may_have_space_around_it() -> None:
    assert is_whole('  {"a": [1, "}"]} \r\n')
    assert is_whole("{}")


def test_object_that_continues_is_not_complete() -> None:
    text = '{"a": [1, "}"], "b": 2.5}'

    assert [end for end in range(len(text) + 1) if is_whole(text[:end])] == [len(text)]


def test_values_other_than_objects_are_not_whole_objects() -> None:
    assert not any(map(is_whole, ("[{}]", '"{}"', "1 ", "null", "")))


def test_value_grows_in_place() -> None:
    parser = PartialJSON()
    parser.feed('{"items": [')
    first = parser.value
    parser.feed('"a"')

    assert parser.value is first
    assert first == {"items": ["a"]}


def test_nesting_ends_at_the_bound() -> None:
    text = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert value_of(text) == json.loads(text)

    parser = PartialJSON()
    parser.feed('{"a":' + "[" * (MAX_DEPTH - 1))
    parser.feed("[")
    parser.feed("]" * MAX_DEPTH + "}")
    assert not parser.is_whole_object


def test_number_with_more_digits_than_python_converts_is_no_number() -> None:
    digits = "1" * (sys.get_int_max_str_digits() + 1)

    assert value_of(f"[{digits}]") == []


def reading(text: str) -> Callable[[], None]:
    def read() -> None:
        parser = PartialJSON()
        for at in range(0, len(text), 8):
            parser.feed(text[at : at + 8])
            assert parser.value is not None

    return read


@pytest.mark.parametrize(
    ("start", "unit"),
    [
        ('["', "a long string that goes on and on, with \\n and \\u00e9"),
        ('{"', "a long key"),
        ("[", "1"),
        ("[", " "),
        ("[", '"x",'),
        ("[", "[1,"),
        ("[", '{"k":'),
    ],
)
def test_work_is_linear_in_the_length(start: str, unit: str) -> None:
    def text(size: int) -> str:
        return start + "".join(itertools.islice(itertools.cycle(unit), size))

    # Each value is a copy of the text so far: one allocation, and no work in Python.
    check_linear(lambda size: reading(text(size)), 500, allocations=False)
