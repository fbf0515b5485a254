"""Send requests to an endpoint over HTTP, with httpx2.

httpx2 is imported by the first request, or when a transport is constructed with an unusual
address, with a client, or where the environment sets proxies or certificates.
"""

import os
from abc import abstractmethod
from collections.abc import Generator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, Self, TypeVar
from weakref import WeakSet

from pathors_agent.concurrency.lifetime import OneProcess
from pathors_agent.telemetry.events import ServerAddress
from pathors_agent.transports.base import (
    AsyncResponse,
    AsyncTransport,
    Request,
    Response,
    Transport,
)
from pathors_agent.transports.endpoint import Endpoint
from pathors_agent.transports.exchange import DEFAULT_TIMEOUTS, Timeouts
from pathors_agent.transports.retry import RETRIES, RetriedAnswer, RetryPolicy
from pathors_agent.wire.profiles import EndpointProfile

if TYPE_CHECKING:
    import httpx2  # noqa: F401  (in the classes' type arguments)

    from pathors_agent.transports.httpx_client import HTTPXClient

__all__ = ["AsyncHTTPTransport", "HTTPTransport", "Timeouts"]

_ALL: "WeakSet[EndpointTransport[Any, Any]]" = WeakSet()
_OF_PARENTS: list[object] = []


def _forget_parents() -> None:
    for transport in [*_ALL]:
        transport.forget_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parents)

ClientT_co = TypeVar("ClientT_co", covariant=True)
SenderT = TypeVar("SenderT")


class EndpointTransport(OneProcess, Generic[ClientT_co, SenderT]):
    """The settings of a transport that sends to an OpenAI-compatible endpoint."""

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        project_id: str | None = None,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
        headers: Mapping[str, str] | None = None,
        session_header: str = "X-Session-ID",
        sends: Literal["history", "new_messages"] | None = None,
        profile: EndpointProfile | None = None,
        retries: int = RETRIES,
        client: ClientT_co | None = None,
    ) -> None:
        self._endpoint = Endpoint(
            base_url,
            api_key,
            project_id,
            timeouts,
            headers or {},
            session_header,
            is_own_client=client is None,
        )
        self.profile = self._endpoint.profile(profile, sends)
        self._policy = RetryPolicy(retries, adds_key=self._endpoint.stores_turns(self.profile))
        self.server_address: ServerAddress | None = self._endpoint.server
        self._given = client
        self._connected: SenderT | None = None
        self._connecting = Lock()
        self._require_packages()
        if self._endpoint.is_resolved:
            self._connected = self._connect()
        _ALL.add(self)

    def _require_packages(self) -> None:
        """Raise `ModuleNotFoundError` if an extra is not installed."""

    @property
    def _sender(self) -> SenderT:
        """What sends requests; created by the first request at the latest."""
        if self._connected is None:
            with self._connecting:
                if self._connected is None:
                    self._endpoint.resolve()
                    self._connected = self._connect()
        return self._connected

    def forget_parent(self) -> None:
        """Leave the connections to the parent of this forked process.

        Both processes would write to them, and each would read the other's answers.
        """
        self._connecting = Lock()
        if self._given is None and self._connected is not None:
            _OF_PARENTS.append(self._connected)  # closing it might end it for the parent, too
            self._connected = None

    @abstractmethod
    def _connect(self) -> SenderT:
        """Import the HTTP client, and create one unless the caller passed one."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._endpoint.shown!r})"


class HTTPTransport(EndpointTransport["httpx2.Client", "HTTPXClient"], Transport):
    """A transport that sends to an OpenAI-compatible endpoint, for blocking code.

    `base_url` (or PATHORS_BASE_URL) is the address before "/chat/completions"; without it,
    requests go to the project `project_id` (or PATHORS_PROJECT_ID) of the hosted service.
    `api_key` is the bearer token; "" sends none. Without it, PATHORS_API_KEY is sent to the hosted
    service, the host of PATHORS_BASE_URL and this machine, and to no other host. Close the transport,
    or use it in a `with` statement. A `client` of your own stays open.

    - `timeouts`: the seconds to wait for a connection, for data and for a whole answer.
    - `headers`: sent with every request, beside those of the library.
    - `session_header`: the name of the header with the id of the endpoint's session.
    - `sends`: whether a request holds the whole history, or only the messages that are new to the
      endpoint's session. The default depends on the address.
    - `profile`: the form of the requests that the endpoint accepts.
    - `retries`: how often a failed request is sent again.

    A forked process has connections of its own, unless they belong to a `client`.
    """

    def _connect(self) -> "HTTPXClient":
        from pathors_agent.transports.httpx_client import HTTPXClient

        return HTTPXClient(self._given, self._endpoint)

    @contextmanager
    def send(self, request: Request) -> Generator[Response]:
        """Send the request, and retry it if necessary; the `with` block closes the answer."""
        if not self._policy.retries:
            with self._sender.send(request) as response:
                yield response
            return
        opened = self._policy.open(self._sender.send, request)
        with opened.stack:
            yield opened.response

    def close(self) -> None:
        """Close the connections, unless they belong to a client that was passed in."""
        self._sender.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClients(Protocol):
    """The HTTP clients of an async transport, one for each event loop."""

    def send(self, request: Request) -> AbstractAsyncContextManager[AsyncResponse]:
        """Send a request once."""

    async def aclose(self) -> None:
        """Close the running loop's client, unless it belongs to the caller."""


class AsyncEndpointTransport(EndpointTransport[ClientT_co, AsyncClients], AsyncTransport):
    """An `EndpointTransport` for async code."""

    def send(self, request: Request) -> AbstractAsyncContextManager[AsyncResponse]:
        """As `HTTPTransport.send`."""
        if self._policy.retries:
            return RetriedAnswer(self._policy, self._sender.send, request)
        return self._sender.send(request)

    async def aclose(self) -> None:
        """Close the running loop's connections, unless they belong to a client passed in."""
        await self._sender.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class AsyncHTTPTransport(AsyncEndpointTransport["httpx2.AsyncClient"]):
    """`HTTPTransport` for asyncio and trio; closed by `aclose` or `async with`.

    The arguments are those of `HTTPTransport`; a `client` is an `httpx2.AsyncClient`.
    """

    def _connect(self) -> AsyncClients:
        from pathors_agent.transports.httpx_client import AsyncHTTPXClients

        return AsyncHTTPXClients(self._given, self._endpoint)
