"""Results of tools have a longest length, and may have a schema."""

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from typing import Any

import pytest

from counting import work_of
from pathors_agent.errors import ToolDefinitionError
from pathors_agent.messages import ContentPart, ToolMessage
from pathors_agent.tools.registry import ToolRegistry
from pathors_agent.tools.tool import Tool
from result_types import IMAGE, Point, image_part, result_of, text_part

# - the cap


def test_text_within_the_cap_is_whole() -> None:
    assert result_of("x" * 20_000).content == "x" * 20_000
    assert result_of("x" * 10, max_result_characters=10).content == "x" * 10


def test_longer_text_is_cut_with_a_note() -> None:
    assert result_of("x" * 40_000).content == (
        "x" * 20_000 + "\n[cut: 20,000 of 40,000 characters shown]"
    )


def test_longer_json_is_cut_with_a_note() -> None:
    message = result_of(["abc", 1, True], max_result_characters=8)

    assert message.content == '["abc",1\n[cut: 8 of 14 characters shown]'
    assert message.outcome == "value"


def test_endless_json_is_not_written_out() -> None:
    message = result_of(range(10**12), max_result_characters=10)

    shown, note = message.text.split("\n")
    assert shown == "[0,1,2,3,4"
    assert re.fullmatch(r"\[cut: 10 of more than \d{3} characters shown\]", note)


def test_endless_mapping_is_not_written_out() -> None:
    class Squares(Mapping[int, int]):
        def __getitem__(self, key: int) -> int:
            return key * key

        def __iter__(self) -> Iterator[int]:
            return iter(range(10**12))

        def __len__(self) -> int:
            return 10**12

    assert result_of(Squares(), max_result_characters=11).text.startswith(
        '{"0":0,"1":\n[cut: 11 of'
    )


def test_set_too_big_to_be_sorted_is_cut() -> None:
    assert result_of(set(range(10_000)), max_result_characters=10).text.startswith("[0,1,2,3,4\n[")


@pytest.mark.parametrize(
    "make",
    [
        lambda text: text,
        lambda text: [text],
        lambda text: {text: 1},
        lambda text: Point(x=1, y=text),
        lambda text: text.encode(),
        lambda text: [text.encode()],
        lambda text: [text_part(text)],
        lambda text: [text, IMAGE],
    ],
)
def test_text_of_megabytes_is_not_written_whole(make: Callable[[str], object]) -> None:
    value = make("x" * 8_000_000)
    messages = []

    work = work_of(lambda: messages.append(result_of(value)))

    assert "characters shown]" in messages[0].text
    assert work.allocated < 4_000_000


def test_cut_is_never_inside_of_a_character() -> None:
    halves = "\ud83d\ude00" * 30  # pairs, each joined into one character

    assert result_of(halves, max_result_characters=30).content == "😀" * 30
    assert result_of(halves[:-1], max_result_characters=3).content == (
        "😀😀😀\n[cut: 3 of 59 characters shown]"
    )
    assert result_of("é" * 4, max_result_characters=3).content == (
        "ééé\n[cut: 3 of 4 characters shown]"
    )


def test_text_parts_share_the_cap_and_others_are_kept() -> None:
    message = result_of(
        [text_part("abcd"), IMAGE, text_part("efgh"), text_part("ijkl")], max_result_characters=6
    )

    assert message.content == (
        text_part("abcd"),
        IMAGE,
        text_part("ef"),
        text_part("[cut: 6 of 12 characters shown]"),
    )


def test_fields_of_a_text_part_that_is_cut_are_kept() -> None:
    part = ContentPart.model_validate({"type": "text", "text": "abcd", "cache_control": {"a": 1}})

    message = result_of(part, max_result_characters=3)

    assert message.content == (
        part.model_copy(update={"text": "abc"}),
        text_part("[cut: 3 of 4 characters shown]"),
    )


def test_values_next_to_parts_are_written_as_text_parts() -> None:
    message = result_of(["Seen:", IMAGE, {"width": 640}, None])

    assert message.content == (
        text_part("Seen:"),
        IMAGE,
        text_part('{"width":640}'),
        text_part("done (no value)"),
    )


