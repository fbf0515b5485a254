"""Give `compile_schema` the shape that the JSON Schema cases expect of a validator."""

from typing import Any

from pathors_agent.schema.compiled import compile_schema

DRAFT_7 = {"$schema": "http://json-schema.org/draft-07/schema#"}


def is_valid(schema: Any, value: Any) -> bool:
    return not compile_schema(schema).problems(value)


def is_valid_draft7(schema: Any, value: Any) -> bool:
    return is_valid(DRAFT_7 | schema if isinstance(schema, dict) else schema, value)
