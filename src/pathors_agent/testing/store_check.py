"""Test a store of your own, rule by rule."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import anyio

from pathors_agent.stores.base import Store
from pathors_agent.stores.session_store import SessionStore
from pathors_agent.testing import session_rules
from pathors_agent.testing.lease_rules import LEASE_RULES
from pathors_agent.testing.store_rules import SESSION_RULES, Rule, Trial
from pathors_agent.testing.turn_rules import TURN_RULES
from pathors_agent.testing.usage import check_made, maker_of
from pathors_agent.testing.value_rules import VALUE_RULES


async def check_store(make: Callable[[], Store | SessionStore]) -> None:
    """Check a store; raise AssertionError naming the first broken rule.

    The rules: keys, sessions, turns, requests and notes are stored as the methods of `Store` say;
    names and texts are returned unchanged; stored and returned values are copies; two holders never
    have one lease; an answer is kept longer than its request. A `SessionStore` is checked by the rules
    of its four methods, in a worker thread.

    `make` returns a store, which is opened for one rule and closed again. Other programs may use
    the same database, because each rule uses its own projects and sessions.
    """
    maker = maker_of(
        make,
        function="check_store",
        wanted="a store",
        example="check_store(MyStore) or check_store(lambda: MyStore(...))",
    )
    if isinstance(maker(), SessionStore):
        for session_rule in session_rules.RULES:
            await anyio.to_thread.run_sync(_check_blocking, maker(), session_rule)
        return
    for rule in (*SESSION_RULES, *LEASE_RULES, *TURN_RULES, *VALUE_RULES):
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
        claim = (rule.__doc__ or "").rstrip(".").removeprefix("Check that ")
        raise AssertionError(f"{claim}: {type(error).__name__} was raised instead") from error


def _check_blocking(made: SessionStore, rule: session_rules.SessionRule) -> None:
    with made if isinstance(made, AbstractContextManager) else nullcontext():
        rule(session_rules.SessionTrial(made))
