"""Describe the values of a flag in a JSON Schema, and read them. Pure.

pydantic shows the members of a flag, and reads any number as one.
"""

from collections.abc import Callable
from enum import Flag
from typing import Any, Final

from pydantic_core import PydanticCustomError

# A flag of more bits lists its members in the schema, and not their 2,048 sums.
MAX_FLAG_BITS: Final = 10


def flag_schema(flag: type[Flag]) -> dict[str, Any]:
    """Return the JSON Schema of the values of a flag: the sums of its members."""
    values = _flag_values(flag)
    step = values[1] - values[0] if len(values) > 1 else 1
    if values == list(range(values[0], values[-1] + 1, step)):
        stepped = {"multipleOf": step} if step > 1 else {}
        return {"type": "integer", "minimum": 0, "maximum": values[-1]} | stepped
    return {"type": "integer", "enum": values}


def _flag_values(flag: type[Flag]) -> list[int]:
    """List the numbers that a model may send for a flag: the sums of its single bits."""
    bits = sorted(_bits(flag).values())
    if len(bits) > MAX_FLAG_BITS:
        return [0, *bits]
    return sorted(sum(b for i, b in enumerate(bits) if n >> i & 1) for n in range(1 << len(bits)))


def flag_words(flag: type[Flag]) -> str:
    """Return which numbers are values of a flag, and what each bit is called."""
    bits = _bits(flag)
    named = ", ".join(f"{bit} ({name})" for name, bit in bits.items())
    return f"a sum of {named}" if len(bits) <= MAX_FLAG_BITS else f"one of 0, {named}"


def _bits(flag: type[Flag]) -> dict[str, int]:
    members = {name: int(member.value) for name, member in flag.__members__.items()}
    return {name: value for name, value in members.items() if value > 0 and not value & value - 1}


def flag_reader(flag: type[Flag]) -> Callable[[Any], object]:
    """Return a function that reads a number as a flag, and raises pydantic's errors."""
    values = frozenset(_flag_values(flag))

    def read(given: Any) -> object:
        if isinstance(given, bool | list | dict) or given not in values:
            raise PydanticCustomError("flag", "should be {words}", {"words": flag_words(flag)})
        return flag(int(given))

    return read
