"""The addresses of front ends: the same turns as a chat completion's, in their own protocols."""

import json
import threading
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from live_server import PATIENCE_SECONDS, Live, live
from pathors_agent import AsyncAgent, AsyncResponse, Request, tool
from pathors_agent.server import Project, ServerSettings
from pathors_agent.stores import MemoryStore, SQLStore, Store
from pathors_agent.testing import AsyncScriptedTransport, answer, calls, http_error

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


# - one turn -


def test_addresses_are_off_unless_they_are_asked_for() -> None:
    with live(project("Hi")) as server:
        assert ui(server, user("Hi")).status_code == 404
        assert ag_ui(server, said("Hi")).status_code == 404


def test_ui_turn_is_stored_in_the_session_of_the_chat() -> None:
    with serving(calls(("add", {"a": 1, "b": 2})), answer("It is 3.", reasoning="hm")) as server:
        response = ui(server, user("Add."))
        found = events(response)
        assert response.headers["x-vercel-ai-ui-message-stream"] == "v1"
        assert response.headers["x-session-id"] == "chat"
        assert response.text.endswith("data: [DONE]\n\n")
        assert found[0] == {"type": "start"}
        assert found[-1] == {"type": "finish", "finishReason": "stop"}
        assert {"type": "tool-output-available", "toolCallId": "call_1", "output": "3"} in found
        assert {"type": "reasoning-delta", "id": "reasoning-1", "delta": "hm"} in found
        assert roles(server) == [
            ("user", "Add."),
            ("assistant", None),
            ("tool", "3"),
            ("assistant", "It is 3."),
        ]


def test_ag_ui_turn_is_stored_in_the_session_of_the_thread() -> None:
    with serving("Hello.") as server:
        response = ag_ui(server, said("Hi"))
        assert response.headers["content-type"].startswith("text/event-stream")
        assert events(response) == [
            {"type": "RUN_STARTED", "threadId": "chat", "runId": "r"},
            {"type": "TEXT_MESSAGE_START", "messageId": "r-1", "role": "assistant"},
            {"type": "TEXT_MESSAGE_CONTENT", "messageId": "r-1", "delta": "Hello."},
            {"type": "TEXT_MESSAGE_END", "messageId": "r-1"},
            {"type": "RUN_FINISHED", "threadId": "chat", "runId": "r"},
        ]
        assert roles(server) == [("user", "Hi"), ("assistant", "Hello.")]


def test_chat_without_an_id_gets_a_session() -> None:
    with serving("Hello.") as server:
        session = server.client.post(UI, json={"messages": [user("Hi")]}).headers["x-session-id"]
        assert roles(server, session)[-1] == ("assistant", "Hello.")


def test_reasoning_that_the_project_never_shows_is_not_sent() -> None:
    with serving(*[answer("Hi", reasoning="secret")] * 2, reasoning="never") as server:
        assert "secret" not in ui(server, user("Hi")).text
        assert "secret" not in ag_ui(server, said("Hi")).text


def test_whole_history_of_the_client_adds_its_new_message_only() -> None:
    with serving(calls(("add", {"a": 1, "b": 2})), "It is 3.", "Bye.") as server:
        ui(server, user("Add."))
        part = {"type": "tool-add", "toolCallId": "call_1", "state": "output-available"}
        step = assistant(
            {**part, "input": {"a": 1, "b": 2}, "output": "forged"},
            {"type": "step-start"},
            text_part("It is 3."),
        )
        ui(server, user("Add."), step, user("Thanks.", "u2"))
        assert [content for _, content in roles(server)] == [
            "Add.",
            None,
            "3",
            "It is 3.",
            "Thanks.",
            "Bye.",
        ]


def test_lone_message_is_a_new_turn() -> None:
    with serving("One.", "Two.") as server:
        ui(server, user("Hi"))
        body = {"id": "chat", "message": user("More"), "trigger": "submit-message"}
        events(server.client.post(UI, json=body))
        assert [content for _, content in roles(server)] == ["Hi", "One.", "More", "Two."]


PNG = "data:image/png;base64,iVBORw0KGgo="


