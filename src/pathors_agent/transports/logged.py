"""Log every request and its answer, with secrets masked: a transport around another transport."""

import inspect
import json
import logging
import os
import sys
import time
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import Protocol, TextIO

from pathors_agent.concurrency.lifetime import AsyncLifetime, Lifetime
from pathors_agent.errors import TransportError, named_error
from pathors_agent.json_text import whole_characters
from pathors_agent.telemetry.events import emit, observe
from pathors_agent.transports.base import (
    AroundTransport,
    AsyncResponse,
    AsyncTransport,
    Request,
    Response,
    Transport,
    TransportT,
)
from pathors_agent.transports.scrubbing import Scrub, spread_texts

# A long conversation without images; what follows is counted.
MAX_LOGGED_CHARACTERS = 200_000
# The pieces of a key that the cut would separate are masked together.
MARGIN_BYTES = 4_000


class Logger(Protocol):
    """A logger of the standard library or of structlog."""

    def info(self, event: str, /) -> object:
        """Log a text."""


LogTarget = str | os.PathLike[str] | TextIO | Logger
"""A path, an open text file, or a logger with a method `info`."""


class _Logging(AroundTransport[TransportT]):
    """The transport inside, and where its requests and answers are written."""

    def __init__(
        self, transport: TransportT, to: LogTarget | None = None, *, secrets: Sequence[str] = ()
    ) -> None:
        super().__init__(transport)
        self._write = _writer(to)
        self._scrub = Scrub(secrets=secrets)
        self._numbers = count(1)

    def _begin(self, request: Request) -> "_LoggedExchange":
        return _LoggedExchange(next(self._numbers), request, self._scrub, self._write)


class LoggingTransport(_Logging[Transport], Transport, Lifetime):
    """Send requests through `transport`, and log each request and its answer as text.

    `to` is the path of a file, an open text file or a logger; without it, the text goes to stderr.
    A file is appended to; a logger gets each text with `info`. The request is logged before it is
    sent, and the answer when it ends, with the part of it that arrived.

    The texts show message contents. API keys and everything in the shape of a key are masked, and
    so are the texts in `secrets`. No header of a request is logged.
    """

    @contextmanager
    def send(self, request: Request) -> Generator[Response]:
        """Send the request, and log it and its answer."""
        exchange = self._begin(request)
        with exchange, self._transport.send(exchange.request) as response:
            exchange.begin_answer(response)
            yield replace(response, pieces=self._logged(exchange, response))

    @staticmethod
    def _logged(exchange: "_LoggedExchange", response: Response) -> Generator[bytes]:
        for piece in response.pieces:
            exchange.add(piece)
            yield piece


class AsyncLoggingTransport(_Logging[AsyncTransport], AsyncTransport, AsyncLifetime):
    """`LoggingTransport` for asyncio and trio. Its files are written in the event loop's thread."""

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncGenerator[AsyncResponse]:
        """As `LoggingTransport.send`."""
        exchange = self._begin(request)
        with exchange:
            async with self._transport.send(exchange.request) as response:
                exchange.begin_answer(response)
                async with aclosing(self._logged(exchange, response)) as pieces:
                    yield replace(response, pieces=pieces)

    @staticmethod
    async def _logged(
        exchange: "_LoggedExchange", response: AsyncResponse
    ) -> AsyncGenerator[bytes, None]:
        pieces = aiter(response.pieces)
        try:
            async for piece in pieces:
                exchange.add(piece)
                yield piece
        finally:
            close = getattr(pieces, "aclose", None)
            if close is not None:
                await close()


def _writer(to: LogTarget | None) -> Callable[[str], object]:
    if isinstance(to, str | os.PathLike):
        path = Path(to)
        path.touch()  # a wrong path fails here
        return lambda text: _append(path, text)
    if to is None:
        return lambda text: sys.stderr.write(f"{text}\n")
    info, write = getattr(to, "info", None), getattr(to, "write", None)
    if callable(info) and not inspect.iscoroutinefunction(info):
        return partial(info, "%s") if isinstance(to, logging.Logger) else info
    if info is None and callable(write):
        return lambda text: write(f"{text}\n")
    raise TypeError(
        "to= must be the path of a file, an open text file or a logger that is not async, "
        f"not a {type(to).__name__}"
    )


def _append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8", errors="replace") as file:
        file.write(f"{text}\n")


class _LoggedExchange:
    """One request and its answer. A context manager, which logs how the answer ended."""

    def __init__(
        self, number: int, request: Request, scrub: Scrub, write: Callable[[str], object]
    ) -> None:
        self._number = number
        self._scrub = scrub
        self._write = write
        self._begun = time.monotonic()
        self._head = ""
        self._masked: Callable[[str], str] = str
        self._pieces: list[bytes] = []
        self._kept = self._received = 0
        self._emit = request.on_event or emit
        self.request = replace(request, on_event=self._note)
        session = f", session {request.session_id}" if request.session_id else ""
        self._log(f"{request.method} {request.path}{session}", self._request_text(request.body))

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        ending = f"{time.monotonic() - self._begun:.3f} s, {self._received:,} bytes"
        if error is not None:
            ending += ", " + (
                named_error(error) if isinstance(error, TransportError) else type(error).__name__
            )
        self._log(f"{self._head or 'no answer'} after {ending}", self._answer_text())

    def begin_answer(self, response: Response | AsyncResponse) -> None:
        """Take over the head of the answer."""
        self._masked = response.masked
        headers = self._scrub.kept_headers(response.headers)
        attempts = f"{response.attempts} attempts" if response.attempts > 1 else ""
        shown = [f"{name}: {value}" for name, value in headers.items()]
        self._head = ", ".join(filter(None, [str(response.status), attempts, *shown]))

    def add(self, piece: bytes) -> None:
        """Add a piece of the answer's body."""
        self._received += len(piece)
        # A little more than is shown, so that a key at the cut is recognised.
        if self._kept < MAX_LOGGED_CHARACTERS + MARGIN_BYTES:
            self._pieces.append(piece)
            self._kept += len(piece)

    # - the logged texts

    def _log(self, title: str, body: str = "") -> None:
        now = datetime.now(UTC).strftime("%H:%M:%S.%f")[:-3]
        text = f"[{self._number}] {now} {self._scrub.text(self._masked(title))}"
        observe("the transport's log", self._write, f"{text}\n{body}" if body else text)

    def _note(self, event: str, **fields: object) -> None:
        """Log an event on the way, such as a retry, and pass it on."""
        self._log(" ".join([event, *(f"{name}={value}" for name, value in fields.items())]))
        self._emit(event, **fields)

    def _request_text(self, body: bytes) -> str:
        try:
            value = self._scrub.request_body(json.loads(body))
        except (ValueError, RecursionError):
            return self._cut(self._scrub.text(body.decode(errors="replace")))
        return self._cut(json.dumps(value, indent=2, ensure_ascii=False))

    def _answer_text(self) -> str:
        body = b"".join(self._scrub.pieces(self._pieces))
        for text in (text.decode(errors="replace") for text in spread_texts(body)):
            if self._masked(text) != text:
                return "(not shown: the answer repeats a key of the transport)"
        return self._cut(self._masked(body.decode(errors="replace")), self._received - self._kept)

    @staticmethod
    def _cut(text: str, more: int = 0) -> str:
        """Return the start of a text, with lone surrogates replaced so that files can take it."""
        more += max(len(text) - MAX_LOGGED_CHARACTERS, 0)
        shown = whole_characters(text[:MAX_LOGGED_CHARACTERS]).rstrip("\n")
        return f"{shown}\n(and {more:,} more characters)" if more else shown
