"""Hypothesis strategies: scripts of hostile models, and arguments for tools. They shrink."""

from collections.abc import Callable, Collection, Sequence
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
    """Return a strategy of scripts of a hostile model, with calls of these tools.

    A failing script shrinks to the smallest one that still fails, and prints as the code of a
    `ScriptedTransport`. `faults` limits the kinds of faults; by default all occur. Raises `TypeError`
    or `ValueError` for wrong arguments.
    """
    offered = offered_tools(tools_of(tools, function="hostile_scripts").definitions())
    chosen = sorted(checked_faults(faults))
    turns = _drawn(lambda draws: hostile_turn(offered, draws, chosen))
    most = count_of(max_turns, name="max_turns", least=0)
    return st.lists(turns, max_size=most).map(lambda entries: HostileScript(tuple(entries)))


def tool_arguments(tool: Tool | Callable[..., object]) -> st.SearchStrategy[dict[str, Any]]:
    """Return a strategy of arguments that a tool accepts.

    A test fails with a `ValueError` if no arguments can be built from the tool's schema.
    """
    registered = one_tool(tool, function="tool_arguments")

    def make(draws: Draws) -> dict[str, Any]:
        try:
            return fitting_arguments(registered, draws)
        except CannotDraw as reason:
            if _never_fits(registered):
                raise ValueError(
                    f"no arguments can be built for the tool {registered.name}: {reason}; add "
                    "examples to its schema, or write a strategy for this tool"
                ) from None
            raise

    return _drawn(make)


def _never_fits(tool: Tool) -> bool:
    """Return True if a few attempts find no arguments.

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
