"""Performs scenarios with the `litellm` package, one for each line of standard input."""

import os
from typing import Any

# Without this, it asks the network for the prices of models when it is imported.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm
from lines import perform, session_headers

WEATHER = {
    "name": "weather",
    "description": "Get the weather in a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}


def talk(asked: dict[str, Any]) -> Any:
    given = asked["given"]
    system = given.get("system")
    lead: list[Any] = [{"role": "system", "content": system}] if system else []
    messages: list[Any] = []
    texts = []
    for text in given["texts"]:
        messages.append({"role": "user", "content": text})
        while True:
            answer = complete(asked, lead + messages[-given["last"] :])
            messages.append(answer)
            texts.append(answer.content or "")
            if not answer.tool_calls:
                break
            messages += [
                {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
                for call in answer.tool_calls
            ]
    return texts


def complete(asked: dict[str, Any], messages: list[Any]) -> Any:
    stream = asked["given"]["stream"]
    answer: Any = litellm.completion(
        model="openai/any",
        api_base=asked["base_url"],
        api_key=asked["key"],
        messages=messages,
        tools=[{"type": "function", "function": WEATHER}],
        extra_headers=session_headers(asked),
        stream=stream,
    )
    if stream:
        answer = litellm.stream_chunk_builder(list(answer), messages=messages)
    return answer.choices[0].message


perform(talk)
