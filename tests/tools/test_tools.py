"""Tools are defined once, registered under unique names, and bound to a model's calls."""

import functools
import inspect
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Annotated, Any, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, BeforeValidator

from pathors_agent.errors import ToolDefinitionError
from pathors_agent.messages import ToolCall, ToolMessage
from pathors_agent.tools.registry import BoundCall, ToolRegistry
from pathors_agent.tools.signature import ToolContext
from pathors_agent.tools.tool import Tool, tool


@tool
def get_weather(city: str, days: int = 1) -> str:
    """Get the weather."""
    return f"{city}: {days} x sun"


@tool(name="find", description="Find things.")
async def search(query: str) -> list[str]:
    return [query]


@tool
def early(person: "Late", friends: Optional[list["Late"]] = None) -> str:  # noqa: UP045
    return person.name


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


def call(name: str, arguments: str = "") -> ToolCall:
    return ToolCall(id="c1", name=name, arguments=arguments)


def bound(tools: Any, name: str, arguments: str = "", **options: Any) -> BoundCall:
    result = ToolRegistry(tools).bind(call(name, arguments), **options)
    assert isinstance(result, BoundCall), result.text
    return result


def refused(tools: Any, name: str, arguments: str = "") -> str:
    result = ToolRegistry(tools).bind(call(name, arguments))
    assert isinstance(result, ToolMessage)
    assert result.is_error
    assert result.tool_call_id == "c1"
    return result.text


# - defining -


def test_decorated_function_stays_what_it_was() -> None:
    def function(city: str) -> str:
        return city

    decorated = tool(function)

    assert decorated is function
    assert decorated("Bonn") == "Bonn"
    assert str(inspect.signature(decorated)) == "(city: str) -> str"
    assert list(vars(decorated)) == ["__tool__"]


def test_decorated_function_can_be_pickled() -> None:
    assert pickle.loads(pickle.dumps(get_weather)) is get_weather


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


def test_names_defined_later_are_found_at_registration() -> None:
    assert bound([early], "early", '{"person": {"name": "Ada"}}').kwargs == {
        "person": Late(name="Ada")
    }


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


@pytest.mark.parametrize(
    ("item", "text"),
    [
        (call, "tool 'call': is a plain function; decorate it with @tool"),
        (Shop(1).plain, "tool 'plain': is a plain function; decorate it with @tool"),
        (len, "tool 'len': is a plain function; decorate it with @tool"),
        (5, "tool 'int': a int is neither a Tool nor a function decorated with @tool"),
        (Shop, "tool 'Shop': a type is neither a Tool nor a function decorated with @tool"),
        ({"type": "function"}, "tools=: the definition's function must be an object"),
    ],
)
def test_what_is_no_tool_is_refused(item: Any, text: str) -> None:
    with pytest.raises(ToolDefinitionError) as caught:
        ToolRegistry([item])

    assert str(caught.value).startswith(text)


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


def test_wrapper_around_a_decorated_function_is_what_runs() -> None:
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


def ask(question: str, key: str, depth: int = 1) -> str:
    """Ask an oracle.

    Args:
        question: What to ask.
        key: What opens the door.
    """
    return f"{question} {key} {depth}"


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
    ] == [
        "Search",
        "b",
    ]


def test_partial_has_the_name_of_its_function_and_hides_what_it_fills_in() -> None:
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
        (3, "tool 'int': a int is neither a Tool nor a function decorated with @tool"),
    ],
)
def test_what_is_no_tool_is_named(item: Any, words: str) -> None:
    with pytest.raises(ToolDefinitionError) as caught:
        ToolRegistry([item])

    assert str(caught.value) == words


def test_lambda_without_a_name_is_refused() -> None:
    with pytest.raises(ToolDefinitionError) as caught:
        Tool.from_function(lambda x: x)

    assert str(caught.value) == (
        "tool '<lambda>': name is missing: a lambda has none of its own; pass name="
    )


# - binding -


def test_bound_call_has_all_to_run_it() -> None:
    bind = bound([get_weather], "get_weather", '{"city": "Bonn", "days": 3}')

    assert bind.call == call("get_weather", '{"city": "Bonn", "days": 3}')
    assert bind.tool.name == "get_weather"
    assert bind.kwargs == {"city": "Bonn", "days": 3}
    assert bind.function(**bind.kwargs) == "Bonn: 3 x sun"
    assert not bind.is_async


def test_bound_call_is_frozen_and_hides_its_values() -> None:
    bind = bound([get_weather], "get_weather", '{"city": "Bonn"}')

    assert "Bonn" not in repr(bind)
    with pytest.raises(AttributeError):
        bind.kwargs = {}  # type: ignore[misc]


