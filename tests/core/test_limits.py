"""Where runs stop by themselves, and which calls may not run: from the history alone."""

import json

import pytest

from pathors_agent.core.conversation import Conversation
from pathors_agent.core.limits import MAY_RUN, Limits, Tally, canonical_arguments
from pathors_agent.core.run import CallModel, CallTool, Run, Status
from pathors_agent.messages import (
    AssistantMessage,
    Message,
    Outcome,
    ToolCall,
    ToolMessage,
    Usage,
    UserMessage,
)

USER = UserMessage(content="Go on.")
NO_LIMITS = Limits(turns=1000, repeats=None, repeats_warned=None)


def asks(*calls: str, reason: str = "tool_calls", tokens: int | None = None) -> AssistantMessage:
    """An assistant message of calls written "id name arguments"."""
    parts = [call.split(" ", 2) for call in calls]
    return AssistantMessage(
        tool_calls=tuple(ToolCall(id=p[0], name=p[1], arguments="".join(p[2:])) for p in parts),
        finish_reason=reason,
        usage=None if tokens is None else Usage(total_tokens=tokens),
    )


def answered(*messages: Message) -> list[Message]:
    """A history in which every call has its result."""
    history: list[Message] = [USER]
    for message in messages:
        history.append(message)
        if isinstance(message, AssistantMessage):
            history += [ToolMessage(tool_call_id=c.id, content="ok") for c in message.tool_calls]
    return history


def tally(history: list[Message], limits: Limits) -> Tally:
    counted = Tally(limits)
    counted.read(history)
    return counted


def limit_reached(history: list[Message], limits: Limits) -> str | None:
    return tally(history, limits).limit


def refused(history: list[Message], limits: Limits) -> list[str]:
    """The ids of the calls that may not run."""
    verdicts = tally(history, limits).verdicts
    return [call_id for call_id, verdict in verdicts.items() if verdict.refusal]


# - tool_calls -


def test_calls_that_do_not_fit_are_refused_and_the_rest_runs() -> None:
    history: list[Message] = [*answered(asks("a look 1", "b look 2")), asks("c look 3", "d look 4")]

    assert refused(history, Limits(tool_calls=3)) == ["d"]


def test_run_stops_only_after_a_call_did_not_fit() -> None:
    fits = answered(asks("a look 1", "b look 2"))

    assert limit_reached(fits, Limits(tool_calls=2)) is None
    assert limit_reached(fits, Limits(tool_calls=1)) == "tool_calls"


def test_refused_calls_are_effects_with_their_result() -> None:
    run = Run(Conversation([USER, asks("a look {}", "b look [1]")]), limits=Limits(tool_calls=1))

    first, second = run.effects()

    assert isinstance(first, CallTool)
    assert isinstance(second, CallTool)
    assert first.verdict.refusal is None
    assert second.verdict.refusal == (
        "Not run: 1 tool calls were the limit. Answer with what you have."
    )


def test_refused_call_of_a_client_tool_does_not_wait_for_the_client() -> None:
    run = Run(
        Conversation([USER, asks("a ask 1", "b ask 2")]),
        limits=Limits(tool_calls=1),
        client_tools={"ask"},
    )

    assert [e.call.id for e in run.effects() if isinstance(e, CallTool)] == ["b"]


# - total_tokens -


def test_tokens_are_summed_since_the_user_spoke() -> None:
    before = answered(asks("a look 1", tokens=90))
    now: list[Message] = [
        USER,
        *answered(asks("b look 1", tokens=40), asks("c look 2", tokens=50))[1:],
    ]

    assert limit_reached([*before, *now], Limits(total_tokens=91)) is None
    assert limit_reached([*before, *now], Limits(total_tokens=90)) == "total_tokens"


def test_answer_without_a_count_counts_nothing() -> None:
    assert limit_reached(answered(asks("a look 1")), Limits(total_tokens=1)) is None


# - repeats -


def test_third_equal_call_gets_a_warning_and_the_sixth_is_refused() -> None:
    history: list[Message] = [USER]
    told = []
    for number in range(1, 7):
        # The same value, written in another way each time.
        arguments = json.dumps({"b": 1, "a": [number % 1]}, indent=number)
        history.append(asks(f"c{number} look {arguments}"))
        verdict = tally(history, Limits()).verdicts.get(f"c{number}", MAY_RUN)
        told.append((verdict.warning is not None, verdict.refusal is not None))
        history.append(ToolMessage(tool_call_id=f"c{number}", content="ok"))

    no, warned, stopped = (False, False), (True, False), (True, True)
    assert told == [no, no, warned, warned, warned, stopped]
    assert limit_reached(history, Limits()) == "repeats"


def test_warning_and_refusal_say_which_call_it_is() -> None:
    history: list[Message] = [USER, asks("a look 1", "b look 1")]

    verdict = tally(history, Limits(repeats_warned=2, repeats=2)).verdicts["b"]

    assert verdict.warning == "(This was call 2 of look with the same arguments.)"
    assert verdict.refusal == (
        "Not run: this is call 2 of look with the same arguments. Answer with what you have."
    )


def test_other_arguments_and_other_tools_are_no_repetition() -> None:
    history: list[Message] = [USER, asks("a look 1", "b look 2", "c see 1")]

    assert refused(history, Limits(repeats=2)) == []


def test_no_limit_of_repeats_lets_all_run() -> None:
    history: list[Message] = [USER, asks(*(f"c{n} look 1" for n in range(50)))]

    assert refused(history, NO_LIMITS) == []


@pytest.mark.parametrize(
    ("arguments", "canonical"),
    [
        ('{"b": 1, "a": 2}', '{"a":2,"b":1}'),
        ("", "{}"),
        ("{not json", "{not json"),
        ("[" * 5000, "[" * 5000),
    ],
)
def test_canonical_arguments(arguments: str, canonical: str) -> None:
    assert canonical_arguments(arguments) == canonical


