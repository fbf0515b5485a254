"""Requests of completions, and the project and model that answer them."""

import json
from typing import Any

from live_server import Live
from pathors_agent import tool
from servers import chunk, head


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def sent(running: Live) -> list[dict[str, Any]]:
    """Return the requests that reached the model."""
    transport: Any = running.app.state.runtime.projects["demo"].transport
    requests: list[dict[str, Any]] = transport.requests
    return requests


SLOW = [head(Content_Type="text/event-stream", Transfer_Encoding="chunked")]
REST = chunk(
    b'data: {"choices":[{"index":0,"delta":{"content":"lo"},"finish_reason":"stop"}]}\n\n'
    b"data: [DONE]\n\n"
)


def said(text: str) -> bytes:
    """Write a model's event that says a text."""
    event = json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]})
    return f"data: {event}\n\n".encode()
