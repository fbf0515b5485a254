"""What a tool can do wrong, before the whole agent, wherever it runs; each result by hand."""

import asyncio
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest

from faults import faulty_tools
from faults.faulty_tools import GIVEN, RAISED
from live_server import live, result
from pathors_agent.agents.agent import Agent, AsyncAgent
from pathors_agent.core.conversation import Conversation
from pathors_agent.core.limits import Limits
from pathors_agent.core.run import Status
from pathors_agent.errors import ConversationError
from pathors_agent.messages import ToolMessage
from pathors_agent.server import Project
from pathors_agent.testing import AsyncScriptedTransport, Entry, ScriptedTransport, calls
from pathors_agent.tools.tool import Tool
from ways import WAYS, Way

# Never waited for when all is well.
LONG = 50.0
SHORT = 0.2


@dataclass(frozen=True)
class Place:
    """Where a tool runs: in which way of running agents, and how the tool was declared."""

    way: str
    kind: str

    def run(
        self,
        function: Callable[..., Any],
        *arguments: dict[str, Any],
        conversation: Conversation | None = None,
        timeout: float | None = None,
    ) -> list[tuple[str, str]]:
        """Let a model ask for these calls at once, and answer; return their outcomes and texts."""
        made = self.tool(function, timeout)
        said = Conversation() if conversation is None else conversation
        asked = calls(*[(made.name, each) for each in arguments])
        settings: dict[str, Any] = {"tools": [made], "limits": Limits(repeats=None)}
        answered = Way(self.way).run(asked, "Done.", prompt="Go.", conversation=said, **settings)
        assert answered.output == "Done."
        results = ["tool"] * len(arguments)
        assert [m.role for m in said.messages] == ["user", "assistant", *results, "assistant"]
        return outcomes(said)

    def tool(self, function: Callable[..., Any], timeout: float | None = None) -> Tool:
        if self.kind == "process":
            return Tool.from_function(function, run_in="process", timeout=timeout)
        if self.kind == "async" and not asyncio.iscoroutinefunction(function):
            return Tool.from_function(as_async(function), timeout=timeout)
        if self.kind == "thread" and timeout is None:
            timeout = LONG
        return Tool.from_function(function, timeout=timeout)


def as_async(function: Callable[..., Any]) -> Callable[..., Any]:
    async def wrapped(path: str, how: str) -> Any:
        return function(path, how)

    return wrapped


def outcomes(conversation: Conversation) -> list[tuple[str, str]]:
    return [(m.outcome, m.text) for m in conversation.messages if isinstance(m, ToolMessage)]


def in_each(*kinds: str) -> pytest.MarkDecorator:
    """Run a test in each way, with tools of these kinds."""
    places = [Place(way, kind) for way in WAYS for kind in kinds]
    return pytest.mark.parametrize("place", places, ids=[f"{p.way}-{p.kind}" for p in places])


# "plain": blocking code runs it in its own thread.
HERE = ("plain", "thread", "async")


@pytest.fixture
def ran(tmp_path: Path) -> Iterator[Path]:
    """Where tools count their runs; lets go, afterwards, of what hangs."""
    path = tmp_path / "ran"
    path.touch()
    faulty_tools.MAY_END.clear()
    yield path
    faulty_tools.MAY_END.set()


def runs(path: Path) -> int:
    return len(path.read_text().splitlines())


# - what is raised -

RESULTS = {
    "value": "ValueError: no such day",
    "key": "KeyError: 'day'",
    "group": "ExceptionGroup: two (2 sub-exceptions)\n- ValueError: a\n- KeyError: 'b'",
    "memory": "MemoryError",
    "timeout": "TimeoutError: the clock's own",
    "end of an async iterator": "StopAsyncIteration",
    "bytes": "UnicodeDecodeError: 'utf-8' codec can't decode byte 0xff in position 0: invalid",
    "transport": "TransportError: not the model's",
    "provider": "ProviderError: not the model's",
    "conversation": "ConversationError: not the run's",
    "long": ("ValueError: " + "x" * 2000)[:2000],
    "lines": 'ValueError: "}]\n\ndata: [DONE]\n\n',
    "mute": "Mute: (its text could not be read: RuntimeError)",
    "wordless": "Wordless: (its text could not be read: TypeError)",
    "endless": "Endless: (its text could not be read: RecursionError)",
    "half": "Half: half of \ufffd",
    "nameless": "Nameless: its words",
    "told": "Ask for a day.",
    "of my own": "There is no Atlantis.",
    "future": "CancelledError: another's",
    # The run was not cancelled.
    "cancelled": "CancelledError: it was stopped, and not by its run.",
    "closed": "GeneratorExit: it was stopped, and not by its run.",
}
EXITED = "Its process ended with exit code {} before it gave a result."
RESULTS_IN_A_PROCESS = {
    **{how: RESULTS[how] for how in ("value", "mute", "endless", "half", "told", "of my own")},
    "cancelled": EXITED.format(1),
    "exit": EXITED.format(3),
    "outsider": EXITED.format(1),
}


