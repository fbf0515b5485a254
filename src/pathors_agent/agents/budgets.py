"""Budgets: the most that many runs may spend together. A run stops if too little is left."""

import math
import threading
from collections.abc import Callable, Iterable, Iterator, MutableSequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from decimal import Decimal
from typing import Any

from pathors_agent.core.limits import total_tokens
from pathors_agent.errors import LimitReached
from pathors_agent.messages import Usage

Price = Callable[[str | None, Usage], float | Decimal]
"""A function from the name of a model, as the request has it, and a usage to the cost."""

# Sums of prices are rounded: 0.1 + 0.2 is more than 0.3.
_ROUNDING = 1 + 1e-9

_COUNTED = ("tokens", "cost", "calls")
# The places of the spent amounts are 0 to 2, those of the reserved amounts 3 to 5.
_RESERVED = len(_COUNTED)
_BEGIN = 2 * len(_COUNTED)

Amounts = tuple[float, float, float]
"""Tokens, cost and calls."""


class Budget:
    """The most that runs may spend: those of agents that share it, and of their sub-agents.

    - `tokens`: of prompts and answers, as counted by the provider.
    - `cost`: in the currency of `price`, a function of the model's name and the `Usage`.
    - `calls`: model calls.
    - `seconds`: from the beginning of the first run to the end of the last one.

    Thread-safe. Each model call reserves its share before it is sent: the estimated tokens of the
    prompt, and `max_tokens`, if that option is set. When the answer has arrived, its usage replaces
    the reserved share. If too little is left for a call, the call is not made, and its run stops
    with the status LIMIT_REACHED and a `limit` such as "budget.tokens".

    With `processes` the budget can be passed to processes that `multiprocessing` starts, which
    spend from it as well.
    """

    def __init__(
        self,
        *,
        tokens: int | None = None,
        cost: float | Decimal | None = None,
        calls: int | None = None,
        seconds: float | None = None,
        price: Price | None = None,
        processes: bool = False,
    ) -> None:
        limits = {"tokens": tokens, "cost": cost, "calls": calls, "seconds": seconds}
        for name, limit in limits.items():
            given: object = limit
            if isinstance(given, bool) or not isinstance(given, int | float | Decimal | None):
                raise ValueError(f"Budget.{name} must be a number, not {given!r}")
            if limit is not None and not limit > 0:
                raise ValueError(f"Budget.{name} must be over 0, not {limit}")
        if cost is not None and price is None:
            raise ValueError("Budget.cost needs price=, a function of a model's name and a Usage")
        self.tokens = tokens
        self.cost = None if cost is None else float(cost)
        self.calls = calls
        self.seconds = seconds
        self._price = price
        self._processes = processes
        self._amounts: MutableSequence[float] = [0.0] * (_BEGIN + 1)
        self._lock: AbstractContextManager[Any] = threading.Lock()
        if processes:
            import multiprocessing  # here: few programs need it

            # Of this context, the lock serves processes however they are started.
            context = multiprocessing.get_context("spawn")
            shared: Any = context.Array("d", _BEGIN + 1)
            self._amounts, self._lock = shared.get_obj(), shared.get_lock()

    def __repr__(self) -> str:
        spent = self.spent
        shown = [
            f"{name}={spent[name]:g} of {limit:g}"
            for name in _COUNTED
            if (limit := getattr(self, name)) is not None
        ]
        return f"Budget({', '.join(shown)})"

    def __getstate__(self) -> dict[str, Any]:
        if not self._processes:
            raise TypeError(
                "pass Budget(processes=True), so that another process can spend from it"
            )
        return self.__dict__

    @property
    def spent(self) -> dict[str, float]:
        """The tokens, cost and calls so far, without those of calls that are running."""
        with self._lock:
            return dict(zip(_COUNTED, self._amounts[:_RESERVED], strict=True))

    def begin(self, now: float) -> float | None:
        """Begin a run; return the time, on the clock of `now`, when the seconds are over, or None."""
        if self.seconds is None:
            return None
        with self._lock:
            self._amounts[_BEGIN] = self._amounts[_BEGIN] or now
            return self._amounts[_BEGIN] + self.seconds

    def reserve(self, model: str | None, usage: Usage) -> Amounts:
        """Reserve the share of a model call; raise `LimitReached` if too little is left."""
        share = self._share(model, usage)
        with self._lock:
            for place, name in enumerate(_COUNTED):
                limit = getattr(self, name)
                taken = self._amounts[place] + self._amounts[place + _RESERVED]
                if limit is not None and (
                    taken >= limit or taken + share[place] > limit * _ROUNDING
                ):
                    raise LimitReached(f"budget.{name}")
            for place, amount in enumerate(share):
                self._amounts[place + _RESERVED] += amount
        return share

    def settle(self, share: Amounts, model: str | None, usage: Usage | None) -> None:
        """Replace a call's reserved share by its usage, which is None if the call used nothing."""
        used = share  # if the price of the usage cannot be computed
        try:
            used = (0.0, 0.0, 0.0) if usage is None else self._share(model, usage)
        finally:
            with self._lock:
                for place in range(_RESERVED):
                    self._amounts[place + _RESERVED] -= share[place]
                    self._amounts[place] += used[place]

    def _share(self, model: str | None, usage: Usage) -> Amounts:
        cost = 0.0 if self._price is None else _cost(self._price(model, usage))
        return float(total_tokens(usage)), cost, 1.0


def _cost(price: object) -> float:
    """Return what a price function returned; raise if it is no amount: it would unset the limit."""
    if not isinstance(price, int | float | Decimal):
        raise TypeError(f"Budget.price returned a {type(price).__name__}, and not a number")
    cost = float(price)
    if not 0 <= cost < math.inf:
        raise ValueError(f"Budget.price returned {cost}; a cost is 0 or more")
    return cost


class Charge:
    """One model call, reserved in each budget of its run.

    Raises `LimitReached`, and reserves nothing, if one of them has too little left.
    """

    __slots__ = ("_model", "_reserved", "estimated")

    def __init__(self, budgets: Iterable[Budget], model: str | None, estimated: Usage) -> None:
        self.estimated = estimated
        self._model = model
        self._reserved: list[tuple[Budget, Amounts]] = []
        try:
            for budget in budgets:
                self._reserved.append((budget, budget.reserve(model, estimated)))
        except BaseException:
            self.settle(None)
            raise

    def settle(self, usage: Usage | None) -> None:
        """Charge the call's usage, or nothing if it is None. Only the first call has an effect."""
        reserved, self._reserved = self._reserved, []
        for budget, share in reserved:
            budget.settle(share, self._model, usage)


# The budgets of the run that calls the present code: the runs that it starts are charged to them.
_CHARGED: ContextVar[tuple[Budget, ...]] = ContextVar("_charged", default=())


@contextmanager
def charging(budgets: tuple[Budget, ...]) -> Iterator[None]:
    """Charge the runs that are started within a `with` block to these budgets as well."""
    token = _CHARGED.set(budgets)
    try:
        yield
    finally:
        _CHARGED.reset(token)


def charged_budgets(*own: Budget | None) -> tuple[Budget, ...]:
    """Return the budgets of a run: its own, and those of the run that starts it, each once."""
    budgets = [budget for budget in (*own, *_CHARGED.get()) if budget is not None]
    return tuple(dict.fromkeys(budgets))
