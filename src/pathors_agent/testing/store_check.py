"""Test a store of your own, rule by rule."""

from collections.abc import Callable

from pathors_agent.stores.base import Store
from pathors_agent.testing.store_rules import SESSION_RULES, Rule, Trial
from pathors_agent.testing.turn_rules import TURN_RULES


async def check_store(make: Callable[[], Store]) -> None:
    """Check a store; raise AssertionError naming the first broken rule.

    `make` gives a store, which is opened for one rule and closed again. It may be in use by
    others: every rule has projects of its own.
    """
    for rule in (*SESSION_RULES, *TURN_RULES):
        await _check(make, rule)


async def _check(make: Callable[[], Store], rule: Rule) -> None:
    try:
        async with make() as store:
            await rule(Trial(store))
    except AssertionError:
        raise
    except Exception as error:
        sentence = (rule.__doc__ or "").rstrip(".")
        raise AssertionError(f"{sentence}; {type(error).__name__} was raised instead") from error
