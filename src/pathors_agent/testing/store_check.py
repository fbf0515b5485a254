"""Test a store of your own, rule by rule."""

from collections.abc import Callable

from pathors_agent.stores.base import Store
from pathors_agent.testing.store_rules import SESSION_RULES, Rule, Trial
from pathors_agent.testing.turn_rules import TURN_RULES
from pathors_agent.testing.usage import check_made, maker_of


async def check_store(make: Callable[[], Store]) -> None:
    """Check a store; raise AssertionError naming the first broken rule.

    `make` returns a store, which is opened for one rule and closed again. Other programs may use
    the same database: every rule has projects of its own.
    """
    maker = maker_of(
        make,
        function="check_store",
        wanted="a store",
        example="check_store(MyStore) or check_store(lambda: MyStore(...))",
    )
    for rule in (*SESSION_RULES, *TURN_RULES):
        made: Store = maker()
        check_made(made, Store, function="check_store")
        await _check(made, rule)


async def _check(made: Store, rule: Rule) -> None:
    try:
        async with made as store:
            await rule(Trial(store))
    except AssertionError:
        raise
    except Exception as error:
        sentence = (rule.__doc__ or "").rstrip(".")
        raise AssertionError(f"{sentence}; {type(error).__name__} was raised instead") from error
