"""Calls bound to tools: their arguments, the context, and the words for models."""

from collections.abc import Callable
from typing import Annotated, Any, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BeforeValidator

from pathors_agent.messages import ToolMessage
from pathors_agent.tools.registry import ToolRegistry
from pathors_agent.tools.signature import ToolContext
from pathors_agent.tools.tool import Tool, tool
from registered_tools import bound, call, get_weather, search


def refused(tools: Any, name: str, arguments: str = "") -> str:
    result = ToolRegistry(tools).bind(call(name, arguments))
    assert isinstance(result, ToolMessage)
    assert result.is_error
    assert result.tool_call_id == "c1"
    return result.text


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


def test_repr_of_a_context_hides_its_contents() -> None:
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


def test_values_and_texts_are_cut() -> None:
    text = refused([get_weather], "get_weather", '{"city": ["' + "x" * 100_000 + '"]}')
    many = ", ".join(f'"{n}{"k" * 1000}": 1' for n in range(9))

    assert text.endswith(f'got the array ["{"x" * 37}…')
    assert len(refused([get_weather], "get_weather", f'{{"city": "Bonn", {many}}}')) == 2000


UNFIT = 'The arguments of visit do not fit its parameters:\n- /city: {}, got the string "Lima"'


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("only cities, in Europe"), UNFIT.format("only cities, in Europe")),
        (ValueError(), UNFIT.format("is refused (ValueError)")),
        (AssertionError(), UNFIT.format("is refused (AssertionError)")),
        (KeyError("secret"), "The arguments of visit could not be checked (KeyError)."),
    ],
    ids=str,
)
def test_model_reads_what_a_validator_raised(error: Exception, text: str) -> None:
    def check(value: object) -> object:
        raise error

    @tool
    def visit(city: Annotated[str, BeforeValidator(check)]) -> None: ...

    assert refused([visit], "visit", '{"city": "Lima"}') == text


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


def test_decorator_is_typed_as_the_identity() -> None:
    decorated: Callable[[str, int], str] = get_weather

    assert decorated("Bonn", 2) == "Bonn: 2 x sun"
