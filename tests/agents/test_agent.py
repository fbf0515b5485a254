"""Agents run conversations to an answer, a limit, or a call that only the caller can run."""

import copy
import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from driven_agents import said, stored
from pathors_agent.agents.agent import Agent, AsyncAgent
from pathors_agent.agents.result import RunResult
from pathors_agent.core.conversation import Conversation
from pathors_agent.core.run import Status
from pathors_agent.errors import ConversationError, RunNotFinished, ToolDefinitionError
from pathors_agent.history.loading import dump_messages
from pathors_agent.messages import (
    AssistantMessage,
    ContentPart,
    SystemMessage,
    ToolCall,
    ToolMessage,
    Usage,
    UserMessage,
)
from pathors_agent.testing import AsyncScriptedTransport, Entry, ScriptedTransport, answer, calls
from pathors_agent.tools.registry import ToolRegistry
from pathors_agent.tools.signature import ToolContext
from pathors_agent.tools.tool import Tool, tool
from pathors_agent.transports.aiohttp import AiohttpTransport
from pathors_agent.transports.http import AsyncHTTPTransport, HTTPTransport
from pathors_agent.wire.chat_completions import ModelOptions
from talking_agents import ADD, APPROVE, CLIENT_CALL, DOUBLE, GO, add, double
from ways import Way

# - one run


def test_answer_is_the_output(way: Way) -> None:
    usage = Usage(prompt_tokens=5, completion_tokens=2, total_tokens=7)

    result = way.run(answer("Hello.", usage=usage), prompt="Hi.", model="demo")

    assert result.output == "Hello."
    assert result.status is Status.FINISHED
    assert result.finish_reason == "stop"
    assert result.limit is None
    assert result.open_calls == ()
    assert said(result.messages) == ["Hi.", "Hello."]
    assert result.conversation.messages == result.messages
    assert (result.usage.prompt_tokens, result.usage.total_tokens) == (5, 7)


def test_tools_are_run_until_there_is_an_answer(way: Way) -> None:
    result = way.run(calls(ADD, DOUBLE), calls(DOUBLE), "Done.", prompt="Go.", tools=[add, double])

    assert said(result.messages) == ["Go.", "", "3", "6", "", "6", "Done."]
    assert [message["role"] for message in way.requests[2]["messages"]] == [
        "user",
        "assistant",
        "tool",
        "tool",
        "assistant",
        "tool",
    ]
    assert result.finish_reason == "stop"


def test_usage_is_summed_and_unknown_where_an_answer_left_it_out(way: Way) -> None:
    known = Usage(prompt_tokens=5, completion_tokens=2, total_tokens=7, cached_tokens=1)

    both = way.run(
        answer(calls=[ADD], usage=known), answer("3", usage=known), prompt="Go.", tools=[add]
    )
    one = way.run(answer(calls=[ADD], usage=known), "3", prompt="Go.", tools=[add])

    assert (both.usage.prompt_tokens, both.usage.completion_tokens) == (10, 4)
    assert one.usage.prompt_tokens is None


def test_whole_and_streamed_runs_end_equally(way: Way) -> None:
    script = (answer("Hm.", calls=[ADD, DOUBLE]), "Done.")

    whole = way.run(*script, prompt="Go.", tools=[add, double])
    streamed = way.stream(*script, prompt="Go.", tools=[add, double], cut=3)

    assert whole.messages == streamed.messages
    assert whole.status is streamed.status
    assert whole.output == streamed.output == "Done."


def test_request_holds_the_agents_settings(way: Way) -> None:
    way.run(
        "Hello.",
        prompt="Hi.",
        model="demo",
        instructions="Be brief.",
        tools=[add],
        options=ModelOptions(temperature=0.5, max_tokens=10),
    )

    [request] = way.requests
    assert request["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi."},
    ]
    assert (request["model"], request["temperature"], request["max_tokens"]) == ("demo", 0.5, 10)
    assert request["stream"] is True
    [definition] = request["tools"]
    assert definition["function"]["name"] == "add"


def test_instructions_are_no_part_of_the_history(way: Way) -> None:
    result = way.run(calls(ADD), "3", prompt="Go.", instructions="Be brief.", tools=[add])

    assert not any(isinstance(message, SystemMessage) for message in result.messages)
    assert [request["messages"][0]["role"] for request in way.requests] == ["system", "system"]


