"""Streams for front ends: the events of runs, written out, and the bodies of requests as messages."""

import json
import logging
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from pydantic import ValidationError

from pathors_agent import (
    AssistantMessage,
    AsyncAgent,
    ContentPart,
    Limits,
    SystemMessage,
    Tool,
    ToolCall,
    ToolMessage,
    UserMessage,
    tool,
)
from pathors_agent.server.streams import (
    UI_MESSAGE_HEADERS,
    AGUIRequest,
    UIMessageRequest,
    ag_ui_events,
    ui_message_stream,
)
from pathors_agent.server.streams.ag_ui import AGUIEvents
from pathors_agent.server.streams.ui_stream import UIMessageEvents
from pathors_agent.testing import AsyncScriptedTransport, answer, calls, http_error

pytestmark = pytest.mark.anyio

LOCAL_FILE = {"type": "file", "mediaType": "image/png", "url": "file:///etc/passwd"}
PNG = "data:image/png;base64,iVBORw0KGgo="
ASK = Tool(name="ask", description="Ask.", parameters={"type": "object", "properties": {}})


@tool
def add(a: int, b: int) -> int:
    """Add."""
    return a + b


@tool(approve=True)
def pay(amount: float) -> str:
    """Pay."""
    return f"paid {amount}"


@tool
async def count() -> AsyncGenerator[str, None]:
    """Count."""
    yield "one"
    yield "two"


@tool
def fail() -> str:
    """Fail."""
    raise RuntimeError("broken")


def agent(*script: Any, **settings: Any) -> AsyncAgent[Any, Any]:
    tools: list[Any] = [add, pay, count, fail, ASK]
    return AsyncAgent(AsyncScriptedTransport(*script), tools=tools, **settings)


async def ui(stream: Any) -> list[Any]:
    """Return the events of the UI message stream but its first and its last."""
    found = [data async for data in ui_message_stream(stream)]
    lines = b"".join(found).decode().split("\n\n")
    assert lines[0] == 'data: {"type":"start"}'
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: ")) for line in lines[1:-2]]


def ag_ui_request(*messages: dict[str, Any], **fields: Any) -> AGUIRequest:
    return AGUIRequest.model_validate(
        {"threadId": "t", "runId": "r", "messages": messages, **fields}
    )


async def ag_ui(stream: Any) -> list[Any]:
    """Return the events of AG-UI but the first."""
    found = [data async for data in ag_ui_events(stream, ag_ui_request())]
    lines = b"".join(found).decode().split("\n\n")
    assert lines[0] == 'data: {"type":"RUN_STARTED","threadId":"t","runId":"r"}'
    return [json.loads(line.removeprefix("data: ")) for line in lines[1:-1]]


# - the events of the AI SDK -


async def test_ui_text_follows_reasoning_in_one_step() -> None:
    assert await ui(agent(answer("Hello", reasoning="hm")).stream("Hi")) == [
        {"type": "start-step"},
        {"type": "reasoning-start", "id": "reasoning-1"},
        {"type": "reasoning-delta", "id": "reasoning-1", "delta": "hm"},
        {"type": "reasoning-end", "id": "reasoning-1"},
        {"type": "text-start", "id": "text-2"},
        {"type": "text-delta", "id": "text-2", "delta": "Hello"},
        {"type": "text-end", "id": "text-2"},
        {"type": "finish-step"},
        {"type": "finish", "finishReason": "stop"},
    ]


