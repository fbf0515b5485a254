"""Text that every JSON reader takes: UTF-8, without halves of characters."""

import json

import msgspec
from pydantic_core import from_json

# Refuses numbers that overflow a double, which JSON's grammar allows and readers do not.
_OBJECT = msgspec.json.Decoder(dict[str, object])
# The bound of pydantic's reader, which reads the arguments of tools; others go deeper.
_LEVELS = 200


def write_json(value: object) -> bytes:
    """Write a value as JSON; surrogate halves become whole characters."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return whole_characters(
            json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        ).encode()


def whole_characters(text: str) -> str:
    """Join surrogate halves that meet; one that stays alone becomes U+FFFD."""
    if text.isascii():  # known without a look at the text
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def is_json_object(text: str) -> bool:
    """Return True if a text is one JSON object that every JSON reader takes.

    False for NaN and infinite numbers, halves of surrogate pairs, and more than 200 levels.
    """
    text = whole_characters(text)
    try:
        _OBJECT.decode(text)
        if text.count("{") + text.count("[") > _LEVELS:  # perhaps nested as deeply
            from_json(text.encode())
    except (ValueError, RecursionError):
        return False
    return True
