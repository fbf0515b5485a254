"""Budgets reserve before a call, settle after it, and are never overspent by what is reserved."""

import copy
import math
import pickle
import threading
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathors_agent.agents.budgets import Budget, Charge, charged_budgets, charging
from pathors_agent.errors import LimitReached
from pathors_agent.messages import Usage


def used(tokens: int) -> Usage:
    return Usage(prompt_tokens=tokens, completion_tokens=0, total_tokens=tokens)


def a_cent_each(model: str | None, usage: Usage) -> Decimal:
    return Decimal("0.01") * (usage.total_tokens or 0)


def test_reserved_tokens_are_not_there_for_another_call() -> None:
    budget = Budget(tokens=100)
    share = budget.reserve(None, used(60))

    with pytest.raises(LimitReached) as reached:
        budget.reserve(None, used(50))
    assert reached.value.limit == "budget.tokens"

    budget.settle(share, None, used(20))
    budget.reserve(None, used(80))
    assert budget.spent == {"tokens": 20, "cost": 0, "calls": 1}


def test_answer_may_use_more_than_was_reserved_and_then_nothing_is_left() -> None:
    budget = Budget(tokens=100)
    budget.settle(budget.reserve(None, used(10)), None, used(500))

    with pytest.raises(LimitReached, match=r"budget\.tokens"):
        budget.reserve(None, used(0))
    assert budget.spent["tokens"] == 500


def test_call_that_used_nothing_releases_its_share() -> None:
    budget = Budget(calls=1)
    budget.settle(budget.reserve(None, used(10)), None, None)
    budget.reserve(None, used(10))

    with pytest.raises(LimitReached, match=r"budget\.calls"):
        budget.reserve(None, used(10))


def test_cost_is_the_value_of_the_price_function() -> None:
    asked: list[str | None] = []

    def price(model: str | None, usage: Usage) -> float:
        asked.append(model)
        return 0.1 * (usage.total_tokens or 0)

    budget = Budget(cost=0.3, price=price)
    budget.settle(budget.reserve("large", used(1)), "large", used(2))
    budget.settle(budget.reserve("small", used(1)), "small", used(1))

    assert budget.spent["cost"] == pytest.approx(0.3)
    assert asked == ["large", "large", "small", "small"]
    with pytest.raises(LimitReached, match=r"budget\.cost"):
        budget.reserve("small", used(0))


def test_usage_without_a_total_counts_its_parts() -> None:
    budget = Budget(tokens=100)
    share = budget.reserve(None, Usage(prompt_tokens=3, completion_tokens=4))
    budget.settle(share, None, Usage(prompt_tokens=5))

    assert budget.spent["tokens"] == 5


def test_seconds_begin_with_the_first_run() -> None:
    budget = Budget(seconds=10)

    assert budget.begin(100.0) == 110.0
    assert budget.begin(105.0) == 110.0
    assert Budget(tokens=1).begin(100.0) is None


def test_charge_reserves_in_every_budget_or_in_none() -> None:
    large, small = Budget(calls=10), Budget(calls=1)
    first = Charge([large, small], None, used(1))

    with pytest.raises(LimitReached, match=r"budget\.calls"):
        Charge([large, small], None, used(1))

    first.settle(used(2))
    first.settle(used(5))
    for _ in range(9):
        Charge([large], None, used(1))
    assert (large.spent["calls"], large.spent["tokens"]) == (1, 2)
    assert (small.spent["calls"], small.spent["tokens"]) == (1, 2)


def test_price_that_fails_leaves_nothing_reserved() -> None:
    def price(model: str | None, usage: Usage) -> float:
        raise LookupError(model)

    first, second = Budget(calls=1), Budget(cost=1, price=price)
    with pytest.raises(LookupError):
        Charge([first, second], "unknown", used(1))

    Charge([first], None, used(1))


def test_runs_inside_are_charged_to_the_budgets_around_them_once() -> None:
    outer, own = Budget(calls=1), Budget(calls=2)

    with charging((outer,)):
        assert charged_budgets(own, None) == (own, outer)
        assert charged_budgets(outer, own) == (outer, own)
    assert charged_budgets(own) == (own,)


@pytest.mark.parametrize("name", ["tokens", "cost", "calls", "seconds"])
@pytest.mark.parametrize("value", [0, -1])
def test_limit_that_is_not_over_zero_is_refused(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"Budget\.{name} must be over 0"):
        Budget(**{name: value}, price=a_cent_each)  # type: ignore[arg-type]


def test_cost_without_a_price_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Budget\.cost needs price="):
        Budget(cost=1)


def test_budget_of_one_process_is_not_copied() -> None:
    for copied in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match=r"pass Budget\(processes=True\)"):
            copied(Budget(calls=1))


def test_repr_shows_the_spent_amounts() -> None:
    budget = Budget(tokens=1000, calls=5)
    budget.settle(budget.reserve(None, used(1)), None, used(120))

    assert repr(budget) == "Budget(tokens=120 of 1000, calls=1 of 5)"


calls = st.lists(st.tuples(st.integers(0, 50), st.none() | st.integers(0, 50)), max_size=30)


@given(calls=calls, limit=st.integers(1, 200), overlap=st.integers(1, 4))
def test_reserved_shares_never_exceed_the_rest(
    calls: list[tuple[int, int | None]], limit: int, overlap: int
) -> None:
    """Calls that use at most what they reserved spend at most the budget, however they overlap."""
    budget = Budget(tokens=limit)
    running: list[tuple[tuple[float, float, float], Usage | None]] = []
    for estimate, use in calls:
        if len(running) >= overlap:
            share, usage = running.pop(0)
            budget.settle(share, None, usage)
        usage = None if use is None else used(min(use, estimate))
        taken = budget.spent["tokens"] + sum(share[0] for share, _ in running)
        try:
            running.append((budget.reserve(None, used(estimate)), usage))
        except LimitReached:
            assert taken >= limit or taken + estimate > limit
        assert budget.spent["tokens"] <= limit
    for share, usage in running:
        budget.settle(share, None, usage)
    assert budget.spent["tokens"] <= limit


def test_threads_reserve_each_call_once() -> None:
    budget = Budget(calls=200)
    made: list[int] = []
    go = threading.Barrier(4)

    def work() -> None:
        go.wait(60)
        while True:
            try:
                share = budget.reserve(None, used(1))
            except LimitReached:
                return
            budget.settle(share, None, used(1))
            made.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert len(made) == 200
    assert budget.spent == {"tokens": 200, "cost": 0, "calls": 200}


@pytest.mark.parametrize(
    ("price", "error", "text"),
    [
        *((price, ValueError, r"Budget\.price returned") for price in (math.nan, math.inf, -1)),
        (None, TypeError, r"Budget\.price returned a NoneType"),
    ],
)
def test_price_that_would_unset_the_limit_is_refused(
    price: Any, error: type[Exception], text: str
) -> None:
    budget = Budget(cost=1, price=lambda model, usage: price)

    with pytest.raises(error, match=text):
        budget.reserve(None, used(1))


def test_call_whose_usage_has_no_price_is_charged_its_reserved_share() -> None:
    def price(model: str | None, usage: Usage) -> float:
        return {10: 0.5}[usage.total_tokens or 0]

    budget = Budget(cost=1, price=price)
    share = budget.reserve(None, used(10))

    with pytest.raises(KeyError):
        budget.settle(share, None, used(12))

    assert budget.spent == {"tokens": 10, "cost": 0.5, "calls": 1}
    budget.reserve(None, used(10))  # nothing of the first call is reserved any more