def test_default_is_left_to_the_function() -> None:
    assert bound([get_weather], "get_weather", '{"city": "Bonn"}').kwargs == {"city": "Bonn"}


@pytest.mark.parametrize("arguments", ["", " ", "\n\t", "{}", " { } "])
def test_no_arguments_mean_an_empty_object(arguments: str) -> None:
    @tool
    def now(zone: str = "UTC") -> None: ...

    raw = Tool(name="raw", function=dict)

    assert bound([now], "now", arguments).kwargs == {}
    assert bound([raw], "raw", arguments).kwargs == {}


def test_no_arguments_where_some_are_needed_are_refused() -> None:
    assert refused([get_weather], "get_weather", " ") == (
        "The arguments of get_weather do not fit its parameters:\n"
        "- /city: is missing, should be a string"
    )


def test_client_tool_cannot_be_bound() -> None:
    assert refused([Tool(name="ask")], "ask") == "ask can only be run by the caller."


# - the context -


@pytest.mark.parametrize(
    "annotation",
    [
        ToolContext,
        ToolContext[str],
        ToolContext | None,
        Optional[ToolContext[str]],  # noqa: UP045
        Annotated[ToolContext, "x"],
    ],
)
def test_context_is_hidden_and_filled_in(annotation: Any) -> None:
    def whoami(x: int, info: Any) -> None: ...

    whoami.__annotations__["info"] = annotation
    made = Tool.from_function(whoami)
    bind = bound([made], "whoami", '{"x": 1}', context="Ada", session_id="s1", key="k1")

    assert made.parameters["properties"] == {"x": {"type": "integer"}}
    assert bind.kwargs == {
        "x": 1,
        "info": ToolContext("Ada", session_id="s1", call=bind.call, key="k1"),
    }


def test_context_reaches_raw_tools() -> None:
    def whoami(*, ctx: ToolContext[str], **others: Any) -> str:
        return ctx.context

    raw = Tool(name="raw", parameters={"type": "object"}, function=whoami)
    bind = bound([raw], "raw", '{"ctx": "forged", "x": 1}', context="Ada")

    assert bind.function(**bind.kwargs) == "Ada"


def test_model_cannot_send_a_context() -> None:
    @tool
    def whoami(ctx: ToolContext[str]) -> None: ...

    assert refused([whoami], "whoami", '{"ctx": {"context": "forged"}}') == (
        "The arguments of whoami do not fit its parameters:\n- /ctx: is unknown"
    )


def test_context_hides_what_it_holds() -> None:
    context = ToolContext("secret", session_id=None, call=call("x", '{"secret": 1}'), key="k")

    assert "secret" not in repr(context)


# - words for models -


def test_unknown_tool_is_answered_with_the_closest_name() -> None:
    assert refused([get_weather, search], "get_wether") == (
        'There is no tool "get_wether". Did you mean "get_weather"? '
        "The tools are: get_weather, find."
    )


def test_unlike_name_is_answered_with_the_names() -> None:
    assert refused([get_weather], "zzz") == 'There is no tool "zzz". The tools are: get_weather.'
    assert refused([], "zzz") == 'There is no tool "zzz". There are no tools.'


def test_long_list_of_tools_is_cut_at_twenty() -> None:
    text = refused([Tool(name=f"t{n:02}") for n in range(23)], "zzz")

    assert text.endswith("t18, t19 and 3 more.")
    assert "t20" not in text


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("[1]", "should be one JSON object, not the array [1]."),
        ("null", "should be one JSON object, not null."),
        (
            '{"city": "Köln",}',
            'are not JSON: trailing comma at character 17, near `{"city": "Köln",}`. '
            "Send one JSON object.",
        ),
        (
            '{"city":\n "Köln", "days": x}',
            'are not JSON: expected value at character 27, near `:\n "Köln", "days": x}`. '
            "Send one JSON object.",
        ),
        (
            '{"city": "Bonn"',
            "are not JSON: EOF while parsing an object at character 15, "
            'near `{"city": "Bonn"`. Send one JSON object.',
        ),
        (
            '{"city": "Bonn"} {}',
            "are not JSON: trailing characters at character 18, "
            'near `{"city": "Bonn"} {}`. Send one JSON object.',
        ),
        ('{"city": "\ud83d"}', "are not Unicode at character 11."),
    ],
)
@pytest.mark.parametrize("raw", [False, True])
def test_text_that_is_no_object_is_explained(arguments: str, text: str, raw: bool) -> None:
    made: Any = Tool(name="get_weather", function=dict) if raw else get_weather

    assert refused([made], "get_weather", arguments) == f"The arguments of get_weather {text}"


