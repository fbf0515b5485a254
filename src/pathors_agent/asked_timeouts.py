"""Make httpx2's connections ask before each read how long it may wait.

httpcore2 looks up the read timeout once for a whole body, so that it can neither differ between
the first piece and the rest nor shrink towards the end of the time for the whole.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from pathors_agent.exchange import Exchange

# Eleven days: sockets refuse infinity.
NEVER_SECONDS = 1e6

# Events of httpcore2 that bring a connection.
_CONNECTED = (".connect_tcp.complete", ".connect_unix_socket.complete", ".start_tls.complete")


def asked_timeouts(exchange: Exchange) -> dict[str, float | None]:
    """Give an exchange's limits in the shape that httpx2 wants."""
    connect = exchange.seconds_for("connect")
    read = _AskedTimeout(exchange.seconds_for("first_byte") or NEVER_SECONDS)
    read.seconds_left = exchange.seconds_left
    write = exchange.seconds_for("between_bytes")
    return {"connect": connect, "pool": connect, "write": write, "read": read}


def on_trace(event: str, info: dict[str, Any]) -> None:
    """Take over a new connection, before anything is read from it."""
    if event.endswith(_CONNECTED):
        ask_before_reads(info["return_value"])


async def on_trace_async(event: str, info: dict[str, Any]) -> None:
    """As `on_trace`."""
    on_trace(event, info)


def ask_before_reads(stream: Any) -> None:
    """Take over a connection."""
    with suppress(TypeError):  # a test client's answer has no connection
        if "read" in vars(stream):
            return
        read = stream.read

        def asking_read(max_bytes: int, timeout: float | None = None) -> Any:
            asked = timeout.seconds_left() if isinstance(timeout, _AskedTimeout) else timeout
            return read(max_bytes, asked)

        stream.read = asking_read


class _AskedTimeout(float):
    """A read timeout that our connections ask anew before each read; to others a number."""

    seconds_left: Callable[[], float | None]