@pytest.mark.parametrize("path", [UI, AG_UI])
def test_files_of_the_client_reach_the_model_and_the_session(path: str) -> None:
    served = project("A dot.")
    with live(served, front_ends=True) as server:
        if path == UI:
            file = {"type": "file", "mediaType": "image/png", "url": PNG}
            message = user("What is it?")
            events(ui(server, {**message, "parts": [*message["parts"], file]}))
        else:
            source = {"type": "data", "value": PNG.partition(",")[2], "mimeType": "image/png"}
            parts = [text_part("What is it?"), {"type": "image", "source": source}]
            events(ag_ui(server, {**said(""), "content": parts}))
        [asked] = server.stored("chat")[:1]
    content = [text_part("What is it?"), {"type": "image_url", "image_url": {"url": PNG}}]
    assert asked["content"] == content
    assert isinstance(served.transport, AsyncScriptedTransport)
    assert served.transport.requests[0]["messages"][0]["content"] == content


# - refused before the stream begins -


@pytest.mark.parametrize(
    ("path", "body", "problem"),
    [
        (UI, {"messages": []}, "messages"),
        (UI, {"messages": [{"role": "boss", "parts": []}]}, "messages[0].role"),
        (UI, {"messages": [assistant(text_part("Hi"))]}, "nothing to answer"),
        (UI, {"id": "a b", "messages": [user("Hi")]}, "session id"),
        (
            UI,
            {"messages": [user("Hi")], "tools": [{"function": {**ASK, "name": "add"}}]},
            "add is a tool of the project; give yours another name",
        ),
        (AG_UI, {"threadId": "t", "runId": "r"}, "messages"),
        (
            AG_UI,
            {
                "threadId": "t",
                "runId": "r",
                "messages": [said("Hi")],
                "tools": [{**ASK, "name": "add"}],
            },
            "add is a tool of the project; give yours another name",
        ),
        (
            AG_UI,
            {
                "threadId": "t",
                "runId": "r",
                "messages": [said("Hi")],
                "resume": [{"interruptId": "d", "status": "resolved", "payload": True}],
            },
            "no call waits for the approval d",
        ),
    ],
)
def test_body_that_does_not_fit_is_refused_with_400(path: str, body: Any, problem: str) -> None:
    with serving() as server:
        refused = server.client.post(path, json=body)
        assert refused.status_code == 400
        assert problem in refused.json()["error"]["message"]


@pytest.mark.parametrize("path", [UI, AG_UI])
def test_keys_and_limits_are_those_of_completions(path: str) -> None:
    settings = ServerSettings(requests_per_minute=1, max_messages=2, max_tools=1)
    body = {"id": "chat", "threadId": "chat", "runId": "r"}
    first = user("Hi") if path == UI else said("Hi")
    with live(project("Hi"), front_ends=True, settings=settings) as server:
        unknown = server.client.post(path, json=body, headers={"Authorization": "Bearer sk_no"})
        long = server.client.post(path, json={**body, "messages": [first] * 3})
        after = server.client.post(path, json={**body, "messages": [first]})
    assert unknown.status_code == 401
    assert (long.status_code, "more than 2" in long.text) == (400, True)
    assert after.status_code == 429
    assert int(after.headers["retry-after"]) > 0


@pytest.mark.parametrize("path", [UI, AG_UI])
def test_error_before_the_first_event_is_a_status(path: str) -> None:
    with serving(http_error(500, "the key sk-secret1234567890")) as server:
        response = ui(server, user("Hi")) if path == UI else ag_ui(server, said("Hi"))
        assert response.status_code == 502
        assert "sk-secret" not in response.text
        assert server.client.get("/sessions/chat").status_code == 404


def test_error_in_the_middle_is_the_last_event_and_stores_nothing() -> None:
    broken = answer("Half an answer").ended_after(events=2)
    with serving(broken, broken) as server:
        found = events(ui(server, user("Hi")))
        assert found[-2:] == [
            {"type": "finish-step"},
            {"type": "error", "errorText": "The model gave no whole answer"},
        ]
        assert events(ag_ui(server, said("Hi")))[-1] == {
            "type": "RUN_ERROR",
            "message": "The model gave no whole answer",
        }
        assert server.client.get("/sessions/chat").status_code == 404


