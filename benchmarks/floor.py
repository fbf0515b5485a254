"""The least that reading a stream can cost in Python: split, decode what is needed, append.

It believes everything that it is sent: it knows no errors, no odd line ends, no limits, and gives
nothing out before the end.
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
