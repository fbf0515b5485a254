"""A program that is killed: it serves turns to itself, and says of each when it was answered.

Everything is imported once; each line of its input, a name and the URL of a store, forks a process
that serves turns until it is killed. That one says its id first, then what was answered.
"""

import asyncio
import json
import os
import sys
import tempfile
from contextlib import AsyncExitStack
from itertools import count, islice

import httpx2

from pathors_agent import tool
from pathors_agent.offline import AsyncOfflineTransport
from pathors_agent.server import Project, ServerSettings, create_app, make_key
from pathors_agent.stores import SQLStore

SESSIONS = 3
# A session whose process was killed is free again after so long.
SETTINGS = ServerSettings(lease_seconds=0.3)


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def say(value: object) -> None:
    os.write(1, json.dumps(value).encode() + b"\n")


async def serve_turns(name: str, url: str, turns: int | None = None) -> None:
    """Ask in some sessions at once, one of which those before had too: so often, or until killed."""
    key, stored = make_key("demo")
    async with AsyncExitStack() as stack:
        store = SQLStore(url)
        project = Project(id="demo", transport=AsyncOfflineTransport(), tools=[add])
        app = create_app([project], store, SETTINGS)
        await stack.enter_async_context(app.router.lifespan_context(app))
        await store.add_key(stored)
        client = httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app=app),
            base_url="http://here/v1/projects/demo",
            headers={"Authorization": f"Bearer {key}"},
        )
        await stack.enter_async_context(client)
        say("ready")
        sessions = ["shared", *[f"{name}-{number}" for number in range(SESSIONS)]]
        await asyncio.gather(*[ask(client, name, session, turns) for session in sessions])


async def ask(client: httpx2.AsyncClient, name: str, session: str, turns: int | None) -> None:
    for number in islice(count(), turns):
        text = f"Add {number} and 2. (of {name})"
        answered = await client.post(
            "/chat/completions",
            json={"messages": [{"role": "user", "content": text}]},
            headers={"X-Session-ID": session},
        )
        status = answered.status_code
        say([session, text, status if status == 200 else answered.text])


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:  # whatever is imported late, is now
        asyncio.run(serve_turns("first", f"sqlite:///{folder}/sessions.db", turns=1))
    say("imported")
    for line in sys.stdin:
        name, url = line.split()
        child = os.fork()
        if child == 0:
            asyncio.run(serve_turns(name, url))
            os._exit(0)
        say(child)
        os.waitpid(child, 0)
        say("gone")


if __name__ == "__main__":
    main()