# - approvals and tools of the client -


def asked(found: list[Any]) -> str:
    [request] = [each for each in found if each["type"] == "tool-approval-request"]
    return str(request["approvalId"])


def pay_part(digest: str, *, approved: Any, **fields: Any) -> dict[str, Any]:
    approval = {"id": digest, "approved": approved, **fields}
    call = {"type": "tool-pay", "toolCallId": "call_1", "input": {"amount": 5}}
    return {**call, "state": "approval-responded", "approval": approval}


def test_ui_approved_call_runs() -> None:
    with serving(calls(("pay", {"amount": 5.0})), "Done.") as server:
        digest = asked(events(ui(server, user("Pay."))))
        found = events(ui(server, user("Pay."), assistant(pay_part(digest, approved=True))))
        output = {"type": "tool-output-available", "toolCallId": "call_1", "output": "paid 5.0"}
        assert found[1] == output
        assert roles(server)[-1] == ("assistant", "Done.")


def test_ui_denied_call_does_not_run() -> None:
    with serving(calls(("pay", {"amount": 5.0})), "Pity.") as server:
        digest = asked(events(ui(server, user("Pay."))))
        denied = assistant(pay_part(digest, approved=False, reason="too much"))
        found = events(ui(server, user("Pay."), denied))
        assert found[1] == {"type": "tool-output-denied", "toolCallId": "call_1"}
        assert roles(server)[2] == ("tool", "Not run: a person said no: too much.")


@pytest.mark.parametrize("approved", ["yes", 1, "true"])
def test_approval_is_a_boolean(approved: Any) -> None:
    with serving(calls(("pay", {"amount": 5.0}))) as server:
        digest = asked(events(ui(server, user("Pay."))))
        refused = ui(server, user("Pay."), assistant(pay_part(digest, approved=approved)))
        assert refused.status_code == 400
        assert roles(server)[-1][0] == "assistant"


def test_client_that_lost_the_answer_to_its_approval_continues_the_session() -> None:
    with serving(calls(("pay", {"amount": 5.0})), "Paid.", "Bye.") as server:
        digest = asked(events(ui(server, user("Pay."))))
        approved = assistant(pay_part(digest, approved=True))
        events(ui(server, user("Pay."), approved))

        events(ui(server, user("Pay."), approved, user("Thanks.", "u2")))
        again = ui(server, user("Pay."), approved)

        assert [content for _, content in roles(server)] == [
            "Pay.",
            None,
            "paid 5.0",
            "Paid.",
            "Thanks.",
            "Bye.",
        ]
        assert (again.status_code, "no call waits" in again.text) == (400, True)


def test_approval_of_another_call_is_refused() -> None:
    with serving(calls(("pay", {"amount": 5.0}))) as server:
        events(ui(server, user("Pay.")))
        refused = ui(server, user("Pay."), assistant(pay_part("forged", approved=True)))
        assert (refused.status_code, "no call waits" in refused.text) == (400, True)


def test_ag_ui_interrupt_is_resolved_with_other_arguments() -> None:
    with serving(calls(("pay", {"amount": 5.0})), "Done.") as server:
        [interrupt] = events(ag_ui(server, said("Pay.")))[-1]["outcome"]["interrupts"]
        payload = {"approved": True, "arguments": {"amount": 1.0}}
        entry = {"interruptId": interrupt["id"], "status": "resolved", "payload": payload}
        function = {"name": "pay", "arguments": '{"amount": 5.0}'}
        call = {"id": "call_1", "type": "function", "function": function}
        asking = {"id": "a1", "role": "assistant", "toolCalls": [call]}
        found = events(ag_ui(server, said("Pay."), asking, resume=[entry]))
        [result] = [each for each in found if each["type"] == "TOOL_CALL_RESULT"]
        assert result["content"].startswith("paid 1.0")


