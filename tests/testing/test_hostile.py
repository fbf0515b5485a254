"""A hostile model finds what is wrong with an agent, and the library's own agents stand it."""

import json
from contextlib import suppress
from typing import Any

import anyio
import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st

from effort import examples
from pathors_agent import (
    Agent,
    AssistantMessage,
    AsyncAgent,
    Conversation,
    Limits,
    Request,
    Tool,
    ToolCall,
    ToolMessage,
    Transport,
    TransportError,
    UserMessage,
    tool,
)
from pathors_agent.core import Status
from pathors_agent.testing import (
    Answer,
    AsyncHostileTransport,
    Fault,
    HostileScript,
    HostileTransport,
    ScriptedTransport,
    answer,
    calls,
    check_history,
    hostile_scripts,
    http_error,
    raw,
)
from pathors_agent.testing.hostile import ALL_FAULTS
from pathors_agent.wire.response_stream import ResponseStream
from ways import WAYS

LIMITS = Limits(turns=4, tool_calls=20)


class Ran:
    """What the tools were really run with."""

    def __init__(self) -> None:
        self.pages: list[object] = []

    def tools(self) -> list[Tool]:
        @tool
        def look(page: int, note: str = "") -> str:
            """Look at a page."""
            self.pages.append(page)
            return "seen"

        @tool
        def now() -> str:
            """Give the time."""
            self.pages.append(0)
            return "noon"

        return [
            Tool.from_function(look),
            Tool.from_function(now),
            Tool(name="ask", description="Ask the caller."),
        ]


def run(way: str, script: HostileScript, ran: Ran, *, cut: int | None = None) -> Conversation:
    """Run our agent through a script in one of the ways; return the history, however it ended."""
    conversation = Conversation()
    settings_: dict[str, Any] = {"tools": ran.tools(), "limits": LIMITS}

    async def main() -> None:
        agent = AsyncAgent(script.async_transport(cut=cut), **settings_)
        with suppress(TransportError):
            await agent.run("Go.", conversation=conversation)

    if way == "blocking":
        with suppress(TransportError):
            Agent(script.transport(cut=cut), **settings_).run("Go.", conversation=conversation)
    else:
        anyio.run(main, backend=way)
    return conversation


@pytest.mark.parametrize("way", WAYS)
@given(script=hostile_scripts(Ran().tools()), cut=st.none() | st.integers(1, 50))
@settings(max_examples=examples(200))
def test_agents_keep_a_true_history_whatever_the_model_does(
    way: str, script: HostileScript, cut: int | None
) -> None:
    ran = Ran()

    conversation = run(way, script, ran, cut=cut)

    check_history(conversation.messages)
    values = [m for m in conversation.messages if isinstance(m, ToolMessage) and not m.is_error]
    assert all(type(page) is int for page in ran.pages)
    assert len(values) == len(ran.pages)


@given(hostile_scripts(Ran().tools()))
@settings(max_examples=examples(30))
def test_blocking_and_async_agents_make_one_history(script: HostileScript) -> None:
    histories = [run(way, script, Ran()).messages for way in WAYS]

    assert histories[0] == histories[1] == histories[2]


@pytest.mark.parametrize("seed", range(50))
def test_every_seed_leaves_a_true_history(seed: int) -> None:
    conversation, ran = Conversation(), Ran()
    with suppress(TransportError), HostileTransport(seed) as model:
        Agent(model, tools=ran.tools(), limits=LIMITS).run("Go.", conversation=conversation)

    check_history(conversation.messages)
    assert model.requests


@pytest.mark.anyio
async def test_async_transport_answers_as_the_blocking_one() -> None:
    blocking, asynchronous = HostileTransport(7), AsyncHostileTransport(7)
    with suppress(TransportError):
        Agent(blocking, tools=Ran().tools(), limits=LIMITS).run("Go.")
    with suppress(TransportError):
        async with asynchronous:
            await AsyncAgent(asynchronous, tools=Ran().tools(), limits=LIMITS).run("Go.")

    assert repr(asynchronous.script) == repr(blocking.script)


