"""One contender in a process of its own: `python -m benchmarks.loopback_client NAME BASE_URL`.

It does what a line of JSON on its standard input says, and answers with a line of JSON.
"""

import asyncio
import gc
import json
import os
import sys
from collections.abc import Awaitable, Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from time import process_time
from typing import Any

from pathors_agent import AsyncAgent, TextDelta

STATM = Path("/proc/self/statm")

OnDelta = Callable[[], object]
Read = Callable[[str, OnDelta], Awaitable[str]]
"""Ask the model of that name; call the function at each piece of text; return the whole text."""


def aiohttp_reader(base_url: str) -> Read:
    """This library on AiohttpTransport."""
    from pathors_agent import AiohttpTransport

    return _agent_reader(AiohttpTransport(base_url, api_key="none"))


def httpx2_reader(base_url: str) -> Read:
    """This library on AsyncHTTPTransport."""
    from pathors_agent import AsyncHTTPTransport

    return _agent_reader(AsyncHTTPTransport(base_url, api_key="none"))


def _agent_reader(transport: Any) -> Read:
    agent_for = cache(lambda model: AsyncAgent(transport, model=model))

    async def read(model: str, on_delta: OnDelta) -> str:
        async with agent_for(model).stream("Hi") as stream:
            async for item in stream:
                if type(item) is TextDelta:
                    on_delta()
        return stream.result.output

    return read


def create_reader(base_url: str) -> Read:
    """openai: `create(stream=True)`, the text gathered by hand."""
    client = _openai(base_url)

    async def read(model: str, on_delta: OnDelta) -> str:
        text = []
        stream = await client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "Hi"}], stream=True
        )
        async for chunk in stream:
            if piece := chunk.choices[0].delta.content:
                on_delta()
                text.append(piece)
        return "".join(text)

    return read


def stream_reader(base_url: str) -> Read:
    """openai: the `.stream()` helper, which gathers by itself."""
    client = _openai(base_url)

    async def read(model: str, on_delta: OnDelta) -> str:
        async with client.chat.completions.stream(
            model=model, messages=[{"role": "user", "content": "Hi"}]
        ) as stream:
            async for event in stream:
                if event.type == "content.delta" and event.delta:
                    on_delta()
            message = (await stream.get_final_completion()).choices[0].message
        return message.content or ""

    return read


def _openai(base_url: str) -> Any:
    client = import_module("openai").AsyncOpenAI
    return client(api_key="none", base_url=base_url, max_retries=0)


READERS = {
    "aiohttp": aiohttp_reader,
    "httpx2": httpx2_reader,
    "openai create": create_reader,
    "openai .stream()": stream_reader,
}


class Clock:
    """CPU time from the first piece of any stream on: connecting is not what is measured."""

    def __init__(self) -> None:
        self.started: float | None = None

    def on_delta(self) -> None:
        if self.started is None:
            self.started = process_time()


async def time_streams(read: Read, model: str, streams: int) -> dict[str, Any]:
    """Read so many streams side by side; return the CPU seconds, and the texts' lengths."""
    gc.collect()
    clock = Clock()
    texts = await asyncio.gather(*(read(model, clock.on_delta) for _ in range(streams)))
    assert clock.started is not None
    return {"seconds": process_time() - clock.started, "texts": sorted(set(map(len, texts)))}


async def weigh_streams(read: Read, fewer: int, more: int) -> dict[str, Any]:
    """Open streams and hold them; return the bytes of memory for each beyond the fewer."""
    opened = asyncio.Semaphore(0)
    tasks: list[asyncio.Task[str]] = []
    light = await _open_up_to(fewer, tasks, read, opened)
    heavy = await _open_up_to(more, tasks, read, opened)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return {"bytes": (heavy - light) / (more - fewer)}


async def _open_up_to(
    count: int, tasks: list[asyncio.Task[str]], read: Read, opened: asyncio.Semaphore
) -> int:
    """Open streams, a few at a time, each to its first piece; return the memory in use."""
    while len(tasks) < count:
        few = min(count - len(tasks), 10)
        tasks += [asyncio.ensure_future(_hold(read, opened)) for _ in range(few)]
        for _ in range(few):
            await opened.acquire()
        for task in tasks:
            assert not task.done(), task.result()
        gc.collect()  # memory that garbage once took stays with the process
    return _resident_bytes()


async def _hold(read: Read, opened: asyncio.Semaphore) -> str:
    try:
        return await read("hold", opened.release)
    finally:
        opened.release()  # nobody waits for a stream that failed


def _resident_bytes() -> int:
    pages = int(STATM.read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def serve(name: str, base_url: str) -> None:
    """Do what is asked for, line by line."""
    read = READERS[name](base_url)
    loop = asyncio.get_running_loop()
    print(json.dumps({"ready": name}), flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        match json.loads(line):
            case {"time": model, "streams": streams}:
                answer = await time_streams(read, model, streams)
            case {"weigh": [fewer, more]}:
                answer = await weigh_streams(read, fewer, more)
            case what:
                raise ValueError(what)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2]))
