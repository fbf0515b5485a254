"""Runs that share a budget stop where it is spent, as they stop at limits."""

from typing import Any

import anyio
import pytest

from hook_kinds import hook
from pathors_agent import (
    Agent,
    AssistantMessage,
    AsyncAgent,
    Budget,
    Conversation,
    Limits,
    ModelOptions,
    ProviderError,
    Usage,
    tool,
)
from pathors_agent.core import Status
from pathors_agent.errors import RunNotFinished
from pathors_agent.testing import (
    AsyncScriptedTransport,
    Entry,
    ScriptedTransport,
    answer,
    calls,
    http_error,
)
from ways import WAYS, Way


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    return Way(request.param)


@tool
def look(page: int) -> str:
    """Look at a page."""
    return f"page {page}"


def looking(page: int, tokens: int) -> Entry:
    usage = Usage(prompt_tokens=tokens, completion_tokens=0, total_tokens=tokens)
    return answer(calls=[("look", {"page": page})], usage=usage)


def said(text: str, tokens: int) -> Entry:
    return answer(text, usage=Usage(prompt_tokens=tokens, completion_tokens=0, total_tokens=tokens))


@pytest.mark.parametrize("reading", ["run", "stream"])
def test_run_stops_if_too_little_is_left_and_continues_with_another_budget(
    way: Way, reading: str
) -> None:
    conversation = Conversation()
    budget = Budget(tokens=100)
    script = [looking(1, 40), looking(2, 45), said("Read.", 50)]

    stopped = getattr(way, reading)(
        *script[:2], prompt="Read.", conversation=conversation, tools=[look], budget=budget
    )

    assert (stopped.status, stopped.limit) == (Status.LIMIT_REACHED, "budget.tokens")
    assert budget.spent == {"tokens": 85, "cost": 0, "calls": 2}
    assert [m.role for m in conversation.messages] == ["user", *("assistant", "tool") * 2]
    with pytest.raises(RunNotFinished, match=r"it stopped at budget\.tokens; run the conversation"):
        _ = stopped.output

    result = way.run(script[2], conversation=conversation, tools=[look], budget=Budget(tokens=1000))
    assert result.output == "Read."


def test_budget_of_calls_stops_before_the_next_call(way: Way) -> None:
    script = [looking(page, 1) for page in range(2)]
    result = way.run(*script, prompt="?", tools=[look], budget=Budget(calls=2))

    assert (result.status, result.limit) == (Status.LIMIT_REACHED, "budget.calls")
    assert len(way.requests) == 2


def test_cost_is_priced_by_model_and_usage(way: Way) -> None:
    priced: list[tuple[str | None, int | None]] = []

    def price(model: str | None, usage: Usage) -> float:
        priced.append((model, usage.total_tokens))
        return (usage.total_tokens or 0) / 100

    budget = Budget(cost=1, price=price)
    way.run(said("Hi.", 30), prompt="?", model="large", budget=budget)

    assert budget.spent["cost"] == 0.3
    assert priced[-1] == ("large", 30)


def test_max_tokens_are_reserved(way: Way) -> None:
    result = way.run(prompt="?", budget=Budget(tokens=100), options=ModelOptions(max_tokens=200))

    assert result.limit == "budget.tokens"
    assert way.requests == []


def test_answer_without_usage_is_estimated(way: Way) -> None:
    budget = Budget(tokens=1000)
    way.run("Twelve characters.", prompt="Some.", budget=budget)

    assert 5 < budget.spent["tokens"] < 50


def test_failed_call_is_not_charged(way: Way) -> None:
    budget = Budget(calls=1)

    with pytest.raises(ProviderError):
        way.run(http_error(400, "No."), prompt="?", budget=budget)

    assert budget.spent == {"tokens": 0, "cost": 0, "calls": 0}
    assert way.run("Hi.", prompt="?", budget=budget).output == "Hi."


def test_answer_that_is_left_early_is_charged_by_its_prompt(way: Way) -> None:
    budget = Budget(tokens=1000)
    way.stream(answer("word " * 50), prompt="?", budget=budget, stop_after=1, cut=100)

    assert budget.spent["calls"] == 1
    assert 0 < budget.spent["tokens"] < 20


def test_answer_of_a_hook_costs_nothing(way: Way) -> None:
    def cached(call: object, request: object) -> Any:
        return AssistantMessage(content="Known.", usage=Usage(total_tokens=9))
        yield

    budget = Budget(calls=1)
    way.run(prompt="?", hooks=[hook(way.name, model=cached)], budget=budget)

    assert budget.spent["calls"] == 0


