"""A turn reads the end of its session that the history policy can send, and is otherwise the same."""

import itertools
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from effort import examples
from live_server import Live, external, live
from pathors_agent import (
    AsyncResponse,
    AsyncTransport,
    Request,
    ToolContext,
    last_turns,
    token_budget,
    tool,
)
from pathors_agent.history import History
from pathors_agent.server import Project
from pathors_agent.stores import SQLStore, sql, sql_sessions

WEATHER = external("weather", city=str)


@tool
def add(a: int, b: int, context: ToolContext) -> str:
    """Add two numbers; return also the place of the call in the session."""
    return f"{a + b} {context.key.partition('/')[2]}"


@tool(approve=True)
def pay(amount: int) -> str:
    """Pay an amount."""
    return f"paid {amount}"


class Model(AsyncTransport):
    """Calls the tools that the user names, with ids that it uses again and again; else it talks."""

    def __init__(self) -> None:
        self.requests: list[list[Any]] = []

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncIterator[AsyncResponse]:
        messages = json.loads(request.body)["messages"]
        self.requests.append(messages)

        async def pieces() -> AsyncIterator[bytes]:
            yield json.dumps(self._answer(messages)).encode()

        yield AsyncResponse(
            status=200, headers={"content-type": "application/json"}, pieces=pieces()
        )

    def _answer(self, messages: list[Any]) -> dict[str, Any]:
        asked = max(i for i, m in enumerate(messages) if m["role"] == "user")
        if any(m["role"] == "tool" for m in messages[asked:]):
            names = []
        else:
            names = [name for name in messages[asked]["content"].split() if name in ARGUMENTS]
        calls = [
            {
                "id": f"call_{place}",
                "type": "function",
                "function": {"name": name, "arguments": ARGUMENTS[name]},
            }
            for place, name in enumerate(names)
        ]
        text = None if calls else f"I read {len(messages)} messages."
        said = {"role": "assistant", "content": text, **({"tool_calls": calls} if calls else {})}
        choice = {"index": 0, "message": said, "finish_reason": "tool_calls" if calls else "stop"}
        return {"id": "1", "object": "chat.completion", "choices": [choice]}


ARGUMENTS = {"add": '{"a": 1, "b": 2}', "weather": '{"city": "Oslo"}', "pay": '{"amount": 3}'}


class Pair:
    """Two servers with one policy: the first reads what the policy needs, the second everything."""

    def __init__(self, one: Live, all_of_it: Live) -> None:
        self.servers = [one, all_of_it]

    def models(self) -> list[Model]:
        transports = [s.app.state.runtime.projects[s.project].transport for s in self.servers]
        for transport in transports:
            assert isinstance(transport, Model)
        return transports


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/sessions.db"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def small_tails() -> Iterator[None]:
    """Read four messages first, so that short sessions have tails."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sql_sessions, "_READ_FIRST", 4)
        patch.setattr(sql_sessions, "_READ_MORE", 2)
        yield


POLICIES = {"one turn": last_turns(1), "three turns": last_turns(3), "a budget": token_budget(60)}


@pytest.fixture(
    params=[False, pytest.param(True, marks=pytest.mark.slow)], ids=["new process", "same process"]
)
def keeps_sessions(request: pytest.FixtureRequest) -> Iterator[bool]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sql, "RECENT_MESSAGES", 1 if request.param else 1_000_000)
        yield request.param


@pytest.fixture(params=POLICIES)
def pair(
    request: pytest.FixtureRequest, url: str, small_tails: None, keeps_sessions: bool
) -> Iterator[Pair]:
    policy = POLICIES[request.param]
    with ExitStack() as stack:
        servers = []
        policies: dict[str, History] = {"tail": policy, "all": lambda messages: policy(messages)}
        for name, history in policies.items():
            served = Project(
                id=name, transport=Model(), tools=[add, pay], history=history, instructions="Hi."
            )
            servers.append(stack.enter_context(live(served, store=SQLStore(url))))
        yield Pair(*servers)


_IDS = itertools.count()

steps = st.lists(
    st.sampled_from(
        [
            ["hello"],
            ["how are you?"],
            ["add"],
            ["add add"],
            ["weather"],
            ["add weather"],
            ["pay"],
            ["pay weather"],
            ["system", "hello"],
            ["hello", "system", "add"],
            ["hello", "hello"],
            ["results"],
            ["results", "add"],
            ["unknown result"],
            ["all"],
            ["all", "add"],
            ["regenerate"],
            ["foreign"],
        ]
    ),
    min_size=4,
    max_size=14,
)


class Client:
    """A client of one session on both servers, whose answers must be equal."""

    def __init__(self, pair: Pair, session: str) -> None:
        self.pair = pair
        self.session = session
        self.history: list[dict[str, Any]] = []

    def send(self, step: list[str]) -> None:
        known = [dict(message) for message in self.history]
        given: list[dict[str, Any]] = []
        for word in step:
            match word:
                case "all":
                    given = known + given
                case "regenerate":
                    last = max((i for i, m in enumerate(known) if m["role"] == "user"), default=0)
                    given = known[: last + 1]
                case "foreign":
                    given += [
                        {"role": "user", "content": "?"},
                        {"role": "assistant", "content": "!"},
                    ]
                    given.append({"role": "user", "content": "hello"})
                case "results":
                    given += [self._result(call) for call in self._open_calls()]
                case "unknown result":
                    given.append({"role": "tool", "tool_call_id": "call_7", "content": "?"})
                case "system":
                    given.append({"role": "system", "content": "Be kind."})
                case text:
                    given.append({"role": "user", "content": text})
        if not given:
            return
        one, other = (
            server.complete(*given, session=self.session, tools=[WEATHER])
            for server in self.pair.servers
        )
        assert shown(one) == shown(other)
        if one.status_code == 200:
            self.history = given if step[0] in ("all", "regenerate") else self.history + given
            self.history.append(one.json()["choices"][0]["message"])

    def _open_calls(self) -> list[dict[str, Any]]:
        return self.history[-1].get("tool_calls") or [] if self.history else []

    def _result(self, call: dict[str, Any]) -> dict[str, Any]:
        content = "12 degrees"
        if approval := call.get("approval"):
            content = json.dumps({"approved": True, "digest": approval["digest"]})
        return {"role": "tool", "tool_call_id": call["id"], "content": content}


def shown(answered: Any) -> Any:
    """Return what a client sees of an answer, without ids and times."""
    body = answered.json()
    rewound = answered.headers.get("x-session-rewound")
    return answered.status_code, rewound, body.get("choices"), body.get("error")


@settings(
    max_examples=examples(30),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps)
def test_turns_that_read_the_end_of_a_session_equal_turns_that_read_all_of_it(
    pair: Pair, script: list[list[str]]
) -> None:
    client = Client(pair, f"s{next(_IDS)}")
    for model in pair.models():
        model.requests.clear()

    for step in script:
        client.send(step)

    one, other = pair.models()
    assert one.requests == other.requests
    if client.history:
        stored = [server.stored(client.session) for server in pair.servers]
        assert stored[0] == stored[1]
