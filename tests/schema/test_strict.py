"""The closed form of a schema: what it is, what has none, and arguments that are written in it."""

import json
from dataclasses import dataclass
from datetime import date
from enum import Enum
from typing import Annotated, Any, Literal, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import BaseModel, Field

from pathors_agent.errors import ToolDefinitionError
from pathors_agent.messages import ToolCall, ToolMessage
from pathors_agent.schema.strict import close_schema
from pathors_agent.tools.registry import BoundCall, ToolRegistry
from pathors_agent.tools.tool import Tool, as_tool, tool


def an_object(*required: str, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required)}


def closed_object(**properties: Any) -> dict[str, Any]:
    names = {"required": list(properties), "additionalProperties": False}
    return {"type": "object", "properties": properties} | names


STRING = {"type": "string"}
INTEGER = {"type": "integer"}
NULL = {"type": "null"}
LEFT_OUT = {"description": "(null: left out)"}


# - what it is


def test_definition_of_a_strict_tool_has_strict_and_the_closed_schema() -> None:
    look = Tool(name="look", description="Look.", parameters=an_object(city=STRING), strict=True)

    assert look.definition == {
        "type": "function",
        "function": {
            "name": "look",
            "description": "Look.",
            "strict": True,
            "parameters": closed_object(city=LEFT_OUT | {"type": ["string", "null"]}),
        },
    }
    assert ToolRegistry([look]).definitions() == [look.definition]


def test_definition_of_another_tool_is_as_ever() -> None:
    schema = an_object(city=STRING)

    assert Tool(name="look", parameters=schema).definition == {
        "type": "function",
        "function": {"name": "look", "parameters": schema},
    }


# What a property is, and what it is in the closed form when it is required.
REQUIRED = [
    (STRING, STRING),
    (INTEGER | {"minimum": 1, "exclusiveMaximum": 9, "multipleOf": 2},) * 2,
    (STRING | {"format": "date"},) * 2,
    (STRING | {"pattern": "^a"},) * 2,
    (STRING | {"title": "City", "$comment": "?", "deprecated": True}, STRING),
    ({"type": ["string", "null"]},) * 2,
    ({"enum": ["a", 1, None]}, {"type": ["string", "integer", "null"], "enum": ["a", 1, None]}),
    ({"const": 1.5}, {"type": "number", "const": 1.5}),
    ({"type": "array", "items": INTEGER, "minItems": 1, "maxItems": 3},) * 2,
    ({"items": INTEGER}, {"type": "array", "items": INTEGER}),
    ({"anyOf": [STRING, NULL]},) * 2,
    (an_object("a", a=STRING), closed_object(a=STRING)),
    ({"properties": {}}, closed_object()),
    (an_object(a=INTEGER), closed_object(a=LEFT_OUT | {"type": ["integer", "null"]})),
    (
        STRING | {"description": "The city.", "minLength": 2, "default": "Oslo"},
        STRING | {"description": 'The city. (default: "Oslo"; minLength: 2)'},
    ),
    (
        STRING | {"format": "uri", "examples": ["a:b"]},
        STRING | {"description": '(examples: ["a:b"]; format: "uri")'},
    ),
    (STRING | {"pattern": "^(?!a)"}, STRING | {"description": '(pattern: "^(?!a)")'}),
    (
        {"type": "array", "items": STRING, "uniqueItems": True},
        {"type": "array", "items": STRING, "description": "(uniqueItems: true)"},
    ),
    (
        {
            "oneOf": [
                an_object("kind", "x", kind={"const": "a"}, x=STRING),
                an_object("kind", "x", kind={"const": "b"}, x=STRING),
            ],
            "discriminator": {"propertyName": "kind"},
        },
        {
            "anyOf": [
                closed_object(kind={"type": "string", "const": "a"}, x=STRING),
                closed_object(kind={"type": "string", "const": "b"}, x=STRING),
            ]
        },
    ),
]


@pytest.mark.parametrize(("schema", "closed"), REQUIRED)
def test_required_property_is_closed(schema: dict[str, Any], closed: dict[str, Any]) -> None:
    assert close_schema(an_object("a", a=schema)) == closed_object(a=closed)


