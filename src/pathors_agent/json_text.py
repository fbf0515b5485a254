"""JSON text that every reader accepts: UTF-8, without unpaired surrogates."""

import json
from datetime import datetime
from typing import Any

import msgspec
from pydantic_core import from_json

from pathors_agent.messages import JSONValue, ToolCall

# Rejects numbers that overflow a double: JSON's grammar allows them, but readers do not.
_OBJECT = msgspec.json.Decoder(dict[str, object])
# The limit of pydantic, which reads the arguments of tools; other readers allow more.
_LEVELS = 200


def write_json(value: object) -> bytes:
    """Return a value as JSON; surrogates are joined or replaced as in `whole_characters`."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return whole_characters(
            json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        ).encode()


def read_json(text: str | bytes, default: Any = None) -> Any:
    """Return the value of a JSON text, or `default` for any other text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return default


def call_arguments(call: ToolCall) -> dict[str, JSONValue] | None:
    """Return a call's arguments, or None if they are not a JSON object; no text means {}."""
    value = read_json(call.arguments or "{}")
    return value if isinstance(value, dict) else None


def call_text(call: ToolCall) -> str:
    """Return a call as Python would write it: `weather(city="Oslo")`."""
    arguments = call_arguments(call)
    if arguments is None:
        return f"{call.name}({call.arguments})"
    given = (f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in arguments.items())
    return f"{call.name}({', '.join(given)})"


def iso(time: datetime | None) -> str | None:
    """Return a time as the API writes it: UTC, milliseconds, Z."""
    if time is None:
        return None
    return time.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def whole_characters(text: str) -> str:
    """Join surrogate pairs; an unpaired surrogate becomes U+FFFD."""
    if text.isascii():  # Python knows this without reading the text
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def is_json_object(text: str) -> bool:
    """Return True if a text is one JSON object that every JSON reader accepts.

    False for NaN and infinite numbers, unpaired surrogates, and more than 200 levels.
    """
    text = whole_characters(text)
    try:
        _OBJECT.decode(text)
        if text.count("{") + text.count("[") > _LEVELS:  # may be nested too deeply
            from_json(text.encode())
    except (ValueError, RecursionError):
        return False
    return True


def is_deeper(value: object, text: str | bytes, levels: int) -> bool:
    """Return True if the containers of a value are nested deeper; `text` is its JSON text."""
    # Each container has a bracket, so few brackets need no walk.
    if isinstance(text, str):
        brackets = text.count("[") + text.count("{")
    else:
        brackets = text.count(b"[") + text.count(b"{")
    if brackets <= levels:
        return False
    level = [value]
    for _ in range(levels):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return False
    return True


def _inside(value: object) -> list[object]:
    """Return the containers directly inside a container."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [each for each in inner if isinstance(each, dict | list)]
