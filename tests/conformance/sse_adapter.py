"""Give `SSEParser` the shape that the event-stream cases expect of a reader."""

from collections.abc import Iterable, Iterator

from pathors_agent.wire.sse import ServerSentEvent, SSEParser


def events(pieces: Iterable[bytes]) -> Iterator[ServerSentEvent]:
    parser = SSEParser()
    for piece in pieces:
        yield from parser.feed(piece)
