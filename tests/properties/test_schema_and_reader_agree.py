"""What the sent schema of a signature allows is read, and what it forbids is refused."""

import dataclasses
import enum
import json
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, Union

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import AliasChoices, AliasPath, ConfigDict, Field, create_model
from typing_extensions import TypedDict

from effort import examples
from pathors_agent.messages import ToolCall
from pathors_agent.tools.registry import BoundCall, ToolRegistry
from pathors_agent.tools.tool import Tool


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Mixed(enum.Enum):
    PAIR = (1, 2)
    HALF = 0.5
    ONE = 1
    YES = True
    NONE = None
    TEXT = "red"


class Access(enum.Flag):
    READ = 1
    WRITE = 2
    BOTH = 3


class Gaps(enum.IntFlag):
    A = 1
    B = 8


# Used on types that are values here; type checkers see only types that are written out.
_ANNOTATED: Any = Annotated
_DICT: Any = dict
_NOT_REQUIRED: Any = NotRequired
_UNION: Any = Union

Type = tuple[Any, st.SearchStrategy[Any]]
"""An annotation, and JSON values that its schema mostly allows."""

TEXTS = st.sampled_from(["", "a", "abc", "red", "blue", "1", "01", "1.5", "true", "-2", " 1", "é"])
INTEGERS = st.integers(-3, 9) | st.sampled_from([10**20, -(10**22)])
SCALARS = st.none() | st.booleans() | INTEGERS | st.sampled_from([0.5, 1.5, -2.25]) | TEXTS
NAMES = st.sampled_from(["a", "b", "kind", "from", "1", "red", "true"])
JSON: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS | NAMES, inner, max_size=3),
    max_leaves=5,
)

LEAVES: list[Type] = [
    (int, INTEGERS),
    (Annotated[int, Field(ge=1, le=7)], INTEGERS),
    (Annotated[int, Field(multiple_of=3)], INTEGERS),
    (float, INTEGERS | st.sampled_from([0.5, 1.5])),
    (bool, st.booleans()),
    (str, TEXTS),
    (Annotated[str, Field(min_length=1, max_length=3)], TEXTS),
    (None, st.none()),
    (Any, JSON),
    (Decimal, INTEGERS | TEXTS),
    (Color, TEXTS),
    (Level, INTEGERS),
    (Mixed, st.sampled_from([[1, 2], [1, True], 0.5, 1, True, None, "red", "blue"])),
    (Access, INTEGERS),
    (Gaps, INTEGERS),
    (Literal[Color.RED], TEXTS),
    (Literal[Color.RED, Level.HIGH, "x", None], TEXTS | INTEGERS | st.none()),
    (Literal[1, 2], INTEGERS | st.booleans()),
    (Literal[True], INTEGERS | st.booleans()),
    (Literal[Access.WRITE, False], INTEGERS | st.booleans()),
]
SETS: list[Type] = [
    (kind[item], st.lists(values, max_size=3))
    for kind in (set, frozenset)
    for item, values in ((int, INTEGERS), (Color, TEXTS), (str, TEXTS))
]
KEYS: list[Type] = [
    (str, TEXTS),
    (int, st.sampled_from(["1", "0", "-2", "01", "1.0", "+1", "a", " 1"])),
    (bool, st.sampled_from(["true", "false", "True", "1"])),
    (Color, st.sampled_from(["red", "blue", "green"])),
    (Level, st.sampled_from(["1", "2", "3", "01"])),
    (Literal[1, "a"], st.sampled_from(["1", "a", "b"])),
    (Annotated[str, Field(pattern="^a")], TEXTS),
]


def lists_of(inner: Type) -> st.SearchStrategy[Type]:
    item, values = inner
    arrays = st.lists(values, max_size=3)
    kinds = [list[item], Sequence[item], Iterable[item], tuple[item, ...]]  # type: ignore[valid-type]
    return st.sampled_from(kinds).map(lambda kind: (kind, arrays))


