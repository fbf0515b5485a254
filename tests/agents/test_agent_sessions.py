"""Agents with sessions of the endpoint, with limits, and tools of the client."""

import json
from typing import Any

import pytest

from driven_agents import said
from pathors_agent import Limits
from pathors_agent.core.conversation import Conversation, Role
from pathors_agent.core.run import Status
from pathors_agent.errors import ProviderError, RunNotFinished, TransportError
from pathors_agent.history.loading import dump_messages, load_messages
from pathors_agent.messages import AssistantMessage, ToolMessage
from pathors_agent.testing import answer, calls, raw
from pathors_agent.wire.profiles import EndpointProfile
from talking_agents import ADD, APPROVE, CLIENT_CALL, DOUBLE, GO, add, double
from ways import Way

# - sessions

SESSION = {"x-session-id": "session-1"}
KEEPS_HISTORY = EndpointProfile(sends="new_messages")


def sessions_sent(way: Way) -> list[str | None]:
    return [request.session_id for request in way.sent]


def test_session_is_kept_from_the_first_answer_and_sent_from_then_on(way: Way) -> None:
    conversation = Conversation()

    result = way.run(
        answer(calls=[ADD], headers=SESSION),
        answer("3", headers={"x-session-id": "session-2"}),
        prompt="Go.",
        conversation=conversation,
        profile=KEEPS_HISTORY,
        tools=[add],
    )

    assert sessions_sent(way) == [None, "session-1"]
    assert conversation.session_id == result.session_id == "session-1"
    way.run("Hello.", prompt="Hi.", conversation=conversation, profile=KEEPS_HISTORY)
    assert sessions_sent(way) == ["session-1"]


def with_session(body: dict[str, Any], *, in_chunks: slice | None) -> Any:
    """An answer that names its session in a plain body, or in these chunks of its stream."""
    message = {"role": "assistant", **body}
    if in_chunks is None:
        choice = {"message": message, "finish_reason": "stop"}
        return raw(json.dumps({"session_id": "session-1", "choices": [choice]}).encode())
    for index, call in enumerate(message.get("tool_calls", ())):
        call["index"] = index
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}, message, {}]
    chunks: list[dict[str, Any]] = [
        {"id": "c", "model": "m", "choices": [{"index": 0, "delta": delta}]} for delta in deltas
    ]
    chunks[-1]["choices"][0]["finish_reason"] = "stop"
    chunks.append({"choices": [], "usage": {"total_tokens": 3}})
    for chunk in chunks[in_chunks]:
        chunk["session_id"] = "session-1"
    events = b"".join(b"data: %s\n\n" % json.dumps(chunk).encode() for chunk in chunks)
    return raw(events + b"data: [DONE]\n\n")


FIRST, LAST, USAGE, ALL = slice(0, 1), slice(2, 3), slice(3, 4), slice(0, 4)


@pytest.mark.parametrize("in_chunks", [None, FIRST, LAST, USAGE, ALL])
def test_session_named_in_the_body_is_kept_and_sent_from_then_on(
    way: Way, in_chunks: slice | None
) -> None:
    conversation = Conversation()
    function = {"name": "add", "arguments": '{"a": 1, "b": 2}'}
    calls_add = {"tool_calls": [{"id": "c1", "type": "function", "function": function}]}
    script = [
        with_session(calls_add, in_chunks=in_chunks),
        with_session({"content": "3"}, in_chunks=in_chunks),
    ]

    result = way.run(
        *script, prompt="Go.", conversation=conversation, profile=KEEPS_HISTORY, tools=[add]
    )

    assert sessions_sent(way) == [None, "session-1"]
    assert [len(request["messages"]) for request in way.requests] == [1, 1]
    assert conversation.session_id == result.session_id == "session-1"


def test_header_wins_over_a_session_in_the_body(way: Way) -> None:
    body = (
        b'{"session_id": "b", "choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]}'
    )

    result = way.run(raw(body, headers=SESSION), prompt="Hi.", profile=KEEPS_HISTORY)

    assert result.session_id == "session-1"


