"""A server of streams in a process of its own: `python -m benchmarks.loopback_server`.

It prints its port. A request's `model` says what it gets: "paced STREAMS EVENTS MILLISECONDS"
begins when that many streams are open, and then sends each stream one event at a time, all at
the same moment; "spread ..." does so at moments spread over the time between two; "flood EVENTS"
sends all at once; "hold" sends one word, and nothing more until the client leaves.
"""

import asyncio
import re
from collections.abc import Iterator
from functools import cache

from benchmarks import corpora

_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
_LAST = b"0\r\n\r\n"
_MODEL = re.compile(rb'"model"\s*:\s*"([^"]*)"')
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")


class Stream(asyncio.Protocol):
    """One connection, and what it is to be sent."""

    waiting: list["Stream"] = []  # noqa: RUF012  (all connections of the process share it)

    def __init__(self) -> None:
        self._received = b""
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._task:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not end or (length and len(body) < int(length[1])):
            return
        self._received = b""
        model = _MODEL.search(body)
        assert model
        self.transport.write(_HEAD)
        self._begin(*model[1].decode().split())

    def _begin(self, kind: str, *numbers: str) -> None:
        match kind, [int(number) for number in numbers]:
            case "hold", []:
                self.transport.write(b"".join(http_chunks(1)[:2]))
            case "flood", [events]:
                self._task = asyncio.ensure_future(self._flood(events))
            case "paced" | "spread", [count, events, milliseconds]:
                Stream.waiting.append(self)
                if len(Stream.waiting) == count:
                    streams, Stream.waiting = Stream.waiting, []
                    self._task = asyncio.ensure_future(
                        pace(streams, events, milliseconds / 1000, spread=kind == "spread")
                    )
            case what:
                raise ValueError(what)

    async def _flood(self, events: int) -> None:
        data = b"".join(http_chunks(events)) + _LAST
        self.transport.write(data)


async def pace(streams: list[Stream], events: int, seconds: float, *, spread: bool) -> None:
    """Send each stream an event, again and again, so many seconds apart."""
    loop = asyncio.get_running_loop()
    # A moment for the clients to get ready: all heads are sent.
    start = loop.time() + 0.3
    for number, chunk in enumerate(http_chunks(events)):
        for place, stream in enumerate(streams):
            if spread or place == 0:
                turns = number + place / len(streams)
                await asyncio.sleep(start + turns * seconds - loop.time())
            stream.transport.write(chunk)
    for stream in streams:
        stream.transport.write(_LAST)


@cache
def http_chunks(events: int) -> list[bytes]:
    """One HTTP chunk for each event, as servers send them."""
    return list(_chunks(corpora.reads(corpora.openai_text(events), None)))


def _chunks(events: list[bytes]) -> Iterator[bytes]:
    return (b"%x\r\n%s\r\n" % (len(event), event) for event in events)


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Stream, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
