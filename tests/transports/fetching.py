"""Whole requests by each transport over HTTP, for tests."""

import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import anyio
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from pathors_agent.transports.aiohttp import AiohttpTransport
from pathors_agent.transports.base import AsyncTransport, Request
from pathors_agent.transports.http import AsyncHTTPTransport, HTTPTransport
from servers import ScriptedServer, head

CANARY = "sk_canary_0123456789"
REQUEST = Request(body=b'{"messages": []}')
CHUNKED = head(Transfer_Encoding="chunked")

StartServer = Callable[..., ScriptedServer]


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    session_id: str | None
    body: bytes


@dataclass(frozen=True)
class Open:
    """A transport that stays open for several requests, used from blocking code."""

    transport: Any
    portal: BlockingPortal | None = None

    def read(self, most: int | None = None) -> bytes:
        """Send a request and read its answer, or this many pieces of it before leaving."""
        if self.portal:
            return self.portal.call(self._read_async, most)
        with self.transport.send(REQUEST) as response:
            return b"".join(islice(response.pieces, most))

    async def _read_async(self, most: int | None) -> bytes:
        pieces: list[bytes] = []
        async with self.transport.send(REQUEST) as response:
            if most != 0:
                async for piece in response.pieces:
                    pieces.append(piece)
                    if len(pieces) == most:
                        break
        return b"".join(pieces)

    def close(self) -> None:
        """Close the transport."""
        if self.portal:
            self.portal.call(self.transport.aclose)
        else:
            self.transport.close()


@dataclass
class Fetch:
    """One whole request and answer: by the blocking transport, an async one, or aiohttp's."""

    way: str
    pieces: list[bytes] = field(default_factory=list)

    @contextmanager
    def opened(self, base_url: str, **settings: Any) -> Iterator[Open]:
        """Open a transport for several requests."""
        settings.setdefault("retries", 0)
        if self.way == "blocking":
            with HTTPTransport(base_url, **settings) as transport:
                yield Open(transport)
            return
        make = AiohttpTransport if self.way == "aiohttp" else AsyncHTTPTransport
        with (
            start_blocking_portal("trio" if self.way == "trio" else "asyncio") as portal,
            portal.wrap_async_context_manager(make(base_url, **settings)) as opened,
        ):
            yield Open(opened, portal)

    def __call__(self, base_url: str, request: Request = REQUEST, **settings: Any) -> Answer:
        if self.way == "blocking":
            return self._blocking(base_url, request, settings)
        backend = "asyncio" if self.way == "aiohttp" else self.way
        return anyio.run(self._async, base_url, request, settings, backend=backend)

    def _blocking(self, base_url: str, request: Request, settings: dict[str, Any]) -> Answer:
        settings.setdefault("retries", 0)
        with HTTPTransport(base_url, **settings) as transport, transport.send(request) as response:
            self.pieces.extend(response.pieces)
            return self._answer(response)

    async def _async(self, base_url: str, request: Request, settings: dict[str, Any]) -> Answer:
        make = AiohttpTransport if self.way == "aiohttp" else AsyncHTTPTransport
        settings.setdefault("retries", 0)
        async with make(base_url, **settings) as transport, transport.send(request) as response:
            async for piece in response.pieces:
                self.pieces.append(piece)
            return self._answer(response)

    def _answer(self, response: Any) -> Answer:
        return Answer(response.status, response.headers, response.session_id, b"".join(self.pieces))


AsyncMaker = type[AsyncHTTPTransport] | type[AiohttpTransport]

on_each_loop = pytest.mark.parametrize(
    ("anyio_backend", "make"),
    [("asyncio", AsyncHTTPTransport), ("trio", AsyncHTTPTransport), ("asyncio", AiohttpTransport)],
)
of_each_kind = pytest.mark.parametrize(
    "make", [HTTPTransport, AsyncHTTPTransport, AiohttpTransport]
)


def read_all(transport: HTTPTransport) -> bytes:
    """Read a whole answer."""
    with transport.send(REQUEST) as response:
        return b"".join(response.pieces)


async def read_all_async(transport: AsyncTransport) -> bytes:
    """Read a whole answer."""
    async with transport.send(REQUEST) as response:
        return b"".join([piece async for piece in response.pieces])


def told(error: BaseException) -> str:
    """Return all that an error shows: text, repr, attributes, and the traceback with its causes."""
    shown = [str(error), repr(error), repr(vars(error)), *traceback.format_exception(error)]
    cause = error.__cause__
    while cause is not None:
        shown.append(repr(cause))
        cause = cause.__cause__ or cause.__context__
    return "\n".join(shown)
