"""A stream left on an event loop that was closed leaves no connection open, as its server sees it."""

import subprocess
import sys
from collections.abc import Callable

import pytest

from servers import STALL, ScriptedServer, head

PROGRAM = """
import asyncio, gc, sys
from pathors_agent import AiohttpTransport, AsyncAgent, AsyncHTTPTransport
from pathors_agent.testing import AsyncScriptedTransport

async def first_item(stream):
    async for _ in stream:
        return

transport = globals()[sys.argv[1]](sys.argv[2], api_key="k")
stream = AsyncAgent(transport).stream("Go.")
loop = asyncio.new_event_loop()
loop.run_until_complete(first_item(stream))
loop.close()
if sys.argv[3] == "kept":
    agent = AsyncAgent(AsyncScriptedTransport("Done."))
    print(asyncio.run(agent.run("And?", conversation=stream.conversation)).output)
else:
    del stream
    gc.collect()
    print("Done.")
sys.stdout.flush()
sys.stdin.read()
"""

STREAM = {"Content_Type": "text/event-stream"}
BEGINNING = (
    b'data: {"id": "1", "model": "m", "choices": [{"index": 0, "delta": {"content": "Once"}}]}\n\n'
)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["kept", "dropped"])
@pytest.mark.parametrize("transport", ["AsyncHTTPTransport", "AiohttpTransport"])
def test_connection_of_an_abandoned_stream_is_closed_while_the_program_runs(
    scripted_server: Callable[..., ScriptedServer], transport: str, how: str
) -> None:
    server = scripted_server([head(**STREAM), BEGINNING, STALL])
    command = [sys.executable, "-c", PROGRAM, transport, server.url, how]

    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as program:
        assert program.stdout is not None
        said = program.stdout.readline()
        server.wait_until_clients_left()
        assert program.poll() is None
        program.communicate()

    assert said == b"Done.\n"
