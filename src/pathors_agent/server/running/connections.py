"""Limits of connections: the heads of requests, unread bodies, and clients that half-closed."""

import asyncio
import re
import socket
from typing import Any, cast

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from pathors_agent.server.http.problems import Problem
from pathors_agent.server.turns.answer import PING, SENDS_EVENTS

# From the connection, or a request's first byte, to the end of its headers.
HEAD_SECONDS = 20.0
# Browsers and proxies send less; servers commonly take 8 to 64 KiB.
MAX_HEAD_BYTES = 64 * 1024
# How long the rest of a refused head is read and dropped, so that its sender reads the answer.
REFUSED_SECONDS = 2.0
# How much of a body is read after its answer, and for how long, before the connection is closed.
# The answer was early: for a wrong key, an unknown address, or a request that should have no body.
MAX_UNREAD_BYTES = 16 * 1024 * 1024
UNREAD_SECONDS = 30.0
# How often a half-closed connection is checked for a reset.
LOOK_SECONDS = 0.1

# Java's HTTP client offers HTTP/2 in each plain request, as `Upgrade: h2c`. A server may ignore an
# offer (RFC 9110, 7.8), but httptools then drops the body. No request of this API has another use
# for the field.
_OFFER = b"upgrade:"
_OFFER_LINE = re.compile(rb"(?<=\n)upgrade:[^\n]*\n", re.IGNORECASE)

_PING_CHUNK = b"%x\r\n%b\r\n" % (len(PING), PING)
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class _Limited(asyncio.Protocol):
    """Adds limits to one of uvicorn's protocols, which wait for headers without a limit.

    A client that half-closes its connection after its request still gets the answer, over HTTP/1.1.
    A client that closed the connection looks the same until the server sends something. So the
    server sends harmless bytes, and a reset ends the request.
    """

    # Python stores an object with more than 30 other attributes in 1.5 KB, and uvicorn's have 29.
    __slots__ = (
        "_head_bytes",
        "_held",
        "_is_half_closed",
        "_is_refused",
        "_last_bytes",
        "_timer",
        "_unread_bytes",
    )

    # An attribute of uvicorn's protocols: the request that is answered, with its state.
    cycle: Any
    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._head_bytes = self._unread_bytes = 0
        self._last_bytes = self._held = b""
        self._is_refused = False
        self._is_half_closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        before = self.cycle
        is_answered = before is None or before.response_complete
        is_in_body = before is not None and before.more_body
        if is_answered and is_in_body:
            self._unread_bytes += len(data)
            if self._unread_bytes > MAX_UNREAD_BYTES:
                self._close()
                return
        is_in_head = is_answered and not is_in_body
        if is_in_head and self._head_size(data) > MAX_HEAD_BYTES:
            self._refuse_head()
            return
        if parsed := self._without_offer(data) if is_in_head else data:
            super().data_received(parsed)
        if self.cycle is not before:
            self._stop_waiting()
        elif is_in_head:
            self._count_head(data)

    # - heads -

    def _head_size(self, data: bytes) -> int:
        """Return the size of the head up to its end in this data, or the size so far."""
        seen = self._last_bytes + data
        ends = [at for end in (b"\n\r\n", b"\n\n") if (at := seen.find(end)) >= 0]
        size = min(ends) + 1 if ends else len(seen)
        return self._head_bytes - len(self._last_bytes) + size

    def _without_offer(self, data: bytes) -> bytes:
        """Return data of a head without the line that offers another protocol.

        A piece of such a line is held until its end comes.
        """
        end = max(0, self._head_size(data) - self._head_bytes)
        is_at_line = bool(self._held) or self._last_bytes.endswith(b"\n")
        head = (b"\n" if is_at_line else b" ") + self._held + data[:end]
        self._held = b""
        if _OFFER in head.lower():
            head = _OFFER_LINE.sub(b"", head)
        line = head.rpartition(b"\n")[2]
        if end == len(data) and line and _OFFER.startswith(line[: len(_OFFER)].lower()):
            self._held = line
        return head[1 : len(head) - len(self._held)] + data[end:]

    def _count_head(self, data: bytes) -> None:
        self._head_bytes += len(data)
        self._last_bytes = (self._last_bytes + data)[-2:]
        if self._timer is None:
            self._wait_for_head()

    def _refuse_head(self) -> None:
        self._is_refused = True
        self._stop_waiting()
        body = Problem(431, f"The headers are larger than {MAX_HEAD_BYTES} bytes").body
        self.transport.write(
            b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\n"
            b"connection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        )
        self._timer = asyncio.get_running_loop().call_later(REFUSED_SECONDS, self._close)

    def _wait_for_head(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(HEAD_SECONDS, self._close)

    def _stop_waiting(self) -> None:
        self._head_bytes, self._unread_bytes = 0, 0
        self._last_bytes = self._held = b""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()

    # - clients that ended their side -

    def eof_received(self) -> bool | None:
        if not self._is_half_closed:
            if not self._is_answering or self.cycle.scope["http_version"] != "1.1":
                return super().eof_received()
            self._is_half_closed = True
            self._probe()
        return True

    def on_response_complete(self) -> None:
        super().on_response_complete()  # type: ignore[misc]  # of uvicorn's protocol
        if self._is_half_closed and not self._is_answering:
            self._close()
        elif self.cycle.response_complete and self.cycle.more_body:
            # uvicorn does not notice the end of this body before the head of the next request.
            self._stop_waiting()
            self._timer = asyncio.get_running_loop().call_later(UNREAD_SECONDS, self._close)

    @property
    def _is_answering(self) -> bool:
        """Whether a request is complete and its answer is not."""
        cycle = self.cycle
        return cycle is not None and not cycle.response_complete and not cycle.more_body

    def _probe(self) -> None:
        """Send bytes that every client ignores."""
        if not self.cycle.response_started:
            self.transport.write(_CONTINUE)
        elif self.cycle.scope["state"].get(SENDS_EVENTS):
            self.transport.write(_PING_CHUNK)
        self._look()

    def _look(self) -> None:
        """End the connection if it was reset, which asyncio does not notice."""
        if not self._is_answering or self.transport.is_closing():
            return
        connection: socket.socket = self.transport.get_extra_info("socket")
        if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.transport.abort()
            return
        asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)


def limited_protocol(base: type[asyncio.Protocol] = AutoHTTPProtocol) -> type[asyncio.Protocol]:
    """Return one of uvicorn's protocols for HTTP with these limits."""
    return cast(type[asyncio.Protocol], type("LimitedProtocol", (_Limited, base), {}))
