"""Tools are defined once, registered under unique names, and bound to a model's calls."""

import copy
import functools
import inspect
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from pathors_agent.errors import ToolDefinitionError
from pathors_agent.messages import ToolMessage
from pathors_agent.tools.registry import BoundCall, ToolRegistry
from pathors_agent.tools.signature import ToolContext
from pathors_agent.tools.tool import Tool, tool
from registered_tools import ask, bound, call, get_weather, search


@tool
def nested(group: list["Group"]) -> int:
    return len(group)


class Group(BaseModel):
    leader: "Late"


@tool
def within(group: Group) -> str:
    return group.leader.name


class Late(BaseModel):
    name: str


class Shop:
    def __init__(self, stock: int) -> None:
        self.stock = stock

    @tool
    def count(self, more: int = 0) -> int:
        """Count the stock."""
        return self.stock + more

    @tool
    async def order(this, item: str) -> str:  # noqa: N805
        return item

    @classmethod
    @tool
    def open(cls, day: str) -> str:
        return f"{cls.__name__} on {day}"

    @staticmethod
    @tool
    def greet(name: str) -> str:
        return name

    def plain(self, x: int) -> int:
        return self.stock * x


# - defining -


def test_decorated_function_is_not_changed() -> None:
    def function(city: str) -> str:
        return city

    decorated = tool(function)

    assert decorated is function
    assert decorated("Bonn") == "Bonn"
    assert str(inspect.signature(decorated)) == "(city: str) -> str"
    assert list(vars(decorated)) == ["__tool__"]


def test_decorated_function_can_be_pickled() -> None:
    assert pickle.loads(pickle.dumps(get_weather)) is get_weather


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))]
)
def test_tool_is_copied_and_pickled_with_its_reader(copied: Callable[[Tool], Tool]) -> None:
    made = Tool.from_function(get_weather, name="weather", strict=True, timeout=3)
    made.arguments.read('{"city": "Bonn"}')  # the readers are built from the fields

    twin = copied(made)

    assert twin == made
    assert twin.arguments.read('{"city": "Bonn"}') == {"city": "Bonn"}


def test_tool_with_a_schema_is_pickled() -> None:
    made = Tool(name="look", parameters={"type": "object", "properties": {}}, function=get_weather)

    assert pickle.loads(pickle.dumps(made)) == made


def test_decorator_keeps_the_tool() -> None:
    made = vars(get_weather)["__tool__"]

    assert isinstance(made, Tool)
    assert (made.name, made.description) == ("get_weather", "Get the weather.")
    assert made.function is get_weather
    assert not made.is_async


def test_decorator_takes_name_and_description() -> None:
    made = vars(search)["__tool__"]

    assert (made.name, made.description) == ("find", "Find things.")
    assert made.is_async


def test_tool_is_frozen() -> None:
    with pytest.raises(AttributeError):
        vars(get_weather)["__tool__"].name = "other"


def test_names_defined_later_inside_models_are_found_at_registration() -> None:
    leader = Group(leader=Late(name="Ada"))
    registry = [nested, within]

    assert bound(registry, "within", '{"group": {"leader": {"name": "Ada"}}}').kwargs == {
        "group": leader
    }
    assert bound(registry, "nested", '{"group": [{"leader": {"name": "Ada"}}]}').kwargs == {
        "group": [leader]
    }


def test_name_that_is_never_defined_is_refused_at_registration() -> None:
    @tool
    def function(x: "Never") -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(ToolDefinitionError, match="'Never' is not defined") as caught:
        ToolRegistry([function])

    assert caught.value.path == "parameters/properties/x"


def test_annotations_as_text_are_read() -> None:
    namespace: dict[str, Any] = {"tool": tool, "ToolContext": ToolContext, "__name__": __name__}
    source = """
from __future__ import annotations
@tool
def function(x: int, context: ToolContext[int] | None = None) -> Unknown: ...
"""
    exec(source, namespace)

    bind = bound([namespace["function"]], "function", '{"x": 1}', context=5)

    assert bind.kwargs["x"] == 1
    assert bind.kwargs["context"].context == 5


# - registering -


