"""Convert any Python value to what JSON can hold, within bounds, or explain why not. Pure.

A repr is never used: it may hold secrets, and memory addresses that differ in each process.
"""

from base64 import b64encode
from collections import UserString
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
    Set,
    ValuesView,
)
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import partial
from pathlib import PurePath
from types import SimpleNamespace
from typing import Any, Final

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_jsonable_python

from pathors_agent.json_text import whole_characters, write_json
from pathors_agent.messages import ContentPart
from pathors_agent.schema.arguments import json_pointer
from pathors_agent.schema.bounds import MAX_DEPTH, MAX_DIGITS
from pathors_agent.tools.table_values import NOT_A_TIME, Plain, has_methods, reader_of

# As in schema.bounds: writing a number takes time by the square of its digits.
_MAX_BITS = MAX_DIGITS * 10 // 3

Convert = Callable[[Any, "JSONWalk", int], Any]


class Unsendable(Exception):
    """Raised for a value without a form that a model can read.

    `what` completes the sentence "the tool returned ...".
    """

    def __init__(self, what: str, advice: str) -> None:
        super().__init__()
        self.what = what
        self.advice = advice
        self.path: list[str | int] = []  # from the inside out

    def __str__(self) -> str:
        where = f" at {json_pointer(reversed(self.path))}" if self.path else ""
        return f"{self.what}{where}. {self.advice}".rstrip()


class JSONWalk:
    """One walk over a value, which stops after `characters` of JSON.

    If something is left out, it is `full`: the result is a prefix of the whole value.
    """

    __slots__ = ("full", "left")

    def __init__(self, characters: int) -> None:
        self.left = characters
        self.full = False

    def value(self, given: object, depth: int = MAX_DEPTH) -> Any:
        """Convert a value, or raise `Unsendable`."""
        self.left -= 1  # no value is written in less than one character
        kind = type(given)
        convert = _TABLE.get(kind) or _converter(kind)
        return convert(given, self, depth)


# - one value each -


def _itself(value: object, walk: JSONWalk, depth: int) -> object:
    return value


def text_of(value: str) -> str:
    """Return the text of a string; the `__str__` of a subclass may raise."""
    if type(value) is str:
        return value
    try:
        return str.__str__(str(value))
    except Exception:  # noqa: BLE001  (the author's code; the characters are known without it)
        return str.__str__(value)


def _text(value: str, walk: JSONWalk, depth: int) -> str:
    text = text_of(value)
    if len(text) > walk.left + 1:
        text, walk.full = text[: max(walk.left, 0) + 1], True
    walk.left -= len(text) + 1
    return text if text.isascii() else whole_characters(text)


def _as_text(write: Callable[[Any], str]) -> Convert:
    return lambda value, walk, depth: _text(write(value), walk, depth)


def _integer(value: int, walk: JSONWalk, depth: int) -> int:
    if int.bit_length(value) > _MAX_BITS:
        raise Unsendable(
            f"a number of more than {MAX_DIGITS:,} digits", "It should return it as text."
        )
    return int.__int__(value)


def _number(value: float, walk: JSONWalk, depth: int) -> float | str:
    number = float.__float__(value)
    return number if number - number == 0 else _NOT_FINITE[str(number)]


_NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def _bytes(value: bytes | bytearray | memoryview, walk: JSONWalk, depth: int) -> dict[str, Any]:
    """Return the type, the length, and as many of the bytes in base64 as there is room for."""
    view = memoryview(value)
    view = view.cast("B") if view.nbytes and view.c_contiguous else memoryview(view.tobytes())
    shown = _text(b64encode(view[: max(walk.left, 0) + 3]).decode(), walk, depth)
    return {"type": type(value).__name__, "length": len(view), "base64": shown}


def _when(value: Any, walk: JSONWalk, depth: int) -> str | None:
    """Write a date or a time by its own `isoformat`; null for one that is not a time."""
    text = value.isoformat()
    return None if text == NOT_A_TIME else _text(text, walk, depth)


def _duration(value: timedelta, walk: JSONWalk, depth: int) -> str | None:
    kind = type(value)
    if hasattr(kind, "isoformat"):
        return _when(value, walk, depth)
    own = kind.__str__ is not timedelta.__str__
    text = str(value) if own else to_jsonable_python(value)
    return None if text == NOT_A_TIME else _text(text, walk, depth)