@pytest.mark.parametrize(
    ("answered", "told"),
    [
        ({"status": "cancelled"}, "Not run: a person said no."),
        ({"status": "resolved", "payload": {"approved": True}}, "paid 5.0"),
    ],
    ids=["cancelled", "approved"],
)
def test_ag_ui_interrupt_is_answered_with_a_new_message(answered: Any, told: str) -> None:
    with serving(calls(("pay", {"amount": 5.0})), "Fine.") as server:
        [interrupt] = events(ag_ui(server, said("Pay.")))[-1]["outcome"]["interrupts"]
        function = {"name": "pay", "arguments": '{"amount": 5.0}'}
        call = {"id": "call_1", "type": "function", "function": function}
        known = [said("Pay."), {"id": "a1", "role": "assistant", "toolCalls": [call]}]
        resume = [{"interruptId": interrupt["id"], **answered}]
        found = events(ag_ui(server, *known, {**said("And more"), "id": "u2"}, resume=resume))
        assert "user" not in [event.get("role") for event in found]
        results = [each for each in found if each["type"] == "TOOL_CALL_RESULT"]
        assert [(each["toolCallId"], each["content"]) for each in results] == [("call_1", told)]
        assert [content for _, content in roles(server)][2:] == [told, "And more", "Fine."]


@pytest.mark.parametrize("repeats", [False, True], ids=["once", "twice"])
def test_ag_ui_chat_goes_on_after_a_message_that_came_with_an_approval(repeats: bool) -> None:
    """The client shows its message before the result, which arrives later."""
    suspends = [calls(("pay", {"amount": 7.0}))] if repeats else []
    buyer = AsyncAgent(
        AsyncScriptedTransport(calls(("pay", {"amount": 5.0})), *suspends, "Bought."), tools=[pay]
    )
    script = answer(calls=[("buy", {"prompt": "tea"})], ids=["outer"]), "Here is tea.", "Bye."
    own = Project(
        id="demo",
        transport=AsyncScriptedTransport(*script),
        tools=[buyer.as_tool("buy", "Buy it.")],
    )
    with live(own, front_ends=True) as server:
        function = {"name": "buy", "arguments": '{"prompt": "tea"}'}
        call = {"id": "outer", "type": "function", "function": function}
        shown = [said("Tea."), {"id": "a1", "role": "assistant", "toolCalls": [call]}]
        found = events(ag_ui(server, said("Tea.")))
        wishes = ["Milk.", "Sugar."][: 1 + repeats]
        for wish in wishes:
            [interrupt] = found[-1]["outcome"]["interrupts"]
            resume = [{"interruptId": interrupt["id"], "status": "resolved", "payload": True}]
            shown.append({**said(wish), "id": wish})
            found = events(ag_ui(server, *shown, resume=resume))
        shown += [
            {"id": "t1", "role": "tool", "toolCallId": "outer", "content": "Bought."},
            {"id": "a2", "role": "assistant", "content": "Here is tea."},
            {**said("Thanks."), "id": "u9"},
        ]
        events(ag_ui(server, *shown))

        stored = [content for _, content in roles(server)][2:]
        assert [each for each in stored if not each.startswith("Suspended")] == [
            *("Bought.", *wishes, "Here is tea.", "Thanks.", "Bye.")
        ]


def shown_parts(found: list[Any], parts: list[Any]) -> list[Any]:
    """Return the parts of a UI message after more events, as the AI SDK keeps them.

    It fails on an event about a call that the message does not show.
    """
    parts = [dict(part) for part in parts]
    for event in found:
        match event["type"]:
            case "start-step":
                parts.append({"type": "step-start"})
            case "text-start":
                parts.append(text_part(""))
            case "text-delta":
                parts[-1]["text"] += event["delta"]
            case "data-tool-result":
                parts.append(event)
            case "tool-input-available":
                kept = {
                    "callProviderMetadata": event["providerMetadata"],
                    "input": event["input"],
                    "state": "input-available",
                }
                name, call_id = event["toolName"], event["toolCallId"]
                parts.append({"type": f"tool-{name}", "toolCallId": call_id, **kept})
            case "tool-approval-request" | "tool-output-available" | "tool-output-denied":
                changes = {
                    "tool-approval-request": {
                        "state": "approval-requested",
                        "approval": {"id": event.get("approvalId")},
                    },
                    "tool-output-available": {
                        "state": "output-available",
                        "output": event.get("output"),
                    },
                    "tool-output-denied": {"state": "output-denied"},
                }
                called = [p for p in parts if p.get("toolCallId") == event["toolCallId"]]
                called[-1].update(changes[event["type"]])
            case _:
                pass
    return parts


