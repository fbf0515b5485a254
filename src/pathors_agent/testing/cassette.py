"""Record the answers of an endpoint once, and replay them: transports around transports."""

import json
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any, Generic, TypeVar, cast
from urllib.parse import unquote_to_bytes

from pathors_agent.concurrency.lifetime import AsyncLifetime, Lifetime
from pathors_agent.errors import CassetteMiss, CassetteRefused, TransportError
from pathors_agent.testing.scripted_transport import each_piece
from pathors_agent.testing.tape import AskedRequest, Failure, RecordedExchange, Tape
from pathors_agent.testing.usage import with_article
from pathors_agent.transports.base import (
    AsyncResponse,
    AsyncTransport,
    Request,
    Response,
    Transport,
    close_pieces,
)
from pathors_agent.transports.scrubbing import Scrub, spread_texts

TransportT = TypeVar("TransportT", Transport, AsyncTransport)


class _Recorder(Generic[TransportT]):
    """A tape, and the transport that is recorded; it is not created for replaying."""

    def __init__(
        self,
        tape: Tape | str | os.PathLike[str],
        transport: TransportT | Callable[[], TransportT] | None,
        *,
        kind: type[object],
        record: bool | None,
        scrub: Scrub | None,
    ) -> None:
        if isinstance(tape, Tape) and record is not None:
            raise TypeError("pass record= to the Tape, or pass a path instead of a Tape")
        self.tape = tape if isinstance(tape, Tape) else Tape(tape, record=record)
        self.transport: TransportT | None = None
        if transport is not None and not isinstance(transport, kind) and not callable(transport):
            raise TypeError(_wrong_transport(transport, kind))
        if self.tape.records:
            self.transport = _made(transport, kind)
            self.tape.profile = self.transport.profile
        self._scrub = scrub or Scrub()

    def asked(self, request: Request) -> AskedRequest:
        """Return a request in the form in which it is compared."""
        try:
            body = json.loads(request.body) if request.body else None
        except ValueError:
            body = request.body.decode(errors="replace")
        return AskedRequest(
            method=request.method,
            path=self._scrub.text(request.path),
            body=self._scrub.request_body(body),
        )

    def note(self, exchange: RecordedExchange, response: Response | AsyncResponse) -> None:
        exchange.status = response.status
        exchange.headers = self._scrub.kept_headers(response.headers)
        exchange.masked = response.masked
        session_id = response.session_id
        exchange.session_id = None if session_id is None else self._scrub.text(session_id)

    def note_failure(self, exchange: RecordedExchange, error: TransportError) -> None:
        exchange.failure = Failure(
            text=self._scrub.text(str(error)), retryable=error.retryable, timed_out=error.timed_out
        )

    def end(self, exchange: RecordedExchange) -> None:
        """Store an exchange; raise `CassetteRefused` instead if a secret is left in it."""
        exchange.pieces = self._scrub.pieces(exchange.pieces)
        for place, texts in _texts_of(exchange).items():
            if name := self._scrub.missed(texts) or _own_key(exchange, texts):
                self.tape.drop(exchange)
                raise CassetteRefused(
                    f"a recording is not stored in {self.tape.path}, because {place} of "
                    f"{exchange.request.method} {exchange.request.path} holds {name} in a form "
                    "that is not masked; add it to Scrub.secrets, or keep it out of the test"
                )
        if exchange.status is not None or exchange.failure is not None:
            self.tape.end(exchange)

    def found(self, request: Request) -> RecordedExchange:
        """Return the recording of a request; raise its recorded failure if it has no answer."""
        exchange = self.tape.find(self.asked(request))
        if exchange.status is None and exchange.failure is not None:
            raise exchange.failure.error()
        return exchange

    def pieces(self, exchange: RecordedExchange) -> Iterator[bytes]:
        """Return a recorded body, byte for byte."""
        yield from exchange.pieces
        if exchange.failure is not None:
            raise exchange.failure.error()
        if not exchange.complete:
            raise CassetteMiss(
                f"the recording in {self.tape.path} ends here, because its reader stopped; record it again"
            )


def _own_key(exchange: RecordedExchange, texts: Iterable[bytes]) -> str | None:
    """Return a name for a key of the recorded transport, if one of the texts contains it."""
    plain = (text.decode(errors="replace") for text in texts)
    return next(("a key of the transport" for text in plain if exchange.masked(text) != text), None)


def _texts_of(exchange: RecordedExchange) -> dict[str, list[bytes]]:
    """Return every text that an exchange would store, encoded and decoded."""
    request = exchange.request
    asked = json.dumps(request.body, ensure_ascii=False).encode(errors="surrogatepass")
    path = request.path.encode(errors="surrogatepass")
    body = b"".join(exchange.pieces)
    failure = exchange.failure.text if exchange.failure is not None else ""
    head = [*exchange.headers.values(), exchange.session_id or ""]
    return {
        "the path": [path, unquote_to_bytes(path)],
        "the request's body": [asked, *spread_texts(asked)],
        "the response's headers": [value.encode(errors="surrogatepass") for value in head],
        "the response's body": [body, unquote_to_bytes(body), *spread_texts(body)],
        "the error": [failure.encode(errors="surrogatepass")],
    }