@pytest.mark.parametrize(
    ("schema", "closed"),
    [
        (STRING, LEFT_OUT | {"type": ["string", "null"]}),
        (
            {"type": "boolean", "default": True},
            {"type": ["boolean", "null"], "description": "(default: true; null: left out)"},
        ),
        (
            STRING | {"enum": ["C", "F"], "description": "The unit."},
            {
                "description": "The unit. (null: left out)",
                "anyOf": [{"type": "string", "enum": ["C", "F"]}, NULL],
            },
        ),
        (
            {"type": "array", "items": STRING},
            LEFT_OUT | {"anyOf": [{"type": "array", "items": STRING}, NULL]},
        ),
        (an_object("b", b=STRING), LEFT_OUT | {"anyOf": [closed_object(b=STRING), NULL]}),
        ({"anyOf": [STRING, INTEGER]}, LEFT_OUT | {"anyOf": [STRING, INTEGER, NULL]}),
        (
            {"type": ["string", "integer"]},
            LEFT_OUT | {"anyOf": [{"type": ["string", "integer"]}, NULL]},
        ),
        # these take null anyhow
        ({"type": ["string", "null"]}, {"type": ["string", "null"]}),
        ({"anyOf": [STRING, NULL], "default": None}, {"anyOf": [STRING, NULL]}),
        ({"enum": ["a", None]}, {"type": ["string", "null"], "enum": ["a", None]}),
        # this has one value only
        ({"const": "a"}, {"type": "string", "const": "a"}),
    ],
)
def test_property_that_may_be_left_out_takes_null(
    schema: dict[str, Any], closed: dict[str, Any]
) -> None:
    assert close_schema(an_object(a=schema)) == closed_object(a=closed)


def test_definitions_that_are_used_are_closed_and_others_left_out() -> None:
    schema = an_object("at", at={"$ref": "#/definitions/Place", "description": "Where."})
    places = {"Place": an_object("city", city=STRING), "Other": {"allOf": []}}

    assert close_schema(schema | {"definitions": places}) == closed_object(
        at={"description": "Where.", "anyOf": [{"$ref": "#/$defs/Place"}]}
    ) | {"$defs": {"Place": closed_object(city=STRING)}}


def test_schema_inside_of_itself_is_closed() -> None:
    schema = an_object("next", next={"anyOf": [{"$ref": "#"}, {"$ref": "#/$defs/Leaf"}]})
    leaf = an_object(
        "value", "more", value=STRING, more={"type": "array", "items": {"$ref": "#/$defs/Leaf"}}
    )

    assert close_schema(schema | {"$defs": {"Leaf": leaf}}) == closed_object(
        next={"anyOf": [{"$ref": "#"}, {"$ref": "#/$defs/Leaf"}]}
    ) | {
        "$defs": {
            "Leaf": closed_object(
                value=STRING, more={"type": "array", "items": {"$ref": "#/$defs/Leaf"}}
            )
        }
    }


def test_schema_is_left_as_it_was() -> None:
    schema = an_object(a=an_object(b=STRING))
    before = json.dumps(schema)

    close_schema(schema)

    assert json.dumps(schema) == before


# - what has none


def nested(levels: int) -> dict[str, Any]:
    schema = an_object("a", a=STRING)
    for _ in range(levels - 1):
        schema = an_object("a", a=schema)
    return schema


OPEN = "must be false with strict=True"
NO_FORM = "is not supported with strict=True"
NO_TYPE = "must have a type with strict=True"
SAME = "has two objects with the same properties and no const to distinguish them with strict=True"
UNNAMED = "must have properties with strict=True"
REFERENCE = "must be # or refer to one of the $defs with strict=True"

