"""Processes of one program spend from one budget."""

import multiprocessing
from typing import Any

import pytest

from pathors_agent import Agent, Budget
from pathors_agent.testing import ScriptedTransport

pytestmark = pytest.mark.slow

# Two interpreters start and import the library.
PATIENCE_SECONDS = 120


def ask(budget: Budget, statuses: Any) -> None:
    """Run an agent until its budget is spent."""
    for _ in range(5):
        agent = Agent(ScriptedTransport(then="Hi."), budget=budget)
        statuses.put(str(agent.run("?").status))


@pytest.mark.timeout(2 * PATIENCE_SECONDS)
def test_processes_never_make_more_calls_than_the_budget_has() -> None:
    context: Any = multiprocessing.get_context("spawn")
    budget, statuses = Budget(calls=6, processes=True), context.SimpleQueue()
    processes = [context.Process(target=ask, args=(budget, statuses)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE_SECONDS)

    assert [process.exitcode for process in processes] == [0, 0]
    told = [statuses.get() for _ in range(10)]
    statuses.close()
    assert told.count("finished") == 6
    assert told.count("limit_reached") == 4
    assert budget.spent["calls"] == 6
