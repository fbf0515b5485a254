"""The pending effects of a run follow from the history alone, and are the same on every replay."""

from collections.abc import Iterator, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counting import check_linear
from pathors_agent.core.conversation import Conversation
from pathors_agent.core.limits import Limits
from pathors_agent.core.run import CallModel, CallTool, Effect, Run, Status
from pathors_agent.errors import ConversationError
from pathors_agent.messages import (
    AssistantMessage,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
)

CANARY = "hunter2-canary"


def calling(*calls: str) -> AssistantMessage:
    """An assistant message with calls like "a:look": an id, and the name of a tool."""
    pairs = [call.partition(":") for call in calls]
    return AssistantMessage(
        tool_calls=tuple(ToolCall(id=call_id, name=name or "look") for call_id, _, name in pairs)
    )


def result(call_id: str) -> ToolMessage:
    return ToolMessage(tool_call_id=call_id, content=f"result of {call_id}")


SYSTEM = SystemMessage(content="Be brief.")
USER = UserMessage(content="Hello?")
ANSWER = AssistantMessage(content="Hi.")


def pending(run: Run) -> list[str]:
    """Write effects as text: `model/1`, or `tool/0/2 c`, with the call's id."""
    return [described(effect) for effect in run.effects()]


def described(effect: Effect) -> str:
    return f"{effect.key} {effect.call.id}" if isinstance(effect, CallTool) else effect.key


# The second table of the state machine: history, turns allowed, effects, status.
TWO = calling("a", "b:ask", "c")
OWED: dict[str, tuple[list[Message], int, list[str], Status]] = {
    "nothing was said": ([], 25, [], Status.FINISHED),
    "only the system spoke": ([SYSTEM], 25, [], Status.FINISHED),
    "the user spoke": ([USER], 25, ["model/0"], Status.RUNNING),
    "the user spoke twice": ([USER, USER], 25, ["model/0"], Status.RUNNING),
    "the model answered": ([USER, ANSWER], 25, [], Status.FINISHED),
    "the model answered at the limit": ([USER, ANSWER], 1, [], Status.FINISHED),
    "calls are open": ([USER, TWO], 25, ["tool/0/0 a", "tool/0/2 c"], Status.RUNNING),
    "calls are open at the limit": ([USER, TWO], 1, ["tool/0/0 a", "tool/0/2 c"], Status.RUNNING),
    "a call has its result": ([USER, TWO, result("a")], 25, ["tool/0/2 c"], Status.RUNNING),
    "the client's call has its result": (
        [USER, TWO, result("b")],
        25,
        ["tool/0/0 a", "tool/0/2 c"],
        Status.RUNNING,
    ),
    "only the client's call is open": (
        [USER, TWO, result("c"), result("a")],
        25,
        [],
        Status.SUSPENDED,
    ),
    "only the client's call is open at the limit": (
        [USER, TWO, result("c"), result("a")],
        1,
        [],
        Status.SUSPENDED,
    ),
    "the batch is closed": (
        [USER, TWO, result("c"), result("a"), result("b")],
        25,
        ["model/1"],
        Status.RUNNING,
    ),
    "the batch is closed at the limit": (
        [USER, calling("a"), result("a")],
        1,
        [],
        Status.LIMIT_REACHED,
    ),
    "one turn is left": ([USER, calling("a"), result("a")], 2, ["model/1"], Status.RUNNING),
    "the user spoke after the limit": (
        [USER, calling("a"), result("a"), USER],
        1,
        ["model/1"],
        Status.RUNNING,
    ),
    "the system spoke at the limit": (
        [USER, calling("a"), result("a"), SYSTEM],
        1,
        [],
        Status.LIMIT_REACHED,
    ),
    "a later batch with the same ids": (
        [USER, calling("a"), result("a"), calling("b", "a")],
        25,
        ["tool/1/0 b", "tool/1/1 a"],
        Status.RUNNING,
    ),
}


@pytest.mark.parametrize(("history", "turns", "effects", "status"), OWED.values(), ids=OWED)
def test_pending_effects_are_as_documented(
    history: list[Message], turns: int, effects: list[str], status: Status
) -> None:
    run = Run(Conversation(history), limits=Limits(turns=turns), client_tools={"ask"})

    assert pending(run) == effects
    assert run.status is status
    assert run.limit == ("turns" if status is Status.LIMIT_REACHED else None)
    assert bool(run.effects()) == (status is Status.RUNNING)


def test_asking_changes_nothing() -> None:
    run = Run(Conversation([USER, calling("a", "b")]))

    assert run.effects() == run.effects()
    assert run.conversation.messages == (USER, calling("a", "b"))


def test_model_gets_the_whole_history() -> None:
    history = (SYSTEM, USER, calling("a"), result("a"))

    [effect] = Run(Conversation(history)).effects()

    assert isinstance(effect, CallModel)
    assert effect.messages == history


def test_tool_effect_carries_its_call() -> None:
    call = ToolCall(id="a", name="look", arguments='{"at": 1}', extra={"sig": "x"})
    history: list[Message] = [USER, AssistantMessage(tool_calls=(call,))]

    assert Run(Conversation(history)).effects() == [CallTool("tool/0/0", call)]


def test_effects_never_show_contents() -> None:
    call = ToolCall(id="a", name="look", arguments=CANARY)
    asked = Run(Conversation([UserMessage(content=CANARY)]))
    called = Run(Conversation([UserMessage(content=CANARY), AssistantMessage(tool_calls=(call,))]))

    assert CANARY not in repr(asked.effects())
    assert CANARY not in repr(called.effects())


