"""Whole requests by each transport over HTTP, for tests."""

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest

from pathors_agent.transports.aiohttp import AiohttpTransport
from pathors_agent.transports.base import AsyncTransport, Request
from pathors_agent.transports.http import AsyncHTTPTransport, HTTPTransport
from servers import (
    ScriptedServer,
    head,
)

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


@dataclass
class Fetch:
    """One whole request and answer: by the blocking transport, an async one, or aiohttp's."""

    way: str
    pieces: list[bytes] = field(default_factory=list)

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
        async with (
            make(base_url, **settings) as transport,
            transport.send(request) as response,
        ):
            async for piece in response.pieces:
                self.pieces.append(piece)
            return self._answer(response)

    def _answer(self, response: Any) -> Answer:
        return Answer(response.status, response.headers, response.session_id, b"".join(self.pieces))


AsyncMaker = type[AsyncHTTPTransport] | type[AiohttpTransport]

on_each_loop = pytest.mark.parametrize(
    ("anyio_backend", "make"),
    [
        ("asyncio", AsyncHTTPTransport),
        ("trio", AsyncHTTPTransport),
        ("asyncio", AiohttpTransport),
    ],
)
of_each_kind = pytest.mark.parametrize(
    "make", [HTTPTransport, AsyncHTTPTransport, AiohttpTransport]
)


def read_all(transport: HTTPTransport) -> bytes:
    with transport.send(REQUEST) as response:
        return b"".join(response.pieces)


async def read_all_async(transport: AsyncTransport) -> bytes:
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