@pytest.mark.slow
@in_each(*HERE, "process")
def test_exception_of_a_tool_is_the_result_of_its_call(place: Place, ran: Path) -> None:
    wanted = RESULTS_IN_A_PROCESS if place.kind == "process" else RESULTS

    seen = place.run(faulty_tools.fail, *[{"path": str(ran), "how": how} for how in wanted])

    assert dict(zip(wanted, seen, strict=True)) == {
        how: ("error", text) for how, text in wanted.items()
    }
    assert runs(ran) == len(wanted)


@in_each(*HERE)
@pytest.mark.parametrize("how", ["exit", "interrupt", "outsider"])
def test_base_exception_reaches_the_caller_and_the_call_stays_open(
    place: Place, ran: Path, how: str
) -> None:
    said = Conversation()

    with pytest.raises(type(RAISED[how]())):
        place.run(faulty_tools.fail, {"path": str(ran), "how": how}, conversation=said)

    assert [call.id for call in said.open_calls] == ["call_1"]
    assert runs(ran) == 1


@pytest.mark.parametrize(
    "how", ["exit", "interrupt", "outsider", "cancelled", "closed", "nameless"]
)
@pytest.mark.parametrize("kind", ["plain", "async"])
def test_server_survives_any_exception_of_a_tool(kind: str, how: str, ran: Path) -> None:
    made = Place("asyncio", kind).tool(faulty_tools.fail)
    arguments = {"path": str(ran), "how": how}
    script = AsyncScriptedTransport(
        calls((made.name, arguments)), calls((made.name, arguments)), then="Done."
    )
    with live(Project(id="demo", transport=script, tools=[made])) as server:
        answers = [server.complete("Go.", stream=stream) for stream in (False, True)]
        after = server.complete("And now?")

    is_result = how in RESULTS
    assert [answer.status_code for answer in answers] == [200 if is_result else 500, 200]
    assert ("[DONE]" in answers[1].text) == is_result
    if not is_result:
        assert [answer.text.count("Internal server error") for answer in answers] == [1, 1]
    assert after.status_code == 200
    assert runs(ran) == 2


# - what ends its process -


@pytest.mark.slow
@in_each("process")
def test_tool_that_ends_its_process_ends_nothing_else(place: Place, ran: Path) -> None:
    wanted = {
        "exits at once": EXITED.format(3),
        "exits in good order": EXITED.format(0),
        "exits politely": EXITED.format(4),
        "is killed": "Its process was killed by SIGKILL before it gave a result.",
        "reads at address 0": "Its process was killed by SIGSEGV before it gave a result.",
    }

    seen = place.run(faulty_tools.end, *[{"path": str(ran), "how": how} for how in wanted])

    assert seen == [("error", text) for text in wanted.values()]
    assert runs(ran) == len(wanted)


# - what hangs -

LEFT = "it goes on by itself, and its result will not be known"
HANGING = {
    ("thread", faulty_tools.hang): LEFT,
    ("async", faulty_tools.wait): "it was stopped, and how far it came is not known",
    ("async", faulty_tools.ignore): LEFT,
    ("process", faulty_tools.hang_and_ignore): "its process was killed",
}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("kind", "function", "fate"), [(*key, fate) for key, fate in HANGING.items()]
)
def test_tool_that_hangs_is_abandoned_at_its_timeout_and_the_run_continues(
    way: str, kind: str, function: Callable[..., Any], fate: str, ran: Path
) -> None:
    # A process takes its time to begin.
    seconds = 2.0 if kind == "process" else SHORT

    # Hanging calls are let go by the next: trio's loop waits for its tasks when it ends.
    tools = [Place(way, kind).tool(function, seconds), Tool.from_function(faulty_tools.let_go)]
    script: list[Entry] = [
        calls((function.__name__, {"path": str(ran)})),
        calls(("let_go", {})),
        "Done.",
    ]

    answered = Way(way).run(*script, prompt="Go.", tools=tools)

    assert outcomes(answered.conversation) == [
        ("timeout", f"Not finished after {seconds:g} s; {fate}."),
        ("value", "done (no value)"),
    ]
    assert answered.output == "Done."
    assert runs(ran) == 1


