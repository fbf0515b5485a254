"""What type checkers see of answers: their type is that of the agent's output."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, assert_type

from pydantic import BaseModel

from pathors_agent import Agent, AsyncAgent, AsyncTransport, RunResult, Transport, summarized
from pathors_agent.messages import Message


class Weather(BaseModel):
    city: str


@dataclass
class Place:
    name: str


class Route(TypedDict):
    places: list[str]


class Named:
    def __init__(self, name: str) -> None:
        self.name = name


def weather_of(city: str) -> Weather:
    return Weather(city=city)


async def looked_up(city: str) -> Weather:
    return Weather(city=city)


async def history(messages: Sequence[Message]) -> Sequence[Message]:
    return messages


def ask(transport: Transport) -> None:
    assert_type(Agent(transport).run().output, str)
    assert_type(Agent(transport, model="large", output=Weather).run().output, Weather)
    assert_type(Agent(transport, output=Place).run().output, Place)
    assert_type(Agent(transport, output=Route).run().output, Route)
    assert_type(Agent(transport, output=list[int]).run().output, list[int])
    assert_type(Agent(transport, output=Weather | Place).run().output, Any)
    union: Agent[Weather | Place] = Agent(transport, output=Weather | Place)
    assert_type(union.run().output, Weather | Place)
    assert_type(Agent(transport, output=weather_of).run().output, Weather)
    assert_type(Agent(transport, output=Named).run().output, Named)
    with Agent(transport, output=Place).stream() as stream:
        assert_type(stream.result, RunResult[Place])


async def ask_async(transport: AsyncTransport) -> None:
    assert_type((await AsyncAgent(transport, output=looked_up).run()).output, Weather)
    assert_type((await AsyncAgent(transport, output=weather_of).run()).output, Weather)
    agent = AsyncAgent(transport, output=Weather, history=history)
    assert_type((await agent.run()).output, Weather)
    async with agent.stream() as stream:
        assert_type(stream.result.output, Weather)
    AsyncAgent(transport, history=summarized(AsyncAgent(transport), tokens=9))


def refuse(transport: Transport, by: AsyncAgent) -> None:
    Agent(transport, history=history)  # type: ignore[arg-type]  # nothing would await it
    Agent(transport, history=summarized(by, tokens=9))  # type: ignore[arg-type]
