"""Annotations that are text may name what the scopes around a function define."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Optional

import pytest

from pathors_agent import Agent, Tool, ToolContext, ToolDefinitionError, tool
from pathors_agent.testing import ScriptedTransport, calls

if TYPE_CHECKING:
    from collections import OrderedDict as OnlyForTypes


@dataclass
class City:
    """The one of the module; most scopes below have one of their own."""

    name: str


def content_of(made: object, arguments: dict[str, Any], *, context: object = None) -> object:
    """Return what the model reads of one call."""
    name = made.name if isinstance(made, Tool) else tool_name(made)
    model = ScriptedTransport(calls((name, arguments)), "Done.")
    agent: Agent[str, Any] = Agent(model, tools=[made])  # type: ignore[list-item]  # any of them
    return agent.run("?", context=context).messages[2].content


def tool_name(made: Any) -> str:
    named: str = made.__name__
    return named


def test_type_of_the_function_around_goes_before_that_of_the_module() -> None:
    @dataclass
    class City:
        zip: int

    @tool
    def look(city: City, day: Optional[Literal["today"]] = None) -> int:  # noqa: UP045
        return city.zip

    assert content_of(look, {"city": {"zip": 5}}) == "5"


def test_type_that_is_defined_after_the_tool_is_found_at_registration() -> None:
    @tool
    def look(city: Later) -> int:
        return city.zip

    @dataclass
    class Later:
        zip: int

    assert content_of(look, {"city": {"zip": 5}}) == "5"


def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def inner(*arguments: Any, **named: Any) -> Any:
        return function(*arguments, **named)

    return inner


def made_elsewhere() -> Iterator[object]:
    """Yield tools whose function has returned when they are registered."""

    @dataclass
    class City:
        zip: int

    @tool
    def look(city: City) -> int:
        return city.zip

    @tool(name="look_wrapped")
    @decorated
    def look_wrapped(city: City) -> int:
        return city.zip

    def bare(city: City) -> int:
        return city.zip

    yield from (look, look_wrapped, Tool.from_function(bare, name="bare"))


def test_types_of_a_function_that_has_returned_are_known_to_its_tools() -> None:
    for made in [*made_elsewhere()]:
        assert content_of(made, {"city": {"zip": 5}}) == "5"


class Atlas:
    @dataclass
    class City:
        zip: int

    @tool
    def look(self, city: City) -> int:
        return city.zip

    @tool
    def look_by_path(self, city: Atlas.City) -> int:
        return city.zip

    @staticmethod
    def plain(city: City) -> int:
        return city.zip


def test_types_of_the_class_around_are_found() -> None:
    atlas = Atlas()

    assert content_of(atlas.look, {"city": {"zip": 5}}) == "5"
    assert content_of(atlas.look_by_path, {"city": {"zip": 5}}) == "5"
    assert content_of(Tool.from_function(Atlas.plain), {"city": {"zip": 5}}) == "5"


def test_type_of_the_context_may_be_local() -> None:
    @dataclass
    class Rates:
        tax: int

    @tool
    def look(context: ToolContext[Rates]) -> int:
        return context.context.tax

    assert content_of(look, {}, context=Rates(7)) == "7"


def test_output_function_may_take_a_local_type() -> None:
    @dataclass
    class City:
        zip: int

    def zip_of(city: City) -> int:
        return city.zip

    model = ScriptedTransport(calls(("final_answer", {"zip": 5})))

    assert Agent(model, output=zip_of).run("?").output == 5


def test_names_for_type_checkers_matter_only_to_a_schema_made_of_them() -> None:
    def look(city: OnlyForTypes[str, int], context: ToolContext[Any]) -> str:
        return context.call.name

    raw = Tool(name="look", description="Look.", parameters={"type": "object"}, function=look)

    assert content_of(raw, {"city": {}}) == "look"
    with pytest.raises(ToolDefinitionError, match="'OnlyForTypes' is not defined"):
        Tool.from_function(look)


GENERIC = """
from __future__ import annotations

@tool
def double[T: int](x: T) -> T:
    return x * 2

class Box[T: int]:
    @tool
    def put(self, x: T) -> T:
        return x * 3
"""


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the syntax is that of Python 3.12")
def test_type_parameters_are_found() -> None:
    namespace: dict[str, Any] = {"tool": tool, "__name__": __name__}
    exec(GENERIC, namespace)

    assert content_of(namespace["double"], {"x": 2}) == "4"
    assert content_of(namespace["Box"]().put, {"x": 2}) == "6"
    assert "integer" in str(content_of(namespace["double"], {"x": "2"}))
