"""Arguments for tools, drawn from a JSON Schema: valid ones and broken ones."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, Protocol, TypeVar

from pathors_agent.messages import JSONValue
from pathors_agent.schema.arguments import ArgumentsRefused
from pathors_agent.tools.tool import Tool

T = TypeVar("T")


class CannotDraw(Exception):
    """No value can be drawn; the text is the reason."""


class NeedsHypothesis(CannotDraw):
    """Only Hypothesis can draw this value."""


class Draws(Protocol):
    """A source of choices."""

    def choice(self, options: Sequence[T]) -> T:
        """Choose one of the options; the first is the simplest."""

    def integer(self, least: int, most: int) -> int:
        """Choose a number in this range, including both ends."""

    def several(self, make: Callable[["Draws"], T], least: int, most: int) -> list[T]:
        """Draw a list with a number of items in this range."""

    def matching(self, pattern: str) -> str:
        """Draw a text that matches the pattern, or raise `CannotDraw`."""


class SeededDraws:
    """Choices from a seed, equal on every machine."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)  # noqa: S311  (protects nothing)

    def choice(self, options: Sequence[T]) -> T:
        """Choose one of the options, with equal probability."""
        return options[int(self._random.random() * len(options))]

    def integer(self, least: int, most: int) -> int:
        """Choose a number, with equal probability."""
        return least + int(self._random.random() * (most - least + 1))

    def several(self, make: Callable[[Draws], T], least: int, most: int) -> list[T]:
        """Draw a number of items; short lists are more likely."""
        count = min(self.integer(least, most), self.integer(least, most))
        return [make(self) for _ in range(count)]

    def matching(self, pattern: str) -> str:
        """Raise: only Hypothesis builds texts for patterns."""
        raise NeedsHypothesis(f"no text can be made for the pattern {pattern!r}")


class FirstDraws:
    """The simplest choice every time."""

    def choice(self, options: Sequence[T]) -> T:
        """Return the first option."""
        return options[0]

    def integer(self, least: int, most: int) -> int:
        """Return the number nearest to 0."""
        return min(max(0, least), most)

    def several(self, make: Callable[[Draws], T], least: int, most: int) -> list[T]:
        """Draw as few items as allowed."""
        return [make(self) for _ in range(least)]

    def matching(self, pattern: str) -> str:
        """Raise, as `SeededDraws` does."""
        raise NeedsHypothesis(f"no text can be made for the pattern {pattern!r}")


# Ends recursive schemas; schemas written by hand have fewer levels.
MAX_DEPTH = 8
# Enough for a member of a union, its object, and a value in it.
FEW_LEVELS = 3
MAX_ITEMS = 4
MAX_CHARACTERS = 12
MAX_NUMBER = 1_000

# "naïve" and the emoji are more bytes than characters; quotes and line ends must be escaped.
TEXTS = ("", "a", "Oslo", "two words", 'a "quoted" word', "naïve 🙂", "line\nline", "0", "null")
FORMATS = {
    "date": ("2000-01-01", "2024-02-29", "1969-12-31"),
    "date-time": ("2000-01-01T00:00:00Z", "2024-02-29T23:59:59.5+05:30"),
    "time": ("00:00:00Z", "23:59:59.25Z"),
    "duration": ("P0D", "PT1.5S", "P1DT2H"),
    "uuid": ("00000000-0000-4000-8000-000000000000", "6f1e2a34-5b67-4c89-9abc-def012345678"),
    "email": ("a@example.org", "first.last+tag@example.org"),
    "uri": ("https://example.org/", "https://example.org/a?b=c#d"),
    "ipv4": ("127.0.0.1", "192.0.2.1"),
    "ipv6": ("::1", "2001:db8::1"),
    "binary": ("", "a"),
    "path": ("a", "a/b.txt"),
}
_ANYTHING: tuple[JSONValue, ...] = (None, True, 0, "a", [], {})


def schema_value(schema: Any, draws: Draws, *, root: Any = None, depth: int = MAX_DEPTH) -> Any:
    """Draw a value that probably fits the schema, or raise `CannotDraw`."""
    maker = _ArgumentsMaker(schema if root is None else root, draws)
    return maker.value(schema, depth)