@pytest.mark.parametrize(
    ("prompt", "content"),
    [
        ("Look.", "Look."),
        (UserMessage(content="Look.", name="ada"), "Look."),
        ([ContentPart(type="text", text="Look.")], [{"type": "text", "text": "Look."}]),
    ],
)
def test_prompt_may_be_text_or_parts_or_a_message(way: Way, prompt: Any, content: object) -> None:
    result = way.run("Seen.", prompt=prompt)

    assert way.requests[0]["messages"][0]["content"] == content
    assert isinstance(result.messages[0], UserMessage)


def test_context_reaches_the_tools_and_keys_are_equal_on_every_replay(way: Way) -> None:
    seen: list[tuple[object, str, str | None]] = []

    @tool
    def note(context: ToolContext[str]) -> None:
        """Note who calls."""
        seen.append((context.context, context.key, context.session_id))

    def run(conversation: Conversation) -> None:
        way.run(
            calls(("note", {}), ("note", {})),
            calls(("note", {})),
            "Done.",
            prompt="Go.",
            conversation=conversation,
            context="Ada",
            tools=[note],
        )

    run(Conversation(session_id="session-1"))
    first, seen[:] = sorted(seen), []
    run(Conversation(session_id="session-1"))

    assert [context for context, _, _ in first] == ["Ada"] * 3
    assert [session for _, _, session in first] == ["session-1"] * 3
    assert len({key for _, key, _ in first}) == 3
    assert sorted(seen) == first


def test_keys_of_two_conversations_differ(way: Way) -> None:
    seen: list[str] = []

    @tool
    def note(context: ToolContext[None]) -> None:
        """Note who calls."""
        seen.append(context.key)

    for _ in range(2):
        way.run(calls(("note", {})), "Done.", prompt="Go.", tools=[note])

    assert len(set(seen)) == 2


def test_parts_of_a_key_are_known_before_a_call_begins() -> None:
    keys: list[str] = []

    @tool
    def note(context: ToolContext[None]) -> None:
        """Note who calls."""
        keys.append(context.key)

    agent = Agent(ScriptedTransport(calls(("note", {})), "Done."), tools=[note])
    with agent.stream("Go.") as stream:
        stored = next(stream.conversation.id for i in stream if isinstance(i, AssistantMessage))
        assert keys == []

    again = Conversation(stream.conversation.messages, id=stored)
    Agent(ScriptedTransport("Done."), tools=[note]).run(conversation=again)
    assert stored
    assert keys == [f"{stored}/tool/0/0"]


@pytest.mark.parametrize(
    ("agent", "transport", "hint"),
    [
        (Agent, AsyncScriptedTransport(), "is AsyncAgent the agent you want?"),
        (AsyncAgent, ScriptedTransport(), "is Agent the agent you want?"),
        (Agent, "http://localhost", "pass HTTPTransport('http://localhost')"),
        (AsyncAgent, "http://localhost", "pass AsyncHTTPTransport('http://localhost')"),
        (Agent, "https://me:s3cret@localhost", "pass HTTPTransport(base_url)"),
        (Agent, "openai:gpt-4o", "pass HTTPTransport(base_url, api_key=...) and model='gpt-4o'"),
        (Agent, ScriptedTransport, "call it, and pass what it returns"),
    ],
)
def test_wrong_transport_is_refused_with_a_hint(agent: Any, transport: object, hint: str) -> None:
    with pytest.raises(TypeError) as caught:
        agent(transport)

    assert str(caught.value).endswith(f"; {hint}")


def test_function_that_is_no_tool_is_refused_when_the_agent_is_made() -> None:
    with pytest.raises(ToolDefinitionError, match="@tool"):
        Agent(ScriptedTransport(), tools=[said])


def test_registry_may_be_shared_by_agents(way: Way) -> None:
    registry = ToolRegistry([add])

    assert way.run(calls(ADD), "3", prompt="Go.", tools=registry).output == "3"
    assert way.run(calls(ADD), "3", prompt="Go.", tools=registry).output == "3"


# - conversations over several runs


def test_conversation_is_carried_on(way: Way) -> None:
    conversation = Conversation()

    first = way.run("Hello.", prompt="Hi.", conversation=conversation)
    second = way.run(calls(ADD), "3", prompt="Add.", conversation=conversation, tools=[add])

    assert said(conversation.messages) == ["Hi.", "Hello.", "Add.", "", "3", "3"]
    assert said(first.messages) == ["Hi.", "Hello."]
    assert said(second.messages) == ["Add.", "", "3", "3"]
    assert [message["content"] for message in way.requests[0]["messages"]] == [
        "Hi.",
        "Hello.",
        "Add.",
    ]
    assert second.conversation is conversation


