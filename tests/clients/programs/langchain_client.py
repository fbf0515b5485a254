"""Performs scenarios with the `langchain-openai` package, one for each line of standard input."""

from typing import Any

import openai
from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from lines import perform
from pydantic import BaseModel


class Weather(BaseModel):
    """The weather in a city."""

    city: str


@tool
def weather(city: str) -> str:
    """Get the weather in a city."""
    return f"sunny in {city}"


def model(asked: dict[str, Any], **settings: Any) -> ChatOpenAI:
    given = asked["given"]
    if "header" in given:
        settings["default_headers"] = {"X-Session-ID": given["header"]}
    if "body" in given:
        settings["extra_body"] = {"session_id": given["body"]}
    return ChatOpenAI(
        model="any",
        base_url=asked["base_url"],
        api_key=asked["key"],
        stream_usage=True,
        include_response_headers=True,
        **settings,
    )


def plain(asked: dict[str, Any]) -> Any:
    answer = model(asked).invoke(asked["given"]["messages"])
    session = answer.response_metadata["headers"]["x-session-id"]
    return {
        "text": answer.content,
        "finish_reason": answer.response_metadata["finish_reason"],
        "tokens": answer.usage_metadata["total_tokens"],
        "session": session,
        "session_in_body": session,  # it shows no other field of the body
    }


def streamed(asked: dict[str, Any]) -> Any:
    chunks = list(model(asked).stream(asked["given"]["messages"]))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    return {
        "texts": [chunk.content for chunk in chunks if chunk.content],
        "finish_reason": whole.response_metadata["finish_reason"],
        "tokens": whole.usage_metadata["total_tokens"],
        "session": whole.response_metadata["headers"]["x-session-id"],
    }


def tools(asked: dict[str, Any]) -> Any:
    given = asked["given"]
    bound = model(asked, streaming=bool(given.get("stream"))).bind_tools([weather])
    messages, calls, texts = list(given["messages"]), [], []
    while True:
        answer = bound.invoke(messages)
        texts.append(answer.content)
        if not answer.tool_calls:
            return {"calls": calls, "texts": texts}
        messages = [] if given.get("alone") else [*messages, answer]
        for call in answer.tool_calls:
            calls.append([call["id"], call["name"], call["args"]["city"]])
            content = weather.invoke(call["args"])
            messages.append(ToolMessage(content, tool_call_id=call["id"]))


def talk(asked: dict[str, Any]) -> Any:
    given = asked["given"]
    bound = model(asked, streaming=bool(given.get("stream"))).bind_tools([weather])
    lead = [SystemMessage(given["system"])] if "system" in given else []
    messages, texts = [], []
    for text in given["texts"]:
        messages.append(HumanMessage(text))
        while True:
            answer = bound.invoke(lead + messages[-given["last"] :])
            messages.append(answer)
            texts.append(answer.content)
            if not answer.tool_calls:
                break
            messages += [ToolMessage("sunny", tool_call_id=c["id"]) for c in answer.tool_calls]
    return texts


def parsed(asked: dict[str, Any]) -> Any:
    structured = model(asked).with_structured_output(Weather, method="json_schema")
    return structured.invoke(asked["given"]["messages"]).city


def refused(asked: dict[str, Any]) -> Any:
    given = asked["given"]
    fields = dict(given.get("fields", {}))
    is_stream = fields.pop("stream", False)
    asking = model(asked, max_retries=given.get("retries", 0))
    try:
        answer = (asking.stream if is_stream else asking.invoke)(given["messages"], **fields)
        list(answer)
    except openai.APIError as error:
        own = type(error) if type(error).__module__.startswith("openai") else type(error).__mro__[1]
        return {
            "class": own.__name__,
            "status": getattr(error, "status_code", None),
            "text": str(error),
            "message": error.body["message"],
            "details": error.body["details"],
            "type": error.type,
        }
    return None


perform(plain, streamed, tools, talk, parsed, refused)
