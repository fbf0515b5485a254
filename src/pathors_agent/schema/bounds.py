"""Copy and quote JSON values within bounds, so that every later traversal ends. Pure."""

from collections.abc import Mapping
from json import JSONEncoder
from typing import Any

DRAFT_2020_12 = "https://json-schema.org/draft/2020-12/schema"
DRAFT_7 = "http://json-schema.org/draft-07/schema"

# The largest schema of 885 published tool sets has 103 values, 8 levels and 4,300 characters.
# OpenAI allows a schema 5,000 properties, 10 levels and 120,000 characters of names.
MAX_SCHEMA_VALUES = 10_000
MAX_SCHEMA_TEXT = 250_000
# Arguments in those sets have up to 25 values; a table of 1,000 rows and 100 columns fits.
MAX_ARGUMENT_VALUES = 200_000
# The check of a level takes up to 12 of the 1,000 frames of Python's stack.
MAX_DEPTH = 50
# RSA keys of 4,096 bits have 1,234 digits. The time to write a number is quadratic.
MAX_DIGITS = 2_000
_MAX_BITS = MAX_DIGITS * 10 // 3

# Enough to recognise a value in an error.
MAX_QUOTE = 40

# Shorter strings take no measurable time.
_LONG = 100


class InvalidSchema(ValueError):
    """A JSON Schema that cannot be compiled; `path` is the place in it."""

    def __init__(self, text: str, *, path: str = "") -> None:
        super().__init__(text)
        self.path = path


class OutOfBounds(ValueError):
    """A value is too big, or not JSON; the text continues "This holds "."""


class Object(dict[str, Any]):
    """An object with its weight; a schema also has the targets of its references and its patterns."""

    weight = 1
    targets: Mapping[str, Any] = {}
    patterns: Mapping[str, Any] = {}

    def __repr__(self) -> str:
        return "{...}"  # jsonschema formats thousands of errors that are never shown


def resolved(schema: Any) -> Any:
    """Return the final target of a linked schema's references, or the schema itself."""
    while isinstance(schema, Object) and "$ref" in schema.targets:
        schema = schema.targets["$ref"]
    return schema


class Array(list[Any]):
    """An array with its weight."""

    weight = 1

    def __repr__(self) -> str:
        return "[...]"


class LongText(str):
    """A long string."""

    @property
    def weight(self) -> int:
        """One per hundred characters."""
        return len(self) // _LONG

    def __repr__(self) -> str:
        return "'...'"


def weight(value: Any) -> int:
    """Return the cost of reading a copied value."""
    return getattr(value, "weight", 1)


def copied_schema(value: Any) -> Any:
    """Copy a schema; raise `InvalidSchema` if it exceeds the bounds."""
    try:
        return _Copy(MAX_SCHEMA_VALUES, MAX_SCHEMA_TEXT).of(value, MAX_DEPTH)
    except OutOfBounds as error:
        raise InvalidSchema(f"holds {error}") from None


def copied_arguments(value: Any) -> Any:
    """Copy a value with strings of any length; raise `OutOfBounds`."""
    return _Copy(MAX_ARGUMENT_VALUES, None).of(value, MAX_DEPTH)


class _Copy:
    """One traversal of a value, which ends when a bound is exceeded."""

    def __init__(self, values: int, text: int | None) -> None:
        self._values, self._text = values, text
        self._values_seen = self._text_seen = 0

    def of(self, value: Any, depth: int) -> Any:
        self._values_seen += 1
        if self._values_seen > self._values:
            raise OutOfBounds(f"more than {self._values:,} values")
        if isinstance(value, dict | list | tuple):
            return self._container(value, depth)
        if isinstance(value, str):
            return self._string(value)
        return _scalar(value)

    def _container(self, value: Any, depth: int) -> Object | Array:
        if not depth:
            raise OutOfBounds(f"more than {MAX_DEPTH} levels of arrays and objects")
        copy: Object | Array
        if isinstance(value, dict):
            copy = Object({self._name(n): self.of(item, depth - 1) for n, item in value.items()})
            copy.weight = 1 + sum(map(weight, copy)) + sum(map(weight, copy.values()))
        else:
            copy = Array([self.of(item, depth - 1) for item in value])
            copy.weight = 1 + sum(map(weight, copy))
        return copy

    def _name(self, name: Any) -> str:
        if not isinstance(name, str):
            raise OutOfBounds(f"a name that is not a string: {type(name).__name__}")
        return self._string(name)

    def _string(self, value: str) -> str:
        self._text_seen += len(value)
        if self._text is not None and self._text_seen > self._text:
            raise OutOfBounds(f"more than {self._text:,} characters")
        return value if len(value) < _LONG else LongText(value)


def _scalar(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        if value.bit_length() > _MAX_BITS:
            raise OutOfBounds(f"a number of more than {MAX_DIGITS:,} digits")
        return value
    if not isinstance(value, float):
        raise OutOfBounds(f"a value that is not JSON: {type(value).__name__}")
    if value - value != 0:
        raise OutOfBounds("a number that is not finite")
    return value


def quote(value: Any) -> str:
    """Return the beginning of a value as JSON, in a time independent of its length."""
    if isinstance(value, str):
        value = value[: MAX_QUOTE + 1].encode(errors="replace").decode()
    text = ""
    for piece in _in_pieces(value):
        text += piece
        if len(text) > MAX_QUOTE:
            break
    return cut(text, MAX_QUOTE)


_in_pieces = JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str).iterencode


def cut(text: str, length: int) -> str:
    """Truncate a text that is too long, with an ellipsis."""
    return text if len(text) <= length else text[: length - 1] + "…"
