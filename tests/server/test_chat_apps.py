"""Requests in the shapes that well-known chat programs and coding assistants send."""

import json
from typing import Any

import pytest

from live_server import Live, events, joined, live
from pathors_agent import Usage
from pathors_agent.server import Project, ServerSettings
from pathors_agent.testing import AsyncScriptedTransport, answer

LISTED = "pathway-default"
SYSTEM = {"role": "system", "content": "Be brief."}
HI = {"role": "user", "content": "Hi"}
PARTS = {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": "!"}]}
CACHED = {
    "role": "user",
    "content": [{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}],
}
IMAGE_URL = "data:image/png;base64,AAAA"
IMAGE = {"type": "image_url", "image_url": {"url": IMAGE_URL, "detail": "auto"}}
SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
READ = {"name": "read_file", "description": "Read a file.", "parameters": SCHEMA}
TOOLS = [{"type": "function", "function": READ}]
USAGE = {"include_usage": True}
STAINLESS = {
    "X-Stainless-Lang": "js",
    "X-Stainless-Package-Version": "4.104.0",
    "X-Stainless-Retry-Count": "0",
    "User-Agent": "OpenAI/JS 4.104.0",
}

Shape = tuple[dict[str, Any], dict[str, str]]

# The body and the headers of a first request.
SHAPES: dict[str, Shape] = {
    "Open WebUI": (
        {
            "stream": True,
            "model": LISTED,
            "messages": [SYSTEM, CACHED],
            "stream_options": USAGE,
            "reasoning": {"effort": "low"},
        },
        {"X-OpenWebUI-User-Name": "Ann", "X-OpenWebUI-Chat-Id": "c1"},
    ),
    "Open WebUI, image": (
        {
            "stream": True,
            "model": LISTED,
            "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}, IMAGE]}],
        },
        {},
    ),
    "Open WebUI, title": (
        {"model": LISTED, "messages": [HI], "stream": False, "max_completion_tokens": 1000},
        {},
    ),
    "LibreChat": (
        {
            "model": LISTED,
            "messages": [SYSTEM, HI],
            "stream": True,
            "stream_options": USAGE,
            "user": "65f0c0ffee",
            "temperature": 1,
            "top_p": 1,
            "presence_penalty": 0,
            "frequency_penalty": 0,
            "reasoning": {"effort": "low"},
            "include_reasoning": True,
            "tools": TOOLS,
        },
        STAINLESS,
    ),
    "Continue": (
        {
            "messages": [SYSTEM, HI],
            "model": LISTED,
            "max_tokens": 4096,
            "stream": True,
            "stream_options": USAGE,
            "tools": TOOLS,
        },
        {"api-key": "sk_other", "x-api-key": "sk_other"},
    ),
    "Continue, image": (
        {
            "messages": [
                SYSTEM,
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "Hi"},
                        {**IMAGE, "image_url": {"url": IMAGE_URL, "detail": "low"}},
                    ],
                },
                {"role": "assistant", "content": " "},
                HI,
            ],
            "model": LISTED,
            "max_tokens": 4096,
            "stream": True,
        },
        {"api-key": "sk_other"},
    ),
    "Cline": (
        {
            "model": LISTED,
            "messages": [SYSTEM, PARTS],
            "temperature": 0,
            "stream": True,
            "stream_options": USAGE,
            "tools": TOOLS,
        },
        {**STAINLESS, "HTTP-Referer": "https://cline.bot", "X-Title": "Cline"},
    ),
    "Cline, reasoning model": (
        {
            "model": LISTED,
            "messages": [{"role": "developer", "content": "Be brief."}, PARTS],
            "reasoning_effort": "medium",
            "max_tokens": 8192,
            "stream": True,
            "stream_options": USAGE,
        },
        STAINLESS,
    ),
    "Aider": (
        {
            "model": LISTED,
            "messages": [
                SYSTEM,
                HI,
                {"role": "assistant", "content": "Ok."},
                {"role": "user", "content": "Go on"},
            ],
            "temperature": 0,
            "stream": True,
        },
        {"X-Stainless-Lang": "python"},
    ),
    "Home Assistant": (
        {
            "model": LISTED,
            "messages": [SYSTEM, HI],
            "stream": True,
            "stream_options": USAGE,
            "max_tokens": 150,
            "top_p": 1,
            "temperature": 0.5,
            "tools": TOOLS,
            "tool_choice": "auto",
        },
        {"X-Stainless-Lang": "async:asyncio"},
    ),
    "Home Assistant, older": (
        {
            "model": LISTED,
            "messages": [SYSTEM, {**HI, "name": "Ann"}],
            "max_tokens": 150,
            "top_p": 1,
            "temperature": 0.5,
            "user": "01J0CONVERSATION",
            "functions": [READ],
            "function_call": "auto",
        },
        {"X-Stainless-Lang": "python"},
    ),
    "n8n": (
        {
            "model": LISTED,
            "messages": [SYSTEM, HI],
            "temperature": 0.7,
            "top_p": 1,
            "frequency_penalty": 0,
            "presence_penalty": 0,
            "max_tokens": 1000,
            "response_format": {"type": "text"},
            "stream": True,
            "stream_options": USAGE,
            "tools": TOOLS,
            "tool_choice": "auto",
        },
        STAINLESS,
    ),
    "n8n, whole answer": (
        {"model": LISTED, "messages": [HI], "stream": False, "tools": TOOLS},
        STAINLESS,
    ),
    "Dify": (
        {
            "model": LISTED,
            "stream": True,
            "temperature": 0.7,
            "max_tokens": 512,
            "messages": [SYSTEM, HI],
            "tools": TOOLS,
            "tool_choice": "auto",
            "stop": ["Observation"],
            "user": "6f1e",
        },
        {"Accept-Charset": "utf-8"},
    ),
    "Dify, functions": (
        {
            "model": LISTED,
            "stream": False,
            "temperature": 0.7,
            "messages": [SYSTEM, HI],
            "functions": [READ],
        },
        {"Accept-Charset": "utf-8"},
    ),
    "Dify, check": (
        {"model": LISTED, "max_tokens": 5, "messages": [{"role": "user", "content": "ping"}]},
        {},
    ),
    "Zed": (
        {
            "model": LISTED,
            "messages": [SYSTEM, PARTS],
            "stream": True,
            "stream_options": USAGE,
            "max_completion_tokens": 8192,
            "temperature": 1.0,
            "tool_choice": "auto",
            "parallel_tool_calls": False,
            "tools": TOOLS,
            "prompt_cache_key": "thread-1",
        },
        {},
    ),
}


