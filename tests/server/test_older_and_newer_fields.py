"""What answers hold for clients that ask for it: reasoning, older function calls, kinds of tokens."""

import json
from typing import Any

import pytest

from live_server import Live, events, live
from pathors_agent import Usage, tool
from pathors_agent.server import Project
from pathors_agent.testing import AsyncScriptedTransport, answer, calls

THOUGHT = "Let me think."


def choice(answered: Any) -> Any:
    assert answered.status_code == 200, answered.text
    return answered.json()["choices"][0]


def deltas(text: str, field: str) -> str:
    chunks = [each for each in events(text) if each != "[DONE]"]
    return "".join(c["choices"][0]["delta"].get(field) or "" for c in chunks if c["choices"])


# - reasoning -


@pytest.mark.parametrize(
    ("setting", "asked", "is_shown"),
    [
        ("asked", {}, False),
        ("asked", {"include_reasoning": False}, False),
        ("asked", {"include_reasoning": True}, True),
        ("asked", {"stream_options": {"include_reasoning": True}}, True),
        ("always", {}, True),
        ("never", {"include_reasoning": True}, False),
    ],
)
def test_reasoning_is_shown_if_the_project_and_the_request_want_it(
    setting: Any, asked: dict[str, Any], *, is_shown: bool
) -> None:
    script = [answer("42", reasoning=THOUGHT, chunk_size=4)] * 2
    project = Project(id="demo", transport=AsyncScriptedTransport(*script), reasoning=setting)
    with live(project) as server:
        plain = choice(server.complete("Hi", **asked))["message"]
        streamed = server.complete("Hi", stream=True, **asked).text

    assert plain.get("reasoning_content") == (THOUGHT if is_shown else None)
    assert plain["content"] == deltas(streamed, "content") == "42"
    assert deltas(streamed, "reasoning_content") == (THOUGHT if is_shown else "")


@pytest.mark.parametrize("stream", [False, True])
def test_reasoning_of_several_model_calls_is_joined_and_stored(*, stream: bool) -> None:
    @tool
    def add(a: int, b: int) -> int:
        return a + b

    script = (
        answer("Wait.", calls=[("add", {"a": 1, "b": 2})], reasoning="One."),
        answer("3", reasoning="Two."),
    )
    project = Project(
        id="demo", transport=AsyncScriptedTransport(*script), tools=[add], reasoning="always"
    )
    with live(project) as server:
        repeat = {"Idempotency-Key": "once"}
        first, again = (server.complete("Hi", stream=stream, headers=repeat) for _ in range(2))

    for answered in (first, again):
        if stream:
            assert deltas(answered.text, "reasoning_content") == "One.\n\nTwo."
            assert deltas(answered.text, "content") == "Wait.\n\n3"
        else:
            assert choice(answered)["message"]["reasoning_content"] == "One.\n\nTwo."


def test_unknown_setting_of_reasoning_is_refused() -> None:
    with pytest.raises(ValueError, match="reasoning must be"):
        Project(id="demo", transport=AsyncScriptedTransport(), reasoning="maybe")  # type: ignore[arg-type]  # the mistake


# - functions -

