"""Tools of runs that are cancelled, and messages that are added meanwhile."""

import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import pytest

from cancelled_agents import BEGUN, LONG, begun, closed, followed, look
from driven_agents import calling
from pathors_agent.agents.agent import Agent, AsyncAgent
from pathors_agent.core.batch import CallState
from pathors_agent.core.conversation import Conversation
from pathors_agent.errors import ConversationError, ProviderError
from pathors_agent.messages import Message, ToolMessage, UserMessage
from pathors_agent.testing import (
    AsyncScriptedTransport,
    ScriptedTransport,
    answer,
    calls,
    http_error,
)
from pathors_agent.tools.tool import Tool
from ways import WAYS

# - cancelled from anywhere


def in_thread(function: Callable[[], object]) -> None:
    """Call a function in another thread, and wait for it."""
    thread = threading.Thread(target=function)
    thread.start()
    thread.join(LONG)
    assert not thread.is_alive()


# - tools


def note(name: str) -> None:
    BEGUN.append(name)


async def sleep_async() -> str:
    """Sleep until it is cancelled."""
    note("begun")
    await anyio.sleep_forever()
    return "never"


async def report_and_sleep() -> AsyncGenerator[str, None]:
    """Report, and sleep until it is cancelled."""
    note("begun")
    yield "working"
    await anyio.sleep_forever()
    yield "never"


def sleep_in_process(path: str) -> str:
    """Say that it runs, and sleep until it is killed."""
    from pathlib import Path

    Path(path).touch()
    time.sleep(LONG)
    return "never"


CANCELLED = (
    "cancelled",
    "Interrupted: the user went on. The call had begun, and it is not known how far it came.",
)


@pytest.fixture(autouse=True)
def _nothing_begun() -> None:
    BEGUN.clear()


def cancelled_call(way: str, made: Tool, arguments: dict[str, Any], path: Any) -> Conversation:
    """Cancel a run in its tool, and let the user go on; return the conversation."""
    conversation = Conversation()
    script = (calls((made.name, arguments)), "I see.")

    async def main() -> None:
        agent = AsyncAgent(AsyncScriptedTransport(*script), tools=[made])
        stream = agent.stream("Go.", conversation=conversation)

        async def cancel() -> None:
            await begun(path)
            await anyio.to_thread.run_sync(stream.cancel)

        with anyio.fail_after(LONG):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(cancel)
                async with stream:
                    async for _ in stream:
                        pass
            assert stream.result.cancelled
            await agent.run("And?", conversation=conversation)

    if way != "blocking":
        anyio.run(main, backend=way)
        return conversation
    agent = Agent(ScriptedTransport(*script), tools=[made])
    stream = agent.stream("Go.", conversation=conversation)

    def cancel() -> None:
        anyio.run(begun, path)
        stream.cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    with stream:
        for _ in stream:
            pass
    thread.join(LONG)
    assert stream.result.cancelled
    agent.run("And?", conversation=conversation)
    return conversation


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("function", [sleep_async, report_and_sleep])
def test_async_tool_is_cancelled_with_its_run(way: str, function: Callable[..., Any]) -> None:
    conversation = cancelled_call(way, Tool.from_function(function), {}, None)

    assert closed(conversation) == [CANCELLED]


@pytest.mark.process
@pytest.mark.parametrize("way", WAYS)
def test_process_is_killed_with_its_run(way: str, tmp_path: Any) -> None:
    path = tmp_path / "begun"
    made = Tool.from_function(sleep_in_process, run_in="process")

    conversation = cancelled_call(way, made, {"path": str(path)}, path)

    assert closed(conversation) == [CANCELLED]


@pytest.mark.parametrize("way", WAYS)
def test_thread_is_left_and_its_outcome_is_unknown(way: str) -> None:
    may_end = threading.Event()

    def hang() -> None:
        """Hang."""
        note("begun")
        may_end.wait(LONG)

    conversation = cancelled_call(way, Tool.from_function(hang, timeout=LONG), {}, None)
    may_end.set()

    assert closed(conversation) == [
        (
            "unknown",
            "The run was stopped while it ran; it goes on by itself, and its result will not be"
            " known.",
        )
    ]


