"""The least that reading a stream can cost in Python.

`read` splits, decodes the needed fields and appends; `decode` only splits and decodes. Both trust their
input: they handle no errors, no other line ends and no limits, and return nothing before the end.
"""

from collections.abc import Sequence

import msgspec

from benchmarks.answers import Answer


class Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class Piece(msgspec.Struct, gc=False):
    index: int
    function: Function


class Delta(msgspec.Struct, gc=False):
    content: str | None = None
    tool_calls: list[Piece] | None = None


class Choice(msgspec.Struct, gc=False):
    delta: Delta


class Chunk(msgspec.Struct, gc=False):
    choices: list[Choice]


def read(reads: Sequence[bytes], *, event_end: bytes = b"\n\n") -> Answer:
    decode = msgspec.json.Decoder(Chunk).decode
    text: list[str] = []
    calls: dict[int, tuple[str, list[str]]] = {}
    rest = b""
    for data in reads:
        *events, rest = (rest + data).split(event_end)
        for event in events:
            if not event.startswith(b"data: {"):
                continue
            for choice in decode(event[6:]).choices:
                delta = choice.delta
                if delta.content:
                    text.append(delta.content)
                if delta.tool_calls:
                    for piece in delta.tool_calls:
                        call = calls.get(piece.index)
                        if call is None:
                            call = calls[piece.index] = (piece.function.name or "", [])
                        if piece.function.arguments:
                            call[1].append(piece.function.arguments)
    found = tuple((name, "".join(parts)) for name, parts in calls.values())
    return Answer("".join(text), found)


def decode(reads: Sequence[bytes], answer: Answer) -> Answer:
    """Split and decode only; return `answer`, which is not read from the stream."""
    decode = msgspec.json.Decoder(Chunk).decode
    rest = b""
    for data in reads:
        *events, rest = (rest + data).split(b"\n\n")
        for event in events:
            if event.startswith(b"data: {"):
                decode(event[6:])
    return answer