WEATHER = {
    "name": "weather",
    "description": "The weather in a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
PARIS = {"name": "weather", "arguments": '{"city": "Paris"}'}


def said(name: str, content: str) -> dict[str, str]:
    return {"role": "function", "name": name, "content": content}


def scripted(*script: Any) -> tuple[Project, AsyncScriptedTransport]:
    model = AsyncScriptedTransport(*script)
    return Project(id="demo", transport=model), model


@pytest.mark.parametrize(
    ("function_call", "tool_choice"),
    [
        (None, None),
        ("auto", "auto"),
        ("none", "none"),
        ({"name": "weather"}, {"type": "function", "function": {"name": "weather"}}),
    ],
)
def test_functions_reach_the_model_as_tools(function_call: Any, tool_choice: Any) -> None:
    project, model = scripted("ok")
    with live(project) as server:
        assert server.complete("Hi", functions=[WEATHER], function_call=function_call).is_success

    (sent,) = model.requests
    assert [t["function"]["name"] for t in sent["tools"]] == ["weather"]
    assert sent.get("tool_choice") == tool_choice
    assert sent["parallel_tool_calls"] is False
    assert "functions" not in sent


@pytest.mark.parametrize("stream", [False, True])
def test_call_of_a_function_is_sent_in_both_forms(*, stream: bool) -> None:
    project, _ = scripted(calls(("weather", {"city": "Paris"})))
    with live(project) as server:
        answered = server.complete("Weather?", functions=[WEATHER], stream=stream)

    if stream:
        chunks = [each["choices"][0] for each in events(answered.text)[:-1]]
        assert chunks[-1]["finish_reason"] == "function_call"
        (told,) = [c["delta"]["function_call"] for c in chunks if "function_call" in c["delta"]]
    else:
        found = choice(answered)
        assert found["finish_reason"] == "function_call"
        told = found["message"]["function_call"]
        assert [c["function"] for c in found["message"]["tool_calls"]] == [told]
    assert (told["name"], json.loads(told["arguments"])) == ("weather", {"city": "Paris"})


def ask_twice(server: Live, session: str | None, *, whole: bool) -> Any:
    """Have a call, and send its result: with the whole history, or alone."""
    first = choice(server.complete("Weather?", session=session, functions=[WEATHER]))["message"]
    # Clients of that form keep what they know.
    kept = {k: first[k] for k in ("role", "content", "function_call")}
    history = ["Weather?", kept] if whole else []
    return server.complete(*history, said("weather", "sunny"), session=session, functions=[WEATHER])


@pytest.mark.parametrize(("session", "whole"), [(None, True), ("s1", True), ("s1", False)], ids=str)
def test_result_of_a_function_finds_its_call(session: str | None, *, whole: bool) -> None:
    project, model = scripted(calls(("weather", {"city": "Paris"})), "Sunny.")
    with live(project) as server:
        assert choice(ask_twice(server, session, whole=whole))["message"]["content"] == "Sunny."
        if session:
            roles = [message["role"] for message in server.stored(session)]
            assert roles == ["user", "assistant", "tool", "assistant"]

    user, asked, result = model.requests[-1]["messages"]
    assert user["content"] == "Weather?"
    assert result["role"] == "tool"
    assert result["tool_call_id"] == asked["tool_calls"][0]["id"]


def test_whole_histories_with_many_calls_of_a_function_stay_one_session() -> None:
    project, model = scripted(
        calls(("weather", {"city": "Paris"})),
        calls(("weather", {"city": "Rome"})),
        "Both sunny.",
        calls(("weather", {"city": "Paris"})),
        "Still sunny.",
    )
    history: list[Any] = []
    with live(project) as server:
        for prompt in ("Weather?", None, None, "And now?", None):
            if prompt:
                history.append({"role": "user", "content": prompt})
            told = choice(server.complete(*history, session="s1", functions=[WEATHER]))["message"]
            history.append({k: v for k, v in told.items() if k != "tool_calls"})
            if "function_call" in told:
                history.append(said("weather", "sunny"))
        stored = server.stored("s1")

    assert len(stored) == len(history) == 10
    ids = [message["tool_calls"][0]["id"] for message in stored if message.get("tool_calls")]
    assert [m["tool_call_id"] for m in stored if m["role"] == "tool"] == ids
    assert len(model.requests) == 5


def test_functions_and_tools_may_be_sent_together() -> None:
    project, model = scripted("ok")
    other = {"type": "function", "function": {**WEATHER, "name": "other"}}
    with live(project) as server:
        assert server.complete("Hi", functions=[WEATHER], tools=[other]).is_success

    assert [t["function"]["name"] for t in model.requests[0]["tools"]] == ["other", "weather"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"functions": "weather"}, "functions"),
        ({"functions": ["weather"]}, "functions[0]"),
        ({"functions": [{"description": "x"}]}, "functions[0].name"),
        ({"functions": [{"name": "a b"}]}, "functions[0].name"),
        ({"functions": [WEATHER, WEATHER]}, "functions[1].name"),
        ({"functions": [{"name": "x", "parameters": []}]}, "functions[0].parameters"),
        ({"functions": [WEATHER] * 129}, "functions"),
        ({"functions": [WEATHER], "function_call": 5}, "function_call"),
        ({"functions": [WEATHER], "function_call": "maybe"}, "function_call"),
        ({"include_reasoning": "yes"}, "include_reasoning"),
        ({"stream_options": {"include_reasoning": 1}}, "stream_options.include_reasoning"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_wrong_field_is_named(fields: dict[str, Any], param: str) -> None:
    project, _ = scripted()
    with live(project) as server:
        refused = server.complete("Hi", **fields)

    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == param


# - usage -


@pytest.mark.parametrize("stream", [False, True])
def test_cached_and_reasoning_tokens_are_reported(*, stream: bool) -> None:
    usage = Usage(
        prompt_tokens=10, completion_tokens=5, total_tokens=15, cached_tokens=8, reasoning_tokens=3
    )
    project, _ = scripted(answer("x", usage=usage))
    with live(project) as server:
        answered = server.complete("Hi", stream=stream, stream_options={"include_usage": True})
    told = events(answered.text)[-2]["usage"] if stream else answered.json()["usage"]

    assert told["prompt_tokens_details"] == {"cached_tokens": 8}
    assert told["completion_tokens_details"] == {"reasoning_tokens": 3}
