"""A model on a loopback port, in a process of its own: a prompt says what it is to do.

The first line that is printed is the port; the end of stdin ends it.
"""

import asyncio
import json
import sys
from collections.abc import Mapping
from typing import Any

PATIENCE_SECONDS = 60.0


def event(delta: object, finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return (
        b"data: " + json.dumps({"id": "c1", "model": "m", "choices": [choice]}).encode() + b"\n\n"
    )


def calls(*wanted: tuple[str, str]) -> bytes:
    """Write an answer that calls these tools."""
    pieces = [
        {"index": i, "id": f"c{i}", "function": {"name": name, "arguments": arguments}}
        for i, (name, arguments) in enumerate(wanted)
    ]
    return b"".join(event({"tool_calls": [piece]}) for piece in pieces) + event({}, "tool_calls")


TEXT = event({"content": "All "}) + event({"content": "done."})
STOP = event({}, "stop") + b"data: [DONE]\n\n"

ANSWERS = {
    "text": TEXT + STOP,
    "tools": calls(("look", '{"page": 1}'), ("look_async", '{"page": 2}'), ("look", "{}")),
    "failing tool": calls(("fail", "{}")),
    "waiting tool": calls(("wait", "{}")),
    "approval": calls(("pay", '{"amount": 5}')),
    "malformed": TEXT + b"data: {no json\n\n",
    "cut off": TEXT,
    "leave": TEXT,  # and nothing more, until the reader leaves
}


def answer_to(body: Mapping[str, Any]) -> tuple[str, bytes]:
    """Choose what is done, by the last prompt, and what is said."""
    messages = body["messages"]
    wanted = [m["content"] for m in messages if m["role"] == "user"][-1]
    if messages[-1]["role"] == "tool":
        wanted = "text"
    return wanted, ANSWERS.get(wanted, b"")


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the requests of one connection."""
    try:
        while await answer_next(reader, writer):
            await writer.drain()
    except (OSError, asyncio.IncompleteReadError):
        pass  # the client left
    finally:
        writer.close()


async def answer_next(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Answer a request; tell whether the connection is still of use."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    length = int(head.partition("content-length:")[2].partition("\r\n")[0])
    wanted, said = answer_to(json.loads(await reader.readexactly(length)))
    if wanted == "error":
        body = b'{"error": {"message": "The pig is full.", "type": "server_error"}}'
        writer.write(b"HTTP/1.1 503 No\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        return True
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
    writer.write(b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(said), said))
    if wanted == "cut off":
        return False
    if wanted == "leave":
        await writer.drain()
        await asyncio.wait_for(reader.read(1), PATIENCE_SECONDS)
        return False
    writer.write(b"0\r\n\r\n")
    return True


async def main() -> None:
    """Serve until stdin ends."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(main())
