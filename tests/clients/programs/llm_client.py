"""Performs scenarios with the `llm` package, one for each line of standard input."""

from typing import Any

from lines import perform, session_headers
from llm.default_plugins.openai_models import Chat


def weather(city: str) -> str:
    """Get the weather in a city."""
    return "sunny"


def talk(asked: dict[str, Any]) -> Any:
    given = asked["given"]
    model = Chat(
        "served",
        key=asked["key"],
        model_name="any",
        api_base=asked["base_url"],
        headers=session_headers(asked),
        supports_tools=True,
    )
    conversation = model.conversation(tools=[weather])
    texts = []
    for text in given["texts"]:
        chain = conversation.chain(text, system=given.get("system"), stream=given["stream"])
        texts += [response.text() for response in chain.responses()]
    return texts


perform(talk)
