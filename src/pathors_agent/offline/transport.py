"""Transports that answer from the stand-in model, in the bytes a real endpoint would send."""

import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager

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


def _reply(body: bytes) -> tuple[int, str, list[bytes]]:
    """Return the status, the content type and the pieces of an answer, each event a piece."""
    try:
        request = read_request(body)
    except InvalidRequest as error:
        refusal = error_body(
            f"Invalid request body: {error.details[0]}",
            type="invalid_request_error",
            details=list(error.details),
        )
        return 400, "application/json", [refusal]
    message = respond(request)
    if not request.stream:
        return 200, "application/json", [plain_body(message)]
    events = stream_events(message, split=_WORD.findall, include_usage=request.include_usage)
    return 200, "text/event-stream; charset=utf-8", events


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
        status, content_type, pieces = _reply(request.body)
        headers = {"content-type": content_type}
        yield Response(status=status, headers=headers, pieces=self._paced(pieces))

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
        status, content_type, pieces = _reply(request.body)
        headers = {"content-type": content_type}
        async with aclosing(self._paced(pieces)) as paced:
            yield AsyncResponse(status=status, headers=headers, pieces=paced)

    async def _paced(self, pieces: list[bytes]) -> AsyncGenerator[bytes, None]:
        for piece in pieces:
            await anyio.sleep(self._pace)
            yield piece
