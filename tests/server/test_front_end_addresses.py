"""The addresses of front ends: the same turns as a chat completion's, in their own protocols."""

from pathlib import Path
from typing import Any

import pytest

from front_ends import (
    AG_UI,
    ASK,
    UI,
    ag_ui,
    assistant,
    events,
    project,
    roles,
    said,
    serving,
    text_part,
    types,
    ui,
    user,
)
from live_server import live
from pathors_agent.server import ServerSettings
from pathors_agent.stores import MemoryStore, SQLStore, Store
from pathors_agent.testing import AsyncScriptedTransport, answer, calls, http_error

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
