"""Arguments are read once and strictly: one JSON object, each name once."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel

from pathors_agent.schema.arguments import ArgumentProblem, ArgumentsRefused, parse_object, report
from pathors_agent.schema.bounds import quote
from pathors_agent.tools.tool import Tool


class Place(BaseModel):
    lat: float
    lon: float = 0


def plan(
    city: Any = None, url: str = "", place: Place | None = None, places: tuple[Place, ...] = ()
) -> None: ...


READERS = {
    "decorated": Tool.from_function(plan).arguments,
    "raw": Tool(name="raw", parameters={"type": "object"}, function=plan).arguments,
}


@pytest.fixture(params=["decorated", "raw"])
def read(request: pytest.FixtureRequest) -> Any:
    return READERS[request.param].read


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('{"city": 1, "city": 2}', "city"),
        ('{"city": 1, "city": 1}', "city"),
        ('{"city":1,"city":1}', "city"),
        ('{"city" :1,"city":1}', "city"),
        ('{"city"\n:1,"city"\t:1}', "city"),
        ('{"c\\u0069ty": 1, "city": 1}', "city"),
        ('{"url": "a:b", "city": 1, "city": "x:y"}', "city"),
        ('{"city": "\\u003a", "city": "\\u003a"}', "city"),
        ('{"city" : "\\":", "city": 1}', "city"),
        ('{"city": {"a": 1, "a": 2}}', "a"),
        ('{"city": [{"": 1, "": 2}]}', ""),
        ('{"place": {"lat": 1, "lat": 2}}', "lat"),
    ],
)
def test_name_twice_in_one_object_is_refused(read: Any, text: str, name: str) -> None:
    with pytest.raises(ArgumentsRefused) as caught:
        read(text)

    assert str(caught.value) == f'hold the name "{name}" twice in one object.'


@pytest.mark.parametrize(
    "text",
    [
        '{"city": "a:b:c", "url": "https://localhost:80/x?y=\\":"}',
        '{"url" : "10 : 30", "city" :\n": "}',
        '{"city": {"city": {"city": ":"}}}',
        '{"places": [{"lat": 1}, {"lat": 2}], "place": {"lat": 3, "lon": 4}}',
    ],
)
def test_name_in_several_objects_is_read(read: Any, text: str) -> None:
    assert read(text).keys() == json.loads(text).keys()


names = st.sampled_from(["a", "b", ":", '"', "\\", ""])
spaces = st.sampled_from(["", " ", "\n", "\t"])
texts = st.recursive(
    st.sampled_from(["1", "null", '":"', '"\\":"', '": "', '"\\u003a"', '"a:b"', '" :"']),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: f"[{','.join(items)}]"),
        st.lists(st.tuples(names, spaces, inner), max_size=3).map(
            lambda pairs: "{" + ",".join(f"{json.dumps(n)}{s}:{v}" for n, s, v in pairs) + "}"
        ),
    ),
    max_leaves=8,
)


def repeats_a_name(text: str) -> bool:
    repeated = False

    def count(pairs: list[tuple[str, Any]]) -> None:
        nonlocal repeated
        repeated |= len({name for name, _ in pairs}) < len(pairs)

    json.loads(text, object_pairs_hook=count)
    return repeated


@given(st.lists(st.tuples(names, spaces, texts), max_size=4))
@example([("a", " ", "1"), ("a", "", '":"')])
def test_names_are_refused_exactly_where_one_is_repeated(pairs: Any) -> None:
    text = "{" + ",".join(f"{json.dumps(n)}{s}:{v}" for n, s, v in pairs) + "}"

    try:
        value = parse_object(text)
    except ArgumentsRefused:
        assert repeats_a_name(text)
    else:
        assert not repeats_a_name(text)
        assert value == json.loads(text)


@pytest.mark.parametrize("text", ["[" * 10_000 + "]" * 10_000, '{"city": ' * 10_000, "[" * 10_000])
def test_deep_text_is_refused_in_words(read: Any, text: str) -> None:
    with pytest.raises(ArgumentsRefused) as caught:
        read(text)

    assert str(caught.value) == ("are nested too deeply; send fewer levels of arrays and objects.")


def test_number_that_is_too_large_is_refused() -> None:
    with pytest.raises(ArgumentsRefused, match="hold a number that is not finite"):
        READERS["raw"].read('{"city": 1e400}')


def test_same_place_is_one_line_with_one_example() -> None:
    problems = [
        ArgumentProblem("/a", "is missing, should be an object", example='{"x": 1}'),
        ArgumentProblem("/a", "is missing, should be an array", example="[1]"),
        ArgumentProblem("/b", "should be an integer", "null"),
        ArgumentProblem("/b", "should be a string", "null"),
        ArgumentProblem("/b", "should be an integer", "null"),
    ]

    assert report(problems) == (
        "do not fit its parameters:\n"
        '- /a: is missing, should be an object or an array; for example {"x": 1}\n'
        "- /b: should be an integer or a string, got null"
    )


def test_quotes_of_long_values_are_cut() -> None:
    value = {"a": [list(range(1_000_000))] * 3}

    assert quote(value) == '{"a":[[0,1,2,3,4,5,6,7,8,9,10,11,12,13,…'
