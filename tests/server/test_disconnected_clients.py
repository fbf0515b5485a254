"""Clients that disconnect, clients that come at once, and repeats."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from completion_requests import REST, SLOW, add, sent
from live_server import Live, events, joined, live, project
from pathors_agent import AsyncHTTPTransport, ToolContext, tool
from pathors_agent.server import Project, ServerSettings
from pathors_agent.testing import answer, calls, http_error
from servers import STALL, ScriptedServer, chunk

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


@pytest.mark.parametrize(("text", "session"), [("Ho", "s1"), ("Hi", "s2")])
def test_other_body_or_session_with_the_same_key_is_refused(text: str, session: str) -> None:
    with live(project("one")) as server:
        named = {"Idempotency-Key": "k1"}
        server.complete("Hi", session="s1", headers=named)

        refused = server.complete(text, session=session, headers=named)
        assert refused.status_code == 422
        assert refused.json()["error"]["param"] == "Idempotency-Key"
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


# - clients that go away, and clients at once

FIRST = chunk(b'data: {"choices":[{"index":0,"delta":{"content":"Hel"}}]}\n\n')
BODY = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}


def model_of(upstream: ScriptedServer, **options: Any) -> Project:
    """Return a project whose model is this server."""
    transport = AsyncHTTPTransport(upstream.url, api_key="")
    return Project(id="demo", transport=transport, **options)


@contextmanager
def begun_stream(server: Live, **headers: str) -> Iterator[None]:
    """Hold a stream whose first text was read."""
    with server.client.stream("POST", "/chat/completions", json=BODY, headers=headers) as got:
        lines = got.iter_lines()
        while '"Hel"' not in next(lines):
            pass
        yield


def test_client_that_leaves_ends_the_model_call_and_nothing_is_stored(scripted_server: Any) -> None:
    upstream = scripted_server([*SLOW, FIRST, STALL])
    with live(model_of(upstream)) as server:
        with begun_stream(server, **{"X-Session-ID": "s1"}):
            pass

        upstream.wait_until_clients_left()
        assert server.client.get("/sessions/s1").status_code == 404


@pytest.mark.parametrize(
    ("headers", "code", "param"),
    [
        ({"X-Session-ID": "s1"}, "session_busy", None),
        ({"Idempotency-Key": "k1"}, None, "Idempotency-Key"),
    ],
    ids=["second request of a session", "repeat"],
)
def test_request_waits_for_the_running_one_and_then_gets_409(
    scripted_server: Any, headers: dict[str, str], code: str | None, param: str | None
) -> None:
    upstream = scripted_server([*SLOW, FIRST, STALL])
    settings = ServerSettings(session_wait_seconds=0.1)
    with live(model_of(upstream), settings=settings) as server:
        with begun_stream(server, **headers):
            refused = server.client.post("/chat/completions", json=BODY, headers=headers)

        assert refused.status_code == 409
        error = refused.json()["error"]
        assert code in (None, error["code"])
        assert error["param"] == param
        assert refused.headers["retry-after"] == "1"


def test_turns_beyond_the_limit_get_retry_after(scripted_server: Any) -> None:
    upstream = scripted_server([*SLOW, FIRST, STALL])
    settings = ServerSettings(turns_per_key=1, queue_length=0)
    with live(model_of(upstream), settings=settings) as server:
        with begun_stream(server):
            refused = server.complete("Me, too")
            health = server.client.get(f"{server.url}/healthz")

        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "5"
        assert health.json() == {"status": "ok"}


def test_turn_that_waits_for_a_place_asks_no_model_until_it_has_one(scripted_server: Any) -> None:
    upstream = scripted_server([*SLOW, FIRST, STALL], [*SLOW, FIRST, REST])
    settings = ServerSettings(turns_per_key=1, queue_length=1, queue_seconds=0.2)
    with live(model_of(upstream), settings=settings) as server:
        with begun_stream(server):
            refused = server.complete("Me, too")

        assert refused.status_code == 429
        assert len(upstream.requests) == 1


def test_silence_is_broken_by_comments(scripted_server: Any) -> None:
    upstream = scripted_server([*SLOW, STALL])
    with live(model_of(upstream), settings=ServerSettings(ping_seconds=0.05)) as server:
        with server.client.stream("POST", "/chat/completions", json=BODY) as got:
            lines = got.iter_lines()
            assert [next(lines) for _ in range(4)] == [": ping", "", ": ping", ""]


def test_turn_of_a_disconnected_client_is_finished_if_the_project_says_so() -> None:
    upstream = ReleasedServer()
    headers = {"X-Session-ID": "s1", "Idempotency-Key": "k1"}
    with live(model_of(upstream, on_disconnect="finish")) as server:
        with begun_stream(server, **headers):
            pass
        upstream.release()

        server.complete("Next", session="s1")  # waits for the turn before
        again = server.client.post("/chat/completions", json=BODY, headers=headers)
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
            if FIRST in script and REST not in script:
                self._released.wait(20)
                connection.sendall(REST + chunk(b""))
        incoming.close()
