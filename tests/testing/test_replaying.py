"""A run goes again from its log byte for byte, or the first difference is told."""

from contextlib import suppress
from typing import Any

import anyio
import pytest
from hypothesis import given, settings

from effort import examples
from pathors_agent import (
    Agent,
    AssistantMessage,
    AsyncAgent,
    ContentPart,
    Conversation,
    EndpointProfile,
    JSONValue,
    Limits,
    ModelOptions,
    RunResult,
    SystemMessage,
    Tool,
    ToolMessage,
    ToolRegistry,
    TransportError,
    Usage,
    UserMessage,
    dump_messages,
    tool,
)
from pathors_agent.testing import (
    Entry,
    HostileScript,
    ReplayDifference,
    ScriptedTransport,
    answer,
    calls,
    hostile_scripts,
    replay,
    replay_async,
)
from ways import WAYS


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool
def subtract(a: int, b: int) -> int:
    """Subtract a number from another."""
    return a - b


ASK = Tool(name="ask", description="Ask the caller.")
SCRIPT = (calls(("add", {"a": 1, "b": 2}), ("add", {"a": 3, "b": 4})), "3 and 7")


def made(*script: Entry, prompts: tuple[str, ...] = ("Go.",), **settings_: Any) -> Any:
    """Run an agent through a script; return its conversation and the requests that it sent."""
    model = ScriptedTransport(*script)
    conversation = Conversation()
    for prompt in prompts:
        Agent(model, **{"tools": [add], **settings_}).run(prompt, conversation=conversation)
    return conversation, [request.body for request in model.sent]


def again(way: str, log: Any, requests: Any = (), **settings_: Any) -> list[bytes]:
    """Replay a log in one of the ways."""
    settings_ = {"tools": [add], **settings_}
    profile = settings_.pop("profile", EndpointProfile())

    async def main() -> list[bytes]:
        def make(transport: Any) -> AsyncAgent[Any]:
            return AsyncAgent(transport, **settings_)

        return await replay_async(log, make, requests=requests, profile=profile)

    if way != "blocking":
        return anyio.run(main, backend=way)
    return replay(
        log, lambda transport: Agent(transport, **settings_), requests=requests, profile=profile
    )


@pytest.mark.parametrize("way", WAYS)
def test_run_is_replayed_byte_for_byte(way: str) -> None:
    conversation, sent = made(*SCRIPT)

    assert again(way, conversation) == sent
    assert again(way, conversation.messages, sent) == sent
    assert again(way, dump_messages(conversation.messages)) == sent


def test_result_is_a_log() -> None:
    result: RunResult[str] = Agent(ScriptedTransport(*SCRIPT), tools=[add]).run("Go.")

    assert len(replay(result, lambda transport: Agent(transport, tools=[add]))) == 2


