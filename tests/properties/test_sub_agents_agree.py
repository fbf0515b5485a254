"""Runs with sub-agents make one history in every way, wherever they were interrupted."""

import json
from collections.abc import AsyncIterator, Generator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from driven_agents import stored
from effort import THOROUGH, examples
from hook_kinds import hook
from pathors_agent import Agent, AsyncAgent, ToolContext, tool
from pathors_agent.agents import hooks, sub_agent
from pathors_agent.agents.perform import tasks, threads, tool_thread
from pathors_agent.agents.result import RunResult
from pathors_agent.agents.stream import AsyncRunStream, RunStream
from pathors_agent.core.conversation import Conversation
from pathors_agent.core.run import Status
from pathors_agent.history.loading import load_messages
from pathors_agent.messages import AssistantMessage, Message, ToolCall, ToolMessage, Usage
from pathors_agent.transports.base import (
    AsyncResponse,
    AsyncTransport,
    Request,
    Response,
    Transport,
)
from pathors_agent.wire.completion_bytes import stream_events
from ways import WAYS

EACH_WAY = pytest.mark.parametrize("way", WAYS)
few = settings(
    max_examples=examples(20), suppress_health_check=[HealthCheck.too_slow], deadline=None
)


@pytest.fixture(scope="module", autouse=True)
def patience() -> Iterator[None]:
    """Give interrupted runs time to end: a busy machine must not abandon them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sub_agent, "STOP_SECONDS", 30.0)
        patch.setattr(tool_thread, "CLOSE_SECONDS", 30.0)
        patch.setattr(threads, "STOP_SECONDS", 30.0)
        patch.setattr(hooks, "STOP_SECONDS", 30.0)
        patch.setattr(tasks.LoopTask.stop, "__defaults__", (30.0,))
        yield


Plan = Sequence[Sequence[Any]]
"""What an agent does: batches of calls of "add", "pay", or of a sub-agent with its own plan."""

leaves = st.sampled_from(["add", "pay"])


def batches(calls: st.SearchStrategy[Any]) -> st.SearchStrategy[Plan]:
    return st.lists(st.lists(calls, min_size=1, max_size=2), max_size=2)


def with_agents(plans: st.SearchStrategy[Plan]) -> st.SearchStrategy[Any]:
    return leaves | st.tuples(st.sampled_from(["blocking", "async"]), plans)


plans = batches(with_agents(batches(with_agents(batches(leaves)))))

NESTED: Plan = [[("async", [["pay", ("blocking", [["pay"], ["add"]])]]), "add"], ["pay"]]
IN_TURN: Plan = [["pay"], [("async", [["pay"], [("async", [["add"], ["pay", "pay"]])]])]]
SIDE_BY_SIDE: Plan = [[("blocking", [["pay", "add"]]), ("async", [["pay", "add"]])]]


def part_of(plan: Plan, path: str) -> Plan:
    """Find the plan of the agent whose prompt is `path`: the turns and places of its calls."""
    for step in path.split("/")[1:]:
        turn, place = map(int, step.split("."))
        plan = plan[turn][place][1]
    return plan


def answer(plan: Plan, body: dict[str, Any]) -> list[bytes]:
    """Answer as the plan says: the history shows whose turn it is."""
    path = next(m["content"] for m in body["messages"] if m["role"] == "user")
    turn = sum(m["role"] == "assistant" for m in body["messages"])
    part = part_of(plan, path)
    calls = part[turn] if turn < len(part) else ()
    message = AssistantMessage(
        content=f"answer {turn} of {path}",
        tool_calls=tuple(_call(call, f"{path}/{turn}.{place}") for place, call in enumerate(calls)),
        finish_reason="tool_calls" if calls else "stop",
        usage=Usage(prompt_tokens=1, completion_tokens=1, total_tokens=2),
        model="m",
        id=f"{path}-{turn}",
    )
    return list(stream_events(message, split=lambda text: [text], include_usage=True))


def _call(call: Any, path: str) -> ToolCall:
    if isinstance(call, str):
        return ToolCall(id=path, name=call, arguments=json.dumps({"what": path}))
    return ToolCall(id=path, name=call[0], arguments=json.dumps({"prompt": path}))


class Model(Transport):
    """A model that follows a plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    @contextmanager
    def send(self, request: Request) -> Iterator[Response]:
        yield Response(status=200, pieces=answer(self.plan, json.loads(request.body)))


