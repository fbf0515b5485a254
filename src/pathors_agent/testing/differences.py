"""Find where two JSON values differ first, and how far apart they are."""

import json
from collections.abc import Iterator
from typing import Any

from pathors_agent.errors import Difference

SHOWN_CHARACTERS = 100


class _Absent:
    """Nothing, where the other value has something."""


ABSENT = _Absent()


def differences(before: Any, now: Any, path: str = "") -> Iterator[Difference]:
    """Give each place where two values differ, in the order in which they are written."""
    match before, now:
        case dict(), dict():
            for name in [*before, *(name for name in now if name not in before)]:
                place = f"{path}.{name}" if path else str(name)
                yield from differences(before.get(name, ABSENT), now.get(name, ABSENT), place)
        case list(), list():
            for index in range(max(len(before), len(now))):
                yield from differences(_item(before, index), _item(now, index), f"{path}[{index}]")
        case _:
            if type(before) is not type(now) or before != now:
                yield Difference(path, _shown(before, now), _shown(now, before))


def _item(values: list[Any], index: int) -> Any:
    return values[index] if index < len(values) else ABSENT


def _shown(value: Any, other: Any) -> str:
    """Show a value, of a long text the part around the first character that differs."""
    if value is ABSENT:
        return "nothing"
    if isinstance(value, str) and isinstance(other, str):
        value = _around_difference(value, other)
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"


def _around_difference(text: str, other: str) -> str:
    if len(text) <= SHOWN_CHARACTERS // 2:
        return text
    pairs = zip(text, other, strict=False)
    at = next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(text), len(other)))
    start = max(0, at - SHOWN_CHARACTERS // 4)
    end = at + SHOWN_CHARACTERS // 4
    return ("…" if start else "") + text[start:end] + ("…" if end < len(text) else "")
