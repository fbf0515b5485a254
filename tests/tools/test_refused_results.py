"""Values that are no results of tools."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from unittest.mock import MagicMock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, field_serializer

from pathors_agent.wire.chat_completions import encode_message
from result_types import IMAGE, SALES, Dumping, Place, Point, Socket, items, plain, result_of

# - what is refused


class Odd(type):
    def __hash__(cls) -> int:
        raise ZeroDivisionError


class Unhashed(metaclass=Odd):
    pass


class Raising(BaseModel):
    city: str = "Oslo"

    @field_serializer("city")
    def _raise(self, city: str) -> str:
        raise KeyError("private")


class Endless(BaseModel):
    def model_dump(self, **options: Any) -> Any:
        return self


@dataclass
class Unset:
    city: str = field(init=False)


class Broken(Mapping[str, int]):
    def __getitem__(self, key: str) -> int:
        raise RuntimeError("private")

    def __iter__(self) -> Iterator[str]:
        raise RuntimeError("private")

    def __len__(self) -> int:
        return 1


class Strange(Decimal):
    def __str__(self) -> str:
        raise RuntimeError("private")


class Photograph(BaseModel):
    data: bytes = b"\xff"


def in_itself() -> list[object]:
    value: list[object] = []
    value.append(value)
    return value


def nested(levels: int) -> list[object]:
    value: list[object] = []
    for _ in range(levels - 1):
        value = [value]
    return value


async def later() -> int:
    return 1


AS_VALUES = (
    "It should return text, numbers, lists, dicts, dataclasses, pydantic models or content parts."
)
AS_A_LIST = "It should return a list of what it yields."
AS_TEXT = "Its keys should be text, numbers or dates."


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Socket, f"a value of type Socket. {AS_VALUES}"),
        (object, f"a value of type object. {AS_VALUES}"),
        (lambda: Socket, f"a value of type type. {AS_VALUES}"),
        (lambda: Place, f"a value of type ModelMetaclass. {AS_VALUES}"),
        (lambda: SALES.groupby("city"), f"a value of type DataFrameGroupBy. {AS_VALUES}"),
        (MagicMock, f"a value of type MagicMock. {AS_A_LIST}"),
        (lambda: len, f"a value of type builtin_function_or_method. {AS_VALUES}"),
        (lambda: ValueError("private"), f"a value of type ValueError. {AS_VALUES}"),
        (lambda: {"a/b": [1, Socket()]}, f"a value of type Socket at /a~1b/1. {AS_VALUES}"),
        (lambda: Point(x=1, y=Socket()), f"a value of type Socket at /y. {AS_VALUES}"),  # type: ignore[arg-type]
        (lambda: (n for n in [1]), f"a value of type generator. {AS_A_LIST}"),
        (lambda: {"n": map(str, [1])}, f"a value of type map at /n. {AS_A_LIST}"),
        (items, f"a value of type async_generator. {AS_A_LIST}"),
        (later, "a value of type coroutine. It should await it and return what comes of it."),
        (lambda: {(1, 2): 3}, f"a key of type tuple. {AS_TEXT}"),
        (lambda: [{b"a": 3}], f"a key of type bytes at /0. {AS_TEXT}"),
        (
            lambda: {1: "a", "1": "b"},
            "two keys that are the same as text. Its keys should be text.",
        ),
        (lambda: 10**3_000, "a number of more than 2,000 digits. It should return it as text."),
        (
            lambda: {"image": IMAGE},
            "a content part inside of another value at /image."
            " It should return it alone or in a list.",
        ),
        (lambda: [IMAGE] * 101, "more than 100 content parts. It should return fewer."),
    ],
)
def test_value_is_refused_with_its_type_its_place_and_what_to_return(
    make: Callable[[], object], words: str
) -> None:
    message = result_of(make())

    assert message.content == f"look ran, but returned {words}"
    assert message.outcome == "error"


def test_value_inside_of_itself_is_refused() -> None:
    message = result_of(in_itself())

    assert message.is_error
    assert message.text.startswith(
        "look ran, but returned values nested deeper than 50 levels, or inside of themselves at /0/"
    )


def test_fifty_levels_are_written_and_one_more_is_refused() -> None:
    assert result_of(nested(50)).content == "[" * 50 + "]" * 50
    assert result_of(nested(51)).is_error


@pytest.mark.parametrize(
    ("value", "kind", "problem"),
    [
        (Raising(), "Raising", "PydanticSerializationError"),
        (Photograph(), "Photograph", "UnicodeDecodeError"),
        (Dumping(), "Dumping", "OSError"),
        (Endless(), "Endless", "RecursionError"),
        (Unset(), "Unset", "AttributeError"),
        (Broken(), "Broken", "RuntimeError"),
        ([Strange(1)], "list", "RuntimeError"),
        (Unhashed(), "Unhashed", "ZeroDivisionError"),
    ],
)
def test_value_that_raises_is_reported_only_by_its_type(
    value: object, kind: str, problem: str
) -> None:
    message = result_of(value)

    assert message.content == (
        f"look ran, but its result, a value of type {kind}, could not be read ({problem})."
    )
    assert message.outcome == "error"


def test_unchecked_models_raise_no_warnings() -> None:
    assert result_of(Place.model_construct(city=3)).content == '{"city":3}'


ADDRESS = re.compile(r"0x[0-9a-f]{6,}")
values = st.recursive(
    plain,
    lambda inner: st.one_of(
        st.lists(inner),
        st.lists(inner).map(tuple),
        st.lists(inner).map(iter),
        st.dictionaries(plain.filter(lambda key: not isinstance(key, BaseModel)), inner),
        st.builds(Point, x=inner, y=inner),
    ),
)


@given(values, st.integers(1, 60))
def test_whatever_is_returned_can_be_sent_and_holds_no_address(value: object, cap: int) -> None:
    message = result_of(value, max_result_characters=cap)

    sent = json.loads(encode_message(message))
    assert sent["tool_call_id"] == "call_1"
    assert not ADDRESS.search(str(sent["content"]))
    if not message.is_error and isinstance(message.content, str):
        assert len(message.content.partition("\n[cut: ")[0]) <= cap


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # no halves: they are mended
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner)
    ),
)


@given(json_values.filter(lambda value: value is not None and not isinstance(value, str)))
def test_json_is_read_as_itself(value: object) -> None:
    assert json.loads(result_of(value).text) == value