@pytest.mark.parametrize("named", [b"null", b'""', b"7", b"[]"])
def test_session_in_the_body_that_is_no_text_is_none(way: Way, named: bytes) -> None:
    choice = b'{"message": {"content": "Hi"}, "finish_reason": "stop"}'
    body = b'{"session_id": %s, "choices": [%s]}' % (named, choice)

    result = way.run(raw(body), prompt="Hi.", profile=KEEPS_HISTORY)

    assert (result.output, result.session_id) == ("Hi", None)


def test_endpoint_that_gets_the_whole_history_gets_only_a_session_that_the_caller_names(
    way: Way,
) -> None:
    conversation = Conversation()

    way.run(answer("A.", headers=SESSION), prompt="a", conversation=conversation)
    way.run(with_session({"content": "B."}, in_chunks=ALL), prompt="b", conversation=conversation)

    assert sessions_sent(way) == [None]
    assert conversation.session_id is None
    way.run(answer("C.", headers=SESSION), prompt="c", conversation=conversation, session_id="mine")
    assert sessions_sent(way) == ["mine"]


def test_session_id_is_in_the_body_if_the_profile_says_so(way: Way) -> None:
    profile = EndpointProfile(sends="new_messages", session_in="body")
    conversation = Conversation()

    way.run(answer("A.", headers=SESSION), prompt="a", conversation=conversation, profile=profile)
    assert "session_id" not in way.requests[0]
    way.run("B.", prompt="b", conversation=conversation, profile=profile)

    assert way.requests[0]["session_id"] == "session-1"
    assert sessions_sent(way) == [None]


def test_second_turn_without_a_session_is_refused_unsent(way: Way) -> None:
    conversation = Conversation()
    way.run("A.", prompt="a", conversation=conversation, profile=KEEPS_HISTORY)

    with pytest.raises(
        TransportError, match=r"no session is known.*session_id= .*sends="
    ) as caught:
        way.run("B.", prompt="b", conversation=conversation, profile=KEEPS_HISTORY)

    assert way.sent == []
    assert not caught.value.retryable
    assert [message.text for message in caught.value.messages] == ["a", "A.", "b"]


def test_results_of_tools_without_a_session_are_refused_unsent(way: Way) -> None:
    with pytest.raises(TransportError, match="no session is known"):
        way.run(answer(calls=[ADD]), "3", prompt="Go.", profile=KEEPS_HISTORY, tools=[add])

    assert len(way.sent) == 1


def test_named_session_is_sent_from_the_start(way: Way) -> None:
    result = way.run(answer("Hello.", headers=SESSION), prompt="Hi.", session_id="mine")

    assert sessions_sent(way) == ["mine"]
    assert result.session_id == "mine"


def test_conversation_without_a_session_joins_the_named_one(way: Way) -> None:
    conversation = Conversation([GO, AssistantMessage(content="Done.")])

    way.run("Hello.", prompt="Hi.", conversation=conversation, session_id="mine")
    way.run("Hello.", prompt="Hi.", conversation=conversation, session_id="mine")

    assert conversation.session_id == "mine"


def test_two_sessions_are_a_value_error_that_changes_nothing(way: Way) -> None:
    conversation = Conversation(session_id="mine")

    with pytest.raises(ValueError, match=r"'mine'.*'yours'"):
        way.run(prompt="Hi.", conversation=conversation, session_id="yours")

    assert conversation.messages == ()
    assert conversation.session_id == "mine"
    assert way.requests == []


def test_session_of_a_refusal_is_not_kept(way: Way) -> None:
    conversation = Conversation()

    with pytest.raises(ProviderError, match="gone"):
        way.run(
            raw(b'{"error": "gone"}', status=500, headers=SESSION),
            prompt="Go.",
            conversation=conversation,
        )

    assert conversation.session_id is None