def test_registry_is_an_ordered_collection() -> None:
    registry = ToolRegistry([get_weather, search])

    assert len(registry) == 2
    assert "get_weather" in registry
    assert "search" not in registry
    assert [t.name for t in registry] == ["get_weather", "find"]
    assert registry["find"].function is search
    assert len(ToolRegistry(registry)) == 2
    assert len(ToolRegistry()) == 0
    assert repr(registry) == "ToolRegistry(get_weather, find)"


def test_client_tools_are_those_without_function() -> None:
    ask = Tool(name="ask", description="Ask.", parameters={"type": "object", "properties": {}})

    assert ToolRegistry([get_weather, ask]).client_tools == frozenset({"ask"})


def test_definitions_are_those_of_openai() -> None:
    confirm = Tool(name="confirm")

    assert ToolRegistry([get_weather, confirm]).definitions() == [
        {
            "type": "function",
            "function": {
                "name": "get_weather",
                "description": "Get the weather.",
                "parameters": {
                    "type": "object",
                    "properties": {
                        "city": {"type": "string"},
                        "days": {"type": "integer", "default": 1},
                    },
                    "required": ["city"],
                    "additionalProperties": False,
                },
            },
        },
        {
            "type": "function",
            "function": {"name": "confirm", "parameters": {"type": "object", "properties": {}}},
        },
    ]


def test_definitions_are_made_once() -> None:
    registry = ToolRegistry([get_weather])

    registry.definitions().clear()

    assert registry.definitions()[0] is registry.definitions()[0]


def test_second_tool_of_a_name_is_refused() -> None:
    with pytest.raises(ToolDefinitionError, match="'get_weather': name is taken") as caught:
        ToolRegistry([get_weather, Tool(name="get_weather")])

    assert (caught.value.tool, caught.value.path) == ("get_weather", "name")


@pytest.mark.parametrize("name", ["", "get weather", "a" * 65, "a\n"])
def test_raw_tool_with_unusable_name_is_refused(name: str) -> None:
    with pytest.raises(ToolDefinitionError) as caught:
        ToolRegistry([Tool(name=name)])

    assert caught.value.path == "name"


# - methods -


def test_bound_method_brings_its_self() -> None:
    shop = Shop(40)

    bind = bound([shop.count], "count", '{"more": 2}')

    assert bind.function(**bind.kwargs) == 42
    assert bind.tool.parameters["properties"] == {"more": {"type": "integer", "default": 0}}


def test_methods_of_two_objects_stay_apart() -> None:
    first, second = ToolRegistry([Shop(1).count]), ToolRegistry([Shop(2).count])
    calls = [registry.bind(call("count")) for registry in (first, second)]

    assert [c.function(**c.kwargs) for c in calls if isinstance(c, BoundCall)] == [1, 2]


@pytest.mark.anyio
async def test_self_may_have_another_name() -> None:
    bind = bound([Shop(1).order], "order", '{"item": "tea"}')

    assert bind.is_async
    assert await bind.function(**bind.kwargs) == "tea"


def test_class_methods_and_static_methods_are_tools() -> None:
    on_class, static = bound([Shop.open], "open", '{"day": "Monday"}'), Shop(1).greet

    assert on_class.function(**on_class.kwargs) == "Shop on Monday"
    assert bound([static], "greet", '{"name": "Ada"}').kwargs == {"name": "Ada"}


def test_method_without_instance_is_refused() -> None:
    with pytest.raises(ToolDefinitionError, match="register it from an instance"):
        ToolRegistry([Shop.count])


def test_undecorated_method_becomes_a_tool_by_name() -> None:
    bind = bound([Tool.from_function(Shop(3).plain, name="times")], "times", '{"x": 2}')

    assert bind.function(**bind.kwargs) == 6


def test_decorating_a_bound_method_is_refused() -> None:
    with pytest.raises(ToolDefinitionError, match=r"use Tool\.from_function"):
        tool(Shop(1).plain)


def test_wrapper_of_a_decorated_function_runs() -> None:
    @functools.wraps(get_weather)
    def louder(*args: Any, **kwargs: Any) -> str:
        return get_weather(*args, **kwargs).upper()

    bind = bound([louder], "get_weather", '{"city": "Bonn"}')

    assert bind.function(**bind.kwargs) == "BONN: 1 X SUN"