# - what is too much -

TOO_MUCH = {
    "a gigabyte of bytes": r'\{"type":"bytes","length":1073741824,"base64":"A+\n\[cut: .* shown\]',
    "a gigabyte in a list": r'\["x+\n\[cut: 20,000 of more than 200,[0-9]+ characters shown\]',
    "a gigabyte of numbers": r"\[0,1,2,.*\n\[cut: 20,000 of more than [0-9,]+ characters shown\]",
    "itself": r".* ran, but returned values nested deeper than 50 levels, or inside of .*",
    "100,000 levels": r".* ran, but returned values nested deeper than 50 levels, or .*",
    "a number of 10,000 digits": r".* ran, but returned a number of more than 2,000 digits.*",
}
TOO_MUCH_IN_A_PROCESS = {
    **TOO_MUCH,
    "a gigabyte of bytes": r"Its result is larger than 16,777,216 bytes; it should return less\.",
    "100,000 levels": r"It ran, but its result \(a list\) cannot be sent .* \(RecursionError\)\.",
}


@pytest.mark.slow
@in_each(*HERE, "process")
def test_too_large_value_of_a_tool_is_cut_or_refused(place: Place, ran: Path) -> None:
    wanted = TOO_MUCH_IN_A_PROCESS if place.kind == "process" else TOO_MUCH
    key = "how" if place.kind == "async" else "what"

    seen = place.run(faulty_tools.give, *[{"path": str(ran), key: what} for what in wanted])

    for (what, pattern), (_, text) in zip(wanted.items(), seen, strict=True):
        assert re.fullmatch(pattern, text, re.DOTALL), (what, text[:200], text[-100:])
        assert len(text) < 21_000, what
    assert runs(ran) == len(GIVEN)


@pytest.mark.slow
@in_each("plain", "thread", "process")
def test_tool_that_calls_itself_for_ever_fails(place: Place, ran: Path) -> None:
    [(outcome, text)] = place.run(faulty_tools.fail_by_recursion, {"path": str(ran)})

    assert outcome == "error"
    assert text.startswith("RecursionError: maximum recursion depth exceeded")


# - approvals -

PAID: list[int] = []


@pytest.fixture
def pay() -> Iterator["Paying"]:
    """A tool that needs a yes, counts, and waits until it may end."""
    PAID.clear()
    paying = Paying()
    yield paying
    paying.may_end.set()


class Paying:
    def __init__(self) -> None:
        self.begun, self.may_end = threading.Event(), threading.Event()
        self.tool = Tool.from_function(self.pay, approve=True)
        self.tool_async = Tool.from_function(self.pay_async, name="pay", approve=True)

    def pay(self, amount: int) -> str:
        """Pay an amount."""
        PAID.append(amount)
        self.begun.set()
        assert self.may_end.wait(LONG)
        return f"paid {amount}"

    async def pay_async(self, amount: int) -> str:
        """Pay an amount."""
        PAID.append(amount)
        while not self.may_end.is_set():  # noqa: ASYNC110  (set from another loop)
            await anyio.sleep(0.001)
        return f"paid {amount}"


HELD = "another run uses this conversation"


@pytest.mark.parametrize("second", ["approve", "deny"])
def test_approval_answered_twice_at_once_in_threads_is_taken_once(pay: Paying, second: str) -> None:
    agent = Agent(ScriptedTransport(calls(("pay", {"amount": 5})), "Done."), tools=[pay.tool])
    said = agent.run("Pay.").conversation
    [approval] = agent.approvals(said)
    outputs: list[str] = []

    def approve() -> None:
        outputs.append(agent.run(conversation=said, decisions=[approval.approve()]).output)

    first = threading.Thread(target=approve)
    first.start()
    assert pay.begun.wait(LONG)
    with pytest.raises(ConversationError, match=HELD):
        agent.run(conversation=said, decisions=[getattr(approval, second)()])
    pay.may_end.set()
    first.join(LONG)

    assert PAID == [5]
    assert outputs == ["Done."]
    assert outcomes(said) == [("value", "paid 5")]