def test_image_of_20_megabytes_is_left_out_in_words() -> None:
    message = result_of([image_part("x" * 20_000_000), IMAGE])

    assert message.content == (
        text_part("[left out: image_url, too large; a result holds 10,000,000 characters]"),
        IMAGE,
    )


def test_images_share_their_room() -> None:
    message = result_of([image_part("x" * 4_000_000)] * 3)

    assert [part.type for part in message.content] == ["image_url", "image_url", "text"]  # type: ignore[union-attr]


@pytest.mark.parametrize("characters", [0, -1, "many", None])
def test_cap_that_is_no_length_is_refused_at_registration(characters: Any) -> None:
    with pytest.raises(ToolDefinitionError, match="max_result_characters should be") as caught:
        ToolRegistry([Tool(name="look", max_result_characters=characters)])

    assert (caught.value.tool, caught.value.path) == ("look", "max_result_characters")


# - the schema of the value

WEATHER = {
    "type": "object",
    "properties": {"celsius": {"type": "number"}, "sky": {"enum": ["clear", "grey"]}},
    "required": ["celsius"],
}


@pytest.mark.parametrize(
    ("schema", "value", "content"),
    [
        (WEATHER, {"celsius": 3}, '{"celsius":3}'),
        (WEATHER, {"celsius": 3.5, "sky": "grey"}, '{"celsius":3.5,"sky":"grey"}'),
        ({"type": "string"}, "text", "text"),
        ({"type": "string"}, date(2024, 2, 29), "2024-02-29"),
        ({"type": "null"}, None, "done (no value)"),
        ({"type": "array", "maxItems": 2}, (1, 2), "[1,2]"),
    ],
)
def test_value_that_fits_is_read_as_ever(schema: Any, value: object, content: str) -> None:
    message = result_of(value, returns=schema)

    assert message == ToolMessage(tool_call_id="call_1", content=content)


@pytest.mark.parametrize(
    ("schema", "value", "words"),
    [
        (WEATHER, {}, "/celsius is missing, should be a number"),
        (WEATHER, {"celsius": "hidden"}, "/celsius should be a number"),
        (
            WEATHER,
            {"celsius": "hidden", "sky": "hidden"},
            '/celsius should be a number; /sky should be "clear" or "grey"',
        ),
        ({"type": "object"}, "hidden", "all should be an object"),
        ({"type": "object"}, None, "all should be an object"),
        (
            {"type": "array", "items": {"type": "integer"}},
            ["hidden"] * 9,
            "/0 should be an integer; /1 should be an integer; /2 should be an integer",
        ),
    ],
)
def test_value_that_does_not_fit_is_reported_without_its_text(
    schema: Any, value: object, words: str
) -> None:
    message = result_of(value, returns=schema)

    assert message.content == f"look ran, but returned something unexpected: {words}."
    assert message.outcome == "error"


def test_value_too_long_to_be_checked_is_refused() -> None:
    message = result_of(range(10**12), returns={"type": "array"}, max_result_characters=10)

    assert message.content == (
        "look ran, but returned more than 100 characters. That is too long to be checked."
    )


def test_parts_are_refused_where_json_is_promised() -> None:
    message = result_of([IMAGE], returns={"type": "array"})

    assert message.content == ("look ran, but returned content parts. Its `returns` promises JSON.")


def test_fitting_value_that_is_long_is_checked_whole_and_then_cut() -> None:
    message = result_of(["a"] * 9, returns={"type": "array"}, max_result_characters=5)

    assert message.content == '["a",\n[cut: 5 of 37 characters shown]'


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"type": "objekt"}, "returns/type"),
        ({"properties": {"a": {"minimum": "3"}}}, "returns/properties/a/minimum"),
        ({"$ref": "https://example.com/schema"}, "returns/$ref"),
    ],
)
def test_schema_of_the_value_is_checked_at_registration(schema: Any, path: str) -> None:
    with pytest.raises(ToolDefinitionError) as caught:
        ToolRegistry([Tool(name="look", returns=schema)])

    assert (caught.value.tool, caught.value.path) == ("look", path)