@pytest.mark.parametrize("way", WAYS)
def test_different_result_of_a_tool_is_reported_with_its_request(way: str) -> None:
    conversation, _ = made(*SCRIPT)

    @tool(name="add")
    def add_wrongly(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b + (a == 3)

    with pytest.raises(ReplayDifference) as caught:
        again(way, conversation, tools=[add_wrongly])

    assert caught.value.request == 2
    assert str(caught.value.difference) == 'messages[3].content: "7" before, "8" now'
    assert str(caught.value).splitlines() == [
        'request 2 differs in messages[3].content: "7" before, "8" now',
        "The run so far:",
        "user       Go.",
        "assistant  calls add(a=1, b=2)",
        "assistant  calls add(a=3, b=4)",
        "tool       add -> 3",
        "tool       add -> 8",
    ]


@pytest.mark.parametrize(
    ("settings_", "difference"),
    [
        ({"instructions": "Be kind."}, 'messages[0].role: "user" before, "system" now'),
        ({"model": "new"}, 'model: nothing before, "new" now'),
        ({"options": ModelOptions(temperature=0.5)}, "temperature: nothing before, 0.5 now"),
        ({"tools": [add, ASK]}, "tools[1]: nothing before, {"),
    ],
)
def test_recorded_requests_reveal_changes_of_the_agent(settings_: Any, difference: str) -> None:
    conversation, sent = made(*SCRIPT)

    with pytest.raises(ReplayDifference) as caught:
        again("blocking", conversation, sent, **settings_)

    assert caught.value.request == 1
    assert str(caught.value.difference).startswith(difference)


def test_bytes_that_are_equal_as_json_differ_nevertheless() -> None:
    conversation, sent = made("Hi")

    with pytest.raises(ReplayDifference, match=r"request 1 differs in byte 12"):
        again("blocking", conversation, [sent[0].replace(b'"messages":', b'"messages": ')])


@pytest.mark.parametrize("way", WAYS)
def test_every_turn_of_a_conversation_is_replayed(way: str) -> None:
    conversation, sent = made(*SCRIPT, "Bye.", prompts=("Go.", "And?"))

    assert again(way, conversation) == sent


@pytest.mark.parametrize("way", WAYS)
def test_results_of_the_caller_are_read_from_the_log(way: str) -> None:
    model = ScriptedTransport(calls(("ask", {}), ("add", {"a": 1, "b": 2})), "Fine.")
    agent = Agent(model, tools=[add, ASK])
    conversation = agent.run("Go.").conversation
    conversation.append(ToolMessage(tool_call_id="call_1", content="yes"))
    agent.run(conversation=conversation)

    requests = again(way, conversation, tools=[add, ASK])

    assert requests == [request.body for request in model.sent]


def test_replay_of_a_log_that_ends_in_the_middle_ends_there() -> None:
    conversation, sent = made(*SCRIPT)

    assert again("blocking", conversation.messages[:4]) == sent
    assert again("blocking", conversation.messages[:3]) == sent
    assert again("blocking", conversation.messages[:1]) == sent[:1]


def test_replay_of_a_suspended_run_ends_there() -> None:
    conversation, sent = made(calls(("ask", {})), tools=[ASK])

    assert again("blocking", conversation, tools=[ASK]) == sent


def test_replay_of_a_run_that_reached_its_limit_ends_there() -> None:
    conversation, sent = made(*[calls(("add", {"a": 1, "b": 2}))] * 2, limits=Limits(turns=2))

    assert again("blocking", conversation, limits=Limits(turns=2)) == sent


def test_run_that_now_stops_earlier_is_a_difference() -> None:
    conversation, _ = made(*SCRIPT)

    with pytest.raises(ReplayDifference, match=r"messages differ: \[4\].*nothing now") as caught:
        again("blocking", conversation, limits=Limits(turns=1))

    assert caught.value.request is None


def test_answers_keep_all_their_fields() -> None:
    extra: dict[str, JSONValue] = {"reasoning_details": [{"type": "text", "text": "Hm"}]}
    log = [
        SystemMessage(content="Be kind."),
        AssistantMessage(content="Hello, I am Ada."),
        UserMessage(content=(ContentPart(type="text", text="Go."),)),
        AssistantMessage(content="1", extra=extra, usage=Usage(total_tokens=9), model="m", id="1"),
        UserMessage(content="And?"),
        AssistantMessage(content=None, refusal="No."),
    ]

    requests = again("blocking", log)

    assert b'"reasoning_details":[{"type":"text","text":"Hm"}]' in requests[1]


def test_total_tokens_of_the_log_count_again() -> None:
    spent = Usage(prompt_tokens=1, completion_tokens=1, total_tokens=2)
    script = [answer(calls=[("add", {"a": 1, "b": 2})], usage=spent)] * 2
    limits = Limits(total_tokens=4)
    conversation, sent = made(*script, limits=limits)

    assert again("blocking", conversation, limits=limits) == sent


def test_profile_is_that_of_the_endpoint() -> None:
    profile = EndpointProfile(sends="new_messages")
    model = ScriptedTransport(*SCRIPT, profile=profile)
    conversation = Agent(model, tools=[add]).run("Go.", session_id="s").conversation
    requests = [request.body for request in model.sent]

    assert again("blocking", conversation, profile=profile) == requests
    # A log of messages alone names no session.
    assert again("blocking", conversation.messages, profile=profile) == requests


@given(script=hostile_scripts([add, subtract, ASK]))
@settings(max_examples=examples(60))
def test_any_run_with_a_hostile_model_is_replayed(script: HostileScript) -> None:
    tools, limits = ToolRegistry([add, subtract, ASK]), Limits(turns=4)
    conversation = Conversation()
    model = script.transport()
    with suppress(TransportError):
        Agent(model, tools=tools, limits=limits).run("Go.", conversation=conversation)

    requests = again("blocking", conversation, tools=tools, limits=limits)

    assert requests == [request.body for request in model.sent]