async def test_ui_answer_after_tools_is_a_step_of_its_own() -> None:
    ours = {"pathors_agent": {"arguments": '{"a": 1, "b": 2}'}}
    assert await ui(agent(calls(("add", {"a": 1, "b": 2})), "3").stream("Add.")) == [
        {"type": "start-step"},
        {"type": "tool-input-start", "toolCallId": "call_1", "toolName": "add"},
        {"type": "tool-input-delta", "toolCallId": "call_1", "inputTextDelta": '{"a": 1,'},
        {"type": "tool-input-delta", "toolCallId": "call_1", "inputTextDelta": ' "b": 2}'},
        {
            "type": "tool-input-available",
            "toolCallId": "call_1",
            "toolName": "add",
            "providerMetadata": ours,
            "input": {"a": 1, "b": 2},
        },
        {"type": "tool-output-available", "toolCallId": "call_1", "output": "3"},
        {"type": "finish-step"},
        {"type": "start-step"},
        {"type": "text-start", "id": "text-1"},
        {"type": "text-delta", "id": "text-1", "delta": "3"},
        {"type": "text-end", "id": "text-1"},
        {"type": "finish-step"},
        {"type": "finish", "finishReason": "stop"},
    ]


async def test_ui_shows_progress_and_errors_of_tools() -> None:
    script = calls(("count", {}), ("fail", {}), ("add", "[1")), "Done."
    found = {
        each["toolCallId"]: each
        for each in await ui(agent(*script).stream("Go."))
        if each["type"].startswith("tool-output") or each["type"] == "tool-input-error"
        if each.get("output") != "one"
    }
    assert found["call_1"]["output"] == "two"
    assert found["call_2"]["type"] == "tool-output-error"
    assert found["call_2"]["errorText"].endswith("broken")
    assert found["call_3"]["type"] == "tool-output-error"
    progress = await ui(agent(calls(("count", {})), "Done.").stream("Go."))
    assert {
        "type": "tool-output-available",
        "toolCallId": "call_1",
        "output": "one",
        "preliminary": True,
    } in progress


async def test_ui_run_that_waits_ends_with_its_requests() -> None:
    running = agent(calls(("pay", {"amount": 5.0}), ("ask", {})))
    events = await ui(running.stream("Pay."))
    [approval] = [each for each in events if each["type"] == "tool-approval-request"]

    assert approval["toolCallId"] == "call_1"
    assert events[-1] == {"type": "finish", "finishReason": "tool-calls"}
    assert not any(each["type"].startswith("tool-output") for each in events)


@pytest.mark.parametrize(
    ("script", "settings", "end"),
    [
        pytest.param(
            answer("Cut", finish_reason="length"),
            {},
            {"type": "finish", "finishReason": "length"},
            id="length",
        ),
        pytest.param(
            calls(("add", {"a": 1, "b": 2})),
            {"limits": Limits(turns=1)},
            {"type": "finish", "finishReason": "other"},
            id="limit",
        ),
        pytest.param(
            http_error(500, "the key sk-secret1234567890"),
            {},
            {"type": "error", "errorText": "The model answered with an error (status 500)"},
            id="model",
        ),
        pytest.param(
            answer("Half an answer").ended_after(events=2),
            {},
            {"type": "error", "errorText": "The model gave no whole answer"},
            id="broken",
        ),
    ],
)
async def test_ui_last_event_says_how_the_run_ended(
    script: Any, settings: Any, end: dict[str, str]
) -> None:
    events = await ui(agent(script, **settings).stream("Hi"))
    starts = [each["type"] for each in events if each["type"].endswith("-start")]
    ends = [each["type"] for each in events if each["type"].endswith("-end")]

    assert events[-1] == end
    assert len([s for s in starts if s != "tool-input-start"]) == len(ends)


async def test_repeated_ids_never_mix_two_calls() -> None:
    again = answer(calls=[("add", {"a": 1, "b": 1})], ids=["same"])
    events = await ui(agent(again, again, "Done.").stream("Add."))
    found = [each["toolCallId"] for each in events if each["type"] == "tool-input-available"]
    started = [each["toolCallId"] for each in events if each["type"] == "tool-input-start"]
    outputs = [each["toolCallId"] for each in events if each["type"] == "tool-output-available"]

    assert len(set(found)) == 2
    assert found == outputs
    assert started == ["same"]  # the second has another id once its answer is complete


