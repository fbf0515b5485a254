"""Carry a request to a model and its answer back: one method to override.

A transport knows bytes, a status and headers; it knows nothing of messages. Subclass
`Transport` (or `AsyncTransport`) and write `send`, usually with `contextlib.contextmanager`:

    class MyTransport(Transport):
        @contextmanager
        def send(self, request):
            with my_client.post(URL, request.body) as answer:
                yield Response(status=200, headers={}, pieces=answer.pieces())

`pathors_agent.testing.check_transport` tests a subclass.

Transports around other transports (`retry`, `fallback`) open an answer up to the first byte of its
body: until then nothing was returned to the caller, and the request may be sent again.
"""

import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING, Generic, TypeVar

from pathors_agent.concurrency.event_loops import Cancellation
from pathors_agent.errors import TransportError
from pathors_agent.wire.profiles import DEFAULT_PROFILE, EndpointProfile
from pathors_agent.wire.provider_errors import is_retryable

if TYPE_CHECKING:
    from pathors_agent.telemetry.events import ServerAddress

COMPLETIONS_PATH = "/chat/completions"
"""The path of chat completions below the base URL, in every API of this kind."""

_OK = 200

# Any other status is an error, redirects included: an API key must not follow a redirect.
GOOD_STATUSES = range(200, 300)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request for one chat completion: a JSON body, and the session that it belongs to.

    Other operations of the same API have another `method` or `path`. The path follows the base
    URL; it is percent-encoded and may have a query. An empty body is not sent.

    `session_id` is None if there is no session yet; a transport whose endpoint keeps sessions
    sends the id in the form that this endpoint expects. `headers` are added to the transport's
    own. The whole exchange, including retries, may take `seconds`, in addition to the limits of
    the transport. `retries` bounds how often a transport sends the request again; None leaves the
    number to the transport. `on_event` is called with the name and the fields of each event on the
    way, such as a retry. `cancellation` is set when the run is cancelled; a transport that waits
    for long may register a callback that ends the wait.
    """

    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    session_id: str | None = None
    seconds: float | None = None
    method: str = "POST"
    path: str = COMPLETIONS_PATH
    retries: int | None = None
    on_event: Callable[..., None] | None = field(default=None, repr=False, compare=False)
    cancellation: Cancellation | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """An answer as it arrives: status, headers (lower-case names), and its body in pieces.

    The pieces may be cut anywhere; they can be read once, inside the `with` block of `send`.
    `attempts` is how often the request was sent. `masked` replaces secrets in a text before it
    becomes part of an error: some providers repeat the API key.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    pieces: Iterable[bytes] = field(default=(), repr=False)
    session_id: str | None = None
    attempts: int = 1
    masked: Callable[[str], str] = field(default=str, repr=False)

    def __post_init__(self) -> None:
        _check_response(self, "__iter__", "a list of bytes, or another iterable")


