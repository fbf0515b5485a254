"""What type checkers see of contexts: a run's context fits the tools and the instructions."""

from dataclasses import dataclass
from typing import Any, assert_type

from pathors_agent import Agent, AsyncAgent, AsyncTransport, Tool, ToolContext, Transport, tool


@dataclass
class User:
    name: str


class Admin(User):
    pass


@tool
def who(context: ToolContext[User]) -> str:
    return context.context.name


@tool
def greet(word: str, context: ToolContext[User], loud: bool = False) -> str:
    return f"{word}, {context.context.name}{'!' * loud}"


@tool
async def book(day: str, seats: int, context: ToolContext[User]) -> str:
    return f"{day}, {seats}: {context.context.name}"


@tool
def add(a: int, b: int) -> int:
    return a + b


@tool
def bare(context: ToolContext) -> str:
    return str(context.context)


@tool
def delete(context: ToolContext[Admin]) -> None:
    pass


def instructions(user: User) -> str:
    return f"For {user.name}."


async def instructions_async(user: User) -> str:
    return instructions(user)


def choose(user: User) -> list[Tool]:
    return []


def ask(transport: Transport) -> None:
    agent = Agent(transport, tools=[greet])
    assert_type(agent, Agent[str, User])
    agent.run("?", context=User("Ada"))
    agent.run("?", context=Admin("Ada"))
    agent.run("?")
    agent.run("?", context="Ada")  # type: ignore[arg-type]
    agent.stream("?", context="Ada")  # type: ignore[arg-type]

    Agent(transport, tools=[who], output=int).run("?", context=5)  # type: ignore[arg-type]
    assert_type(Agent(transport, tools=[who], output=int).run("?").output, int)
    assert_type(Agent(transport, tools=[who]), Agent[str, User])
    assert_type(Agent(transport, tools=[book]), Agent[str, User])
    assert_type(Agent(transport, tools=[who, delete]), Agent[str, Admin])
    assert_type(Agent(transport, instructions=instructions), Agent[str, User])
    assert_type(Agent(transport, instructions=instructions, tools=[add]), Agent[str, User])
    assert_type(Agent(transport, tools=choose), Agent[str, User])

    # mypy reads the type from tools of one shape; for others it is named.
    mixed: Agent[str, User] = Agent(transport, tools=[add, who, greet, Tool(name="ask")])
    mixed.run("?", context="Ada")  # type: ignore[arg-type]
    of_admins: Agent[str, Admin] = mixed
    of_admins.run("?", context=Admin("Ada"))

    for free in (Agent(transport), Agent(transport, tools=[add]), Agent(transport, tools=[bare])):
        free.run("?", context="anything")
    any_agent: Agent[Any] = agent
    any_agent.run("?", context=5)


async def ask_async(transport: AsyncTransport) -> None:
    agent = AsyncAgent(transport, tools=[book])
    assert_type(agent, AsyncAgent[str, User])
    await agent.run("?", context=User("Ada"))
    await agent.run("?", context="Ada")  # type: ignore[arg-type]
    assert_type(AsyncAgent(transport, instructions=instructions_async), AsyncAgent[str, User])