def test_result_keeps_the_status_of_its_run(way: Way) -> None:
    conversation = Conversation()
    first = way.run("Hello.", prompt="Hi.", conversation=conversation)

    way.run(calls(CLIENT_CALL), prompt="Go.", conversation=conversation, tools=[APPROVE])

    assert first.output == "Hello."
    assert first.open_calls == ()
    assert said(first.messages) == ["Hi.", "Hello."]


def test_another_agent_continues_the_conversation_of_a_result(way: Way) -> None:
    result = way.run(calls(ADD), "3", prompt="Add.", tools=[add])

    again = way.run("Hello.", prompt="Hi.", conversation=stored(result.conversation))

    assert again.output == "Hello."
    assert len(way.requests[0]["messages"]) == 5


def test_run_without_a_prompt_performs_pending_effects(way: Way) -> None:
    opened = AssistantMessage(
        tool_calls=tuple(
            ToolCall(id=i, name="add", arguments=f'{{"a": 1, "b": {b}}}')
            for i, b in (("x", 1), ("y", 2), ("z", 3))
        )
    )
    conversation = Conversation([GO, opened, ToolMessage(tool_call_id="y", content="given")])

    result = way.run("Done.", conversation=conversation, tools=[add])

    assert said(conversation.messages) == ["Go.", "", "2", "given", "4", "Done."]
    assert said(result.messages) == ["2", "4", "Done."]


def test_run_without_a_prompt_and_pending_effects_calls_no_model(way: Way) -> None:
    conversation = Conversation([GO, AssistantMessage(content="Done.")])

    result = way.run(conversation=conversation)
    empty = way.run()

    assert result.status is empty.status is Status.FINISHED
    assert result.messages == empty.messages == ()
    assert way.requests == []
    with pytest.raises(RunNotFinished, match="pass a prompt"):
        assert empty.output
    assert empty.usage == Usage(
        prompt_tokens=0, completion_tokens=0, total_tokens=0, cached_tokens=0, reasoning_tokens=0
    )


def test_prompt_closes_the_calls_that_are_open(way: Way) -> None:
    opened = AssistantMessage(
        tool_calls=(ToolCall(id="x", name="approve"), ToolCall(id="y", name="charge"))
    )
    conversation = Conversation([GO, opened])

    result = way.run("Hm.", prompt="And?", conversation=conversation, tools=[APPROVE])

    assert result.output == "Hm."
    closed = [m for m in result.messages if isinstance(m, ToolMessage)]
    assert [(m.tool_call_id, m.outcome, m.text) for m in closed] == [
        ("x", "cancelled", "Not answered: the user went on."),
        (
            "y",
            "unknown",
            "Outcome unknown: the user went on. It is not known whether the call was carried out."
            " Find out before you repeat it, or tell the user.",
        ),
    ]
    assert said(conversation.messages)[-2:] == ["And?", "Hm."]


def test_prompt_that_is_none_leaves_open_calls_open(way: Way) -> None:
    conversation = Conversation([GO, AssistantMessage(tool_calls=(ToolCall(id="x", name="a"),))])
    before = pickle.dumps(conversation)

    with pytest.raises(ConversationError, match="not a user message"):
        way.run(prompt={"role": "system", "content": "Hi."}, conversation=conversation)

    assert pickle.dumps(conversation) == before
    assert way.requests == []


def test_prompt_after_closing_the_open_calls_continues_the_run(way: Way) -> None:
    conversation = Conversation()
    way.run(calls(CLIENT_CALL), prompt="Go.", conversation=conversation, tools=[APPROVE])

    conversation.close_open_calls("The user went away.")
    result = way.run("Welcome back.", prompt="Hello?", conversation=conversation, tools=[APPROVE])

    assert result.output == "Welcome back."
    assert said(conversation.messages)[2:4] == ["Not answered: The user went away.", "Hello?"]


# - streams that are left


def everything(prefix: int) -> tuple[Entry, ...]:
    """Return the rest of a script of three answers after this number of whole ones."""
    script = (answer("Hm.", calls=[ADD, DOUBLE]), answer(calls=[ADD]), answer("Done."))
    return script[prefix:]


