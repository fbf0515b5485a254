"""Performs scenarios with the `openai-agents` package, one for each line of standard input."""

import asyncio
from typing import Any

from agents import (
    Agent,
    ItemHelpers,
    MessageOutputItem,
    ModelSettings,
    OpenAIChatCompletionsModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from lines import perform, session_headers
from openai import AsyncOpenAI

set_tracing_disabled(True)


@function_tool
def weather(city: str) -> str:
    """Get the weather in a city."""
    return "sunny"


def talk(asked: dict[str, Any]) -> Any:
    return asyncio.run(talk_to_agent(asked))


async def talk_to_agent(asked: dict[str, Any]) -> list[str]:
    given = asked["given"]
    async with AsyncOpenAI(base_url=asked["base_url"], api_key=asked["key"]) as client:
        agent = Agent(
            name="any",
            instructions=given.get("system"),
            model=OpenAIChatCompletionsModel("any", client),
            tools=[weather],
            model_settings=ModelSettings(extra_headers=session_headers(asked)),
        )
        history: list[Any] = []
        texts = []
        for text in given["texts"]:
            said = [*history, {"role": "user", "content": text}]
            if given["stream"]:
                result: Any = Runner.run_streamed(agent, said)
                async for _ in result.stream_events():
                    pass
            else:
                result = await Runner.run(agent, said)
            history = result.to_input_list()
            texts += [
                ItemHelpers.text_message_output(item)
                for item in result.new_items
                if isinstance(item, MessageOutputItem)
            ]
    return texts


perform(talk)
