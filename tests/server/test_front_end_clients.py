"""Clients of front ends that come back to a turn, or stop it and go on."""

import threading
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio
import httpx2
import pytest

from front_ends import (
    AG_UI,
    UI,
    ag_ui,
    asked,
    assistant,
    events,
    pay,
    pay_part,
    read,
    roles,
    said,
    serving,
    text_part,
    types,
    ui,
    user,
)
from live_server import PATIENCE_SECONDS, Live, live
from pathors_agent import AsyncResponse, Request, tool
from pathors_agent.server import Project
from pathors_agent.testing import AsyncScriptedTransport, answer, http_error

# - clients that come back -


@pytest.fixture
def gate() -> threading.Event:
    return threading.Event()


def waiting_tool(gate: threading.Event) -> Any:
    @tool
    def wait() -> str:
        """Wait."""
        assert gate.wait(PATIENCE_SECONDS)
        return "waited"

    return wait


def waiting(gate: threading.Event, *script: Any) -> Project:
    return Project(
        id="demo",
        transport=AsyncScriptedTransport(*script),
        tools=[waiting_tool(gate), pay],
        on_disconnect="finish",
    )


WAITS = answer("Wait.", calls=[("wait", {})])


@contextmanager
def cut(server: Live, path: str, body: Any, until: str) -> Iterator[str]:
    """Send a request, and leave when the text `until` was read; yield what was read."""
    text = ""
    with server.client.stream("POST", path, json=body) as response:
        for piece in response.iter_text():
            text += piece
            if until in text:
                break
    yield text


def test_nothing_to_come_back_to_is_204() -> None:
    with serving("Hi") as server:
        assert server.client.get(f"{UI}/chat/stream").status_code == 204
        events(ui(server, user("Hi")))
        assert server.client.get(f"{UI}/chat/stream").status_code == 204
        assert server.client.head(f"{AG_UI}/chat/stream").status_code == 204
        refused = server.client.get(f"{UI}/chat/stream", headers={"Authorization": "Bearer sk_no"})
        assert refused.status_code == 401


def test_ui_client_that_comes_back_gets_the_whole_turn(gate: threading.Event) -> None:
    body = {"id": "chat", "messages": [user("Hi")]}
    with (
        live(waiting(gate, WAITS, "Done."), front_ends=True) as server,
        cut(server, UI, body, "tool-input-available") as seen,
        server.client.stream("GET", f"{UI}/chat/stream") as back,
    ):
        assert back.headers["x-vercel-ai-ui-message-stream"] == "v1"
        gate.set()
        text = back.read().decode()
        found = read(text)
        assert read(seen) == found[: len(read(seen))]
        assert text.endswith("data: [DONE]\n\n")
        assert found[-1] == {"type": "finish", "finishReason": "stop"}
        assert {
            "type": "tool-output-available",
            "toolCallId": "call_1",
            "output": "waited",
        } in found
        assert roles(server)[-1] == ("assistant", "Done.")


def test_client_that_names_its_last_event_gets_those_after_it(gate: threading.Event) -> None:
    body = {"id": "chat", "messages": [user("Hi")]}
    with (
        live(waiting(gate, WAITS, "Done."), front_ends=True) as server,
        cut(server, UI, body, "tool-input-available") as seen,
    ):
        last = [line for line in seen.split("\n") if line.startswith("id: ")][-1]
        header = {"Last-Event-ID": last.removeprefix("id: ")}
        with server.client.stream("GET", f"{UI}/chat/stream", headers=header) as back:
            gate.set()
            rest = read(back.read().decode())
        assert rest[0] == {
            "type": "tool-output-available",
            "toolCallId": "call_1",
            "output": "waited",
        }


def test_client_that_comes_back_to_an_approved_call_gets_the_message_it_belongs_to(
    gate: threading.Event,
) -> None:
    script = answer("I pay.", calls=[("pay", {"amount": 5.0})]), WAITS, "Done."
    with live(waiting(gate, *script), front_ends=True) as server:
        digest = asked(events(ui(server, user("Pay."))))
        asking = assistant(text_part("I pay."), pay_part(digest, approved=True))
        body = {"id": "chat", "messages": [user("Pay."), asking]}
        with (
            cut(server, UI, body, "paid 5.0"),
            server.client.stream("GET", f"{UI}/chat/stream") as back,
        ):
            gate.set()
            found = read(back.read().decode())
    assert found[0] == {"type": "start", "messageId": "a1"}
    assert "start" not in types(found[1:])
    known = types(found)
    assert known.index("tool-input-available") < known.index("tool-output-available")
    assert found[known.index("text-delta")]["delta"] == "I pay."


def test_ag_ui_client_that_comes_back_gets_its_messages_and_the_run(gate: threading.Event) -> None:
    sent = {**said("Hi"), "name": "Ann"}
    body = {"threadId": "chat", "runId": "r", "messages": [sent]}
    with (
        live(waiting(gate, WAITS, "Done."), front_ends=True) as server,
        cut(server, AG_UI, body, "TOOL_CALL_END"),
        server.client.stream("GET", f"{AG_UI}/chat/stream") as back,
    ):
        gate.set()
        found = read(back.read().decode())
    assert found[0] == {"type": "RUN_STARTED", "threadId": "chat", "runId": "r"}
    assert found[1] == {"type": "MESSAGES_SNAPSHOT", "messages": [sent]}
    assert found[-1]["type"] == "RUN_FINISHED"


