"""Right transports pass the check; each of the wrong ones is named the rule that it breaks."""

import http.client
import json
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from http.client import HTTPException, HTTPResponse, IncompleteRead
from typing import Any, Self
from urllib.parse import urlsplit

import pytest

from pathors_agent import (
    AsyncHTTPTransport,
    AsyncResponse,
    AsyncTransport,
    HTTPTransport,
    Request,
    Response,
    Transport,
    TransportError,
)
from pathors_agent.testing import check_async_transport, check_transport

pytestmark = pytest.mark.anyio

# How long the server waits for what a wrong transport never does.
SHORT = 0.3


OPENED: list[Any] = []


@pytest.fixture(autouse=True)
def closed_at_last() -> Iterator[None]:
    """Close what the wrong transports leave open."""
    yield
    for left in OPENED:
        left.close()
    OPENED.clear()


class Plain(Transport):
    """A right transport of the standard library, in parts that a wrong one replaces."""

    def __init__(self, base_url: str) -> None:
        self.base = urlsplit(base_url)

    @contextmanager
    def send(self, request: Request) -> Iterator[Response]:
        connection = self.connect()
        try:
            answered = self.ask(connection, request)
            yield Response(
                status=self.status(answered),
                headers=self.kept_headers(answered),
                pieces=self.pieces(answered),
            )
        except (OSError, HTTPException) as error:
            raise self.error(error) from error
        finally:
            self.release(connection)

    def connect(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection(self.base.netloc, timeout=20)
        OPENED.append(connection)
        return connection

    def release(self, connection: http.client.HTTPConnection) -> None:
        connection.close()

    answered: HTTPResponse | None = None

    def ask(self, connection: http.client.HTTPConnection, request: Request) -> HTTPResponse:
        path = f"{self.base.path}/chat/completions"
        connection.request(self.method, path, self.body(request), self.headers(request))
        self.answered = connection.getresponse()
        OPENED.append(self.answered)
        return self.answered

    method = "POST"

    def body(self, request: Request) -> bytes:
        return request.body

    def headers(self, request: Request) -> dict[str, str]:
        return {"Content-Type": "application/json", **request.headers}

    def status(self, answered: HTTPResponse) -> int:
        return answered.status

    def kept_headers(self, answered: HTTPResponse) -> dict[str, str]:
        return {name.lower(): value for name, value in answered.getheaders()}

    def pieces(self, answered: HTTPResponse) -> Iterator[bytes]:
        while piece := answered.read1(65536):
            yield piece
        if answered.length:
            raise IncompleteRead(b"", answered.length)

    def error(self, error: Exception) -> Exception:
        return TransportError(f"no complete answer: {error!r}")


# - right ones -


class Pooled(Plain):
    """Keeps its connection for the next request, and closes it with itself."""

    idle: http.client.HTTPConnection | None = None

    def connect(self) -> http.client.HTTPConnection:
        kept, self.idle = self.idle, None
        return kept or super().connect()

    def release(self, connection: http.client.HTTPConnection) -> None:
        # What was not read to its end would be the beginning of the next answer.
        if self.answered is not None and self.answered.isclosed():
            self.idle = connection
        else:
            connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.idle is not None:
            self.idle.close()


class Repeats(Plain):
    """Sends a request again that was refused as one of too many, or that got no answer at all."""

    def ask(self, connection: http.client.HTTPConnection, request: Request) -> HTTPResponse:
        for last in (False, False, True):
            try:
                answered = super().ask(connection, request)
            except (OSError, HTTPException):
                if last:
                    raise
            else:
                if last or answered.status not in (429, 500, 503):
                    return answered
                answered.read()
            connection.close()
        raise AssertionError


@pytest.mark.parametrize("right", [Plain, Pooled, Repeats])
def test_right_transport_passes(right: type[Plain]) -> None:
    check_transport(right)


def test_http_transport_passes_with_sessions() -> None:
    check_transport(HTTPTransport, sessions=True)


async def test_async_http_transport_passes_with_sessions() -> None:
    await check_async_transport(AsyncHTTPTransport, sessions=True)


# - wrong ones: the request -


class UsesPut(Plain):
    method = "PUT"


class EncodesAgain(Plain):
    def body(self, request: Request) -> bytes:
        return json.dumps(json.loads(request.body)).encode()


class TrimsTheRequest(Plain):
    def body(self, request: Request) -> bytes:
        return request.body.strip()


class CutsLargeRequests(Plain):
    def body(self, request: Request) -> bytes:
        return request.body[:100_000]


class LosesTheType(Plain):
    def headers(self, request: Request) -> dict[str, str]:
        return dict(request.headers)


class LosesRequestHeaders(Plain):
    def headers(self, request: Request) -> dict[str, str]:
        return {"Content-Type": "application/json"}


class KeepsOneRequestHeader(Plain):
    def headers(self, request: Request) -> dict[str, str]:
        return {"Content-Type": "application/json", **dict(list(request.headers.items())[:1])}


class SendsTwice(Plain):
    """Uses the second answer, for the first may be lost."""

    def ask(self, connection: http.client.HTTPConnection, request: Request) -> HTTPResponse:
        super().ask(connection, request).read()
        connection.close()
        return super().ask(connection, request)


class SendsOnceMoreAtTheEnd(Plain):
    def pieces(self, answered: HTTPResponse) -> Iterator[bytes]:
        yield from super().pieces(answered)
        with suppress(OSError, HTTPException):
            self.ask(self.connect(), Request(body=b"{}")).close()


class RepeatsBrokenAnswers(Plain):
    """Asks again when an answer breaks off, and goes on with the new one."""

    def ask(self, connection: http.client.HTTPConnection, request: Request) -> HTTPResponse:
        self.request = request
        return super().ask(connection, request)

    def pieces(self, answered: HTTPResponse) -> Iterator[bytes]:
        try:
            yield from super().pieces(answered)
        except HTTPException:
            yield from super().pieces(super().ask(self.connect(), self.request))


# - wrong ones: the head of the answer -


class KeepsCase(Plain):
    def kept_headers(self, answered: HTTPResponse) -> dict[str, str]:
        return dict(answered.getheaders())


class LosesResponseHeaders(Plain):
    def kept_headers(self, answered: HTTPResponse) -> dict[str, str]:
        return {"content-type": answered.headers["Content-Type"]}


class SplitsHeaders(Plain):
    def kept_headers(self, answered: HTTPResponse) -> dict[str, str]:
        return {k: v.split(",")[0] for k, v in super().kept_headers(answered).items()}


class RaisesStatus(Plain):
    def status(self, answered: HTTPResponse) -> int:
        if answered.status >= 400:
            raise TransportError(f"status {answered.status}")
        return answered.status


class RaisesOneStatus(Plain):
    def status(self, answered: HTTPResponse) -> int:
        if answered.status == 429:
            raise TransportError("too many requests")
        return answered.status


class SwallowsStatus(Plain):
    def status(self, answered: HTTPResponse) -> int:
        return 200


class MakesEveryErrorA500(Plain):
    def status(self, answered: HTTPResponse) -> int:
        return 500 if answered.status >= 400 else answered.status


class DropsErrorBodies(Plain):
    def pieces(self, answered: HTTPResponse) -> Iterator[bytes]:
        return super().pieces(answered) if answered.status < 400 else iter([b"error"])


# - wrong ones: the body of the answer -


class ReadsToTheEnd(Plain):
    def pieces(self, answered: HTTPResponse) -> Iterator[bytes]:
        return iter([answered.read()])


class ReadsInBlocks(Plain):
    def pieces(self, answered: HTTPResponse) -> Iterator[bytes]:
        return iter(lambda: answered.read(1024), b"")


class HoldsOnePieceBack(Plain):
    def pieces(self, answered: HTTPResponse) -> Iterator[bytes]:
        held = b""
        for piece in super().pieces(answered):
            yield held
            held = piece
        yield held


class GathersAllAfterTheFirst(Plain):
    def pieces(self, answered: HTTPResponse) -> Iterator[bytes]:
        pieces = super().pieces(answered)
        yield next(pieces)
        yield b"".join(pieces)


class ReadsText(Plain):
    def pieces(self, answered: HTTPResponse) -> Iterator[bytes]:
        return (piece.decode(errors="replace").encode() for piece in super().pieces(answered))


class ReadsLines(Plain):
    def pieces(self, answered: HTTPResponse) -> Iterator[bytes]:
        return (line + b"\n" for piece in super().pieces(answered) for line in piece.splitlines())


class TrimsTheAnswer(Plain):
    def pieces(self, answered: HTTPResponse) -> Iterator[bytes]:
        return (piece.strip() for piece in super().pieces(answered))


class CutsLargeAnswers(Plain):
    def pieces(self, answered: HTTPResponse) -> Iterator[bytes]:
        size = 0
        for piece in super().pieces(answered):
            yield piece[: max(0, 200_000 - size)]
            size += len(piece)


class EndsBrokenChunksInSilence(Plain):
    def pieces(self, answered: HTTPResponse) -> Iterator[bytes]:
        with suppress(IncompleteRead):
            yield from super().pieces(answered)


class EndsShortBodiesInSilence(Plain):
    """`read1` does not look at the length."""

    def pieces(self, answered: HTTPResponse) -> Iterator[bytes]:
        return iter(lambda: answered.read1(65536), b"")


# - wrong ones: errors and connections -


class KeepsErrors(Plain):
    def error(self, error: Exception) -> Exception:
        return error


class AnswersForAServerThatDoesNot(Plain):
    def ask(self, connection: http.client.HTTPConnection, request: Request) -> HTTPResponse:
        try:
            return super().ask(connection, request)
        except (OSError, HTTPException):
            return urllib.request.urlopen("data:,")  # type: ignore[no-any-return]  # like a response


class WrapsErrorsOfTheBlock(Plain):
    @contextmanager
    def send(self, request: Request) -> Iterator[Response]:
        try:
            with super().send(request) as response:
                yield response
        except Exception as error:
            raise TransportError("something went wrong") from error


class SwallowsErrorsOfTheBlock(Plain):
    @contextmanager
    def send(self, request: Request) -> Iterator[Response]:
        try:
            with super().send(request) as response:
                yield response
        except TransportError:
            raise
        except Exception:  # noqa: BLE001  (this is what is wrong)
            pass


class Leaking(Plain):
    """Keeps what it should close, until the end of the test."""

    def __init__(self, base_url: str) -> None:
        super().__init__(base_url)
        self.kept: list[object] = []

    def keep(self, connection: http.client.HTTPConnection) -> None:
        self.kept += [connection, connection.sock, self.answered]
        OPENED.append(connection.sock or connection)


class NeverCloses(Leaking):
    def release(self, connection: http.client.HTTPConnection) -> None:
        self.keep(connection)


class KeepsAnswered(Leaking):
    """Closes the connection of an answer that was left early, and keeps the others."""

    def release(self, connection: http.client.HTTPConnection) -> None:
        if self.answered is not None and self.answered.isclosed():
            self.keep(connection)
        else:
            connection.close()


class KeepsErrorAnswers(Leaking):
    def release(self, connection: http.client.HTTPConnection) -> None:
        if self.answered is not None and self.answered.status == 400:
            self.keep(connection)
        else:
            connection.close()


class CloseClosesNothing(Pooled):
    def __exit__(self, *_: object) -> None:
        pass


ONCE = "a request must be sent once"
EXACT = "the pieces, joined, must be the exact bytes of the body"
STATUS = "an error status must be returned like any other, not raised"
AT_ONCE = "pieces must be yielded as they arrive, before the answer is complete"
BROKEN = (
    "a connection that breaks inside the body must raise TransportError, not end the pieces as if "
    "complete"
)
RELEASED = "a connection must be closed or used again after its answer"

WRONG: list[tuple[type[Plain], str]] = [
    (UsesPut, "a request must be sent by POST"),
    (EncodesAgain, "the body must arrive as the exact bytes of Request.body"),
    (TrimsTheRequest, "the body must arrive as the exact bytes of Request.body"),
    (CutsLargeRequests, "a large body must arrive as the exact bytes of Request.body"),
    (LosesTheType, "Content-Type must be application/json"),
    (LosesRequestHeaders, "Request.headers must be sent beside the transport's own"),
    (KeepsOneRequestHeader, "Request.headers must be sent beside the transport's own"),
    (SendsTwice, ONCE),
    (SendsOnceMoreAtTheEnd, ONCE),
    (RepeatsBrokenAnswers, "a request must not be sent again once its answer has begun"),
    (KeepsCase, "the names in Response.headers must be in lower case"),
    (LosesResponseHeaders, "Response.headers must hold the headers"),
    (SplitsHeaders, "Response.headers must hold the headers"),
    (RaisesStatus, f"{STATUS}; TransportError was raised instead"),
    (RaisesOneStatus, f"{STATUS}; TransportError was raised instead"),
    (SwallowsStatus, STATUS),
    (MakesEveryErrorA500, STATUS),
    (DropsErrorBodies, "an error status must come with its headers and its body"),
    (ReadsToTheEnd, AT_ONCE),
    (ReadsInBlocks, AT_ONCE),
    (HoldsOnePieceBack, AT_ONCE),
    (GathersAllAfterTheFirst, AT_ONCE),
    (ReadsText, EXACT),
    (ReadsLines, EXACT),
    (TrimsTheAnswer, EXACT),
    (CutsLargeAnswers, "the pieces of a large body, joined, must be its exact bytes"),
    (EndsBrokenChunksInSilence, BROKEN),
    (
        EndsShortBodiesInSilence,
        "a body that is shorter than its Content-Length must raise TransportError, not end the "
        "pieces as if complete",
    ),
    (KeepsErrors, f"{BROKEN}; IncompleteRead was raised instead"),
    (
        AnswersForAServerThatDoesNot,
        "a connection that breaks before the answer must raise TransportError; AttributeError was "
        "raised instead",
    ),
    (
        WrapsErrorsOfTheBlock,
        "an exception raised inside the `with` block must leave it unchanged; TransportError was "
        "raised instead",
    ),
    (
        SwallowsErrorsOfTheBlock,
        "an exception raised inside the `with` block must leave it unchanged",
    ),
    (NeverCloses, "leaving the `with` block early must close the connection"),
    (KeepsAnswered, f"{RELEASED}; 6 are open"),
    (KeepsErrorAnswers, f"{RELEASED}; 6 are open"),
    (CloseClosesNothing, "closing the transport must close its connections"),
]


@pytest.mark.parametrize(("wrong", "sentence"), WRONG, ids=[wrong.__name__ for wrong, _ in WRONG])
def test_wrong_transport_fails_with_its_broken_rule(wrong: type[Plain], sentence: str) -> None:
    with pytest.raises(AssertionError) as caught:
        check_transport(wrong, patience=SHORT)

    assert str(caught.value) == sentence


def test_transport_without_sessions_fails_if_they_are_asked_for() -> None:
    with pytest.raises(AssertionError, match=r"Request.session_id must be sent as X-Session-ID"):
        check_transport(Plain, sessions=True)


# - async ones -


class Around(AsyncTransport):
    """An async transport around a right one."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self.inner = AsyncHTTPTransport(base_url, retries=0)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.inner.aclose()

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncIterator[AsyncResponse]:
        async with self.inner.send(request) as response:
            yield AsyncResponse(
                status=response.status,
                headers=self.kept_headers(response),
                pieces=self.pieces(response),
            )

    def kept_headers(self, response: AsyncResponse) -> dict[str, str]:
        return dict(response.headers)

    async def pieces(self, response: AsyncResponse) -> AsyncIterator[bytes]:
        async for piece in response.pieces:
            yield piece


class GathersPieces(Around):
    async def pieces(self, response: AsyncResponse) -> AsyncIterator[bytes]:
        yield b"".join([piece async for piece in response.pieces])


class LosesAsyncHeaders(Around):
    def kept_headers(self, response: AsyncResponse) -> dict[str, str]:
        return {}


class EndsInSilence(Around):
    async def pieces(self, response: AsyncResponse) -> AsyncIterator[bytes]:
        with suppress(TransportError):
            async for piece in response.pieces:
                yield piece


class SendsAgain(Around):
    @asynccontextmanager
    async def send(self, request: Request) -> AsyncIterator[AsyncResponse]:
        # Over another connection, for the server may close the one whose answer is not read.
        async with AsyncHTTPTransport(self.base_url, retries=0) as first, first.send(request):
            pass
        async with super().send(request) as response:
            yield response


class StaysOpen(Around):
    async def __aexit__(self, *_: object) -> None:
        LEFT_OPEN.append(self.inner)


LEFT_OPEN: list[AsyncHTTPTransport] = []


@pytest.fixture
async def async_ones_closed_at_last() -> AsyncIterator[None]:
    yield
    for transport in LEFT_OPEN:
        await transport.aclose()
    LEFT_OPEN.clear()


async def test_right_async_transport_passes() -> None:
    await check_async_transport(Around)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (GathersPieces, AT_ONCE),
        (LosesAsyncHeaders, "Response.headers must hold the headers"),
        (EndsInSilence, BROKEN),
        (SendsAgain, ONCE),
        (StaysOpen, "closing the transport must close its connections"),
    ],
)
@pytest.mark.usefixtures("async_ones_closed_at_last")
async def test_wrong_async_transport_fails_with_its_broken_rule(
    wrong: type[Around], sentence: str
) -> None:
    with pytest.raises(AssertionError) as caught:
        await check_async_transport(wrong, patience=SHORT)

    assert str(caught.value) == sentence
