"""The final tool among others, and resumed runs."""

from typing import Any

import pytest

from pathors_agent.agents.answers import AnswerType
from pathors_agent.core.conversation import Conversation
from pathors_agent.core.limits import Limits
from pathors_agent.core.run import GiveFeedback, Run, Status
from pathors_agent.history.loading import dump_messages, load_messages
from pathors_agent.messages import (
    AssistantMessage,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from pathors_agent.testing import answer, calls
from pathors_agent.wire.profiles import EndpointProfile
from structured_answers import COLD, GOOD, SCRIPTS, Mode, Weather, feedback, look, script
from ways import Way

# - The final tool among others


LOOK, FINAL = ("look", {"city": "Oslo"}), ("final_answer", GOOD)


@pytest.mark.parametrize(
    ("script", "results"),
    [
        ([calls(LOOK), calls(FINAL)], ["sunny in Oslo", "Accepted."]),
        ([calls(FINAL, LOOK)], ["Accepted.", "sunny in Oslo"]),
    ],
    ids=["before it", "in its batch"],
)
def test_tools_run_before_the_final_answer_and_in_its_batch(
    way: Way, script: list[Any], results: list[str]
) -> None:
    result = way.run(*script, prompt="?", output=Weather, tools=[look])

    assert result.output.city == "Oslo"
    assert [m.text for m in result.messages if m.role == "tool"] == results


def test_first_of_two_final_answers_that_fits_is_taken(way: Way) -> None:
    other = '{"city": "Rome", "degrees": 20}'

    result = way.run(
        calls(("final_answer", COLD), ("final_answer", GOOD), ("final_answer", other)),
        prompt="?",
        output=Weather,
    )

    assert result.output.city == "Oslo"


def test_final_answer_is_never_a_repetition(way: Way) -> None:
    result = way.run(
        *[calls(("final_answer", COLD))] * 3,
        calls(("final_answer", GOOD)),
        prompt="?",
        output=Weather,
        limits=Limits(repeats=2, repeats_warned=1, output_retries=3),
    )

    assert result.output.city == "Oslo"
    assert len(feedback(result)) == 3
    assert "same arguments" not in "".join(feedback(result))


def test_final_answer_is_taken_beyond_the_limit_of_tool_calls(way: Way) -> None:
    result = way.run(
        calls(("look", {"city": "Oslo"})),
        calls(("final_answer", COLD)),
        calls(("final_answer", GOOD)),
        prompt="?",
        output=Weather,
        tools=[look],
        limits=Limits(tool_calls=1),
    )

    assert result.output.city == "Oslo"


def test_last_word_is_a_call_of_the_final_tool(way: Way) -> None:
    result = way.run(
        calls(("look", {"city": "Oslo"})),
        calls(("final_answer", GOOD)),
        prompt="?",
        output=Weather,
        tools=[look],
        limits=Limits(turns=1, last_word=True),
    )

    assert result.output.city == "Oslo"
    named = {"type": "function", "function": {"name": "final_answer"}}
    assert [request["tool_choice"] for request in way.requests] == ["required", named]


def test_last_word_has_the_final_tool_alone_where_calls_cannot_be_required(way: Way) -> None:
    way.run(
        calls(("look", {"city": "Oslo"})),
        calls(("final_answer", GOOD)),
        prompt="?",
        profile=EndpointProfile(requires_calls=False),
        output=Weather,
        tools=[look],
        limits=Limits(turns=1, last_word=True),
    )

    names = [[tool["function"]["name"] for tool in r["tools"]] for r in way.requests]
    assert names == [["look", "final_answer"], ["final_answer"]]


def test_cut_off_final_answer_has_its_reason(way: Way) -> None:
    cut_off = answer(calls=[("final_answer", '{"city": "Os')], finish_reason="length")

    result = way.run(cut_off, calls(("final_answer", GOOD)), prompt="?", output=Weather)

    assert feedback(result) == [
        "Not run: the answer was ended (length) before the arguments of final_answer were complete."
    ]


def test_conversation_continues_after_a_final_answer(way: Way) -> None:
    first = way.run(calls(("final_answer", GOOD)), prompt="?", output=Weather)

    second = way.run(
        calls(("final_answer", '{"city": "Rome", "degrees": 20}')),
        prompt="And Rome?",
        conversation=first.conversation,
        output=Weather,
    )

    assert second.output.city == "Rome"
    assert first.output.city == "Oslo"


def test_turn_ends_with_an_accepted_answer() -> None:
    result = Way("blocking").run(calls(("final_answer", GOOD)), prompt="?", output=Weather)
    result.conversation.append(UserMessage(content="And Rome?"))

    assert [m.text for m in result.conversation.trimmed(turns=1).messages] == ["And Rome?"]


# - Resumption


@pytest.mark.parametrize("mode", SCRIPTS)
def test_any_prefix_taken_up_again_ends_the_same(way: Way, mode: Mode) -> None:
    settings: dict[str, Any] = {
        "profile": EndpointProfile(structured=mode),
        "output": Weather,
        "tools": [look],
    }
    whole = way.run(*script(mode), prompt="?", **settings)

    for length in range(1, len(whole.messages) + 1):
        stored = dump_messages(whole.messages[:length])
        conversation = Conversation(load_messages(stored))
        taken = conversation.turns
        result = way.run(*script(mode)[taken:], conversation=conversation, **settings)
        assert shape(conversation.messages) == shape(whole.messages)
        assert result.output == whole.output


def shape(messages: tuple[Message, ...]) -> list[tuple[str, str]]:
    return [(message.role, message.text) for message in messages]


def test_feedback_is_pending_until_it_is_recorded() -> None:
    conversation = Conversation([UserMessage(content="?"), AssistantMessage(content="Sunny.")])
    run = Run(conversation, answers=AnswerType(Weather, "tool"))

    [effect] = run.effects()

    assert isinstance(effect, GiveFeedback)
    assert effect.key == "feedback/1"
    assert run.effects() == [effect]
    assert run.status is Status.RUNNING
    run.record(effect.message)
    assert conversation.messages[-1] == UserMessage(
        content="Give your answer by a call of final_answer, not as text.", feedback=True
    )


def test_system_message_behind_an_answer_changes_nothing() -> None:
    call = ToolCall(id="1", name="final_answer", arguments=GOOD)
    accepted = ToolMessage(tool_call_id="1", content="Accepted.", ends_tool=True)
    history: list[Message] = [
        UserMessage(content="?"),
        AssistantMessage(tool_calls=(call,)),
        accepted,
    ]
    run = Run(
        Conversation([*history, SystemMessage(content="Be kind.")]),
        answers=AnswerType(Weather, "tool"),
    )

    assert (run.status, run.answer) == (Status.FINISHED, GOOD)


def test_result_that_was_not_accepted_by_us_ends_nothing() -> None:
    call = ToolCall(id="1", name="final_answer", arguments=COLD)
    foreign = ToolMessage(tool_call_id="1", content="An error from elsewhere.")
    run = Run(
        Conversation([UserMessage(content="?"), AssistantMessage(tool_calls=(call,)), foreign]),
        answers=AnswerType(Weather, "tool"),
    )

    assert run.status is Status.RUNNING
