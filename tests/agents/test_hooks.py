"""Hooks see, change, replace and refuse the calls of a run, or end it, in each way to run it."""

import asyncio
import sqlite3
import threading
from contextlib import closing
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import pytest

from hook_kinds import hook
from hooked_agents import ADDING, Steps, add, noting, results
from pathors_agent import Hook, ToolContext
from pathors_agent.agents import ModelContext, ModelRequest
from pathors_agent.agents.agent import Agent, AsyncAgent
from pathors_agent.core.conversation import Conversation
from pathors_agent.core.limits import Limits
from pathors_agent.core.run import Status
from pathors_agent.errors import ConversationError, ProviderError
from pathors_agent.history.trim import last_turns
from pathors_agent.messages import AssistantMessage, ToolCall, Usage, UserMessage
from pathors_agent.testing import AsyncScriptedTransport, ScriptedTransport, answer, http_error
from pathors_agent.wire.chat_completions import ModelOptions
from pathors_agent.wire.deltas import TextDelta
from ways import Way

# - order, and what hooks are told


IN_ORDER = [
    *("outer model/0", "inner model/0", "inner model/0 calls", "outer model/0 calls"),
    *("outer add {'a': 1, 'b': 2}", "inner add {'a': 1, 'b': 2}", "inner add 3", "outer add 3"),
    *("outer model/1", "inner model/1", "inner model/1 Three.", "outer model/1 Three."),
]


@pytest.mark.parametrize("reading", ["run", "stream"])
def test_first_hook_is_the_outermost_around_model_and_tools(way: Way, reading: str) -> None:
    log: list[str] = []
    hooks = [hook(way.name, **noting(name, log)) for name in ("outer", "inner")]

    result = getattr(way, reading)(ADDING, "Three.", prompt="1 + 2?", tools=[add], hooks=hooks)

    assert result.output == "Three."
    assert log == IN_ORDER


def test_hook_of_tools_only_sees_no_model_call(way: Way) -> None:
    log: list[str] = []
    around = noting("tool", log)["tool"]

    way.stream(ADDING, "Three.", prompt="?", tools=[add], hooks=[hook(way.name, tool=around)])

    assert log == ["tool add {'a': 1, 'b': 2}", "tool add 3"]


def test_hooks_know_the_call_and_the_context(way: Way) -> None:
    told: list[object] = []

    def around_model(call: ModelContext, request: ModelRequest) -> Steps:
        told.append((call.context, call.conversation_id, call.last_word))
        return (yield request)

    def around_tool(call: ToolCall, arguments: dict[str, Any], context: ToolContext) -> Steps:
        told.append((context.context, context.key, context.call is call))
        return (yield arguments)

    around = hook(way.name, model=around_model, tool=around_tool)
    result = way.run(
        *(ADDING, "Three."),
        prompt="?",
        context="Ada",
        tools=[add],
        hooks=[around],
        limits=Limits(turns=1, last_word=True),
    )

    known = result.conversation.id
    assert told == [("Ada", known, False), ("Ada", f"{known}/tool/0/0", True), ("Ada", known, True)]


# - requests and answers -


def test_changed_request_is_sent_and_the_history_keeps_its_own(way: Way) -> None:
    def redact(call: ModelContext, request: ModelRequest) -> Steps:
        messages = [
            UserMessage(content=m.text.replace("4711", "[pin]")) if m.role == "user" else m
            for m in request.messages
        ]
        changed = replace(
            request,
            messages=messages,
            model="small",
            instructions="Be brief.",
            tools=(),
            options=ModelOptions(temperature=0.0),
        )
        return (yield changed)

    around = hook(way.name, model=redact)
    result = way.run("Safe.", prompt="My pin is 4711.", model="big", tools=[add], hooks=[around])

    [request] = way.requests
    assert request["model"] == "small"
    assert "tools" not in request
    assert request["temperature"] == 0.0
    assert [m["content"] for m in request["messages"]] == ["Be brief.", "My pin is [pin]."]
    assert result.messages[0].text == "My pin is 4711."


def test_request_has_the_messages_that_history_selects(way: Way) -> None:
    seen: list[list[str]] = []

    def look(call: ModelContext, request: ModelRequest) -> Steps:
        seen.append([message.text for message in request.messages])
        return (yield request)

    past = Conversation([UserMessage(content="Old."), AssistantMessage(content="Yes.")])
    around = hook(way.name, model=look)
    way.run("New.", prompt="Now.", conversation=past, history=last_turns(1), hooks=[around])

    assert seen == [["Now."]]


def test_illegal_messages_of_a_hook_are_an_error_that_names_them(way: Way) -> None:
    def drop(call: ModelContext, request: ModelRequest) -> Steps:
        return (yield replace(request, messages=[AssistantMessage(content="No.")]))

    conversation = Conversation()
    with pytest.raises(ConversationError, match=r"the request that a hook passed to next\(\)"):
        way.run("?", prompt="Hi.", conversation=conversation, hooks=[hook(way.name, model=drop)])

    assert [m.text for m in conversation.messages] == ["Hi."]
    assert way.requests == []


