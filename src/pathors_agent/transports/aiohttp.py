"""Send many requests at once to an endpoint over HTTP, with aiohttp on asyncio.

aiohttp is imported when a transport is constructed.
"""

from typing import TYPE_CHECKING

from pathors_agent.transports.http import AsyncClients, AsyncEndpointTransport

if TYPE_CHECKING:
    import aiohttp  # noqa: F401  (in the class's type argument)


class AiohttpTransport(AsyncEndpointTransport["aiohttp.ClientSession"]):
    """`AsyncHTTPTransport` for many concurrent streams: much faster for each piece, on asyncio only.

    Needs the extra `aiohttp`. The arguments are those of `HTTPTransport`. Close the transport, or
    use it in an `async with` statement. A `client` of your own stays open.
    """

    def _connect(self) -> AsyncClients:
        from pathors_agent.transports.aiohttp_client import AiohttpClients

        return AiohttpClients(self._given, self._endpoint)

    def _require_packages(self) -> None:
        try:
            import aiohttp  # noqa: F401  (checks that it is installed)
        except ModuleNotFoundError as error:
            if error.name != "aiohttp":
                raise
            raise ModuleNotFoundError(
                "AiohttpTransport needs aiohttp: pip install 'pathors-agent[aiohttp]'",
                name="aiohttp",
            ) from None