def iterators_of(inner: Type) -> st.SearchStrategy[Type]:
    """Name what only a parameter can be annotated with, and no field of a class."""
    item, values = inner
    bounded = Annotated[Iterator[item], Field(min_length=1, max_length=2)]  # type: ignore[valid-type]
    kinds = [Iterator[item], Generator[item, None, None], bounded, Iterator[item] | None]  # type: ignore[valid-type]
    arrays = st.lists(values, max_size=3)
    return st.sampled_from(kinds).map(lambda kind: (kind, arrays))


def dicts_of(inner: Type) -> st.SearchStrategy[Type]:
    value, values = inner
    return st.sampled_from(KEYS).map(
        lambda key: (_DICT[key[0], value], st.dictionaries(key[1], values, max_size=3))
    )


def objects_of(one: Type, other: Type) -> list[Type]:
    """Name the ways to write an object with a member `a` that is required, and `b` that is not."""
    a, b = one[0], other[0]
    values = st.fixed_dictionaries({"a": one[1]}, optional={"b": other[1]})
    fields: dict[str, Any] = {"a": a, "b": _NOT_REQUIRED[b]}
    shape = TypedDict("shape", fields)  # type: ignore[misc]  # types that are values here
    pair = NamedTuple("pair", list(zip("ab", (a, b), strict=True)))  # type: ignore[misc]  # as above
    arrays = st.tuples(one[1], other[1]).map(list)
    aliases = (
        AliasPath("u", "v"),
        AliasChoices("from", "b"),
        AliasChoices(AliasPath("b", 0), "from"),
    )
    return [
        (shape, values),
        (dataclasses.make_dataclass("record", [("a", a), ("b", b, None)]), values),
        (pair, arrays | values),
        *((aliased(a, b, alias), values | renamed(values)) for alias in aliases),
        (populated(a, b), values | renamed(values)),
    ]


STRICT = ConfigDict(strict=True, extra="forbid")


def aliased(a: Any, b: Any, alias: AliasPath | AliasChoices) -> Any:
    fields: dict[str, Any] = {"a": (a, Field(validation_alias=alias)), "b": (b, None)}
    return create_model("aliased", __config__=STRICT, **fields)


def populated(a: Any, b: Any) -> Any:
    fields: dict[str, Any] = {"a": (a, Field(alias="from")), "b": (b, None)}
    config = ConfigDict(strict=True, extra="forbid", populate_by_name=True)
    return create_model("populated", __config__=config, **fields)


