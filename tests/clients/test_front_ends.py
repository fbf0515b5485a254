"""The packages of npm that read the streams of front ends, against an application of one's own."""

import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from client_programs import NODE_PACKAGES, PROGRAMS, CannotInstall, install, plain_environment
from pathors_agent import AsyncAgent, JSONValue, Tool, tool
from pathors_agent.server.streams import (
    UI_MESSAGE_HEADERS,
    AGUIRequest,
    UIMessageRequest,
    ag_ui_events,
    ui_message_stream,
)
from pathors_agent.testing import AsyncScriptedTransport, answer, calls, http_error

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PATIENCE_SECONDS = 60.0

ASK = Tool(
    name="ask_user",
    description="Ask the user.",
    parameters={"type": "object", "properties": {"question": {"type": "string"}}},
)


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool(approve=True)
def pay(to: str, amount: float) -> str:
    """Pay."""
    return f"paid {to}"


ANN: dict[str, JSONValue] = {"to": "Ann", "amount": 5.0}
BOB: dict[str, JSONValue] = {"to": "Bob", "amount": 70.0}


def script() -> AsyncScriptedTransport:
    return AsyncScriptedTransport(
        answer(
            "Grüße.",
            reasoning="hm",
            calls=[("add", {"a": 1, "b": 2}), ("pay", ANN), ("pay", BOB)],
        ),
        calls(("ask_user", {"question": "Which?"})),
        "Done.",
        http_error(500, "no such key sk-secret1234567890"),
    )


# What the model reads at last: the history went through the client three times.
HISTORY = [
    ("user", "Pay Ann.", []),
    (
        "assistant",
        "Grüße.",
        ['{"a": 1, "b": 2}', '{"to": "Ann", "amount": 5.0}', '{"to": "Bob", "amount": 70.0}'],
    ),
    ("tool", "3", []),
    ("tool", "paid Ann", []),
    ("tool", "Not run: a person said no: too much.", []),
    ("assistant", None, ['{"question": "Which?"}']),
]


def history(request: dict[str, Any]) -> list[tuple[str, str | None, list[str]]]:
    return [
        (
            each["role"],
            each.get("content"),
            [call["function"]["arguments"] for call in each.get("tool_calls", ())],
        )
        for each in request["messages"]
    ]


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """Run an application on a free port, in a thread."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()  # a client that is early waits in the listener's queue
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(PATIENCE_SECONDS)
        listener.close()


def perform(name: str, url: str, home: Path) -> Any:
    node = shutil.which("node")
    try:
        folder = install("front-ends", NODE_PACKAGES["front-ends"])
    except CannotInstall as error:
        pytest.skip(f"front-ends cannot be installed: {error}")
    done = subprocess.run(
        [str(node), str(PROGRAMS / "front_ends.mjs"), name, url],
        env={**plain_environment(home), "CLIENT_PACKAGES": str(folder)},
        cwd=PROGRAMS.parent,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def shown(parts: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    """Return the type of each part, and its text, or its state and its result."""
    return [
        (part["type"], part["text"] if "text" in part else _state(part))
        for part in parts
        if part["type"] != "step-start"
    ]


def _state(part: dict[str, Any]) -> tuple[str, Any]:
    return part["state"], part.get("output")


def test_use_chat_shows_a_run_approves_calls_and_runs_its_own_tool(tmp_path: Path) -> None:
    model = script()
    agent = AsyncAgent(model, tools=[add, pay, ASK])
    app = FastAPI()

    @app.post("/chat")
    async def chat(request: UIMessageRequest) -> StreamingResponse:
        stream = agent.stream(conversation=request.conversation, decisions=request.decisions)
        return StreamingResponse(ui_message_stream(stream), headers=UI_MESSAGE_HEADERS)

    with serving(app) as url:
        seen = perform("ai", f"{url}/chat", tmp_path)

    before, approved, after = seen["seen"]
    opening = [("reasoning", "hm"), ("text", "Grüße."), ("tool-add", ("output-available", "3"))]
    assert shown(before["parts"]) == [
        *opening,
        ("tool-pay", ("approval-requested", None)),
        ("tool-pay", ("approval-requested", None)),
    ]
    decided = [
        *opening,
        ("tool-pay", ("output-available", "paid Ann")),
        ("tool-pay", ("output-denied", None)),
    ]
    assert shown(approved["parts"]) == [*decided, ("tool-ask_user", ("input-available", None))]
    assert shown(after["parts"]) == [
        *decided,
        ("tool-ask_user", ("output-available", {"color": "red"})),
        ("text", "Done."),
    ]
    assert [each["status"] for each in seen["seen"]] == ["ready", "ready", "ready"]
    assert seen["error"] == "The model answered with an error (status 500)"
    assert history(model.requests[2]) == [*HISTORY, ("tool", '{"color": "red"}', [])]


def test_ag_ui_client_shows_a_run_answers_interrupts_and_runs_its_own_tool(tmp_path: Path) -> None:
    model = script()
    agent = AsyncAgent(model)
    app = FastAPI()

    @app.post("/agent")
    async def run(request: AGUIRequest) -> StreamingResponse:
        stream = agent.stream(
            conversation=request.conversation,
            decisions=request.decisions,
            tools=[add, pay, *request.client_tools],
        )
        events = ag_ui_events(stream, request)
        return StreamingResponse(events, media_type="text/event-stream")

    with serving(app) as url:
        seen = perform("agui", f"{url}/agent", tmp_path)

    assert [(each["role"], each.get("content")) for each in seen["messages"]] == [
        ("user", "Pay Ann."),
        ("reasoning", "hm"),
        ("assistant", "Grüße."),
        ("tool", "3"),
        ("tool", "Not run: a person said no: too much."),
        ("tool", "paid Ann"),
        ("assistant", None),
        ("tool", "red"),
        ("assistant", "Done."),
    ]
    assert [end and end["type"] for end in seen["ends"]] == ["interrupt", "success", None]
    assert seen["errors"] == ["The model answered with an error (status 500)"]
    assert history(model.requests[2]) == [*HISTORY, ("tool", "red", [])]
