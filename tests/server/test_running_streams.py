"""Streams that continue without their clients, who may come back."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from pathors_agent.server.streams import RunningStreams

pytestmark = pytest.mark.anyio

on_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"])


async def gated(gate: asyncio.Event, *pieces: bytes) -> AsyncGenerator[bytes, None]:
    """Yield the first piece, and the others once the gate is open."""
    yield pieces[0]
    await gate.wait()
    for piece in pieces[1:]:
        yield piece


@on_asyncio
async def test_stream_continues_without_its_client_and_is_followed_from_the_start() -> None:
    running, gate = RunningStreams(), asyncio.Event()
    first = running.start("chat", gated(gate, b"1", b"2", b"3"))
    assert await anext(first) == b"1"  # and the client is gone

    back = running.follow("chat")
    assert back is not None
    assert await anext(back) == b"1"
    gate.set()
    assert b"".join([piece async for piece in back]) == b"23"
    assert running.follow("chat") is None
    assert running.follow("other") is None


@on_asyncio
async def test_client_that_reconnects_reads_the_replay_in_place_of_the_first_event() -> None:
    running, gate = RunningStreams(), asyncio.Event()
    first = running.start("chat", gated(gate, b"1", b"2"), replay=b"0")
    back = running.follow("chat")
    assert back is not None
    gate.set()
    assert b"".join([piece async for piece in back]) == b"02"
    assert b"".join([piece async for piece in first]) == b"12"


@on_asyncio
async def test_stopped_stream_ends_for_its_clients() -> None:
    running, gate = RunningStreams(), asyncio.Event()
    first = running.start("chat", gated(gate, b"1", b"2"))
    assert await anext(first) == b"1"
    running.stop("chat")
    running.stop("other")
    assert b"".join([piece async for piece in first]) == b""
    assert running.follow("chat") is None