@dataclass(frozen=True, slots=True, kw_only=True)
class AsyncResponse:
    """`Response` for an `AsyncTransport`: its pieces are an async iterable."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    pieces: AsyncIterable[bytes] = field(repr=False)
    session_id: str | None = None
    attempts: int = 1
    masked: Callable[[str], str] = field(default=str, repr=False)

    def __post_init__(self) -> None:
        _check_response(self, "__aiter__", "an async iterable of bytes")


def _check_response(response: Response | AsyncResponse, iterates: str, wanted: str) -> None:
    """Raise TypeError for a field that could not be read later, such as a body in one piece."""
    status, headers, pieces = response.status, response.headers, response.pieces
    if not isinstance(status, int):
        raise TypeError(f"status= is a {type(status).__name__}; pass a number, such as 200")
    if not hasattr(headers, "get"):
        raise TypeError(f"headers= is a {type(headers).__name__}; pass a mapping, such as {{}}")
    if not hasattr(pieces, iterates) or isinstance(pieces, (bytes, bytearray, str)):
        raise TypeError(f"pieces= is a {type(pieces).__name__}; pass {wanted}")


class Transport(ABC):
    """Sends requests to a model, for blocking code."""

    profile: EndpointProfile = DEFAULT_PROFILE
    """The form of the requests that the endpoint accepts."""

    server_address: "ServerAddress | None" = None
    """The address of the endpoint, for telemetry; None if it is unknown before a request is sent."""

    @abstractmethod
    def send(self, request: Request) -> AbstractContextManager[Response]:
        """Send one request; return its response, which is released when the `with` block ends.

        Raise `TransportError` (or a subclass) for a failure, before or while the pieces are
        read. Return an answer with an error status like any other: the caller reads it.
        """


class AsyncTransport(ABC):
    """Sends requests to a model, for asyncio and trio."""

    profile: EndpointProfile = DEFAULT_PROFILE
    """The form of the requests that the endpoint accepts."""

    server_address: "ServerAddress | None" = None
    """The address of the endpoint, for telemetry; None if it is unknown before a request is sent."""

    @abstractmethod
    def send(self, request: Request) -> AbstractAsyncContextManager[AsyncResponse]:
        """As `Transport.send`."""


TransportT = TypeVar("TransportT", bound=Transport | AsyncTransport)


class AroundTransport(Generic[TransportT]):
    """The part of a transport around another one, whose profile and address it has."""

    def __init__(self, transport: TransportT) -> None:
        check_inner(transport, self)
        self._transport = transport
        self._given: tuple[object, ...] = (transport,)  # opened and closed with it
        self.profile = transport.profile
        self.server_address = transport.server_address


def check_inner(transport: object, outer: object) -> None:
    """Raise TypeError for an object that is not the kind of transport that `outer` goes around."""
    wanted = AsyncTransport if isinstance(outer, AsyncTransport) else Transport
    if isinstance(transport, wanted):
        return
    own, hint = type(outer).__name__, ""
    if isinstance(transport, Transport | AsyncTransport):
        hint = f"; use {own.removeprefix('Async') if wanted is AsyncTransport else 'Async' + own}"
    elif isinstance(transport, type):
        hint = "; call it, and pass what it returns"
    raise TypeError(f"{own} takes a {wanted.__name__}, not a {type(transport).__name__}{hint}")


# - answers opened up to their first byte -

Send = Callable[[Request], AbstractContextManager[Response]]
AsyncSend = Callable[[Request], AbstractAsyncContextManager[AsyncResponse]]


@dataclass(frozen=True, slots=True)
class OpenedAnswer:
    """An answer with its first byte read; `stack` keeps it open."""

    response: Response
    stack: ExitStack
    is_empty: bool = False

    @property
    def failed(self) -> bool:
        """Whether another attempt may succeed: the answer is empty, or a temporary error."""
        return self.is_empty or is_retryable(self.response.status)

    def close(self) -> None:
        """Release the connection."""
        self.stack.close()


@dataclass(frozen=True, slots=True)
class AsyncOpenedAnswer:
    """`OpenedAnswer` for an `AsyncTransport`; `sending` keeps it open."""

    response: AsyncResponse
    sending: AbstractAsyncContextManager[AsyncResponse]
    is_empty: bool = False

    @property
    def failed(self) -> bool:
        """As `OpenedAnswer.failed`."""
        return self.is_empty or is_retryable(self.response.status)

    async def aclose(self) -> None:
        """As `OpenedAnswer.close`."""
        await self.sending.__aexit__(None, None, None)


def open_answer(send: Send, request: Request) -> OpenedAnswer:
    """Send a request; read an answer 200 up to its first byte."""
    with ExitStack() as stack:
        response = stack.enter_context(send(request))
        if response.status != _OK:
            return OpenedAnswer(response, stack.pop_all())
        pieces = iter(response.pieces)
        first = next(filter(None, pieces), b"")
        response = replace(response, pieces=chain(filter(None, [first]), pieces))
        return OpenedAnswer(response, stack.pop_all(), is_empty=not first)


async def open_answer_async(send: AsyncSend, request: Request) -> AsyncOpenedAnswer:
    """As `open_answer`."""
    # Without an exit stack, which every open stream would keep.
    sending = send(request)
    response = await sending.__aenter__()
    if response.status != _OK:
        return AsyncOpenedAnswer(response, sending)
    try:
        pieces = aiter(response.pieces)
        first = await _first_filled(pieces)
    except BaseException:
        await sending.__aexit__(*sys.exc_info())
        raise
    if isinstance(pieces, PushBack):
        pieces.push_back(first)
    else:
        response = replace(response, pieces=_FirstThenRest(first, pieces))
    return AsyncOpenedAnswer(response, sending, is_empty=not first)


def read_body(pieces: Iterable[bytes], most: int) -> bytes:
    """Read a body, and stop after the piece that exceeds `most` bytes."""
    body = bytearray()
    for piece in pieces:
        body += piece
        if len(body) > most:
            break
    return bytes(body)


async def read_body_async(pieces: AsyncIterable[bytes], most: int) -> bytes:
    """Read a body as `read_body`, and close its iterator."""
    iterator, body = aiter(pieces), bytearray()
    try:
        async for piece in iterator:
            body += piece
            if len(body) > most:
                break
    finally:
        await close_pieces(iterator)
    return bytes(body)


async def close_pieces(pieces: AsyncIterable[bytes]) -> None:
    """Close an iterator of pieces: an async generator does not close itself at a `break`."""
    close = getattr(pieces, "aclose", None)
    if close is not None:
        await close()


def failure_fields(failure: TransportError | Response | AsyncResponse) -> dict[str, object]:
    """Return the `status` or `error` of a failed attempt, for the event that reports it."""
    if isinstance(failure, TransportError):
        return {"status": None, "error": type(failure).__name__}
    return {"status": failure.status, "error": None}


async def _first_filled(pieces: AsyncIterator[bytes]) -> bytes:
    async for piece in pieces:
        if piece:
            return piece
    return b""


class PushBack(ABC):
    """An iterator of pieces to which the last piece can be returned.

    A wrapper around other iterators costs one more call for each piece.
    """

    __slots__ = ()

    @abstractmethod
    def push_back(self, piece: bytes) -> None:
        """Return this piece again from the next read."""


class _FirstThenRest:
    """A piece that was already read, followed by the others."""

    __slots__ = ("_first", "_rest")

    def __init__(self, first: bytes, rest: AsyncIterator[bytes]) -> None:
        self._first = first
        self._rest = rest

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    def __anext__(self) -> Awaitable[bytes]:
        # Without a coroutine for the rest, which would cost one more for each piece.
        if self._first:
            first, self._first = self._first, b""
            return _ready(first)
        return self._rest.__anext__()

    async def aclose(self) -> None:
        """Close the rest, if it can be closed."""
        await close_pieces(self._rest)


async def _ready(piece: bytes) -> bytes:
    return piece
