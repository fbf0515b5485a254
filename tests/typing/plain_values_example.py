"""What type checkers see of plain values: OpenAI's dicts may stand for messages and tools."""

from typing import Literal, TypedDict, assert_type

from pathors_agent import Agent, ContentPart, Conversation, Transport, UserMessage, load_messages
from pathors_agent.messages import Message


class UserParam(TypedDict):
    role: Literal["user"]
    content: str


class FunctionParam(TypedDict, total=False):
    name: str
    parameters: dict[str, object]


class ToolParam(TypedDict):
    type: Literal["function"]
    function: FunctionParam


def ask(transport: Transport, history: list[UserParam], definition: ToolParam) -> None:
    agent = Agent(transport, tools=[definition])
    agent.run("Hi.", conversation=history)
    agent.run(conversation=[{"role": "user", "content": "Hi."}, UserMessage(content="Ho.")])
    agent.run(conversation=load_messages(history, format="openai"))
    agent.run({"role": "user", "content": "Hi."})
    agent.run(history[0])
    agent.run([{"type": "text", "text": "Hi."}, ContentPart(type="text", text="Ho.")])
    assert_type(load_messages("[]", format="langchain"), list[Message])
    assert_type(load_messages("[]", repair=True), tuple[list[Message], list[str]])


def refuse(transport: Transport) -> None:
    Agent(transport).run(5)  # type: ignore[arg-type]
    Agent(transport).run(conversation=Conversation)  # type: ignore[arg-type]
    Agent(transport, tools=["add"])  # type: ignore[list-item]
    load_messages([], format="letters")  # type: ignore[call-overload]