async def test_unexpected_errors_are_logged_without_their_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def instructions(_: object) -> str:
        raise RuntimeError("sk-secret1234567890")

    with caplog.at_level(logging.WARNING):
        for events in (
            await ui(agent("Hi", instructions=instructions).stream("Hi")),
            await ag_ui(agent("Hi", instructions=instructions).stream("Hi")),
        ):
            text = events[-1].get("errorText") or events[-1]["message"]
            assert text == "The server could not finish the answer"
    assert "sk-secret" not in caplog.text


async def test_run_inside_a_tool_that_waits_is_an_error_with_the_way_out() -> None:
    inner = AsyncAgent(AsyncScriptedTransport(calls(("pay", {"amount": 1}))), tools=[pay])

    def outer() -> AsyncAgent[Any, Any]:
        transport = AsyncScriptedTransport(calls(("helper", {"prompt": "Pay."})))
        return AsyncAgent(transport, tools=[inner.as_tool("helper", "Help.")])

    events = await ui(outer().stream("Pay."))
    assert events[-1]["type"] == "error"
    assert "keep the conversation on the server" in events[-1]["errorText"]


# - the events of AG-UI -


async def test_ag_ui_calls_belong_to_the_message_of_their_answer() -> None:
    script = answer("Well.", calls=[("add", {"a": 1, "b": 2})], chunk_size=99), "3"
    assert await ag_ui(agent(*script).stream("Add.")) == [
        {"type": "TEXT_MESSAGE_START", "messageId": "r-1", "role": "assistant"},
        {"type": "TEXT_MESSAGE_CONTENT", "messageId": "r-1", "delta": "Well."},
        {"type": "TEXT_MESSAGE_END", "messageId": "r-1"},
        {
            "type": "TOOL_CALL_START",
            "toolCallId": "call_1",
            "toolCallName": "add",
            "parentMessageId": "r-1",
        },
        {"type": "TOOL_CALL_ARGS", "toolCallId": "call_1", "delta": '{"a": 1, "b": 2}'},
        {"type": "TOOL_CALL_END", "toolCallId": "call_1"},
        {
            "type": "TOOL_CALL_RESULT",
            "messageId": "r-2",
            "toolCallId": "call_1",
            "content": "3",
            "role": "tool",
        },
        {"type": "TEXT_MESSAGE_START", "messageId": "r-3", "role": "assistant"},
        {"type": "TEXT_MESSAGE_CONTENT", "messageId": "r-3", "delta": "3"},
        {"type": "TEXT_MESSAGE_END", "messageId": "r-3"},
        {"type": "RUN_FINISHED", "threadId": "t", "runId": "r"},
    ]


async def test_ag_ui_reasoning_ends_before_the_text() -> None:
    found = await ag_ui(agent(answer("Hello", reasoning="hm")).stream("Hi"))
    assert [each["type"] for each in found] == [
        "REASONING_START",
        "REASONING_MESSAGE_START",
        "REASONING_MESSAGE_CONTENT",
        "REASONING_MESSAGE_END",
        "REASONING_END",
        "TEXT_MESSAGE_START",
        "TEXT_MESSAGE_CONTENT",
        "TEXT_MESSAGE_END",
        "RUN_FINISHED",
    ]


async def test_ag_ui_error_is_the_last_event_and_closes_the_text() -> None:
    found = await ag_ui(agent(answer("Half an answer").ended_after(events=2)).stream("Hi"))
    assert found[-2]["type"] == "TEXT_MESSAGE_END"
    assert found[-1] == {"type": "RUN_ERROR", "message": "The model gave no whole answer"}


async def test_ag_ui_limit_is_named_in_the_result() -> None:
    running = agent(calls(("add", {"a": 1, "b": 2})), limits=Limits(turns=1))
    assert (await ag_ui(running.stream("Add.")))[-1]["result"] == {"status": "limit_reached"}


# - the bodies of requests -


def ui_request(*messages: dict[str, Any]) -> UIMessageRequest:
    return UIMessageRequest.model_validate({"id": "chat", "messages": messages, "trigger": "x"})


def user(text: str = "Hi") -> dict[str, Any]:
    return {"id": "1", "role": "user", "parts": [{"type": "text", "text": text}]}


