"""Approvals and tools of the client, over the addresses of front ends."""

from typing import Any

import pytest

from front_ends import (
    ASK,
    ag_ui,
    asked,
    assistant,
    events,
    pay,
    pay_part,
    roles,
    said,
    serving,
    text_part,
    ui,
    user,
)
from live_server import live
from pathors_agent import AsyncAgent
from pathors_agent.server import Project
from pathors_agent.testing import AsyncScriptedTransport, answer, calls


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
