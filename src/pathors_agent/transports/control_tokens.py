"""The control tokens of a model file, and requests in which no text holds one.

llama.cpp reads a prompt after its template was filled in: a text with `<|im_start|>` in it would
begin a message of its own.
"""

import json
import re
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, TypeVar

from pathors_agent.json_text import write_json
from pathors_agent.messages import JSONValue
from pathors_agent.transports.base import Request

ItemT = TypeVar("ItemT")

# Of the types of values in GGUF, those that are numbers, by the sizes they have.
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_TEXT, _ARRAY = 8, 9
_MAGIC_VERSION_AND_TENSORS = 16

# llama.cpp's kinds of tokens that stand for no text: unknown and control.
_NO_TEXT = (2, 3)
# Longer texts in a file are no tokens; a file that says so is damaged.
_MAX_BYTES = 1 << 24


class Texts:
    """Breaks the control tokens up that stand in a text, by a space after their first character."""

    def __init__(self, tokens: Iterable[str]) -> None:
        known = sorted((token for token in tokens if len(token) > 1), key=len, reverse=True)
        self._token = re.compile("|".join(map(re.escape, known))) if known else None

    def request(self, request: Request) -> Request:
        """Give a request whose texts hold no control token; the same where none did."""
        if self._token is None or not request.body:
            return request
        try:
            body = json.loads(request.body)
        except ValueError:  # it is for the server to say
            return request
        broken = self._value(body)
        return request if broken == body else replace(request, body=write_json(broken))

    def _value(self, value: JSONValue) -> JSONValue:
        match value:
            case str():
                return self._text(value)
            case dict():
                return {self._text(name): self._value(item) for name, item in value.items()}
            case list():
                return [self._value(item) for item in value]
            case _:
                return value

    def _text(self, text: str) -> str:
        assert self._token is not None
        # Tokens may overlap: what breaks one leaves another.
        while (broken := self._token.sub(_broken, text)) != text:
            text = broken
        return text


def _broken(found: re.Match[str]) -> str:
    return f"{found[0][0]} {found[0][1:]}"


def control_tokens(path: Path) -> list[str]:
    """Read which tokens of a model file (GGUF) stand for no text; ValueError for a damaged one."""
    tokens: list[bytes] = []
    kinds: tuple[int, ...] = ()
    with path.open("rb") as file:
        file.seek(_MAGIC_VERSION_AND_TENSORS)
        for _ in range(_number(file, "<Q")):
            name, kind = _text(file), _number(file, "<I")
            if name == b"tokenizer.ggml.tokens":
                tokens = list(_array(file, _text))
            elif name == b"tokenizer.ggml.token_type":
                kinds = tuple(_array(file, lambda file: _number(file, "<i")))
            else:
                _skip(file, kind)
    pairs = zip(tokens, kinds, strict=False)
    return [token.decode(errors="replace") for token, kind in pairs if kind in _NO_TEXT]


def _array(file: BinaryIO, read: Callable[[BinaryIO], ItemT]) -> Iterator[ItemT]:
    _number(file, "<I")  # the type of its items
    for _ in range(_number(file, "<Q")):
        yield read(file)


def _skip(file: BinaryIO, kind: int) -> None:
    match kind:
        case _ if kind == _TEXT:
            _text(file)
        case _ if kind == _ARRAY:
            items, count = _number(file, "<I"), _number(file, "<Q")
            if items in _SIZES:
                file.seek(_SIZES[items] * count, 1)
                return
            for _ in range(count):
                _skip(file, items)
        case _ if kind in _SIZES:
            file.seek(_SIZES[kind], 1)
        case _:
            raise ValueError(f"a value of the unknown type {kind}")


def _number(file: BinaryIO, form: str) -> int:
    data = file.read(struct.calcsize(form))
    try:
        return int(struct.unpack(form, data)[0])
    except struct.error as error:
        raise ValueError("the file ends in its head") from error


def _text(file: BinaryIO) -> bytes:
    size = _number(file, "<Q")
    if size > _MAX_BYTES:
        raise ValueError("a text of more than 16 MiB")
    return file.read(size)
