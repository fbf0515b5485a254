"""Search patterns of JSON Schemas in linear time, by the syntax of ECMA-262. Pure.

The engine is the one inside pydantic: its searches are linear, so it has no look-around and no
back-references. Patterns with those are refused.
"""

import re
from math import prod
from typing import NamedTuple

from pydantic_core import SchemaError, SchemaValidator, core_schema

from pathors_agent.schema.bounds import InvalidSchema

# Compiled, a unit of weight takes up to 4 µs and 2 kB: all patterns of a schema 80 ms and 40 MB.
MAX_WEIGHT = 20_000

# A repeated group repeats all in it; a repeated character only itself.
_GROUP_REPEATS = re.compile(r"\)\{(?:\d*,)?(\d+)")
_OTHER_REPEATS = re.compile(r"(?<!\))\{(?:\d*,)?(\d+)")
# A class like \p{L} is made of hundreds of byte ranges.
_UNICODE_CLASS = re.compile(r"\\[pP]")
_UNICODE_WEIGHT = 60

# ECMA-262 means ASCII where the engine means Unicode. Inside of [...] the engine reads a [ as
# a set within, and && -- ~~ as operators on sets; ECMA-262 reads characters.
_TOKEN = re.compile(r"\\.|\[\^?|\]|&&|--|~~", re.DOTALL)
_CLASSES = {
    r"\d": "[0-9]",
    r"\D": "[^0-9]",
    r"\w": "[A-Za-z0-9_]",
    r"\W": "[^A-Za-z0-9_]",
    r"\s": r"[\s\uFEFF]",
    r"\S": r"[^\s\uFEFF]",
}


class Pattern(NamedTuple):
    """A pattern that can be searched for; a search costs at most its weight per character."""

    weight: int
    validator: SchemaValidator

    def found_in(self, text: str) -> bool:
        """Say whether the pattern is anywhere in a text."""
        return self.validator.isinstance_python(text)


def compile_pattern(pattern: str) -> Pattern:
    """Compile a pattern, or raise `InvalidSchema` where no linear search is possible."""
    weight = _weight(pattern)
    if weight > MAX_WEIGHT:
        raise InvalidSchema("is a pattern that repeats too much")
    own = _translated(pattern)
    schema = core_schema.str_schema(pattern=own, regex_engine="rust-regex")
    try:
        return Pattern(weight, SchemaValidator(schema))
    except SchemaError as error:
        reason = str(error).strip().rpartition("error: ")[2]
        raise InvalidSchema(f"is a pattern that cannot be searched for: {reason}") from None


def _weight(pattern: str) -> int:
    """Estimate how large a pattern becomes when it is compiled."""
    atoms = len(pattern) + sum(map(_number, _OTHER_REPEATS.findall(pattern)))
    groups = prod(max(1, _number(count)) for count in _GROUP_REPEATS.findall(pattern))
    return atoms * groups * (_UNICODE_WEIGHT if _UNICODE_CLASS.search(pattern) else 1)


def _number(digits: str) -> int:
    return int(digits) if len(digits) < 7 else MAX_WEIGHT


def _translated(pattern: str) -> str:
    inside = False

    def token(match: re.Match[str]) -> str:
        nonlocal inside
        found = match[0]
        if found[0] == "\\":
            return _CLASSES.get(found, found)
        if found == "]":
            inside = False
            return found
        if found[0] == "[" and not inside:
            inside = True
            return found
        return found if not inside else "".join("\\" + c if c != "^" else c for c in found)

    return _TOKEN.sub(token, pattern)
