"""What a durable run does that no other does: it rests, is decided about, and goes on."""

import asyncio
import json
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import stored_runs
from pathors_agent import (
    Agent,
    AssistantMessage,
    AsyncAgent,
    Budget,
    ConversationError,
    EndpointProfile,
    LimitReached,
    Limits,
    ModelOptions,
    Tool,
    ToolContext,
    ToolMessage,
    UserMessage,
    tool,
)
from pathors_agent.core.run import Status
from pathors_agent.durable import DurableAgent, RunExists, RunFailed, RunNotFound
from pathors_agent.errors import InvalidSetting, RunNotFinished
from pathors_agent.messages import JSONValue
from pathors_agent.testing import AsyncScriptedTransport, ScriptedTransport, calls, http_error

pytestmark = pytest.mark.anyio

Open = Callable[..., AbstractAsyncContextManager[DurableAgent[Any]]]

CLIENT_TOOL = Tool(name="ask_user", description="Ask the user.")


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    """Open a durable agent with a script, on this test's database."""
    return partial(stored_runs.opened, f"sqlite:///{tmp_path / 'runs.db'}")


def ran(into: list[str]) -> Callable[..., Any]:
    """Build a tool that notes its calls."""

    @tool(approve=True)
    async def pay(cents: int) -> str:
        into.append(f"pay {cents}")
        return f"paid {cents}"

    return pay


def requests_of(durable: DurableAgent[Any]) -> list[dict[str, Any]]:
    transport = durable.agent.transport
    assert isinstance(transport, AsyncScriptedTransport)
    return transport.requests


