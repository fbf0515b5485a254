"""A served project, and requests of useChat and AG-UI to its addresses."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2

from live_server import Live, live
from pathors_agent import tool
from pathors_agent.server import Project
from pathors_agent.stores import Store
from pathors_agent.testing import AsyncScriptedTransport

UI, AG_UI = "/ui-messages", "/ag-ui"


@tool
def add(a: int, b: int) -> int:
    """Add."""
    return a + b


@tool(approve=True)
def pay(amount: float) -> str:
    """Pay."""
    return f"paid {amount}"


ASK = {"name": "ask", "description": "Ask.", "parameters": {"type": "object", "properties": {}}}


def project(*script: Any, **settings: Any) -> Project:
    return Project(
        id="demo", transport=AsyncScriptedTransport(*script), tools=[add, pay], **settings
    )


@contextmanager
def serving(*script: Any, store: Store | None = None, **settings: Any) -> Iterator[Live]:
    with live(project(*script, **settings), front_ends=True, store=store) as server:
        yield server


def user(text: str, message_id: str = "u1") -> dict[str, Any]:
    return {"id": message_id, "role": "user", "parts": [{"type": "text", "text": text}]}


def assistant(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"id": "a1", "role": "assistant", "parts": [{"type": "step-start"}, *parts]}


def text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def ui(server: Live, *messages: Any, headers: Any = None, **fields: Any) -> httpx2.Response:
    body = {"id": "chat", "messages": messages, **fields}
    return server.client.post(UI, json=body, headers=headers)


def ag_ui(server: Live, *messages: Any, **fields: Any) -> httpx2.Response:
    body = {"threadId": "chat", "runId": "r", "messages": messages, **fields}
    return server.client.post(AG_UI, json=body)


def said(text: str) -> dict[str, Any]:
    """Return a user's message of AG-UI."""
    return {"id": "u1", "role": "user", "content": text}


def events(response: httpx2.Response) -> list[Any]:
    """Return the events of a stream, without `[DONE]`; each must have an id of its own."""
    assert response.status_code == 200, response.text
    lines = response.text.split("\n")
    ids = [line for line in lines if line.startswith("id: ")]
    assert len(set(ids)) == len(ids) == len([line for line in lines if line.startswith("data: ")])
    return read(response.text)


def read(text: str) -> list[Any]:
    lines = [line for line in text.split("\n") if line.startswith("data: ")]
    data = [line.removeprefix("data: ") for line in lines]
    return [json.loads(each) for each in data if each != "[DONE]"]


def types(found: list[Any]) -> list[str]:
    return [each["type"] for each in found]


def roles(server: Live, session: str = "chat") -> list[tuple[str, Any]]:
    return [(each["role"], each.get("content")) for each in server.stored(session)]


def asked(found: list[Any]) -> str:
    [request] = [each for each in found if each["type"] == "tool-approval-request"]
    return str(request["approvalId"])


def pay_part(digest: str, *, approved: Any, **fields: Any) -> dict[str, Any]:
    approval = {"id": digest, "approved": approved, **fields}
    call = {"type": "tool-pay", "toolCallId": "call_1", "input": {"amount": 5}}
    return {**call, "state": "approval-responded", "approval": approval}