def _made(
    transport: TransportT | Callable[[], TransportT] | None, kind: type[object]
) -> TransportT:
    if transport is None:
        raise TypeError(
            "there is nothing to record: pass a transport, or a function that returns one"
        )
    made: object = transport if isinstance(transport, kind) else cast(_Maker, transport)()
    if not isinstance(made, kind):
        raise TypeError(_wrong_transport(made, kind))
    return cast(TransportT, made)


_Maker = Callable[[], object]


def _wrong_transport(given: object, kind: type[object]) -> str:
    own, other = "Cassette", "AsyncCassette"
    if kind is AsyncTransport:
        own, other = other, own
    hint = f"; use {other}" if isinstance(given, Transport | AsyncTransport) else ""
    return (
        f"{own} records {with_article(kind.__name__)}, or a function that returns one, not "
        f"{with_article(type(given).__name__)}{hint}"
    )


def _head(exchange: RecordedExchange) -> dict[str, Any]:
    return {
        "status": exchange.status,
        "headers": exchange.headers,
        "session_id": exchange.session_id,
    }


class Cassette(Transport, Lifetime):
    """A transport that records the answers of another transport, and then replays them.

    `tape` is the path of a JSON file, or a `Tape`. An existing file is replayed unless `record` is
    True. `transport`, or a function that returns it, is used for recording only, so that replaying
    needs no key. A request is found by its method, path and body; the order of the body's fields
    does not matter, and equal requests are replayed in the order of their recording. Raises
    `CassetteMiss` for a request that was not recorded. Headers of requests, and secrets that `scrub`
    finds, are not stored. A `with` block opens and closes the inner transport.
    """

    def __init__(
        self,
        tape: Tape | str | os.PathLike[str],
        transport: Transport | Callable[[], Transport] | None = None,
        *,
        record: bool | None = None,
        scrub: Scrub | None = None,
    ) -> None:
        self._recorder = _Recorder[Transport](
            tape, transport, kind=Transport, record=record, scrub=scrub
        )
        self.profile = self._recorder.tape.profile
        self._given = (self._recorder.transport,)

    @contextmanager
    def send(self, request: Request) -> Iterator[Response]:
        """Answer from the tape, or send the request and record."""
        recorder = self._recorder
        if recorder.transport is not None:
            with self._recorded(request, recorder.transport) as response:
                yield response
            return
        exchange = recorder.found(request)
        yield Response(**_head(exchange), pieces=recorder.pieces(exchange))

    @contextmanager
    def _recorded(self, request: Request, transport: Transport) -> Iterator[Response]:
        recorder = self._recorder
        exchange = recorder.tape.begin(recorder.asked(request))
        try:
            with transport.send(request) as response:
                recorder.note(exchange, response)
                yield replace(response, pieces=self._noted(exchange, response))
        except TransportError as error:
            if exchange.status is None:
                recorder.note_failure(exchange, error)
            raise
        finally:
            recorder.end(exchange)

    def _noted(self, exchange: RecordedExchange, response: Response) -> Iterator[bytes]:
        try:
            for piece in response.pieces:
                exchange.pieces.append(piece)
                yield piece
        except TransportError as error:
            self._recorder.note_failure(exchange, error)
            raise
        exchange.complete = True


class AsyncCassette(AsyncTransport, AsyncLifetime):
    """`Cassette` for asyncio and trio; it reads and writes the same files."""

    def __init__(
        self,
        tape: Tape | str | os.PathLike[str],
        transport: AsyncTransport | Callable[[], AsyncTransport] | None = None,
        *,
        record: bool | None = None,
        scrub: Scrub | None = None,
    ) -> None:
        self._recorder = _Recorder[AsyncTransport](
            tape, transport, kind=AsyncTransport, record=record, scrub=scrub
        )
        self.profile = self._recorder.tape.profile
        self._given = (self._recorder.transport,)

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncIterator[AsyncResponse]:
        """Answer from the tape, or send the request and record."""
        recorder = self._recorder
        if recorder.transport is not None:
            async with self._recorded(request, recorder.transport) as response:
                yield response
            return
        exchange = recorder.found(request)
        async with aclosing(each_piece(recorder.pieces(exchange))) as pieces:
            yield AsyncResponse(**_head(exchange), pieces=pieces)

    @asynccontextmanager
    async def _recorded(
        self, request: Request, transport: AsyncTransport
    ) -> AsyncIterator[AsyncResponse]:
        recorder = self._recorder
        exchange = recorder.tape.begin(recorder.asked(request))
        try:
            async with transport.send(request) as response:
                recorder.note(exchange, response)
                async with aclosing(self._noted(exchange, response)) as pieces:
                    yield replace(response, pieces=pieces)
        except TransportError as error:
            if exchange.status is None:
                recorder.note_failure(exchange, error)
            raise
        finally:
            recorder.end(exchange)

    async def _noted(
        self, exchange: RecordedExchange, response: AsyncResponse
    ) -> AsyncGenerator[bytes, None]:
        pieces = aiter(response.pieces)
        try:
            async for piece in pieces:
                exchange.pieces.append(piece)
                yield piece
        except TransportError as error:
            self._recorder.note_failure(exchange, error)
            raise
        finally:
            await close_pieces(pieces)
        exchange.complete = True
