"""Agents take OpenAI's plain dicts in the place of messages, histories and tools."""

from typing import Any

import pytest

from pathors_agent.agents.agent import Agent, AsyncAgent
from pathors_agent.core.conversation import Conversation
from pathors_agent.errors import ConversationError
from pathors_agent.messages import UserMessage
from pathors_agent.testing import AsyncScriptedTransport, ScriptedTransport, calls
from pathors_agent.tools.tool import tool


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


SAID: list[dict[str, object]] = [
    {"role": "developer", "content": "Be brief."},
    {"role": "user", "content": "What is 1 + 2?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "c1",
                "type": "function",
                "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'},
            }
        ],
    },
]
PROMPTS: list[tuple[Any, Any]] = [
    ({"role": "user", "content": "Hi."}, "Hi."),
    ([{"type": "text", "text": "Hi."}], [{"type": "text", "text": "Hi."}]),
]


@pytest.mark.parametrize(("prompt", "sent"), PROMPTS)
def test_prompt_may_be_a_dict_of_openai(prompt: Any, sent: Any) -> None:
    with ScriptedTransport("Hello.") as model:
        result = Agent(model).run(prompt)

    assert result.output == "Hello."
    assert model.requests[0]["messages"] == [{"role": "user", "content": sent}]


def test_history_of_dicts_is_continued_from_its_end() -> None:
    with ScriptedTransport("It is 3.") as model:
        result = Agent(model, tools=[add]).run(conversation=SAID)

    assert [message.role for message in result.messages] == ["tool", "assistant"]
    assert [message["role"] for message in model.requests[0]["messages"]] == [
        "system",
        "user",
        "assistant",
        "tool",
    ]
    assert model.requests[0]["messages"][3]["content"] == "3"
    assert len(result.conversation) == 5
    assert len(SAID) == 3  # the caller's list stays as it was


def test_history_may_mix_dicts_and_messages() -> None:
    with ScriptedTransport("Hello.") as model:
        user = UserMessage(content="Hi.")
        result = Agent(model).run(conversation=[{"role": "system", "content": "Be brief."}, user])

    assert len(result.conversation) == 3


DEFINITION = {
    "type": "function",
    "function": {
        "name": "ask",
        "description": "Ask the user.",
        "parameters": {"type": "object", "properties": {"what": {"type": "string"}}},
        "strict": False,
    },
}


def test_definition_of_openai_is_a_client_tool() -> None:
    with ScriptedTransport(calls(("ask", {"what": "the name"}))) as model:
        result = Agent(model, tools=[add, DEFINITION]).run("Hi.")

    assert result.status == "suspended"
    assert [call.name for call in result.open_calls] == ["ask"]
    sent = model.requests[0]["tools"][1]["function"]
    assert sent == {k: v for k, v in DEFINITION["function"].items() if k != "strict"}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ({"role": "assistant", "content": "x"}, "prompt= is a message with the role assistant"),
        ({"role": "user", "content": 5}, r"messages\[0\]\.content: must be a string"),
        ([{"role": "user", "content": "x"}], "pass it as conversation="),
        ([{"type": "text"}], r"prompt\[0\]: .*needs its field 'text'"),
    ],
)
def test_prompt_that_is_none_is_refused(prompt: Any, text: str) -> None:
    conversation = Conversation()
    with pytest.raises(ConversationError, match=text), ScriptedTransport() as model:
        Agent(model).run(prompt, conversation=conversation)

    assert len(conversation) == 0


@pytest.mark.parametrize("given", ["[]", b"[]", {"messages": []}])
def test_conversation_that_is_a_text_is_refused(given: Any) -> None:
    with pytest.raises(TypeError, match="pass a Conversation or a list of messages"):
        Agent(ScriptedTransport()).run("Hi.", conversation=given)


def test_history_of_dicts_that_is_not_legal_is_refused() -> None:
    with pytest.raises(ConversationError, match=r"messages\[3\]"):
        Agent(ScriptedTransport()).run(conversation=[*SAID, {"role": "user", "content": "x"}])


@pytest.mark.anyio
async def test_async_agent_takes_plain_values_too() -> None:
    async with AsyncScriptedTransport("It is 3.") as model:
        result = await AsyncAgent(model, tools=[add]).run(conversation=SAID)

    assert result.output == "It is 3."
