"""Transports that play a script: real wire bytes, no network."""

import json
from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager
from types import TracebackType
from typing import Any, Self

from anyio.lowlevel import checkpoint

from pathors_agent.errors import TransportError
from pathors_agent.testing.script import Asked, Entry, Reply, as_reply
from pathors_agent.transports.base import (
    AsyncResponse,
    AsyncTransport,
    Request,
    Response,
    Transport,
)
from pathors_agent.wire.completion_bytes import error_body
from pathors_agent.wire.profiles import DEFAULT_PROFILE, EndpointProfile
from pathors_agent.wire.sse import encode_event


class Player:
    """Turns the entry for each request into wire bytes.

    `requests` has the decoded body of each request, and `sent` each request unchanged.
    """

    def __init__(self, *, cut: int | None, profile: EndpointProfile) -> None:
        if cut is not None and cut < 1:
            raise ValueError("cut must be at least 1 byte")
        self.profile = profile
        self.requests: list[dict[str, Any]] = []
        self.sent: list[Request] = []
        self._cut = cut
        self._calls_made = 0

    @abstractmethod
    def _entry(self, number: int, body: Mapping[str, Any]) -> Entry:
        """Return the answer to request `number`, counted from 1."""

    def _end(self, error: BaseException | None) -> None:
        """End a `with` block, which `error` leaves."""

    def _take(self, request: Request) -> tuple[Reply, Asked]:
        """Record the request and return its entry; raise the entry if it is an exception."""
        body = json.loads(request.body)
        self.sent.append(request)
        self.requests.append(body)
        number = len(self.requests)
        entry = self._entry(number, body)
        if isinstance(entry, BaseException):
            raise entry
        reply = as_reply(entry)
        asked = self._asked(number, body)
        self._calls_made += len(getattr(reply, "calls", ()))
        return reply, asked

    def _asked(self, number: int, body: dict[str, Any]) -> Asked:
        return Asked(
            number=number,
            first_call=self._calls_made + 1,
            model=body.get("model") or "scripted",
            stream=body.get("stream") is True,
            include_usage=bool((body.get("stream_options") or {}).get("include_usage")),
        )

    def _pieces(self, reply: Reply, asked: Asked) -> Iterator[bytes]:
        pieces = reply.events(asked)
        stop = reply.stop
        if stop is not None:
            pieces = _first(pieces, stop.after, whole_events=stop.unit == "events")
            pieces += [_error(stop.said, asked)] if stop.kind == "failed" else []
        yield from pieces if self._cut is None else _cut(b"".join(pieces), self._cut)
        if stop is not None and stop.kind == "broken":
            raise TransportError("the connection broke before the answer was complete")


class _Script(Player):
    """The entries of a script, and the entry for requests after them."""

    def __init__(
        self,
        *entries: Entry,
        then: Entry | None = None,
        cut: int | None = None,
        profile: EndpointProfile = DEFAULT_PROFILE,
    ) -> None:
        super().__init__(cut=cut, profile=profile)
        for place, entry in enumerate(entries if then is None else (*entries, then)):
            if not isinstance(entry, Entry):
                raise TypeError(
                    f"entry {place} of the script is a {type(entry).__name__}; it must be a text, an"
                    " exception, or a result of answer(), calls(), http_error() or raw()"
                )
        self._entries = entries
        self._then = then

    def assert_used_up(self) -> None:
        """Raise AssertionError if answers of the script are left over."""
        left = len(self._entries) - len(self.requests)
        if left > 0:
            raise AssertionError(
                f"{left} of the script's {len(self._entries)} answers not used:"
                f" only {len(self.requests)} requests came"
            )

    def _end(self, error: BaseException | None) -> None:
        if error is None:
            self.assert_used_up()

    def _entry(self, number: int, body: Mapping[str, Any]) -> Entry:
        if number <= len(self._entries):
            return self._entries[number - 1]
        if self._then is not None:
            return self._then
        raise AssertionError(
            f"request {number} is after the end of the script, which has {len(self._entries)} answers"
        )


def _first(events: list[bytes], count: int, *, whole_events: bool) -> list[bytes]:
    """Return the first events, or the first bytes as events."""
    if whole_events:
        return events[:count]
    kept = []
    for event in events:
        kept.append(event[:count])
        count -= len(kept[-1])
    return [piece for piece in kept if piece]


def _error(message: str, asked: Asked) -> bytes:
    body = error_body(message, type="server_error")
    return encode_event(body) if asked.stream else body


def _cut(body: bytes, size: int) -> list[bytes]:
    return [body[start : start + size] for start in range(0, len(body), size)]


def _response_fields(reply: Reply, asked: Asked) -> dict[str, Any]:
    headers = {"content-type": reply.content_type(asked)}
    headers |= {name.lower(): value for name, value in reply.headers.items()}
    return {"status": reply.status, "headers": headers, "session_id": headers.get("x-session-id")}


class PlayerTransport(Player, Transport):
    """A `Player` that blocking code sends its requests to."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end(error)

    @contextmanager
    def send(self, request: Request) -> Iterator[Response]:
        """Answer with the entry for this request."""
        reply, asked = self._take(request)
        yield Response(**_response_fields(reply, asked), pieces=self._pieces(reply, asked))


class AsyncPlayerTransport(Player, AsyncTransport):
    """A `Player` for asyncio and trio."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end(error)

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncIterator[AsyncResponse]:
        """Answer with the entry for this request."""
        reply, asked = self._take(request)
        async with aclosing(each_piece(self._pieces(reply, asked))) as pieces:
            yield AsyncResponse(**_response_fields(reply, asked), pieces=pieces)


class ScriptedTransport(_Script, PlayerTransport):
    """A transport that answers each request with the next entry of a script.

    An entry is a text, a result of `answer`, `calls`, `raw` or `http_error`, or an exception, which
    `send` raises. Requests after the end of the script get `then`; without it, they raise
    AssertionError. Call ids count up from `call_1`. `cut` is the number of bytes of each piece of a
    body; by default, each event is one piece. As a context manager, it asserts at its end that all
    entries were used.
    """


class AsyncScriptedTransport(_Script, AsyncPlayerTransport):
    """`ScriptedTransport` for `AsyncAgent`."""


async def each_piece(pieces: Iterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Yield pieces with a checkpoint before each."""
    for piece in pieces:
        await checkpoint()
        yield piece
