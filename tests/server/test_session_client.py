"""The client's half of the session API against the server's half."""

from collections.abc import Iterator
from typing import Any, Literal

import anyio
import pytest

from live_server import Live, live
from pathors_agent import (
    Agent,
    AssistantMessage,
    AsyncHTTPTransport,
    Conversation,
    HTTPTransport,
    ProviderError,
    RetryingTransport,
    last_turns,
    tool,
)
from pathors_agent.errors import SessionConflict, SessionNotFound
from pathors_agent.messages import Message
from pathors_agent.server import Project
from pathors_agent.sessions import AsyncEndpointSessions, EndpointSessions
from pathors_agent.testing import AsyncScriptedTransport, calls


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@pytest.fixture
def server() -> Iterator[Live]:
    script = (calls(("add", {"a": 1, "b": 2})), "It is 3.", "You are welcome.")
    project = Project(id="demo", transport=AsyncScriptedTransport(*script), tools=[add])
    with live(project) as running:
        yield running
        running.app.state.runtime.projects["demo"].transport.requests += [{}] * 3


def test_sessions_are_made_read_found_listed_and_ended(server: Live) -> None:
    with HTTPTransport(server.base, api_key=server.key) as transport:
        sessions = EndpointSessions(RetryingTransport(transport))
        sessions.create("a/b", variables={"name": "Bø"}, provider="web")
        agent = Agent(transport)
        first = agent.run("1+2?", session_id="s1")

        assert first.output == "It is 3."
        kept = sessions.get("s1")
        assert [message.role for message in kept.messages] == [
            "user",
            "assistant",
            "tool",
            "assistant",
        ]
        assert sessions.get("a/b").variables == {"name": "Bø"}
        assert [found.id for found in sessions.search("Bø").items] == ["a/b"]
        assert [entry.id for entry in sessions.list().items] == ["s1", "a/b"]
        sessions.end("s1")
        sessions.end("s1")
        with pytest.raises(SessionNotFound):
            sessions.get("s1")
        with pytest.raises(SessionConflict):
            sessions.create("a/b", variables={"name": "other"})


def arguments(message: Message) -> list[str]:
    assert isinstance(message, AssistantMessage)
    return [call.arguments for call in message.tool_calls]


def test_broken_arguments_are_kept_in_the_session_and_mended_for_the_model() -> None:
    broken = '{"a": 1, "b"'
    script = (calls(("add", broken)), "It went wrong.", "You are welcome.")
    model = AsyncScriptedTransport(*script)
    with live(Project(id="demo", transport=model, tools=[add])) as server:
        with HTTPTransport(server.base, api_key=server.key) as transport:
            agent = Agent(transport)
            first = agent.run("1+2?", session_id="s1")
            agent.run("Thanks", conversation=first.conversation, session_id="s1")

            kept = EndpointSessions(transport).get("s1").messages

    assert [message.role for message in kept] == [
        *("user", "assistant", "tool", "assistant"),
        *("user", "assistant"),
    ]
    assert arguments(kept[1]) == [broken]
    assert kept[2].text.startswith("The arguments of add are not JSON")
    for request in model.requests[1:]:
        (wire,) = request["messages"][1]["tool_calls"]
        assert wire["function"]["arguments"] == "{}"


def test_client_gets_broken_arguments_as_the_model_wrote_them() -> None:
    @tool
    def weather(city: str) -> str:
        """Look up the weather."""
        return city

    model = AsyncScriptedTransport(calls(("weather", "Oslo")), "Which city?", "Bye.")
    with live(Project(id="demo", transport=model)) as server:
        with HTTPTransport(server.base, api_key=server.key) as transport:
            agent = Agent(transport, tools=[weather])
            first = agent.run("Weather?", session_id="s1")
            agent.run("Thanks", conversation=first.conversation, session_id="s1")

            kept = EndpointSessions(transport).get("s1").messages

    assert arguments(first.messages[1]) == ["Oslo"]
    assert [message.role for message in kept] == [
        *("user", "assistant", "tool", "assistant"),
        *("user", "assistant"),
    ]
    assert arguments(kept[1]) == ["Oslo"]
    assert model.requests[1]["messages"][1]["tool_calls"][0]["function"]["arguments"] == "{}"


def test_agent_that_sends_only_new_messages_continues_a_session(server: Live) -> None:
    with HTTPTransport(server.base, api_key=server.key) as transport:
        agent = Agent(transport)
        first = agent.run("1+2?")
        agent.run("Thanks", conversation=first.conversation)

        (entry,) = EndpointSessions(transport).list().items
        assert entry.id == first.session_id
        kept = EndpointSessions(transport).get(entry.id)
        assert [message.text for message in kept.messages if message.role == "user"] == [
            "1+2?",
            "Thanks",
        ]


@pytest.mark.parametrize("sends", [None, "new_messages", "history"])
def test_trimming_client_doubles_nothing(sends: Literal["history", "new_messages"] | None) -> None:
    model = AsyncScriptedTransport(*(f"A{turn}" for turn in range(5)))
    conversation = Conversation()
    with (
        live(Project(id="demo", transport=model)) as server,
        HTTPTransport(server.base, api_key=server.key, sends=sends) as transport,
    ):
        for prompt in ("one", "two", "three", "four", "five"):
            Agent(transport, history=last_turns(2)).run(prompt, conversation=conversation)

    texts = [message["content"] for message in model.requests[-1]["messages"]]
    whole = ["one", "A0", "two", "A1", "three", "A2", "four", "A3", "five"]
    assert texts == (whole if sends != "history" else ["four", "A3", "five"])


def test_wrong_key_is_an_error(server: Live) -> None:
    with HTTPTransport(server.base, api_key="sk_wrong") as transport:
        with pytest.raises(ProviderError) as caught:
            EndpointSessions(transport).list()
        assert caught.value.status == 401
        assert "Invalid authentication" in str(caught.value)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_async_half_does_the_same(server: Live, backend: str) -> None:
    async def main() -> None:
        async with AsyncHTTPTransport(server.base, api_key=server.key) as transport:
            sessions = AsyncEndpointSessions(transport)
            await sessions.create("s1", variables={"n": 1})
            assert (await sessions.get("s1")).variables == {"n": 1}
            assert (await sessions.search('"n":1')).total == 1
            await sessions.end("s1")
            with pytest.raises(SessionNotFound):
                await sessions.get("s1")

    anyio.run(main, backend=backend)


def test_sessions_of_another_kind_of_transport_are_refused() -> None:
    mistakes: Any = (
        (EndpointSessions, AsyncScriptedTransport()),
        (AsyncEndpointSessions, "http://x"),
    )

    for client, given in mistakes:
        with pytest.raises(TypeError, match=f"{client.__name__} takes .*Transport, not "):
            client(given)
