"""One request and its answer: the time limits, and the errors of HTTP clients in our words."""

import math
import socket
from collections.abc import Container, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from time import monotonic
from typing import Any, Literal

from pathors_agent.concurrency.event_loops import Cancellation
from pathors_agent.errors import InvalidSetting, TransportError
from pathors_agent.transports.connections import trust_hint

# TCP resends a lost SYN after 1 and 3 seconds; this leaves time for both, and for TLS.
CONNECT_SECONDS = 5.0
# A model that hides its reasoning is silent for minutes. An answer without a stream is, too.
FIRST_BYTE_SECONDS = 300.0
# Servers keep a stream alive with a comment every 10 to 30 seconds, or send a token long before.
BETWEEN_BYTES_SECONDS = 60.0
# 32,000 tokens at 20 tokens a second are 27 minutes.
WHOLE_SECONDS = 1800.0
# A tool that runs between two model calls often takes longer than an HTTP client's usual 5 s.
KEEP_ALIVE_SECONDS = 30.0
# The end of the body follows `[DONE]`, mostly in the same packet. A new connection costs more.
DRAIN_SECONDS = 0.05
DRAIN_BYTES = 16 * 1024

# Packings that clients read only if a package for them is installed, and then ask for.
_PACKINGS = frozenset({"br", "zstd", "compress", "x-compress", "x-gzip"})

_FIRST_ERROR = 400
_PROXY_REFUSES = 407
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """The time limits of one request in seconds; None means no limit.

    - `connect`: to get a connection. In HTTPTransport and AsyncHTTPTransport the limit holds for
      each address of the host, and again for its TLS handshake.
    - `first_byte`: from the end of the request to the first byte of the answer's body.
    - `between_bytes`: between two reads after that. A comment that keeps a stream alive counts.
    - `whole`: from the start of the request to the last byte of its answer.
    """

    connect: float | None = CONNECT_SECONDS
    first_byte: float | None = FIRST_BYTE_SECONDS
    between_bytes: float | None = BETWEEN_BYTES_SECONDS
    whole: float | None = WHOLE_SECONDS

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self)):
            value: object = getattr(self, name)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and not (is_number and 0 < self.seconds(name) < math.inf):
                raise InvalidSetting(f"Timeouts.{name} must be a positive number, or None.")

    def seconds(self, name: str) -> float:
        """Return the limit with this name; infinity if there is none."""
        value: float | None = getattr(self, name)
        return math.inf if value is None else value


DEFAULT_TIMEOUTS = Timeouts()


