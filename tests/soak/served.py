"""An agent served over HTTP, and its clients: repeats, approvals, clients that leave, wrong keys."""

import asyncio
import json
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import uvicorn

from pathors_agent import AsyncHTTPTransport
from pathors_agent.server import Project, create_app, make_key
from pathors_agent.stores import SQLStore
from soak.ways import TOOLS, Sample, soak_with, take_time

# A client is told nothing of what went wrong behind the server but that it did.
PROBLEMS = ("error", "malformed", "cut off")
PATIENCE_SECONDS = 60.0


async def soak_served(url: str, runs: int) -> list[Sample]:
    """Serve the agent in this process, and ask it so many times."""
    take_time()
    async with AsyncHTTPTransport(url, api_key="") as transport, _served(transport) as client:
        numbers = iter(range(10**9))
        return await soak_with(lambda kind: ask(client, kind, next(numbers)), runs)


@asynccontextmanager
async def _served(transport: AsyncHTTPTransport) -> AsyncIterator[httpx2.AsyncClient]:
    project = Project(id="demo", transport=transport, tools=TOOLS)
    key, stored = make_key("demo")
    with tempfile.TemporaryDirectory() as folder:
        store = SQLStore(f"sqlite:///{folder}/sessions.db")
        async with store:
            await store.add_key(stored)
        app = create_app([project], store)
        # Longer than the client keeps a connection: else it may send on one that is being closed.
        config = uvicorn.Config(app, log_level="error", ws="none", timeout_keep_alive=75)
        server = uvicorn.Server(config)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            task = asyncio.create_task(server.serve(sockets=[listener]))
            await app.state.runtime.start()
            async with httpx2.AsyncClient(
                base_url=f"http://127.0.0.1:{listener.getsockname()[1]}/v1/projects/demo",
                headers={"Authorization": f"Bearer {key}"},
                timeout=PATIENCE_SECONDS,
                trust_env=False,
            ) as client:
                yield client
            server.should_exit = True
            await task


async def ask(client: httpx2.AsyncClient, kind: str, number: int) -> str:
    """Ask once, and say what came of it in the words of the other ways."""
    session = f"session-{number}"
    if kind in ("leave", "waiting tool"):
        return await leave(client, kind, session)
    named = {"X-Session-ID": session, "Idempotency-Key": f"request-{number}"}
    answered = await complete(client, [user(kind)], named)
    if answered.status_code == 200:
        again = await complete(client, [user(kind)], named)
        assert again.content == answered.content
    outcome = await outcome_of(client, kind, answered, session)
    ended = await client.request("DELETE", "/sessions", json={"session_id": session})
    refused = await client.get("/sessions", headers={"Authorization": "Bearer no"})
    assert (ended.status_code, refused.status_code) == (200, 401)
    return outcome


async def leave(client: httpx2.AsyncClient, kind: str, session: str) -> str:
    """Go away in the middle of a stream: of the model's words, or of a tool's work."""
    body = {
        "messages": [user(kind)],
        "stream": True,
        "stream_options": {"include_tool_activity": True},
    }
    wanted = '"content":"All "' if kind == "leave" else '"tool_activity"'
    named = {"X-Session-ID": session}
    async with client.stream("POST", "/chat/completions", json=body, headers=named) as answered:
        said = []
        async for line in answered.aiter_lines():
            if wanted in line:
                return "left"
            said.append(line)
    return f"ended: {said}"


async def complete(
    client: httpx2.AsyncClient, messages: list[Any], headers: dict[str, str]
) -> httpx2.Response:
    return await client.post("/chat/completions", json={"messages": messages}, headers=headers)


async def outcome_of(
    client: httpx2.AsyncClient, kind: str, answered: httpx2.Response, session: str
) -> str:
    if kind in PROBLEMS:
        return f"problem {answered.status_code}"
    message = answered.json()["choices"][0]["message"]
    for call in message.get("tool_calls", ()):
        yes = json.dumps({"approved": True, "digest": call["approval"]["digest"]})
        result = {"role": "tool", "tool_call_id": call["id"], "content": yes}
        answered = await complete(client, [result], {"X-Session-ID": session})
        message = answered.json()["choices"][0]["message"]
    return str(message["content"])


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}
