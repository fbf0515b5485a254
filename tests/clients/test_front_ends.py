"""The packages of npm that read the streams of front ends, against the server and one's own application."""

import asyncio
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
from fastapi.responses import HTMLResponse, Response, StreamingResponse

from browser import NewTab
from client_programs import NODE_PACKAGES, PROGRAMS, CannotInstall, install, plain_environment
from live_server import Live, live
from pathors_agent import AsyncAgent, JSONValue, Tool, tool
from pathors_agent.server import Project
from pathors_agent.server.streams import (
    UI_MESSAGE_HEADERS,
    AGUIRequest,
    RunningStreams,
    UIMessageRequest,
    ag_ui_events,
    ui_message_stream,
)
from pathors_agent.testing import AsyncScriptedTransport, answer, calls, http_error

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PATIENCE_SECONDS = 60.0
EXAMPLES = Path(__file__).parent.parent.parent / "docs" / "examples"

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


WAITS = answer("Wait.", reasoning="hm", calls=[("wait", {})])
WAITED = [
    ("reasoning", "hm"),
    ("text", "Wait."),
    ("tool-wait", ("output-available", "waited")),
    ("text", "Done."),
]

ANN: dict[str, JSONValue] = {"to": "Ann", "amount": 5.0}
BOB: dict[str, JSONValue] = {"to": "Bob", "amount": 70.0}