def test_every_fault_is_committed_by_some_seed() -> None:
    def faults_of(seed: int) -> str:
        model = HostileTransport(seed)
        with suppress(TransportError):
            Agent(model, tools=Ran().tools(), limits=LIMITS).run("Go.")
        return repr(model.script)

    played = [faults_of(seed) for seed in range(300)]

    def one_has(*signs: str) -> bool:
        return any(sign in code for sign in signs for code in played)

    assert one_has("('look', '", "'unknown': 1")
    assert one_has("no_such_tool", "functions.look", "'loo'")
    assert one_has("ids=[")
    assert one_has("finish_reason='length'")
    assert one_has("* 300", "* 30)", "'a' * 100000")
    assert one_has(".broken_after(", ".ended_after(")
    assert one_has(".failed_after(")
    assert one_has("http_error(", "TransportError(")
    assert one_has("raw(b'data: [DONE]")


def test_model_without_faults_is_a_good_one() -> None:
    for seed in range(20):
        result = Agent(
            HostileTransport(seed, faults=[]), tools=Ran().tools(), limits=Limits(turns=50)
        ).run("Go.")

        assert result.status in (Status.FINISHED, Status.SUSPENDED, Status.LIMIT_REACHED)


def test_unknown_fault_is_refused_with_those_there_are() -> None:
    fault: Any = "lies"
    with pytest.raises(ValueError, match=r"no fault is called lies\. There are mistaken_arguments"):
        HostileTransport(1, faults=[fault])


def test_error_that_leaves_the_block_brings_the_script_along() -> None:
    def ask_on() -> None:
        with HostileTransport(0, faults=["refusal"]) as model:
            for _ in range(50):
                Agent(model).run("Go.")

    with pytest.raises(TransportError) as caught:
        ask_on()

    [note] = caught.value.__notes__
    assert note.startswith("The model of seed 0 answered:\nScriptedTransport(\n")


# - scripts as code -


NAMES = {
    "ScriptedTransport": lambda *entries, then: HostileScript(entries),
    "answer": answer,
    "calls": calls,
    "raw": raw,
    "http_error": http_error,
    "TransportError": TransportError,
}


@given(hostile_scripts(Ran().tools()))
def test_printed_script_is_code_that_makes_it(script: HostileScript) -> None:
    made = eval(repr(script), NAMES)

    same = [e for e in made.entries if not isinstance(e, Exception)]
    assert same == [e for e in script.entries if not isinstance(e, Exception)]
    assert repr(made) == repr(script)


def test_script_prints_like_this() -> None:
    script = HostileScript(
        (
            calls(("look", {"page": 1})),
            answer("Hm", calls=[("look", '{"pa')], ids=[""], finish_reason="length"),
            answer(calls=[("look", {})] * 300),
            answer("a" * 100_000, chunk_size=1_000).broken_after(events=2),
            answer("b").failed_after(events=1),
            http_error(429, "slow down", type="rate_limit_error", retry_after=1),
            raw(b"{}"),
        )
    )

    assert repr(script).splitlines() == [
        "ScriptedTransport(",
        "    calls(('look', {'page': 1})),",
        "    answer('Hm', calls=[('look', '{\"pa')], ids=[''], finish_reason='length'),",
        "    calls(*[('look', {})] * 300),",
        "    answer('a' * 100000, chunk_size=1000).broken_after(events=2),",
        "    answer('b').failed_after(events=1),",
        "    http_error(429, 'slow down', type='rate_limit_error', retry_after=1),",
        "    raw(b'{}'),",
        "    then='Enough.',",
        ")",
    ]


def test_error_after_the_first_events_is_read_as_the_servers() -> None:
    agent = Agent(ScriptedTransport(answer("Hello there").failed_after("no room", events=2)))

    with pytest.raises(TransportError, match="no room"):
        agent.run("Go.")


def test_ids_are_sent_as_they_are() -> None:
    transport = ScriptedTransport(answer(calls=[("a", {}), ("b", {})], ids=["x", ""]))

    with transport.send(Request(body=b"{}")) as response:
        message = json.loads(b"".join(response.pieces))["choices"][0]["message"]

    assert [call["id"] for call in message["tool_calls"]] == ["x", ""]


def test_ids_that_are_not_as_many_as_the_calls_are_refused() -> None:
    with pytest.raises(ValueError, match="pass one id for each call: there are 1 ids for 2 calls"):
        answer(calls=[("a", {}), ("b", {})], ids=["x"])


def test_requests_beyond_the_script_get_the_default_answer() -> None:
    transport = ScriptedTransport("a", then="z")

    assert [Agent(transport).run("?").output for _ in range(3)] == ["a", "z", "z"]


# - what it finds -


