"""What is expected of a run reads well, and what it did instead is shown as a transcript."""

from typing import Any

import pytest
from pydantic import BaseModel

from pathors_agent import (
    Agent,
    AssistantMessage,
    Limits,
    RunResult,
    SystemMessage,
    Tool,
    ToolCall,
    ToolMessage,
    UserMessage,
    tool,
)
from pathors_agent.messages import Message
from pathors_agent.testing import Entry, ScriptedTransport, answer, calls, expect, transcript


@tool
def weather(city: str, days: int = 1) -> dict[str, int]:
    """Give the weather."""
    if city == "Atlantis":
        raise LookupError("no such city")
    return {"degrees": 12 * days}


@tool
def now() -> str:
    """Give the time."""
    return "noon"


ASK = Tool(name="ask", description="Ask the caller.")


def ran(*script: Entry, **settings: Any) -> RunResult[Any]:
    agent = Agent(ScriptedTransport(*script), tools=[weather, now, ASK], **settings)
    return agent.run("What is the weather in Oslo?")


@pytest.fixture
def oslo() -> RunResult[Any]:
    return ran(
        calls(("weather", {"city": "Oslo", "days": 2}), ("now", {})),
        calls(("weather", {"city": "Atlantis"})),
        "It is 24 degrees in Oslo.",
    )


def test_expectations_of_a_run_hold(oslo: RunResult[Any]) -> None:
    expect(oslo).called("weather", city="Oslo").with_result({"degrees": 24}).then_called("now")
    expect(oslo).called("now").with_result("noon").then_called("weather").with_error("no such city")
    expect(oslo).called("weather").then_answered("It is 24 degrees in Oslo.")
    expect(oslo).answered(containing="24 degrees").answered(like=r"\d+ degrees").finished()
    expect(oslo).called_times("weather", 2).not_called("ask")
    expect(oslo.conversation).called("weather").then_answered(containing="Oslo")
    expect(oslo.messages).called("now").answered("It is 24 degrees in Oslo.")


def test_arguments_may_be_equal_in_a_way_of_their_own(oslo: RunResult[Any]) -> None:
    expect(oslo).called("weather", days=pytest.approx(2.0000001))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (
            lambda run: expect(run).called("weather", city="Bergen", days=2),
            'expected a call weather(city="Bergen", days=2); the nearest is '
            'weather(city="Oslo", days=2)',
        ),
        (lambda run: expect(run).called("ask"), "expected a call ask(); called were weather, now"),
        (
            lambda run: expect(run).called("weather", city="Atlantis").then_called("now"),
            "expected a call now() after that; no tool was",
        ),
        (
            lambda run: expect(run).called("weather").with_result({"degrees": 12}),
            "expected weather(city=\"Oslo\", days=2) to return {'degrees': 12}, "
            "not '{\"degrees\":24}'",
        ),
        (
            lambda run: expect(run).called("weather").with_error("city"),
            "expected weather(city=\"Oslo\", days=2) to fail with an error that contains 'city'",
        ),
        (lambda run: expect(run).not_called("now"), "expected no call of now, not 1"),
        (lambda run: expect(run).called_times("now", 2), "expected 2 calls of now, not 1"),
        (
            lambda run: expect(run).answered("It is cold."),
            "expected the answer 'It is cold.', not 'It is 24 degrees in Oslo.'",
        ),
        (
            lambda run: expect(run).answered(containing="cold"),
            "expected an answer with 'cold', not 'It is 24 degrees in Oslo.'",
        ),
        (
            lambda run: expect(run).answered(like="^cold"),
            "expected an answer like '^cold', not 'It is 24 degrees in Oslo.'",
        ),
        (
            lambda run: expect(run).stopped_at("turns"),
            "expected the run to be limit_reached (turns), and it is finished",
        ),
        (
            lambda run: expect(run).suspended_on("ask"),
            "expected the run to wait for ask, not for nothing",
        ),
    ],
)
def test_calls_that_were_not_made_are_reported_with_the_run(
    wrong: Any, sentence: str, oslo: RunResult[Any]
) -> None:
    with pytest.raises(AssertionError) as caught:
        wrong(oslo)

    assert str(caught.value).splitlines() == [
        sentence,
        "The run:",
        "user       What is the weather in Oslo?",
        'assistant  calls weather(city="Oslo", days=2)',
        "assistant  calls now()",
        'tool       weather -> {"degrees":24}',
        "tool       now -> noon",
        'assistant  calls weather(city="Atlantis")',
        "tool       weather -> LookupError: no such city (error)",
        "assistant  It is 24 degrees in Oslo.",
        "finished",
    ]