def of_assistant(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"id": "2", "role": "assistant", "parts": [{"type": "step-start"}, *parts]}


def call_part(state: str, **fields: Any) -> dict[str, Any]:
    return {"type": "tool-pay", "toolCallId": "c", "state": state, "input": {"amount": 5}, **fields}


CALL = ToolCall(id="c", name="pay", arguments='{"amount": 5}')


def test_ui_steps_are_answers() -> None:
    request = ui_request(
        {"id": "0", "role": "system", "parts": [{"type": "text", "text": "Be kind."}]},
        user(),
        of_assistant(
            {"type": "reasoning", "text": "hm"},
            {"type": "text", "text": "Well."},
            call_part("output-available", output={"ok": True}),
            {"type": "step-start"},
            {"type": "text", "text": "Done."},
        ),
    )
    assert list(request.conversation.messages) == [
        SystemMessage(content="Be kind."),
        UserMessage(content="Hi"),
        AssistantMessage(content="Well.", reasoning="hm", tool_calls=(CALL,)),
        ToolMessage(tool_call_id="c", content='{"ok": true}'),
        AssistantMessage(content="Done."),
    ]


@pytest.mark.parametrize(
    ("part", "content", "outcome"),
    [
        (call_part("output-available", output="paid"), "paid", "value"),
        (call_part("output-error", errorText="broken"), "broken", "error"),
        (
            call_part("output-denied", approval={"id": "d", "approved": False, "reason": "no"}),
            "Not run: a person said no: no.",
            "not_run",
        ),
    ],
    ids=["value", "error", "denied"],
)
def test_ui_states_of_a_call_are_outcomes(part: Any, content: str, outcome: Any) -> None:
    [*_, result] = ui_request(user(), of_assistant(part)).conversation.messages
    assert result == ToolMessage(tool_call_id="c", content=content, outcome=outcome)


@pytest.mark.parametrize(
    "part",
    [
        call_part("input-available"),
        call_part("approval-requested", approval={"id": "d"}),
        call_part("output-available", output="half", preliminary=True),
    ],
    ids=["client's", "approval", "progress"],
)
def test_ui_call_without_a_result_is_open_until_the_user_speaks(part: Any) -> None:
    assert ui_request(user(), of_assistant(part)).conversation.open_calls == (CALL,)
    later = ui_request(user(), of_assistant(part), user("Stop")).conversation
    assert later.open_calls == ()
    assert later.messages[-1] == UserMessage(content="Stop")


def test_ui_call_that_never_arrived_whole_is_left_out() -> None:
    request = ui_request(
        user(), of_assistant(call_part("input-streaming"), {"type": "text", "text": "We"}), user()
    )
    assert [each.role for each in request.conversation.messages] == ["user", "assistant", "user"]
    assert request.conversation.calls == ()


@pytest.mark.parametrize(
    ("kept", "given", "read"),
    [
        ('{"amount": 5.0}', {"amount": 5}, '{"amount": 5.0}'),
        ('{"amount": 9007199254740993}', {"amount": 9007199254740992}, None),
        ('{"amount": 5}', {"amount": 6}, '{"amount": 6}'),
        ("no JSON", {"amount": 6}, '{"amount": 6}'),
        (7, {"amount": 6}, '{"amount": 6}'),
    ],
)
def test_ui_arguments_are_the_models_text_unless_the_client_has_others(
    kept: Any, given: Any, read: str | None
) -> None:
    metadata = {"pathors_agent": {"arguments": kept, "extra": {"signature": "s"}}}
    part = call_part("input-available", callProviderMetadata=metadata) | {"input": given}
    [call] = ui_request(user(), of_assistant(part)).conversation.open_calls
    assert (call.arguments, call.extra) == (read or kept, {"signature": "s"})


