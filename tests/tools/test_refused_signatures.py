"""Functions that are refused, and descriptions of parameters."""

import enum
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from pydantic import Field

from pathors_agent.errors import ToolDefinitionError
from pathors_agent.tools.signature import ToolContext
from pathors_agent.tools.tool import Tool, tool
from signed_functions import Opaque, parameters_of

# - what is refused -


def positional_only(x: int, /) -> None: ...
def star_args(*x: int) -> None: ...
def star_kwargs(**x: int) -> None: ...
def opaque(y: int, x: Opaque) -> None: ...
def nested_opaque(x: list[dict[str, Opaque]]) -> None: ...
def callback(x: Callable[[], int]) -> None: ...
def two_contexts(y: ToolContext, x: ToolContext[int]) -> None: ...
def list_of_contexts(x: list[ToolContext]) -> None: ...
def context_or_text(x: ToolContext | str) -> None: ...
def field_as_default(x: int = Field(3)) -> None: ...
def default_in_annotation(x: Annotated[int, Field(default=3)] = 4) -> None: ...
def no_type(x: 5) -> None: ...  # type: ignore[valid-type]
def no_type_or_none(x: 5 = None) -> None: ...  # type: ignore[valid-type]
def no_expression(x: "int int") -> None: ...  # type: ignore[valid-type] # noqa: F722
def no_attribute(x: "enum.Missing") -> None: ...  # type: ignore[name-defined]
def a_class(x: type[int]) -> None: ...
def classes(x: list[type[Opaque]]) -> None: ...
def tuple_keys(x: dict[tuple[int, int], str]) -> None: ...
def set_keys(x: list[dict[frozenset[str], int]]) -> None: ...
def bad_pattern(x: Annotated[str, Field(pattern="(")]) -> None: ...


@pytest.mark.parametrize(
    "function",
    [
        positional_only,
        star_args,
        star_kwargs,
        opaque,
        nested_opaque,
        callback,
        two_contexts,
        list_of_contexts,
        context_or_text,
        field_as_default,
        default_in_annotation,
        no_type,
        no_type_or_none,
        no_expression,
        no_attribute,
        a_class,
        classes,
        tuple_keys,
        set_keys,
        bad_pattern,
    ],
)
def test_signature_that_no_model_can_use_is_refused(function: Callable[..., Any]) -> None:
    with pytest.raises(ToolDefinitionError) as caught:
        tool(function)

    assert caught.value.tool == function.__name__
    assert caught.value.path == "parameters/properties/x"
    assert str(caught.value).startswith(f"tool {function.__name__!r}: parameters/properties/x ")
    assert not hasattr(function, "__tool__")


def test_refusal_says_what_to_do() -> None:
    with pytest.raises(ToolDefinitionError) as caught:
        tool(star_args)

    assert str(caught.value) == (
        "tool 'star_args': parameters/properties/x is *args, arguments come by name"
    )


@pytest.mark.parametrize(
    "name", ["", "get weather", "a.b", "größe", "a" * 65, "a\n", "<lambda>", "x/y"]
)
def test_name_that_providers_refuse_is_refused(name: str) -> None:
    with pytest.raises(ToolDefinitionError, match="1 to 64 of the characters") as caught:
        tool(name=name)(callable_function)

    assert caught.value.path == "name"


def callable_function(x: int) -> int:
    return x


@pytest.mark.parametrize("item", [Opaque, staticmethod(callable_function), "text", 5])
def test_only_functions_become_tools(item: Any) -> None:
    with pytest.raises(ToolDefinitionError, match="is no function"):
        Tool.from_function(item, name="item")


# - descriptions -


def google(city: str, days: int, tags: list[str]) -> str:  # type: ignore[empty-body]
    """Get the weather of a city.

    Knows tomorrow, too.

    Args:
        city: Name of the city,
            in English.
        days (int): How many days.

    Returns:
        A sentence.
    """


def numpy(city: str, days: int, tags: list[str]) -> str:  # type: ignore[empty-body]
    """Get the weather of a city.

    Knows tomorrow, too.

    Parameters
    ----------
    city : str
        Name of the city,
        in English.
    days : int
        How many days.

    Returns
    -------
    str
        A sentence.
    """


def sphinx(city: str, days: int, tags: list[str]) -> str:  # type: ignore[empty-body]
    """Get the weather of a city.

    Knows tomorrow, too.

    :param city: Name of the city,
        in English.
    :param int days: How many days.
    :returns: A sentence.
    """


@pytest.mark.parametrize("function", [google, numpy, sphinx])
def test_docstring_describes_tool_and_parameters(function: Callable[..., Any]) -> None:
    made = Tool.from_function(function)

    assert made.description == "Get the weather of a city.\n\nKnows tomorrow, too."
    assert made.parameters["properties"] == {
        "city": {"type": "string", "description": "Name of the city,\nin English."},
        "days": {"type": "integer", "description": "How many days."},
        "tags": {"type": "array", "items": {"type": "string"}},
    }


def test_numpy_docstring_describes_two_parameters_at_once() -> None:
    def distance(x: float, y: float) -> None:
        """Measure.

        Parameters
        ----------
        x, y : float
            A coordinate.
        """

    described = {n: p["description"] for n, p in parameters_of(distance)["properties"].items()}
    assert described == {"x": "A coordinate.", "y": "A coordinate."}


def test_field_description_overrides_the_docstring() -> None:
    def search(query: Annotated[str, Field(description="Words.")], page: int = 1) -> None:
        """Search.

        Args:
            query: From the docstring.
            page: Which page.
        """

    assert parameters_of(search)["properties"] == {
        "query": {"type": "string", "description": "Words."},
        "page": {"type": "integer", "description": "Which page.", "default": 1},
    }


def test_plain_docstring_is_the_description() -> None:
    def one_line() -> None:
        """Do: it."""

    def two_lines() -> None:
        """Do it
        at once: now.
        """

    def none() -> None: ...

    assert Tool.from_function(one_line).description == "Do: it."
    assert Tool.from_function(two_lines).description == "Do it\nat once: now."
    assert Tool.from_function(none).description == ""


def test_description_argument_replaces_the_docstring() -> None:
    assert Tool.from_function(google, description="Short.").description == "Short."