def test_time_of_a_budget_stops_all_its_runs(way: Way) -> None:
    budget = Budget(seconds=0.01)
    budget.begin(0.001)  # long ago

    result = way.run(prompt="?", budget=budget, limits=Limits(seconds=100))

    assert (result.status, result.limit) == (Status.LIMIT_REACHED, "budget.seconds")


def test_run_spends_from_its_own_budget_and_from_the_agents() -> None:
    of_agent, of_run = Budget(calls=3), Budget(calls=1)
    agent = Agent(
        ScriptedTransport(looking(1, 1), "Read.", then="No."), tools=[look], budget=of_agent
    )

    stopped = agent.run("?", budget=of_run)
    assert stopped.limit == "budget.calls"
    assert agent.run(conversation=stopped.conversation).output == "Read."

    assert (of_agent.spent["calls"], of_run.spent["calls"]) == (2, 1)


def test_agents_share_a_budget() -> None:
    budget = Budget(calls=2)
    agents = [Agent(ScriptedTransport(then="Hi."), budget=budget) for _ in range(3)]

    assert [agent.run("?").status for agent in agents] == [
        *(Status.FINISHED, Status.FINISHED, Status.LIMIT_REACHED)
    ]


# - agents inside of runs -


def inner(*script: Entry, **settings: Any) -> AsyncAgent[str]:
    return AsyncAgent(AsyncScriptedTransport(*script), **settings)


def test_sub_agents_spend_from_the_budget_of_the_outer_run(way: Way) -> None:
    budget, own = Budget(tokens=1000), Budget(calls=9)
    poet = inner(said("Roses.", 70), budget=own).as_tool("poet", "Write a poem.")
    asking = answer(
        calls=[("poet", {"prompt": "?"})],
        usage=Usage(prompt_tokens=10, completion_tokens=0, total_tokens=10),
    )

    way.stream(asking, said("Here.", 20), prompt="?", tools=[poet], budget=budget)

    assert budget.spent == {"tokens": 100, "cost": 0, "calls": 3}
    assert own.spent["calls"] == 1


def test_sub_agent_of_a_spent_budget_makes_no_call_and_the_outer_run_stops(way: Way) -> None:
    agent = inner()
    poet = agent.as_tool("poet", "Write a poem.")

    result = way.run(
        calls(("poet", {"prompt": "?"})), prompt="?", tools=[poet], budget=Budget(calls=1)
    )

    assert (result.status, result.limit) == (Status.LIMIT_REACHED, "budget.calls")
    assert [m.outcome for m in result.messages if m.role == "tool"] == ["error"]


def test_agent_that_a_plain_tool_runs_spends_from_the_budget_of_its_run(way: Way) -> None:
    @tool
    def ask(question: str) -> str:
        """Ask another agent."""
        return Agent(ScriptedTransport("Yes.")).run(question).output

    budget = Budget(calls=10)
    way.run(calls(("ask", {"question": "?"})), "Done.", prompt="?", tools=[ask], budget=budget)

    assert budget.spent["calls"] == 3


def test_agent_that_a_hook_runs_spends_from_the_budget_of_its_run() -> None:
    budget = Budget(calls=10)

    class Judge:
        def around_model(self, call: Any, request: Any, next_: Any) -> AssistantMessage:
            Agent(ScriptedTransport("Fine.")).run("May this be asked?")
            message: AssistantMessage = next_(request)
            return message

    agent = Agent(ScriptedTransport("Hi."), hooks=[Judge()], budget=budget)
    agent.run("?")

    assert budget.spent["calls"] == 2


def test_runs_after_one_with_a_budget_are_not_charged_to_it() -> None:
    budget = Budget(calls=1)
    Agent(ScriptedTransport("Hi."), budget=budget).run("?")

    assert Agent(ScriptedTransport("Hi.")).run("?").output == "Hi."
    assert budget.spent["calls"] == 1


# - many runs at once -


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_tasks_never_make_more_calls_than_the_budget_has(backend: str) -> None:
    budget = Budget(calls=7)
    transport = AsyncScriptedTransport(then="Hi.")
    statuses: list[Status] = []

    async def one() -> None:
        statuses.append((await AsyncAgent(transport, budget=budget).run("?")).status)

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(one)

    anyio.run(main, backend=backend)

    assert statuses.count(Status.FINISHED) == 7
    assert statuses.count(Status.LIMIT_REACHED) == 13
    assert len(transport.requests) == 7


def test_value_that_is_not_a_budget_is_refused() -> None:
    budget: Any = 5
    with pytest.raises(TypeError, match=r"budget= is an int; pass Budget\(\.\.\.\)"):
        Agent(ScriptedTransport(), budget=budget)
    with pytest.raises(TypeError, match=r"budget= is an int; pass Budget\(\.\.\.\)"):
        Agent(ScriptedTransport()).run("?", budget=budget)
