"""Runs that are cancelled, and what the model reads afterwards of the calls that were open."""

import threading

import anyio
import pytest

from pathors_agent.agent import Agent, AsyncAgent
from pathors_agent.conversation import Conversation
from pathors_agent.errors import ConversationError
from pathors_agent.messages import ToolMessage
from pathors_agent.testing import AsyncScriptedTransport, Reply, ScriptedTransport, calls
from pathors_agent.tools.tool import Tool

# Reached only when something hangs.
LONG = 50.0


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def calling(*names: str) -> Reply:
    return calls(*((name, {}) for name in names))


def closed(conversation: Conversation) -> list[tuple[str, str]]:
    """Return outcome and text of each result."""
    return [(m.outcome, m.text) for m in conversation.messages if isinstance(m, ToolMessage)]


# - what the model reads of open calls


@pytest.mark.anyio
async def test_calls_of_a_cancelled_run_are_told_apart() -> None:
    begun = anyio.Event()

    async def wait() -> None:
        begun.set()
        await anyio.sleep_forever()

    tools = [
        Tool.from_function(lambda: "seen", name="look", description="Look."),
        Tool.from_function(wait, description="Wait.", sequential=True),
        Tool(name="confirm"),
    ]
    conversation = Conversation()
    script = (calling("look", "wait", "wait", "confirm"), "I see.")
    agent = AsyncAgent(AsyncScriptedTransport(*script), tools=tools)

    async def run() -> None:
        await agent.run("Go.", conversation=conversation)

    with anyio.fail_after(LONG):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await begun.wait()
            tasks.cancel_scope.cancel()
    result = await agent.run("What did you see?", conversation=conversation)

    assert result.output == "I see."
    assert closed(conversation) == [
        ("value", "seen"),
        (
            "cancelled",
            "Interrupted: the user went on. The call had begun, and it is not known how far it"
            " came.",
        ),
        ("not_run", "Not run: the user went on."),
        ("cancelled", "Not answered: the user went on."),
    ]


def test_interrupted_blocking_run_knows_which_call_had_begun() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    conversation = Conversation()
    tools = [Tool.from_function(interrupt, description="Interrupt."), Tool.from_function(add)]
    agent = Agent(ScriptedTransport(calling("interrupt", "add")), tools=tools)
    with pytest.raises(KeyboardInterrupt):
        agent.run("Go.", conversation=conversation)

    conversation.close_open_calls("Ctrl-C")

    assert [outcome for outcome, _ in closed(conversation)] == ["cancelled", "not_run"]


def test_prompt_does_not_close_a_call_that_was_approved_with_it() -> None:
    paid = threading.Event()
    pay = Tool.from_function(paid.set, name="pay", description="Pay.", approve=True)
    conversation = Conversation()
    agent = Agent(ScriptedTransport(calling("pay")), tools=[pay])
    [approval] = agent.run("Pay.", conversation=conversation).approvals

    with pytest.raises(ConversationError, match="before the results"):
        agent.run("And?", conversation=conversation, decisions=[approval.approve()])

    assert [call.name for call in conversation.open_calls] == ["pay"]
    assert not paid.is_set()