# - callable objects, partials and lambdas -


class Search:
    """Search the web."""

    def __init__(self, site: str) -> None:
        self.site = site

    def __call__(self, words: str, limit: int = 10) -> str:
        """Args:
        words: What to search for.
        """
        return f"{words} on {self.site}, {limit}"


def test_callable_object_has_the_name_of_its_class_and_the_words_of_both() -> None:
    made = Tool.from_function(Search("example.org"))

    assert (made.name, made.description) == ("Search", "Search the web.")
    assert made.parameters["properties"] == {
        "words": {"type": "string", "description": "What to search for."},
        "limit": {"type": "integer", "default": 10},
    }
    bind = bound([made], "Search", '{"words": "tea"}')
    assert bind.function(**bind.kwargs) == "tea on example.org, 10"


def test_decorated_callable_object_is_a_tool() -> None:
    assert [
        made.name for made in ToolRegistry([tool(Search("a")), tool(name="b")(Search("b"))])
    ] == ["Search", "b"]


def test_partial_has_the_name_of_its_function_and_hides_bound_arguments() -> None:
    made = Tool.from_function(functools.partial(ask, key="sesame"))

    assert (made.name, made.description) == ("ask", "Ask an oracle.")
    assert made.parameters["properties"] == {
        "question": {"type": "string", "description": "What to ask."},
        "depth": {"type": "integer", "default": 1},
    }
    assert "sesame" not in str(made.definition)
    bind = bound([made], "ask", '{"question": "who"}')
    assert bind.function(**bind.kwargs) == "who sesame 1"
    assert isinstance(
        ToolRegistry([made]).bind(call("ask", '{"question": "", "key": ""}')), ToolMessage
    )


def test_partial_of_a_positional_argument_is_a_tool() -> None:
    made = Tool.from_function(functools.partial(ask, "who"))

    assert list(made.parameters["properties"]) == ["key", "depth"]


def test_unknown_option_is_refused_with_the_known_ones() -> None:
    with pytest.raises(TypeError, match=r"no option cache=; its options are approve, .*, timeout$"):
        tool(cache=True)(lambda: None)  # type: ignore[call-overload]  # the wrong option


def test_partial_of_a_decorated_function_keeps_its_options() -> None:
    @tool(name="oracle", timeout=5)
    def consult(question: str, key: str) -> str:
        """Consult it."""
        return question + key

    [made] = ToolRegistry([functools.partial(consult, key="!")])

    assert (made.name, made.description, made.timeout) == ("oracle", "Consult it.", 5)
    assert list(made.parameters["properties"]) == ["question"]


def test_lambda_with_a_name_is_a_tool() -> None:
    made = Tool.from_function(lambda x: x, name="same")

    assert (made.name, made.parameters["properties"]) == ("same", {"x": {}})


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (
            lambda x: x,
            "tool '<lambda>': is a lambda, which has no name; decorate it with tool(name=...)",
        ),
        (ask, "tool 'ask': is a plain function; decorate it with @tool"),
        (functools.partial(ask, key=""), "tool 'ask': is a plain function; decorate it with @tool"),
        (
            Search("a"),
            "tool 'Search': a Search is neither a Tool nor a function decorated with @tool; "
            "pass Tool.from_function(it)",
        ),
        (Shop(1).plain, "tool 'plain': is a plain function; decorate it with @tool"),
        (len, "tool 'len': is a plain function; decorate it with @tool"),
        (3, "tool 'int': a int is neither a Tool nor a function decorated with @tool"),
        (Shop, "tool 'Shop': a type is neither a Tool nor a function decorated with @tool"),
        ({"type": "function"}, "tools=: the definition's function must be an object"),
    ],
)
def test_error_names_a_value_that_is_not_a_tool(item: Any, words: str) -> None:
    with pytest.raises(ToolDefinitionError) as caught:
        ToolRegistry([item])

    assert str(caught.value) == words


def test_lambda_without_a_name_is_refused() -> None:
    with pytest.raises(ToolDefinitionError) as caught:
        Tool.from_function(lambda x: x)

    assert str(caught.value) == (
        "tool '<lambda>': name is missing: a lambda has none of its own; pass name="
    )
