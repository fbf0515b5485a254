"""Repair what a server answers before the mcp package validates it. Pure.

The package refuses a whole list of tools for one bad definition, and reports a finished call as
failed if its result breaks the protocol or the tool's `outputSchema`. Here a bad definition is left
out, and a result keeps everything that can be read.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from mcp.types import ContentBlock
from pydantic import TypeAdapter, ValidationError

from pathors_agent.json_text import write_json

_BLOCK: TypeAdapter[ContentBlock] = TypeAdapter(ContentBlock)

# The schemas of older drafts hold tuples as a list of `items`; 2020-12 forbids that.
_DRAFT_7 = "http://json-schema.org/draft-07/schema#"
# What a listing holds beside its tools: fields of the version 2026-07-28.
_LISTING = ("resultType", "ttlMs", "cacheScope")
_SUBSCHEMAS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")


class Refused(NamedTuple):
    """A definition that is left out: the tool's name, and the part that is unusable."""

    tool: str
    path: str


def repaired_tools(result: dict[str, Any]) -> tuple[dict[str, Any], list[Refused]]:
    """Return a `tools/list` result with the usable definitions only, and the others' names.

    Only the fields that we read are kept: a bad icon or `outputSchema` makes no tool unusable.
    """
    tools: list[dict[str, Any]] = []
    refused: list[Refused] = []
    for number, given in enumerate(_list(result.get("tools"))):
        if path := _unusable(given):
            refused.append(Refused(_shown_name(given, number), path))
        else:
            tools.append(_definition(given))
    repaired = {name: result[name] for name in _LISTING if name in result}
    if isinstance(result.get("nextCursor"), str):
        repaired["nextCursor"] = result["nextCursor"]
    return {**repaired, "tools": tools}, refused


def _unusable(given: Any) -> str | None:
    """Return the path of what makes a definition unusable, or None."""
    if not isinstance(given, dict):
        return "tool"
    if not isinstance(given.get("name"), str) or not given["name"]:
        return "name"
    schema = given.get("inputSchema")
    if not isinstance(schema, dict):
        return "inputSchema"
    if schema.get("type") != "object":
        return "inputSchema/type"
    execution = given.get("execution")
    # Such a tool runs only as a task of the protocol, which the client does not support.
    if isinstance(execution, dict) and execution.get("taskSupport") == "required":
        return "execution/taskSupport"
    return None


def _shown_name(given: Any, number: int) -> str:
    name = given.get("name") if isinstance(given, dict) else None
    return name if isinstance(name, str) and name else f"tools[{number}]"


def _definition(given: dict[str, Any]) -> dict[str, Any]:
    texts = {k: given[k] for k in ("title", "description") if isinstance(given.get(k), str)}
    schema = given["inputSchema"]
    if "$schema" not in schema and any(_has_tuples(schema)):
        schema = {"$schema": _DRAFT_7, **schema}
    return {"name": given["name"], **texts, "inputSchema": schema}


def _has_tuples(schema: Any) -> Iterator[bool]:
    """Yield True for each list of `items` in a schema, whatever the depth."""
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        if not isinstance(part, dict):
            continue
        for keyword, value in part.items():
            if keyword == "items" and isinstance(value, list):
                yield True
            if keyword in _SUBSCHEMAS and isinstance(value, dict):
                waiting += value.values()
            elif keyword not in ("enum", "const", "default", "examples"):
                waiting += value if isinstance(value, list) else [value]


def repaired_call(result: dict[str, Any]) -> dict[str, Any]:
    """Return the result of a finished `tools/call` in the protocol's form.

    An unreadable content block becomes a text block of its JSON. A result that is not final (the
    server asks for input first) is returned unchanged.
    """
    if result.get("resultType", "complete") != "complete":
        return result
    repaired: dict[str, Any] = {"content": [_block(each) for each in _list(result.get("content"))]}
    repaired["isError"] = result.get("isError") is True
    structured = result.get("structuredContent", result.get("toolResult"))
    if structured is not None and not isinstance(structured, dict):
        # The versions before 2026-07-28 know objects only; the reader unpacks the wrapper again.
        structured = {"result": structured}
    if structured is None and not {"content", "structuredContent"} & result.keys():
        structured = {k: v for k, v in result.items() if k not in ("_meta", "isError")} or None
    if structured is not None:
        repaired["structuredContent"] = structured
    return {**{k: result[k] for k in ("resultType",) if k in result}, **repaired}


def _block(given: Any) -> dict[str, Any]:
    try:
        _BLOCK.validate_python(given, by_name=False)
    except ValidationError:
        text = given if isinstance(given, str) else write_json(given).decode()
        return {"type": "text", "text": text}
    block: dict[str, Any] = given
    return block


def _list(value: Any) -> list[Any]:
    """Return a list as it is, nothing for None, and any other value as the one item of a list."""
    if isinstance(value, list):
        return value
    return [] if value is None else [value]