def test_blocking_tool_that_cannot_be_stopped_keeps_its_result() -> None:
    conversation = Conversation()

    def work() -> str:
        """Work."""
        in_thread(stream.cancel)
        return "done"

    agent = Agent(ScriptedTransport(calling("work", "work")), tools=[Tool.from_function(work)])
    stream = agent.stream("Go.", conversation=conversation)
    with stream:
        for _ in stream:
            pass
    conversation.close_open_calls("stopped")

    assert closed(conversation) == [("value", "done"), ("not_run", "Not run: stopped.")]


# - what is said meanwhile


def roles(conversation: Conversation) -> list[str]:
    return [
        message.text if isinstance(message, UserMessage) else message.role
        for message in conversation.messages
    ]


@pytest.mark.parametrize("way", WAYS)
def test_message_follows_the_running_batch_and_precedes_the_next_model_call(way: str) -> None:
    batch = answer(calls=[("look", {"n": 1}), ("look", {"n": 2})], chunk_size=100)
    deltas = 2 * 2

    for place in range(deltas + 4):
        conversation = Conversation()
        items = followed(
            way, batch, "Done.", at=(place, "Look twice."), conversation=conversation, tools=[look]
        )

        if place == 0:  # said before the model was first asked
            assert roles(conversation)[:3] == ["Go.", "Look twice.", "assistant"]
            continue
        assert (
            roles(conversation)
            == [*("Go.", "assistant", "tool", "tool", "Look twice.", "assistant")][:6]
        ), place
        assert [m.text for m in items if isinstance(m, UserMessage)] == ["Look twice."]


@pytest.mark.parametrize("way", WAYS)
def test_run_that_is_about_to_end_continues_with_an_added_message(way: str) -> None:
    conversation = Conversation()

    followed(way, "First.", "Second.", at=(2, "And then?"), conversation=conversation)

    assert roles(conversation) == ["Go.", "assistant", "And then?", "assistant"]


def test_message_for_a_run_that_has_ended_is_refused_and_not_kept() -> None:
    stream = Agent(ScriptedTransport("Done.")).stream("Go.")
    for _ in stream:
        pass

    with pytest.raises(ConversationError, match="the run has ended: pass the message to another"):
        stream.say("Wait.")

    assert roles(stream.conversation) == ["Go.", "assistant"]
    Agent(ScriptedTransport("Yes?")).run("Hello?", conversation=stream.conversation)
    assert roles(stream.conversation) == ["Go.", "assistant", "Hello?", "assistant"]


def test_message_waits_for_open_calls_and_follows_their_results() -> None:
    confirm = Tool(name="confirm")
    conversation = Conversation()
    followed(
        "blocking", calling("confirm"), at=(1, "Hurry."), conversation=conversation, tools=[confirm]
    )
    assert roles(conversation) == ["Go.", "assistant"]
    [call] = conversation.open_calls
    assert conversation.call_state(call) is CallState.HANDED_OUT

    conversation.append(ToolMessage(tool_call_id=call.id, content="yes"))
    Agent(ScriptedTransport("Done."), tools=[confirm]).run(conversation=conversation)

    assert roles(conversation) == ["Go.", "assistant", "tool", "Hurry.", "assistant"]


def test_message_is_in_the_history_of_the_error_that_ends_the_run() -> None:
    def say_now(messages: Sequence[Message]) -> Sequence[Message]:
        stream.say("Now.")
        return messages

    agent = Agent(ScriptedTransport(http_error(400, "no")), history=say_now)
    stream = agent.stream("Go.")
    stream.say("Please.")

    with pytest.raises(ProviderError) as failed:
        list(stream)

    assert [m.text for m in failed.value.messages] == ["Go.", "Please.", "Now."]
    assert failed.value.messages == stream.conversation.messages


def test_messages_from_many_threads_are_all_said() -> None:
    stream = Agent(ScriptedTransport(then="Hm.")).stream("Go.")
    threads = [
        threading.Thread(target=partial(stream.say, f"message {number}")) for number in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    for _ in stream:
        pass

    said = [m.text for m in stream.conversation.messages if isinstance(m, UserMessage)]
    assert sorted(said[1:]) == sorted(f"message {number}" for number in range(20))