def test_a_misfit_is_not_recorded() -> None:
    run = Run(Conversation([USER, calling("a")]))

    for misfit in (ANSWER, result("z")):
        with pytest.raises(ConversationError):
            run.record(misfit)

    assert pending(run) == ["tool/0/0 a"]


def test_record_returns_the_message() -> None:
    run = Run(Conversation([USER]))

    assert run.record(ANSWER) is ANSWER
    assert run.conversation.messages == (USER, ANSWER)


def test_suspended_calls_become_local_when_the_client_tools_say_so() -> None:
    conversation = Conversation([USER, calling("a:ask")])

    assert pending(Run(conversation, client_tools={"ask"})) == []
    assert pending(Run(conversation)) == ["tool/0/0 a"]


def test_closing_open_calls_lets_a_suspended_run_continue() -> None:
    run = Run(Conversation([USER, calling("a:ask")]), client_tools={"ask"})

    run.conversation.close_open_calls("The user is gone.")

    assert pending(run) == ["model/1"]


def test_default_limit_is_25_turns() -> None:
    conversation = Conversation([USER])
    for _ in range(24):
        conversation.append(calling("a"))
        conversation.append(result("a"))
    assert pending(Run(conversation, limits=NO_REPEATS)) == ["model/24"]

    conversation.append(calling("a"))
    conversation.append(result("a"))

    stopped = Run(conversation, limits=NO_REPEATS)
    assert (stopped.status, stopped.limit) == (Status.LIMIT_REACHED, "turns")


# Scripts here say the same again and again, which is not their point.
NO_REPEATS = Limits(repeats=None, repeats_warned=None)

# A world to run in: what the model says in each turn, and what tools answer.
SCRIPT: dict[str, AssistantMessage] = {
    "model/0": calling("a", "b", "c"),
    "model/1": calling("a"),
    "model/2": AssistantMessage(
        content="A moment.",
        tool_calls=(ToolCall(id="b", name="look"), ToolCall(id="a", name="look")),
    ),
    "model/3": ANSWER,
}
# Written out by hand: every key of the script's run, in order.
KEYS = [
    *("model/0", "tool/0/0", "tool/0/1", "tool/0/2"),
    *("model/1", "tool/1/0"),
    *("model/2", "tool/2/0", "tool/2/1"),
    "model/3",
]


def perform(effect: Effect, script: Mapping[str, AssistantMessage]) -> Message:
    if isinstance(effect, CallModel):
        return script[effect.key]
    assert isinstance(effect, CallTool)
    return ToolMessage(tool_call_id=effect.call.id, content=f"result under {effect.key}")


def drive(run: Run) -> Iterator[str]:
    """Perform the pending effects, one after another; yield the keys."""
    while effects := run.effects():
        for effect in effects:
            message = perform(effect, SCRIPT)
            assert isinstance(message, AssistantMessage | ToolMessage)
            run.record(message)
            yield effect.key


def test_run_resumed_at_any_prefix_ends_the_same() -> None:
    whole = Run(Conversation([SYSTEM, USER]), limits=NO_REPEATS)
    assert list(drive(whole)) == KEYS
    history = whole.conversation.messages
    assert len(history) == 2 + len(KEYS)

    for done in range(len(KEYS) + 1):
        resumed = Run(Conversation(history[: 2 + done]), limits=NO_REPEATS)
        assert list(drive(resumed)) == KEYS[done:]
        assert resumed.conversation.messages == history
        assert resumed.status is Status.FINISHED


@given(st.data())
def test_run_that_dies_anywhere_has_the_same_pending_keys_again(data: st.DataObject) -> None:
    """Crash after any record, tools finishing in any order; reload; go on."""
    run = Run(Conversation([SYSTEM, USER]), limits=NO_REPEATS)
    performed: list[str] = []

    while effects := run.effects():
        effect: Effect = data.draw(st.sampled_from(list[Effect](effects)))
        message = perform(effect, SCRIPT)
        assert isinstance(message, AssistantMessage | ToolMessage)
        run.record(message)
        performed.append(effect.key)
        if data.draw(st.booleans()):
            run = Run(Conversation(run.conversation.messages), limits=NO_REPEATS)

    assert sorted(performed) == sorted(KEYS)
    finished = Run(Conversation([SYSTEM, USER]), limits=NO_REPEATS)
    list(drive(finished))
    assert run.conversation.messages == finished.conversation.messages


def test_work_of_effects_is_linear_in_the_number_of_calls() -> None:
    def flooded(size: int) -> Run:
        run = Run(Conversation([USER, calling(*(f"call_{n}" for n in range(size)))]))
        for n in range(0, size, 2):
            run.record(result(f"call_{n}"))
        return run

    large = flooded(400)
    assert len(large.effects()) == 200
    assert described(large.effects()[-1]) == "tool/0/399 call_399"
    check_linear(lambda size: flooded(size).effects, 100)


def test_call_id_used_before_is_replaced_when_recorded() -> None:
    conversation = Conversation([UserMessage(content="twice")])
    run = Run(conversation)
    first = AssistantMessage(tool_calls=(ToolCall(id="call_1", name="add"),))
    run.record(first)
    run.record(ToolMessage(tool_call_id="call_1", content="1"))

    again = (ToolCall(id="call_2", name="add"), ToolCall(id="call_1", name="add"))
    recorded = run.record(AssistantMessage(tool_calls=again))

    assert isinstance(recorded, AssistantMessage)
    assert [call.id for call in recorded.tool_calls] == ["call_2", "t0001c001"]
    assert conversation.messages[-1] == recorded
