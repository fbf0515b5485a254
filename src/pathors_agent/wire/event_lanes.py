"""Split the bytes of an answer into events. Pure: no I/O.

Four lanes with one meaning, fastest first: a read that differs from an earlier event only in its
text; a read that is exactly one event; a read of several events of one `data` line each; and
everything else, as the standard specifies.
"""

from collections.abc import Iterable

from pathors_agent.errors import QUOTED_BODY_BYTES
from pathors_agent.wire.chunks import TextFrame, loads
from pathors_agent.wire.deltas import Delta
from pathors_agent.wire.sse import BYTE_ORDER_MARK, LineEnds, SSEParser

_DATA_OBJECT = b"data: {"
_LF, _CR = 0x0A, 0x0D
_EVENT_TOO_LONG = "an event is longer than {} bytes (max_event_bytes)"
_BODY_TOO_LONG = "the body is longer than {} bytes (max_message_bytes)"


class EventLanes:
    """The part of a `ResponseStream` that reads bytes; the events go to the methods at its end.

    A body that is no stream of events is held until its end.
    """

    __slots__ = (
        "_check_at",
        "_events_read",
        "_expects_usual_chunk",
        "_frame",
        "_head",
        "_in_fast_lane",
        "_is_stream",
        "_line_ends",
        "_max_event",
        "_max_message",
        "_parser",
        "_tail",
        "ended",
        "received",
    )

    def __init__(self, max_event_bytes: int, max_message_bytes: int, check_at: int) -> None:
        self.ended = False
        """Whether the answer is complete or broken: further bytes have no effect."""
        self.received = 0
        """The number of bytes fed."""
        self._max_event = max_event_bytes
        self._max_message = max_message_bytes
        self._check_at = check_at  # the number of bytes after which sizes are checked
        self._events_read = 0  # by the tolerant reader, which always reads the first events
        self._head = b""  # the start of the body: decides its format, and errors quote it
        self._is_stream: bool | None = None  # None until the first byte that is not a space
        self._line_ends = LineEnds()
        # The bytes after the last whole event. A list of pieces would cost 80 bytes for each.
        self._tail: bytearray | None = None
        # False at the head, after half a character and at the end, for the tolerant reader.
        self._expects_usual_chunk = False
        self._in_fast_lane = False
        self._frame: TextFrame | None = None
        self._parser: SSEParser | None = None  # allocated lazily

    def feed(self, data: bytes) -> list[Delta]:
        """Read the next bytes of the body; return the deltas that they complete."""
        deltas: list[Delta] = []
        if self._in_fast_lane:
            self.received += len(data)
            frame = self._frame
            if (
                frame is not None
                and data.startswith(frame.before)
                and data.endswith(frame.after)
                and len(data) <= self._max_event
                and self._read_text(data[frame.start : frame.stop], deltas)
            ):
                pass  # lane (a): JSON text holds no raw line end, so the read is one event
            else:
                if _CR in data:  # an int: a search for bytes takes four times as long
                    data = self._line_ends.normalise(data)
                    self._in_fast_lane = not self._line_ends.pending
                size = len(data)
                # Lane (b): a read whose first LF is its last byte but one, and whose last byte is
                # LF too, is one event.
                if (
                    data.find(b"\n") == size - 2
                    and data[:7] == _DATA_OBJECT
                    and data[-1] == _LF
                    and size <= self._max_event
                ):
                    self._read_usual_chunk(data[6:-2], deltas)
                elif data:
                    self._read_lines(data, deltas)
                    self._in_fast_lane = self._is_between_events()
        elif data and not self.ended:
            self.received += len(data)
            self._read_bytes(data, deltas)
            self._in_fast_lane = self._is_between_events()
        if self.received > self._check_at:
            self._check_sizes()
        return deltas

    def _line_parser(self) -> SSEParser:
        if self._parser is None:
            # Events are measured before they are parsed; the parser counts a line end more.
            self._parser = SSEParser(max_event_bytes=2 * self._max_event)
            self._parser.feed(b"\n")  # past the place of a byte order mark
        return self._parser

    def _read_bytes(self, data: bytes, deltas: list[Delta]) -> None:
        if self._is_stream is None:
            data = self._choose_format(data)
        elif not self._events_read:
            self._head += data[: QUOTED_BODY_BYTES - len(self._head)]
        if self._is_stream:
            self._read_lines(self._line_ends.normalise(data), deltas)
            if self._events_read:
                self._head = b""  # it is a stream of events: no error quotes its start
        elif self._is_stream is False:
            self._hold(data, self._max_message, _BODY_TOO_LONG)

    def _choose_format(self, data: bytes) -> bytes:
        """Distinguish a stream from a plain body by the first byte; return the bytes to read."""
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"a piece of an answer is a {type(data).__name__}; pieces are bytes")
        self._head += data
        if BYTE_ORDER_MARK.startswith(self._head):
            return b""
        body = self._head.removeprefix(BYTE_ORDER_MARK)
        first = body.lstrip()[:1]
        if first:
            # No field of an event stream begins like a JSON value or HTML.
            self._is_stream = first not in b'{["<'
            self._head = body[:QUOTED_BODY_BYTES]
            return body
        self._head = body[-QUOTED_BODY_BYTES:]  # blank lines have no meaning before either
        return b""

    def _read_lines(self, data: bytes, deltas: list[Delta]) -> None:
        """Read the whole events in `data`, whose only line end is LF; hold the rest."""
        if self._tail is not None:
            if _LF not in data or not _ends_an_event(self._tail, data):
                self._hold(data, self._max_event, _EVENT_TOO_LONG)
                return
            self._tail += data
            data = bytes(self._tail)
            self._tail = None
        else:
            data = data.lstrip(b"\n")  # more blank lines after an event have no meaning
        end = data.rfind(b"\n\n") + 2
        if end > 1:
            self._read_events(data[:end] if end < len(data) else data, deltas)
            data = data[end:]
        if not self.ended:
            self._hold(data, self._max_event, _EVENT_TOO_LONG)

    def _read_events(self, data: bytes, deltas: list[Delta]) -> None:
        """Read whole events, each followed by a blank line."""
        # Lane (c): split where a data line follows a blank line. If these and the last are all
        # line ends, each piece is the only data line of its event.
        pieces = data[6:-2].split(b"\n\ndata: ")
        is_all = data.count(b"\n") == 2 * len(pieces) and data[:7] == _DATA_OBJECT
        texts = pieces if is_all else _data_lines(data)
        if texts is None or len(data) > self._max_event:
            self._read_block(data, deltas)
        elif texts:
            self._read_texts(texts, deltas)

    def _read_block(self, block: bytes, deltas: list[Delta]) -> None:
        """Read event by event (lane d); events of other than one `data` line by the standard."""
        for event in block.split(b"\n\n"):
            if self.ended:
                return
            # The same for each cut of a run of line ends.
            event = event.strip(b"\n")  # noqa: PLW2901
            if len(event) > self._max_event:
                self._fail_bound(_EVENT_TOO_LONG.format(self._max_event))
            elif event[:7] == _DATA_OBJECT and b"\n" not in event:
                self._read_texts((event[6:],), deltas)
            elif event[:4] == b"id: " and (texts := _data_after_ids([*event.split(b"\n"), b""])):
                self._read_texts(texts, deltas)
            elif not event.startswith(b":") or b"\n" in event:
                self._parse(event + b"\n\n", deltas)

    def _parse(self, data: bytes, deltas: list[Delta]) -> None:
        for event in self._line_parser().feed(data):
            if not self.ended:
                self._read_event(event.event, event.data, deltas)

    def _read_cut_off_event(self, deltas: list[Delta]) -> None:
        """Read an event without its blank line at the end of the body, if it is whole.

        The standard drops it, but some servers close directly after their last event.
        """
        self._parse(bytes(self._tail or b""), deltas)
        last = self._line_parser().pending()
        if last is None or self.ended:
            return
        if _is_whole(last.data) or joined_events(last.data):
            self._read_event(last.event, last.data, deltas)
        elif joined_events(whole := last.data.rpartition("\n")[0]):
            self._read_event(last.event, whole, deltas)

    def _hold(self, data: bytes, bound: int, problem: str) -> None:
        if not data:
            return
        if self._tail is None:
            self._tail = bytearray()
        self._tail += data
        # A line end may be half of the blank line that ends an event.
        if len(self._tail) - data.endswith(b"\n") > bound:
            self._tail = None
            self._fail_bound(problem.format(bound))

    def _is_between_events(self) -> bool:
        return self._expects_usual_chunk and self._tail is None and not self._line_ends.pending

    # - What is done with events

    def _read_texts(self, texts: Iterable[bytes], deltas: list[Delta]) -> None:
        """Read events of one `data` line each; drop what follows the end of the answer."""
        raise NotImplementedError

    def _read_text(self, string: bytes, deltas: list[Delta]) -> bool:
        """Read the text in a known frame. Return False if it is not one JSON string."""
        raise NotImplementedError

    def _read_usual_chunk(self, text: bytes, deltas: list[Delta]) -> None:
        """Read an event of one `data` line, a chunk of the usual shape."""
        raise NotImplementedError

    def _read_event(self, event: str, data: str, deltas: list[Delta]) -> None:
        """Read any event."""
        raise NotImplementedError

    def _fail_bound(self, text: str) -> None:
        """End the answer, because a bound was passed."""
        raise NotImplementedError

    def _check_sizes(self) -> None:
        """Fail if the message exceeds a bound; postpone the next check."""
        raise NotImplementedError