def script() -> AsyncScriptedTransport:
    return AsyncScriptedTransport(
        answer(
            "Grüße.", reasoning="hm", calls=[("add", {"a": 1, "b": 2}), ("pay", ANN), ("pay", BOB)]
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


def packages() -> Path:
    """Install the packages of npm, or skip the test."""
    try:
        return install("front-ends", NODE_PACKAGES["front-ends"])
    except CannotInstall as error:
        pytest.skip(f"front-ends cannot be installed: {error}")


def perform(name: str, url: str, home: Path, key: str = "") -> Any:
    node, folder = shutil.which("node"), packages()
    # It imports a package, which Node looks for beside the file.
    agent = shutil.copy(EXAMPLES / "resumable_agent.mjs", folder)
    done = subprocess.run(
        [str(node), str(PROGRAMS / "front_ends.mjs"), name, url, key],
        env={
            **plain_environment(home),
            "CLIENT_PACKAGES": str(folder),
            "RESUMABLE_AGENT": str(agent),
        },
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


def check_three_steps(steps: list[dict[str, Any]]) -> None:
    """Check what `useChat` shows before the decisions, after them, and after the client's tool."""
    before, approved, after = steps
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

    check_three_steps(seen["seen"])
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


def test_use_chat_resumes_a_stream_of_ones_own_application(tmp_path: Path) -> None:
    gate = asyncio.Event()

    @tool
    async def wait() -> str:
        """Wait."""
        await gate.wait()
        return "waited"

    agent = AsyncAgent(AsyncScriptedTransport(WAITS, "Done."), tools=[wait])
    app, running = FastAPI(), RunningStreams()

    @app.post("/chat")
    async def chat(request: UIMessageRequest) -> StreamingResponse:
        stream = agent.stream(conversation=request.conversation, decisions=request.decisions)
        events = running.start(request.id, ui_message_stream(stream), replay=request.replay)
        return StreamingResponse(events, headers=UI_MESSAGE_HEADERS)

    @app.get("/chat/{chat_id}/stream")
    async def resume(chat_id: str) -> Response:
        events = running.follow(chat_id)
        if events is None:
            return Response(status_code=204)
        return StreamingResponse(events, headers=UI_MESSAGE_HEADERS)

    @app.post("/go")
    async def go() -> None:
        gate.set()

    with serving(app) as url:
        seen = perform("ai_resumes", f"{url}/chat", tmp_path)

    assert seen["broken"]["status"] == "error"
    for messages in (seen["resumed"], seen["reloaded"]):
        assert shown(messages[1]["parts"]) == WAITED


# - addresses of the server -


UI, AG_UI = "ui-messages", "ag-ui"


def served(model: AsyncScriptedTransport, *tools: Any, **settings: Any) -> Any:
    project = Project(id="demo", transport=model, tools=[add, pay, *tools], **settings)
    return live(project, front_ends=True)


@contextmanager
def waiting(model: AsyncScriptedTransport) -> Iterator[Live]:
    """Serve a project whose tool `wait` waits until the client sends `/go`."""
    gate = threading.Event()

    @tool
    def wait() -> str:
        """Wait."""
        assert gate.wait(PATIENCE_SECONDS)
        return "waited"

    async def go() -> None:
        gate.set()

    with served(model, wait, on_disconnect="finish") as server:
        server.app.add_api_route("/go", go, methods=["POST"])
        yield server


def contents(server: Live, session: str = "chat") -> list[tuple[str, Any]]:
    return [(each["role"], each.get("content")) for each in server.stored(session)]


def test_use_chat_talks_to_an_address_of_the_server(tmp_path: Path) -> None:
    model = script()
    with served(model) as server:
        seen = perform("ai", f"{server.base}/{UI}", tmp_path, server.key)
        stored = contents(server)

    check_three_steps(seen["seen"])
    assert json.loads(seen["error"])["error"]["message"] == (
        "The model answered with an error (status 500)"
    )
    assert history(model.requests[2]) == [*HISTORY, ("tool", '{"color": "red"}', [])]
    assert [role for role, _ in stored].count("user") == 1
    assert stored[-1] == ("assistant", "Done.")


def test_use_chat_regenerates_and_edits_the_first_message(tmp_path: Path) -> None:
    model = AsyncScriptedTransport("A.", "B.", "C.", "D.", "E.")
    with served(model) as server:
        seen = perform("ai_edits", f"{server.base}/{UI}", tmp_path, server.key)
        stored = contents(server)

    def texts(messages: Any) -> list[str]:
        return [text for each in messages for _, text in shown(each["parts"])]

    assert texts(seen["regenerated"]) == ["One", "A.", "Two", "C."]
    assert texts(seen["edited"]) == ["Other", "E."]
    assert seen.get("error") is None
    assert stored == [("user", "Other"), ("assistant", "E.")]


def test_use_chat_reads_an_error_in_the_middle_and_asks_again(tmp_path: Path) -> None:
    model = AsyncScriptedTransport(answer("Half an answer").ended_after(events=2), "Whole.")
    with served(model) as server:
        seen = perform("ai_breaks", f"{server.base}/{UI}", tmp_path, server.key)
        stored = contents(server)

    assert seen["half"]["error"] == "The model gave no whole answer"
    assert shown(seen["parts"]) == [("text", "Whole.")]
    assert seen.get("error") is None
    assert stored == [("user", "Hi"), ("assistant", "Whole.")]


def test_use_chat_resumes_its_stream_after_its_connection_is_lost(tmp_path: Path) -> None:
    with waiting(AsyncScriptedTransport(WAITS, "Done.")) as server:
        seen = perform("ai_resumes", f"{server.base}/{UI}", tmp_path, server.key)
        stored = contents(server)

    assert seen["broken"]["status"] == "error"
    assert shown(seen["broken"]["parts"])[-1] == ("tool-wait", ("input-available", None))
    for messages in (seen["resumed"], seen["reloaded"]):
        assert [each["role"] for each in messages] == ["user", "assistant"]
        assert shown(messages[1]["parts"]) == WAITED
    assert seen["status"] == "ready"
    assert stored[-1] == ("assistant", "Done.")


def test_use_chat_resumes_the_answer_to_an_approval(tmp_path: Path) -> None:
    asks = answer("I pay.", calls=[("pay", ANN)])
    with waiting(AsyncScriptedTransport(asks, WAITS, "Done.")) as server:
        seen = perform("ai_resumes_approval", f"{server.base}/{UI}", tmp_path, server.key)

    for messages in (seen["resumed"], seen["reloaded"]):
        assert [each["role"] for each in messages] == ["user", "assistant"]
        assert shown(messages[1]["parts"]) == [
            ("text", "I pay."),
            ("tool-pay", ("output-available", "paid Ann")),
            *WAITED,
        ]


def test_ag_ui_client_talks_to_an_address_of_the_server(tmp_path: Path) -> None:
    model = script()
    with served(model) as server:
        seen = perform("agui", f"{server.base}/{AG_UI}", tmp_path, server.key)
        stored = contents(server, "thread")

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
    assert "The model answered with an error (status 500)" in seen["refused"]
    assert history(model.requests[2]) == [*HISTORY, ("tool", "red", [])]
    assert stored[-1] == ("assistant", "Done.")


def test_ag_ui_client_changes_arguments_and_has_the_first_message_answered_again(
    tmp_path: Path,
) -> None:
    broken = answer("Half an answer").ended_after(events=2)
    model = AsyncScriptedTransport(calls(("pay", ANN)), "Paid.", "Hello.", broken)
    with served(model) as server:
        seen = perform("agui_changes", f"{server.base}/{AG_UI}", tmp_path, server.key)
        stored = contents(server, "thread")

    [result] = [each for each in seen["paid"] if each["role"] == "tool"]
    assert result["content"].startswith("paid Ann")
    assert '"amount": 1' in result["content"]
    assert [each["content"] for each in seen["regenerated"]] == ["Pay Ann.", "Hello."]
    assert seen["errors"] == ["The model gave no whole answer"]
    assert stored == [("user", "Pay Ann."), ("assistant", "Hello.")]


def test_ag_ui_client_of_the_guide_comes_back_to_its_run(tmp_path: Path) -> None:
    with waiting(AsyncScriptedTransport(WAITS, "Done.")) as server:
        seen = perform("agui_resumes", f"{server.base}/{AG_UI}", tmp_path, server.key)

    assert "network" in seen["error"]
    for messages in (seen["resumed"], seen["other"]):
        assert [(each["role"], each.get("content")) for each in messages] == [
            ("user", "Hi"),
            ("reasoning", "hm"),
            ("assistant", "Wait."),
            ("tool", "waited"),
            ("assistant", "Done."),
        ]
    assert seen["idle"] == "No turn is running"


# - the pages of the guide, in a browser -


@contextmanager
def serving_page(agent: AsyncAgent[Any, Any], html: str, javascript: str = "") -> Iterator[str]:
    """Serve a page, its program, and an agent that it talks to at /chat."""
    app = FastAPI()

    @app.get("/")
    async def page() -> HTMLResponse:
        return HTMLResponse(html)

    @app.get("/page.js")
    async def program() -> Response:
        return Response(javascript, media_type="text/javascript")

    @app.get("/favicon.ico", status_code=204)
    async def icon() -> None:
        """Answer the browser, which asks for it."""

    @app.post("/chat")
    async def chat(request: UIMessageRequest) -> StreamingResponse:
        stream = agent.stream(conversation=request.conversation, decisions=request.decisions)
        return StreamingResponse(ui_message_stream(stream), headers=UI_MESSAGE_HEADERS)

    with serving(app) as url:
        yield url


def send(tab: Any, text: str) -> None:
    tab.get_by_label("Message").fill(text)
    tab.get_by_role("button", name="Send").click()


def test_html_page_of_the_guide_talks_and_keeps_the_history(new_tab: NewTab) -> None:
    model = AsyncScriptedTransport(calls(("add", {"a": 1, "b": 2})), "It is 3.", "<b>Bye</b>")
    html = (EXAMPLES / "front_end.html").read_text()

    with serving_page(AsyncAgent(model, tools=[add]), html) as url:
        tab = new_tab(url)
        tab.goto(f"{url}/")
        send(tab, "Add.")
        tab.get_by_text("It is 3.").wait_for()
        send(tab, "Thanks.")
        tab.get_by_text("<b>Bye</b>").wait_for()

    assert history(model.requests[2]) == [
        ("user", "Add.", []),
        ("assistant", None, ['{"a": 1, "b": 2}']),
        ("tool", "3", []),
        ("assistant", "It is 3.", []),
        ("user", "Thanks.", []),
    ]


def test_react_page_of_the_guide_approves_a_call(new_tab: NewTab, tmp_path: Path) -> None:
    model = AsyncScriptedTransport(calls(("pay", ANN)), "Paid.")
    modules = packages() / "node_modules"
    built = tmp_path / "page.js"
    program, page = modules / ".bin" / "esbuild", EXAMPLES / "front_end.jsx"
    subprocess.run(
        [
            str(program),
            str(page),
            "--bundle",
            "--jsx=automatic",
            f"--outfile={built}",
            "--log-level=error",
        ],
        env={**plain_environment(tmp_path), "NODE_PATH": str(modules)},
        timeout=PATIENCE_SECONDS,
        check=True,
    )
    html = '<!doctype html><div id="root"></div><script type="module" src="/page.js"></script>'

    with serving_page(AsyncAgent(model, tools=[pay]), html, built.read_text()) as url:
        tab = new_tab(url)
        tab.goto(f"{url}/")
        send(tab, "Pay Ann.")
        tab.get_by_role("button", name="Approve").click()
        tab.get_by_text("Paid.").wait_for()
        assert tab.get_by_text("paid Ann").count() == 1
