"""The chat completion endpoint, over HTTP, on the contract's rules."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import anyio
import pytest

from live_server import Live, events, external, joined, live, result
from pathors_agent import (
    AssistantMessage,
    AsyncHTTPTransport,
    ContentPart,
    Limits,
    ModelContext,
    ModelOptions,
    ModelRequest,
    ToolContext,
    Usage,
    tool,
)
from pathors_agent.server import Project, ServerSettings
from pathors_agent.stores import MemoryStore
from pathors_agent.testing import AsyncScriptedTransport, answer, calls, http_error
from servers import STALL, Drip, ScriptedServer, chunk, head


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool(approve=True)
def pay(amount: int) -> str:
    """Pay an amount."""
    return f"paid {amount}"


def project(*script: Any, **settings: Any) -> Project:
    return Project(id="demo", transport=AsyncScriptedTransport(*script), **settings)


def sent(running: Live) -> list[dict[str, Any]]:
    """Give the requests that reached the model."""
    transport: Any = running.app.state.runtime.projects["demo"].transport
    requests: list[dict[str, Any]] = transport.requests
    return requests


# - plain and streamed -


def test_plain_completion_has_every_field() -> None:
    usage = Usage(prompt_tokens=3, completion_tokens=2, total_tokens=5)
    with live(project(answer("Hello!", usage=usage))) as server:
        answered = server.complete("Hi")

        body = answered.json()
        assert answered.status_code == 200
        assert answered.headers["x-session-id"] == body["session_id"]
        assert body["session_id"].startswith("session-")
        assert body["id"].startswith("chatcmpl-")
        assert isinstance(body["created"], int)
        assert body["object"] == "chat.completion"
        assert body["model"] == "pathway-default"
        assert body["choices"] == [
            {
                "index": 0,
                "finish_reason": "stop",
                "logprobs": None,
                "message": {"role": "assistant", "content": "Hello!", "refusal": None},
            }
        ]
        assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def test_unknown_usage_is_minus_one() -> None:
    with live(project("Hello!")) as server:
        assert server.complete("Hi").json()["usage"] == {
            "prompt_tokens": -1,
            "completion_tokens": -1,
            "total_tokens": -1,
        }


def test_usage_has_the_details_that_the_provider_reported() -> None:
    usage = Usage(
        prompt_tokens=9, completion_tokens=7, total_tokens=16, cached_tokens=8, reasoning_tokens=3
    )
    wanted = {
        "prompt_tokens": 9,
        "completion_tokens": 7,
        "total_tokens": 16,
        "prompt_tokens_details": {"cached_tokens": 8},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    with live(project(answer("Hi", usage=usage), answer("Hi", usage=usage))) as server:
        whole = server.complete("Hi").json()
        streamed = server.complete("Hi", stream=True, stream_options={"include_usage": True})

        assert whole["usage"] == wanted
        assert events(streamed.text)[-2]["usage"] == wanted


def test_stream_opens_with_the_role_and_ends_with_done() -> None:
    with live(project(answer("Hello, you", chunk_size=5))) as server:
        answered = server.complete("Hi", stream=True)

        chunks = events(answered.text)
        assert answered.headers["content-type"].startswith("text/event-stream")
        assert answered.headers["x-accel-buffering"] == "no"
        assert "no-transform" in answered.headers["cache-control"]
        assert chunks[0]["choices"][0]["delta"] == {
            "role": "assistant",
            "content": "",
            "refusal": None,
        }
        assert [c["choices"][0]["delta"] for c in chunks[1:3]] == [
            {"content": "Hello"},
            {"content": ", you"},
        ]
        assert [c["choices"][0]["finish_reason"] for c in chunks[:-1]] == [None, None, None, "stop"]
        assert chunks[-1] == "[DONE]"
        assert {c["session_id"] for c in chunks[:-1]} == {answered.headers["x-session-id"]}
        assert {c["object"] for c in chunks[:-1]} == {"chat.completion.chunk"}
        assert all("usage" not in c for c in chunks[:-1])


def test_usage_chunk_comes_when_asked_for() -> None:
    usage = Usage(prompt_tokens=3, completion_tokens=2, total_tokens=5)
    with live(project(answer("Hello!", usage=usage))) as server:
        answered = server.complete("Hi", stream=True, stream_options={"include_usage": True})

        chunks = events(answered.text)
        assert chunks[-2]["choices"] == []
        assert chunks[-2]["usage"] == {
            "prompt_tokens": 3,
            "completion_tokens": 2,
            "total_tokens": 5,
        }
        assert all(c["usage"] is None for c in chunks[:-2])


def test_stream_is_ascii_and_says_the_same() -> None:
    text = "Grüße, 世界 \U0001f600 \u2028 \x7f end"
    with live(project(answer(text, chunk_size=3))) as server:
        answered = server.complete("Hi", stream=True)

        assert answered.content.isascii()
        assert b"\r" not in answered.content
        assert joined(events(answered.text)) == text


def test_texts_around_the_projects_own_tools_are_one_answer() -> None:
    script = (answer("Let me see.", calls=[("add", {"a": 1, "b": 2})]), "It is 3.")
    with live(project(*script, tools=[add])) as server:
        plain = server.complete("1+2?").json()["choices"][0]

    with live(project(*script, tools=[add])) as server:
        streamed = events(server.complete("1+2?", stream=True).text)

    assert plain["message"]["content"] == "Let me see.\n\nIt is 3."
    assert plain["finish_reason"] == "stop"
    assert joined(streamed) == "Let me see.\n\nIt is 3."
    assert not any("tool_calls" in c["choices"][0]["delta"] for c in streamed[:-1])


def test_own_tools_are_told_of_when_asked_for() -> None:
    script = (calls(("add", {"a": 1, "b": 2})), "It is 3.")
    with live(project(*script, tools=[add])) as server:
        asked = {"include_tool_activity": True}
        chunks = events(server.complete("1+2?", stream=True, stream_options=asked).text)

        told = [c["tool_activity"] for c in chunks[:-1] if "tool_activity" in c]
        assert [list(t) for t in told] == [["call"], ["result"]]
        assert told[0]["call"]["function"] == {"name": "add", "arguments": '{"a": 1, "b": 2}'}
        assert told[1]["result"] == {
            "tool_call_id": "call_1",
            "outcome": "value",
            "content": "3",
        }


def test_images_of_a_result_are_told_of_beside_its_text() -> None:
    @tool
    def draw() -> list[ContentPart]:
        """Draw."""
        return [
            ContentPart(type="text", text="Here."),
            ContentPart.image("https://a.example/b.png"),
        ]

    with live(project(calls(("draw", {})), "Done.", tools=[draw])) as server:
        asked = {"include_tool_activity": True}
        chunks = events(server.complete("Draw", stream=True, stream_options=asked).text)

        results = [c["tool_activity"].get("result") for c in chunks[:-1] if "tool_activity" in c]
        assert results[-1]["content"] == "Here."
        assert results[-1]["parts"] == [
            {"type": "text", "text": "Here."},
            {"type": "image_url", "image_url": {"url": "https://a.example/b.png"}},
        ]


def test_options_of_the_request_go_to_the_model_over_the_projects() -> None:
    options = ModelOptions(temperature=0.1, seed=7)
    with live(project("ok", options=options)) as server:
        server.complete(
            "Hi", temperature=0.9, max_completion_tokens=9, user="u1", surprise=1, model="m9"
        )

        request = sent(server)[0]
        assert (request["temperature"], request["seed"], request["max_tokens"]) == (0.9, 7, 9)
        assert request["user"] == "u1"
        assert request["model"] == "m9"
        assert "surprise" not in request


def test_whole_number_may_be_written_with_a_point() -> None:
    with live(project("ok")) as server:
        server.complete("Hi", max_tokens=9.0)
        found = server.client.post("/sessions/search", json={"search_string": "Hi", "limit": 1.0})

        assert repr(sent(server)[0]["max_tokens"]) == "9"
        assert found.json()["pagination"] == {"limit": 1, "offset": 0, "count": 1, "total": 1}


def test_model_of_the_project_wins() -> None:
    with live(project("ok", model="own")) as server:
        assert server.complete("Hi", model="other").json()["model"] == "own"
        assert sent(server)[0]["model"] == "own"


def test_developer_is_read_as_system_and_null_content_as_empty() -> None:
    with live(project("ok")) as server:
        developer = {"role": "developer", "content": "Be kind."}
        server.complete(developer, {"role": "user", "content": None})

        assert sent(server)[0]["messages"] == [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": ""},
        ]


# - sessions -


def test_session_is_continued_by_header() -> None:
    with live(project("one", "two")) as server:
        server.complete("first", session="s1")
        answered = server.complete("second", session="s1")

        assert answered.json()["session_id"] == "s1"
        assert [m["content"] for m in sent(server)[1]["messages"]] == ["first", "one", "second"]
        assert [m["content"] for m in server.stored("s1")] == ["first", "one", "second", "two"]


def test_session_is_continued_by_the_bodys_field_and_the_header_wins() -> None:
    with live(project("one", "two")) as server:
        server.complete("first", session_id="s1")
        answered = server.complete("second", session_id="other", session="s1")

        assert answered.json()["session_id"] == "s1"
        assert len(server.stored("s1")) == 4


def test_whole_history_adds_only_what_is_new() -> None:
    with live(project("one", "two")) as server:
        system = {"role": "system", "content": "Be kind."}
        said = {"role": "assistant", "content": "one"}
        server.complete(system, "first", session="s1")
        server.complete(system, "first", said, "second", session="s1")

        assert [m["content"] for m in server.stored("s1")] == [
            "Be kind.",
            "first",
            "one",
            "second",
            "two",
        ]


def test_whole_history_is_known_though_own_tools_ran_between() -> None:
    script = (answer("Let me see.", calls=[("add", {"a": 1, "b": 2})]), "It is 3.", "Bye.")
    with live(project(*script, tools=[add])) as server:
        server.complete("1+2?", session="s1")
        seen = {"role": "assistant", "content": "Let me see.\n\nIt is 3."}
        server.complete("1+2?", seen, "Thanks", session="s1")

        roles = [m["role"] for m in server.stored("s1")]
        assert roles == ["user", "assistant", "tool", "assistant", "user", "assistant"]


def test_failed_turn_leaves_the_session_as_it_was() -> None:
    script = ("one", http_error(500, "broken"), "two")
    with live(project(*script)) as server:
        server.complete("first", session="s1")
        failed = server.complete("second", session="s1")
        server.complete("second", session="s1")

        assert failed.status_code == 502
        assert [m["content"] for m in server.stored("s1")] == ["first", "one", "second", "two"]


def test_variables_are_put_into_the_instructions_as_plain_text() -> None:
    instructions = "You serve {{ name }}, {{age}} years; {{missing}}; {{name}}"
    with live(project("ok", instructions=instructions)) as server:
        variables = {"name": "{{age}}", "age": [1]}
        server.client.post("/sessions", json={"session_id": "s1", "variables": variables})
        server.complete("Hi", session="s1")

        assert sent(server)[0]["messages"][0] == {
            "role": "system",
            "content": "You serve {{age}}, [1] years; {{missing}}; {{age}}",
        }


# - tools of both kinds -

WEATHER = external("weather", city=str)


def test_external_call_goes_to_the_client_and_its_result_comes_back_alone() -> None:
    script = (calls(("weather", {"city": "Oslo"})), "Sunny.")
    with live(project(*script)) as server:
        asked = server.complete("Weather?", session="s1", tools=[WEATHER]).json()["choices"][0]
        assert asked["finish_reason"] == "tool_calls"
        assert asked["message"]["content"] is None
        assert asked["message"]["tool_calls"] == [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "weather", "arguments": '{"city": "Oslo"}'},
            }
        ]

        told = server.complete(result("call_1", "sunny"), session="s1", tools=[WEATHER])
        assert told.json()["choices"][0]["message"]["content"] == "Sunny."
        assert [m["role"] for m in sent(server)[1]["messages"]] == ["user", "assistant", "tool"]


def test_streamed_external_call_is_one_delta_with_an_index() -> None:
    script = (calls(("weather", {"city": "Oslo"}), ("weather", {"city": "Rome"})),)
    with live(project(*script)) as server:
        chunks = events(server.complete("Weather?", stream=True, tools=[WEATHER]).text)

        deltas = [c["choices"][0]["delta"] for c in chunks[:-1]]
        found = [call for delta in deltas for call in delta.get("tool_calls", ())]
        assert [(call["index"], call["id"]) for call in found] == [(0, "call_1"), (1, "call_2")]
        assert chunks[-2]["choices"][0]["finish_reason"] == "tool_calls"


def test_server_runs_its_own_and_keeps_the_results_until_the_client_has_run_the_others() -> None:
    script = (calls(("weather", {"city": "Oslo"}), ("add", {"a": 1, "b": 2})), "3 and sunny.")
    with live(project(*script, tools=[add])) as server:
        asked = server.complete("Both?", session="s1", tools=[WEATHER]).json()["choices"][0]
        assert [c["function"]["name"] for c in asked["message"]["tool_calls"]] == ["weather"]

        server.complete(result("call_1", "sunny"), session="s1", tools=[WEATHER])
        results = [m for m in sent(server)[1]["messages"] if m["role"] == "tool"]
        assert [(m["tool_call_id"], m["content"]) for m in results] == [
            ("call_1", "sunny"),
            ("call_2", "3"),
        ]


def test_whole_history_of_a_mixed_turn_is_known() -> None:
    script = (calls(("weather", {"city": "Oslo"}), ("add", {"a": 1, "b": 2})), "Fine.", "Bye.")
    with live(project(*script, tools=[add])) as server:
        asked = server.complete("Both?", session="s1", tools=[WEATHER]).json()["choices"][0]
        history = ["Both?", asked["message"], result("call_1", "sunny")]
        server.complete(*history, session="s1", tools=[WEATHER])
        history += [{"role": "assistant", "content": "Fine."}, "Thanks"]
        server.complete(*history, session="s1", tools=[WEATHER])

        assert [m["role"] for m in server.stored("s1")] == [
            "user",
            "assistant",
            "tool",
            "tool",
            "assistant",
            "user",
            "assistant",
        ]


@pytest.mark.parametrize(
    ("messages", "named"),
    [
        ([result("call_1", "x")], "call_2"),
        ([result("call_1", "x"), result("call_1", "y")], "call_2"),
        ([result("nope", "x")], "call_1, call_2"),
    ],
    ids=["missing", "repeated", "unknown"],
)
def test_results_that_do_not_fit_are_refused_naming_the_open_calls(
    messages: list[Any], named: str
) -> None:
    script = (calls(("weather", {"city": "Oslo"}), ("weather", {"city": "Rome"})), "Fine.")
    with live(project(*script)) as server:
        server.complete("Weather?", session="s1", tools=[WEATHER])
        refused = server.complete(*messages, session="s1", tools=[WEATHER])

        assert refused.status_code == 400
        assert named.rsplit(", ", maxsplit=1)[-1] in refused.json()["error"]["details"][0]
        done = [result("call_2", "b"), result("call_1", "a")]
        assert server.complete(*done, session="s1", tools=[WEATHER]).status_code == 200
        assert [m.get("tool_call_id") for m in server.stored("s1")[2:4]] == ["call_1", "call_2"]


def test_name_of_both_kinds_is_refused() -> None:
    with live(project(tools=[add])) as server:
        refused = server.complete("Hi", tools=[external("add", a=str)])

        assert refused.status_code == 400
        assert "add" in refused.json()["error"]["details"][0]


def test_tools_are_not_kept_in_the_session() -> None:
    with live(project("one", "two")) as server:
        server.complete("first", session="s1", tools=[WEATHER])
        server.complete("second", session="s1")

        assert "tools" in sent(server)[0]
        assert "tools" not in sent(server)[1]


def test_call_that_waits_for_approval_is_shown_with_its_digest_and_run_after_a_yes() -> None:
    with live(project(calls(("pay", {"amount": 5})), "Paid.", tools=[pay])) as server:
        asked = server.complete("Pay 5", session="s1").json()["choices"][0]
        (call,) = asked["message"]["tool_calls"]
        yes = json.dumps({"approved": True, "digest": call["approval"]["digest"]})

        plain_text = server.complete(result("call_1", "paid"), session="s1")
        wrong = json.dumps({"approved": True, "digest": "0" * 32})
        stale = server.complete(result("call_1", wrong), session="s1")
        answered = server.complete(result("call_1", yes), session="s1")

        assert asked["finish_reason"] == "tool_calls"
        assert plain_text.status_code == stale.status_code == 400
        assert "approved" in plain_text.json()["error"]["details"][0]
        assert answered.json()["choices"][0]["message"]["content"] == "Paid."
        assert server.stored("s1")[2]["content"] == "paid 5"


def test_call_that_was_denied_is_not_run() -> None:
    with live(project(calls(("pay", {"amount": 5})), "As you like.", tools=[pay])) as server:
        (call,) = server.complete("Pay 5", session="s1").json()["choices"][0]["message"][
            "tool_calls"
        ]
        no = {"approved": False, "digest": call["approval"]["digest"], "reason": "too much"}
        server.complete(result("call_1", json.dumps(no)), session="s1")

        assert server.stored("s1")[2]["content"] == "Not run: a person said no: too much."


@pytest.mark.parametrize("second", ["the same", "a result"])
def test_call_is_decided_about_once(second: str) -> None:
    with live(project(calls(("pay", {"amount": 5})), "Paid.", tools=[pay])) as server:
        asked = server.complete("Pay 5", session="s1").json()["choices"][0]
        (call,) = asked["message"]["tool_calls"]
        yes = json.dumps({"approved": True, "digest": call["approval"]["digest"]})
        more = yes if second == "the same" else "paid a million"

        refused = server.complete(result("call_1", yes), result("call_1", more), session="s1")
        answered = server.complete(result("call_1", yes), session="s1")

        assert refused.status_code == 400
        assert refused.json()["error"]["details"][0].startswith("messages[1].")
        assert answered.status_code == 200
        assert server.stored("s1")[2]["content"] == "paid 5"


@pytest.mark.parametrize("said", ["[" * 100_000, "NaN", '{"approved": 1}', ""])
def test_decision_that_is_none_is_refused(said: str) -> None:
    with live(project(calls(("pay", {"amount": 5})), tools=[pay])) as server:
        server.complete("Pay 5", session="s1")
        refused = server.complete(result("call_1", said), session="s1")

        assert refused.status_code == 400
        assert refused.json()["error"]["details"][0].startswith("messages[0].content: must be")


# - what is refused -


@pytest.mark.parametrize(("session", "status"), [(None, 400), ("s1", 409)])
def test_call_that_a_client_wrote_for_a_tool_of_the_project_is_not_run(
    session: str | None, status: int
) -> None:
    function = {"name": "add", "arguments": '{"a": 1, "b": 2}'}
    written = {
        "role": "assistant",
        "tool_calls": [{"id": "c1", "type": "function", "function": function}],
    }
    with live(project("Hello.", tools=[add])) as server:
        server.complete("Hi", session="s1")
        refused = server.complete("1+2?", written, session=session)

        assert refused.status_code == status
        assert len(sent(server)) == 1


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({}, "messages: is required, a list that is not empty"),
        ({"messages": "hi"}, "messages: must be a list"),
        ({"messages": [3]}, "messages[0]: must be an object with a role"),
        (
            {"messages": [{"role": "robot", "content": "x"}]},
            "messages[0].role: must be one of system, developer, user, assistant, tool",
        ),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id: is required"),
        (
            {"messages": [{"role": "user", "content": 3}]},
            "messages[0].content: must be a string, null, or a list of content parts",
        ),
        (
            {"messages": [{"role": "user", "content": "x"}], "stream": 1},
            "stream: must be true or false",
        ),
        (
            {"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "web"}]},
            'tools[0].type: must be "function"',
        ),
        (
            {"messages": [{"role": "user", "content": "x"}], "session_id": "a b"},
            "session_id: must be 1 to 255 visible ASCII characters without spaces",
        ),
        (
            {"messages": [{"role": "assistant", "content": "x"}]},
            "messages: must end with a message of the user, or a tool's result, that is new",
        ),
        (
            {"messages": [{"role": "user", "content": "x"}], "n": 2},
            "n: must be 1, a session has one answer",
        ),
        (
            {"messages": [{"role": "user", "content": "x"}], "stop": ["a", 1]},
            "stop: must be a string or a list of strings, and not empty",
        ),
        (
            {
                "messages": [{"role": "user", "content": "x"}],
                "stream_options": {"include_usage": 1},
            },
            "stream_options.include_usage: must be true or false",
        ),
        (
            {
                "messages": [{"role": "user", "content": "x"}],
                "tools": [{"type": "function", "function": {"name": "x", "strict": "yes"}}],
            },
            "tools[0].function.strict: must be true or false",
        ),
        (
            {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1.5},
            "max_tokens: must be an integer",
        ),
    ],
)
def test_bad_field_is_named(body: dict[str, Any], detail: str) -> None:
    with live(project()) as server:
        refused = server.client.post("/chat/completions", json=body)

        error = refused.json()["error"]
        assert refused.status_code == 400
        assert detail in error["details"]
        assert error["type"] == "invalid_request_error"
        assert set(error) == {"message", "type", "param", "code", "details"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"x"',
        b'{"messages": [], "messages": []}',
        b'{"a": NaN}',
        b'{"temperature": 1e999}',
        b"\xff\xfe{\x00}\x00",
        b'{"messages": "\xed\xa0\x80"}',
        b'{"a":' * 100 + b"1" + b"}" * 100,
        b"[" * 100_000,
    ],
)
def test_body_that_is_no_plain_json_object_is_refused(body: bytes) -> None:
    with live(project()) as server:
        headers = {"Content-Type": "application/json"}
        refused = server.client.post("/chat/completions", content=body, headers=headers)

        assert refused.status_code == 400
        assert refused.json()["error"]["message"].startswith("The body ")


def test_other_content_type_is_refused() -> None:
    with live(project()) as server:
        refused = server.client.post(
            "/chat/completions", content=b"{}", headers={"Content-Type": "text/plain"}
        )
        assert refused.status_code == 415


def test_body_beyond_the_limit_is_refused_with_and_without_its_length() -> None:
    with live(project(), settings=ServerSettings(max_body_bytes=1000)) as server:
        headers = {"Content-Type": "application/json"}
        told = server.client.post("/chat/completions", content=b"x" * 1001, headers=headers)
        untold = server.client.post(
            "/chat/completions", content=iter([b"x" * 600, b"x" * 600]), headers=headers
        )
        assert (told.status_code, untold.status_code) == (413, 413)


def test_body_that_comes_too_slowly_is_refused() -> None:
    with live(project(), settings=ServerSettings(body_seconds=0.05)) as server:
        gone = threading.Event()

        def drip() -> Any:
            yield b"{"
            gone.wait(0.5)
            yield b"}"

        headers = {"Content-Type": "application/json"}
        refused = server.client.post("/chat/completions", content=drip(), headers=headers)
        gone.set()
        assert refused.status_code == 408


@pytest.mark.parametrize("limit", ["max_messages", "max_tools"])
def test_counts_have_limits(limit: str) -> None:
    values: dict[str, Any] = {limit: 1}
    with live(project(), settings=replace(ServerSettings(), **values)) as server:
        tools = [external("a"), external("b")]
        fields: dict[str, Any] = {"tools": tools} if limit == "max_tools" else {}
        messages = ["a"] if limit == "max_tools" else ["a", "b"]
        refused = server.complete(*messages, **fields)

        assert refused.status_code == 400
        assert "more than 1" in refused.json()["error"]["details"][0]


def test_schema_of_an_external_tool_that_cannot_be_checked_is_refused() -> None:
    bad = {"type": "function", "function": {"name": "x", "parameters": {"type": "strin"}}}
    far = {"$ref": "http://127.0.0.1:1/schema.json"}
    with live(project()) as server:
        first = server.complete("Hi", tools=[bad])
        schema = {"type": "object", "properties": {"a": far}}
        tool_ = {"type": "function", "function": {"name": "x", "parameters": schema}}
        second = server.complete("Hi", tools=[tool_])

        assert first.status_code == second.status_code == 400
        assert first.json()["error"]["details"][0].startswith("tools[0].function.parameters")


def test_every_wrong_key_gets_the_same_answer() -> None:
    other = Project(id="other", transport=AsyncScriptedTransport())
    with live(project(), other) as server:
        url = f"{server.url}/v1/projects/{{}}/chat/completions"
        good = server.headers["Authorization"]
        cases = [
            ("demo", None),
            ("demo", "Bearer sk_wrong"),
            ("demo", "Bearer"),
            ("demo", "Basic abc"),
            ("demo", "Bearer " + "x" * 500),
            ("demo", "Bearer \u00e9"),
            ("other", good),
            ("unknown", good),
        ]
        answers = []
        for name, header in cases:
            headers = [(b"authorization", header.encode("latin-1"))] if header is not None else []
            server.client.headers.pop("Authorization", None)
            answers.append(
                server.client.post(url.format(name), content=b"not json", headers=headers)
            )

        assert {a.status_code for a in answers} == {401}
        assert {a.content for a in answers} == {
            b'{"error":{"message":"Invalid authentication","type":"authentication_error",'
            b'"param":null,"code":null,"details":[]}}'
        }


def test_unknown_address_and_method_have_the_apis_errors() -> None:
    with live(project()) as server:
        nowhere = server.client.get(f"{server.url}/nowhere")
        wrong = server.client.put("/chat/completions")

        assert (nowhere.status_code, wrong.status_code) == (404, 405)
        assert set(nowhere.json()["error"]) == set(wrong.json()["error"])


@pytest.mark.parametrize("prefix", ["/project/demo", "/api/project/demo"])
def test_older_addresses_answer_alike_and_say_that_they_are_old(prefix: str) -> None:
    with live(project("Hello!")) as server:
        body = {"messages": [{"role": "user", "content": "Hi"}]}
        url = f"{server.url}{prefix}/integration/api/chat/completions"
        answered = server.client.post(url, json=body)

        assert answered.json()["choices"][0]["message"]["content"] == "Hello!"
        assert answered.headers["deprecation"] == "true"


# - what fails behind -


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("entry", "status"),
    [
        (http_error(400, "invalid api key sk-secret-1234"), 502),
        (http_error(400, "the key sk-secret-1234 takes 8192 tokens"), 400),
        (http_error(401, "key sk-secret-1234 is bad"), 502),
        (http_error(429, "slow down", retry_after=7), 429),
        (answer("Hello").broken_after(bytes=0), 502),
    ],
)
def test_error_of_the_model_is_told_by_status_and_not_in_its_words(
    entry: Any, status: int, stream: bool
) -> None:
    with live(project(entry)) as server:
        failed = server.complete("Hi", stream=stream)

        assert failed.status_code == status
        assert "secret" not in failed.text
        if status == 429:
            assert failed.headers["retry-after"] == "7"


def test_error_after_the_first_chunk_is_an_event_without_done() -> None:
    with live(project(answer("Hello, you", chunk_size=5).broken_after(events=3))) as server:
        answered = server.complete("Hi", stream=True, session="s1")

        chunks = events(answered.text)
        assert answered.status_code == 200
        assert joined(chunks[:-1]) == "Hello, you"
        assert chunks[-1]["error"]["type"] == "model_error"
        assert set(chunks[-1]["error"]) == {"message", "type", "param", "code", "details"}
        assert server.client.get("/sessions/s1").status_code == 404


def test_bug_in_the_projects_history_function_is_a_500() -> None:
    def broken(messages: Any) -> Any:
        raise RuntimeError("canary text")

    with live(project(history=broken)) as server:
        failed = server.complete("Hi")

        assert failed.status_code == 500
        assert failed.json()["error"]["message"] == "Internal server error"


def test_turn_beyond_its_time_is_a_504(scripted_server: Any) -> None:
    upstream = scripted_server([head(Content_Type="text/event-stream"), STALL])
    transport = AsyncHTTPTransport(upstream.url, api_key="")
    one = Project(id="demo", transport=transport)
    with live(one, settings=ServerSettings(turn_seconds=0.1)) as server:
        failed = server.complete("Hi", session="s1")

        assert failed.status_code == 504
        assert server.client.get("/sessions/s1").status_code == 404
        upstream.wait_until_clients_left()


def test_turn_at_its_projects_limit_answers_with_what_there_is() -> None:
    script = (calls(("add", {"a": 1, "b": 2})), "So far: 3.")
    limits = Limits(turns=1, last_word=True)
    with live(project(*script, tools=[add], limits=limits)) as server:
        choice = server.complete("Add for ever").json()["choices"][0]

        assert choice["message"]["content"] == "So far: 3."


# - repeats -


def test_repeat_with_the_same_idempotency_key_gets_the_same_answer() -> None:
    with live(project("one")) as server:
        named = {"Idempotency-Key": "k1"}
        first = server.complete("Hi", headers=named)
        again = server.complete("Hi", headers=named)

        assert first.content == again.content
        assert first.headers["x-session-id"] == again.headers["x-session-id"]
        assert len(sent(server)) == 1


def test_repeated_stream_is_a_stream_with_the_same_answer() -> None:
    script = (calls(("add", {"a": 1, "b": 2})), answer("It is 3.", chunk_size=2))
    with live(project(*script, tools=[add])) as server:
        named = {"Idempotency-Key": "k1"}
        first = events(server.complete("Hi", stream=True, headers=named).text)
        again = events(server.complete("Hi", stream=True, headers=named).text)

        assert joined(again) == joined(first) == "It is 3."
        assert {c["id"] for c in first[:-1]} == {c["id"] for c in again[:-1]}
        assert again[-1] == "[DONE]"
        assert again[-2] == first[-2]


def test_other_body_with_the_same_key_is_refused() -> None:
    with live(project("one")) as server:
        named = {"Idempotency-Key": "k1"}
        server.complete("Hi", headers=named)
        refused = server.complete("Ho", headers=named)

        assert refused.status_code == 422
        assert refused.json()["error"]["param"] == "Idempotency-Key"


def test_other_session_with_the_same_key_is_refused() -> None:
    with live(project("one")) as server:
        named = {"Idempotency-Key": "k1"}
        server.complete("Hi", session="s1", headers=named)
        refused = server.complete("Hi", session="s2", headers=named)

        assert refused.status_code == 422
        assert server.client.get("/sessions/s2").status_code == 404


def test_failed_request_can_be_repeated_under_its_key() -> None:
    with live(project(http_error(500, "broken"), "two")) as server:
        named = {"Idempotency-Key": "k1"}
        assert server.complete("Hi", headers=named).status_code == 502
        assert server.complete("Hi", headers=named).status_code == 200


def test_tool_of_a_failed_request_is_not_run_again_when_it_is_repeated() -> None:
    seen: list[str] = []

    @tool
    def charge(context: ToolContext[Any]) -> str:
        """Charge."""
        seen.append(context.key)
        return "ok"

    script = (calls(("charge", {})), http_error(500, "broken"), "Done.")
    with live(project(*script, tools=[charge])) as server:
        assert server.complete("Hi", session="s1").status_code == 502
        assert server.complete("Hi", session="s1").status_code == 200
        stored = server.stored("s1")

        assert [message["role"] for message in stored] == ["user", "assistant", "tool", "assistant"]
    assert len(seen) == 1


# - clients that go away, and clients at once -

SLOW = [head(Content_Type="text/event-stream", Transfer_Encoding="chunked")]
FIRST = chunk(b'data: {"choices":[{"index":0,"delta":{"content":"Hel"}}]}\n\n')
REST = chunk(
    b'data: {"choices":[{"index":0,"delta":{"content":"lo"},"finish_reason":"stop"}]}\n\n'
    b"data: [DONE]\n\n"
)


def test_client_that_leaves_ends_the_model_call_and_nothing_is_stored(scripted_server: Any) -> None:
    upstream = scripted_server([*SLOW, FIRST, STALL])
    one = Project(id="demo", transport=AsyncHTTPTransport(upstream.url, api_key=""))
    with live(one) as server:
        body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
        headers = {"X-Session-ID": "s1"}
        with server.client.stream("POST", "/chat/completions", json=body, headers=headers) as got:
            lines = got.iter_lines()
            while '"Hel"' not in next(lines):
                pass
        upstream.wait_until_clients_left()

        assert server.client.get("/sessions/s1").status_code == 404


def test_second_request_of_a_session_waits_and_then_is_told_so(scripted_server: Any) -> None:
    upstream = scripted_server([*SLOW, FIRST, STALL])
    one = Project(id="demo", transport=AsyncHTTPTransport(upstream.url, api_key=""))
    with live(one, settings=ServerSettings(session_wait_seconds=0.1)) as server:
        body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
        headers = {"X-Session-ID": "s1"}
        with server.client.stream("POST", "/chat/completions", json=body, headers=headers) as got:
            lines = got.iter_lines()
            while '"Hel"' not in next(lines):
                pass
            refused = server.complete("Me, too", session="s1")

        assert refused.status_code == 409
        assert refused.json()["error"]["code"] == "session_busy"
        assert refused.headers["retry-after"] == "1"


def test_request_in_progress_is_waited_for_and_then_told_so(scripted_server: Any) -> None:
    upstream = scripted_server([*SLOW, FIRST, STALL])
    one = Project(id="demo", transport=AsyncHTTPTransport(upstream.url, api_key=""))
    with live(one, settings=ServerSettings(session_wait_seconds=0.1)) as server:
        body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
        named = {"Idempotency-Key": "k1"}
        with server.client.stream("POST", "/chat/completions", json=body, headers=named) as got:
            lines = got.iter_lines()
            while '"Hel"' not in next(lines):
                pass
            refused = server.client.post("/chat/completions", json=body, headers=named)

        assert refused.status_code == 409
        assert refused.json()["error"]["param"] == "Idempotency-Key"


def test_turns_beyond_the_limit_are_told_to_come_again(scripted_server: Any) -> None:
    upstream = scripted_server([*SLOW, FIRST, STALL])
    one = Project(id="demo", transport=AsyncHTTPTransport(upstream.url, api_key=""))
    settings = ServerSettings(turns_per_key=1, queue_length=0)
    with live(one, settings=settings) as server:
        body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
        with server.client.stream("POST", "/chat/completions", json=body) as got:
            lines = got.iter_lines()
            while '"Hel"' not in next(lines):
                pass
            refused = server.complete("Me, too")
            health = server.client.get(f"{server.url}/healthz")

        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "5"
        assert health.json() == {"status": "ok"}


def test_turn_that_waits_for_a_place_asks_no_model_until_it_has_one(scripted_server: Any) -> None:
    upstream = scripted_server([*SLOW, FIRST, STALL], [*SLOW, FIRST, REST])
    one = Project(id="demo", transport=AsyncHTTPTransport(upstream.url, api_key=""))
    settings = ServerSettings(turns_per_key=1, queue_length=1, queue_seconds=0.2)
    with live(one, settings=settings) as server:
        body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
        with server.client.stream("POST", "/chat/completions", json=body) as got:
            lines = got.iter_lines()
            while '"Hel"' not in next(lines):
                pass
            refused = server.complete("Me, too")

        assert refused.status_code == 429
        assert len(upstream.requests) == 1


def test_silence_is_broken_by_comments(scripted_server: Any) -> None:
    upstream = scripted_server([*SLOW, STALL])
    one = Project(id="demo", transport=AsyncHTTPTransport(upstream.url, api_key=""))
    with live(one, settings=ServerSettings(ping_seconds=0.05)) as server:
        body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
        with server.client.stream("POST", "/chat/completions", json=body) as got:
            lines = got.iter_lines()
            assert [next(lines) for _ in range(4)] == [": ping", "", ": ping", ""]


def test_turn_of_a_client_that_left_is_finished_where_the_project_says_so() -> None:
    upstream = ReleasedServer()
    transport = AsyncHTTPTransport(upstream.url, api_key="")
    one = Project(id="demo", transport=transport, on_disconnect="finish")
    with live(one) as server:
        body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
        headers = {"X-Session-ID": "s1", "Idempotency-Key": "k1"}
        with server.client.stream("POST", "/chat/completions", json=body, headers=headers) as got:
            lines = got.iter_lines()
            while '"Hel"' not in next(lines):
                pass
        upstream.release()
        server.complete("Next", session="s1")  # waits for the turn before

        again = server.client.post("/chat/completions", json=body, headers=headers)
        assert joined(events(again.text)) == "Hello"
        assert [m["content"] for m in server.stored("s1")] == ["Hi", "Hello", "Next", "Hello"]
    upstream.stop()


class ReleasedServer(ScriptedServer):
    """A model that says the rest of its first answer when it is told to."""

    def __init__(self) -> None:
        self._released = threading.Event()
        last = chunk(b"")
        super().__init__([*SLOW, FIRST], [*SLOW, FIRST, REST, last])

    def release(self) -> None:
        self._released.set()

    def _follow_scripts(self, connection: Any) -> None:
        incoming = connection.makefile("rb")
        from servers import perform, read_request

        while read_request(incoming):
            script = next(self._scripts, [])
            for step in script:
                perform(step, connection)
            if not self._released.is_set():
                self._released.wait(20)
                connection.sendall(REST + chunk(b""))
        incoming.close()


# - the rest -


def test_cors_is_off_unless_origins_are_named() -> None:
    origin = {"Origin": "https://example.com", "Access-Control-Request-Method": "POST"}
    with live(project()) as server:
        closed = server.client.options("/chat/completions", headers=origin)
    with live(project(), settings=ServerSettings(cors_origins=("https://example.com",))) as server:
        opened = server.client.options("/chat/completions", headers=origin)

    assert "access-control-allow-origin" not in closed.headers
    assert opened.headers["access-control-allow-origin"] == "https://example.com"


def test_draining_server_takes_no_new_turns() -> None:
    with live(project()) as server:
        server.app.state.runtime.drain()

        refused = server.complete("Hi")
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert server.client.get(f"{server.url}/readyz").status_code == 503
        assert server.client.get(f"{server.url}/healthz").status_code == 200


def test_client_that_does_not_read_is_given_up_and_the_model_is_not_read_on(
    scripted_server: Any,
) -> None:
    upstream = scripted_server([*SLOW, Drip(chunk(said("x" * 50_000)), 0.0)])
    one = Project(id="demo", transport=AsyncHTTPTransport(upstream.url, api_key=""))
    # Comments would be due before the write is given up.
    settings = ServerSettings(write_seconds=0.2, ping_seconds=0.05)
    with live(one, settings=settings) as server, unread_stream(server) as connection:
        upstream.wait_for_requests(1)
        upstream.wait_until_clients_left()
        connection.close()

        assert server.client.get("/sessions/s1").status_code == 404


def test_turn_of_a_client_that_does_not_read_is_finished_where_the_project_says_so(
    scripted_server: Any,
) -> None:
    # More than the buffers of two sockets take.
    pieces = [chunk(said("x" * 100_000)) for _ in range(100)]
    upstream = scripted_server([*SLOW, *pieces, REST, chunk(b"")], [*SLOW, REST, chunk(b"")])
    transport = AsyncHTTPTransport(upstream.url, api_key="")
    one = Project(id="demo", transport=transport, on_disconnect="finish")
    settings = ServerSettings(write_seconds=0.2, ping_seconds=0.05)
    with live(one, settings=settings) as server, unread_stream(server):
        upstream.wait_for_requests(1)
        assert server.complete("Next", session="s1").status_code == 200  # waits for the turn before

        sizes = [len(m["content"]) for m in server.stored("s1")]
        assert sizes == [2, 10_000_002, 4, 2]


def said(text: str) -> bytes:
    """Write a model's event that says a text."""
    event = json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]})
    return f"data: {event}\n\n".encode()


