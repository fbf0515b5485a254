"""Sessions continued over HTTP by every kind of history, on every store, streamed and not."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import httpx2
import pytest

from live_server import Live, events, external, joined, live, project, result
from pathors_agent import tool
from pathors_agent.stores import MemoryStore, SQLStore, Store
from pathors_agent.testing import answer, calls

WEATHER = external("weather", city=str)
OSLO = ("weather", {"city": "Oslo"})
SUM = ("add", {"a": 1, "b": 2})


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool(approve=True)
def pay(amount: int) -> str:
    """Pay an amount."""
    return f"paid {amount}"


# The other pairs of a store and a form of answers are for the slow tests.
QUICK = [("memory", "plain"), ("sqlite", "streamed")]


@pytest.fixture(
    params=[
        pytest.param(pair, id="-".join(pair), marks=() if pair in QUICK else pytest.mark.slow)
        for pair in product(("memory", "sqlite", "postgresql"), ("plain", "streamed"))
    ]
)
def kind(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Return a kind of store, and whether answers are streamed."""
    store, form = request.param
    return store, form


@pytest.fixture
def store(kind: tuple[str, str], request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    match kind[0]:
        case "memory":
            return MemoryStore()
        case "sqlite":
            return SQLStore(f"sqlite:///{tmp_path}/sessions.db")
        case _:
            return SQLStore(request.getfixturevalue("postgres_url"))


@pytest.fixture
def stream(kind: tuple[str, str]) -> bool:
    return kind[1] == "streamed"


def sent(server: Live, number: int = -1) -> list[tuple[str, str]]:
    """Return the roles and texts of a request that reached the model."""
    transport: Any = server.app.state.runtime.projects["demo"].transport
    return [(m["role"], m.get("content") or "") for m in transport.requests[number]["messages"]]


def contents(server: Live, session: str = "s1") -> list[str]:
    return [m["content"] or "" for m in server.stored(session)]


class Client:
    """A client that keeps its own history, of one session."""

    def __init__(self, server: Live, stream: bool) -> None:
        self.server = server
        self.stream = stream
        self.history: list[dict[str, Any]] = []

    def send(self, *messages: Any) -> httpx2.Response:
        """Send messages, keep the answer behind what was sent, and return the response."""
        asked: dict[str, Any] = {"session": "s1", "tools": [WEATHER], "stream": self.stream}
        answered = self.server.complete(*messages, **asked)
        if answered.status_code == 200:
            self.history.append(self._message(answered))
        return answered

    def _message(self, answered: httpx2.Response) -> dict[str, Any]:
        if not self.stream:
            message: dict[str, Any] = answered.json()["choices"][0]["message"]
            return message
        chunks = events(answered.text)
        deltas = [c["choices"][0]["delta"] for c in chunks if c != "[DONE]" and c["choices"]]
        found = [call for delta in deltas for call in delta.get("tool_calls", ())]
        message = {"role": "assistant", "content": joined(chunks)}
        return {**message, "tool_calls": found} if found else message

    def say(self, text: str, last: int | None = None) -> httpx2.Response:
        """Say something with the last messages of the history, or all of it."""
        self.history.append({"role": "user", "content": text})
        return self.send(*(self.history if last is None else self.history[-last:]))

    def results(self, last: int | None = None) -> httpx2.Response:
        """Answer the calls of the last message."""
        for call in self.history[-1]["tool_calls"]:
            self.history.append(result(call["id"], "sunny"))
        return self.send(*(self.history if last is None else self.history[-last:]))


@pytest.mark.parametrize("last", [None, 1, 2, 3, 5])
def test_client_that_sends_any_end_of_its_history_stores_each_message_once(
    store: Store, stream: bool, last: int | None
) -> None:
    script = [f"answer {number}" for number in range(5)]
    with live(project(*script), store=store) as server:
        client = Client(server, stream)
        for number in range(5):
            assert client.say(f"question {number}", last).status_code == 200

        assert contents(server) == [
            text for number in range(5) for text in (f"question {number}", f"answer {number}")
        ]
        assert len(sent(server)) == 9


@pytest.mark.parametrize("last", [None, 3, 1])
def test_tool_loop_between_other_turns_is_one_session(
    store: Store, stream: bool, last: int | None
) -> None:
    script = ("Hello.", answer("Adding.", calls=[SUM]), calls(OSLO, SUM), "Sunny, 3.", "Bye.")
    with live(project(*script, tools=[add]), store=store) as server:
        client = Client(server, stream)
        client.say("Hi", last)
        client.say("Weather and 1+2?", last)
        client.results(last)
        client.say("Bye", last)

        assert contents(server) == [
            *("Hi", "Hello.", "Weather and 1+2?", "Adding.", "3"),
            *("", "3", "sunny", "Sunny, 3.", "Bye", "Bye."),
        ]


def test_edited_question_replaces_the_later_messages(store: Store, stream: bool) -> None:
    script = ("one", answer("Adding.", calls=[SUM]), "two", "deux", "trois")
    with live(project(*script, tools=[add]), store=store) as server:
        client = Client(server, stream)
        client.say("first")
        client.say("secret second")
        del client.history[2:]
        edited = client.say("deuxième")
        next_one = client.say("troisième")

        assert edited.headers["x-session-rewound"] == "4"
        assert "x-session-rewound" not in next_one.headers
        assert contents(server) == ["first", "one", "deuxième", "deux", "troisième", "trois"]
        assert [text for _, text in sent(server, 3)] == ["first", "one", "deuxième"]
        found = server.client.post("/sessions/search", json={"search_string": "secret"}).json()
        assert found["pagination"]["total"] == 0


def test_failed_rewind_removes_nothing(store: Store) -> None:
    with live(project("one", "two", answer("x").broken_after(bytes=0)), store=store) as server:
        client = Client(server, stream=False)
        client.say("first")
        client.say("second")
        del client.history[2:]
        failed = client.say("zweites")

        assert failed.status_code == 502
        assert "x-session-rewound" not in failed.headers
        assert contents(server) == ["first", "one", "second", "two"]


def test_repeat_of_a_rewind_under_its_key_says_the_same(stream: bool) -> None:
    with live(project("one", "two", "deux")) as server:
        client = Client(server, stream=False)
        client.say("first")
        client.say("second")
        named: dict[str, Any] = {
            "session": "s1",
            "headers": {"Idempotency-Key": "k1"},
            "stream": stream,
        }
        edited = [*client.history[:2], "deuxième"]
        first, again = (server.complete(*edited, **named) for _ in range(2))

        assert first.headers["x-session-rewound"] == again.headers["x-session-rewound"] == "2"
        assert contents(server) == ["first", "one", "deuxième", "deux"]


def test_history_of_something_else_is_refused_and_nothing_is_stored(
    store: Store, stream: bool
) -> None:
    with live(project("one"), store=store) as server:
        client = Client(server, stream)
        client.say("first")
        refused = client.send("other", {"role": "assistant", "content": "something"}, "next")

        error = refused.json()["error"]
        assert (refused.status_code, error["code"]) == (409, "history_mismatch")
        assert error["details"][0].startswith("messages[0]: ")
        assert refused.headers["x-should-retry"] == "false"
        assert contents(server) == ["first", "one"]


@pytest.mark.parametrize("last", [None, 1])
def test_user_may_pass_over_calls(store: Store, stream: bool, last: int | None) -> None:
    script = (calls(OSLO, ("weather", {"city": "Rome"})), "Never mind.", "Bye.")
    with live(project(*script), store=store) as server:
        client = Client(server, stream)
        client.say("Weather?", last)
        assert client.say("Forget it", last).status_code == 200
        assert client.say("Bye", last).status_code == 200

        stored = server.stored("s1")
        closed = [(m["content"], m["outcome"]) for m in stored if m["role"] == "tool"]
        assert closed == [("Not answered: the user went on.", "cancelled")] * 2
        assert [m["role"] for m in stored] == [
            *("user", "assistant", "tool", "tool"),
            *("user", "assistant", "user", "assistant"),
        ]


def test_some_results_and_a_new_message_close_the_other_calls(stream: bool) -> None:
    script = (calls(OSLO, ("weather", {"city": "Rome"})), "Sunny in Rome.")
    with live(project(*script)) as server:
        client = Client(server, stream)
        client.say("Weather?")
        client.send(result("call_2", "sunny"), "And now?")

        assert contents(server)[2:] == [
            "Not answered: the user went on.",
            "sunny",
            "And now?",
            "Sunny in Rome.",
        ]


def test_user_may_pass_over_a_call_that_waits_for_approval(stream: bool) -> None:
    with live(project(calls(("pay", {"amount": 5})), "As you like.", tools=[pay])) as server:
        client = Client(server, stream)
        client.say("Pay 5")
        client.say("No, wait")

        assert contents(server)[2:] == ["Not run: the user went on.", "No, wait", "As you like."]


@pytest.mark.parametrize("approved", [True, False])
def test_user_may_add_a_message_to_a_decision(stream: bool, approved: bool) -> None:
    with live(project(calls(("pay", {"amount": 5})), "As you like.", tools=[pay])) as server:
        asked = server.complete("Pay 5", session="s1").json()["choices"][0]["message"]
        digest = asked["tool_calls"][0]["approval"]["digest"]
        decision = json.dumps({"approved": approved, "digest": digest})
        server.complete(result("call_1", decision), "And more", session="s1", stream=stream)

        told = "paid 5" if approved else "Not run: a person said no."
        assert contents(server)[2:] == [told, "And more", "As you like."]


def test_client_may_answer_a_call_that_its_user_passes_over(stream: bool) -> None:
    with live(project(calls(("pay", {"amount": 5})), "As you like.", tools=[pay])) as server:
        client = Client(server, stream)
        client.say("Pay 5")
        client.send(result("call_1", "The user stopped."), "No, wait")

        assert contents(server)[2:] == ["Not run: the user went on.", "No, wait", "As you like."]
        refused = server.complete(result("call_1", '{"approved": true}'), "Pay", session="s1")
        assert refused.status_code == 400


def test_system_messages_of_a_request_apply_to_it_alone(store: Store, stream: bool) -> None:
    with live(project("one", "two", "three"), store=store) as server:
        client = Client(server, stream)
        brief = {"role": "system", "content": "Be brief."}
        client.say("first")
        client.send(brief, "second")
        client.send("third")

        assert contents(server) == ["first", "one", "second", "two", "third", "three"]
        assert sent(server, 1)[0] == ("system", "Be brief.")
        assert [role for role, _ in sent(server, 2)].count("system") == 0
