"""Hypothesis strategies: scripts of hostile models, and arguments for tools. They shrink."""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, TypeVar

try:
    from hypothesis import strategies as st
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "hostile_scripts and tool_arguments need hypothesis: pip install hypothesis",
        name="hypothesis",
    ) from error

from pathors_agent.testing.arguments import (
    ATTEMPTS,
    CannotDraw,
    Draws,
    NeedsHypothesis,
    SeededDraws,
    fitting_arguments,
)
from pathors_agent.testing.hostile import (
    Fault,
    HostileScript,
    checked_faults,
    hostile_turn,
    offered_tools,
)
from pathors_agent.testing.usage import count_of, one_tool, tools_of
from pathors_agent.tools.registry import Tools
from pathors_agent.tools.tool import Tool

T = TypeVar("T")

MOST_TURNS = 5


def hostile_scripts(
    tools: Tools = (), *, faults: Collection[Fault] | None = None, max_turns: int = MOST_TURNS
) -> st.SearchStrategy[HostileScript]:
    """Scripts of a model that does everything wrong, with calls of these tools.

    A script that makes a test fail shrinks to the smallest that does, and prints as the code of a
    `ScriptedTransport`. `faults` names what the model does wrong, all by default. Raises `TypeError`
    or `ValueError` for arguments that are none of these.
    """
    offered = offered_tools(tools_of(tools, function="hostile_scripts").definitions())
    chosen = sorted(checked_faults(faults))
    turns = _drawn(lambda draws: hostile_turn(offered, draws, chosen))
    most = count_of(max_turns, name="max_turns", least=0)
    return st.lists(turns, max_size=most).map(_script)


def tool_arguments(tool: Tool | Callable[..., object]) -> st.SearchStrategy[dict[str, Any]]:
    """Arguments that a tool takes, as a model would send them.

    A test whose tool's arguments cannot be made from its schema fails with a `ValueError` that says
    why.
    """
    registered = one_tool(tool, function="tool_arguments")

    def make(draws: Draws) -> dict[str, Any]:
        try:
            return fitting_arguments(registered, draws)
        except CannotDraw as reason:
            if _never_fits(registered):
                raise ValueError(
                    f"no arguments can be made for the tool {registered.name}: {reason}; add "
                    "examples to its schema, or write a strategy for this tool"
                ) from None
            raise

    return _drawn(make)


def _never_fits(tool: Tool) -> bool:
    """Return whether no arguments can be made, as far as a few attempts show.

    A strategy that rejects every attempt would hide the reason.
    """
    for seed in range(ATTEMPTS):
        try:
            fitting_arguments(tool, SeededDraws(seed))
        except NeedsHypothesis:
            return False
        except CannotDraw:
            continue
        return False
    return True


def _script(entries: Iterable[Any]) -> HostileScript:
    return HostileScript(tuple(entries))


def _drawn(make: Callable[[Draws], T]) -> st.SearchStrategy[T]:
    """Return a strategy of values drawn from choices, which shrink to the first options."""

    @st.composite
    def made(draw: st.DrawFn) -> T:
        try:
            return make(_HypothesisDraws(draw))
        except CannotDraw:
            from hypothesis import reject

            reject()

    return made()


class _HypothesisDraws:
    """Choices that Hypothesis makes."""

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw

    def choice(self, options: Sequence[T]) -> T:
        """Draw one; shrinks to the first."""
        return self._draw(st.sampled_from(options)) if len(options) > 1 else options[0]

    def integer(self, least: int, most: int) -> int:
        """Draw a number; shrinks to the one that is nearest to 0."""
        return self._draw(st.integers(least, most))

    def several(self, make: Callable[[Draws], T], least: int, most: int) -> list[T]:
        """Draw a list; shrinks to fewer."""
        return self._draw(st.lists(_drawn(make), min_size=least, max_size=most))

    def matching(self, pattern: str) -> str:
        """Draw a text of the pattern."""
        return self._draw(st.from_regex(pattern))
