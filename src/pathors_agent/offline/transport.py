"""Transports that answer from the stand-in model, in the bytes a real endpoint would send."""

import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass

import anyio

from pathors_agent.offline.answering import InvalidRequest, read_request, respond
from pathors_agent.transports.base import (
    AsyncResponse,
    AsyncTransport,
    Request,
    Response,
    Transport,
)
from pathors_agent.wire.completion_bytes import error_body, plain_body, stream_events

_WORD = re.compile(r"\s*\S+|\s+$")


@dataclass(frozen=True, slots=True)
class _OfflineReply:
    status: int
    content_type: str
    pieces: list[bytes]

    @property
    def headers(self) -> dict[str, str]:
        return {"content-type": self.content_type}


def _reply(body: bytes) -> _OfflineReply:
    """Answer a request body, each event a piece."""
    try:
        request = read_request(body)
    except InvalidRequest as error:
        return _OfflineReply(400, "application/json", [_refusal(error)])
    message = respond(request)
    if not request.stream:
        return _OfflineReply(200, "application/json", [plain_body(message)])
    events = stream_events(message, split=_WORD.findall, include_usage=request.include_usage)
    return _OfflineReply(200, "text/event-stream; charset=utf-8", events)


def _refusal(error: InvalidRequest) -> bytes:
    return error_body(
        f"Invalid request body: {error.details[0]}",
        type="invalid_request_error",
        details=error.details,
    )


class OfflineTransport(Transport):
    """A stand-in for a model, without one: rules that pick tools by their words.

    It reads the last prompt, calls the offered tools whose names and descriptions fit, with
    arguments found in the prompt, and words their results. There is no language model in it: it
    needs no network and no key, always answers the same, and serves demonstrations and tests.
    `pace` is the seconds between two pieces of a stream.
    """

    def __init__(self, *, pace: float = 0) -> None:
        self._pace = pace

    @contextmanager
    def send(self, request: Request) -> Iterator[Response]:
        """Answer by rules."""
        reply = _reply(request.body)
        pieces = self._paced(reply.pieces)
        yield Response(status=reply.status, headers=reply.headers, pieces=pieces)

    def _paced(self, pieces: list[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            if self._pace:
                time.sleep(self._pace)
            yield piece


class AsyncOfflineTransport(AsyncTransport):
    """`OfflineTransport` for `AsyncAgent`: rules, no language model."""

    def __init__(self, *, pace: float = 0) -> None:
        self._pace = pace

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncIterator[AsyncResponse]:
        """Answer by rules."""
        reply = _reply(request.body)
        async with aclosing(self._paced(reply.pieces)) as pieces:
            yield AsyncResponse(status=reply.status, headers=reply.headers, pieces=pieces)

    async def _paced(self, pieces: list[bytes]) -> AsyncGenerator[bytes, None]:
        for piece in pieces:
            await anyio.sleep(self._pace)
            yield piece