def decided(parts: list[Any], *, approved: bool, keeps_metadata: bool = True) -> list[Any]:
    """Return the parts after a person decided about all calls that wait."""
    parts = [dict(part) for part in parts]
    for part in parts:
        if not keeps_metadata:
            part.pop("callProviderMetadata", None)
        if part.get("state") == "approval-requested":
            part["state"] = "approval-responded"
            part["approval"] = {**part["approval"], "approved": approved}
    return parts


PAY_5, PAY_7 = ("pay", {"amount": 5.0}), ("pay", {"amount": 7.0})


def buying(*script: Any) -> Project:
    """Return a project whose tool is an agent that pays."""
    buyer = AsyncAgent(AsyncScriptedTransport(*script, "Bought."), tools=[pay])
    asks = answer(calls=[("buy", {"prompt": "tea"})], ids=["outer"])
    return Project(
        id="demo",
        transport=AsyncScriptedTransport(asks, "Here is tea.", "Bye."),
        tools=[buyer.as_tool("buy", "Buy it.")],
    )


@pytest.mark.parametrize("keeps_metadata", [True, False], ids=["metadata", "no_metadata"])
@pytest.mark.parametrize("approved", [True, False], ids=["approved", "denied"])
@pytest.mark.parametrize(
    "script",
    [(calls(PAY_5),), (calls(PAY_5, PAY_7),), (calls(PAY_5), calls(PAY_7))],
    ids=["one", "together", "after_each_other"],
)
def test_ui_approvals_inside_an_agent_that_runs_as_a_tool(
    script: Any, approved: bool, keeps_metadata: bool
) -> None:
    with live(buying(*script), front_ends=True) as server:
        parts = shown_parts(events(ui(server, user("Tea."))), [])
        for _ in script:
            parts = decided(parts, approved=approved, keeps_metadata=keeps_metadata)
            parts = shown_parts(events(ui(server, user("Tea."), assistant(*parts))), parts)
        assert parts[-1] == text_part("Here is tea.")
        parts = decided(parts, approved=approved, keeps_metadata=keeps_metadata)
        events(ui(server, user("Tea."), assistant(*parts), user("Thanks.", "u2")))
        stored = [content for _, content in roles(server)][2:]
        assert [each for each in stored if not each.startswith("Suspended")] == [
            *("Bought.", "Here is tea.", "Thanks.", "Bye.")
        ]


@pytest.mark.parametrize(
    ("approved", "told"),
    [(True, "paid 5.0"), (False, "Not run: a person said no.")],
    ids=["approved", "denied"],
)
def test_ui_approval_is_sent_with_a_new_message(approved: bool, told: str) -> None:
    with serving(calls(PAY_5), "Fine.", "Bye.") as server:
        asking = shown_parts(events(ui(server, user("Pay."))), [])
        known = [user("Pay."), assistant(*decided(asking, approved=approved)), user("More", "u2")]
        found = events(ui(server, *known))
        answered = {**assistant(*shown_parts(found, [])), "id": "a2"}
        events(ui(server, *known, answered, user("Thanks.", "u3")))
        assert [content for _, content in roles(server)][2:] == [
            *(told, "More", "Fine.", "Thanks.", "Bye.")
        ]


def test_ui_message_with_an_approval_waits_for_the_agent_that_runs_as_a_tool() -> None:
    with live(buying(calls(PAY_5), calls(PAY_7)), front_ends=True) as server:
        first = decided(shown_parts(events(ui(server, user("Tea."))), []), approved=True)
        known = [user("Tea."), assistant(*first), user("Milk.", "u2")]
        second = decided(shown_parts(events(ui(server, *known)), []), approved=True)
        second = shown_parts(events(ui(server, *known, {**assistant(*second), "id": "a2"})), second)
        events(ui(server, *known, {**assistant(*second), "id": "a2"}, user("Thanks.", "u3")))
        stored = [content for _, content in roles(server)][2:]
        assert [each for each in stored if not each.startswith("Suspended")] == [
            *("Bought.", "Milk.", "Here is tea.", "Thanks.", "Bye.")
        ]


