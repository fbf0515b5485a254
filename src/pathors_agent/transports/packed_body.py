"""Keep hold of what a packed body comes from; imported where one arrives."""

from collections.abc import Awaitable
from typing import Self

import httpx2


class HeldStream(httpx2.AsyncByteStream):
    """A stream that goes on where its reader stopped.

    httpx2 unpacks in a generator around others. When that fails, the innermost is left to the
    garbage collector, of which trio warns; whoever holds it can read it to its end.
    """

    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream
        self._pieces = aiter(stream)

    def __aiter__(self) -> Self:
        return self  # no generator, so that nobody closes it

    def __anext__(self) -> Awaitable[bytes]:
        return self._pieces.__anext__()

    async def aclose(self) -> None:
        """Close the stream."""
        await self._stream.aclose()