def test_changed_answer_is_recorded(way: Way) -> None:
    def shout(call: ModelContext, request: ModelRequest) -> Steps:
        message = yield request
        return message.model_copy(update={"content": message.text.upper()})

    result = way.stream("hello", prompt="Hi.", hooks=[hook(way.name, model=shout)])

    assert result.output == "HELLO"
    assert result.conversation.messages[-1].text == "HELLO"


@pytest.mark.parametrize("reading", ["run", "stream"])
def test_answer_without_next_takes_the_place_of_the_model(way: Way, reading: str) -> None:
    def refuse(call: ModelContext, request: ModelRequest) -> Steps:
        return AssistantMessage(content="I must not.", usage=Usage(total_tokens=0))
        yield

    result = getattr(way, reading)(prompt="Do it.", hooks=[hook(way.name, model=refuse)])

    assert result.output == "I must not."
    assert result.status is Status.FINISHED
    assert way.requests == []
    if reading == "stream":
        assert "".join(d.text for d in way.items if isinstance(d, TextDelta)) == "I must not."
        assert way.items[-1] == result.conversation.messages[-1]


def test_tool_calls_of_a_hook_are_run(way: Way) -> None:
    call = ToolCall(id="mine", name="add", arguments='{"a": 2, "b": 2}')

    def plan(call_: ModelContext, request: ModelRequest) -> Steps:
        if call_.key == "model/0":
            return AssistantMessage(tool_calls=(call,))
        return (yield request)

    result = way.stream("Four.", prompt="?", tools=[add], hooks=[hook(way.name, model=plan)])

    assert results(result.messages) == [("value", "4")]
    assert len(way.requests) == 1


def test_deltas_reach_the_reader_before_the_hook_has_the_answer(way: Way) -> None:
    log: list[str] = []
    hooks = [hook(way.name, model=noting("hook", log)["model"])]
    seen: list[list[str]] = []

    def look(count: int, stream: object) -> None:
        if count == 1:
            seen.append([*log])

    # More pieces than may wait for the reader.
    reply = answer("word " * 100, chunk_size=5)
    result = way.stream(reply, prompt="?", hooks=hooks, act=look, cut=100)

    assert seen == [["hook model/0"]]
    texts = [item.text for item in way.items if isinstance(item, TextDelta)]
    assert "".join(texts) == result.output
    assert len(texts) == 100


def test_held_back_answer_reaches_the_reader_as_the_hook_returns_it(way: Way) -> None:
    def guard(call: ModelContext, request: ModelRequest) -> Steps:
        message = yield replace(request, streamed=False)
        return message.model_copy(update={"content": message.text.replace("secret", "[...]")})

    result = way.stream("The secret.", prompt="?", hooks=[hook(way.name, model=guard)])

    assert result.output == "The [...]."
    assert "".join(d.text for d in way.items if isinstance(d, TextDelta)) == "The [...]."


def test_hook_may_call_the_model_again(way: Way) -> None:
    def retry(call: ModelContext, request: ModelRequest) -> Steps:
        try:
            return (yield request)
        except ProviderError:
            return (yield request)

    result = way.stream(
        http_error(429, "Slow down."), "Here.", prompt="?", hooks=[hook(way.name, model=retry)]
    )

    assert result.output == "Here."
    assert len(way.requests) == 2


def test_answer_after_a_failed_call_reaches_the_reader_as_deltas(way: Way) -> None:
    def fall_back(call: ModelContext, request: ModelRequest) -> Steps:
        try:
            return (yield request)
        except ProviderError:
            return AssistantMessage(content="Later, please.")

    around = hook(way.name, model=fall_back)
    result = way.stream(http_error(400, "No."), prompt="?", hooks=[around])

    assert result.output == "Later, please."
    assert "".join(d.text for d in way.items if isinstance(d, TextDelta)) == "Later, please."


# - where hooks run -


def test_hooks_see_the_context_variables_of_the_caller(way: Way) -> None:
    tenant: ContextVar[str] = ContextVar("tenant")
    seen: list[str] = []

    def look(call: ModelContext, request: ModelRequest) -> Steps:
        seen.append(tenant.get())
        return (yield request)

    tenant.set("acme")
    way.stream("Hi.", prompt="?", hooks=[hook(way.name, model=look)])

    assert seen == ["acme"]


def test_blocking_run_calls_its_hooks_in_its_own_thread() -> None:
    with closing(sqlite3.connect(":memory:")) as database:  # refuses other threads
        database.execute("create table log (text)")

        class Audit:
            def around_model(self, call: ModelContext, request: ModelRequest, next_: Any) -> Any:
                message = next_(request)
                database.execute("insert into log values (?)", (message.text,))
                return message

            def around_tool(self, call: Any, arguments: Any, context: Any, next_: Any) -> Any:
                message = next_(arguments)
                database.execute("insert into log values (?)", (message.text,))
                return message

        Agent(ScriptedTransport(ADDING, "Three."), tools=[add], hooks=[Audit()]).run("?")

        assert database.execute("select text from log").fetchall() == [("",), ("3",), ("Three.",)]


