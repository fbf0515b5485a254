"""What every reader of a stream must end with: the text, and the calls."""

import json
from collections.abc import Iterable
from typing import Any, NamedTuple


class Answer(NamedTuple):
    text: str
    calls: tuple[tuple[str, str], ...] = ()
    """Name and arguments of each."""


class Gathering:
    """An answer while its pieces arrive, for peers that leave gathering to their users."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self._calls: dict[int, tuple[str, list[str]]] = {}

    def add_piece(self, index: int, name: str | None, arguments: str | None) -> None:
        call = self._calls.get(index)
        if call is None:
            call = self._calls[index] = (name or "", [])
        if arguments:
            call[1].append(arguments)

    def answer(self) -> Answer:
        calls = tuple((name, "".join(parts)) for name, parts in self._calls.values())
        return Answer("".join(self.text), calls)


def answer_in(body: bytes) -> Answer:
    """Read a body line by line, as slowly and plainly as can be: the expectation."""
    gathering = Gathering()
    for line in body.splitlines():
        if line.startswith(b"data: {"):
            take(json.loads(line[6:])["choices"], gathering)
    return gathering.answer()


def take(choices: Iterable[Any], gathering: Gathering) -> None:
    """Add the choices of a chunk that was decoded to dicts."""
    for choice in choices:
        delta = choice["delta"]
        if delta.get("content"):
            gathering.text.append(delta["content"])
        for piece in delta.get("tool_calls") or ():
            function = piece["function"]
            gathering.add_piece(piece["index"], function.get("name"), function.get("arguments"))
