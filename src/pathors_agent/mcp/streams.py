"""Wrap the streams of a connection: notice their end, and repair results as they arrive."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Self

import anyio
from mcp.client import Transport
from mcp.types import JSONRPCNotification, JSONRPCRequest, JSONRPCResponse

from pathors_agent.mcp.repair import Refused, repaired_call, repaired_tools
from pathors_agent.mcp.servers import Streams

_CANCELLED = "notifications/cancelled"

OnRefused = Callable[[Refused], None]


def watched(streams: Streams, lost: anyio.Event, on_refused: OnRefused) -> Transport:
    """Return streams that repair results, and set `lost` when the incoming one ends."""
    transport: Any = _transport(streams, lost, on_refused)
    return transport  # type: ignore[no-any-return]  # the package's protocol, met by duck type


@asynccontextmanager
async def _transport(
    streams: Streams, lost: anyio.Event, on_refused: OnRefused
) -> AsyncIterator[tuple[Any, Any]]:
    async with streams as (incoming, outgoing):
        asked: dict[str, str] = {}
        yield _Incoming(incoming, lost, asked, on_refused), _Outgoing(outgoing, asked)


class _Wrapped:
    """A stream that behaves as the one inside."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def __aenter__(self) -> Self:
        await self._stream.__aenter__()
        return self

    async def __aexit__(self, *exception: Any) -> Any:
        return await self._stream.__aexit__(*exception)


class _Outgoing(_Wrapped):
    """A stream that notes the method of each open request: a result does not name it."""

    def __init__(self, stream: Any, asked: dict[str, str]) -> None:
        super().__init__(stream)
        self._asked = asked

    async def send(self, item: Any) -> None:
        message = item.message
        if isinstance(message, JSONRPCRequest):
            self._asked[str(message.id)] = message.method
        elif isinstance(message, JSONRPCNotification) and message.method == _CANCELLED:
            self._asked.pop(str((message.params or {}).get("requestId")), None)
        await self._stream.send(item)


class _Incoming(_Wrapped):
    def __init__(
        self, stream: Any, lost: anyio.Event, asked: dict[str, str], on_refused: OnRefused
    ) -> None:
        super().__init__(stream)
        self._lost = lost
        self._asked = asked
        self._on_refused = on_refused

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        try:
            item = await self._stream.__anext__()
        except (StopAsyncIteration, anyio.ClosedResourceError):
            self._lost.set()
            raise
        message = getattr(item, "message", None)
        if isinstance(message, JSONRPCResponse):
            item.message = message.model_copy(update={"result": self._repaired(message)})
        return item

    def _repaired(self, message: JSONRPCResponse) -> dict[str, Any]:
        match self._asked.pop(str(message.id), ""):
            case "tools/list":
                result, refused = repaired_tools(message.result)
                for each in refused:
                    self._on_refused(each)
                return result
            case "tools/call":
                return repaired_call(message.result)
            case _:
                return message.result