# - answers that were cut, tools that ended -


@pytest.mark.parametrize("reason", ["length", "content_filter"])
@pytest.mark.parametrize("arguments", ['{"a": 1', "", "[1]", '{"a": 1}{'])
def test_cut_answer_runs_no_call_without_a_whole_object(reason: str, arguments: str) -> None:
    history: list[Message] = [USER, asks('a look {"a": 1}', f"b look {arguments}", reason=reason)]

    assert refused(history, NO_LIMITS) == ["b"]


def test_uncut_answer_may_leave_its_arguments_out() -> None:
    history: list[Message] = [USER, asks("a look")]

    assert refused(history, NO_LIMITS) == []


def test_tool_that_ended_is_refused_until_the_user_speaks_again() -> None:
    ended = ToolMessage(tool_call_id="a", content="gone", outcome="error", ends_tool=True)
    history: list[Message] = [
        USER,
        asks("a look 1", "b see 1"),
        ended,
        ToolMessage(tool_call_id="b", content=""),
    ]

    assert refused([*history, asks("c look 2", "d see 2")], NO_LIMITS) == ["c"]
    assert refused([*history, USER, asks("c look 2")], NO_LIMITS) == []


# - the last word -


def test_last_word_is_one_model_call_without_tools() -> None:
    limits = Limits(turns=1, last_word=True)
    run = Run(Conversation(answered(asks("a look 1"))), limits=limits)

    [effect] = run.effects()

    assert isinstance(effect, CallModel)
    assert effect.last_word
    assert run.status is Status.RUNNING


def test_calls_of_the_last_word_are_refused_and_the_run_stops() -> None:
    limits = Limits(turns=1, last_word=True)
    run = Run(Conversation([*answered(asks("a look 1")), asks("b look 2")]), limits=limits)
    [effect] = run.effects()
    assert isinstance(effect, CallTool)
    assert effect.verdict.refusal == (
        "Not run: the limit of turns is reached. Answer with what you have."
    )

    run.record(ToolMessage(tool_call_id="b", content=effect.verdict.refusal, outcome="not_run"))

    assert (run.status, run.limit) == (Status.LIMIT_REACHED, "turns")
    assert run.effects() == []


def test_feedback_does_not_start_a_turn() -> None:
    feedback = UserMessage(content="That does not fit.", feedback=True)
    history: list[Message] = [*answered(asks("a look 1")), AssistantMessage(content="x"), feedback]

    assert limit_reached(history, Limits(turns=2)) == "turns"


# - seconds -


def test_run_that_is_out_of_time_has_no_pending_effects() -> None:
    run = Run(Conversation([USER, asks("a look 1")]))

    run.stopped_at = "seconds"

    assert run.effects() == []
    assert (run.status, run.limit) == (Status.LIMIT_REACHED, "seconds")
    assert [call.id for call in run.conversation.open_calls] == ["a"]


# - values -


@pytest.mark.parametrize(
    "name",
    [
        *("turns", "tool_calls", "total_tokens", "seconds", "tool_seconds"),
        *("repeats", "repeats_warned", "max_concurrency"),
    ],
)
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_limit_that_is_none_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"Limits\.{name} must be over 0"):
        Limits(**{name: value})  # type: ignore[arg-type]  # one name of several types


# - invalid calls -


def invalid(call_id: str) -> ToolMessage:
    return ToolMessage(tool_call_id=call_id, content="no", outcome="error", invalid=True)


def failed_calls(*names: str) -> list[Message]:
    """Return a history with one invalid call of each name, one after another."""
    history: list[Message] = [USER]
    for number, name in enumerate(names):
        history += [asks(f"i{number} {name} {number}"), invalid(f"i{number}")]
    return history


def test_tool_is_refused_after_its_retries_until_the_user_speaks() -> None:
    limits = Limits(call_retries=2)

    assert refused([*failed_calls("look", "look"), asks("c look 9")], limits) == []
    three = failed_calls("look", "look", "see", "look")
    assert refused([*three, asks("c look 9", "d see 9")], limits) == ["c"]
    assert refused([*three, USER, asks("c look 9")], limits) == []
    assert refused([*three, asks("c look 9")], Limits(call_retries=None)) == []


def test_no_retry_is_a_limit_as_well() -> None:
    assert refused([*failed_calls("look"), asks("c look 9")], Limits(call_retries=0)) == ["c"]
    with pytest.raises(ValueError, match=r"Limits\.call_retries must be 0 or more, not -1"):
        Limits(call_retries=-1)


def test_calls_of_one_answer_count_once() -> None:
    history: list[Message] = [USER, asks("a look 1", "b look 2"), invalid("a"), invalid("b")]

    assert refused([*history, asks("c look 3")], Limits(call_retries=1)) == []


@pytest.mark.parametrize("outcome", ["value", "error", "timeout"])
def test_valid_call_starts_the_count_again(outcome: Outcome) -> None:
    limits = Limits(call_retries=1)
    result = ToolMessage(tool_call_id="v", content="", outcome=outcome)
    history = [*failed_calls("look", "look"), asks("v look 9")]
    assert refused(history, limits) == ["v"]

    valid = [*failed_calls("look"), asks("v look 9"), result, asks("w look 8"), invalid("w")]
    assert refused([*valid, asks("c look 7")], limits) == []


def test_refused_call_does_not_start_the_count_again() -> None:
    refusal = ToolMessage(tool_call_id="r", content="", outcome="not_run")
    history = [*failed_calls("look", "look"), asks("r look 9"), refusal]

    assert refused([*history, asks("c look 8")], Limits(call_retries=1)) == ["c"]
