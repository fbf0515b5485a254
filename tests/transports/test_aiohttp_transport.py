"""What is aiohttp's own in AiohttpTransport; test_http.py holds what all HTTP transports share."""

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import anyio
import pytest
from anyio.lowlevel import checkpoint

from pathors_agent.errors import InvalidSetting, TransportError
from pathors_agent.testing import check_async_transport
from pathors_agent.transports.aiohttp import AiohttpTransport
from pathors_agent.transports.aiohttp_client import AiohttpAnswer
from pathors_agent.transports.base import Request
from pathors_agent.transports.exchange import Timeouts
from pathors_agent.transports.http import HTTPTransport
from servers import STALL, Drip, answer, chunk
from transports.fetching import CHUNKED, REQUEST, StartServer

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Run on asyncio alone, as aiohttp does."""
    return "asyncio"


async def read_all(transport: AiohttpTransport, request: Request = REQUEST) -> bytes:
    async with transport.send(request) as response:
        return b"".join([piece async for piece in response.pieces])


@asynccontextmanager
async def serving(
    handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """Handle connections in this event loop; return the base URL."""

    async def handle_and_close(
        incoming: asyncio.StreamReader, outgoing: asyncio.StreamWriter
    ) -> None:
        await handle(incoming, outgoing)
        outgoing.transport.abort()

    async with await asyncio.start_server(handle_and_close, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


def sendings() -> set[int]:
    """Name the answers that anything holds on to."""
    gc.collect()
    return {id(each) for each in gc.get_objects() if type(each) is AiohttpAnswer}


async def test_every_rule_of_transports_is_kept() -> None:
    await check_async_transport(AiohttpTransport, sessions=True)


# - the extra, the loop -


def test_transport_is_made_outside_of_a_loop_and_used_inside(scripted_server: StartServer) -> None:
    transport = AiohttpTransport(scripted_server([answer(b"hi")]).url)

    async def use() -> bytes:
        async with transport:
            return await read_all(transport)

    assert anyio.run(use) == b"hi"


def test_on_trio_another_transport_is_named() -> None:
    transport = AiohttpTransport("http://127.0.0.1:1")

    with pytest.raises(TransportError, match="use AsyncHTTPTransport on trio"):
        anyio.run(read_all, transport, backend="trio")


# - clients -


async def test_client_of_the_caller_stays_open(scripted_server: StartServer) -> None:
    server = scripted_server([answer(b"1")], [answer(b"2")])

    async with aiohttp.ClientSession() as client:
        async with AiohttpTransport(server.url, retries=0, client=client) as transport:
            await read_all(transport)
        assert await read_all(transport) == b"2"


async def test_client_of_the_caller_raises_no_status(scripted_server: StartServer) -> None:
    server = scripted_server([answer(b"no", "500 Oops")])

    async with aiohttp.ClientSession(raise_for_status=True) as client:
        assert await read_all(AiohttpTransport(server.url, retries=0, client=client)) == b"no"


async def test_last_bytes_of_an_answer_are_read_so_that_the_connection_is_reused() -> None:
    async def answer_twice(incoming: asyncio.StreamReader, outgoing: asyncio.StreamWriter) -> None:
        connections.append(outgoing)
        for _ in range(2):
            await incoming.readuntil(b'"messages": []}')
            outgoing.write(CHUNKED + chunk(b"data: [DONE]\n\n"))
            await first_was_read.wait()
            outgoing.write(chunk(b": bye\n\n") + chunk(b""))

    connections: list[asyncio.StreamWriter] = []
    first_was_read = asyncio.Event()
    async with serving(answer_twice) as url, AiohttpTransport(url) as transport:
        for _ in range(2):
            first_was_read.clear()
            async with transport.send(REQUEST) as response:
                assert await anext(aiter(response.pieces)) == b"data: [DONE]\n\n"
                first_was_read.set()

    assert len(connections) == 1


async def test_streams_side_by_side_are_not_bounded() -> None:
    # aiohttp's own clients open 100 connections.
    async def hold(incoming: asyncio.StreamReader, outgoing: asyncio.StreamWriter) -> None:
        await incoming.readuntil(b"\r\n\r\n")
        outgoing.write(CHUNKED + chunk(b"a"))
        await all_are_open.wait()
        outgoing.write(chunk(b"b") + chunk(b""))
        await outgoing.drain()

    async def read(transport: AiohttpTransport) -> None:
        async with transport.send(REQUEST) as response:
            pieces = aiter(response.pieces)
            assert await anext(pieces) == b"a"
            opened.append(response)
            if len(opened) == 120:
                all_are_open.set()
            assert await anext(pieces) == b"b"

    opened: list[object] = []
    all_are_open = asyncio.Event()
    async with serving(hold) as url, AiohttpTransport(url) as transport:
        async with anyio.create_task_group() as tasks:
            for _ in range(120):
                tasks.start_soon(read, transport)


async def test_finished_answer_is_forgotten(scripted_server: StartServer) -> None:
    server = scripted_server([answer(b"1")])

    before = sendings()

    async with AiohttpTransport(server.url, retries=0) as transport:
        await read_all(transport)
        assert sendings() <= before


def test_proxy_that_is_none_for_http_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:1080")

    with pytest.raises(InvalidSetting, match="not an HTTP proxy"):
        AiohttpTransport("http://elsewhere.invalid/v1")


# - what is sent, what comes back -


async def test_body_of_megabytes_is_sent_whole(scripted_server: StartServer) -> None:
    server = scripted_server([answer(b"ok")])
    body = b"0123456789abcdef" * 200_000

    async with AiohttpTransport(server.url, retries=0) as transport:
        assert await read_all(transport, Request(body=body)) == b"ok"

    assert server.requests[0].body == body
    assert server.requests[0].headers["content-length"] == "3200000"


async def test_answer_before_all_was_sent_is_read() -> None:
    async def refuse(incoming: asyncio.StreamReader, outgoing: asyncio.StreamWriter) -> None:
        await incoming.readuntil(b"\r\n\r\n")
        outgoing.write(answer(b"too large", "413 Too Large"))
        await client_left.wait()

    client_left = asyncio.Event()
    more_than_sockets_hold = Request(body=b"0" * 50_000_000)
    async with serving(refuse) as url, AiohttpTransport(url) as transport:
        async with transport.send(more_than_sockets_hold) as response:
            assert response.status == 413
            assert [piece async for piece in response.pieces] == [b"too large"]
        client_left.set()


async def test_server_that_does_not_read_is_left_at_the_limit() -> None:
    async def read_the_head_only(
        incoming: asyncio.StreamReader, outgoing: asyncio.StreamWriter
    ) -> None:
        await client_left.wait()

    client_left = asyncio.Event()
    timeouts = Timeouts(first_byte=30, between_bytes=0.2)
    more_than_sockets_hold = Request(body=b"0" * 50_000_000)
    async with serving(read_the_head_only) as url, AiohttpTransport(url, timeouts=timeouts) as it:
        with pytest.raises(TransportError, match=r"between_bytes=0\.2"):
            await read_all(it, more_than_sockets_hold)
        client_left.set()


async def test_long_header_is_read(scripted_server: StartServer) -> None:
    server = scripted_server([answer(b"hi", X_Long="x" * 20_000)])

    async with (
        AiohttpTransport(server.url, retries=0) as transport,
        transport.send(REQUEST) as response,
    ):
        assert response.headers["x-long"] == "x" * 20_000


async def test_repeated_header_is_joined(scripted_server: StartServer) -> None:
    twice = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Limit: a\r\nx-limit: b\r\n\r\n"
    server = scripted_server([twice])

    async with (
        AiohttpTransport(server.url, retries=0) as transport,
        transport.send(REQUEST) as response,
    ):
        assert response.headers == {"content-length": "0", "x-limit": "a, b"}


async def test_bytes_before_a_broken_connection_are_yielded() -> None:
    async def break_off(incoming: asyncio.StreamReader, outgoing: asyncio.StreamWriter) -> None:
        await incoming.readuntil(b"\r\n\r\n")
        outgoing.write(CHUNKED + chunk(b"a"))
        await first_was_read.wait()
        outgoing.write(chunk(b"b"))
        outgoing.close()
        await outgoing.wait_closed()
        broke.set()

    first_was_read, broke = asyncio.Event(), asyncio.Event()
    async with (
        serving(break_off) as url,
        AiohttpTransport(url) as transport,
        transport.send(REQUEST) as response,
    ):
        pieces = aiter(response.pieces)
        assert await anext(pieces) == b"a"
        first_was_read.set()
        await broke.wait()
        for _ in range(9):  # the loop reads what came, and that no more will come
            await checkpoint()
        assert await anext(pieces) == b"b"
        with pytest.raises(TransportError, match="after 2 bytes"):
            await anext(pieces)


async def test_read_after_the_block_is_a_transport_error(scripted_server: StartServer) -> None:
    server = scripted_server([CHUNKED, chunk(b"a"), STALL])

    async with AiohttpTransport(server.url, retries=0) as transport:
        async with transport.send(REQUEST) as response:
            pass
        with pytest.raises(TransportError, match="was closed before its end"):
            async for _ in response.pieces:
                pass


# - limits of time -


async def test_silence_counts_only_while_a_read_waits(scripted_server: StartServer) -> None:
    slow = scripted_server([CHUNKED, Drip(chunk(b"a"), 1.0)])
    quick = scripted_server([CHUNKED, Drip(chunk(b"a"), 0.05)])
    timeouts = Timeouts(between_bytes=0.7)

    async with (
        AiohttpTransport(slow.url, timeouts=timeouts) as one,
        AiohttpTransport(quick.url) as other,
        one.send(REQUEST) as slow_response,
        other.send(REQUEST) as quick_response,
    ):
        slow_pieces, quick_pieces = aiter(slow_response.pieces), aiter(quick_response.pieces)
        await anext(slow_pieces)
        for _ in range(12):  # 0.6 s: of the second there is less than the limit to wait for
            await anext(quick_pieces)
        assert await anext(slow_pieces) == b"a"


async def test_bytes_that_arrive_while_the_loop_is_busy_are_not_a_timeout(
    scripted_server: StartServer,
) -> None:
    talkative = scripted_server([CHUNKED, Drip(chunk(b"a"), 0.1)])
    other = scripted_server([CHUNKED, Drip(chunk(b"a"), 0.1)])

    async with (
        AiohttpTransport(talkative.url, timeouts=Timeouts(between_bytes=0.5)) as transport,
        transport.send(REQUEST) as response,
    ):
        pieces = aiter(response.pieces)
        assert await anext(pieces) == b"a"
        waiting = asyncio.ensure_future(anext(pieces))
        await checkpoint()
        with HTTPTransport(other.url) as blocking, blocking.send(REQUEST) as blocked:
            for _ in zip(range(8), blocked.pieces, strict=False):
                pass  # 0.8 s in which the loop reads nothing
        assert set(await waiting) == set(b"a")
        assert set(await anext(pieces)) == set(b"a")


async def test_wait_for_a_free_connection_is_limited(scripted_server: StartServer) -> None:
    server = scripted_server([CHUNKED, chunk(b"a"), STALL])

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as client:
        transport = AiohttpTransport(
            server.url, retries=0, client=client, timeouts=Timeouts(connect=0.2)
        )
        async with transport.send(REQUEST):
            with pytest.raises(TransportError, match=r"connect=0\.2"):
                await read_all(transport)


@pytest.mark.parametrize(("packing", "package"), [("br", "Brotli"), ("zstd", "backports.zstd")])
async def test_packing_without_its_package_is_final_and_names_the_package(
    scripted_server: StartServer, monkeypatch: pytest.MonkeyPatch, packing: str, package: str
) -> None:
    monkeypatch.setattr("aiohttp.http_parser.HAS_BROTLI", False)
    monkeypatch.setattr("aiohttp.http_parser.HAS_ZSTD", False)
    server = scripted_server([answer(b"\x1b\x00\x00", Content_Encoding=packing)])

    async with AiohttpTransport(server.url) as transport:
        with pytest.raises(TransportError, match=f"cannot be decompressed.*{package}") as caught:
            await read_all(transport)

    assert not caught.value.retryable
    assert len(server.requests) == 1