@pytest.mark.anyio
async def test_approval_answered_twice_at_once_in_tasks_is_taken_once(pay: Paying) -> None:
    transport = AsyncScriptedTransport(calls(("pay", {"amount": 5})), "Done.")
    agent = AsyncAgent(transport, tools=[pay.tool_async])
    said = (await agent.run("Pay.")).conversation
    [approval] = agent.approvals(said)
    seen: list[str] = []

    async def approve() -> None:
        try:
            run = await agent.run(conversation=said, decisions=[approval.approve()])
            seen.append(run.output)
        except ConversationError as error:
            seen.append(str(error)[: len(HELD)])
            pay.may_end.set()

    with anyio.fail_after(LONG):
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(approve)

    assert PAID == [5]
    assert seen == [HELD, HELD, "Done."]
    assert outcomes(said) == [("value", "paid 5")]


def test_conversation_is_free_again_after_each_end_of_a_run() -> None:
    said = Conversation()
    agent = Agent(ScriptedTransport("One.", "Two.", "Three."))

    with agent.stream("Go.", conversation=said) as stream:
        next(iter(stream))
    with suppress(ConversationError), agent.stream(conversation=said) as stream:
        for _ in stream:
            agent.run(conversation=said)
    assert agent.run("Go on.", conversation=said).output == "Three."


def test_approval_is_no_more_after_the_call_was_cancelled(pay: Paying) -> None:
    agent = Agent(ScriptedTransport(calls(("pay", {"amount": 5})), "Done."), tools=[pay.tool])
    said = agent.run("Pay.").conversation
    [approval] = agent.approvals(said)
    said.close_open_calls("The user left.")

    for decision in (approval.approve(), approval.deny()):
        with pytest.raises(ConversationError, match="it was answered already"):
            agent.run(conversation=said, decisions=[decision])

    assert PAID == []
    assert outcomes(said) == [("not_run", "Not run: The user left.")]
    assert agent.run(conversation=said).output == "Done."


@pytest.mark.anyio
async def test_approval_of_a_run_that_was_cancelled_is_asked_for_again(pay: Paying) -> None:
    transport = AsyncScriptedTransport(calls(("pay", {"amount": 5})), "Done.")
    agent = AsyncAgent(transport, tools=[pay.tool_async])
    said = (await agent.run("Pay.")).conversation
    [approval] = agent.approvals(said)

    async def approve() -> None:
        await agent.run(conversation=said, decisions=[approval.approve()])

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(approve)
        with anyio.fail_after(LONG):
            while not PAID:  # noqa: ASYNC110  (a list sends no event)
                await anyio.sleep(0.001)
        tasks.cancel_scope.cancel()

    # A cancellation is no yes for the next time: nothing runs until somebody says so again.
    again = await agent.run(conversation=said)
    assert (again.status, again.approvals) == (Status.SUSPENDED, (approval,))
    assert PAID == [5]


def test_approval_answered_twice_at_once_on_the_server_is_taken_once(pay: Paying) -> None:
    transport = AsyncScriptedTransport(calls(("pay", {"amount": 5})), then="Done.")
    project = Project(id="demo", transport=transport, tools=[pay.tool])
    with live(project) as server:
        asked = server.complete("Pay 5", session="s1").json()["choices"][0]["message"]
        digest = asked["tool_calls"][0]["approval"]["digest"]
        yes = result("call_1", json.dumps({"approved": True, "digest": digest}))
        statuses: list[int] = []

        def approve() -> None:
            statuses.append(server.complete(yes, session="s1").status_code)

        threads = [threading.Thread(target=approve) for _ in range(3)]
        for thread in threads:
            thread.start()
        assert pay.begun.wait(LONG)
        pay.may_end.set()
        for thread in threads:
            thread.join(LONG)
        stored = server.stored("s1")

    assert sorted(statuses) == [200, 400, 400]
    assert PAID == [5]
    assert [m["role"] for m in stored] == ["user", "assistant", "tool", "assistant"]
