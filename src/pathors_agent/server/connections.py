"""Close connections on which no whole head of a request comes in time, or in reasonable size."""

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.auto import AutoHTTPProtocol

# From the connection, or a request's first byte, to the end of its headers.
HEAD_SECONDS = 20.0
# Browsers and proxies send less; servers commonly take 8 to 64 KiB.
MAX_HEAD_BYTES = 64 * 1024


class _LimitedHeads(asyncio.Protocol):
    """Stands before one of uvicorn's protocols, which wait for headers without end."""

    # What the protocols of uvicorn have: the request that is answered, with its state.
    cycle: Any
    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._head_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._stop_waiting()
        elif before is None or before.response_complete:
            is_body = before is not None and before.more_body
            self._count_head(0 if is_body else len(data))

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            self._close()
        elif self._timer is None:
            self._wait_for_head()

    def _wait_for_head(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(HEAD_SECONDS, self._close)

    def _stop_waiting(self) -> None:
        self._head_bytes = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()


def limited_protocol(base: type[asyncio.Protocol] = AutoHTTPProtocol) -> type[asyncio.Protocol]:
    """Return one of uvicorn's protocols for HTTP with these limits."""
    bases = (_LimitedHeads, base)
    return cast(type[asyncio.Protocol], type("LimitedProtocol", bases, {}))