class _ArgumentsMaker:
    """Draws a value; it holds the whole schema, which references need, and the choices."""

    def __init__(self, root: Any, draws: Draws) -> None:
        self._root = root
        self._draws = draws

    def value(self, schema: Any, depth: int) -> Any:
        if depth < 0:
            raise CannotDraw(f"the schema has more than {MAX_DEPTH} levels")
        if schema is False:
            raise CannotDraw("the schema takes no value at all")
        if not isinstance(schema, Mapping):
            return self._draws.choice(_ANYTHING)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return self._draws.choice(schema["enum"])
        if isinstance(schema.get("$ref"), str):
            return self.value(self._target(schema["$ref"]), depth - 1)
        for keyword in ("anyOf", "oneOf"):
            if schema.get(keyword):
                return self._member(schema, keyword, depth)
        if schema.get("allOf"):
            return self.value(_merged(schema, *schema["allOf"]), depth - 1)
        return self._typed(schema, depth)

    def _target(self, reference: str) -> Any:
        found = self._root
        try:
            for name in filter(None, reference.removeprefix("#").split("/")):
                key = name.replace("~1", "/").replace("~0", "~")
                found = found[int(key)] if isinstance(found, Sequence) else found[key]
        except (LookupError, ValueError, TypeError):
            raise CannotDraw(f"the reference {reference!r} leads nowhere") from None
        return found

    def _member(self, schema: Mapping[str, Any], keyword: str, depth: int) -> Any:
        rest = {name: rule for name, rule in schema.items() if name != keyword}
        members = list(schema[keyword])
        # The simplest member if few levels are left.
        member = self._draws.choice(members) if depth > FEW_LEVELS else min(members, key=_levels)
        if isinstance(member, Mapping) and "$ref" in member:
            member = self._target(member["$ref"])
        return self.value(_merged(rest, member), depth - 1)

    def _typed(self, schema: Mapping[str, Any], depth: int) -> Any:
        kind = schema.get("type") or ("object" if "properties" in schema else None)
        if isinstance(kind, list | tuple):
            kind = self._draws.choice(kind)
        match kind:
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, depth)
            case "string":
                return self._string(schema)
            case "integer":
                return self._integer(schema)
            case "number":
                return self._number(schema)
            case "boolean":
                return self._draws.choice([False, True])
            case "null":
                return None
            case _:
                return self._draws.choice(_ANYTHING)

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        known, required = schema.get("properties", {}), schema.get("required", ())
        made = {name: self.value(known.get(name), depth - 1) for name in required}
        for name, rule in known.items():
            if name not in made and depth > 1 and self._draws.choice([False, True]):
                made[name] = self.value(rule, depth - 1)
        more = schema.get("additionalProperties")
        if isinstance(more, Mapping) and depth > 1:
            names = self._draws.several(lambda draws: draws.choice(TEXTS), 0, MAX_ITEMS)
            made |= {name: self.value(more, depth - 1) for name in names if name not in known}
        return made

    def _array(self, schema: Mapping[str, Any], depth: int) -> list[Any]:
        first = [self.value(rule, depth - 1) for rule in schema.get("prefixItems", ())]
        rule = schema.get("items", True)
        least = max(schema.get("minItems", 0) - len(first), 0)
        most = max(least, min(schema.get("maxItems", MAX_ITEMS), MAX_ITEMS) - len(first))
        if rule is False or (depth <= 1 and not least):
            return first
        rest = self._draws.several(lambda draws: self.value(rule, depth - 1), least, most)
        return _distinct(first + rest) if schema.get("uniqueItems") else first + rest

    def _string(self, schema: Mapping[str, Any]) -> str:
        if schema.get("format") in FORMATS:
            return self._draws.choice(FORMATS[schema["format"]])
        if "pattern" in schema:
            examples = [text for text in _examples(schema) if isinstance(text, str)]
            return self._draws.choice(examples) if examples else self._matching(schema["pattern"])
        least = schema.get("minLength", 0)
        most = schema.get("maxLength", max(least, MAX_CHARACTERS))
        text = self._draws.choice(TEXTS)
        return text.ljust(least, "a")[:most]

    def _matching(self, pattern: str) -> str:
        try:
            return self._draws.matching(pattern)
        except CannotDraw:
            texts = _texts_with(pattern)
            if not texts:
                raise
            return self._draws.choice(texts)

    def _integer(self, schema: Mapping[str, Any]) -> int:
        step = schema.get("multipleOf", 1)
        least, most = _bounds(schema, 1)
        if step == 1:
            return self._draws.integer(least, most)
        step = int(step) or 1
        return step * self._draws.integer(-(-least // step), most // step)

    def _number(self, schema: Mapping[str, Any]) -> int | float:
        if "multipleOf" in schema:
            return self._integer(schema)
        least, most = _bounds(schema, 0)
        whole = self._draws.integer(least, most)
        part = self._draws.choice([0, 0.5, 0.1])
        return whole + part if whole + part < most else whole


def _bounds(schema: Mapping[str, Any], step: int) -> tuple[int, int]:
    """Return the smallest and the largest whole number that the bounds allow."""
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    least = schema.get("minimum", None if above is None else above + (step or 1))
    most = schema.get("maximum", None if below is None else below - (step or 1))
    if least is None:
        least = -MAX_NUMBER if most is None else min(-MAX_NUMBER, most - MAX_NUMBER)
    if most is None:
        most = max(MAX_NUMBER, least + MAX_NUMBER)
    low, high = int(-(-least // 1)), int(most // 1)
    if low > high:
        raise CannotDraw("the bounds leave no whole number")
    return low, high


def _merged(*schemas: Any) -> dict[str, Any]:
    """Merge schemas; the last schema of a property wins."""
    merged: dict[str, Any] = {}
    for schema in schemas:
        for name, rule in schema.items() if isinstance(schema, Mapping) else ():
            if name == "allOf":
                continue
            if name == "properties":
                merged[name] = {**merged.get(name, {}), **rule}
            elif name == "required":
                merged[name] = [*merged.get(name, ()), *rule]
            else:
                merged[name] = rule
    return merged


def _texts_with(pattern: str) -> list[str]:
    try:
        return [text for text in TEXTS if re.search(pattern, text)]
    except re.error:
        return []


def _examples(schema: Mapping[str, Any]) -> list[Any]:
    default = [schema["default"]] if "default" in schema else []
    return [*schema.get("examples", ()), *default]


def _distinct(values: list[Any]) -> list[Any]:
    return [value for place, value in enumerate(values) if value not in values[:place]]


def _levels(schema: Any) -> tuple[bool, int]:
    """Return a measure of depth: schemas with references are deeper than those without."""
    text = str(schema)
    return "$ref" in text, len(text)


# Drawn values almost always fit; a schema that refuses this many needs examples.
ATTEMPTS = 20

Arguments = dict[str, Any]


def fitting_arguments(tool: Tool, draws: Draws) -> Arguments:
    """Draw arguments that the tool accepts, or raise `CannotDraw`."""
    refusal = ""
    for _ in range(ATTEMPTS):
        made: Arguments = schema_value(tool.sent_parameters, draws)
        try:
            tool.arguments.read(json.dumps(made))
        except ArgumentsRefused as refused:
            refusal = str(refused)
            continue
        return made
    raise CannotDraw(f"made {ATTEMPTS} times, they {refusal}")


def probable_arguments(parameters: Any, draws: Draws) -> Arguments:
    """Draw arguments that probably fit a schema; return {} if none can be drawn."""
    try:
        made = schema_value(parameters, draws)
    except CannotDraw:
        return {}
    return made if isinstance(made, dict) else {}


def mistaken_arguments(parameters: Any, draws: Draws) -> Mapping[str, JSONValue] | str:
    """Draw broken arguments as models send them: invalid JSON, not an object, or wrong values."""
    made = probable_arguments(parameters, draws)
    return draws.choice(_MISTAKES)(made, draws)


def cut_arguments(parameters: Any, draws: Draws) -> str:
    """Draw truncated arguments."""
    return _cut(probable_arguments(parameters, draws), draws)


def _cut(made: Arguments, draws: Draws) -> str:
    text = json.dumps(made, ensure_ascii=False)
    return text[: draws.integer(0, len(text) - 1)]


def _without_one(made: Arguments, draws: Draws) -> Arguments:
    name = draws.choice([*made]) if made else None
    return {other: value for other, value in made.items() if other != name}


def _with_one_twice(made: Arguments, draws: Draws) -> str:
    name = draws.choice([*made] or ["a"])
    value = f"{json.dumps(name)}: {json.dumps(made.get(name, 1))}"
    return "{" + f"{value}, {value}" + "}"


def _with_another_type(made: Arguments, draws: Draws) -> Mapping[str, JSONValue]:
    return {**made, draws.choice([*made] or ["a"]): draws.choice(_VALUES)}


def _with_no_number(made: Arguments, draws: Draws) -> str:
    name = json.dumps(draws.choice([*made] or ["a"]))
    return "{" + f"{name}: {draws.choice(['NaN', 'Infinity', '1e999', '-'])}" + "}"


_VALUES: list[JSONValue] = [None, "", 0, -1, 10**30, 0.5, True, [], {}, "5", "é" * 3, "../../etc"]
_NOT_OBJECTS = ["null", "[]", "1", '"a"', "", " "]
_NOT_JSON = ["{", "{'a': 1}", "{a: 1}", "None", "\x00", "[" * 200]
_MISTAKES: list[Callable[[Arguments, Draws], Mapping[str, JSONValue] | str]] = [
    lambda made, draws: {},
    _without_one,
    lambda made, draws: {**made, "unknown": 1},
    _with_another_type,
    lambda made, draws: draws.choice(_NOT_OBJECTS),
    lambda made, draws: draws.choice(_NOT_JSON),
    _cut,
    lambda made, draws: json.dumps(made) * 2,
    lambda made, draws: json.dumps(json.dumps(made)),  # a JSON text in a JSON text
    _with_one_twice,
    _with_no_number,
]