class NaiveAgent:
    """What people write first: it runs what it is told to, as it is told."""

    def __init__(self, model: Transport, look: Any) -> None:
        self.model = model
        self.look = look
        self.messages: list[Any] = [UserMessage(content="Go.")]

    def run(self) -> None:
        for _ in range(4):
            stream = ResponseStream()
            with self.model.send(Request(body=b'{"stream": true}')) as response:
                for piece in response.pieces:
                    stream.feed(piece)
            message = stream.finish()
            self.messages.append(message)
            if not message.tool_calls:
                return
            for call in message.tool_calls:
                result = self.look(**json.loads(call.arguments or "{}"))
                self.messages.append(ToolMessage(tool_call_id=call.id, content=str(result)))


def look(page: int = 0, note: str = "") -> str:
    return "seen"


def fails(script: HostileScript, kind: type[Exception]) -> bool:
    agent = NaiveAgent(script.transport(), look)
    try:
        agent.run()
        check_history(agent.messages)
    except kind:
        return True
    except (TransportError, TypeError, ValueError, AssertionError):
        return False
    return False


def smallest(kind: type[Exception], *, faults: list[Fault] | None = None) -> HostileScript:
    """The smallest script that the naive agent fails at, as Hypothesis shrinks it."""
    tools = [Tool.from_function(look, description="Look.")]
    quick = settings(max_examples=2_000, derandomize=True, database=None, deadline=None)
    found: HostileScript = find(
        hostile_scripts(tools, faults=faults), lambda script: fails(script, kind), settings=quick
    )
    return found


@pytest.mark.slow
def test_naive_agent_takes_unknown_arguments_and_that_shrinks_to_one_call() -> None:
    [entry] = smallest(TypeError).entries

    assert isinstance(entry, Answer)
    assert len(entry.calls) == 1


def test_failure_of_an_agent_that_parses_any_text_shrinks_to_one_call() -> None:
    [entry] = smallest(json.JSONDecodeError).entries

    assert isinstance(entry, Answer)
    assert len(entry.calls) == 1


def test_naive_agent_keeps_repeated_ids_and_that_shrinks_to_two_calls() -> None:
    first, second = smallest(AssertionError, faults=["repeated_id"]).entries

    assert first == calls(("look", {}))
    assert second == answer(calls=[("look", {})], ids=["call_1"])


# - requests that no endpoint takes -


def broken_request() -> Request:
    function = {"name": "look", "arguments": '{"pa'}
    asked = {"role": "assistant", "content": None}
    asked["tool_calls"] = [{"id": "a", "type": "function", "function": function}]  # type: ignore[assignment]  # JSON
    result = {"role": "tool", "tool_call_id": "a", "content": "no"}
    return Request(body=json.dumps({"messages": [asked, result]}).encode())


def test_request_that_endpoints_refuse_is_an_assertion_error() -> None:
    with pytest.raises(AssertionError, match="not the text of a JSON object"):
        with HostileTransport(1).send(broken_request()):
            pass


def test_async_transport_refuses_it_too() -> None:
    async def main() -> None:
        async with AsyncHostileTransport(1).send(broken_request()):
            pass

    with pytest.raises(AssertionError, match="not the text of a JSON object"):
        anyio.run(main)


# - check_history -


def answered(*messages: Any) -> list[Any]:
    return [UserMessage(content="Go."), *messages]


def asks(*ids: str, arguments: str = "{}", reason: str = "tool_calls") -> AssistantMessage:
    made = tuple(ToolCall(id=call_id, name="look", arguments=arguments) for call_id in ids)
    return AssistantMessage(tool_calls=made, finish_reason=reason)


def result(call_id: str, **fields: Any) -> ToolMessage:
    return ToolMessage(tool_call_id=call_id, content="seen", **fields)


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [
        (answered(result("a")), "the history must be legal"),
        (answered(asks("a"), result("b")), "the history must be legal"),
        (answered(asks("a"), result("a"), result("a")), "the history must be legal"),
        (answered(asks("a"), result("a"), asks("a")), "two have 'a'"),
        (
            answered(asks("a", arguments='{"pa', reason="length"), result("a")),
            r"a call that was cut must not be run; look \(a\) has a value",
        ),
    ],
)
def test_history_that_no_run_may_leave_is_named(messages: list[Any], sentence: str) -> None:
    with pytest.raises(AssertionError, match=sentence):
        check_history(messages)


def test_open_calls_and_refused_cut_calls_are_fine() -> None:
    cut = asks("a", arguments='{"pa', reason="length")

    check_history(answered(cut, result("a", outcome="not_run"), asks("b")))


def test_all_faults_are_those_of_the_type() -> None:
    assert len(ALL_FAULTS) == 9
