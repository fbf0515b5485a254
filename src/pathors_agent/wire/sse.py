"""Parse and write server-sent events by the HTML standard.

https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
"""

from collections.abc import Iterator

import msgspec

from pathors_agent.errors import MalformedResponse

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

# Eight MiB: ten times the longest line in the recorded streams.
MAX_EVENT_BYTES = 8 * 1024 * 1024

# A thousand years in milliseconds; int() refuses texts of over 4,300 digits with an error.
MAX_RETRY_DIGITS = 14

# As an int: a search for bytes takes four times as long.
_CR = 0x0D
_LINE_ENDS = b"\r\n"


class ServerSentEvent(msgspec.Struct, frozen=True, gc=False):
    """One dispatched event; `id` is the last event id of the stream so far, or ""."""

    event: str
    data: str
    id: str = ""


class LineEnds:
    """Convert CR LF and CR to LF in pieces that may be cut anywhere, also between CR and LF."""

    __slots__ = ("pending",)

    def __init__(self) -> None:
        self.pending = False
        """Whether the next LF belongs to a CR that was already read."""

    def normalise(self, data: bytes) -> bytes:
        """Return `data` with LF as its only line end."""
        if self.pending and data:
            self.pending = False
            if data.startswith(b"\n"):
                data = data[1:]
        if _CR not in data:
            return data
        self.pending = data[-1] == _CR
        # Half the time of `replace`. Lines of bytes end only at LF, CR and CR LF.
        lines = data.splitlines()
        if data[-1] in _LINE_ENDS:
            lines.append(b"")
        return b"\n".join(lines)


class SSEParser:
    """A push parser of event streams, in time linear in the bytes.

    `feed` accepts pieces that may be cut anywhere. An event that the end of the stream cuts off is not
    dispatched, as the standard specifies; `pending` returns it. Raises `MalformedResponse` if a line,
    or the `data` lines of one event, are longer than `max_event_bytes` as received.
    """

    def __init__(self, *, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self.retry: int | None = None
        """The reconnection time that the server requested, in milliseconds."""
        self.offset = 0
        """The number of bytes fed."""
        self._max_event_bytes = max_event_bytes
        self._line_ends = LineEnds()
        self._start: bytes | None = b""  # None after the place of a byte order mark
        # An unfinished line. A list of pieces would cost 80 bytes for each.
        self._line = bytearray()
        self._data: list[str] = []
        self._data_size = 0  # of the `data` lines, as received
        self._event = ""
        self._id = ""

    def feed(self, data: bytes) -> list[ServerSentEvent]:
        """Parse the next bytes of the stream; return the events that they complete."""
        self.offset += len(data)
        if self._start is not None:
            data = self._without_byte_order_mark(data)
        data = self._line_ends.normalise(data)
        *complete, rest = data.split(b"\n")
        events: list[ServerSentEvent] = []
        for line in complete:
            self._take(line, events)
        if rest:
            self._line += rest
            self._check_size(len(self._line))
        return events

    def pending(self) -> ServerSentEvent | None:
        """Return the unfinished event as if a blank line followed; None without data."""
        events: list[ServerSentEvent] = []
        rest, self._start = self._start or b"", None
        self._take(rest, events)
        self._dispatch(events)
        return events[-1] if events else None

    def _without_byte_order_mark(self, data: bytes) -> bytes:
        start = (self._start or b"") + data
        if len(start) < len(BYTE_ORDER_MARK) and BYTE_ORDER_MARK.startswith(start):
            self._start = start
            return b""
        self._start = None
        return start.removeprefix(BYTE_ORDER_MARK)

    def _take(self, line: bytes, events: list[ServerSentEvent]) -> None:
        if self._line:
            self._line += line
            line = bytes(self._line)
            self._line.clear()
        if not line:
            self._dispatch(events)
            return
        self._check_size(len(line))
        field, _, value = line.decode(errors="replace").partition(":")
        value = value.removeprefix(" ")
        match field:
            case "data":
                self._data.append(value)
                self._data_size += len(line) + 1
            case "event":
                self._event = value
            case "id" if "\0" not in value:
                self._id = value
            case "retry" if value.isascii() and value.isdigit():
                self.retry = int(value[:MAX_RETRY_DIGITS])

    def _dispatch(self, events: list[ServerSentEvent]) -> None:
        if self._data:
            events.append(
                ServerSentEvent(self._event or "message", "\n".join(self._data), self._id)
            )
        self._data, self._event, self._data_size = [], "", 0

    def _check_size(self, line_size: int) -> None:
        if self._data_size + line_size > self._max_event_bytes:
            raise MalformedResponse(
                f"an event is longer than {self._max_event_bytes} bytes (max_event_bytes), "
                f"at byte {self.offset} of the body",
                offset=self.offset,
            )


def encode_event(data: str | bytes, *, event: str | None = None) -> bytes:
    """Write one event; line ends in `data` become several `data` lines."""
    if event is not None and ("\n" in event or "\r" in event):
        raise ValueError("the name of an event must not contain a line end")
    text = data.encode() if isinstance(data, str) else data
    head = b"" if event is None else b"event: " + event.encode() + b"\n"
    return head + b"".join(b"data: " + line + b"\n" for line in _lines(text)) + b"\n"


def encode_comment(text: str) -> bytes:
    """Write a comment, which parsers ignore; it keeps an idle connection alive."""
    return b"".join(b": " + line + b"\n" for line in _lines(text.encode())) + b"\n"


def _lines(text: bytes) -> Iterator[bytes]:
    yield from text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
