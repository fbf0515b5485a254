"""Follow one request and its answer: how long it may wait, and how its failures are told."""

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, fields
from time import monotonic
from typing import TYPE_CHECKING, Any

from pathors_agent.errors import AgentError, TransportError

if TYPE_CHECKING:
    import httpx2

# A lost SYN is sent again after 1 and 3 seconds: time for both, and for TLS.
CONNECT_SECONDS = 5.0
# A model that reasons without showing it is silent for minutes, and so is an unstreamed answer.
FIRST_BYTE_SECONDS = 300.0
# Servers keep a stream alive with a comment every 10 to 30 seconds, or send a token long before.
BETWEEN_BYTES_SECONDS = 60.0
# 32,000 tokens at 20 tokens a second are 27 minutes.
WHOLE_SECONDS = 1800.0
# After `[DONE]` comes the end of the body, mostly in the same packet; a new connection costs more.
DRAIN_SECONDS = 0.05
DRAIN_BYTES = 16 * 1024
# Eleven days: sockets refuse infinity.
NEVER_SECONDS = 1e6


class InvalidSetting(AgentError, ValueError):
    """An address, key, header or limit of time that cannot be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How many seconds the parts of one request may take; None sets no limit.

    - `connect`: to get a connection; an address of the host and its TLS handshake count anew.
    - `first_byte`: from the end of the request to the first byte of the answer's body.
    - `between_bytes`: any silence after that. A comment that keeps a stream alive ends it.
    - `whole`: from the start of the request to the last byte of its answer.
    """

    connect: float | None = CONNECT_SECONDS
    first_byte: float | None = FIRST_BYTE_SECONDS
    between_bytes: float | None = BETWEEN_BYTES_SECONDS
    whole: float | None = WHOLE_SECONDS

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self)):
            if not self.seconds(name) > 0 or getattr(self, name) == math.inf:
                raise InvalidSetting(f"Timeouts.{name} must be a positive number, or None.")

    def seconds(self, name: str) -> float:
        """Give the limit of this name; infinity where there is none."""
        value: float | None = getattr(self, name)
        return math.inf if value is None else value


DEFAULT_TIMEOUTS = Timeouts()


class Exchange:
    """One request and its answer: how long it may still wait, and how its failures are told."""

    def __init__(self, host: str, timeouts: Timeouts, secrets: list[str]) -> None:
        self._host = host
        self._timeouts = timeouts
        self._secrets = secrets
        self._whole_end = monotonic() + timeouts.seconds("whole")
        self._first_end: float | None = None
        self._received = 0
        self._drained_from = 0
        self._is_error = False
        self._waited_for = "first_byte"
        self._closed = False

    def httpx_timeouts(self) -> dict[str, float | None]:
        """Give the limits in the shape that httpx2 wants."""
        connect, write, first = (
            _finite(min(self._timeouts.seconds(name), self._timeouts.seconds("whole")))
            for name in ("connect", "between_bytes", "first_byte")
        )
        read = _AskedTimeout(first or NEVER_SECONDS)
        read.seconds_left = self.seconds_left
        return {"connect": connect, "pool": connect, "write": write, "read": read}

    def hurry(self) -> None:
        """Leave only a moment for what is still on its way."""
        self._whole_end = min(self._whole_end, monotonic() + DRAIN_SECONDS)
        self._drained_from = self._received

    @property
    def may_drain(self) -> bool:
        """Whether to go on reading what nobody wants."""
        return self._received - self._drained_from < DRAIN_BYTES

    def close(self) -> None:
        """Let nothing more be read."""
        self._closed = True

    def seconds_left(self) -> float | None:
        """Say how long the next read may wait, None for ever; raise when no time is left."""
        if self._closed:
            raise TransportError(f"The answer of {self._host} was closed before its end.")
        now = monotonic()
        left, self._waited_for = min(self._silence_left(now), (self._whole_end - now, "whole"))
        if left <= 0:
            raise self._timed_out(self._waited_for)
        return _finite(left)

    def _silence_left(self, now: float) -> tuple[float, str]:
        if self._received:
            return self._timeouts.seconds("between_bytes"), "between_bytes"
        if self._first_end is None:
            self._first_end = now + self._timeouts.seconds("first_byte")
        return self._first_end - now, "first_byte"

    def on_trace(self, event: str, info: dict[str, Any]) -> None:
        """Take over a new connection, before anything is read from it."""
        if event.endswith(_CONNECTED):
            _ask_before_reads(info["return_value"])

    async def on_trace_async(self, event: str, info: dict[str, Any]) -> None:
        """As `on_trace`."""
        self.on_trace(event, info)

    def opened(self, answer: "httpx2.Response") -> None:
        """Take over the answer's connection; refuse an answer that sends us elsewhere."""
        self._is_error = answer.is_error
        _ask_before_reads(answer.extensions.get("network_stream"))
        if answer.has_redirect_location:
            raise TransportError(
                f"{self._host} answered {answer.status_code}: its address has moved. Redirects are "
                "not followed, so that the key stays here; set base_url to the new address.",
                retryable=False,
            )

    def count(self, piece: bytes) -> None:
        """Note a piece of the body; raise where it came too late."""
        self._received += len(piece)
        if monotonic() >= self._whole_end:
            raise self._timed_out("whole")

    def masked(self, piece: bytes) -> bytes:
        """Give a piece of the body, without the secrets that an error may quote.

        A secret cut in two by the network is not found; errors are a piece each, nearly always.
        """
        if self._is_error:
            for secret in self._secrets:
                piece = piece.replace(secret.encode(), b"***")
        return piece

    def failure(self, error: Exception) -> TransportError:
        """Tell an error of httpx2 in our words."""
        names = [cls.__name__ for cls in type(error).__mro__]
        limit = next((_TIMEOUTS[name] for name in names if name in _TIMEOUTS), None)
        if limit is not None:
            return self._timed_out(limit or self._waited_for)
        text = next(_FAILURES[name] for name in names if name in _FAILURES)
        return TransportError(
            text.format(host=self._host, received=self._received, reason=self._reason(error)),
            retryable=not (_FINAL.intersection(names) or _refuses_certificate(error)),
        )

    def cause(self, error: Exception) -> Exception | None:
        """Give the error to chain: none, where it quotes a secret."""
        texts = [str(link) for link in _chain(error)]
        return None if any(secret in text for secret in self._secrets for text in texts) else error

    def _reason(self, error: Exception) -> str:
        texts = (str(link) for link in _chain(error))
        reason = next(filter(None, texts), type(error).__name__)
        for secret in self._secrets:
            reason = reason.replace(secret, "***")
        return reason.rstrip(".")

    def _timed_out(self, name: str) -> TransportError:
        name = min(name, "whole", key=self._timeouts.seconds) if name == "connect" else name
        seconds = self._timeouts.seconds(name)
        return TransportError(
            f"{_SLOW[name].format(host=self._host, seconds=seconds)}, after {self._received} bytes "
            f"of the answer; the limit is Timeouts({name}={seconds:g}).",
            retryable=name != "whole",  # the caller gave no more time than this
        )


