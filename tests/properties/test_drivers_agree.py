"""Every driver makes the same history of the same answers, wherever it was interrupted."""

import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from anyio.lowlevel import checkpoint
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from effort import THOROUGH, examples
from hook_kinds import hook
from pathors_agent import ToolContext
from pathors_agent.agents import ModelContext, ModelRequest
from pathors_agent.agents.stream import AsyncRunStream, RunStream
from pathors_agent.core.conversation import Conversation
from pathors_agent.core.run import Status
from pathors_agent.errors import ToolError
from pathors_agent.history.loading import dump_messages, load_messages
from pathors_agent.messages import AssistantMessage, Message, ToolCall, UserMessage
from pathors_agent.testing import Reply, raw
from pathors_agent.tools.tool import tool
from pathors_agent.wire.completion_bytes import stream_events
from ways import WAYS, Way


@tool
def work(a: int) -> int:
    """Work."""
    return a + 1


@tool
async def work_slowly(a: int) -> str:
    """Work, and let others go first."""
    for _ in range(a):
        await checkpoint()
    return f"worked {a}"


@tool
def fail(a: int) -> None:
    """Fail."""
    raise ValueError(f"no {a}")


@tool
async def refuse(a: int) -> None:
    """Refuse."""
    await checkpoint()
    raise ToolError(f"not {a}")


@tool
def give_object(a: int) -> object:
    """Give what is no JSON."""
    return object()


TOOLS = [work, work_slowly, fail, refuse, give_object]
NAMES = ["work", "work_slowly", "fail", "refuse", "give_object", "unknown"]

Call = tuple[str, str]
"""A tool's name and its arguments."""


@dataclass(frozen=True)
class Turn:
    """One answer of a model."""

    text: str
    calls: tuple[Call, ...]

    def reply(self, number: int) -> Reply:
        message = AssistantMessage(
            content=self.text or None,
            tool_calls=tuple(
                ToolCall(id=f"t{number}c{place}", name=name, arguments=arguments)
                for place, (name, arguments) in enumerate(self.calls)
            ),
            finish_reason="tool_calls" if self.calls else "stop",
            id=f"chat-{number}",
            model="demo",
        )
        return raw(b"".join(stream_events(message, split=halves)))


def halves(text: str) -> list[str]:
    middle = len(text) // 2
    return [piece for piece in (text[:middle], text[middle:]) if piece]


arguments = st.integers(0, 3).map(lambda a: json.dumps({"a": a}))
bad_arguments = st.sampled_from(['{"a": "one"}', '{"a": 1', "", "[]", '{"a": 1, "b": 2}'])
calls = st.tuples(st.sampled_from(NAMES), arguments | arguments | bad_arguments)
batches = st.lists(calls, min_size=1, max_size=4).map(tuple)
turns = st.builds(Turn, st.sampled_from(["", "Hm."]), batches)
scripts = st.builds(
    lambda batches, text: [*batches, Turn(text, ())],
    st.lists(turns, max_size=3),
    st.sampled_from(["Done.", ""]),
)


# Calls that repeat themselves are warned, then not run, and at last end the run.
REPEATING = [*[Turn("", (("work", '{"a": 1}'),) * 4)] * 3, Turn("Done.", ())]
ENDS = (Status.FINISHED, Status.LIMIT_REACHED)


def meddle_with_model(call: ModelContext, request: ModelRequest) -> Generator[Any, Any, Any]:
    """Change each answer with words, and look at all others."""
    message = yield request
    return message.model_copy(update={"content": "Hm, hm."}) if message.text == "Hm." else message


def meddle_with_tools(
    call: ToolCall, arguments: dict[str, Any], context: ToolContext
) -> Generator[Any, Any, Any]:
    """Refuse, replace, change or run a call, as its argument says."""
    match arguments.get("a"):
        case 0:
            raise ToolError("not none")
        case 1:
            return "known"
        case 2:
            result = yield {"a": 5}
            return result.model_copy(update={"content": f"changed: {result.text}"})
        case _:
            return (yield arguments)


def hooks_of(way: str, *, hooked: bool = True) -> list[Any]:
    if not hooked:
        return []
    return [hook(way, model=meddle_with_model, tool=meddle_with_tools), hook(way, tool=pass_on)]


