"""Clients that others wrote, against the server: openai for Python and for Node, LangChain's.

Each has a program in `programs`, and all see the same.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from client_programs import ClientProgram, Environments, running_program
from live_server import Live, live, project
from pathors_agent import Usage, tool
from pathors_agent.server import ServerSettings
from pathors_agent.stores import Lease, MemoryStore
from pathors_agent.testing import answer, calls, http_error

# The first test waits until the clients are installed.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

OPENAI = ("openai", "openai_client.py")
NODE = ("openai-node", "openai_client.mjs")
LANGCHAIN = ("langchain", "langchain_client.py")


@pytest.fixture(scope="module")
def python_openai(
    client_environments: Environments, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ClientProgram]:
    home = tmp_path_factory.mktemp("client")
    with running_program(client_environments, *OPENAI, home) as client:
        yield client


@pytest.fixture(scope="module")
def node_openai(
    client_environments: Environments, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ClientProgram]:
    home = tmp_path_factory.mktemp("client")
    with running_program(client_environments, *NODE, home) as client:
        yield client


@pytest.fixture(scope="module")
def langchain(
    client_environments: Environments, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ClientProgram]:
    home = tmp_path_factory.mktemp("client")
    with running_program(client_environments, *LANGCHAIN, home) as client:
        yield client


@pytest.fixture(params=["python_openai", "node_openai", "langchain"])
def client(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["python_openai", "node_openai"])
def openai(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


USAGE = Usage(prompt_tokens=3, completion_tokens=2, total_tokens=5)
HI = [{"role": "user", "content": "Hi"}]
WEATHER = [{"role": "user", "content": "Weather?"}]
OSLO = ("weather", {"city": "Oslo"})
SUM = ("add", {"a": 1, "b": 2})


def requests(server: Live) -> list[dict[str, Any]]:
    """Return the requests that reached the model."""
    transport: Any = server.app.state.runtime.projects["demo"].transport
    found: list[dict[str, Any]] = transport.requests
    return found


def stored(server: Live, session: str) -> list[tuple[str, str]]:
    return [(m["role"], m["content"] or "") for m in server.stored(session)]


# - answers -


def test_plain_answer_is_read(client: ClientProgram) -> None:
    with live(project(answer("Hello!", usage=USAGE))) as server:
        seen = client.perform("plain", server, messages=HI)

        assert seen["session"] == seen["session_in_body"]
        assert stored(server, seen["session"]) == [("user", "Hi"), ("assistant", "Hello!")]
        assert (seen["text"], seen["finish_reason"], seen["tokens"]) == ("Hello!", "stop", 5)


def test_stream_is_read_piece_by_piece_with_its_usage(client: ClientProgram) -> None:
    with live(project(answer("Grüße, 世界", chunk_size=5, usage=USAGE))) as server:
        seen = client.perform("streamed", server, messages=HI)

        assert seen["texts"] == ["Grüße", ", 世界"]
        assert (seen["finish_reason"], seen["tokens"]) == ("stop", 5)
        assert stored(server, seen["session"]) == [("user", "Hi"), ("assistant", "Grüße, 世界")]


def test_stream_is_read_by_the_async_client(python_openai: ClientProgram) -> None:
    with live(project(answer("Hello", chunk_size=3, usage=USAGE))) as server:
        seen = python_openai.perform("streamed_async", server, messages=HI)

        assert (seen["texts"], seen["tokens"]) == (["Hel", "lo"], 5)


def test_unknown_usage_is_taken(client: ClientProgram) -> None:
    with live(project("Hello!", "Hello!")) as server:
        assert client.perform("plain", server, messages=HI)["tokens"] == -1
        assert client.perform("streamed", server, messages=HI)["tokens"] == -1


def test_stream_helper_takes_texts(openai: ClientProgram) -> None:
    with live(project(answer("Hello", chunk_size=3, usage=USAGE))) as server:
        seen = openai.perform("helper", server, messages=HI)

        assert seen["events"] == ["content.delta", "content.delta", "content.done"]
        assert (seen["text"], seen["finish_reason"], seen["tokens"]) == ("Hello", "stop", 5)


def test_stream_helper_takes_tool_calls(openai: ClientProgram) -> None:
    script = answer("Let me see.", calls=[OSLO, ("weather", {"city": "Rome"})], usage=USAGE)
    with live(project(script)) as server:
        seen = openai.perform("helper", server, messages=WEATHER, tools=True)

        assert seen["calls"] == [["call_1", "weather", "Oslo"], ["call_2", "weather", "Rome"]]
        assert (seen["text"], seen["finish_reason"], seen["tokens"]) == (
            "Let me see.",
            "tool_calls",
            5,
        )
        assert sum(event.endswith("done") for event in seen["events"]) == 3


def test_answer_of_a_type_is_asked_for_and_parsed(client: ClientProgram) -> None:
    with live(project('{"city": "Oslo"}')) as server:
        assert client.perform("parsed", server, messages=HI) == "Oslo"

        asked = requests(server)[0]["response_format"]
        assert asked["type"] == "json_schema"
        assert asked["json_schema"]["schema"]["properties"].keys() == {"city"}


# - tools -

FORMS = pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])


@FORMS
def test_clients_tool_is_called_and_its_result_used(client: ClientProgram, stream: bool) -> None:
    with live(project(calls(OSLO), "Sunny.")) as server:
        given: dict[str, Any] = {"messages": WEATHER, "stream": stream, "header": "s1"}
        seen = client.perform("tools", server, **given)

        assert seen == {"calls": [["call_1", "weather", "Oslo"]], "texts": ["", "Sunny."]}
        assert stored(server, "s1") == [
            ("user", "Weather?"),
            ("assistant", ""),
            ("tool", "sunny in Oslo"),
            ("assistant", "Sunny."),
        ]


@FORMS
def test_client_sends_results_alone(client: ClientProgram, stream: bool) -> None:
    with live(project(calls(OSLO, ("weather", {"city": "Rome"})), "Sunny.")) as server:
        given: dict[str, Any] = {"messages": WEATHER, "stream": stream, "body": "s1", "alone": True}
        seen = client.perform("tools", server, **given)

        assert [city for _, _, city in seen["calls"]] == ["Oslo", "Rome"]
        assert seen["texts"][-1] == "Sunny."
        assert [role for role, _ in stored(server, "s1")] == [
            "user",
            "assistant",
            "tool",
            "tool",
            "assistant",
        ]


def test_tools_work_without_a_session(client: ClientProgram) -> None:
    with live(project(calls(OSLO), "Sunny.")) as server:
        assert client.perform("tools", server, messages=WEATHER)["texts"] == ["", "Sunny."]


@FORMS
def test_projects_tool_runs_before_the_clients(client: ClientProgram, stream: bool) -> None:
    script = (answer("Adding.", calls=[SUM]), calls(OSLO), "3, and sunny.")
    with live(project(*script, tools=[add])) as server:
        given: dict[str, Any] = {"messages": WEATHER, "stream": stream, "header": "s1"}
        seen = client.perform("tools", server, **given)

        assert [name for _, name, _ in seen["calls"]] == ["weather"]
        assert seen["texts"] == ["Adding.", "3, and sunny."]
        assert stored(server, "s1") == [
            ("user", "Weather?"),
            ("assistant", "Adding."),
            ("tool", "3"),
            ("assistant", ""),
            ("tool", "sunny in Oslo"),
            ("assistant", "3, and sunny."),
        ]


@FORMS
def test_projects_tool_runs_together_with_the_clients(client: ClientProgram, stream: bool) -> None:
    with live(project(calls(OSLO, SUM), "3, and sunny.", tools=[add])) as server:
        given: dict[str, Any] = {"messages": WEATHER, "stream": stream, "header": "s1"}
        seen = client.perform("tools", server, **given)

        assert seen["calls"] == [["call_1", "weather", "Oslo"]]
        assert stored(server, "s1")[2:] == [
            ("tool", "3"),
            ("tool", "sunny in Oslo"),
            ("assistant", "3, and sunny."),
        ]


@FORMS
def test_run_tools_continues_to_the_last_answer(node_openai: ClientProgram, stream: bool) -> None:
    with live(project(calls(OSLO), calls(SUM), "Sunny.", tools=[add])) as server:
        given: dict[str, Any] = {"messages": WEATHER, "stream": stream, "header": "s1"}
        seen = node_openai.perform("run_tools", server, **given)

        assert seen == {"calls": ["Oslo"], "text": "Sunny."}
        assert len(stored(server, "s1")) == 6


# - sessions -


@pytest.mark.parametrize("place", ["header", "body"])
@pytest.mark.parametrize("scenario", ["plain", "streamed"])
def test_session_is_continued(client: ClientProgram, scenario: str, place: str) -> None:
    session: dict[str, Any] = {place: "s1"}
    with live(project("one", "two")) as server:
        for text in ("first", "second"):
            messages = [{"role": "user", "content": text}]
            seen = client.perform(scenario, server, messages=messages, **session)
            assert seen["session"] == "s1"

        assert [text for _, text in stored(server, "s1")] == ["first", "one", "second", "two"]


# - errors -


def test_wrong_key_is_an_authentication_error(client: ClientProgram) -> None:
    with live(project()) as server:
        seen = client.perform("refused", server, key="sk_wrong", messages=HI)

        assert (seen["class"], seen["status"]) == ("AuthenticationError", 401)
        assert seen["message"] == "Invalid authentication"
        assert seen["message"] in seen["text"]
        assert seen["type"] == "authentication_error"


@FORMS
def test_bad_request_names_the_bad_field(client: ClientProgram, stream: bool) -> None:
    with live(project()) as server:
        messages = [*HI, {"role": "tool", "tool_call_id": "call_9", "content": "x"}]
        fields = {"stream": stream}
        seen = client.perform("refused", server, messages=messages, fields=fields)

        assert (seen["class"], seen["status"]) == ("BadRequestError", 400)
        assert seen["message"] == f"The messages do not fit the session: {seen['details'][0]}"
        assert seen["message"] in seen["text"]
        assert seen["details"][0].startswith("messages[1].tool_call_id: ")
        assert seen["type"] == "invalid_request_error"


def test_error_in_the_middle_of_a_stream_is_raised(client: ClientProgram) -> None:
    with live(project(answer("Hello, you", chunk_size=5).broken_after(events=3))) as server:
        seen = client.perform("refused", server, messages=HI, fields={"stream": True})

        assert seen["class"] == "APIError"
        assert seen["message"] == "The model gave no whole answer"


# - repeats, which these clients make by themselves -


def test_client_retries_after_retry_after_and_one_turn_is_stored(client: ClientProgram) -> None:
    busy = http_error(429, "slow down", retry_after=0.01)
    with live(project(busy, http_error(500, "broken"), "Hello!")) as server:
        seen = client.perform("plain", server, messages=HI, header="s1")

        assert seen["text"] == "Hello!"
        assert len(requests(server)) == 3
        assert stored(server, "s1") == [("user", "Hi"), ("assistant", "Hello!")]


class BusyStore(MemoryStore):
    """A store in which another process holds each session until one request gave up."""

    def __init__(self) -> None:
        super().__init__()
        self.holders: list[str] = []

    async def take_lease(
        self, project: str, session_id: str, *, holder: str, seconds: float
    ) -> Lease | None:
        if holder not in self.holders:
            self.holders.append(holder)
        if holder == self.holders[0]:
            return None
        return await super().take_lease(project, session_id, holder=holder, seconds=seconds)


def test_client_retries_a_busy_session_and_one_turn_is_stored(client: ClientProgram) -> None:
    settings, store = ServerSettings(session_wait_seconds=0.05), BusyStore()
    with live(project("Hello!"), settings=settings, store=store) as server:
        seen = client.perform("streamed", server, messages=HI, header="s1")

        assert seen["texts"] == ["Hello!"]
        assert len(store.holders) == 2
        assert stored(server, "s1") == [("user", "Hi"), ("assistant", "Hello!")]


def test_client_does_not_retry_after_a_tool_ran(client: ClientProgram) -> None:
    with live(project(calls(SUM), http_error(500, "broken"), tools=[add])) as server:
        seen = client.perform("refused", server, messages=HI, retries=2)

        assert seen["status"] == 502
        assert len(requests(server)) == 2


def test_client_does_not_retry_a_spent_quota(client: ClientProgram) -> None:
    spent = http_error(429, "You exceeded your quota", code="insufficient_quota")
    with live(project(spent)) as server:
        seen = client.perform("refused", server, messages=HI, retries=2)

        assert seen["status"] == 429
        assert len(requests(server)) == 1