REFUSED = [
    ({"type": "object", "additionalProperties": True}, "/additionalProperties", OPEN),
    ({"type": "object", "additionalProperties": STRING}, "/additionalProperties", OPEN),
    (an_object() | {"additionalProperties": {}}, "/additionalProperties", OPEN),
    ({"type": "object"}, "", UNNAMED),
    (an_object("b", a=STRING), "/required", "names an unknown property with strict=True"),
    ({}, "", NO_TYPE),
    ({"description": "Anything."}, "", NO_TYPE),
    (True, "", "must define a value with strict=True"),
    ({"type": "array"}, "/items", "must define a value with strict=True"),
    ({"type": "array", "items": {}}, "/items", NO_TYPE),
    ({"type": "array", "prefixItems": [STRING], "items": False}, "/prefixItems", NO_FORM),
    ({"type": "array", "items": STRING, "contains": {"const": "a"}}, "/contains", NO_FORM),
    (an_object() | {"patternProperties": {"^a": STRING}}, "/patternProperties", NO_FORM),
    (an_object() | {"propertyNames": STRING}, "/propertyNames", NO_FORM),
    (an_object() | {"unevaluatedProperties": False}, "/unevaluatedProperties", NO_FORM),
    (an_object() | {"dependentRequired": {"a": ["b"]}}, "/dependentRequired", NO_FORM),
    (an_object() | {"dependentSchemas": {}}, "/dependentSchemas", NO_FORM),
    ({"allOf": [STRING]}, "/allOf", NO_FORM),
    (STRING | {"not": {"const": "a"}}, "/not", NO_FORM),
    (STRING | {"if": {}, "then": {}}, "/if", NO_FORM),
    ({"oneOf": [STRING, INTEGER]}, "/oneOf", "must be anyOf with strict=True"),
    (an_object() | {"anyOf": [STRING]}, "/type", "is not supported beside anyOf with strict=True"),
    (
        {"$ref": "#/$defs/City", "enum": ["a"]},
        "/enum",
        "is not supported beside $ref with strict=True",
    ),
    ({"anyOf": [STRING, {}]}, "/anyOf/1", NO_TYPE),
    ({"anyOf": [an_object("x", x=STRING), an_object("x", x=INTEGER)]}, "/anyOf", SAME),
    ({"anyOf": [an_object(x={"const": 1}), an_object(x={"enum": [1, 2]})]}, "/anyOf", SAME),
    ({"$ref": "#/properties/b"}, "/$ref", REFERENCE),
    (
        {"enum": [f"{number:064}" for number in range(251)]},
        "/enum",
        "has more than 15,000 characters with strict=True",
    ),
]


@pytest.mark.parametrize(("schema", "path", "words"), REFUSED)
def test_schema_without_a_closed_form_is_refused_with_its_path(
    schema: Any, path: str, words: str
) -> None:
    parameters = an_object("a", a=schema, b=STRING) | {"$defs": {"City": STRING}}
    path = f"parameters/properties/a{path}"

    with pytest.raises(ToolDefinitionError) as caught:
        ToolRegistry([Tool(name="look", parameters=parameters, strict=True)])

    assert (caught.value.tool, caught.value.path) == ("look", path)
    assert str(caught.value) == f"tool 'look': {path} {words}"


@pytest.mark.parametrize(
    ("parameters", "path", "words"),
    [
        ({"type": "object"}, "parameters", UNNAMED),
        (
            {"type": "object", "anyOf": [an_object()]},
            "parameters/type",
            "is not supported beside anyOf with strict=True",
        ),
        (
            an_object(a={"$ref": "#/$defs/Bag"}) | {"$defs": {"Bag": {"type": "object"}}},
            "parameters/$defs/Bag",
            UNNAMED,
        ),
        (nested(11), "parameters", "nests objects in more than 10 levels with strict=True"),
        (
            an_object(a={"enum": list(range(1_001))}),
            "parameters",
            "has more than 1,000 values of enums with strict=True",
        ),
        (
            an_object(**{f"{number:0600}": STRING for number in range(201)}),
            "parameters",
            "has more than 120,000 characters of names and values with strict=True",
        ),
    ],
)
def test_whole_that_has_no_closed_form_is_refused(
    parameters: dict[str, Any], path: str, words: str
) -> None:
    with pytest.raises(ToolDefinitionError) as caught:
        ToolRegistry([Tool(name="look", parameters=parameters, strict=True)])

    assert caught.value.path == path
    assert str(caught.value) == f"tool 'look': {path} {words}"


def test_ten_levels_have_a_closed_form() -> None:
    assert close_schema(nested(10))["type"] == "object"


def test_levels_of_definitions_count() -> None:
    definitions = {f"L{n}": an_object("a", a={"$ref": f"#/$defs/L{n + 1}"}) for n in range(10)}
    definitions["L10"] = STRING
    root = an_object("a", a={"$ref": "#/$defs/L0"}) | {"$defs": definitions}

    with pytest.raises(ValueError, match="more than 10 levels"):
        close_schema(root)


def test_unions_of_unions_are_read_once() -> None:
    ways: dict[str, Any] = {
        f"U{n}": {"anyOf": [{"$ref": f"#/$defs/U{n + 1}"}, {"$ref": f"#/$defs/U{n + 1}"}]}
        for n in range(40)
    }
    ways["U40"] = STRING

    close_schema(an_object(a={"$ref": "#/$defs/U0"}) | {"$defs": ways})  # 2 to the 40th ways


@pytest.mark.parametrize("annotation", [dict[str, int], Any, tuple[int, str], dict, list, object])
def test_type_of_a_function_that_has_no_closed_form_is_refused(annotation: Any) -> None:
    def look(city: str, more: Any) -> None: ...

    look.__annotations__["more"] = annotation

    with pytest.raises(ToolDefinitionError) as caught:
        ToolRegistry([Tool.from_function(look, strict=True)])

    assert caught.value.path.startswith("parameters/properties/more")
    assert ToolRegistry([Tool.from_function(look)])


