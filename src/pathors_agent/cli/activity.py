"""A transport that tells what a server's own tools do, as the server says beside its chunks."""

import json
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from pathors_agent.transports.base import Request, Response, Transport

_FIELD = "tool_activity"
# In JSON these bytes are a field's name: inside a text the quotes have backslashes.
_MARK = f'"{_FIELD}":'.encode()
_EVENT_END = b"\n\n"


class ToolActivity(Transport):
    """Hands on what another transport gets, and `tells` what it says of tools, in order."""

    def __init__(self, transport: Transport, tell: Callable[[Mapping[str, Any]], None]) -> None:
        self._transport = transport
        self._tell = tell
        self.profile = transport.profile
        self.server_address = transport.server_address

    @contextmanager
    def send(self, request: Request) -> Generator[Response]:
        """Send a request, and watch over its answer."""
        with self._transport.send(request) as response:
            yield replace(response, pieces=self._watched(response.pieces))

    def _watched(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Give whole events one by one: what came before one is shown when it is told."""
        rest = b""
        for piece in pieces:
            if _EVENT_END not in rest[-1:] + piece:
                rest += piece
                continue
            *events, rest = (rest + piece).split(_EVENT_END)
            for event in events:
                if _MARK in event:
                    self._read(event)
                yield event + _EVENT_END
        yield rest

    def _read(self, event: bytes) -> None:
        try:
            chunk = json.loads((b"\n" + event).partition(b"\ndata:")[2])
        except ValueError:
            return
        activity = chunk.get(_FIELD) if isinstance(chunk, dict) else None
        if isinstance(activity, dict):
            self._tell(activity)
