"""What carries a request to a model and its answer back: one method to override.

A transport knows bytes, a status and headers; it knows nothing of messages. Subclass
`Transport` (or `AsyncTransport`) and write `send`, usually with `contextlib.contextmanager`:

    class MyTransport(Transport):
        @contextmanager
        def send(self, request):
            with my_client.post(URL, request.body) as answer:
                yield Response(status=200, headers={}, pieces=answer.pieces())

`pathors_agent.testing.check_transport` tests a subclass.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pathors_agent.concurrency.cancellation import Cancellation
from pathors_agent.wire.chat_completions import DEFAULT_PROFILE, EndpointProfile

if TYPE_CHECKING:
    from pathors_agent.telemetry.events import ServerAddress

COMPLETIONS_PATH = "/chat/completions"
"""Where chat completions are asked for, after the base URL, in every API of this kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One chat completion to ask for: a JSON body, and the session it belongs to.

    Other operations of the same API have another `method` or `path`: what follows the base URL,
    percent-encoded, perhaps with a query. An empty body is not sent.

    `session_id` is None where there is no session yet; a transport whose endpoint keeps sessions
    sends it in the way that endpoint reads. `headers` are added to the transport's own. The whole
    exchange may take `seconds`, beside the transport's own limits, all attempts counted. A
    transport that retries does so up to `retries` times; None leaves the number to it. `tell`, if
    there is one, is called with what happens to the request: an event's name and its fields.
    `cancellation` says whether its run was cancelled; a transport whose waits last may end them
    from its callbacks.
    """

    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    session_id: str | None = None
    seconds: float | None = None
    method: str = "POST"
    path: str = COMPLETIONS_PATH
    retries: int | None = None
    tell: Callable[..., None] | None = field(default=None, repr=False, compare=False)
    cancellation: Cancellation | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """An answer as it arrives: status, headers (lower-case names), and its body in pieces.

    The pieces may be cut anywhere; they are read once, inside the `with` that gave the response.
    `attempts` is how often the request was sent. `masked` removes from a text what must not be in
    an error: a provider may repeat the key.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    pieces: Iterable[bytes] = field(default=(), repr=False)
    session_id: str | None = None
    attempts: int = 1
    masked: Callable[[str], str] = field(default=str, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class AsyncResponse:
    """`Response` for an `AsyncTransport`: its pieces are an async iterable."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    pieces: AsyncIterable[bytes] = field(repr=False)
    session_id: str | None = None
    attempts: int = 1
    masked: Callable[[str], str] = field(default=str, repr=False)


class Transport(ABC):
    """A way to reach a model, for blocking code."""

    profile: EndpointProfile = DEFAULT_PROFILE
    """What the endpoint wants to be sent."""

    server_address: "ServerAddress | None" = None
    """Where requests go, for telemetry; None if it is not known before one is sent."""

    @abstractmethod
    def send(self, request: Request) -> AbstractContextManager[Response]:
        """Send one request; give its response, and release it when the `with` block ends.

        Raise `TransportError` (or a subclass) for a failure, before or while the pieces are
        read. An answer with an error status is returned like any other: the caller reads it.
        """


class AsyncTransport(ABC):
    """A way to reach a model, for asyncio and trio."""

    profile: EndpointProfile = DEFAULT_PROFILE
    """What the endpoint wants to be sent."""

    server_address: "ServerAddress | None" = None
    """Where requests go, for telemetry; None if it is not known before one is sent."""

    @abstractmethod
    def send(self, request: Request) -> AbstractAsyncContextManager[AsyncResponse]:
        """As `Transport.send`."""