def test_run_without_tools_is_described_as_such() -> None:
    with pytest.raises(AssertionError, match=r"expected a call now\(\); no tool was\n"):
        expect(ran("Hi")).called("now")


def test_suspended_run_is_expected_to_be() -> None:
    run = ran(calls(("ask", {})))

    expect(run).called("ask").suspended_on("ask")
    expect(run.conversation).suspended_on("ask")
    with pytest.raises(AssertionError, match="expected an answer: the run has no answer"):
        expect(run).answered("Hi")


def test_run_at_its_limit_is_expected_to_be() -> None:
    run = ran(calls(("now", {})), limits=Limits(turns=1))

    expect(run).stopped_at("turns")
    with pytest.raises(AssertionError, match=r"it is limit_reached \(turns\)\n"):
        expect(run).finished()


def test_answer_may_be_a_value() -> None:
    class City(BaseModel):
        name: str

    model = ScriptedTransport(calls(("final_answer", {"name": "Oslo"})))
    run = Agent(model, output=City).run("Where?")

    expect(run).answered(City(name="Oslo"))
    with pytest.raises(AssertionError, match="expected the answer"):
        expect(run).answered(City(name="Bergen"))


def test_answer_before_the_call_does_not_follow_it() -> None:
    call = ToolCall(id="a", name="now")
    messages: list[Message] = [UserMessage(content="?"), AssistantMessage(tool_calls=(call,))]

    with pytest.raises(AssertionError, match="expected an answer after that call"):
        expect(messages).called("now").then_answered("noon")


def test_result_belongs_to_the_open_call_even_if_its_id_was_used_before() -> None:
    messages: list[Message] = [UserMessage(content="?")]
    for name, result in (("now", "noon"), ("weather", "rain")):
        messages.append(AssistantMessage(tool_calls=(ToolCall(id="call_1", name=name),)))
        messages.append(ToolMessage(tool_call_id="call_1", content=result))

    expect(messages).called("now").with_result("noon")
    expect(messages).called("weather").with_result("rain")


def test_result_without_a_call_is_refused() -> None:
    with pytest.raises(TypeError, match="name a call first"):
        expect(ran("Hi")).with_result("noon")


def test_end_of_mere_messages_is_not_known() -> None:
    with pytest.raises(TypeError, match="only a RunResult knows how a run ended"):
        expect([UserMessage(content="?")]).finished()


# - transcripts -


def test_transcript_shows_everything_in_short() -> None:
    messages: list[Message] = [
        SystemMessage(content="Be\n  kind."),
        UserMessage(content="x" * 200),
        AssistantMessage(
            content="Wait.",
            tool_calls=(ToolCall(id="a", name="now", arguments="{"), ToolCall(id="b", name="ask")),
            finish_reason="length",
        ),
        ToolMessage(tool_call_id="a", content="no", outcome="not_run"),
        ToolMessage(tool_call_id="c", content="?"),
        UserMessage(content="Wrong.", feedback=True),
        AssistantMessage(content=None),
    ]

    assert transcript(messages).splitlines() == [
        "system     Be kind.",
        "user       " + "x" * 99 + "…",
        "assistant  Wait.",
        "assistant  calls now({)",
        "assistant  calls ask()",
        "           (ended: length)",
        "tool       now -> no (not_run)",
        "tool       ? -> ?",
        "feedback   Wrong.",
        "assistant",
    ]


def test_long_transcript_keeps_its_ends() -> None:
    lines = transcript([UserMessage(content=str(number)) for number in range(100)]).splitlines()

    assert len(lines) == 41
    assert lines[20] == "(60 lines)"
    assert lines[-1] == "user       99"


def test_empty_transcript_has_a_note() -> None:
    assert transcript([]) == "(nothing was said)"


def test_flood_is_cut() -> None:
    with pytest.raises(AssertionError) as caught:
        expect(ran(answer("a" * 10_000))).called("now")

    assert len(str(caught.value)) < 500