async def test_result_is_that_of_any_run(opened: Open) -> None:
    @tool
    async def add(a: int, b: int) -> int:
        return a + b

    async with opened(calls(("add", {"a": 1, "b": 2})), "three", tools=[add]) as durable:
        handle = await durable.start("1 + 2?", id="sum")
        result = await handle.result()

        assert (handle.id, await handle.status()) == ("sum", "finished")

    assert result.output == "three"
    assert [message.role for message in result.messages] == [
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    assert result.messages[2] == ToolMessage(tool_call_id="call_1", content="3")


async def test_events_are_the_messages_as_they_are_recorded(opened: Open) -> None:
    go = asyncio.Event()

    @tool
    async def wait() -> str:
        await go.wait()
        return "waited"

    async with opened(calls(("wait", {})), "done", tools=[wait]) as durable:
        handle = await durable.start("go")
        said = []
        async for message in handle.events():
            said.append(message.role)
            if message.role == "assistant":
                go.set()

        assert said == ["user", "assistant", "tool", "assistant"]


async def test_suspended_run_continues_when_approved(opened: Open) -> None:
    paid: list[str] = []
    async with opened(calls(("pay", {"cents": 5})), "paid", tools=[ran(paid)]) as durable:
        handle = await durable.start("pay", id="run")
        waiting = await handle.result()
        [approval] = await durable.approvals("run")

        assert (waiting.status, paid) == (Status.SUSPENDED, [])
        assert [run.status for run in await durable.list()] == ["suspended"]

        await durable.approve("run", approval)
        result = await handle.result()

        assert (result.output, paid) == ("paid", ["pay 5"])
        assert [message.role for message in result.messages] == [
            *("user", "assistant", "tool", "assistant")
        ]


async def test_approval_can_come_from_a_process_that_runs_nothing(opened: Open) -> None:
    paid: list[str] = []
    tools = [ran(paid)]
    async with opened(calls(("pay", {"cents": 5})), "done", tools=tools, queue="q") as durable:
        handle = await durable.start("pay", id="run")
        async with durable.working(poll=0.05):
            [approval] = (await handle.result()).approvals
        # No worker runs now: a suspended run costs nothing.
        async with opened(tools=tools, queue="q") as elsewhere:
            await elsewhere.approve("run", approval.digest, arguments={"cents": 3})

            assert [run.status for run in await elsewhere.list()] == ["queued"]

        async with durable.working(poll=0.05):
            assert (await handle.result()).output == "done"

    assert paid == ["pay 3"]


async def test_second_answer_to_a_call_is_refused(opened: Open) -> None:
    paid: list[str] = []
    async with opened(calls(("pay", {"cents": 5})), "paid", tools=[ran(paid)]) as durable:
        handle = await durable.start("pay", id="run")
        [approval] = await durable.approvals("run")
        answers = await asyncio.gather(
            durable.approve("run", approval),
            durable.deny("run", approval, reason="no"),
            return_exceptions=True,
        )
        await handle.result()

        refused = [answer for answer in answers if isinstance(answer, Exception)]
        assert [type(error) for error in refused] == [ConversationError]
        with pytest.raises(ConversationError, match="answered already"):
            await durable.approve("run", approval)

    assert len(paid) <= 1


async def test_two_calls_are_decided_about_one_by_one(opened: Open) -> None:
    paid: list[str] = []
    script = [calls(("pay", {"cents": 1}), ("pay", {"cents": 2})), "done"]
    async with opened(*script, tools=[ran(paid)]) as durable:
        handle = await durable.start("pay", id="run")
        first, second = await durable.approvals("run")
        await asyncio.gather(durable.approve("run", first), durable.deny("run", second))
        result = await handle.result()
        events = [message.role async for message in handle.events()]

        assert result.output == "done"
        assert sorted(events) == sorted(message.role for message in result.messages)

    assert paid == ["pay 1"]
    contents = {m.text for m in result.messages if isinstance(m, ToolMessage)}
    assert contents == {"paid 1", "Not run: a person said no."}


async def test_client_answers_its_own_tools(opened: Open) -> None:
    script = [calls(("ask_user", {})), "thanks"]
    async with opened(*script, tools=[CLIENT_TOOL]) as durable:
        handle = await durable.start("go", id="run")
        [call] = (await handle.result()).open_calls
        await durable.answer("run", {call.id: {"name": "Ada"}})
        result = await handle.result()

        assert result.output == "thanks"
        assert result.messages[2] == ToolMessage(tool_call_id=call.id, content='{"name": "Ada"}')
        with pytest.raises(ConversationError):
            await durable.answer("run", {call.id: "again"})


async def test_runs_of_a_session_run_one_after_another(opened: Open) -> None:
    async with opened("one", "two", "three") as durable:
        handles = await asyncio.gather(*(durable.send("s", text) for text in "abc"))
        results = [await handle.result() for handle in handles]

        assert [len(result.messages) for result in results] == [2, 2, 2]
        last = requests_of(durable)[-1]["messages"]

    assert [message["role"] for message in last] == [*("user", "assistant") * 2, "user"]
    assert sorted(m["content"] for m in last if m["role"] == "user") == ["a", "b", "c"]


async def test_lowest_priority_number_of_a_session_runs_first(opened: Open) -> None:
    async with opened("x", "y", "z", queue="q") as durable:
        handles = [
            await durable.start(f"priority {number}", session_id="s", priority=number)
            for number in (3, 1, 2)
        ]
        async with durable.working(total=5, poll=0.05):
            for handle in handles:
                await handle.result()
        said = [request["messages"][-1]["content"] for request in requests_of(durable)]

    assert said == ["priority 1", "priority 2", "priority 3"]


async def test_session_that_waits_takes_no_other_message(opened: Open) -> None:
    script = [calls(("ask_user", {})), "thanks"]
    async with opened(*script, tools=[CLIENT_TOOL]) as durable:
        first = await durable.send("s", "go", id="first")
        [call] = (await first.result()).open_calls
        second = await durable.send("s", "and this?")
        with pytest.raises(RunFailed, match="no user message may come") as caught:
            await second.result()
        await durable.answer("first", {call.id: "x"})

        assert caught.value.kind == "ConversationError"
        assert (await first.result()).output == "thanks"


async def test_same_id_is_the_same_run(opened: Open) -> None:
    async with opened("once") as durable:
        first = await durable.start("go", id="run")
        second = await durable.start("go", id="run")

        assert (await first.result()).output == (await second.result()).output == "once"
        with pytest.raises(RunExists, match="another prompt"):
            await durable.start("something else", id="run")
        with pytest.raises(RunNotFound):
            await durable.get("other")


async def test_cancelled_run_ends_and_its_session_continues(opened: Open) -> None:
    begun = asyncio.Event()

    @tool
    async def wait() -> str:
        begun.set()
        await asyncio.Event().wait()
        return "never"

    async with opened(calls(("wait", {})), "fine", tools=[wait]) as durable:
        handle = await durable.send("s", "go")
        await begun.wait()
        await handle.cancel()
        with pytest.raises(RunFailed, match="cancelled"):
            await handle.result()
        result = await (await durable.send("s", "still there?")).result()

        assert result.output == "fine"
        outcomes = [m.outcome for m in result.conversation.messages if isinstance(m, ToolMessage)]
        assert outcomes == ["cancelled"]
        assert {run.status for run in await durable.list()} == {"cancelled", "finished"}


async def test_suspended_run_can_be_cancelled(opened: Open) -> None:
    async with opened(calls(("ask_user", {})), tools=[CLIENT_TOOL]) as durable:
        handle = await durable.start("go")
        [call] = (await handle.result()).open_calls
        await handle.cancel()
        with pytest.raises(RunFailed, match="cancelled"):
            await handle.result()
        with pytest.raises(ConversationError):
            await durable.answer(handle.id, {call.id: "late"})


async def test_run_that_several_callers_cancel_at_once_is_cancelled_once(opened: Open) -> None:
    async with opened(calls(("ask_user", {})), tools=[CLIENT_TOOL]) as durable:
        handle = await durable.start("go")
        await handle.result()
        await asyncio.gather(*(durable.cancel(handle.id) for _ in range(3)))
        with pytest.raises(RunFailed, match="cancelled"):
            await handle.result()
        assert len(await durable.runs.segments(handle.id)) == 2


async def test_cancelling_wins_over_an_approval_at_the_same_time(opened: Open) -> None:
    paid: list[str] = []
    script = [calls(("pay", {"cents": 5})), calls(("pay", {"cents": 6})), "done"]
    async with opened(*script, tools=[ran(paid)]) as durable:
        handle = await durable.start("go")
        [approval] = (await handle.result()).approvals
        approving = durable.approve(handle.id, approval)
        await asyncio.gather(approving, durable.cancel(handle.id), return_exceptions=True)
        with pytest.raises(RunFailed, match="cancelled"):
            await handle.result()


async def test_run_that_three_callers_resume_at_once_is_resumed_once(opened: Open) -> None:
    async with opened(http_error(503, "down"), "done") as durable:
        handle = await durable.start("go")
        with pytest.raises(RunFailed):
            await handle.result()
        resumed = await asyncio.gather(
            *(durable.resume(handle.id) for _ in range(3)), return_exceptions=True
        )
        assert sorted(type(each).__name__ for each in resumed) == [
            *("RunExists", "RunExists", "RunHandle")
        ]
        assert (await handle.result()).output == "done"
        assert len(await durable.runs.segments(handle.id)) == 2


async def test_run_that_waits_is_resumed_only_if_its_tool_no_longer_asks(opened: Open) -> None:
    paid: list[str] = []
    async with opened(calls(("pay", {"cents": 5})), tools=[ran(paid)]) as durable:
        await (await durable.start("go", id="run")).result()
        with pytest.raises(RunExists, match="approve, deny or answer its open calls"):
            await durable.resume("run")

    @tool(name="pay")
    async def pays_at_once(cents: int) -> str:
        return f"paid {cents} at once"

    async with opened("done", tools=[pays_at_once]) as durable:
        result = await (await durable.resume("run")).result()
        assert result.output == "done"
        assert [m.text for m in result.messages if isinstance(m, ToolMessage)] == ["paid 5 at once"]
        assert paid == []


async def test_answer_of_a_type_that_the_agent_had_before_is_not_its_output(opened: Open) -> None:
    async with opened(calls(("final_answer", {"value": 5})), output=int) as durable:
        assert (await (await durable.start("go", id="run")).result()).output == 5
    async with opened(output=list[str]) as durable:
        result = await (await durable.get("run")).result()
        with pytest.raises(RunNotFinished, match="not of the agent's output type"):
            _ = result.output


@pytest.mark.parametrize("value", [object(), float("nan"), {1, 2}], ids=["object", "nan", "set"])
async def test_answer_or_arguments_that_are_not_json_are_refused(
    opened: Open, value: JSONValue
) -> None:
    script = calls(("ask_user", {}), ("pay", {"cents": 5}))
    async with opened(script, tools=[CLIENT_TOOL, ran([])]) as durable:
        handle = await durable.start("go")
        result = await handle.result()
        with pytest.raises(InvalidSetting, match="the answer to a call must be JSON"):
            await durable.answer(handle.id, {result.open_calls[0].id: value})
        with pytest.raises(InvalidSetting, match="the arguments of a call must be JSON"):
            await durable.approve(handle.id, result.approvals[0], arguments={"cents": value})
        assert await handle.status() == "suspended"


async def test_failed_run_resumes_with_its_pending_calls(opened: Open) -> None:
    times: list[int] = []

    @tool
    async def once() -> str:
        times.append(1)
        return "done"

    script = [calls(("once", {})), http_error(503, "overloaded"), "all done"]
    async with opened(*script, tools=[once]) as durable:
        handle = await durable.start("go")
        with pytest.raises(RunFailed, match="overloaded") as caught:
            await handle.result()
        assert (caught.value.kind, caught.value.status) == ("ProviderError", 503)
        assert [m.role for m in caught.value.messages] == ["user", "assistant", "tool"]

        await durable.resume(handle.id)

        assert (await handle.result()).output == "all done"
        with pytest.raises(RunExists, match="finished"):
            await durable.resume(handle.id)

    assert times == [1]


async def test_missing_tool_stops_the_run_until_it_is_back(opened: Open) -> None:
    paid: list[str] = []
    pay = ran(paid)
    options = {"version": "1"}
    async with opened(calls(("pay", {"cents": 5})), tools=[pay], **options) as durable:
        handle = await durable.start("pay", id="run")
        [approval] = await durable.approvals("run")
    async with opened(version="1") as without:
        with pytest.raises(ConversationError, match="changed"):
            await without.approve("run", approval)
    async with opened("paid", tools=[pay], **options) as durable:
        await durable.approve("run", approval)
        assert (await (await durable.get("run")).result()).output == "paid"

    assert (handle.id, paid) == ("run", ["pay 5"])


class City(BaseModel):
    name: str
    people: int


async def test_answer_of_a_type_survives_with_its_feedback(opened: Open) -> None:
    bern: dict[str, JSONValue] = {"name": "Bern", "people": 146_000}
    script = ["Bern, with 146,000 people", calls(("final_answer", bern))]
    async with opened(*script, output=City) as durable:
        result = await (await durable.start("Bern?")).result()

        assert result.output == City(name="Bern", people=146_000)
        assert [m.role for m in result.messages] == [
            *("user", "assistant", "user", "assistant", "tool")
        ]
        assert isinstance(result.messages[2], UserMessage)
        assert result.messages[2].feedback


@pytest.mark.parametrize("way", ["tool", "response_format", "prompt"])
async def test_async_output_function_refuses_and_accepts_answers(opened: Open, way: Any) -> None:
    asked: list[str] = []

    async def looked_up(city: City) -> int:
        await asyncio.sleep(0)
        asked.append(city.name)
        if city.name == "Atlantis":
            raise ValueError("no such city")
        return city.people

    def says(name: str) -> Any:
        value: dict[str, JSONValue] = {"name": name, "people": 146_000}
        return calls(("final_answer", value)) if way == "tool" else json.dumps(value)

    options: dict[str, Any] = {"output": looked_up, "profile": EndpointProfile(structured=way)}
    async with opened(says("Atlantis"), says("Bern"), **options) as durable:
        result = await (await durable.start("Which?", id="run")).result()

        assert result.output == 146_000
        assert "no such city" in str(requests_of(durable)[1]["messages"])
    async with opened(**options) as durable:
        again = await (await durable.get("run")).result()

        assert (again.output, again.messages) == (146_000, result.messages)
    # The refusal is recorded; a reader of the result awaits the function for the value.
    assert asked == ["Atlantis", "Bern", "Bern", "Bern"]


async def test_async_output_function_is_awaited_again_after_a_failure(opened: Open) -> None:
    is_up = False

    async def looked_up(city: City) -> int:
        if not is_up:
            raise ConnectionError("the register is down")
        return city.people

    bern: dict[str, JSONValue] = {"name": "Bern", "people": 146_000}
    async with opened(calls(("final_answer", bern)), output=looked_up) as durable:
        handle = await durable.start("Bern?", id="run")
        with pytest.raises(RunFailed, match="the register is down"):
            await handle.result()
        is_up = True
        resumed = await durable.resume("run")

        assert (await resumed.result()).output == 146_000
        assert len(requests_of(durable)) == 1


async def test_async_output_function_ends_with_the_time_of_its_run(opened: Open) -> None:
    async def looked_up(city: City) -> int:
        await asyncio.Event().wait()
        return city.people

    bern: dict[str, JSONValue] = {"name": "Bern", "people": 146_000}
    limits = Limits(seconds=0.5)
    async with opened(calls(("final_answer", bern)), output=looked_up, limits=limits) as durable:
        handle = await durable.start("Bern?")
        async with asyncio.timeout(30):
            result = await handle.result()

        assert (result.status, result.limit) == (Status.LIMIT_REACHED, "seconds")


async def test_run_at_a_limit_says_which(opened: Open) -> None:
    @tool
    async def again() -> str:
        return "more"

    limits = Limits(turns=2, last_word=False)
    script = [calls(("again", {}))] * 2
    async with opened(*script, tools=[again], limits=limits) as durable:
        result = await (await durable.start("go")).result()

        assert (result.status, result.limit) == (Status.LIMIT_REACHED, "turns")


async def test_result_that_cannot_be_serialised_is_an_error_to_the_model(opened: Open) -> None:
    @tool
    async def thing() -> object:
        return object()

    async with opened(calls(("thing", {})), "I see", tools=[thing]) as durable:
        result = await (await durable.start("go")).result()

        message = result.messages[2]
        assert isinstance(message, ToolMessage)
        assert (message.outcome, result.output) == ("error", "I see")


@pytest.mark.parametrize("text", ["null \x00 byte", "half a pair \ud83d", "ü 漢 🙂", "x" * 500_000])
async def test_any_text_is_kept_as_it_is(opened: Open, text: str) -> None:
    @tool
    async def thing() -> str:
        return text if text.isprintable() and len(text) < 100 else "short"

    async with opened(calls(("thing", {})), "fine", tools=[thing]) as durable:
        result = await (await durable.start(UserMessage(content=text))).result()

        assert isinstance(result.messages[0], UserMessage)
        assert result.messages[0].text == text


async def test_tool_has_its_context_and_one_key_in_the_session(tmp_path: Path) -> None:
    seen: list[tuple[object, str, str | None]] = []

    @tool
    async def look(context: ToolContext) -> str:
        seen.append((context.context, context.key, context.session_id))
        return "seen"

    script = AsyncScriptedTransport(calls(("look", {})), "a", calls(("look", {})), "b")
    agent = AsyncAgent(script, tools=[look])
    database = f"sqlite:///{tmp_path / 'runs.db'}"
    async with DurableAgent(agent, database=database, context="mine") as durable:
        await (await durable.send("s", "one")).result()
        await (await durable.send("s", "two")).result()

    assert seen == [("mine", "agent/s/tool/0/0", "s"), ("mine", "agent/s/tool/2/0", "s")]


async def test_run_that_stopped_with_its_process_continues_in_the_next(opened: Open) -> None:
    begun = asyncio.Event()

    @tool(idempotent=True)
    async def wait() -> str:
        if begun.is_set():
            return "second time"
        begun.set()
        await asyncio.Event().wait()
        return "never"

    async with opened(calls(("wait", {})), "done", tools=[wait], queue="q") as durable:
        async with durable.working(poll=0.05, stop_seconds=0):
            handle = await durable.start("go")
            await begun.wait()
        async with durable.working(poll=0.05):
            result = await handle.result()

    assert [m.text for m in result.messages if isinstance(m, ToolMessage)] == ["second time"]
    assert isinstance(result.messages[-1], AssistantMessage)


async def test_engine_says_nothing_on_the_terminal(
    opened: Open, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        async with opened(http_error(500, "x")) as durable:
            handle = await durable.start("secret words")
            with pytest.raises(RunFailed):
                await handle.result()

    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")
    assert "secret words" not in caplog.text


# - settings of one run -


async def test_settings_of_a_run_are_stored_with_it(opened: Open) -> None:
    @tool
    async def look() -> str:
        return "seen"

    script = [calls(("look", {})), calls(("look", {})), "Done."]
    instructions = "For {}.".format
    async with opened(*script, tools=[look], model="large", instructions=instructions) as durable:
        options = ModelOptions(temperature=0.0)
        limits = Limits(turns=1)
        stopped = await (
            await durable.start(
                "Look.", context="Ada", model="small", options=options, limits=limits
            )
        ).result()
        await (await durable.start("Look.", context="Ada")).result()
        first, second, _ = requests_of(durable)

    assert (stopped.status, stopped.limit) == (Status.LIMIT_REACHED, "turns")
    assert first["messages"][0]["content"] == "For Ada."
    assert (first["model"], first["temperature"]) == ("small", 0.0)
    assert (second["model"], second.get("temperature")) == ("large", None)


async def test_budget_of_the_agent_stops_its_runs(opened: Open) -> None:
    async with opened("Hi.", budget=Budget(calls=1)) as durable:
        first = await (await durable.start("Hi.")).result()
        second = await (await durable.start("Hi.")).result()

    assert first.output == "Hi."
    assert (second.status, second.limit) == (Status.LIMIT_REACHED, "budget.calls")


async def test_budget_is_not_stored_with_a_run(opened: Open) -> None:
    async with opened() as durable:
        with pytest.raises(TypeError, match="a stored run has no budget="):
            await durable.start("Hi.", budget=Budget(calls=1))


# - hooks -


async def test_hooks_wrap_the_calls_of_a_run_once(opened: Open) -> None:
    log: list[str] = []

    class Note:
        async def around_model(self, call: Any, request: Any, next_: Any) -> Any:
            message = await next_(request)
            log.append(f"{call.key} {call.context}")
            return message

        async def around_tool(self, call: Any, arguments: Any, context: Any, next_: Any) -> Any:
            log.append(call.name)
            return await next_({"cents": arguments["cents"] * 2})

    pay: Any = ran(log)
    script = [calls(("pay", {"cents": 4})), "Paid."]
    async with opened(*script, tools=[pay], hooks=[Note()]) as durable:
        handle = await durable.start("Pay.", context="Ada")
        await handle.result()
        [approval] = await durable.approvals(handle.id)
        await durable.approve(handle.id, approval)
        result = await handle.result()

    assert result.output == "Paid."
    assert log == ["model/0 Ada", "pay", "pay 8", "model/1 Ada"]


async def test_hook_ends_a_run_at_a_limit_of_its_own(opened: Open) -> None:
    class Stop:
        async def around_tool(self, call: Any, arguments: Any, context: Any, next_: Any) -> Any:
            raise LimitReached("review")

    @tool
    async def look() -> str:
        raise AssertionError

    async with opened(calls(("look", {})), tools=[look], hooks=[Stop()]) as durable:
        result = await (await durable.start("Look.")).result()

    assert (result.status, result.limit) == (Status.LIMIT_REACHED, "review")


class Unreadable(Exception):
    """An exception whose text cannot be read."""

    def __init__(self, what: str, *, why: str) -> None:
        super().__init__(what)
        self.why = why

    def __str__(self) -> str:
        raise ValueError(self.why)


async def cancelled() -> None:
    """Await something that another task cancelled."""
    shared = asyncio.get_running_loop().create_future()
    shared.cancel()
    await shared


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (None, "CancelledError: CancelledError"),
        (SystemExit(3), "SystemExit: 3"),
        (BaseExceptionGroup("two", [KeyboardInterrupt()]), "BaseExceptionGroup: two"),
        (Unreadable("what", why="why"), r"Unreadable: \(its text could not be read: ValueError\)"),
    ],
    ids=["cancelled", "exit", "group", "unreadable"],
)
async def test_run_that_any_exception_stops_fails_once_and_is_resumed(
    opened: Open, error: BaseException | None, said: str
) -> None:
    asked = 0

    class Ask:
        async def around_model(self, call: Any, request: Any, next_: Any) -> Any:
            nonlocal asked
            asked += 1
            if asked == 1 and error is None:
                await cancelled()
            if asked == 1 and error is not None:
                raise error
            return await next_(request)

    async with opened("Hello.", hooks=[Ask()]) as durable:
        handle = await durable.start("Hi.")
        with pytest.raises(RunFailed, match=said):
            await handle.result()
        await durable.resume(handle.id)

        assert (await handle.result()).output == "Hello."
    assert asked == 2