def _enum(value: Enum, walk: JSONWalk, depth: int) -> Any:
    return walk.value(value.value, depth)


# - values that hold others -


def _object(items: Iterable[tuple[object, object]], walk: JSONWalk, depth: int) -> dict[str, Any]:
    _check_depth(depth)
    made: dict[str, Any] = {}
    for key, item in items:
        if walk.left < 0:
            walk.full = True
            break
        name = _text(key, walk, 0) if type(key) is str else _name(key, walk)
        if name in made:
            raise Unsendable("two keys that are the same as text", "Its keys should be text.")
        try:
            made[name] = walk.value(item, depth - 1)
        except Unsendable as refusal:
            refusal.path.append(name)
            raise
    return made


def _array(items: Iterable[object], walk: JSONWalk, depth: int) -> list[Any]:
    _check_depth(depth)
    made: list[Any] = []
    for item in items:
        if walk.left < 0:
            walk.full = True
            break
        try:
            made.append(walk.value(item, depth - 1))
        except Unsendable as refusal:
            refusal.path.append(len(made))
            raise
    return made


def _check_depth(depth: int) -> None:
    if not depth:
        raise Unsendable(
            f"values nested deeper than {MAX_DEPTH} levels, or inside of themselves",
            "It should return fewer levels.",
        )


def _mapping(value: Mapping[object, object], walk: JSONWalk, depth: int) -> dict[str, Any]:
    return _object(value.items(), walk, depth)


def _name(key: object, walk: JSONWalk) -> str:
    """Write a key that is no string, as the same value is written outside a key."""
    try:
        name = walk.value(key, 0)
    except Unsendable:
        name = []
    if isinstance(name, list | dict):
        raise Unsendable(
            f"a key of type {kind_name(key)}", "Its keys should be text, numbers or dates."
        )
    return name if isinstance(name, str) else write_json(name).decode()


def _set(value: Set[object], walk: JSONWalk, depth: int) -> list[Any]:
    """Sort a set, so that equal sets are equal texts; a set that is too large is cut unsorted."""
    if len(value) > walk.left:
        return _array(value, walk, depth)
    kinds = set(map(type, value))
    if kinds <= {int, float} or kinds == {str}:
        return _array(sorted(value), walk, depth)  # type: ignore[type-var]  # they are comparable
    return sorted(_array(value, walk, depth), key=write_json)


def _model(value: BaseModel, walk: JSONWalk, depth: int) -> Any:
    unknown = partial(_unknown, walk, depth)
    dumped = value.model_dump(mode="json", by_alias=True, warnings=False, fallback=unknown)
    return walk.value(dumped, depth)


def _pydantic(value: Any, walk: JSONWalk, depth: int) -> Any:
    serializer = type(value).__pydantic_serializer__
    unknown = partial(_unknown, walk, depth)
    dumped = serializer.to_python(
        value, mode="json", by_alias=True, warnings=False, fallback=unknown
    )
    return walk.value(dumped, depth)


def _unknown(walk: JSONWalk, depth: int, value: object) -> Any:
    """Convert a value inside of a model that pydantic does not know, such as an array."""
    _check_depth(depth)
    inner = JSONWalk(walk.left)  # the walk counts the model's values once they are all converted
    converted = inner.value(value, depth - 1)
    walk.full |= inner.full
    return converted


Items = Callable[[Any], Iterable[tuple[str, object]]]
"""Returns the named items of a value."""


def _attributes(names: Callable[[Any], Iterable[str]]) -> Items:
    return lambda value: [(name, getattr(value, name)) for name in names(value)]


# Rows of databases (sqlite3, SQLAlchemy, asyncpg) and named tuples, which are sequences of their
# values: a check of the type, and a function that returns the items.
_ROWS: Final[list[tuple[Callable[[type], bool], Items]]] = [
    (has_methods("_fields", "_asdict"), lambda row: zip(row._fields, row, strict=True)),
    (
        lambda kind: has_methods("__getitem__")(kind) and callable(getattr(kind, "keys", None)),
        lambda row: [(name, row[name]) for name in row.keys()],  # noqa: SIM118  (it has values)
    ),
]
# Classes with fields: dataclasses, those of attrs and msgspec, namespaces.
_CLASSES: Final[list[tuple[Callable[[type], bool], Items]]] = [
    (is_dataclass, _attributes(lambda value: [field.name for field in fields(value)])),
    (
        has_methods("__attrs_attrs__"),
        _attributes(lambda value: [a.name for a in value.__attrs_attrs__]),
    ),
    (has_methods("__struct_fields__"), _attributes(lambda value: value.__struct_fields__)),
    (lambda kind: issubclass(kind, SimpleNamespace), lambda value: vars(value).items()),
]