def test_every_problem_has_its_line() -> None:
    assert refused([get_weather], "get_weather", '{"town": "Bonn", "days": "2", "dayz": 2}') == (
        "The arguments of get_weather do not fit its parameters:\n"
        "- /city: is missing, should be a string\n"
        '- /days: should be a valid integer, got the string "2"\n'
        "- /town: is unknown, known are: city, days\n"
        '- /dayz: is unknown, did you mean "days"?'
    )


def test_ten_problems_are_enough() -> None:
    @tool
    def add(numbers: list[int]) -> None: ...

    lines = refused([add], "add", '{"numbers": [' + ", ".join(['"x"'] * 25) + "]}").splitlines()

    assert len(lines) == 12
    assert lines[-2] == '- /numbers/9: should be a valid integer, got the string "x"'
    assert lines[-1] == "- and 15 more problems"


def test_values_and_texts_are_cut() -> None:
    text = refused([get_weather], "get_weather", '{"city": ["' + "x" * 100_000 + '"]}')
    many = ", ".join(f'"{n}{"k" * 1000}": 1' for n in range(9))

    assert text.endswith(f'got the array ["{"x" * 37}…')
    assert len(refused([get_weather], "get_weather", f'{{"city": "Bonn", {many}}}')) == 2000


def test_author_s_validator_speaks_to_the_model() -> None:
    def check(value: object) -> object:
        raise ValueError("only cities, in Europe")

    @tool
    def visit(city: Annotated[str, BeforeValidator(check)]) -> None: ...

    assert refused([visit], "visit", '{"city": "Lima"}') == (
        "The arguments of visit do not fit its parameters:\n"
        '- /city: only cities, in Europe, got the string "Lima"'
    )


@pytest.mark.parametrize("error", [ValueError, AssertionError])
def test_validator_without_words_is_told_by_its_class(error: type[Exception]) -> None:
    def check(value: object) -> object:
        raise error

    @tool
    def visit(city: Annotated[str, BeforeValidator(check)]) -> None: ...

    assert refused([visit], "visit", '{"city": "Lima"}') == (
        "The arguments of visit do not fit its parameters:\n"
        f'- /city: is refused ({error.__name__}), got the string "Lima"'
    )


def test_validator_that_fails_is_an_error_message() -> None:
    def check(value: object) -> object:
        raise KeyError("secret")

    @tool
    def visit(city: Annotated[str, BeforeValidator(check)]) -> None: ...

    assert refused([visit], "visit", '{"city": "Lima"}') == (
        "The arguments of visit could not be checked (KeyError)."
    )


def test_half_a_surrogate_pair_never_reaches_the_answer() -> None:
    text = refused([get_weather], "get\ud83dweather")

    assert text.encode() == (
        b'There is no tool "get?weather". Did you mean "get_weather"? The tools are: get_weather.'
    )


# - properties -

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)  # fmt: skip


@tool
def everything(
    anything: Any, text: str, number: int, ratio: float, flag: bool | None, items: list[str]
) -> None: ...


ARGUMENTS = st.fixed_dictionaries(
    {
        "anything": JSON,
        "text": st.text(),
        "number": st.integers(),
        "ratio": st.floats(allow_nan=False, allow_infinity=False),
        "flag": st.none() | st.booleans(),
        "items": st.lists(st.text()),
    }
)


@given(arguments=ARGUMENTS)
def test_arguments_that_fit_arrive_as_they_were(arguments: dict[str, Any]) -> None:
    import json

    raw = Tool(name="raw", function=dict)
    text = json.dumps(arguments)

    assert bound([everything], "everything", text).kwargs == arguments
    assert bound([raw], "raw", text).kwargs == arguments


@given(text=st.text(alphabet=st.characters()) | JSON.map(repr))
def test_any_text_is_bound_or_answered(text: str) -> None:
    registry = ToolRegistry([get_weather, Tool(name="raw", function=dict)])

    for name in ("get_weather", "raw", text):
        result = registry.bind(call(name, text))
        if isinstance(result, ToolMessage):
            assert len(result.text.encode().decode()) <= 2000
        else:
            assert result.tool.name == "raw"


@pytest.mark.slow
def test_import_leaves_heavy_packages_out() -> None:
    code = (
        "import sys; from pathors_agent import tool, ToolRegistry\n"
        "def f(x: int) -> int:\n    'Double.'\n    return 2 * x\n"
        "ToolRegistry([tool(f)])\n"
        "print({'jsonschema', 'referencing', 'docstring_parser', 'difflib'} & sys.modules.keys())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert run.stdout == "set()\n"


def test_decorator_is_typed_as_the_identity() -> None:
    decorated: Callable[[str, int], str] = get_weather

    assert decorated("Bonn", 2) == "Bonn: 2 x sun"
