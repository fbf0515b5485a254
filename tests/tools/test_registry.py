"""Registries made of registries: prefixed, filtered and added, with nothing checked twice."""

from dataclasses import replace
from typing import Any

import pytest

from pathors_agent import Tool, ToolCall, ToolContext, ToolDefinitionError, ToolRegistry, tool
from pathors_agent.tools.registry import BoundCall


@tool
def forecast(city: str) -> str:
    """Say what the weather will be."""
    return f"sun in {city}"


@tool(approve=True)
def book(place: str) -> str:
    """Book a place."""
    return f"booked {place}"


RAW = Tool(
    name="look_up",
    parameters={"type": "object", "properties": {"word": {"type": "string"}}},
    function=lambda word: word,
)
CLIENT = Tool(name="ask_user")


def call(name: str, arguments: str = "{}") -> ToolCall:
    return ToolCall(id="call_1", name=name, arguments=arguments)


def names(registry: ToolRegistry) -> list[str]:
    return [definition["function"]["name"] for definition in registry.definitions()]


async def approve_later(arguments: object) -> bool:
    return False


# - prefixed -


def test_prefixed_tools_are_sent_and_found_under_their_longer_names() -> None:
    registry = ToolRegistry([forecast, RAW]).prefixed("weather_")

    bound = registry.bind(call("weather_forecast", '{"city": "Rome"}'))

    assert names(registry) == ["weather_forecast", "weather_look_up"]
    assert isinstance(bound, BoundCall)
    assert bound.function(**bound.kwargs) == "sun in Rome"


def test_prefixed_tools_are_not_found_under_their_old_names() -> None:
    message = ToolRegistry([forecast]).prefixed("weather_").bind(call("forecast"))

    assert not isinstance(message, BoundCall)
    assert message.content == (
        'There is no tool "forecast". Did you mean "weather_forecast"? '
        "The tools are: weather_forecast."
    )


def test_prefixed_client_tools_stay_client_tools() -> None:
    registry = ToolRegistry([CLIENT, forecast]).prefixed("my_")

    assert registry.client_tools == {"my_ask_user"}


def test_prefixed_tool_keeps_its_settings() -> None:
    assert ToolRegistry([book]).prefixed("trip_")["trip_book"].approve is True


def test_prefixing_leaves_the_registry_as_it_was() -> None:
    registry = ToolRegistry([forecast])

    registry.prefixed("weather_")

    assert names(registry) == ["forecast"]


def test_wrong_arguments_are_reported_under_the_longer_name() -> None:
    message = ToolRegistry([RAW]).prefixed("a_").bind(call("a_look_up", '{"word": 5}'))

    assert not isinstance(message, BoundCall)
    assert str(message.content).startswith("The arguments of a_look_up ")


@pytest.mark.parametrize("prefix", ["weather.", "wetter ", "ü", "x" * 57])
def test_prefix_that_makes_an_illegal_name_is_refused(prefix: str) -> None:
    registry = ToolRegistry([forecast])

    with pytest.raises(ToolDefinitionError, match="1 to 64 of the characters") as caught:
        registry.prefixed(prefix)

    assert (caught.value.tool, caught.value.path) == (f"{prefix}forecast", "name")


def test_prefix_may_fill_a_name_to_64_characters() -> None:
    registry = ToolRegistry([forecast]).prefixed("x" * 56)

    assert names(registry) == ["x" * 56 + "forecast"]


# - filtered -


def test_filtered_registry_has_the_selected_tools_in_order() -> None:
    registry = ToolRegistry([forecast, book, RAW]).filtered(lambda tool: not tool.approve)

    assert names(registry) == ["forecast", "look_up"]
    assert "book" not in registry


def test_filtered_out_client_tool_is_no_client_tool() -> None:
    registry = ToolRegistry([forecast, CLIENT]).filtered(lambda tool: tool.function is not None)

    assert registry.client_tools == frozenset()


# - added -


def test_sum_holds_the_tools_of_both_in_order() -> None:
    registry = ToolRegistry([forecast, CLIENT]) + ToolRegistry([book])

    assert names(registry) == ["forecast", "ask_user", "book"]
    assert registry.client_tools == {"ask_user"}


def test_sum_leaves_both_as_they_were() -> None:
    one, other = ToolRegistry([forecast]), ToolRegistry([book])

    _ = one + other

    assert (names(one), names(other)) == (["forecast"], ["book"])


def test_sum_with_a_name_in_both_is_refused_and_names_both() -> None:
    def other_forecast() -> str:
        return ""

    other = ToolRegistry([Tool(name="forecast", function=other_forecast)])

    with pytest.raises(ToolDefinitionError) as caught:
        _ = ToolRegistry([forecast]) + other

    text = str(caught.value)
    assert f"{__name__}.forecast and " in text
    assert "names_both.<locals>.other_forecast have it" in text
    assert (caught.value.tool, caught.value.path) == ("forecast", "name")


def test_tool_that_is_given_twice_is_named_once() -> None:
    with pytest.raises(ToolDefinitionError, match=r"is taken: \S+\.forecast is given twice"):
        ToolRegistry([forecast, forecast])


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("name", 5),
        ("description", 5),
        ("sequential", "no"),
        ("strict", "no"),
        ("idempotent", 1),
        ("approve", "no"),
        ("approve", approve_later),
        ("max_result_characters", True),
    ],
)
def test_option_of_another_type_is_refused(option: str, value: Any) -> None:
    options: dict[str, Any] = {"name": "look_up", option: value}

    with pytest.raises(ToolDefinitionError) as caught:
        ToolRegistry([Tool(function=RAW.function, **options)])

    assert caught.value.path == option


@pytest.mark.parametrize("properties", [None, 0, True, "", "word", ["word"]])
def test_properties_that_are_no_object_are_refused(properties: Any) -> None:
    parameters = {"type": "object", "properties": properties}

    with pytest.raises(ToolDefinitionError) as caught:
        ToolRegistry([replace(RAW, parameters=parameters)])

    assert caught.value.path == "parameters/properties"


def test_schema_with_the_name_of_the_context_is_refused() -> None:
    def look(word: ToolContext) -> str:
        return word.key

    with pytest.raises(ToolDefinitionError) as caught:
        ToolRegistry([replace(RAW, function=look)])

    assert caught.value.path == "parameters/properties/word"


def test_same_tool_in_both_is_refused_too() -> None:
    registry = ToolRegistry([forecast])

    with pytest.raises(ToolDefinitionError, match="'forecast': name is taken"):
        _ = registry + registry


def test_sum_with_a_prefix_keeps_both() -> None:
    registry = ToolRegistry([forecast])

    assert names(registry + registry.prefixed("b_")) == ["forecast", "b_forecast"]


def test_sum_with_a_list_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="unsupported operand"):
        _ = ToolRegistry([forecast]) + (book,)  # type: ignore[operator]  # noqa: RUF005


# - nothing twice -


def test_composing_compiles_and_reads_nothing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = ToolRegistry([forecast, RAW])
    refuse_work = pytest.fail
    monkeypatch.setattr("pathors_agent.tools.tool.compile_schema", refuse_work)
    monkeypatch.setattr("pathors_agent.tools.tool.read_signature", refuse_work)
    monkeypatch.setattr("pathors_agent.tools.tool.find_context_parameter", refuse_work)

    composed = registry.prefixed("a_").filtered(lambda _: True) + registry

    for name in ("a_look_up", "look_up"):
        assert isinstance(composed.bind(call(name, '{"word": "x"}')), BoundCall)
