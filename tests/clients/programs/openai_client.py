"""Performs scenarios with the `openai` package, one for each line of standard input."""

import asyncio
import json
import sys
import traceback
from collections.abc import Callable
from typing import Any

import openai
from pydantic import BaseModel

MODEL = "any"
USAGE = {"include_usage": True}


class Weather(BaseModel):
    """Get the weather in a city."""

    city: str


TOOLS: Any = [openai.pydantic_function_tool(Weather, name="weather")]


def in_session(given: dict[str, Any]) -> dict[str, Any]:
    if "header" in given:
        return {"extra_headers": {"X-Session-ID": given["header"]}}
    return {"extra_body": {"session_id": given["body"]}} if "body" in given else {}


def plain(client: openai.OpenAI, given: dict[str, Any]) -> Any:
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=given["messages"], **in_session(given)
    )
    completion = raw.parse()
    return {
        "text": completion.choices[0].message.content,
        "finish_reason": completion.choices[0].finish_reason,
        "tokens": completion.usage.total_tokens,
        "session": raw.headers["x-session-id"],
        "session_in_body": completion.session_id,
    }


def streamed(client: openai.OpenAI, given: dict[str, Any]) -> Any:
    stream = client.chat.completions.create(
        model=MODEL,
        messages=given["messages"],
        stream=True,
        stream_options=USAGE,
        **in_session(given),
    )
    return read(list(stream), stream.response.headers["x-session-id"])


def read(chunks: list[Any], session: str) -> Any:
    choices = [choice for chunk in chunks for choice in chunk.choices]
    return {
        "texts": [choice.delta.content for choice in choices if choice.delta.content],
        "finish_reason": choices[-1].finish_reason,
        "tokens": chunks[-1].usage.total_tokens,
        "session": session,
    }


def streamed_async(client: openai.OpenAI, given: dict[str, Any]) -> Any:
    async def stream() -> Any:
        async with openai.AsyncOpenAI(base_url=client.base_url, api_key=client.api_key) as other:
            stream = await other.chat.completions.create(
                model=MODEL, messages=given["messages"], stream=True, stream_options=USAGE
            )
            chunks = [chunk async for chunk in stream]
            return read(chunks, stream.response.headers["x-session-id"])

    return asyncio.run(stream())


def helper(client: openai.OpenAI, given: dict[str, Any]) -> Any:
    """`.stream()`, which checks and collects the chunks by itself."""
    tools = TOOLS if given.get("tools") else openai.omit
    with client.chat.completions.stream(
        model=MODEL, messages=given["messages"], stream_options=USAGE, tools=tools
    ) as stream:
        events = [event.type for event in stream if getattr(event, "delta", True)]
        completion = stream.get_final_completion()
    message = completion.choices[0].message
    return {
        "events": [kind for kind in events if kind != "chunk"],
        "text": message.content,
        "finish_reason": completion.choices[0].finish_reason,
        "tokens": completion.usage.total_tokens,
        "calls": [
            [call.id, call.function.name, call.function.parsed_arguments.city]
            for call in message.tool_calls or ()
        ],
    }


def tools(client: openai.OpenAI, given: dict[str, Any]) -> Any:
    """Run the calls until there are none, as each tutorial does; `alone` sends results alone."""
    messages, calls, texts = list(given["messages"]), [], []
    while True:
        answer = complete(client, given, messages)
        texts.append(answer.content or "")
        if not answer.tool_calls:
            return {"calls": calls, "texts": texts}
        messages = [] if given.get("alone") else [*messages, answer]
        for call in answer.tool_calls:
            city = json.loads(call.function.arguments)["city"]
            calls.append([call.id, call.function.name, city])
            messages.append(
                {"role": "tool", "tool_call_id": call.id, "content": f"sunny in {city}"}
            )


def talk(client: openai.OpenAI, given: dict[str, Any]) -> Any:
    """Send one prompt after another, run the calls, and send the end of the history each time."""
    system = given.get("system")
    lead: list[Any] = [{"role": "system", "content": system}] if system else []
    messages: list[Any] = []
    texts = []
    for text in given["texts"]:
        messages.append({"role": "user", "content": text})
        while True:
            answer = complete(client, given, lead + messages[-given["last"] :])
            messages.append(answer)
            texts.append(answer.content or "")
            if not answer.tool_calls:
                break
            messages += [
                {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
                for call in answer.tool_calls
            ]
    return texts


def complete(client: openai.OpenAI, given: dict[str, Any], messages: list[Any]) -> Any:
    asked: Any = {"model": MODEL, "messages": messages, "tools": TOOLS, **in_session(given)}
    if not given.get("stream"):
        return client.chat.completions.create(**asked).choices[0].message
    with client.chat.completions.stream(**asked) as stream:
        return stream.get_final_completion().choices[0].message


def parsed(client: openai.OpenAI, given: dict[str, Any]) -> Any:
    completion = client.chat.completions.parse(
        model=MODEL, messages=given["messages"], response_format=Weather
    )
    return completion.choices[0].message.parsed.city


def refused(client: openai.OpenAI, given: dict[str, Any]) -> Any:
    """What a person reads of an error, and what a program can."""
    asked: Any = {"model": MODEL, "messages": given["messages"], **given.get("fields", {})}
    try:
        answer = client.with_options(max_retries=given.get("retries", 0)).chat.completions.create(
            **asked
        )
        for _ in answer if asked.get("stream") else ():
            pass
    except openai.APIError as error:
        return {
            "class": type(error).__name__,
            "status": getattr(error, "status_code", None),
            "text": str(error),
            "message": error.body["message"],
            "details": error.body["details"],
            "type": error.type,
        }
    return None


SCENARIOS: dict[str, Callable[[openai.OpenAI, dict[str, Any]], Any]] = {
    each.__name__: each
    for each in (plain, streamed, streamed_async, helper, tools, talk, parsed, refused)
}


def main() -> None:
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            with openai.OpenAI(base_url=asked["base_url"], api_key=asked["key"]) as client:
                answer = {"seen": SCENARIOS[asked["scenario"]](client, asked["given"])}
        except Exception:  # noqa: BLE001  (told to the test)
            answer = {"failed": traceback.format_exc()}
        print(json.dumps(answer), flush=True)


main()
