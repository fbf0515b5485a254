"""Read the arguments of a call, or describe their problems so that a model can correct them. Pure.

The texts quote the arguments: show them only to the model that wrote them.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from itertools import count, islice
from json import JSONDecoder
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, get_args

from pydantic import ValidationError
from pydantic_core import core_schema, from_json

from pathors_agent.messages import JSONValue
from pathors_agent.schema.bounds import MAX_QUOTE, cut, quote

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

# Enough to correct a call; with more problems it is cheaper to write it again.
MAX_PROBLEMS = 10
MAX_TEXT = 2_000
MAX_LINE = 300
MAX_NAMES = 20
MAX_ALLOWED = 200
# The time to compare two names is quadratic; a tool's name has at most 64 characters.
MAX_COMPARED = 100

TYPE_WORDS = {
    "string": "a string",
    "integer": "an integer",
    "number": "a number",
    "boolean": "a boolean",
    "array": "an array",
    "object": "an object",
    "null": "null",
}


class ArgumentsRefused(Exception):
    """The arguments are invalid; the text continues "The arguments of <tool> "."""


class ArgumentProblem(NamedTuple):
    """One problem: its place (a JSON pointer), the value wanted there, and the value given.

    `example` is the JSON text of a valid value.
    """

    pointer: str
    wanted: str
    given: str = ""
    example: str = ""


class SchemaValidator(Protocol):
    """The result of `compile_schema`: a validator of values."""

    def problems(self, value: JSONValue) -> list[ArgumentProblem]:
        """Return the problems of a value; none if it is valid."""


class CheckedArguments:
    """Read arguments that a JSON Schema accepts, without conversion."""

    def __init__(self, validator: SchemaValidator) -> None:
        self._validator = validator

    def read(self, text: str) -> dict[str, Any]:
        """Return the arguments, or raise `ArgumentsRefused`."""
        arguments = parse_object(text)
        if problems := self._validator.problems(arguments):
            raise ArgumentsRefused(report(problems))
        return arguments


class TypedArguments:
    """Read arguments into the Python types of a signature."""

    def __init__(
        self, read: Callable[[str], dict[str, Any]], properties: Mapping[str, Any]
    ) -> None:
        self._validate = read
        self._properties = properties

    def read(self, text: str) -> dict[str, Any]:
        """Return the converted arguments, or raise `ArgumentsRefused`."""
        if "NaN" in text or "Infinity" in text:  # numbers for pydantic, but not JSON
            parse_object(text)
        try:
            arguments = self._validate(text)
        except ValidationError as error:
            return self._read_refused(text, error)
        refuse_repeated_names(text, len(arguments))
        return arguments

    def _read_refused(self, text: str, error: ValidationError) -> dict[str, Any]:
        arguments = parse_object(text)
        if not arguments and text != "{}":
            return self.read("{}")
        details = error.errors(include_url=False)
        if (whole := with_whole_numbers(text, details)) is not None:
            return self.read(whole)
        raise ArgumentsRefused(report(self._problem(detail, arguments) for detail in details))

    def _problem(self, detail: "ErrorDetails", arguments: JSONValue) -> ArgumentProblem:
        path = _path(detail, arguments)
        pointer, name = json_pointer(path), str(path[-1]) if path else ""
        known = self._properties if len(path) == 1 else {}
        if detail["type"].startswith("missing"):
            return ArgumentProblem(pointer, missing(known.get(name, {})))
        if detail["type"] == "union_tag_not_found" and _tag(detail).endswith("()"):
            return ArgumentProblem(pointer, "is none of the alternatives", given(detail["input"]))
        if detail["type"] == "union_tag_not_found":
            return ArgumentProblem(json_pointer([*path, _tag(detail)]), "is missing")
        if detail["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            return ArgumentProblem(pointer, unknown(name, known))
        return ArgumentProblem(pointer, _wanted(detail), given(detail["input"]))


# Errors of pydantic for a float where an integer, or one of a few values, is wanted.
_WHOLE_WANTED = frozenset(
    {"int_type", "int_from_float", "int_parsing_size", "literal_error", "enum", "union_tag_invalid"}
)
# Strings are matched as well, so that numbers inside of them are skipped.
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*')


class _WrittenFloat(float):
    """A float, and its position among all floats of the text."""

    place: int


def with_whole_numbers(text: str, details: Iterable["ErrorDetails"]) -> str | None:
    """Rewrite 1.0 and 1e2 as 1 and 100 where an integer is wanted; return None if there are none.

    They are integers in JSON Schema, and floats in pydantic. Only refused values are rewritten, so
    that other floats do not change and valid arguments cost nothing.
    """
    wanted = [detail for detail in details if detail["type"] in _WHOLE_WANTED]
    if not wanted:
        return None
    places = count()

    def written(number: str) -> _WrittenFloat:
        made = _WrittenFloat(number)
        made.place = next(places)
        return made

    value = JSONDecoder(parse_float=written).decode(text)
    found = [_at_path(detail, value) for detail in wanted]
    whole = {one.place for one in found if isinstance(one, _WrittenFloat) and one.is_integer()}
    return _rewritten(text, whole) if whole else None


def _at_path(detail: "ErrorDetails", value: Any) -> Any:
    for key in _path(detail, value):
        value = value[key]
    is_tag = detail["type"] == "union_tag_invalid" and isinstance(value, dict)
    return value.get(_tag(detail)) if is_tag else value


def _tag(detail: "ErrorDetails") -> str:
    """Return the name of the discriminator of a union."""
    named: str = detail["ctx"]["discriminator"]
    return named.partition(" | ")[0].strip("'")


def _rewritten(text: str, whole: set[int]) -> str:
    places = count()

    def token(match: re.Match[str]) -> str:
        found = match[0]
        is_float = not found.startswith('"') and not found.lstrip("-").isdigit()
        if is_float and next(places) in whole:
            return str(int(Decimal(found)))
        return found

    return _TOKEN.sub(token, text)


def parse_object(text: str) -> dict[str, Any]:
    """Parse arguments strictly: one JSON object, or an empty text for no arguments."""
    if not text or text.isspace():
        return {}
    try:
        value = from_json(text.encode(), allow_inf_nan=False)
    except UnicodeEncodeError as error:  # half of a surrogate pair
        raise ArgumentsRefused(f"are not Unicode at character {error.start + 1}.") from None
    except ValueError as error:
        raise ArgumentsRefused(_not_json(text, str(error))) from None
    if not isinstance(value, dict):
        raise ArgumentsRefused(f"should be one JSON object, not {given(value)}.")
    refuse_repeated_names(text, len(value))
    return value


def refuse_repeated_names(text: str, names: int) -> None:
    """Raise `ArgumentsRefused` if an object in a JSON text has a name twice.

    Some parsers keep the first value of a repeated name, some the last. `names` is the number of
    names after parsing. If the text has as many colons, no name was lost. Otherwise it is parsed a
    second time: 1.5 µs for 100 characters.
    """
    if text.count(":") == names or (text.count('":') == names and not _has_spaced_colon(text)):
        return
    _decode_unrepeated(text)


def _has_spaced_colon(text: str) -> bool:
    return " :" in text or "\n:" in text or "\t:" in text or "\r:" in text


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ArgumentsRefused(f"hold the name {quote(twice)} twice in one object.")
    return value


_decode_unrepeated = JSONDecoder(object_pairs_hook=_unrepeated).decode


def _not_json(text: str, reason: str) -> str:
    """Return why a text is not JSON, from the parser's "<reason> at line <n> column <bytes>"."""
    what, _, place = reason.rpartition(" at line ")
    if what.startswith("recursion"):
        return "are nested too deeply; send fewer levels of arrays and objects."
    line, _, column = place.partition(" column ")
    lines = text.encode().splitlines(keepends=True)
    before = b"".join(lines[: int(line) - 1]) + b"".join(lines[int(line) - 1 :])[: int(column)]
    at = len(before.decode(errors="ignore"))
    near = text[max(0, at - MAX_QUOTE // 2) : at + MAX_QUOTE // 2]
    return f"are not JSON: {what} at character {at}, near `{near}`. Send one JSON object."


# pydantic's texts name Python's types here; the model knows JSON's.
_WORDS = dict.fromkeys(
    ("model_type", "dataclass_type", "dict_type", "mapping_type", "model_attributes_type"),
    "should be an object",
)

_KNOWN = frozenset(get_args(core_schema.ErrorType))


def _wanted(detail: "ErrorDetails") -> str:
    if detail["type"] in ("value_error", "assertion_error"):
        return detail["msg"].partition(", ")[2] or f"is refused ({_class_of_cause(detail)})"
    message = detail["msg"].removeprefix("Input ")
    if detail["type"] not in _KNOWN:  # a text of the author of the tool
        return message
    first = message.partition(" ")[0]
    is_word = first[1:].islower() or len(first) == 1
    lowered = message[:1].lower() + message[1:] if is_word else message
    return _WORDS.get(detail["type"], lowered)


def _class_of_cause(detail: "ErrorDetails") -> str:
    """Return the name of the exception that a validator raised without a text."""
    return type(detail.get("ctx", {}).get("error", ValueError())).__name__


def _path(detail: "ErrorDetails", value: Any) -> list[str | int]:
    """Return the path of an error, without the names of union members that pydantic adds."""
    path: list[str | int] = []
    names_absent_key = detail["type"].startswith("missing")
    for position, key in enumerate(detail["loc"], start=1):
        if _holds(value, key):
            value = value[key]
        elif not (names_absent_key and position == len(detail["loc"])):
            continue
        path.append(key)
    return path


def _holds(value: Any, key: str | int) -> bool:
    if isinstance(value, list):
        return isinstance(key, int) and key < len(value)
    return isinstance(value, dict) and key in value


def json_pointer(path: Iterable[str | int]) -> str:
    """Return a path as a JSON pointer (RFC 6901)."""
    return "".join("/" + str(key).replace("~", "~0").replace("/", "~1") for key in path)


def missing(schema: Any) -> str:
    """Return that a value is missing, with the allowed values or the type."""
    if not isinstance(schema, Mapping):
        return "is missing"
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if values:
        return f"is missing, {allowed(values)}"
    kind = schema.get("type")
    words = TYPE_WORDS.get(kind) if isinstance(kind, str) else None
    return f"is missing, should be {words}" if words else "is missing"


def allowed(values: Iterable[Any]) -> str:
    """Return which values are allowed."""
    shown = map(quote, islice(values, MAX_ALLOWED // 4))  # " or " is four characters long
    return cut("should be " + " or ".join(shown), MAX_ALLOWED)


def unknown(name: str, known: Iterable[str]) -> str:
    """Return that a name is unknown, with the most similar name or all known names."""
    names = list(known)
    if match := closest(name, names):
        return f"is unknown, did you mean {quote(match)}?"
    return f"is unknown, known are: {listed(names)}" if names else "is unknown"


def closest(name: str, names: Iterable[str]) -> str | None:
    """Return the known name that is most similar to a wrong name, or None."""
    from difflib import get_close_matches  # lazily: only refused calls need it

    near = (known for known in names if len(known) <= MAX_COMPARED)
    return next(iter(get_close_matches(name[:MAX_COMPARED], islice(near, MAX_COMPARED), n=1)), None)


def listed(names: Iterable[str]) -> str:
    """Return names as a list, at most twenty."""
    names = list(names)
    more = len(names) - MAX_NAMES
    return ", ".join(names[:MAX_NAMES]) + (f" and {more} more" if more > 0 else "")


def report(problems: Iterable[ArgumentProblem], what: str = "its parameters") -> str:
    """Return problems as text, one line per place."""
    places: dict[tuple[str, str], list[ArgumentProblem]] = {}
    for problem in problems:
        places.setdefault((problem.pointer, problem.given), []).append(problem)
    lines = [_line(*same) for same in places.values()]
    if len(lines) > MAX_PROBLEMS:
        lines[MAX_PROBLEMS:] = [f"- and {len(lines) - MAX_PROBLEMS} more problems"]
    return f"do not fit {what}:\n" + "\n".join(lines)


def _line(problem: ArgumentProblem, *same_place: ArgumentProblem) -> str:
    others = (other.wanted.removeprefix("is missing, ") for other in same_place)
    wanted = dict.fromkeys(
        [problem.wanted, *(other.removeprefix("should be ") for other in others)]
    )
    del wanted[problem.wanted]
    wanted.pop(problem.wanted.removeprefix("is missing, ").removeprefix("should be "), None)
    words = " or ".join([problem.wanted, *wanted])
    got = f", got {problem.given}" if problem.given else ""
    example = next((other.example for other in (problem, *same_place) if other.example), "")
    return cut(f"- {problem.pointer or 'all'}: {words}{got}" + _shown(example), MAX_LINE)


def _shown(example: str) -> str:
    return f"; for example {example}" if example else ""


def given(value: Any) -> str:
    """Return the JSON type of a value and its beginning."""
    match value:
        case None:
            return "null"
        case bool():
            return f"the boolean {quote(value)}"
        case int() | float():
            return f"the number {quote(value)}"
        case str():
            return f"the string {quote(value)}"
        case list():
            return f"the array {quote(value)}"
        case _:
            return f"the object {quote(value)}"