def test_client_that_comes_back_to_a_turn_that_fails_reads_the_error(gate: threading.Event) -> None:
    body = {"id": "chat", "messages": [user("Hi")]}
    with (
        live(waiting(gate, WAITS, http_error(500, "no")), front_ends=True) as server,
        cut(server, UI, body, "tool-input-available"),
        server.client.stream("GET", f"{UI}/chat/stream") as back,
    ):
        gate.set()
        assert read(back.read().decode())[-1]["type"] == "error"


# - clients that stop an answer, and go on from what they have of it -


class StuckTransport(AsyncScriptedTransport):
    """Plays its script, but the second answer never ends."""

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncIterator[AsyncResponse]:
        async with super().send(request) as response:
            is_stuck = len(self.requests) == 2
            pieces = begun(response.pieces) if is_stuck else response.pieces
            yield AsyncResponse(status=200, headers=response.headers, pieces=pieces)


async def begun(pieces: AsyncIterable[bytes]) -> AsyncGenerator[bytes]:
    async for piece in pieces:
        yield piece
        await anyio.sleep_forever()


def stopped(server: Live, path: str, until: str) -> None:
    """Send the first message, leave when the text `until` was read, and wait for the turn's end."""
    key = {"threadId": "chat", "runId": "r", "messages": [said("Hi")]}
    body = {"id": "chat", "messages": [user("Hi")]} if path == UI else key
    with cut(server, path, body, until):
        pass


def went_on(server: Live, path: str, text: str, tool: str, output: str | None) -> httpx2.Response:
    """Send the next message, behind the stopped answer as the front end has it."""
    if path == UI:
        state = "input-available" if output is None else "output-available"
        part = {"type": f"tool-{tool}", "toolCallId": "call_1", "state": state, "input": {}}
        kept = assistant(text_part(text), part | ({"output": output} if output else {}))
        return ui(server, user("Hi"), kept, user("More", "u2"))
    call = {"id": "call_1", "type": "function", "function": {"name": tool, "arguments": "{}"}}
    answered = {"id": "a1", "role": "assistant", "content": text, "toolCalls": [call]}
    results = [{"id": "t1", "role": "tool", "toolCallId": "call_1", "content": output}]
    messages = [said("Hi"), answered, *(results if output else []), {**said("More"), "id": "u2"}]
    return ag_ui(server, *messages)


@pytest.mark.parametrize("has_output", [True, False])
@pytest.mark.parametrize("path", [UI, AG_UI])
def test_call_of_a_stopped_answer_is_told_to_the_model_once(path: str, has_output: bool) -> None:
    ran: list[str] = []

    @tool
    def order() -> str:
        """Order."""
        ran.append("order")
        return "ordered"

    script = answer("I order.", calls=[("order", {})]), answer("Done, and more.", chunk_size=4)
    model = StuckTransport(*script, "Yes.")
    with live(Project(id="demo", transport=model, tools=[order]), front_ends=True) as server:
        stopped(server, path, "ordered")
        events(went_on(server, path, "I order.", "order", "ordered" if has_output else None))
        assert roles(server) == [
            *(("user", "Hi"), ("assistant", "I order."), ("tool", "ordered")),
            *(("user", "More"), ("assistant", "Yes.")),
        ]
    assert ran == ["order"]


@pytest.mark.parametrize("path", [UI, AG_UI])
def test_call_that_a_stopped_answer_left_in_doubt_is_not_told_as_not_run(path: str) -> None:
    @tool
    async def order() -> str:
        """Order."""
        await anyio.sleep_forever()
        return "never"

    script = answer("I order.", calls=[("order", {})]), "Yes."
    with live(
        Project(id="demo", transport=AsyncScriptedTransport(*script), tools=[order]),
        front_ends=True,
    ) as server:
        stopped(server, path, "TOOL_CALL_END" if path == AG_UI else "tool-input-available")
        events(went_on(server, path, "I order.", "order", None))
        [_, _, (role, content), *rest] = roles(server)
        assert role == "tool"
        assert content.startswith("Outcome unknown")
        assert rest == [("user", "More"), ("assistant", "Yes.")]


@pytest.mark.parametrize("path", [UI, AG_UI])
def test_answer_that_was_stopped_and_finished_without_its_client_is_continued(
    path: str, gate: threading.Event
) -> None:
    script = WAITS, "Done: all of it.", "Yes.", "Sure."
    with live(waiting(gate, *script), front_ends=True) as server:
        stopped(server, path, "TOOL_CALL_END" if path == AG_UI else "tool-input-available")
        gate.set()
        while server.client.get("/sessions/chat").status_code == 404:
            pass  # the turn is stored at its end
        whole = ["Hi", "Wait.", "waited", "Done: all of it."]
        assert [content for _, content in roles(server)] == whole

        response = went_on(server, path, "Wait", "wait", None)
        assert "x-session-rewound" not in response.headers
        events(response)
        assert [content for _, content in roles(server)] == [*whole, "More", "Yes."]
