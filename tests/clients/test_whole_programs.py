"""Whole programs of clients that others wrote: greet, call tools, go on; in one session and in none.

Each has a program in `programs`. Some send their whole history; those that let their caller choose
send any end of it. Agents' libraries run the calls by themselves.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from client_programs import ClientProgram, Environments, running_program
from live_server import Live, live
from pathors_agent import tool
from pathors_agent.server import Project
from pathors_agent.testing import AsyncScriptedTransport, answer, calls

# The first test waits until the clients are installed.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

# The environment and the program of each.
CLIENTS = {
    "openai-python": ("openai", "openai_client.py"),
    "openai-node": ("openai-node", "openai_client.mjs"),
    "langchain": ("langchain", "langchain_client.py"),
    "openai-agents": ("openai-agents", "agents_client.py"),
    "pydantic-ai": ("langchain", "pydantic_ai_client.py"),
    "ai-sdk": ("ai-sdk", "ai_sdk_client.mjs"),
    "litellm": ("litellm", "litellm_client.py"),
    "llm": ("llm", "llm_client.py"),
    "mirascope": ("mirascope", "mirascope_client.py"),
}

# Those whose caller chooses what is sent.
SLICING = ("openai-python", "openai-node", "langchain", "litellm")

FORMS = pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])


@pytest.fixture(scope="module", params=CLIENTS)
def client(
    request: pytest.FixtureRequest,
    client_environments: Environments,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ClientProgram]:
    home = tmp_path_factory.mktemp("client")
    with running_program(client_environments, *CLIENTS[request.param], home) as running:
        yield running


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


OSLO = ("weather", {"city": "Oslo"})
SUM = ("add", {"a": 1, "b": 2})

# The project's tool runs before the client's, and beside it.
TALK = ("Hello.", answer("Adding.", calls=[SUM]), calls(OSLO, SUM), "Sunny, 3.", "Bye.")
TEXTS = ["Hi", "Weather and 1+2?", "Bye"]
ANSWERS = ["Hello.", "Adding.", "Sunny, 3.", "Bye."]


STORED = [
    ("user", "Hi"),
    ("assistant", "Hello."),
    ("user", "Weather and 1+2?"),
    ("assistant", "Adding."),
    ("tool", "3"),
    ("assistant", ""),
    ("tool", "3"),
    ("tool", "sunny"),
    ("assistant", "Sunny, 3."),
    ("user", "Bye"),
    ("assistant", "Bye."),
]


def serving() -> Any:
    return live(Project(id="demo", transport=AsyncScriptedTransport(*TALK), tools=[add]))


def talk(client: ClientProgram, server: Live, **given: Any) -> list[str]:
    """Return the texts that the client read; some leave out empty ones."""
    seen = client.perform("talk", server, texts=TEXTS, **{"last": 100} | given)
    return [text for text in seen if text]


def brief(messages: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(m["role"], m["content"] or "") for m in messages]


def last_request(server: Live) -> list[tuple[str, str]]:
    """Return the messages that reached the model last."""
    transport: Any = server.app.state.runtime.projects["demo"].transport
    return brief(transport.requests[-1]["messages"])


@FORMS
def test_whole_program_is_one_session(client: ClientProgram, stream: bool) -> None:
    with serving() as server:
        assert talk(client, server, stream=stream, header="s1") == ANSWERS
        assert brief(server.stored("s1")) == STORED


@FORMS
def test_whole_program_with_a_system_prompt_is_one_session(
    client: ClientProgram, stream: bool
) -> None:
    with serving() as server:
        said = talk(client, server, stream=stream, header="s1", system="Be brief.")

        assert said == ANSWERS
        prompt = ("system", "Be brief.")
        assert brief(server.stored("s1")) == [prompt, *STORED]
        assert [each for each in last_request(server) if each[0] == "system"] == [prompt]


@FORMS
@pytest.mark.parametrize("last", [3, 1])
@pytest.mark.parametrize("client", SLICING, indirect=True)
def test_program_that_sends_the_end_of_its_history_is_one_session(
    client: ClientProgram, stream: bool, last: int
) -> None:
    with serving() as server:
        assert talk(client, server, stream=stream, header="s1", last=last) == ANSWERS
        assert brief(server.stored("s1")) == STORED


@FORMS
def test_whole_program_works_without_a_session(client: ClientProgram, stream: bool) -> None:
    with serving() as server:
        assert talk(client, server, stream=stream) == ANSWERS
        assert last_request(server) == [
            ("user", "Hi"),
            ("assistant", "Hello."),
            ("user", "Weather and 1+2?"),
            ("assistant", "Adding."),
            ("tool", "sunny"),
            ("assistant", "Sunny, 3."),
            ("user", "Bye"),
        ]