# - arguments that are written in it


class Unit(Enum):
    CELSIUS = "C"
    FAHRENHEIT = "F"


@dataclass
class Span:
    since: date
    until: date | None = None
    days: int = 7


class Circle(BaseModel):
    kind: Literal["circle"] = "circle"
    radius: float = 1.0


class Square(BaseModel):
    kind: Literal["square"] = "square"
    side: float = 2.0
    inner: "list[Circle | Square]" = []


BIG = Circle(radius=3.0)


@tool(strict=True)
def draw(
    city: str,
    unit: Unit = Unit.CELSIUS,
    limit: int | None = 10,
    span: Span | None = None,
    shape: Annotated[Circle | Square, Field(discriminator="kind")] = BIG,
    tags: tuple[str, ...] = ("a",),
) -> None:
    """Draw."""


def bound(item: Any, **arguments: Any) -> dict[str, Any]:
    call = ToolCall(id="c", name="draw", arguments=json.dumps(arguments))
    result = ToolRegistry([item]).bind(call)
    assert isinstance(result, BoundCall), result.text
    return result.kwargs


@pytest.mark.parametrize(
    ("optional", "read"),
    [
        ({"unit": None, "limit": 3, "span": None, "tags": None}, {"limit": 3, "span": None}),
        ({"limit": None}, {"limit": None}),
        ({}, {}),
    ],
    ids=["null for a default", "null that is accepted", "left out"],
)
def test_null_for_an_optional_parameter_uses_its_default(
    optional: dict[str, Any], read: dict[str, Any]
) -> None:
    assert bound(draw, city="Oslo", **optional) == {"city": "Oslo", **read}


def test_null_is_left_out_inside_of_models_unions_and_lists() -> None:
    inner = [{"kind": "circle", "radius": None}, {"kind": "square", "side": 1, "inner": None}]

    kwargs = bound(
        draw,
        city="Oslo",
        span={"since": "2024-02-29", "until": None, "days": None},
        shape={"kind": "square", "side": None, "inner": inner},
    )

    assert kwargs["span"] == Span(since=date(2024, 2, 29), until=None, days=7)
    assert kwargs["shape"] == Square(side=2.0, inner=[Circle(radius=1.0), Square(side=1)])


def test_null_of_a_required_parameter_is_refused() -> None:
    registry = ToolRegistry([draw])

    refusal = registry.bind(ToolCall(id="c", name="draw", arguments='{"city": null}'))

    assert isinstance(refusal, ToolMessage)
    assert refusal.content == (
        "The arguments of draw do not fit its parameters:\n- /city: should be a valid string,"
        " got null"
    )


def test_raw_tool_gets_its_arguments_without_the_nulls() -> None:
    schema = an_object("a", a=STRING, b=INTEGER, c={"type": ["integer", "null"]})
    raw = Tool(name="draw", parameters=schema, function=print, strict=True)

    assert bound(raw, a="null", b=None, c=None) == {"a": "null", "c": None}


def test_tool_that_is_not_strict_takes_no_null_for_left_out() -> None:
    raw = Tool(name="draw", parameters=an_object(b=INTEGER), function=print)

    refusal = ToolRegistry([raw]).bind(ToolCall(id="c", name="draw", arguments='{"b": null}'))

    assert isinstance(refusal, ToolMessage)


def test_duplicate_name_is_refused_even_with_a_null() -> None:
    call = ToolCall(id="c", name="draw", arguments='{"city":"a","city":"b","unit":null}')

    refusal = ToolRegistry([draw]).bind(call)

    assert isinstance(refusal, ToolMessage)
    assert "twice" in refusal.text


# - whatever fits the closed form can be bound

NAMES = st.sampled_from("abcd")
SCALARS = st.sampled_from(
    [
        STRING,
        INTEGER,
        {"type": "boolean"},
        {"type": ["string", "null"]},
        {"enum": ["x", 1, None]},
        {"enum": ["x", "y"]},
        {"const": "z"},
        {"anyOf": [STRING, INTEGER]},
        {"anyOf": [{"$ref": "#/$defs/Tree"}, STRING]},
        {"$ref": "#/$defs/Tree"},
    ]
)
TREE = an_object("value", value=INTEGER, more={"type": "array", "items": {"$ref": "#/$defs/Tree"}})


