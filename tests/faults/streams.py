"""Ten answers of different kinds, byte for byte, and what a client may make of the start of each.

Each was written by hand in two parts: `first` ends with the byte that makes the message complete
(the blank line after its finish_reason, its [DONE], the end of a plain body); `last` adds nothing.
"""

import zlib
from dataclasses import dataclass
from typing import Literal

from servers import head

Zone = Literal["head", "empty", "unfinished", "finished"]


@dataclass(frozen=True)
class Stream:
    """An answer as it is sent; `calls` are the cities that its tool calls ask for."""

    name: str
    framing: Literal["chunked", "length", "close"]
    first: list[bytes]
    last: bytes = b""
    text: str | None = None
    calls: tuple[str, ...] = ()
    is_packed: bool = False

    @property
    def head(self) -> bytes:
        fields = {"Content_Type": "text/event-stream", "Connection": "close"}
        if self.is_packed:
            fields["Content_Encoding"] = "gzip"
        if self.framing == "chunked":
            fields["Transfer_Encoding"] = "chunked"
        if self.framing == "length":
            fields["Content_Length"] = str(len(b"".join(self._pieces())))
        return head(**fields)

    @property
    def wire(self) -> bytes:
        """All that is sent."""
        pieces = self._pieces()
        if self.framing == "chunked":
            pieces = [f"{len(p):x}\r\n".encode() + p + b"\r\n" for p in [*pieces, b""]]
        return self.head + b"".join(pieces)

    def _pieces(self) -> list[bytes]:
        pieces = [*self.first, self.last] if self.last else self.first
        return _packed(pieces) if self.is_packed else pieces

    def zone(self, sent: int, *, in_good_order: bool = False) -> Zone:
        """Return how far a client gets with this number of its bytes.

        An event at the very end needs no blank line, where the body ended in good order.
        """
        if sent < len(self.head):
            return "head"
        body = self._body(sent)
        if not body:
            return "empty"
        first = b"".join(self.first)
        needed = len(first.rstrip()) if in_good_order else len(first)
        return "finished" if len(body) >= needed else "unfinished"

    def _body(self, sent: int) -> bytes:
        body = self.wire[len(self.head) : sent]
        if self.framing == "chunked":
            body = _unchunked(body)
        return zlib.decompressobj(31).decompress(body) if self.is_packed else body

    def borders(self) -> list[int]:
        """Return the numbers of bytes around which something changes."""
        zones = [self.zone(sent) for sent in range(len(self.wire) + 1)]
        changes = [n for n in range(1, len(zones)) if zones[n] != zones[n - 1]]
        return sorted({0, 1, *changes, *(n - 1 for n in changes), len(self.wire)})


def _unchunked(sent: bytes) -> bytes:
    """Take the bodies out of chunks of which the last may be cut off."""
    body = b""
    while b"\r\n" in sent:
        size, _, sent = sent.partition(b"\r\n")
        body += sent[: int(size, 16)]
        sent = sent[int(size, 16) + 2 :]
    return body


def _packed(pieces: list[bytes]) -> list[bytes]:
    packer = zlib.compressobj(wbits=31)
    packed = [packer.compress(piece) + packer.flush(zlib.Z_SYNC_FLUSH) for piece in pieces]
    return [*packed, packer.flush()]


def _text(piece: str, reason: str = "null") -> bytes:
    return (
        f'data: {{"choices":[{{"index":0,"delta":{{"content":"{piece}"}},"finish_reason":{reason}}}]}}'
        "\n\n"
    ).encode()


def _call(index: int, arguments: str, *, new: str = "") -> bytes:
    named = f'"id":"{new}","type":"function",' if new else ""
    name = '"name":"look",' if new else ""
    return (
        f'data: {{"choices":[{{"index":0,"delta":{{"tool_calls":[{{"index":{index},{named}'
        f'"function":{{{name}"arguments":"{arguments}"}}}}]}},"finish_reason":null}}]}}\n\n'
    ).encode()


_STOP = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
_CALLS = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}\n\n'
_DONE = b"data: [DONE]\n\n"
_OSLO = [_call(0, "", new="call_a1"), _call(0, r"{\"city\": \"Os"), _call(0, r"lo\"}")]

SHORTEST = Stream(
    "one call, close-delimited",
    "close",
    [_call(0, r"{\"city\":\"Oslo\"}", new="c1"), _CALLS],
    calls=("Oslo",),
)

STREAMS = [
    SHORTEST,
    Stream("text in chunks", "chunked", [_text("Hel"), _text("lo"), _STOP], _DONE, text="Hello"),
    Stream("text with a length", "length", [_text("Hel"), _text("lo", '"stop"')], text="Hello"),
    Stream("a call in pieces, in chunks", "chunked", [*_OSLO, _CALLS], _DONE, calls=("Oslo",)),
    Stream(
        "two calls and text, with a length",
        "length",
        [_text("So:"), *_OSLO, _call(1, r"{\"city\": \"Rom\"}", new="call_a2"), _CALLS],
        _DONE,
        calls=("Oslo", "Rom"),
    ),
    Stream(
        "reasoning and usage",
        "chunked",
        [
            b'data: {"id":"x","choices":[{"index":0,"delta":{"reasoning_content":"Hm."}}]}\n\n',
            _text("Hello"),
            _STOP,
        ],
        b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n' + _DONE,
        text="Hello",
    ),
    Stream(
        "a plain body",
        "length",
        [
            b'{"id": "x", "choices": [{"index": 0, "finish_reason": "tool_calls", "message": {',
            b'"role": "assistant", "tool_calls": [{"id": "call_a1", "type": "function", ',
            b'"function": {"name": "look", "arguments": "{\\"city\\": \\"Oslo\\"}"}}]}}]}',
        ],
        calls=("Oslo",),
    ),
    Stream(
        "a byte order mark, comments, CRLF",
        "close",
        [
            b"\xef\xbb\xbf: hello\r\n\r\nretry: 9\r\nid: 1\r\nevent: message\r\n",
            b'data: {"choices":[{"index":0,\r\ndata: "delta":{"content":"Hello"}}]}\r\n\r\n',
            _STOP[:-2] + b"\r\n\r",
        ],
        b"\n" + _DONE,
        text="Hello",
    ),
    Stream(
        "characters of many bytes, [DONE] alone",
        "chunked",
        [_text("日本\u00e9🙂")[:50], _text("日本\u00e9🙂")[50:], _text("🙂"), b"data: [DONE]\n\n"],
        text="日本\u00e9🙂🙂",
    ),
    Stream("packed", "chunked", [*_OSLO, _CALLS], _DONE, calls=("Oslo",), is_packed=True),
]