class Exchange:
    """One request and its answer: the time that is left, and the errors.

    Times are those of `time.monotonic`.
    """

    __slots__ = (
        "_cancellation",
        "_drained_from",
        "_first_end",
        "_host",
        "_proxy",
        "_secrets",
        "_timeouts",
        "_waited_for",
        "connection",
        "is_closed",
        "is_error",
        "received",
        "reuse",
        "whole_end",
    )

    def __init__(self, host: str, timeouts: Timeouts, secrets: "Secrets", proxy: str = "") -> None:
        self._host = host
        self._proxy = proxy
        self._timeouts = timeouts
        self._secrets = secrets
        self.whole_end = monotonic() + timeouts.seconds("whole")
        """The deadline of the whole exchange."""
        self.received = 0
        """How many bytes of the answer's body have arrived."""
        self._first_end: float | None = None
        self._drained_from = 0
        self.is_error = False
        """Whether the status is one of an error, whose body may quote secrets."""
        self._waited_for = "whole"
        self.is_closed = False
        self._cancellation: Cancellation | None = None
        self.connection: Any = None
        """The open connection, None before the answer begins; it has `get_extra_info`."""
        self.reuse: Literal["unknown", "new", "kept"] = "unknown"
        """Whether the connection was opened for this request, or kept from an earlier one."""

    # - time limits -

    def seconds_for(self, name: str) -> float | None:
        """Return how long a step before the answer may take; None means no limit."""
        return _finite(min(self._timeouts.seconds(name), self._timeouts.seconds("whole")))

    def seconds_left(self) -> float | None:
        """Return how long the next read may wait; None means no limit.

        Raises `TransportError` if no time is left.
        """
        if self.is_closed:
            raise self.closed()
        now = monotonic()
        left = self.read_end(now) - now
        if left <= 0:
            raise self.timed_out()
        return _finite(left)

    def write_end(self, start: float) -> float:
        """Return the deadline for sending the body, if sending started at `start`."""
        return self._end(start + self._timeouts.seconds("between_bytes"), "between_bytes")

    def read_end(self, start: float) -> float:
        """Return the deadline of a read that starts, or started, at `start`."""
        if self.received:
            return self._end(start + self._timeouts.seconds("between_bytes"), "between_bytes")
        if self._first_end is None:
            self._first_end = start + self._timeouts.seconds("first_byte")
        return self._end(self._first_end, "first_byte")

    def _end(self, when: float, name: str) -> float:
        """Return the earlier of this deadline and the one of the whole; remember which it is."""
        when, self._waited_for = min((when, name), (self.whole_end, "whole"))
        return when

    def next_check(self, waiting_since: float | None, now: float) -> float:
        """Return when to check again whether a read waits too long; `now` or earlier if it does."""
        end = self.read_end(now if waiting_since is None else waiting_since)
        # The limit after the first piece is usually shorter.
        return min(end, now + self._timeouts.seconds("between_bytes"))

    def hurry(self) -> None:
        """Limit the rest of the answer to the time of a drain."""
        self.whole_end = min(self.whole_end, monotonic() + DRAIN_SECONDS)
        self._drained_from = self.received

    @property
    def may_drain(self) -> bool:
        """Whether the drain may continue: few enough bytes were read since `hurry`."""
        return self.received - self._drained_from < DRAIN_BYTES

    def close(self) -> None:
        """Refuse further reads."""
        self.is_closed = True

    def follow(self, cancellation: Cancellation | None) -> None:
        """Abort the exchange when its run is cancelled; raise if the run is cancelled already."""
        if cancellation is not None:
            self._cancellation = cancellation
            cancellation.add(self.abort)
            if self.is_closed:
                self.release()
                raise self.closed()

    def release(self) -> None:
        """Ignore later cancellations: the connection may serve another request."""
        cancellation, self._cancellation, self.connection = self._cancellation, None, None
        if cancellation is not None:
            cancellation.remove(self.abort)

    def abort(self) -> None:
        """End the exchange from any thread, and wake the thread or task that reads."""
        self.close()
        if (connection := self.connection) is not None:
            shut_down(connection)

    # - the answer -

    def begin_answer(self, status: int, headers: Mapping[str, str]) -> None:
        """Take over an answer's head. Raise `TransportError` for a redirect, or a proxy's 407."""
        self.is_error = status >= _FIRST_ERROR
        self.reuse = "unknown"  # a later failure is not a connection that was closed while idle
        if status == _PROXY_REFUSES and self._proxy:
            raise TransportError(
                f"The proxy {self._proxy} answered 407: it needs a user name and password, or does "
                "not accept those in its address; set them in HTTP_PROXY.",
                retryable=False,
            )
        if status in _REDIRECTS and "location" in headers:
            raise TransportError(
                f"{self._host} answered {status}: its address has moved. Redirects are "
                "not followed, so that the key stays here; set base_url to the new address.",
                retryable=False,
            )

    def take(self, piece: bytes) -> bytes:
        """Count a piece of the body, and return it. Raise `TransportError` if it arrived too late."""
        self.received += len(piece)
        if monotonic() >= self.whole_end:
            raise self.timed_out("whole")
        return self.masked(piece) if self.is_error else piece

    def masked(self, piece: bytes) -> bytes:
        """Mask the secrets in a piece of the body of an error.

        A secret that is cut by the network is not found, but most errors are one piece.
        """
        return self._secrets.masked_bytes(piece)

    # - failures -

    def failure(
        self, error: Exception, kinds: Mapping[str, str], *, reason: str = ""
    ) -> TransportError:
        """Return the `TransportError` for an error of an HTTP client.

        `kinds` maps the names of the client's exceptions to one of `FAILURES`, or to the limit
        that was reached; "wait" is the limit of the last wait.
        """
        kind = next(kinds[cls.__name__] for cls in type(error).__mro__ if cls.__name__ in kinds)
        if kind not in FAILURES:
            return self.timed_out(None if kind == "wait" else kind)
        if kind == "refused":
            kind = self._refused_by(error)
        reason = self._secrets.masked(reason or _reason(error)).rstrip(".")
        text = FAILURES[kind].format(
            host=self._host,
            proxy=f" {self._proxy}" if self._proxy else "",
            received=self.received,
            reason=reason,
            trust=trust_hint() if kind == "certificate" else "",
        )
        is_final = kind in _FINAL or (kind == "proxy" and reason.startswith(str(_PROXY_REFUSES)))
        failure = TransportError(text, retryable=not is_final)
        failure.was_idle = kind in _BREAKS and self.reuse == "kept"
        return failure

    def _refused_by(self, error: Exception) -> str:
        """Return the kind of failure for a connection that was not opened."""
        names = {type(link).__name__ for link in _chain(error)}
        if "SSLCertVerificationError" in names:
            return "certificate"
        # TLS begins after the proxy has connected to the host.
        return "no proxy" if self._proxy and not any("SSL" in name for name in names) else "refused"

    def check_packing(self, packing: str, status: int, *, readable: Container[str]) -> None:
        """Raise `TransportError` for a body in a packing that the client cannot read."""
        packings = {each.strip() for each in packing.split(",")} & _PACKINGS
        if all(each in readable for each in packings):
            return
        raise TransportError(
            f"{self._host} answered {status} with a body packed as {packing}, which was not asked "
            "for and cannot be read; turn off the compression of the server or its proxy.",
            retryable=False,
        )

    def closed(self) -> TransportError:
        """Return the error for a read after the `with` block."""
        return TransportError(f"The answer of {self._host} was closed before its end.")

    def cause(self, error: Exception) -> Exception | None:
        """Return the error to chain, or None if it quotes a secret."""
        # Loggers may show the repr, and the repr of aiohttp's errors contains all headers.
        texts = [text for link in _chain(error) for text in (str(link), repr(link))]
        return None if any(map(self._secrets.are_in, texts)) else error

    def timed_out(self, name: str | None = None) -> TransportError:
        """Return the error for a limit that was reached: by its name, or that of the last wait."""
        name = name or self._waited_for
        name = min(name, "whole", key=self._timeouts.seconds) if name == "connect" else name
        seconds = self._timeouts.seconds(name)
        through = f" through the proxy {self._proxy}" if self._proxy else ""
        return TransportError(
            f"{_SLOW[name].format(host=self._host, through=through, seconds=seconds)}, "
            f"after {self.received} bytes "
            f"of the answer; the limit is Timeouts({name}={seconds:g}).",
            retryable=name != "whole",  # the caller allowed no more time
            timed_out=True,
        )