@st.composite
def objects(draw: st.DrawFn, inner: st.SearchStrategy[Any], kind: str = "") -> dict[str, Any]:
    properties = draw(st.dictionaries(NAMES, inner, max_size=3))
    if kind:
        properties["kind"] = {"const": kind}
    required = [name for name in properties if draw(st.booleans())]
    return an_object(*required, **properties)


def unions(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    members = st.tuples(objects(inner, "one"), objects(inner, "two"), st.just(NULL) | SCALARS)
    return members.map(lambda members: {"anyOf": list(members)})


def grown(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    arrays = inner.map(lambda items: {"type": "array", "items": items, "maxItems": 3})
    return objects(inner) | arrays | unions(inner)


SCHEMAS = objects(st.recursive(SCALARS, grown, max_leaves=6))


def fitting(schema: Any, definitions: dict[str, Any], depth: int = 6) -> st.SearchStrategy[Any]:
    """Return a strategy for values that fit a closed schema."""

    def inside(part: Any) -> st.SearchStrategy[Any]:
        return st.deferred(lambda: fitting(part, definitions, depth - 1))

    if "$ref" in schema:
        return inside(definitions[schema["$ref"].removeprefix("#/$defs/")])
    if "anyOf" in schema:
        return st.one_of(list(map(inside, schema["anyOf"])))
    if "const" in schema or "enum" in schema:
        return st.sampled_from(schema.get("enum", [schema.get("const")]))
    kind = schema["type"]
    if kind == "object":
        properties = {name: inside(part) for name, part in schema["properties"].items()}
        return st.fixed_dictionaries(properties)
    if kind == "array":
        return st.lists(inside(schema["items"]), max_size=2 if depth > 0 else 0)
    kinds = [kind] if isinstance(kind, str) else kind
    return st.one_of([SCALAR_VALUES[kind] for kind in kinds])


SCALAR_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "string": st.text(max_size=3),
    "integer": st.integers(-9, 9),
    "number": st.integers(0, 9),
    "boolean": st.booleans(),
    "null": st.none(),
}


@given(SCHEMAS, st.data())
def test_arguments_that_fit_the_closed_schema_can_be_bound(
    schema: dict[str, Any], data: st.DataObject
) -> None:
    schema["$defs"] = {"Tree": TREE}
    try:
        closed = close_schema(schema)
    except ValueError as error:
        assert "same names" in str(error)  # two objects of one union  # noqa: PT017
        return
    arguments = data.draw(fitting(closed, closed.get("$defs", {})))
    Draft202012Validator.check_schema(closed)
    Draft202012Validator(closed).validate(arguments)

    kwargs = bound(Tool(name="draw", parameters=schema, function=print, strict=True), **arguments)

    Draft202012Validator(schema).validate(kwargs)
    kept = {name for name, value in arguments.items() if value is not None}
    assert kept <= kwargs.keys() <= arguments.keys()


@given(st.data())
def test_arguments_that_fit_the_closed_schema_of_a_function_can_be_bound(
    data: st.DataObject,
) -> None:
    parameters = Tool.from_function(draw, strict=True).sent_parameters
    # Its dates are texts of one format, which `fitting` does not write.
    schema = {**parameters, "properties": parameters["properties"] | {"span": NULL}}
    arguments = data.draw(fitting(schema, parameters["$defs"]))

    assert bound(draw, **arguments)["city"] == arguments["city"]


# - named tuples


class Size(NamedTuple):
    width: int
    height: int = 1


class Crate(NamedTuple):
    sizes: list[Size]
    label: str | None = None


def test_named_tuple_is_an_object_and_both_its_forms_are_read() -> None:
    @tool(strict=True)
    def pack(crate: Crate, spare: Crate | None = None) -> None: ...

    made = as_tool(pack)
    size = made.sent_parameters["$defs"]["Size"]

    assert size["anyOf"] == [
        closed_object(
            width=INTEGER,
            height={"description": "(default: 1; null: left out)", "type": ["integer", "null"]},
        )
    ]
    read = made.arguments.read
    closed = '{"crate": {"sizes": [{"width": 2, "height": null}], "label": null}, "spare": null}'
    assert read(closed) == {"crate": Crate([Size(2, 1)], None), "spare": None}
    assert read('{"crate": [[[2, 3]]]}') == {"crate": Crate([Size(2, 3)], None)}


def test_tuple_without_names_is_refused_with_its_parameter() -> None:
    @tool(strict=True)
    def pack(size: tuple[int, str]) -> None: ...

    with pytest.raises(ToolDefinitionError, match="parameters/properties/size/prefixItems is not"):
        ToolRegistry([pack])