def pass_on(
    call: ToolCall, arguments: dict[str, Any], context: ToolContext
) -> Generator[Any, Any, Any]:
    return (yield arguments)


def replies(script: Sequence[Turn], taken: int = 0) -> list[Reply]:
    """Return the rest of the answers after this number of them."""
    return [turn.reply(number) for number, turn in enumerate(script)][taken:]


def finish(
    way: str, script: Sequence[Turn], history: Sequence[Message], *, hooked: bool = False
) -> tuple[Message, ...]:
    """Take a history up from storage and run it to its end."""
    conversation = Conversation(load_messages(dump_messages(history)))
    result = Way(way).run(
        *replies(script, conversation.turns),
        conversation=conversation,
        tools=TOOLS,
        hooks=hooks_of(way, hooked=hooked),
    )
    assert result.status in ENDS
    return conversation.messages


def whole(way: str, script: Sequence[Turn], *, hooked: bool = False) -> tuple[Message, ...]:
    hooks = hooks_of(way, hooked=hooked)
    result = Way(way).run(*replies(script), prompt="Go.", tools=TOOLS, hooks=hooks)
    assert result.status in ENDS
    return result.conversation.messages


EACH_WAY = pytest.mark.parametrize("way", WAYS)
# One example is up to fifty runs, each on an event loop of its own.
few = settings(max_examples=examples(25), suppress_health_check=[HealthCheck.too_slow])