def renamed(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return values.map(lambda value: {("from" if k == "a" else k): v for k, v in value.items()})


def discriminated(inner: Type) -> Type:
    """Two objects that a discriminator tells apart, which has a default in both of them."""
    one: dict[str, Any] = {"kind": (Literal["one"], "one"), "a": (inner[0], None)}
    two: dict[str, Any] = {"kind": (Literal[2], 2)}
    members = [create_model("member", __config__=STRICT, **fields) for fields in (one, two)]
    values = st.fixed_dictionaries(
        {}, optional={"kind": st.sampled_from(["one", 2, True]), "a": inner[1]}
    )
    return _ANNOTATED[_UNION[*members], Field(discriminator="kind")], values


def unions_of(one: Type, other: Type) -> Type:
    return _UNION[one[0], other[0]], one[1] | other[1]


def larger(inner: st.SearchStrategy[Type]) -> st.SearchStrategy[Type]:
    two = st.tuples(inner, inner)
    return (
        inner.flatmap(lists_of)
        | inner.flatmap(dicts_of)
        | two.flatmap(lambda pair: st.sampled_from(objects_of(*pair)))
        | inner.map(discriminated)
        | two.map(lambda pair: unions_of(*pair))
    )


TYPES = st.recursive(st.sampled_from(LEAVES + SETS), larger, max_leaves=4)
PARAMETERS = TYPES | TYPES | TYPES.flatmap(iterators_of)


@st.composite
def texts_for(draw: st.DrawFn, values: st.SearchStrategy[Any]) -> str:
    """Write a value of a type, or any other, with its integers in all of their spellings."""
    value = draw(values | values | JSON)
    spell: Callable[[int], str] = draw(st.sampled_from(SPELLINGS))
    return written(value, spell)


def hundredths(value: int) -> str:
    return f"{value}00E-2" if value else "0E+1"


def written(value: Any, spell: Callable[[int], str]) -> str:
    match value:
        case bool():
            return json.dumps(value)
        case int():
            return spell(value)
        case list():
            return f"[{', '.join(written(item, spell) for item in value)}]"
        case dict():
            members = (f"{json.dumps(k)}: {written(v, spell)}" for k, v in value.items())
            return f"{{{', '.join(members)}}}"
        case _:
            return json.dumps(value)


def takes(annotation: Any) -> Callable[..., Any]:
    def function(x: Any) -> None: ...

    function.__annotations__["x"] = annotation
    return function


SPELLINGS: list[Callable[[int], str]] = [str, str, "{}.0".format, "{}e0".format, hundredths]


# - each kind of type, and values of all kinds -

ONE: Type = (int, INTEGERS)
KINDS: list[Any] = [
    *(annotation for annotation, _ in LEAVES + SETS),
    *(_DICT[key, int] for key, _ in KEYS),
    *(annotation for annotation, _ in objects_of(ONE, ONE)),
    *(list[int], Iterable[int], Iterator[int], Generator[int, None, None], Sequence[int]),
    *(discriminated(ONE)[0], int | None, int | str, float | int, int | bool, Decimal | str),
    *(Literal["a"] | int, Color | int | None, list[Color | int], Annotated[float, Field(gt=0, lt=2)]),
]  # fmt: skip
SINGLE = [
    *(None, True, False, 0, 1, 2, 3, 8, 9, -1, 1.0, 2.0, 1.5, 0.5, 100.0, -0.0, 1e22, 10**22),
    *("", "a", "abc", "red", "blue", "RED", "1", "1.0", "01", "+1", " 1 ", "1_0", "-5", "1e3"),
    *("NaN", "true", "True", "٣", "PAIR", "kind"),
]
VALUES = [
    *SINGLE,
    *([value] for value in SINGLE),
    *({name: value} for name in ("a", "b", "1", "red", "true", "from", "kind") for value in SINGLE),
    *([], {}, [1, 2], [1, 1], [1, 1.0], [1, True], ["a", "a"], [1, 2, 3], [[1, 2]], [1, None]),
    *({"a": 1, "b": 2.0}, {"a": 1, "b": "x"}, {"a": 1, "c": 2}, {"u": {"v": 1}}, {"from": 1, "b": 1}),
    *({"b": [1]}, {"a": 1, "b": [1]}, {"kind": "one", "a": 1.0}, {"kind": 2.0}, {"kind": True, "a": 1}),
    *({"01": 1}, {"1.0": 1}, {"-2": 1}, {"True": 1}, {"2": 1}, {"3": 1}, {"": 1}),
]  # fmt: skip


@pytest.mark.parametrize("annotation", KINDS, ids=str)
def test_each_kind_of_type_is_read_as_its_schema_says(annotation: Any) -> None:
    tool = Tool.from_function(takes(annotation))
    registry, schema = ToolRegistry([tool]), Draft202012Validator(tool.sent_parameters)
    other = []
    for value in VALUES:
        call = ToolCall(id="c1", name="function", arguments=json.dumps({"x": value}))
        is_read = isinstance(registry.bind(call), BoundCall)
        if is_read is not schema.is_valid({"x": value}):
            other.append((value, is_read))

    assert other == []


# - all types of these, and their values in all spellings -


@settings(max_examples=examples(200))
@given(PARAMETERS.flatmap(lambda type_: st.tuples(st.just(type_[0]), texts_for(type_[1]))))
def test_arguments_are_read_if_and_only_if_the_schema_allows_them(drawn: tuple[Any, str]) -> None:
    annotation, text = drawn
    tool = Tool.from_function(takes(annotation))
    arguments = f'{{"x": {text}}}'
    call = ToolCall(id="c1", name="function", arguments=arguments)
    allowed = Draft202012Validator(tool.sent_parameters).is_valid(json.loads(arguments))

    bound = ToolRegistry([tool]).bind(call)

    assert isinstance(bound, BoundCall) is allowed, (tool.sent_parameters, text, bound)
