"""What a run has counted as it went is what a run that is taken up there counts: one read, or many."""

from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pathors_agent.agents.answers import AnswerType
from pathors_agent.core.conversation import Conversation
from pathors_agent.core.limits import Limits
from pathors_agent.core.run import CallModel, CallTool, Effect, GiveFeedback, Run
from pathors_agent.messages import (
    AssistantMessage,
    Message,
    ToolCall,
    ToolMessage,
    Usage,
    UserMessage,
)

LIMITS = st.builds(
    Limits,
    turns=st.integers(1, 6),
    tool_calls=st.none() | st.integers(1, 8),
    total_tokens=st.none() | st.integers(1, 60),
    repeats=st.none() | st.integers(1, 4),
    repeats_warned=st.none() | st.integers(1, 3),
    call_retries=st.none() | st.integers(0, 2),
    output_retries=st.integers(0, 2),
    last_word=st.booleans(),
)
CALLS = st.lists(
    st.tuples(
        st.sampled_from(["look", "see", "final_answer", "theirs"]),
        st.sampled_from(['{"a":1,"b":2}', '{"b": 2, "a": 1}', "{}", "", '{"a": ', '{"value": 3}']),
    ),
    max_size=4,
)
ANSWERS = [None, AnswerType(int, "tool"), AnswerType(int, "prompt")]


def draw_answer(data: st.DataObject, number: int) -> AssistantMessage:
    calls = [
        ToolCall(id=f"c{number}.{place}", name=name, arguments=arguments)
        for place, (name, arguments) in enumerate(data.draw(CALLS))
    ]
    return AssistantMessage(
        content=data.draw(st.sampled_from(["3", "{}", '{"value": 3}', "Well."])),
        tool_calls=tuple(calls),
        finish_reason=data.draw(st.sampled_from(["stop", "tool_calls", "length"])),
        usage=data.draw(st.none() | st.builds(Usage, total_tokens=st.none() | st.just(9))),
    )


def draw_result(data: st.DataObject, call: ToolCall) -> ToolMessage:
    return ToolMessage(
        tool_call_id=call.id,
        content="ok",
        outcome=data.draw(st.sampled_from(["value", "error"])),
        ends_tool=data.draw(st.sampled_from([False, False, True])),
        invalid=data.draw(st.booleans()),
    )


def next_message(data: st.DataObject, run: Run, number: int) -> Message:
    """Perform a pending effect, in any order, or act as another program."""
    effects: Sequence[Effect] = run.effects()
    if not effects:
        open_calls = run.conversation.open_calls
        return draw_result(data, open_calls[0]) if open_calls else UserMessage(content="Go on.")
    effect = data.draw(st.sampled_from(effects))
    match effect:
        case CallModel():
            return draw_answer(data, number)
        case CallTool():
            return draw_result(data, effect.call)
        case GiveFeedback():
            return effect.message


def stands(run: Run) -> tuple[Any, ...]:
    return run.effects(), run.status, run.limit


@given(st.data(), LIMITS, st.sampled_from(ANSWERS), st.integers(1, 3))
def test_continued_run_has_the_same_state_as_an_uninterrupted_one(
    data: st.DataObject, limits: Limits, answers: AnswerType[int] | None, seldom: int
) -> None:
    def run_of(conversation: Conversation) -> Run:
        return Run(conversation, limits=limits, client_tools={"theirs"}, answers=answers)

    conversation = Conversation([UserMessage(content="Go.")], id="c")
    run, now_and_then = run_of(conversation), run_of(conversation)
    for number in range(data.draw(st.integers(1, 20))):
        conversation.append(next_message(data, run, number))
        anew = stands(run_of(conversation))
        assert stands(run) == anew
        if number % seldom == 0:
            assert stands(now_and_then) == anew