def test_agent_of_another_kind_is_refused() -> None:
    made: Any = DurableAgent
    with pytest.raises(TypeError, match="DurableAgent takes AsyncAgent, not Agent"):
        made(Agent(ScriptedTransport("Hello.")), database="sqlite:///runs.db")
    with pytest.raises(TypeError, match="heartbeat= takes Heartbeat, not float"):
        made(AsyncAgent(AsyncScriptedTransport()), database="sqlite:///runs.db", heartbeat=3.0)


async def test_wrong_arguments_are_refused_by_name(opened: Open) -> None:
    mistakes: Any
    async with opened("never") as durable:
        mistakes = durable
        with pytest.raises(TypeError, match="prompt= is of type int"):
            await mistakes.start(5)
        for results in (None, "yes", ["yes"], {1: "yes"}):
            with pytest.raises(TypeError, match="results= must be a mapping from the ids of calls"):
                await mistakes.answer("run", results)
        with pytest.raises(InvalidSetting, match="results= is empty"):
            await mistakes.answer("run", {})
        with pytest.raises(TypeError, match="forget_doubt takes DoubtfulCall, not NoneType"):
            await mistakes.forget_doubt(None)
        for approval in (None, 5, b"digest"):
            with pytest.raises(TypeError, match="approval= takes Approval or str, not"):
                await mistakes.approve("run", approval)
        for rate in (5, (5,), [5, 60.0], (5, 60.0, 1)):
            with pytest.raises(InvalidSetting, match=r"rate must be \(runs, seconds\)"):
                await mistakes.limit_queue(rate=rate)


async def test_run_whose_hook_fails_is_resumed_with_the_pending_call(opened: Open) -> None:
    is_down = True

    class Audit:
        async def around_model(self, call: Any, request: Any, next_: Any) -> Any:
            if is_down:
                raise ConnectionError("the audit log is down")
            return await next_(request)

    async with opened("Hello.", hooks=[Audit()]) as durable:
        handle = await durable.start("Hi.")
        with pytest.raises(RunFailed, match="the audit log is down"):
            await handle.result()
        is_down = False
        await durable.resume(handle.id)

        assert (await handle.result()).output == "Hello."