def joined_events(data: str) -> list[str] | None:
    """Return the events that a missing blank line has joined to one, or None if they are none."""
    events = data.split("\n")
    is_each_whole = all(event[:1] in ("{", "[") and _is_whole(event) for event in events)
    return events if is_each_whole else None


def _is_whole(data: str) -> bool:
    """Return True if the data of an event that was cut off is complete."""
    if data.strip() == "[DONE]":
        return True
    try:
        loads(data)
    except ValueError:
        return False
    return True


def _ends_an_event(tail: bytearray, data: bytes) -> bool:
    return b"\n\n" in data or (data[0] == _LF and tail[-1] == _LF)


def _data_lines(block: bytes) -> list[bytes] | None:
    """Return the data of events of one `data` line each; None for other events.

    Comments may stand between the events. Each event may have an id before its data.
    """
    lines = block[:-2].split(b"\n")
    if block[:4] == b"id: ":
        return _data_after_ids(lines)
    if any(lines[1::2]):
        return None
    lines = lines[::2]
    texts = [line[6:] for line in lines if line[:6] == b"data: "]
    comments = [line for line in lines if line[:1] == b":"]
    return texts if len(texts) + len(comments) == len(lines) else None


def _data_after_ids(lines: list[bytes]) -> list[bytes] | None:
    """Return the data of events of an `id` line and a `data` line each; None for other events."""
    ids, data = lines[::3], lines[1::3]
    fits = (
        len(ids) == len(data)
        and not any(lines[2::3])
        and all(line[:4] == b"id: " for line in ids)
        and all(line[:6] == b"data: " for line in data)
    )
    return [line[6:] for line in data] if fits else None