def test_agents_without_hooks_start_no_thread_and_no_task() -> None:
    threads: set[int] = set()

    class Look(ScriptedTransport):
        def send(self, request: Any) -> Any:
            threads.add(threading.active_count())
            return super().send(request)

    before = threading.active_count()
    for _ in Agent(Look(ADDING, "Three."), tools=[add]).stream("?"):
        threads.add(threading.active_count())

    assert threads == {before}


# - mistakes -


@dataclass
class Empty:
    pass


class Looks:
    def around_model(self, call: ModelContext, request: ModelRequest, next_: Any) -> Any:
        return next_(request)


class Awaits:
    async def around_tool(self, call: Any, arguments: Any, context: Any, next_: Any) -> Any:
        return await next_(arguments)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (Empty(), "hooks= contains a Empty, and not an object with around_model or around_tool"),
        (Looks, r"hooks= contains the class Looks, .* or around_tool; pass Looks\(\)"),
        (print, "hooks= contains a builtin_function_or_method, and not an object"),
        (Awaits(), "hooks=: Awaits.around_tool is async, which only AsyncAgent can await"),
    ],
    ids=["empty", "class", "function", "async"],
)
def test_value_that_is_not_a_hook_is_refused_by_the_agents_constructor(
    given: Any, told: str
) -> None:
    with pytest.raises(TypeError, match=told):
        Agent(ScriptedTransport(), hooks=[given])


def test_blocking_hook_of_an_async_agent_is_an_error() -> None:
    class Replaces:
        def around_model(self, call: ModelContext, request: ModelRequest, next_: Any) -> Any:
            return AssistantMessage(content="No.")

    hooks: list[Any] = [Replaces()]
    agent = AsyncAgent(AsyncScriptedTransport(), hooks=hooks)

    with pytest.raises(TypeError, match=r"Replaces.around_model is not async; AsyncAgent awaits"):
        asyncio.run(agent.run("?"))


@pytest.mark.parametrize("value", [None, "text"])
def test_model_hook_that_returns_no_answer_is_an_error(way: Way, value: object) -> None:
    def forget(call: ModelContext, request: ModelRequest) -> Steps:
        yield request
        return value

    kind = type(value).__name__
    with pytest.raises(TypeError, match=f"method returned a {kind}, and not an AssistantMessage"):
        way.run("Hi.", prompt="?", hooks=[hook(way.name, model=forget)])


def test_tool_hook_that_forgets_the_result_is_an_error(way: Way) -> None:
    def forget(call: ToolCall, arguments: dict[str, Any], context: ToolContext) -> Steps:
        yield arguments

    with pytest.raises(TypeError, match=r"returned None; return the result of next\(arguments\)"):
        way.run(ADDING, "Hi.", prompt="?", tools=[add], hooks=[hook(way.name, tool=forget)])


def test_hook_type_names_both_kinds_of_methods() -> None:
    given: list[Hook] = [Looks()]

    assert Agent(ScriptedTransport("Hi."), hooks=given).run("?").output == "Hi."


def test_next_that_is_called_after_the_hook_returned_is_an_error_and_does_not_hang() -> None:
    kept: list[Any] = []

    class Keeping:
        def around_model(self, call: ModelContext, request: ModelRequest, next_: Any) -> Any:
            kept.append((next_, request))
            return next_(request)

    with Agent(ScriptedTransport("Hello.", "Late."), hooks=[Keeping()]).stream("Hi.") as stream:
        list(stream)

    [(next_, request)] = kept
    with pytest.raises(RuntimeError, match="after its hook returned"):
        next_(request)


@pytest.mark.parametrize("source", ["history=", "the request that a hook passed to next()"])
def test_dicts_of_histories_and_hooks_are_refused_with_the_function_that_reads_them(
    source: str,
) -> None:
    said: Any = [{"role": "user", "content": "Shorter."}]

    class Shorter:
        def around_model(self, call: ModelContext, request: ModelRequest, next_: Any) -> Any:
            return next_(replace(request, messages=said))

    transport = ScriptedTransport("Yes.")
    agent = (
        Agent(transport, history=lambda messages: said)
        if source == "history="
        else Agent(transport, hooks=[Shorter()])
    )
    with pytest.raises(TypeError, match="a dict is not a message; load_messages") as refused:
        agent.run("A long question.")

    assert str(refused.value).startswith(f"the messages of {source}:")


def test_history_that_returns_no_list_is_an_error_that_names_it() -> None:
    nothing: Any = None

    with pytest.raises(TypeError, match="the messages of history= are a NoneType"):
        Agent(ScriptedTransport("Yes."), history=lambda messages: nothing).run("Hi.")