def test_result_of_the_clients_tool_may_stand_before_that_of_the_server() -> None:
    with serving(calls(("ask", {}), ("add", {"a": 1, "b": 2})), "Done.") as server:
        tools = [{"type": "function", "function": ASK}]
        found = events(ui(server, user("Go."), tools=tools))
        assert found[-1] == {"type": "finish", "finishReason": "tool-calls"}
        part = {"state": "output-available", "input": {}}
        answered = assistant(
            {**part, "type": "tool-ask", "toolCallId": "call_1", "output": {"color": "red"}},
            {**part, "type": "tool-add", "toolCallId": "call_2", "output": "3"},
        )
        events(ui(server, user("Go."), answered, tools=tools))
        assert roles(server)[2:] == [
            ("tool", "3"),
            ("tool", '{"color": "red"}'),
            ("assistant", "Done."),
        ]


# - regenerate and edit -


def test_regenerated_answer_replaces_the_last_one() -> None:
    with serving("One.", "Two.", "Three.") as server:
        ui(server, user("Hi"))
        history = user("Hi"), assistant(text_part("One.")), user("More", "u2")
        ui(server, *history)
        again = ui(server, *history, trigger="regenerate-message")
        assert again.headers["x-session-rewound"] == "2"
        assert [content for _, content in roles(server)] == ["Hi", "One.", "More", "Three."]


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("Hi", {"trigger": "regenerate-message", "messageId": "a1"}),
        ("Hello", {"trigger": "submit-message", "messageId": "u1"}),
    ],
    ids=["regenerated", "edited"],
)
def test_first_message_is_answered_again_in_the_same_session(
    text: str, fields: dict[str, str]
) -> None:
    with serving("One.", "Two.") as server:
        ui(server, user("Hi"))
        again = ui(server, user(text), **fields)
        assert again.headers["x-session-rewound"] == "2"
        assert roles(server) == [("user", text), ("assistant", "Two.")]


def test_ag_ui_first_message_is_replaced_if_the_client_says_so() -> None:
    with serving("One.", "Two.", "Three.") as server:
        ag_ui(server, said("Hi"))
        ag_ui(server, said("Hello"), forwardedProps={"rewind": True})
        assert roles(server) == [("user", "Hello"), ("assistant", "Two.")]
        ag_ui(server, said("More"))
        assert len(roles(server)) == 4


# - repeats -


@pytest.fixture(params=["memory", "SQLite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return MemoryStore() if request.param == "memory" else SQLStore(f"sqlite:///{tmp_path}/s.db")


def whole(found: list[Any]) -> list[Any]:
    """Return the events without the pieces of arguments, and each text and reasoning whole."""
    kept: list[Any] = []
    for event in found:
        if event["type"] in ("tool-input-start", "tool-input-delta"):
            continue
        if kept and event["type"].endswith("-delta") and kept[-1]["type"] == event["type"]:
            kept[-1] = {**event, "delta": kept[-1]["delta"] + event["delta"]}
        else:
            kept.append(event)
    return kept


def test_repeat_with_a_key_gets_the_same_answer_and_runs_nothing(store: Store) -> None:
    script = (
        answer("I add \U0001f9ee.", reasoning="hm", calls=[("add", {"a": 1, "b": 2})]),
        answer("It is 3.", reasoning="so", calls=[("pay", {"amount": 5.0})]),
    )
    key = {"Idempotency-Key": "k1"}
    with serving(*script, store=store) as server:
        first = events(ui(server, user("Add."), headers=key))
        again = events(ui(server, user("Add."), headers=key))
        assert whole(again) == whole(first)
        assert types(again)[-3:] == ["tool-approval-request", "finish-step", "finish"]
        assert ui(server, user("Other."), headers=key).status_code == 422


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