def shut_down(connection: Any) -> None:
    """Shut down the socket of a connection from any thread, unless other requests share it."""
    tls, found = (connection.get_extra_info(name) for name in ("ssl_object", "socket"))
    if found is None or (tls is not None and tls.selected_alpn_protocol() == "h2"):
        return
    found = getattr(found, "_sock", found)  # asyncio's wrapper
    if isinstance(found, socket.socket):
        with suppress(OSError):  # not connected any more
            socket.socket.shutdown(
                found, socket.SHUT_RDWR
            )  # the method of a TLS socket would wait, or unwrap the socket


class Secrets:
    """The texts that errors must not contain: keys, passwords, and the query of an address.

    A query is not masked in a provider's error: its words are rarely secret and often useful.
    """

    def __init__(self, values: list[str], query: str = "") -> None:
        self._values = values
        self._query = query

    def masked(self, text: str) -> str:
        """Return the text with all secrets replaced by stars."""
        return self.masked_words(text.replace(self._query, "***") if self._query else text)

    def masked_words(self, text: str) -> str:
        """Return a provider's text with keys and passwords replaced by stars."""
        for secret in self._values:
            text = text.replace(secret, "***")
        return text

    def masked_bytes(self, body: bytes) -> bytes:
        """Return a piece of a body with keys and passwords replaced by stars."""
        for secret in self._values:
            body = body.replace(secret.encode(), b"***")
        return body

    def are_in(self, text: str) -> bool:
        """Return True if the text contains a secret."""
        return self.masked(text) != text


_SLOW = {
    "connect": "No connection to {host}{through} within {seconds:g} s",
    "first_byte": "{host} sent no byte of an answer's body within {seconds:g} s",
    "between_bytes": "{host} was silent for {seconds:g} s",
    "whole": "{host} did not finish within {seconds:g} s",
}
FAILURES = {
    "refused": "No connection to {host}: {reason}.",
    "no proxy": "No connection to the proxy{proxy}, through which {host} is reached: {reason}.",
    "proxy": "The proxy{proxy} refused a connection to {host}: {reason}.",
    "certificate": "{host} has a certificate that is not trusted: {reason}; {trust}.",
    "write": "The connection to {host} broke while the request was sent: {reason}.",
    "read": "The connection to {host} broke after {received} bytes of the answer: {reason}.",
    "format": "{host} cut off or garbled its answer after {received} bytes: {reason}.",
    "packing": "{host} sent a body that cannot be decompressed, after {received} bytes: {reason}.",
    "other": "The request to {host} failed after {received} bytes of the answer: {reason}.",
    "request": "The request to {host} cannot be sent: {reason}.",
}
# Failures that a retry would repeat.
_FINAL = frozenset({"packing", "request", "certificate"})
# How a connection fails that the server closed while it was idle.
_BREAKS = frozenset({"read", "write", "format"})


def _reason(error: Exception) -> str:
    """Return the text of the operating system's error in the chain, or else the first text."""
    links = list(_chain(error))
    system = [link for link in links if isinstance(link, OSError) and link.errno is not None]
    texts = (str(link) for link in (*system[-1:], *links))
    return next(filter(None, texts), type(error).__name__)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        if isinstance(error, BaseExceptionGroup):  # one error for each address of the host
            for member in error.exceptions:
                yield from _chain(member)
        error = error.__cause__ or error.__context__


def _finite(seconds: float) -> float | None:
    return None if seconds == math.inf else seconds
