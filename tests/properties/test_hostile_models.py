"""Whatever a model asks for, the history is legal, every call has one result, no cut call ran."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathors_agent.agents.agent import Agent, AsyncAgent
from pathors_agent.core.conversation import Conversation, Role
from pathors_agent.core.limits import Limits
from pathors_agent.core.run import Status
from pathors_agent.errors import TransportError
from pathors_agent.history.loading import dump_messages, load_messages
from pathors_agent.messages import AssistantMessage, Message, ToolMessage
from pathors_agent.testing import AsyncScriptedTransport, Entry, ScriptedTransport, raw
from pathors_agent.tools.tool import Tool, tool

LIMITS = Limits(turns=4, tool_calls=20)


@dataclass
class Ran:
    """The arguments that the tool was really run with."""

    arguments: list[dict[str, Any]] = field(default_factory=list)

    def tools(self) -> list[Tool]:
        @tool
        def look(page: int, note: str = "") -> str:
            """Look at a page."""
            self.arguments.append({"page": page, "note": note})
            if page == 13:
                raise ValueError("no such page")
            return "seen"

        return [Tool.from_function(look), Tool(name="ask", description="Ask the caller.")]


ARGUMENTS = st.sampled_from(
    [
        *('{"page": 1}', '{"page": 1, "note": "a"}', '{"page": 13}', "{}", "", " \n"),
        *('{"page": 1', '{"page": "one"}', '{"page": 1}{"page": 2}', "[1]", "null", "NaN"),
        *('{"page": 1, "page": 2}', '{"page": 1e999}', '{"pa', '"{}"', "\x00", "[" * 200),
    ]
)
CALLS = st.fixed_dictionaries(
    {
        "id": st.sampled_from(["call_1", "call_2", "call_3", "", None]),
        "name": st.sampled_from(["look", "look", "look", "ask", "lok", "", "no.such tool"]),
        "arguments": ARGUMENTS,
    }
)
TURNS = st.fixed_dictionaries(
    {
        "content": st.sampled_from([None, "", "Well.", "\ud83d"]),
        "calls": st.lists(CALLS, max_size=6),
        "finish_reason": st.sampled_from(
            ["tool_calls", "stop", "length", "content_filter", "eos", None]
        ),
        "broken": st.sampled_from([False] * 6 + [True]),
    }
)


def wire(turn: dict[str, Any]) -> Entry:
    """The turn as a stream: a chunk a call, then the finish_reason, unless it breaks off."""
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": turn["content"]}]
    for index, call in enumerate(turn["calls"]):
        function = {"name": call["name"], "arguments": call["arguments"]}
        piece = {"index": index, "id": call["id"], "type": "function", "function": function}
        deltas.append({"tool_calls": [piece]})
    choices = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    end = {"index": 0, "delta": {}, "finish_reason": turn["finish_reason"]}
    chunks = [{"id": "1", "model": "m", "choices": [choice]} for choice in [*choices, end]]
    body = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)
    if turn["broken"]:
        return raw(body[: len(body) // 2])
    return raw(body + b"data: [DONE]\n\n")


def assert_history_is_true(messages: Sequence[Message], ran: Ran) -> None:
    """What must hold after every step, checked from the messages alone."""
    conversation = Conversation(messages)  # legal, or this raises
    assert load_messages(dump_messages(messages)) == list(messages)
    results = [m for m in messages if isinstance(m, ToolMessage)]
    answers = [m for m in messages if isinstance(m, AssistantMessage)]
    asked = [call.id for answer in answers for call in answer.tool_calls]
    answered = [result.tool_call_id for result in results]
    open_calls = [call.id for call in conversation.open_calls]
    assert len(set(asked)) == len(asked)
    assert sorted(answered + open_calls) == sorted(asked)
    for answer in answers:
        if answer.finish_reason in ("length", "content_filter"):
            assert_no_cut_call_ran(answer, results)
    values = sum(m.outcome == "value" or "no such page" in m.text for m in results)
    assert len(ran.arguments) == values


def assert_no_cut_call_ran(answer: AssistantMessage, results: Sequence[ToolMessage]) -> None:
    outcomes = {result.tool_call_id: result.outcome for result in results}
    for call in answer.tool_calls:
        try:
            whole = isinstance(json.loads(call.arguments), dict)
        except (ValueError, RecursionError):
            whole = False
        assert whole or outcomes.get(call.id) in ("not_run", None)


@given(st.lists(TURNS, min_size=1, max_size=6))
def test_blocking_run_keeps_a_true_history(turns: list[dict[str, Any]]) -> None:
    ran = Ran()
    agent = Agent(
        ScriptedTransport(*map(wire, turns), "Enough.", "Enough.", "Enough."),
        tools=ran.tools(),
        limits=LIMITS,
    )
    conversation = Conversation()
    failure: TransportError | None = None
    try:
        with agent.stream("Go.", conversation=conversation) as stream:
            for item in stream:
                if hasattr(item, "role"):
                    assert_history_is_true(conversation.messages, ran)
    except TransportError as error:
        failure = error

    assert_history_is_true(conversation.messages, ran)
    if failure is None:
        assert stream.result.status is not Status.RUNNING
    else:
        assert failure.messages == conversation.messages
        assert conversation.next_role is Role.ASSISTANT


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@given(turns=st.lists(TURNS, min_size=1, max_size=4))
def test_async_run_makes_the_same_history(backend: str, turns: list[dict[str, Any]]) -> None:
    script = [*map(wire, turns), "Enough.", "Enough.", "Enough."]
    blocking, ran = Conversation(), Ran()
    failure: list[type[TransportError] | None] = []
    try:
        Agent(ScriptedTransport(*script), tools=ran.tools(), limits=LIMITS).run(
            "Go.", conversation=blocking
        )
        failure.append(None)
    except TransportError as error:
        failure.append(type(error))

    async def main() -> Conversation:
        conversation = Conversation()
        agent = AsyncAgent(AsyncScriptedTransport(*script), tools=Ran().tools(), limits=LIMITS)
        try:
            await agent.run("Go.", conversation=conversation)
            failure.append(None)
        except TransportError as error:
            failure.append(type(error))
        return conversation

    assert anyio.run(main, backend=backend).messages == blocking.messages
    assert failure[0] == failure[1]


def test_flood_of_calls_is_refused_whole() -> None:
    ran = Ran()
    flood: dict[str, Any] = {"content": None, "finish_reason": "tool_calls", "broken": False}
    flood["calls"] = [{"id": f"c{n}", "name": "look", "arguments": "{}"} for n in range(10_000)]
    conversation = Conversation()
    agent = Agent(ScriptedTransport(wire(flood)), tools=ran.tools())

    with pytest.raises(TransportError, match="more than 128 tool calls"):
        agent.run("Go.", conversation=conversation)

    assert [m.role for m in conversation.messages] == ["user"]
    assert ran.arguments == []


@pytest.mark.parametrize("calls_a_turn", [1, 5])
def test_same_call_for_ever_ends_at_the_limit_of_repeats(calls_a_turn: int) -> None:
    ran = Ran()
    call = {"id": None, "name": "look", "arguments": '{"page": 1}'}
    turn: dict[str, Any] = {"content": None, "finish_reason": "tool_calls", "broken": False}
    turn["calls"] = [call] * calls_a_turn

    result = Agent(ScriptedTransport(*[wire(turn)] * 50), tools=ran.tools()).run("Go.")

    assert (result.status, result.limit) == (Status.LIMIT_REACHED, "repeats")
    assert len(ran.arguments) == 5
    assert_history_is_true(result.conversation.messages, ran)
