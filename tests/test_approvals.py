"""Calls that wait for a person: what is shown, what is decided, and what runs then."""

from typing import Any

import pytest

from pathors_agent import Approval, Decision
from pathors_agent.agent import Agent
from pathors_agent.conversation import Conversation
from pathors_agent.errors import ConversationError, RunNotFinished
from pathors_agent.history.loading import load_messages
from pathors_agent.history.stored import dump_messages
from pathors_agent.messages import ToolMessage
from pathors_agent.run import Status
from pathors_agent.testing import ScriptedTransport, calls
from pathors_agent.tools.tool import tool
from ways import WAYS, Way

RAN: list[tuple[str, int]] = []


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    RAN.clear()


@tool(approve=True)
def pay(to: str, amount: int) -> str:
    """Pay somebody."""
    RAN.append((to, amount))
    return "paid"


@tool(approve=lambda arguments: arguments["amount"] > 100)
def give(to: str, amount: int) -> str:
    """Give somebody something."""
    RAN.append((to, amount))
    return "given"


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    return Way(request.param)


def asking(*entries: tuple[str, dict[str, Any]]) -> tuple[Agent, Conversation, list[Approval]]:
    """An agent whose model asked for these calls; its conversation; what waits for a yes."""
    agent = Agent(ScriptedTransport(calls(*entries), "Done."), tools=[pay, give])
    result = agent.run("Pay.")
    return agent, result.conversation, list(result.approvals)


def results(conversation: Conversation) -> list[tuple[str, str]]:
    return [(m.outcome, m.text) for m in conversation.messages if isinstance(m, ToolMessage)]


def test_run_waits_and_says_for_what(way: Way) -> None:
    script = calls(("pay", {"to": "Ann", "amount": 5}))

    result = way.run(script, prompt="Pay.", tools=[pay])

    assert result.status is Status.SUSPENDED
    assert [approval.call.name for approval in result.approvals] == ["pay"]
    assert RAN == []
    with pytest.raises(RunNotFinished, match=r"waits for approval of pay; run again with decis"):
        _ = result.output


def test_approved_call_runs_once_and_the_run_goes_on(way: Way) -> None:
    first = way.run(calls(("pay", {"to": "Ann", "amount": 5})), prompt="Pay.", tools=[pay])
    [approval] = first.approvals

    agent = Agent(ScriptedTransport("Done."), tools=[pay])
    result = agent.run(conversation=first.conversation, decisions=[approval.approve()])

    assert result.output == "Done."
    assert RAN == [("Ann", 5)]
    assert result.approvals == ()


def test_denied_call_is_answered_with_the_reason() -> None:
    agent, conversation, [approval] = asking(("pay", {"to": "Ann", "amount": 5}))

    result = agent.run(conversation=conversation, decisions=[approval.deny("too much")])

    assert results(conversation) == [("not_run", "Not run: a person said no: too much.")]
    assert result.output == "Done."
    assert RAN == []


def test_call_runs_with_the_arguments_that_were_approved_and_the_model_is_told() -> None:
    agent, conversation, [approval] = asking(("pay", {"to": "Ann", "amount": 500}))

    agent.run(conversation=conversation, decisions=[approval.approve({"to": "Ann", "amount": 5})])

    assert RAN == [("Ann", 5)]
    assert results(conversation) == [
        ("value", 'paid\n(A person changed the arguments to {"to": "Ann", "amount": 5}.)')
    ]


def test_changed_arguments_are_checked_too() -> None:
    agent, conversation, [approval] = asking(("pay", {"to": "Ann", "amount": 500}))

    agent.run(conversation=conversation, decisions=[approval.approve({"to": "Ann"})])

    assert RAN == []
    [(outcome, text)] = results(conversation)
    assert outcome == "error"
    assert "amount" in text


def test_only_calls_that_the_function_names_wait() -> None:
    batch = [("give", {"to": "Ann", "amount": n}) for n in (100, 101)]

    _, conversation, approvals = asking(*batch)

    assert RAN == [("Ann", 100)]
    assert [approval.call.id for approval in approvals] == [conversation.open_calls[0].id]


def test_call_with_wrong_arguments_waits_for_nobody() -> None:
    _, conversation, approvals = asking(("give", {"to": "Ann"}))

    assert approvals == []
    assert [outcome for outcome, _ in results(conversation)] == ["error"]


def test_function_that_fails_leaves_the_decision_to_a_person() -> None:
    @tool(approve=lambda arguments: arguments["no such"])
    def send(text: str) -> None:
        """Send."""

    result = Agent(ScriptedTransport(calls(("send", {"text": "a"}))), tools=[send]).run("Send.")

    assert len(result.approvals) == 1


def test_decision_comes_from_another_process() -> None:
    agent, conversation, [approval] = asking(("pay", {"to": "Ann", "amount": 5}))
    stored = Conversation(load_messages(dump_messages(conversation.messages)))

    [again] = agent.approvals(stored)
    decision = Decision(digest=approval.digest, approved=True)

    assert again == approval
    assert agent.run(conversation=stored, decisions=[decision]).output == "Done."


def test_second_and_late_decisions_are_refused_and_nothing_happens() -> None:
    agent, conversation, [approval] = asking(("pay", {"to": "Ann", "amount": 5}))
    before = conversation.messages

    with pytest.raises(ConversationError, match="no call waits for approval"):
        agent.run(conversation=conversation, decisions=[approval.approve(), approval.deny()])
    assert conversation.messages == before
    assert RAN == []

    agent.run(conversation=conversation, decisions=[approval.approve()])
    with pytest.raises(ConversationError, match="it was answered already"):
        agent.run(conversation=conversation, decisions=[approval.approve()])
    assert RAN == [("Ann", 5)]


def test_decision_does_not_fit_another_tool_of_that_name() -> None:
    _, conversation, [approval] = asking(("pay", {"to": "Ann", "amount": 5}))

    @tool(name="pay", approve=True)
    def pay_more(to: str, amount: int, tip: int = 3) -> None:
        """Pay somebody more."""

    changed = Agent(ScriptedTransport(), tools=[pay_more])
    with pytest.raises(ConversationError, match="the call or its tool has changed"):
        changed.run(conversation=conversation, decisions=[approval.approve()])


def test_decision_does_not_fit_other_arguments() -> None:
    _, _, [approval] = asking(("pay", {"to": "Ann", "amount": 5}))
    agent, conversation, _ = asking(("pay", {"to": "Ann", "amount": 5000}))

    with pytest.raises(ConversationError, match="the call or its tool has changed"):
        agent.run(conversation=conversation, decisions=[approval.approve()])
    assert RAN == []


def test_calls_alike_are_approved_one_by_one() -> None:
    same = ("pay", {"to": "Ann", "amount": 5})
    agent, conversation, [first, second] = asking(same, same)

    result = agent.run(conversation=conversation, decisions=[second.approve()])

    assert first.digest != second.digest
    assert RAN == [("Ann", 5)]
    assert result.approvals == (first,)


def test_arguments_and_reasons_are_in_no_repr() -> None:
    _, _, [approval] = asking(("pay", {"to": "hunter2", "amount": 5}))

    shown = repr([approval, approval.approve({"to": "hunter2"})])

    assert "hunter2" not in shown
