"""HTTP clients whose answers were prepared: what the peers' own HTTP stack reads from."""

from collections.abc import AsyncIterator, Sequence
from time import process_time
from types import ModuleType
from typing import Any

BASE_URL = "http://127.0.0.1:9/v1"


class Replay:
    """What the next answers are, and what was last asked."""

    def __init__(self) -> None:
        self.reads: Sequence[bytes] = ()
        self.body = b""
        self.asked_at = 0.0
        """The CPU time when the request, ready to be written, reached the transport."""


def replaying_client(http: ModuleType, replay: Replay) -> Any:
    """An `AsyncClient` of httpx or httpx2, whichever module is given, on a replay."""

    class Body(http.AsyncByteStream):  # type: ignore[name-defined, misc]
        async def __aiter__(self) -> AsyncIterator[bytes]:
            for data in replay.reads:
                yield data

    class Transport(http.AsyncBaseTransport):  # type: ignore[name-defined, misc]
        async def handle_async_request(self, request: Any) -> Any:
            body = await request.aread()
            replay.asked_at = process_time()
            replay.body = body
            headers = {"content-type": "text/event-stream"}
            return http.Response(200, headers=headers, stream=Body())

    return http.AsyncClient(transport=Transport())
