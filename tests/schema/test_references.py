"""References lead to places in the same schema, and to an end."""

from typing import Any

import pytest

from pathors_agent.schema.compiled import InvalidSchema, compile_schema
from pathors_agent.schema.references import MAX_CHAIN, MAX_WEIGHT, foreign_schema

DRAFT_7 = {"$schema": "http://json-schema.org/draft-07/schema#"}


def refused(schema: Any) -> tuple[str, str]:
    with pytest.raises(InvalidSchema) as caught:
        compile_schema(schema)
    return caught.value.path, str(caught.value)


def fits(schema: Any, value: Any) -> bool:
    return not compile_schema(schema).problems(value)


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"$ref": "#"}, ""),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, "$defs/a"),
        ({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}, "$defs/a"),
        ({"properties": {"x": {"anyOf": [{"$ref": "#/properties/x"}]}}}, "properties/x"),
        ({"not": {"$ref": "#"}}, ""),
        ({"if": {"$ref": "#"}}, ""),
        ({"if": True, "then": {"$ref": "#"}}, ""),
        ({"dependentSchemas": {"a": {"$ref": "#"}}}, ""),
        ({"dependencies": {"a": {"$ref": "#"}}}, ""),
        ({"$id": "http://localhost/a", "allOf": [{"$ref": "a"}]}, ""),
        ({"$dynamicAnchor": "x", "oneOf": [{"$dynamicRef": "#x"}]}, ""),
        (
            DRAFT_7 | {"definitions": {"a": {"allOf": [{"$ref": "#"}]}}, "$ref": "#/definitions/a"},
            "",
        ),
        ({"enum": [{"not": {"$ref": "#/enum/0"}}], "$ref": "#/enum/0"}, "$ref"),
    ],
)
def test_endless_references_are_refused(schema: Any, path: str) -> None:
    assert refused(schema) == (path, "refers to itself endlessly")


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": {"$ref": "#"}}},
        {"items": {"$ref": "#"}},
        {"contains": {"$ref": "#"}, "minContains": 0},
        {"propertyNames": {"$ref": "#"}},
        {"unevaluatedItems": {"$ref": "#"}},
        {"additionalProperties": {"anyOf": [{"type": "integer"}, {"$ref": "#"}]}},
        DRAFT_7 | {"items": [{"$ref": "#"}], "additionalItems": {"$ref": "#"}},
    ],
)
def test_references_to_smaller_values_end(schema: Any) -> None:
    value: Any = {"a": {"a": {}}}

    assert fits(schema, value)
    assert fits(schema, [[[]]])


def test_chain_of_references_has_a_bound() -> None:
    def chain(length: int) -> dict[str, Any]:
        links = {f"d{n}": {"$ref": f"#/$defs/d{n - 1}"} for n in range(1, length)}
        return {"$ref": f"#/$defs/d{length - 1}", "$defs": {"d0": {"type": "string"}} | links}

    assert fits(chain(MAX_CHAIN - 1), "x")
    assert not fits(chain(MAX_CHAIN - 1), 1)
    assert refused(chain(3_000)) == ("", "applies more than 50 levels of schemas to one value")


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"$ref": "http://127.0.0.1:9/x.json"}, "$ref"),
        ({"$ref": "https://a:b@example.invalid/x.json"}, "$ref"),
        ({"$ref": "file:///etc/passwd"}, "$ref"),
        ({"$ref": "https://json-schema.org/draft/2020-12/schema"}, "$ref"),
        ({"$ref": "http://["}, "$ref"),
        ({"$ref": "#/$defs/a~2"}, "$ref"),
        ({"a": 5, "$ref": "#/a/b"}, "$ref"),
        ({"enum": [1], "$ref": "#/enum/x"}, "$ref"),
        ({"enum": [1], "$ref": "#/enum/7"}, "$ref"),
        ({"$id": "http://localhost/a", "items": {"$ref": "b"}}, "items/$ref"),
        ({"$dynamicRef": "#none"}, "$dynamicRef"),
    ],
)
def test_references_to_elsewhere_are_refused(schema: Any, path: str) -> None:
    where, text = refused(schema)

    assert where == path
    assert text.startswith("points to ")
    assert text.endswith(", which is not in this schema")


def test_reference_to_a_value_that_is_not_a_schema_is_refused() -> None:
    schema = {"x": {"a": {"type": 5}}, "items": {"$ref": "#/x/a"}}
    path, text = refused(schema)

    assert path == "items/$ref/type"
    assert text.endswith("is the number 5")


def test_reference_to_a_schema_in_an_unknown_place_is_followed() -> None:
    schema = {"components": {"a": {"pattern": "^a"}}, "$ref": "#/components/a"}

    assert fits(schema, "ab")
    assert not fits(schema, "ba")


def test_dynamic_reference_with_one_meaning_is_followed() -> None:
    schema = {
        "$dynamicAnchor": "tree",
        "type": "object",
        "properties": {"children": {"items": {"$dynamicRef": "#tree"}}},
    }

    assert fits(schema, {"children": [{"children": []}]})
    assert not fits(schema, {"children": [{"children": [5]}]})


def test_dynamic_reference_with_two_meanings_is_refused() -> None:
    inner = {"$id": "inner", "$dynamicAnchor": "x"}
    schema = {"$dynamicAnchor": "x", "items": {"$dynamicRef": "#x"}, "$defs": {"a": inner}}

    assert refused(schema) == (
        "items/$dynamicRef",
        "is ambiguous: several schemas have this $dynamicAnchor",
    )


