"""Requests that are refused, and failures of the model behind."""

import threading
from dataclasses import replace
from typing import Any

import pytest

from completion_requests import add, sent
from live_server import events, external, joined, live, project
from pathors_agent import AsyncHTTPTransport, Limits
from pathors_agent.messages import JSONValue
from pathors_agent.server import Project, ServerSettings
from pathors_agent.testing import AsyncScriptedTransport, answer, calls, http_error
from servers import STALL, head

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


HI = {"messages": [{"role": "user", "content": "x"}]}


@pytest.mark.parametrize("name", ["Authorization", "Idempotency-Key", "X-Session-ID"])
def test_header_with_two_values_is_refused_by_name(name: str) -> None:
    with live(project("Hello.", "Hello again.")) as server:
        url = "/chat/completions"
        one, other = "Bearer a1", "Bearer b2"
        if name != "Authorization":
            one, other = "first-value", "other-value"
        equal = server.client.post(url, json=HI, headers=[(name, one), (name.lower(), one)])
        refused = server.client.post(url, json=HI, headers=[(name, one), (name.lower(), other)])

        assert equal.status_code in (200, 401)
        assert refused.status_code == 400
        error = refused.json()["error"]
        assert error["param"] == name
        assert error["details"] == [f"{name}: is sent twice, with different values"]
        assert one not in refused.text


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
        (HI | {"stream": 1}, "stream: must be true or false"),
        (HI | {"tools": [{"type": "web"}]}, 'tools[0].type: must be "function"'),
        (
            HI | {"session_id": "a b"},
            "session_id: must be 1 to 255 visible ASCII characters without spaces",
        ),
        (
            HI | {"session_id": ""},
            "session_id: must be 1 to 255 visible ASCII characters without spaces",
        ),
        (
            {"messages": [{"role": "assistant", "content": "x"}]},
            "messages: must end with a message of the user, or a tool's result, that is new",
        ),
        (HI | {"n": 2}, "n: must be 1, a session has one answer"),
        (HI | {"stop": ["a", 1]}, "stop: must be a string or a list of strings, and not empty"),
        (
            HI | {"stream_options": {"include_usage": 1}},
            "stream_options.include_usage: must be true or false",
        ),
        (
            HI | {"tools": [{"type": "function", "function": {"name": "x", "strict": "yes"}}]},
            "tools[0].function.strict: must be true or false",
        ),
        (HI | {"max_tokens": 1.5}, "max_tokens: must be an integer"),
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


def test_body_that_arrives_too_slowly_is_refused() -> None:
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
        assert first.json()["error"]["param"] == "tools[0].function.parameters"


def test_tool_whose_schema_another_program_wrote_is_taken() -> None:
    """zod writes patterns with look-around, and a draft of its own for OpenAI."""
    email = {"type": "string", "format": "email", "pattern": r"^(?!\.)(?!.*\.\.)[\w.+-]+@[\w.-]+$"}
    pair = {"type": "array", "items": [{"type": "integer"}, {"type": "string"}]}
    schema = {
        "$schema": "https://json-schema.org/draft/2019-09/schema#",
        "type": "object",
        "properties": {"to": email, "pair": pair},
    }
    function = {"name": "write", "parameters": schema}
    arguments: dict[str, JSONValue] = {"to": "ada@example.org", "pair": [1, "a"]}
    with live(project(calls(("write", arguments)), calls(("write", arguments)))) as server:
        answers = [
            server.complete("Hi", tools=[{"type": "function", "function": function}]),
            server.complete("Hi", functions=[function]),
        ]

        assert [answer.status_code for answer in answers] == [200, 200]
        assert answers[0].json()["choices"][0]["finish_reason"] == "tool_calls"


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
def test_older_addresses_answer_equally_with_a_deprecation_header(prefix: str) -> None:
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
def test_client_gets_the_status_of_a_models_error_and_not_its_text(
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


def test_turn_at_its_projects_limit_answers_without_tools() -> None:
    script = (calls(("add", {"a": 1, "b": 2})), "So far: 3.")
    limits = Limits(turns=1, last_word=True)
    with live(project(*script, tools=[add], limits=limits)) as server:
        choice = server.complete("Add for ever").json()["choices"][0]

        assert choice["message"]["content"] == "So far: 3."