def _named(kind: type, known: Sequence[tuple[Callable[[type], bool], Items]]) -> Convert | None:
    """Return the function that writes values of a type as objects; None if `known` lacks the type."""
    items_of = next((items for is_known, items in known if is_known(kind)), None)
    if items_of is None:
        return None

    def convert(value: Any, walk: JSONWalk, depth: int) -> Any:
        items = [*items_of(value)]
        if len(dict(items)) < len(items):  # of a query that selects a name twice
            return _array(value, walk, depth)
        return _object(items, walk, depth)

    return convert


def _foreign(read: Callable[[Any, int], Plain]) -> Convert:
    def convert(value: Any, walk: JSONWalk, depth: int) -> Any:
        plain = read(value, max(walk.left, 0))
        walk.full |= not plain.is_whole
        if isinstance(plain.value, Iterator):
            return _array(plain.value, walk, depth)
        return walk.value(plain.value, depth)

    return convert


# - values that are refused -


def _part_inside(value: ContentPart, walk: JSONWalk, depth: int) -> Any:
    raise Unsendable(
        "a content part inside of another value", "It should return it alone or in a list."
    )


def _refuse(advice: str) -> Convert:
    def refuse(value: object, walk: JSONWalk, depth: int) -> Any:
        if isinstance(value, Coroutine):
            value.close()  # otherwise Python warns that it was never awaited
        raise Unsendable(f"a value of type {kind_name(value)}", advice)

    return refuse


def _other(value: object, walk: JSONWalk, depth: int) -> Any:
    """Write a value that pydantic knows (a UUID, a URL), and refuse any other."""
    try:
        return walk.value(to_jsonable_python(value), depth)
    except PydanticSerializationError:
        raise Unsendable(f"a value of type {kind_name(value)}", _WANTED) from None


_WANTED = (
    "It should return text, numbers, lists, dicts, dataclasses, pydantic models or content parts."
)


def kind_name(value: object) -> str:
    """Return the name of a value's type, even if its metaclass has a `__name__` that raises."""
    name: str = _NAME.__get__(type(value))
    return name


_NAME = type.__dict__["__name__"]


# The nearest base of a type wins; docs/reference/tool-results.md documents this table.
_TABLE: Final[dict[type, Convert]] = {
    str: _text,
    bool: _itself,
    type(None): _itself,
    int: _integer,
    float: _number,
    Decimal: _as_text(str),
    datetime: _when,
    date: _when,
    time: _when,
    timedelta: _duration,
    PurePath: _as_text(str),
    UserString: _as_text(str),
    Enum: _enum,
    bytes: _bytes,
    bytearray: _bytes,
    memoryview: _bytes,
    dict: _mapping,
    list: _array,
    tuple: _array,
    ContentPart: _part_inside,
    BaseModel: _model,
}

_ABSTRACT: Final[list[tuple[type, Convert]]] = [
    (Mapping, _mapping),
    (Set, _set),
    (ValuesView, _array),
    (Sequence, _array),
    (Iterator, _refuse("It should return a list of what it yields.")),
    (AsyncIterator, _refuse("It should return a list of what it yields.")),
    (Awaitable, _refuse("It should await it and return what comes of it.")),
]


def _converter(kind: type) -> Convert:
    """Return what converts a type that the table does not name."""
    if issubclass(kind, Enum):  # a member may be a text, too
        return _enum
    is_row = not issubclass(kind, Mapping | BaseModel) and not hasattr(kind, "to_dict")
    if is_row and (row := _named(kind, _ROWS)):
        return row
    for base in kind.__mro__:
        if base in _TABLE:
            return _TABLE[base]
    for abstract, convert in _ABSTRACT:
        if issubclass(kind, abstract):
            return convert
    if hasattr(kind, "__pydantic_serializer__"):
        return _pydantic
    if named := _named(kind, _CLASSES):
        return named
    reader = reader_of(kind)
    return _other if reader is None else _foreign(reader)