class AsyncModel(AsyncTransport):
    """`Model` for async agents."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncIterator[AsyncResponse]:
        async def pieces() -> AsyncIterator[bytes]:
            for piece in answer(self.plan, json.loads(request.body)):
                await anyio.lowlevel.checkpoint()
                yield piece

        yield AsyncResponse(status=200, pieces=pieces())


Stream = RunStream[Any] | AsyncRunStream[Any]


KINDS = ("blocking", "async")


def pass_on(
    call: ToolCall, arguments: dict[str, Any], context: ToolContext
) -> Generator[Any, Any, Any]:
    return (yield arguments)


class Story:
    """A plan, the agents that follow it, and what was paid."""

    def __init__(self, plan: Plan, *, hooked: bool = False) -> None:
        self.plan = plan
        self.paid: list[str] = []
        self.hooks = {kind: [hook(kind, tool=pass_on)] if hooked else [] for kind in KINDS}

        @tool
        def add(what: str) -> str:
            """Add."""
            return f"added {what}"

        @tool(approve=True)
        def pay(what: str) -> str:
            """Pay."""
            self.paid.append(what)
            return f"paid {what}"

        tools: list[Any] = [add, pay]
        for _ in range(2):
            agents = {
                "blocking": Agent(Model(plan), tools=tools, hooks=self.hooks["blocking"]),
                "async": AsyncAgent(AsyncModel(plan), tools=tools, hooks=self.hooks["async"]),
            }
            tools = [add, pay, *(a.as_tool(name, name) for name, a in agents.items())]
        self.tools = tools

    def step(
        self, way: str, conversation: Conversation, *, cancel_after: int | None = None
    ) -> RunResult[Any]:
        """Run until the end, or an approval; approve all that waits."""
        call: dict[str, Any] = {"conversation": conversation}
        if len(conversation):
            agent = Agent(Model(self.plan), tools=self.tools)
            call["decisions"] = [a.approve() for a in agent.approvals(conversation)]
        else:
            call["prompt"] = "root"
        if way == "blocking":
            own = self.hooks["blocking"]
            agent = Agent(Model(self.plan), tools=self.tools, hooks=own)
            with agent.stream(**call) as stream:
                for count, _ in enumerate(stream, 1):
                    if count == cancel_after:
                        stream.cancel()
            return stream.result
        return anyio.run(self._step, call, cancel_after, backend=way)

    async def _step(self, call: dict[str, Any], cancel_after: int | None) -> RunResult[Any]:
        own = self.hooks["async"]
        agent = AsyncAgent(AsyncModel(self.plan), tools=self.tools, hooks=own)
        async with agent.stream(**call) as stream:
            count = 0
            async for _ in stream:
                count += 1
                if count == cancel_after:
                    stream.cancel()
        return stream.result

    def whole(self, way: str) -> tuple[Message, ...]:
        """Run to the end, over storage wherever a person is waited for."""
        conversation = Conversation()
        result = self.step(way, conversation)
        while result.status is Status.SUSPENDED:
            conversation = stored(conversation)
            result = self.step(way, conversation)
        assert result.status is Status.FINISHED
        return conversation.messages


def without_usage(messages: Sequence[Message]) -> list[Any]:
    """Return a history and those within it, without counts: what was interrupted costs tokens."""
    shown: list[Any] = []
    for message in messages:
        run: Any = message.extra.get("run") if isinstance(message, ToolMessage) else None
        if run:
            assert set(run) == {"version", "messages", "usage"}
            message = message.model_copy(update={"extra": {}})  # noqa: PLW2901
            shown.append(without_usage(load_messages(run)))
        shown.append(message)
    return shown


def payments(plan: Plan, path: str = "root") -> list[str]:
    """Name the payments of a plan."""
    paid = []
    for turn, batch in enumerate(plan):
        for place, call in enumerate(batch):
            here = f"{path}/{turn}.{place}"
            paid += [here] * (call == "pay") if isinstance(call, str) else payments(call[1], here)
    return paid


def tokens(messages: Sequence[Message]) -> int:
    """Count the tokens of a history and of the runs in it."""
    total = 0
    for message in messages:
        if isinstance(message, AssistantMessage):
            total += 2
        elif isinstance(message, ToolMessage) and message.extra:
            run: Any = message.extra["run"]
            assert run["usage"]["total_tokens"] == tokens(load_messages(run))
            total += run["usage"]["total_tokens"]
    return total


@EACH_WAY
@few
@given(plan=plans, hooked=st.booleans())
@example(plan=NESTED, hooked=False)
@example(plan=SIDE_BY_SIDE, hooked=True)
def test_every_way_makes_the_same_history_and_pays_once(
    way: str, plan: Plan, *, hooked: bool
) -> None:
    story, blocking = Story(plan, hooked=hooked), Story(plan)

    history = story.whole(way)

    assert history == blocking.whole("blocking")
    assert sorted(story.paid) == sorted(payments(plan)) == sorted(blocking.paid)
    tokens(history)


@EACH_WAY
@few
@given(plan=plans, data=st.data(), other=st.sampled_from(WAYS), hooked=st.booleans())
@example(plan=NESTED, data=None, other="asyncio", hooked=False)
@example(plan=SIDE_BY_SIDE, data=None, other="blocking", hooked=False)
@example(plan=IN_TURN, data=None, other="trio", hooked=True)
def test_run_cancelled_after_any_item_ends_as_the_whole_and_pays_once(
    way: str, plan: Plan, data: st.DataObject | None, other: str, *, hooked: bool
) -> None:
    history = without_usage(Story(plan).whole("blocking"))
    places = range(1, 40, 1 if THOROUGH else 8) if data is None else [data.draw(st.integers(1, 30))]

    for cancel_after in places:
        story, conversation, ways = Story(plan, hooked=hooked), Conversation(), [way, other] * 100
        result = story.step(ways.pop(), conversation, cancel_after=cancel_after)
        while result.status in (Status.SUSPENDED, Status.RUNNING):
            conversation = stored(conversation)
            after = cancel_after if len(ways) > 180 else None
            result = story.step(ways.pop(), conversation, cancel_after=after)

        assert without_usage(conversation.messages) == history
        assert sorted(story.paid) == sorted(payments(plan))
