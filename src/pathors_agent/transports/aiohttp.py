"""Carry many requests at once to an endpoint over HTTP, on asyncio.

aiohttp does the work; it is imported when a transport is constructed.
"""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Literal, Self

from pathors_agent.transports.base import AsyncResponse, AsyncTransport, Request
from pathors_agent.transports.endpoint import Endpoint
from pathors_agent.transports.exchange import DEFAULT_TIMEOUTS, Timeouts
from pathors_agent.transports.retry import RETRIES, RetriedSending, Retries
from pathors_agent.wire.chat_completions import EndpointProfile

if TYPE_CHECKING:
    import aiohttp

    from pathors_agent.transports.aiohttp_sending import Sending


class AiohttpTransport(AsyncTransport):
    """`AsyncHTTPTransport` for many streams at once: a fraction of its time per piece, on asyncio.

    Needs the extra `aiohttp`. A `client` is used as it is and left open; otherwise close the
    transport, or use it in an `async with` statement.
    """

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
        client: "aiohttp.ClientSession | None" = None,
    ) -> None:
        _require_aiohttp()
        from pathors_agent.transports.aiohttp_client import AiohttpClients
        from pathors_agent.transports.aiohttp_sending import Sending

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
        self._retries = Retries(retries, adds_key=self._endpoint.stores_turns(self.profile))
        self.server_address = self._endpoint.server
        self._clients = AiohttpClients(client, self._endpoint)
        self._sending = Sending

    def __repr__(self) -> str:
        return f"AiohttpTransport({self._endpoint.shown!r})"

    def send(self, request: Request) -> AbstractAsyncContextManager[AsyncResponse]:
        """As `HTTPTransport.send`."""
        if self._retries.retries:
            return RetriedSending(self._retries, self._send_once, request)
        return self._send_once(request)

    def _send_once(self, request: Request) -> "Sending":
        return self._sending(request, self._endpoint, self._clients)

    async def aclose(self) -> None:
        """As `AsyncHTTPTransport.aclose`."""
        await self._clients.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _require_aiohttp() -> None:
    try:
        import aiohttp  # noqa: F401  (only whether it is there)
    except ModuleNotFoundError as error:
        if error.name != "aiohttp":
            raise
        raise ModuleNotFoundError(
            "AiohttpTransport needs aiohttp: pip install 'pathors-agent[aiohttp]'", name="aiohttp"
        ) from None
