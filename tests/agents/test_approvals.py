"""Calls that wait for a person: what is shown, what is decided, and what runs then."""

from collections.abc import Callable
from typing import Any

import pytest

from pathors_agent import Approval, Decision
from pathors_agent.agents.agent import Agent
from pathors_agent.core.conversation import Conversation
from pathors_agent.core.run import Status
from pathors_agent.errors import ConversationError, RunNotFinished
from pathors_agent.history.loading import dump_messages, load_messages
from pathors_agent.messages import ToolCall, ToolMessage
from pathors_agent.testing import ScriptedTransport, answer, calls
from pathors_agent.tools.signature import ToolContext
from pathors_agent.tools.tool import Tool, tool
from ways import Way

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


def asking(*entries: tuple[str, dict[str, Any]]) -> tuple[Agent, Conversation, list[Approval]]:
    """An agent whose model asked for these calls; its conversation; what waits for a yes."""
    agent = Agent(ScriptedTransport(calls(*entries), "Done."), tools=[pay, give])
    result = agent.run("Pay.")
    return agent, result.conversation, list(result.approvals)


def results(conversation: Conversation) -> list[tuple[str, str]]:
    return [(m.outcome, m.text) for m in conversation.messages if isinstance(m, ToolMessage)]


def test_waiting_run_names_its_calls(way: Way) -> None:
    script = calls(("pay", {"to": "Ann", "amount": 5}))

    result = way.run(script, prompt="Pay.", tools=[pay])

    assert result.status is Status.SUSPENDED
    assert [approval.call.name for approval in result.approvals] == ["pay"]
    assert RAN == []
    with pytest.raises(RunNotFinished, match=r"waits for approval of pay; run again with decis"):
        _ = result.output


def test_approved_call_runs_once_and_the_run_continues(way: Way) -> None:
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


def test_call_runs_with_the_approved_arguments_and_the_model_reads_so() -> None:
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


WRONG_ARGUMENTS = {
    "a missing argument": '{"to": "Ann"}',
    "an unknown argument": '{"to": "Ann", "amount": 500, "tip": 1}',
    "a value of another type": '{"to": "Ann", "amount": "abc"}',
    "a list": '["Ann", 500]',
    "no JSON": "pay Ann",
    "cut off": '{"to": "Ann", "amo',
    "a name twice": '{"to": "Ann", "to": "Bob", "amount": 500}',
}


@tool(approve=True)
async def transfer(to: str, amount: int) -> str:
    """Pay somebody, on the event loop."""
    RAN.append((to, amount))
    return "paid"


def run_raw(context: ToolContext[None], to: str, amount: int) -> str:
    RAN.append((to, amount))
    return "paid"


RAW = Tool(
    name="raw",
    parameters={
        "type": "object",
        "properties": {"to": {"type": "string"}, "amount": {"type": "integer"}},
        "required": ["to", "amount"],
        "additionalProperties": False,
    },
    function=run_raw,
    approve=True,
)


@pytest.mark.parametrize("arguments", WRONG_ARGUMENTS.values(), ids=WRONG_ARGUMENTS)
@pytest.mark.parametrize("name", ["pay", "give", "transfer", "raw"])
def test_model_hears_of_wrong_arguments_before_a_person_is_asked(name: str, arguments: str) -> None:
    model = ScriptedTransport(calls((name, arguments)), calls((name, {"to": "Ann", "amount": 500})))

    result = Agent(model, tools=[pay, give, transfer, RAW]).run("Pay.")

    [(outcome, text)] = results(result.conversation)
    assert outcome == "error"
    assert text.startswith(f"The arguments of {name} ")
    assert [approval.call.arguments for approval in result.approvals] == [
        '{"to": "Ann", "amount": 500}'
    ]
    assert RAN == []


def test_calls_that_fit_wait_while_the_others_of_their_answer_are_answered(way: Way) -> None:
    script = calls(("pay", {"to": "Ann", "amount": 5}), ("pay", {"to": "Bob"}), ("pya", {}))

    result = way.run(script, prompt="Pay.", tools=[pay])

    assert result.status is Status.SUSPENDED
    assert [approval.call.id for approval in result.approvals] == ["call_1"]
    assert [text.partition(".")[0] for _, text in results(result.conversation)] == [
        "The arguments of pay do not fit its parameters:\n- /amount: is missing, should be an integer",
        'There is no tool "pya"',
    ]
    assert RAN == []


def test_call_that_was_cut_off_does_not_wait_for_approval(way: Way) -> None:
    script = answer(calls=[("pay", '{"to": "Ann", "am')], finish_reason="length")

    result = way.run(script, "Sorry.", prompt="Pay.", tools=[pay])

    assert result.approvals == ()
    assert [outcome for outcome, _ in results(result.conversation)] == ["not_run"]


def test_call_of_a_client_tool_waits_unchanged() -> None:
    client_tool = Tool(name="sign", parameters=RAW.parameters, approve=True)
    model = ScriptedTransport(calls(("sign", {"to": "Ann"})))

    result = Agent(model, tools=[client_tool]).run("Sign.")

    assert [approval.call.name for approval in result.approvals] == ["sign"]


def test_function_that_fails_leaves_the_decision_to_a_person() -> None:
    @tool(approve=lambda arguments: arguments["no such"])
    def send(text: str) -> None:
        """Send."""

    result = Agent(ScriptedTransport(calls(("send", {"text": "a"}))), tools=[send]).run("Send.")

    assert len(result.approvals) == 1


def test_decision_can_come_from_another_process() -> None:
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


def test_equal_calls_are_approved_one_by_one() -> None:
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


def test_approval_in_place_of_a_decision_is_refused_with_the_methods_that_decide() -> None:
    agent, conversation, [approval] = asking(("pay", {"to": "Ann", "amount": 5}))
    given: Any = [approval]

    with pytest.raises(TypeError, match=r"contains a Approval; pass what approval\.approve\(\)"):
        agent.run(conversation=conversation, decisions=given)

    assert RAN == []


NAN = float("nan")


@pytest.mark.parametrize(
    ("decide", "says"),
    [
        (lambda approval: approval.approve(5), "arguments= takes Mapping, not int"),
        (lambda approval: approval.approve([["amount", 5]]), "arguments= takes Mapping, not list"),
        (lambda approval: approval.approve({"amount": NAN}), "arguments= must be JSON"),
        (lambda approval: approval.approve({"amount": object()}), "arguments= must be JSON"),
        (lambda approval: approval.deny(5), "reason= takes str, not int"),
    ],
)
def test_decision_that_no_call_can_take_is_refused(
    decide: Callable[[Any], Decision], says: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=says):
        decide(Approval(ToolCall(id="1", name="pay"), "digest"))


def test_values_of_another_kind_are_refused_where_they_are_given() -> None:
    agent: Any = Agent(ScriptedTransport())
    conversation: Any = Conversation()

    with pytest.raises(TypeError, match="approvals takes Conversation, not list"):
        agent.approvals([])
    with pytest.raises(TypeError, match="decisions= takes Iterable, not int"):
        agent.run("Hi.", decisions=5)
    with pytest.raises(TypeError, match="close_open_calls takes str, not NoneType"):
        conversation.close_open_calls(None)