def ask(server: Live, body: dict[str, Any], headers: dict[str, str]) -> Any:
    """Send a request as the program does, and return its message."""
    answered = server.client.post("/chat/completions", json=body, headers=headers)
    assert answered.status_code == 200, answered.text
    if not body.get("stream"):
        return answered.json()["choices"][0]["message"]
    told = events(answered.text)
    assert told[-1] == "[DONE]"
    choices = [c for chunk in told[:-1] for c in chunk["choices"]]
    called = [call for c in choices for call in c["delta"].get("tool_calls", ())]
    counts = [chunk["usage"] for chunk in told[:-1] if chunk.get("usage")]
    assert len(counts) == ("stream_options" in body)
    # Zed reads counts as unsigned numbers.
    assert all(value >= 0 for usage in counts for value in usage.values() if type(value) is int)
    return {"content": joined(told), "tool_calls": called}


@pytest.mark.parametrize("app", SHAPES)
def test_first_request_of_a_program_is_answered(app: str) -> None:
    body, headers = SHAPES[app]
    usage = Usage(prompt_tokens=9, completion_tokens=1, total_tokens=10)
    model = AsyncScriptedTransport(answer("Hello!", usage=usage))
    with live(Project(id="demo", transport=model)) as server:
        assert server.client.get("/models").json()["data"][0]["id"] == LISTED
        assert ask(server, body, headers)["content"] == "Hello!"

    (sent,) = model.requests
    assert "model" not in sent
    roles = [m["role"].replace("developer", "system") for m in body["messages"]]
    assert [m["role"] for m in sent["messages"]] == roles


WITH_TOOLS = [app for app, (body, _) in SHAPES.items() if body.keys() & {"tools", "functions"}]


@pytest.mark.parametrize("app", WITH_TOOLS)
def test_tool_round_trip_of_a_program_with_its_whole_history(app: str) -> None:
    body, headers = SHAPES[app]
    counted = Usage(prompt_tokens=9, completion_tokens=1, total_tokens=10)
    asked = answer(calls=[("read_file", {"path": "a.txt"})], usage=counted)
    model = AsyncScriptedTransport(asked, answer("It is empty.", usage=counted))
    with live(Project(id="demo", transport=model)) as server:
        message = ask(server, body, headers)
        (call,) = message["tool_calls"]
        call.pop("index", None)
        history = [*body["messages"], *told_back(app, call)]
        last = ask(server, {**body, "messages": history}, headers)

    assert last["content"] == "It is empty."
    user, assistant, result = model.requests[-1]["messages"][-3:]
    assert user["role"] == "user"
    assert assistant["tool_calls"][0]["id"] == result["tool_call_id"]
    assert json.loads(assistant["tool_calls"][0]["function"]["arguments"]) == {"path": "a.txt"}


def told_back(app: str, call: dict[str, Any]) -> list[dict[str, Any]]:
    """Write the call and its result as the program does."""
    if "functions" in SHAPES[app][0]:
        called = {"role": "assistant", "content": None, "function_call": call["function"]}
        return [called, {"role": "function", "name": "read_file", "content": "empty"}]
    if app == "Home Assistant":  # it leaves out an empty content, and writes results as JSON
        result = {"role": "tool", "tool_call_id": call["id"], "content": '"empty"'}
        return [{"role": "assistant", "tool_calls": [call]}, result]
    result = {"role": "tool", "name": "read_file", "tool_call_id": call["id"], "content": "empty"}
    return [{"role": "assistant", "content": "", "tool_calls": [call]}, result]


def test_stream_without_ids_is_nothing_but_lines_of_data() -> None:
    body, headers = SHAPES["Dify"]
    settings = ServerSettings(event_ids=False)
    with live(
        Project(id="demo", transport=AsyncScriptedTransport("Hello!")), settings=settings
    ) as server:
        told = server.client.post("/chat/completions", json=body, headers=headers).text

    # Dify cuts the stream at empty lines, and reads each piece behind its first word as JSON.
    pieces = [piece for piece in told.split("\n\n") if piece]
    assert pieces[-1] == "data: [DONE]"
    chunks = [json.loads(piece.removeprefix("data: ")) for piece in pieces[:-1]]
    assert "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks) == "Hello!"