async def test_ui_approval_of_the_client_runs_the_call_in_the_same_message() -> None:
    running = agent(calls(("pay", {"amount": 5.0})), "Done.")
    events = await ui(running.stream("Hi"))
    [asked] = [each for each in events if each["type"] == "tool-approval-request"]
    metadata = {"pathors_agent": {"arguments": '{"amount": 5.0}'}}
    approval = {"id": asked["approvalId"], "approved": True}
    part = call_part("approval-responded", approval=approval, callProviderMetadata=metadata)
    request = ui_request(user(), of_assistant({**part, "toolCallId": "call_1"}))

    stream = running.stream(conversation=request.conversation, decisions=request.decisions)
    assert (await ui(stream))[:2] == [
        {"type": "tool-output-available", "toolCallId": "call_1", "output": "paid 5.0"},
        {"type": "start-step"},
    ]


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "boss", "parts": []}]}, "role"),
        (
            {"messages": [user(), of_assistant(*[call_part("input-available")] * 2)]},
            "two calls of one assistant message",
        ),
        (
            {"messages": [of_assistant(call_part("output-available") | {"toolCallId": ""})]},
            "not valid: id",
        ),
        ({"messages": [{"role": "user", "parts": [LOCAL_FILE]}]}, "data:"),
    ],
    ids=["empty", "role", "twice", "no id", "local file"],
)
def test_ui_body_that_is_not_valid_is_refused_with_422(body: Any, place: str) -> None:
    app = FastAPI()

    @app.post("/chat")
    async def chat(request: UIMessageRequest) -> StreamingResponse:
        stream = agent("Hello").stream(conversation=request.conversation)
        return StreamingResponse(ui_message_stream(stream), headers=UI_MESSAGE_HEADERS)

    with TestClient(app) as client:
        refused = client.post("/chat", json=body)
        taken = client.post("/chat", json={"messages": [user()]})
    assert refused.status_code == 422
    assert place in refused.text
    assert taken.headers["x-vercel-ai-ui-message-stream"] == "v1"


def test_files_are_content_parts() -> None:
    parts = [
        {"type": "text", "text": "Look"},
        {"type": "file", "mediaType": "image/png", "url": PNG},
    ]
    source = {"type": "data", "value": PNG.partition(",")[2], "mimeType": "image/png"}
    other = [{"type": "text", "text": "Look"}, {"type": "image", "source": source}]
    [first] = ui_request({"role": "user", "parts": parts}).conversation.messages
    [second] = ag_ui_request({"role": "user", "content": other}).conversation.messages
    image = ContentPart.image(PNG)
    assert first == UserMessage(content=(ContentPart(type="text", text="Look"), image))
    assert second == first


def test_ag_ui_messages_and_tools_are_read() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "pay", "arguments": "{}"}}
    request = ag_ui_request(
        {"id": "1", "role": "developer", "content": "Be kind."},
        {"id": "2", "role": "user", "content": "Hi"},
        {"id": "3", "role": "reasoning", "content": "hm"},
        {"id": "4", "role": "assistant", "content": "Well.", "toolCalls": [call]},
        {"id": "5", "role": "tool", "toolCallId": "c", "content": "", "error": "broken"},
        {"id": "6", "role": "activity", "activityType": "x", "content": {}},
        tools=[{"name": "ask", "description": "Ask.", "parameters": ASK.parameters}],
    )
    assert list(request.conversation.messages) == [
        SystemMessage(content="Be kind."),
        UserMessage(content="Hi"),
        AssistantMessage(
            content="Well.",
            reasoning="hm",
            tool_calls=(ToolCall(id="c", name="pay", arguments="{}"),),
        ),
        ToolMessage(tool_call_id="c", content="broken", outcome="error"),
    ]
    assert [(each.name, each.function) for each in request.client_tools] == [("ask", None)]


