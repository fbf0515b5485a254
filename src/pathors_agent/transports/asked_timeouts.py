"""Make httpx2's connections ask before each read how long it may wait.

httpcore2 looks up the read timeout once for a whole body, so that it can neither differ between
the first piece and the rest nor shrink towards the end of the time for the whole.
"""

from collections.abc import Callable
from typing import Any

from pathors_agent.transports.exchange import Exchange

# Eleven days: sockets refuse infinity.
NEVER_SECONDS = 1e6

# Events of httpcore2: a connection was opened; a request is written to one.
_CONNECTED = (".connect_tcp.complete", ".connect_unix_socket.complete", ".start_tls.complete")
_WRITTEN = ".send_request_headers.started"


def asked_timeouts(exchange: Exchange) -> dict[str, float | None]:
    """Give an exchange's limits in the shape that httpx2 wants."""
    connect = exchange.seconds_for("connect")
    read = _AskedTimeout(exchange.seconds_for("first_byte") or NEVER_SECONDS)
    read.exchange = exchange
    write = exchange.seconds_for("between_bytes")
    return {"connect": connect, "pool": connect, "write": write, "read": read}


def on_trace(exchange: Exchange, event: str, info: dict[str, Any]) -> None:
    """Take over a new connection, before anything is read from it; note a kept one."""
    if event.endswith(_CONNECTED):
        exchange.reuse = "new"
        ask_before_reads(info["return_value"])
    elif event.endswith(_WRITTEN) and exchange.reuse == "unknown":
        exchange.reuse = "kept"


async def on_trace_async(exchange: Exchange, event: str, info: dict[str, Any]) -> None:
    """As `on_trace`."""
    on_trace(exchange, event, info)


def ask_before_reads(stream: Any) -> None:
    """Take over a connection; None is that of a test client."""
    if stream is not None and not isinstance(stream.read, _AskingRead):
        stream.read = _AskingRead(stream)


class _AskedTimeout(float):
    """A read timeout that our connections ask anew before each read; to others a number."""

    __slots__ = ("exchange",)

    exchange: Exchange


class _AskingRead:
    """The `read` of a connection that was taken over."""

    __slots__ = ("_read", "_stream")

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._read: Callable[..., Any] = stream.read

    def __call__(self, max_bytes: int, timeout: float | None = None) -> Any:
        if isinstance(timeout, _AskedTimeout):
            exchange = timeout.exchange
            exchange.connection = self._stream
            timeout = exchange.seconds_left()
        return self._read(max_bytes, timeout)
