"""The chat completion endpoint, over HTTP, on the contract's rules."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio

from completion_requests import REST, SLOW, add, said, sent
from live_server import Live, events, joined, live, project
from pathors_agent import (
    AssistantMessage,
    AsyncHTTPTransport,
    Budget,
    ContentPart,
    ModelOptions,
    Usage,
    tool,
)
from pathors_agent.agents import ModelContext, ModelRequest
from pathors_agent.server import Project, ServerSettings
from pathors_agent.stores import MemoryStore
from pathors_agent.testing import answer, calls, http_error
from servers import Drip, chunk

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


def test_usage_chunk_is_sent_if_requested() -> None:
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


def test_activity_of_own_tools_is_sent_if_requested() -> None:
    script = (calls(("add", {"a": 1, "b": 2})), "It is 3.")
    with live(project(*script, tools=[add])) as server:
        asked = {"include_tool_activity": True}
        chunks = events(server.complete("1+2?", stream=True, stream_options=asked).text)

        told = [c["tool_activity"] for c in chunks[:-1] if "tool_activity" in c]
        assert [list(t) for t in told] == [["call"], ["result"]]
        assert told[0]["call"]["function"] == {"name": "add", "arguments": '{"a": 1, "b": 2}'}
        assert told[1]["result"] == {"tool_call_id": "call_1", "outcome": "value", "content": "3"}


def test_text_of_a_result_names_its_images() -> None:
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


def test_options_of_the_request_override_the_projects() -> None:
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


def test_whole_history_adds_only_new_messages() -> None:
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


def test_client_that_does_not_read_is_abandoned_and_so_is_its_model_call(
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


def test_turn_of_a_client_that_does_not_read_is_finished_if_the_project_says_so(
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


def test_session_that_becomes_free_at_the_end_of_the_wait_is_used() -> None:
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


def test_turns_of_a_project_share_its_budget() -> None:
    with live(project("One.", "Two.", budget=Budget(calls=2))) as server:
        reasons = [server.complete("?").json()["choices"][0]["finish_reason"] for _ in range(3)]

        assert reasons == ["stop", "stop", "length"]
