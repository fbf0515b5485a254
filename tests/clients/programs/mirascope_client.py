"""Performs scenarios with the `mirascope` package, one for each line of standard input."""

from typing import Any

from lines import perform, session_headers
from mirascope import llm


@llm.tool
def weather(city: str) -> str:
    """Get the weather in a city."""
    return "sunny"


def talk(asked: dict[str, Any]) -> Any:
    given = asked["given"]
    provider: Any = llm.register_provider(
        "openai:completions", "served/", api_key=asked["key"], base_url=asked["base_url"]
    )
    # It has no setting for headers; its client of OpenAI has.
    provider.client = provider.client.with_options(default_headers=session_headers(asked))
    model = llm.Model("served/any")
    ask = model.stream if given["stream"] else model.call
    system = given.get("system")
    messages: list[Any] = [llm.messages.system(system)] if system else []
    texts = []
    for text in given["texts"]:
        answer: Any = ask([*messages, llm.messages.user(text)], tools=[weather])
        while True:
            if given["stream"]:
                answer.finish()
            texts.append(answer.text())
            if not answer.tool_calls:
                break
            answer = answer.resume(answer.execute_tools())
        messages = answer.messages
    return texts


perform(talk)
