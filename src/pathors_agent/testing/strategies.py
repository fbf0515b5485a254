"""Hypothesis strategies: scripts of hostile models, and arguments for tools. They shrink."""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, TypeVar

from hypothesis import strategies as st

from pathors_agent.testing.draws import CannotDraw, Draws
from pathors_agent.testing.hostile_script import HostileScript
from pathors_agent.testing.hostile_turns import (
    Fault,
    checked_faults,
    hostile_turn,
    offered_tools,
)
from pathors_agent.testing.made_arguments import fitting_arguments
from pathors_agent.tools.registry import ToolRegistry
from pathors_agent.tools.tool import Tool
from pathors_agent.tools.turn_tools import Tools, registry_of

T = TypeVar("T")

MOST_TURNS = 5


def hostile_scripts(
    tools: Tools = (), *, faults: Collection[Fault] | None = None, max_turns: int = MOST_TURNS
) -> st.SearchStrategy[HostileScript]:
    """Scripts of a model that does everything wrong, with calls of these tools.

    A script that makes a test fail shrinks to the smallest that does, and prints as the code of a
    `ScriptedTransport`. `faults` names what the model does wrong, all by default.
    """
    offered = offered_tools(registry_of(tools).definitions())
    chosen = sorted(checked_faults(faults))
    turns = _drawn(lambda draws: hostile_turn(offered, draws, chosen))
    return st.lists(turns, max_size=max_turns).map(_script)


def tool_arguments(tool: Tool | Callable[..., object]) -> st.SearchStrategy[dict[str, Any]]:
    """Arguments that a tool takes, as a model would send them."""
    [registered] = ToolRegistry([tool])
    return _drawn(lambda draws: fitting_arguments(registered, draws))


def _script(entries: Iterable[Any]) -> HostileScript:
    return HostileScript(tuple(entries))


def _drawn(make: Callable[[Draws], T]) -> st.SearchStrategy[T]:
    """A strategy of what is made from choices, which shrink to the first options."""

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