@pytest.mark.parametrize(
    ("entry", "approved", "arguments"),
    [
        ({"status": "resolved", "payload": True}, True, None),
        ({"status": "resolved", "payload": {"approved": True}}, True, None),
        (
            {"status": "resolved", "payload": {"approved": True, "arguments": {"amount": 1}}},
            True,
            '{"amount": 1}',
        ),
        ({"status": "resolved", "payload": {"approved": "yes"}}, False, None),
        ({"status": "cancelled", "payload": True}, False, None),
        ({"status": "resolved"}, False, None),
    ],
)
def test_ag_ui_resume_approves_only_on_true(
    entry: Any, approved: bool, arguments: str | None
) -> None:
    [found] = ag_ui_request(resume=[{"interruptId": "d", **entry}]).decisions
    assert (found.digest, found.approved, found.arguments) == ("d", approved, arguments)


async def test_ag_ui_message_with_a_decision_follows_the_result_of_its_call() -> None:
    running = agent(calls(("pay", {"amount": 5.0})), "Fine.")
    [interrupt] = (await ag_ui(running.stream("Pay.")))[-1]["outcome"]["interrupts"]
    function = {"name": "pay", "arguments": '{"amount": 5.0}'}
    call = {"id": "call_1", "type": "function", "function": function}
    request = ag_ui_request(
        {"id": "u1", "role": "user", "content": "Pay."},
        {"id": "a1", "role": "assistant", "toolCalls": [call]},
        {"id": "u2", "role": "user", "content": "No, wait."},
        resume=[{"interruptId": interrupt["id"], "status": "cancelled"}],
    )

    conversation = request.conversation
    events = await ag_ui(running.stream(conversation=conversation, decisions=request.decisions))
    assert events[-1]["type"] == "RUN_FINISHED"
    assert [message.text for message in conversation.messages[2:]] == [
        *("Not run: a person said no.", "No, wait.", "Fine.")
    ]


async def test_ag_ui_message_with_an_approval_is_not_sent_back_to_its_client() -> None:
    running = agent(calls(("pay", {"amount": 5.0})), "Fine.")
    [interrupt] = (await ag_ui(running.stream("Pay.")))[-1]["outcome"]["interrupts"]
    function = {"name": "pay", "arguments": '{"amount": 5.0}'}
    call = {"id": "call_1", "type": "function", "function": function}
    request = ag_ui_request(
        {"id": "u1", "role": "user", "content": "Pay."},
        {"id": "a1", "role": "assistant", "toolCalls": [call]},
        {"id": "u2", "role": "user", "content": "And more."},
        resume=[{"interruptId": interrupt["id"], "status": "resolved", "payload": True}],
    )

    stream = running.stream(conversation=request.conversation, decisions=request.decisions)
    frames = [data async for data in ag_ui_events(stream, request)]
    assert b'"role":"user"' not in b"".join(frames)
    assert [message.text for message in request.conversation.messages[3:]] == ["And more.", "Fine."]


@pytest.mark.parametrize(
    ("approved", "told"),
    [(True, "paid 5.0"), (False, "Not run: a person said no.")],
    ids=["approved", "denied"],
)
async def test_ui_message_with_a_decision_follows_the_result_of_its_call(
    approved: bool, told: str
) -> None:
    running = agent(calls(("pay", {"amount": 5.0})), "Done.")
    digest = (await ui(running.stream("Pay.")))[-3]["approvalId"]
    part = {"type": "tool-pay", "toolCallId": "call_1", "input": {"amount": 5.0}}
    approval = {"id": digest, "approved": approved}
    answered = of_assistant({**part, "state": "approval-responded", "approval": approval})
    known = [user("Pay."), answered, user("More.")]
    request = ui_request(*known)
    stream = running.stream(conversation=request.conversation, decisions=request.decisions)
    found = await ui(stream)
    [result] = [event for event in found if event["type"].startswith(("data-", "tool-"))]
    assert (result["type"], result["data"]["content"]) == ("data-tool-result", told)

    after = ui_request(*known, of_assistant(result, {"type": "text", "text": "Done."}), user("Go."))
    texts = [message.text for message in after.conversation.messages if message.text]
    assert texts == ["Pay.", told, "More.", "Done.", "Go."]
    assert after.decisions == []


