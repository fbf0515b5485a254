"""A server to be measured, in a process of its own: `python -m benchmarks.server_process`.

It takes a kind, the address of the model behind it and a database, and prints its port and key.
`/usage` gives its CPU seconds and its resident bytes.
"""

import asyncio
import json
import os
import resource
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import httpx2
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Mount, Route
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from pathors_agent import AsyncHTTPTransport
from pathors_agent.offline import AsyncOfflineTransport
from pathors_agent.server import Project, ServerSettings, create_app, make_key
from pathors_agent.server.running.connections import limited_protocol
from pathors_agent.stores import MemoryStore, Store
from pathors_agent.transports.aiohttp import AiohttpTransport

STATM = Path("/proc/self/statm")
PATH = "/v1/projects/bench/chat/completions"
# So that a thousand sessions at once are turned away by nothing but their number.
MANY = 100_000


def usage(request: Request) -> JSONResponse:
    pages = int(STATM.read_text().split()[1])
    return JSONResponse(
        {"cpu": time.process_time(), "bytes": pages * resource.getpagesize(), "pid": os.getpid()}
    )


def aiohttp_relay(base_url: str) -> Starlette:
    """As `relay`, with the client that takes less time for a piece."""
    clients: list[aiohttp.ClientSession] = []

    async def pass_on(request: Request) -> StreamingResponse:
        if not clients:
            clients.append(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        body = await request.body()
        answer = await clients[0].post(f"{base_url}/chat/completions", data=body)

        async def pieces() -> AsyncIterator[bytes]:
            async for piece in answer.content.iter_any():
                yield piece
            answer.close()

        return StreamingResponse(pieces(), media_type="text/event-stream")

    return Starlette(routes=[Route("/usage", usage), Route(PATH, pass_on, methods=["POST"])])


def relay(base_url: str) -> Starlette:
    """Pass a stream on as it comes: the least that stands between a client and a model."""
    client = httpx2.AsyncClient(limits=httpx2.Limits(max_connections=None), timeout=None)

    async def pass_on(request: Request) -> StreamingResponse:
        body = await request.body()
        sent = client.build_request("POST", f"{base_url}/chat/completions", content=body)
        answer = await client.send(sent, stream=True)

        async def pieces() -> AsyncIterator[bytes]:
            async for piece in answer.aiter_raw():
                yield piece
            await answer.aclose()

        return StreamingResponse(pieces(), media_type="text/event-stream")

    return Starlette(routes=[Route("/usage", usage), Route(PATH, pass_on, methods=["POST"])])


async def agent(kind: str, base_url: str, database: str) -> tuple[Any, str]:
    """Make our server, mounted beside `/usage`."""
    transports: dict[str, Any] = {
        "httpx2": lambda: AsyncHTTPTransport(base_url, api_key=""),
        "aiohttp": lambda: AiohttpTransport(base_url, api_key=""),
        "offline": AsyncOfflineTransport,
    }
    store: Store = MemoryStore()
    if database:
        from pathors_agent.stores import SQLStore

        store = SQLStore(database)
    settings = ServerSettings(turns_per_key=MANY, turns_per_project=MANY, queue_length=MANY)
    project = Project(id="bench", transport=transports[kind]())
    app = create_app([project], store, settings)
    await app.state.runtime.start()
    text, key = make_key("bench")
    await store.add_key(key)
    return Starlette(routes=[Route("/usage", usage), Mount("/", app)]), text


async def main(kind: str, base_url: str, database: str) -> None:
    relays = {"relay, httpx2": relay, "relay, aiohttp": aiohttp_relay}
    if kind in relays:
        app, key = relays[kind](base_url), ""
    else:
        app, key = await agent(kind, base_url, database)
    config = _config(app, http=limited_protocol() if key else AutoHTTPProtocol)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110  (uvicorn says it in no other way)
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    print(json.dumps({"port": port, "key": key}), flush=True)
    await task


def _config(app: Any, http: Any = AutoHTTPProtocol) -> uvicorn.Config:
    return uvicorn.Config(
        app, http=http, port=0, log_level="warning", access_log=False, ws="none", backlog=4096
    )


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=_config(None).get_loop_factory()) as runner:
        runner.run(main(*sys.argv[1:4]))