def test_stream_left_anywhere_has_a_true_history_and_continues(way: Way) -> None:
    tools = [add, double]
    whole = way.stream(*everything(0), prompt="Go.", tools=tools)
    count = len(way.items)
    assert count > 15

    for stop_after in range(1, count + 1):
        left = Way(way.name)
        conversation = Conversation()
        result = left.stream(
            *everything(0),
            prompt="Go.",
            conversation=conversation,
            tools=tools,
            stop_after=stop_after,
        )
        assert conversation.messages == whole.messages[: len(conversation.messages)]
        assert result.messages == conversation.messages
        if stop_after == count:
            assert result.status is Status.FINISHED
            continue
        assert result.status is Status.RUNNING
        with pytest.raises(RunNotFinished, match="left before its end") as unfinished:
            assert result.output
        assert unfinished.value.messages == conversation.messages

        taken = sum(isinstance(m, AssistantMessage) for m in conversation.messages)
        rest = Way(way.name).run(*everything(taken), conversation=conversation, tools=tools)
        assert contents(conversation) == contents(whole.conversation)
        assert rest.status is Status.FINISHED


def contents(conversation: Conversation) -> list[tuple[str, str, list[str]]]:
    """Return what was said, without the ids that providers count up."""
    return [
        (m.role, m.text, [c.name + c.arguments for c in getattr(m, "tool_calls", ())])
        for m in conversation.messages
    ]


def test_stream_that_was_never_read_holds_the_prompt_only() -> None:
    with Agent(ScriptedTransport()).stream("Go.") as stream:
        pass

    assert stream.result.messages == stream.conversation.messages == (GO,)
    assert stream.result.status is Status.RUNNING


def test_result_of_a_stream_grows_as_it_goes() -> None:
    grown = []

    with Agent(ScriptedTransport(calls(ADD), "3"), tools=[add]).stream("Go.") as stream:
        for item in stream:
            if not hasattr(item, "role"):
                continue
            assert stream.result.messages[-1] == item
            grown.append(stream.result.status)

    assert grown == [Status.RUNNING, Status.RUNNING, Status.FINISHED]
    assert stream.result.output == "3"


# - what shows


def test_reprs_hold_no_contents(way: Way) -> None:
    canary = "hunter2-canary"

    result = way.run(answer(canary, reasoning=canary), prompt=canary, instructions=canary)

    assert canary not in repr(result)
    assert canary not in repr(result.conversation)
    assert isinstance(result, RunResult)


def test_half_a_character_of_a_tool_does_not_end_the_conversation(way: Way) -> None:
    def give() -> str:
        return "half \ud83d"

    parameters: dict[str, Any] = {"type": "object", "properties": {}}
    tools = [Tool(name="give", parameters=parameters, function=give)]

    result = way.run(calls(("give", {})), "Done.", prompt="Go.", tools=tools)

    assert said(result.messages) == ["Go.", "", "half �", "Done."]
    assert json.loads(dump_messages(result.messages))


@pytest.mark.parametrize(
    ("reason", "ended_by"),
    [
        ("length", "length"),
        ("max_tokens", "length"),
        ("content_filter", "content_filter"),
        ("stop", None),
    ],
)
def test_plain_answer_that_was_cut_off_is_returned_with_its_reason(
    way: Way, reason: str, ended_by: str | None
) -> None:
    result = way.run(answer("Once upon", finish_reason=reason), prompt="A story.")

    assert (result.status, result.output) == (Status.FINISHED, "Once upon")
    assert result.ended_by == ended_by
    assert f"ended_by={ended_by!r}" in repr(result)


def test_run_that_continues_after_a_cut_answer_has_no_ended_by(way: Way) -> None:
    cut = answer(calls=[("add", '{"a": 1')], finish_reason="length")

    result = way.run(cut, "Three.", prompt="1 + 2?", tools=[add])

    assert (result.output, result.ended_by) == ("Three.", None)


@pytest.mark.parametrize(
    "build",
    [
        lambda: HTTPTransport("http://127.0.0.1:1/v1"),
        lambda: AsyncHTTPTransport("http://127.0.0.1:1/v1"),
        lambda: AiohttpTransport("http://127.0.0.1:1/v1"),
        lambda: Agent(ScriptedTransport("Hello.")),
        lambda: AsyncAgent(AsyncScriptedTransport("Hello.")),
    ],
    ids=["http", "async-http", "aiohttp", "agent", "async-agent"],
)
@pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy])
def test_object_with_connections_is_neither_pickled_nor_copied(
    build: Callable[[], object], copied: Callable[[object], object]
) -> None:
    with pytest.raises(TypeError, match="cannot be pickled or copied, because its connections"):
        copied(build())
