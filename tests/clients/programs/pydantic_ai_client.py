"""Performs scenarios with the `pydantic-ai` package, one for each line of standard input."""

import asyncio
from typing import Any

from lines import perform, session_headers
from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


def weather(city: str) -> str:
    """Get the weather in a city."""
    return "sunny"


async def read(_context: Any, events: Any) -> None:
    """Read the events of a stream; a run with a reader of events streams its model calls."""
    async for _ in events:
        pass


def talk(asked: dict[str, Any]) -> Any:
    return asyncio.run(talk_to_agent(asked))


async def talk_to_agent(asked: dict[str, Any]) -> list[str]:
    given = asked["given"]
    provider = OpenAIProvider(base_url=asked["base_url"], api_key=asked["key"])
    agent = Agent(
        OpenAIChatModel("any", provider=provider),
        instructions=given.get("system"),
        tools=[weather],
        model_settings={"extra_headers": session_headers(asked)},
    )
    history: list[ModelMessage] = []
    texts = []
    for text in given["texts"]:
        result = await agent.run(
            text, message_history=history, event_stream_handler=read if given["stream"] else None
        )
        history = result.all_messages()
        texts += [
            answer.text or ""
            for answer in result.new_messages()
            if isinstance(answer, ModelResponse)
        ]
    return texts


perform(talk)