def places_of(items: Sequence[object]) -> range:
    """Return the places of a stream where it is interrupted: all, or some of a long one."""
    return range(1, len(items) + 1, 1 if THOROUGH else 1 + len(items) // 12)


@EACH_WAY
@given(script=scripts)
@example(script=REPEATING)
def test_every_way_makes_the_same_history(way: str, script: list[Turn]) -> None:
    history = whole(way, script)

    assert history == whole("blocking", script)
    answers = [message for message in history if isinstance(message, AssistantMessage)]
    assert [len(m.tool_calls) for m in answers] == [len(t.calls) for t in script[: len(answers)]]
    assert len(history) == 1 + sum(1 + len(message.tool_calls) for message in answers)


@EACH_WAY
@few
@given(script=scripts, other=st.sampled_from(WAYS))
@example(script=REPEATING, other="asyncio")
def test_run_left_after_any_item_ends_as_the_whole(
    way: str, script: list[Turn], other: str
) -> None:
    history = whole(way, script)
    streamed = Way(way)
    streamed.stream(*replies(script), prompt="Go.", tools=TOOLS)

    for stop_after in places_of(streamed.items):
        conversation = Conversation()
        Way(way).stream(
            *replies(script),
            prompt="Go.",
            conversation=conversation,
            tools=TOOLS,
            stop_after=stop_after,
        )
        assert finish(other, script, conversation.messages) == history


Stream = RunStream[Any] | AsyncRunStream[Any]


@EACH_WAY
@few
@given(script=scripts, other=st.sampled_from(WAYS))
@example(script=REPEATING, other="trio")
def test_run_cancelled_after_any_item_ends_as_the_whole(
    way: str, script: list[Turn], other: str
) -> None:
    history = whole(way, script)
    streamed = Way(way)
    streamed.stream(*replies(script), prompt="Go.", tools=TOOLS)

    for cancel_after in (0, *places_of(streamed.items)):
        conversation, cancelled = Conversation(), Way(way)

        def cancel(count: int, stream: Stream, place: int = cancel_after) -> None:
            if count == place:
                stream.cancel()

        result = cancelled.stream(
            *replies(script), prompt="Go.", conversation=conversation, tools=TOOLS, act=cancel
        )

        # Results of a batch are given out together; the model's message is not recorded any more.
        later = cancelled.items[cancel_after:]
        assert not any(isinstance(item, AssistantMessage) for item in later)
        assert result.cancelled == (conversation.messages != history)
        assert finish(other, script, conversation.messages) == history


@EACH_WAY
@few
@given(script=scripts, hooked=st.booleans(), data=st.data())
def test_added_messages_have_the_same_place_in_every_kind_of_run(
    way: str, script: list[Turn], data: st.DataObject, *, hooked: bool
) -> None:
    def streamed(
        name: str, script: Sequence[Turn], place: int = -1
    ) -> tuple[list[Any], tuple[Message, ...]]:
        def say(count: int, stream: Stream) -> None:
            if count == place:
                stream.say("And this.")

        ran, hooks = Way(name), hooks_of(name, hooked=hooked)
        result = ran.stream(*replies(script), prompt="Go.", tools=TOOLS, hooks=hooks, act=say)
        assert result.status in ENDS
        return ran.items, result.conversation.messages

    items, _ = streamed("blocking", script)
    place = data.draw(st.integers(0, len(items)))
    longer = [*script, Turn("Also done.", ())]

    _, history = streamed(way, longer, place)
    assert history == streamed("blocking", longer, place)[1]

    [after] = [i for i, message in enumerate(history) if is_said(message)]
    answers = [i for i, message in enumerate(history) if isinstance(message, AssistantMessage)]
    # What the model had answered by then comes before it, with all results; then the model is
    # asked again, until the script ends.
    known = [item for item in items[:place] if isinstance(item, AssistantMessage)]
    before = [history[i] for i in answers if i < after]
    assert before[: len(known)] == known
    assert len(before) <= len(known) + 1
    assert any(i > after for i in answers)


def is_said(message: Message) -> bool:
    return isinstance(message, UserMessage) and message.text == "And this."


@EACH_WAY
@few
@given(script=scripts)
@example(script=REPEATING)
def test_any_prefix_of_a_history_ends_as_the_whole(way: str, script: list[Turn]) -> None:
    history = whole("blocking", script)

    for length in places_of(history):
        assert finish(way, script, history[:length]) == history


@EACH_WAY
@few
@given(script=scripts, data=st.data())
def test_results_in_any_order_lead_to_the_same_conversation(
    way: str, script: list[Turn], data: st.DataObject
) -> None:
    """A batch that was cancelled has any of its results: those of the fastest tools."""
    history = whole("blocking", script)
    kept = [message for message in history[1:] if message.role == "tool"]
    if not kept:
        return
    opener = next(i for i, m in enumerate(history) if isinstance(m, AssistantMessage))
    size = len(script[0].calls)
    batch = history[opener + 1 : opener + 1 + size]
    some = data.draw(st.lists(st.sampled_from(batch), unique_by=id, max_size=size))

    assert finish(way, script, [*history[: opener + 1], *some]) == history


# - hooks -


@EACH_WAY
@few
@given(script=scripts)
@example(script=REPEATING)
def test_every_way_makes_the_same_history_with_hooks(way: str, script: list[Turn]) -> None:
    history = whole(way, script, hooked=True)
    streamed = Way(way)
    result = streamed.stream(*replies(script), prompt="Go.", tools=TOOLS, hooks=hooks_of(way))

    assert history == whole("blocking", script, hooked=True)
    assert result.conversation.messages == history
    assert [item for item in streamed.items if isinstance(item, AssistantMessage)] == [
        message for message in history if isinstance(message, AssistantMessage)
    ]


@EACH_WAY
@settings(max_examples=examples(10), suppress_health_check=[HealthCheck.too_slow])
@given(script=scripts, other=st.sampled_from(WAYS), data=st.data())
def test_run_with_hooks_ends_as_the_whole_wherever_it_is_cancelled_or_left(
    way: str, script: list[Turn], other: str, data: st.DataObject
) -> None:
    history = whole(way, script, hooked=True)
    streamed = Way(way)
    streamed.stream(*replies(script), prompt="Go.", tools=TOOLS, hooks=hooks_of(way))
    place = data.draw(st.integers(1, len(streamed.items)))
    is_left = data.draw(st.booleans())

    def cancel(count: int, stream: Stream) -> None:
        if count == place and not is_left:
            stream.cancel()

    conversation = Conversation()
    Way(way).stream(
        *replies(script),
        prompt="Go.",
        conversation=conversation,
        tools=TOOLS,
        hooks=hooks_of(way),
        act=cancel,
        stop_after=place if is_left else None,
    )

    assert finish(other, script, conversation.messages, hooked=True) == history