def test_endpoint_that_keeps_the_history_gets_only_new_messages(way: Way) -> None:
    profile = EndpointProfile(sends="new_messages")
    conversation = Conversation()

    way.run(
        answer(calls=[ADD, DOUBLE], headers=SESSION),
        "Done.",
        prompt="Go.",
        conversation=conversation,
        profile=profile,
        instructions="Be brief.",
        tools=[add, double],
    )
    first, second = way.requests
    way.run("Bye.", prompt="Thanks.", conversation=conversation, profile=profile)

    assert [message["role"] for message in first["messages"]] == ["system", "user"]
    assert [message["content"] for message in second["messages"]] == ["3", "6"]
    assert [message["content"] for message in way.requests[0]["messages"]] == ["Thanks."]
    assert len(conversation.messages) == 7


# - limits


def test_limit_of_turns_stops_the_run_and_a_higher_one_continues_it(way: Way) -> None:
    conversation = Conversation()
    script = [calls(("double", {"a": a})) for a in range(3)]

    stopped = way.run(
        *script[:2], prompt="Go.", conversation=conversation, tools=[double], limits=Limits(turns=2)
    )

    assert stopped.status is Status.LIMIT_REACHED
    assert stopped.limit == "turns"
    assert said(conversation.messages) == ["Go.", "", "0", "", "2"]
    with pytest.raises(RunNotFinished, match=r"limits\.turns") as unfinished:
        assert stopped.output
    assert unfinished.value.status == "limit_reached"
    assert unfinished.value.messages == conversation.messages

    still = way.run(conversation=conversation, tools=[double], limits=Limits(turns=2))
    assert still.status is Status.LIMIT_REACHED
    assert way.requests == []

    result = way.run(
        script[2], "Done.", conversation=conversation, tools=[double], limits=Limits(turns=4)
    )
    assert result.output == "Done."
    assert result.limit is None


# - tools of the client


def test_run_with_open_client_calls_is_suspended_until_they_are_answered(way: Way) -> None:
    conversation = Conversation()
    tools = [add, APPROVE]

    waiting = way.run(
        calls(CLIENT_CALL, ADD, CLIENT_CALL), prompt="Go.", conversation=conversation, tools=tools
    )

    assert waiting.status is Status.SUSPENDED
    assert [(call.id, call.name) for call in waiting.open_calls] == [
        ("call_1", "approve"),
        ("call_3", "approve"),
    ]
    assert said(waiting.messages) == ["Go.", "", "3"]
    with pytest.raises(RunNotFinished, match="results of approve; append them and run") as error:
        assert waiting.output
    assert error.value.status == "suspended"

    conversation.append(ToolMessage(tool_call_id="call_3", content="no"))
    half = way.run(conversation=conversation, tools=tools)
    assert half.status is Status.SUSPENDED
    assert half.messages == ()
    assert way.requests == []

    conversation.append(ToolMessage(tool_call_id="call_1", content="yes"))
    result = way.run("Done.", conversation=conversation, tools=tools)
    assert said(conversation.messages) == ["Go.", "", "yes", "3", "no", "Done."]
    assert said(result.messages) == ["Done."]


def test_suspended_run_continues_in_another_process(way: Way) -> None:
    tools = [add, APPROVE]
    waiting = way.run(calls(ADD, CLIENT_CALL), prompt="Go.", tools=tools)
    text = dump_messages(waiting.conversation.messages)

    conversation = Conversation(load_messages(text))
    assert conversation.next_role is Role.TOOL
    [call] = conversation.open_calls
    conversation.append(ToolMessage(tool_call_id=call.id, content="yes"))
    result = way.run("Done.", conversation=conversation, tools=tools)

    assert result.output == "Done."
    assert said(conversation.messages) == ["Go.", "", "3", "yes", "Done."]


def test_client_tools_are_offered_to_the_model(way: Way) -> None:
    way.run("Hello.", prompt="Hi.", tools=[APPROVE])

    [definition] = way.requests[0]["tools"]
    assert definition["function"]["name"] == "approve"