class _AskedTimeout(float):
    """A read timeout that our connections ask anew before each read; to others a number."""

    seconds_left: Callable[[], float | None]


def _ask_before_reads(stream: Any) -> None:
    """Make a connection ask before each read how long it may wait.

    httpcore2 looks up the read timeout once for a whole body, so it can neither differ between
    the first piece and the rest nor shrink towards the end of the time for the whole.
    """
    with suppress(TypeError):  # a test client's answer has no connection
        if "read" in vars(stream):
            return
        read = stream.read

        def asking_read(max_bytes: int, timeout: float | None = None) -> Any:
            asked = timeout.seconds_left() if isinstance(timeout, _AskedTimeout) else timeout
            return read(max_bytes, asked)

        stream.read = asking_read


# Events of httpcore2 that bring a connection.
_CONNECTED = (".connect_tcp.complete", ".connect_unix_socket.complete", ".start_tls.complete")
# Errors of httpx2 by name: the limit that ran out ("": the one that reads wait for).
_TIMEOUTS = {
    "ConnectTimeout": "connect",
    "PoolTimeout": "connect",
    "WriteTimeout": "between_bytes",
    "ReadTimeout": "",
}
_SLOW = {
    "connect": "No connection to {host} within {seconds:g} s",
    "first_byte": "{host} sent no byte of an answer's body within {seconds:g} s",
    "between_bytes": "{host} was silent for {seconds:g} s",
    "whole": "{host} did not finish within {seconds:g} s",
}
_FAILURES = {
    "ConnectError": "No connection to {host}: {reason}.",
    "ProxyError": "The proxy gave no connection to {host}: {reason}.",
    "WriteError": "The connection to {host} broke while the request was sent: {reason}.",
    "ReadError": "The connection to {host} broke after {received} bytes of the answer: {reason}.",
    "RemoteProtocolError": "{host} cut off or garbled its answer after {received} bytes: {reason}.",
    "DecodingError": "{host} sent a body that cannot be decompressed, after {received} bytes: "
    "{reason}.",
    "HTTPError": "The request to {host} failed after {received} bytes of the answer: {reason}.",
}
# The same request would fail in the same way.
_FINAL = frozenset({"DecodingError", "LocalProtocolError", "UnsupportedProtocol"})


def _refuses_certificate(error: Exception) -> bool:
    return any(type(link).__name__ == "SSLCertVerificationError" for link in _chain(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _finite(seconds: float) -> float | None:
    return None if seconds == math.inf else seconds