def test_ui_regenerated_answer_repeats_no_decision() -> None:
    part = {"type": "tool-pay", "toolCallId": "call_1", "input": {"amount": 5.0}}
    approval = {"id": "d", "approved": True}
    answered = of_assistant({**part, "state": "approval-responded", "approval": approval})
    messages = [user("Pay."), answered, user("More.")]
    body = {"messages": messages, "trigger": "regenerate-message"}
    assert UIMessageRequest.model_validate(body).decisions == []


def test_ag_ui_body_with_an_illegal_history_or_tool_is_refused() -> None:
    with pytest.raises(ValidationError, match="no tool message may come"):
        ag_ui_request({"id": "1", "role": "tool", "toolCallId": "x", "content": "1"})
    with pytest.raises(ValidationError, match="ask"):
        ag_ui_request(tools=[{"name": "ask", "parameters": {"type": "object"}}] * 2)


def test_bodies_hide_the_texts_of_people() -> None:
    assert "Hi" not in repr(ui_request(user())) + repr(
        ag_ui_request({"role": "user", "content": "Hi"})
    )


@pytest.mark.parametrize("protocol", ["AG-UI", "AI SDK"])
def test_client_tool_with_the_name_of_a_tool_of_the_server_is_refused_with_422(
    protocol: str,
) -> None:
    app = FastAPI()

    @app.post("/AG-UI")
    async def run(request: AGUIRequest) -> StreamingResponse:
        stream = agent("Hi").stream("Hi", tools=request.tools_with([add]))
        return StreamingResponse(ag_ui_events(stream, request))

    @app.post("/AI SDK")
    async def chat(request: UIMessageRequest) -> StreamingResponse:
        stream = agent("Hi").stream("Hi", tools=request.tools_with([add]))
        return StreamingResponse(ui_message_stream(stream))

    def body(*names: str) -> dict[str, Any]:
        tools = [{"name": name} for name in names]
        if protocol == "AG-UI":
            message = {"role": "user", "content": "Hi"}
            return {"threadId": "t", "runId": "r", "messages": [message], "tools": tools}
        return {"messages": [user()], "tools": [{"function": each} for each in tools]}

    with TestClient(app) as client:
        refused = client.post(protocol, json=body("ask", "add"))
        taken = client.post(protocol, json=body("ask"))
    assert (refused.status_code, refused.json()["detail"]) == (
        422,
        "tools.1: add is a tool of the server; give yours another name",
    )
    assert "Hi" in taken.text


def test_replay_of_a_request_restores_the_messages_of_the_client() -> None:
    asking = of_assistant({"type": "text", "text": "Well."}, call_part("approval-responded"))
    assert ui_request(user()).replay == b""
    found = ui_request(user(), asking).replay.decode().split("\n\n")[:-1]
    read = [json.loads(each.removeprefix("data: ")) for each in found]
    assert read[0] == {"type": "start", "messageId": "2"}
    assert [each["type"] for each in read[1:]] == [
        "start-step",
        "text-start",
        "text-delta",
        "text-end",
        "tool-input-available",
        "finish-step",
    ]

    sent = {"id": "1", "role": "user", "content": "Hi", "other": {"kept": True}}
    started, snapshot, _ = ag_ui_request(sent).replay.decode().split("\n\n")
    assert "RUN_STARTED" in started
    assert json.loads(snapshot.removeprefix("data: "))["messages"] == [sent]


def test_images_of_an_answer_are_files_and_a_refusal_is_text() -> None:
    image = ContentPart.image(PNG)
    message = AssistantMessage(content=(ContentPart(type="text", text="Look"), image))
    [file] = [each for each in UIMessageEvents().of([message]) if each["type"] == "file"]
    assert file == {"type": "file", "url": PNG, "mediaType": "image/png"}

    refused = AssistantMessage(refusal="I will not.")
    for events in (UIMessageEvents(), AGUIEvents("t", "r")):
        deltas = [each["delta"] for each in events.of([refused]) if "delta" in each]
        assert deltas == ["I will not."]