@pytest.mark.parametrize(
    "named",
    [
        "http://json-schema.org/draft-07/schema#",
        "http://json-schema.org/draft-07/schema",
        "https://json-schema.org/draft-07/schema#",
    ],
)
def test_draft_7_is_read_as_draft_7(named: str) -> None:
    schema = {
        "$schema": named,
        "items": [{"type": "string"}, False],
        "dependencies": {"a": ["b"]},
        "properties": {"c": {"$ref": "#/definitions/n", "maximum": 1}},
        "definitions": {"n": {"type": "integer"}},
    }

    assert fits(schema, ["x"])
    assert not fits(schema, [1])
    assert not fits(schema, ["x", "y"])
    assert not fits(schema, {"a": 1})
    assert fits(schema, {"c": 5})  # siblings of a `$ref` say nothing


@pytest.mark.parametrize(
    ("schema", "problems"),
    [
        ({"$ref": "#/definitions/list", "maxItems": 1}, 1),
        (DRAFT_7 | {"$ref": "#/definitions/list", "maxItems": 1}, 0),
    ],
    ids=["no $schema: 2020-12", "draft 7"],
)
def test_keywords_next_to_a_reference_count_unless_the_schema_names_draft_7(
    schema: dict[str, Any], problems: int
) -> None:
    validator = compile_schema(schema | {"definitions": {"list": {"type": "array"}}})

    assert len(validator.problems([1, 2])) == problems


def test_lists_of_items_are_refused_in_draft_2020_12() -> None:
    path, _ = refused({"items": [{"type": "string"}]})

    assert path == "items"


@pytest.mark.parametrize(
    "named",
    ["http://json-schema.org/draft-04/schema#", "http://127.0.0.1:9/meta.json", "", None, 5, []],
)
def test_other_drafts_are_refused(named: Any) -> None:
    path, text = refused({"$schema": named})

    assert path == "$schema"
    assert text.endswith("drafts 2020-12 and 7 can be checked here")


def test_part_in_another_draft_is_refused() -> None:
    path, _ = refused({"$schema": "https://json-schema.org/draft/2020-12/schema", "not": DRAFT_7})

    assert path == "not/$schema"


def test_part_that_names_its_draft_is_checked_within_the_same_bounds() -> None:
    named = "https://json-schema.org/draft/2020-12/schema"
    schema = {"$schema": named, "items": {"$schema": named, "$id": "x", "pattern": r"^\d$"}}

    assert not fits(schema, ["٣"])  # jsonschema's own classes would search with Python's `re`


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"$id": "http://["}, "$id"),
        ({"properties": {"a": {"pattern": "(?=x)"}}}, "properties/a/pattern"),
        ({"patternProperties": {"(": {}}}, "patternProperties/("),
        ({"allOf": [{"pattern": f"a{n}"} for n in range(500)]}, "allOf/372/pattern"),
    ],
)
def test_refusal_names_the_place(schema: Any, path: str) -> None:
    assert refused(schema)[0] == path


# - schemas that other programs wrote -

# As zod writes them: of an e-mail address, and of a time with an offset that is written twice.
EMAIL = r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$"
TWICE = r"^(a|b)\1$"


@pytest.mark.parametrize("pattern", [EMAIL, TWICE, "(?<=a)b", "(["])
@pytest.mark.parametrize(
    "within",
    [
        lambda part: {"properties": {"x": part}},
        lambda part: {"properties": {"x": {"anyOf": [part, {"type": "null"}]}}},
        lambda part: {"properties": {"x": {"$ref": "#/$defs/X"}}, "$defs": {"X": part}},
        lambda part: {"additionalProperties": part},
    ],
)
def test_patterns_that_cannot_be_searched_for_are_left_out_of_foreign_schemas(
    pattern: str, within: Any
) -> None:
    given = within({"type": "string", "minLength": 3, "pattern": pattern})
    before = repr(given)

    own = foreign_schema(given)

    assert own == within({"type": "string", "minLength": 3})
    assert repr(given) == before
    assert [fits(own, {"x": value}) for value in ("ada@example.org", "a", 5)] == [
        True,
        False,
        False,
    ]


def test_other_patterns_and_values_of_foreign_schemas_stay() -> None:
    given = {
        "properties": {"pattern": {"type": "string", "pattern": "^a+$"}},
        "default": {"pattern": "(?=x)"},
        "enum": [{"pattern": "(?=x)"}],
    }

    assert foreign_schema(given) == given


@pytest.mark.parametrize(
    "named",
    [
        "https://json-schema.org/draft/2019-09/schema#",
        "http://json-schema.org/draft-04/schema#",
        "http://json-schema.org/draft-06/schema#",
        5,
    ],
)
def test_foreign_schema_of_another_draft_is_read_as_the_one_that_it_fits(named: Any) -> None:
    pair = {"type": "array", "items": [{"type": "integer"}, {"type": "string"}]}
    plain = foreign_schema({"$schema": named, "properties": {"x": {"type": "integer"}}})
    tuples = foreign_schema({"$schema": named, "properties": {"x": pair}})

    assert [fits(plain, {"x": value}) for value in (1, "a")] == [True, False]
    assert [fits(tuples, {"x": value}) for value in ([1, "a"], ["a", 1])] == [True, False]


def test_foreign_schema_with_too_many_patterns_is_left_as_it_is() -> None:
    heavy = f"(?:a{{{MAX_WEIGHT // 2}}})"
    given = {"allOf": [{"pattern": EMAIL}, {"pattern": heavy}, {"pattern": heavy + "b"}]}

    assert foreign_schema(given) == given


def test_foreign_schema_may_hold_itself() -> None:
    given: dict[str, Any] = {"properties": {}}
    given["properties"]["x"] = given

    assert foreign_schema(given)["properties"] is given["properties"]
