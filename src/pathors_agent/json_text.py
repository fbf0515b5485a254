"""Text that every JSON reader takes: UTF-8, without halves of characters."""

import json

import msgspec


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