@contextmanager
def unread_stream(server: Live) -> Iterator[socket.socket]:
    """Ask for a stream in the session s1, and do not read it."""
    body = json.dumps({"messages": [{"role": "user", "content": "Hi"}], "stream": True})
    request = (
        f"POST /v1/projects/demo/chat/completions HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: Bearer {server.key}\r\nContent-Type: application/json\r\n"
        f"X-Session-ID: s1\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    )
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(request.encode())
        yield connection


class SlowLease(MemoryStore):
    """A store that gives the session when the time to wait for it is just over."""

    async def take_lease(self, *arguments: Any, **named: Any) -> Any:
        lease = await super().take_lease(*arguments, **named)
        with anyio.CancelScope(shield=True), anyio.move_on_after(0.1):
            await anyio.sleep_forever()
        return lease


def test_session_that_comes_when_the_wait_for_it_ends_is_taken() -> None:
    settings = ServerSettings(session_wait_seconds=0.01)
    with live(project("one"), settings=settings, store=SlowLease()) as server:
        assert server.complete("Hi", session="s1").status_code == 200


# - hooks -


class Guardrail:
    """Answers instead of the model, and doubles what is added."""

    async def around_model(self, call: ModelContext, request: ModelRequest, next_: Any) -> Any:
        if "password" in request.messages[-1].text:
            return AssistantMessage(content="I do not handle passwords.")
        return await next_(request)

    async def around_tool(self, call: Any, arguments: Any, context: Any, next_: Any) -> Any:
        return await next_({"a": 2 * arguments["a"], "b": 2 * arguments["b"]})


def test_hooks_of_a_project_wrap_its_calls() -> None:
    script = [calls(("add", {"a": 1, "b": 2})), "Six."]
    with live(project(*script, tools=[add], hooks=[Guardrail()])) as server:
        server.complete("1 + 2?")

        assert sent(server)[1]["messages"][-1]["content"] == "6"


def test_answer_of_a_hook_is_streamed_to_the_client() -> None:
    with live(project(hooks=[Guardrail()])) as server:
        answered = server.complete("My password?", stream=True)

        assert joined(events(answered.text)) == "I do not handle passwords."
