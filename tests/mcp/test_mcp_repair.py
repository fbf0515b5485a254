"""What MCP servers send that breaks the protocol, or their own schemas: one fault hides nothing else."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.types import CallToolResult, ListToolsResult
from mcp_types import methods
from mcp_types.version import KNOWN_PROTOCOL_VERSIONS

from mcp_in_process import plain_server
from pathors_agent import Agent, ContentPart, JSONValue, ToolError, ToolMessage
from pathors_agent.mcp.content import RefusedDefinition, repaired_call, repaired_tools, value_of
from pathors_agent.testing import ScriptedTransport, calls

OBJECT = {"type": "object", "properties": {}}
GOOD = {"name": "good", "inputSchema": OBJECT}
PICTURE = {"type": "image", "data": "AAAA", "mimeType": "image/png"}


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Callable[[str], list[dict[str, object]]]:
    """Return the fields of the warnings of a name."""
    caplog.set_level(logging.WARNING, logger="pathors_agent")

    def named(event: str) -> list[dict[str, object]]:
        return [vars(r)["fields"] for r in caplog.records if getattr(r, "event", "") == event]

    return named


# - definitions -


UNUSABLE: list[tuple[Any, str, str]] = [
    ({"name": "bad", "inputSchema": {"properties": {}}}, "bad", "inputSchema/type"),
    ({"name": "bad", "inputSchema": {"type": "array"}}, "bad", "inputSchema/type"),
    ({"name": "bad", "inputSchema": {"type": ["object"]}}, "bad", "inputSchema/type"),
    ({"name": "bad", "inputSchema": True}, "bad", "inputSchema"),
    ({"name": "bad"}, "bad", "inputSchema"),
    ({"name": 5, "inputSchema": OBJECT}, "tools[1]", "name"),
    ({"name": "", "inputSchema": OBJECT}, "tools[1]", "name"),
    ({"inputSchema": OBJECT}, "tools[1]", "name"),
    (None, "tools[1]", "tool"),
    ("bad", "tools[1]", "tool"),
    (
        {"name": "bad", "inputSchema": OBJECT, "execution": {"taskSupport": "required"}},
        "bad",
        "execution/taskSupport",
    ),
    (
        {"name": "bad", "inputSchema": {**OBJECT, "properties": {"x": {"$ref": "#/nowhere"}}}},
        "bad",
        "parameters/properties/x/$ref",
    ),
]


@pytest.mark.parametrize(("bad", "tool", "path"), UNUSABLE)
def test_unusable_tool_is_left_out_with_a_warning_and_the_others_work(
    bad: object, tool: str, path: str, warnings: Callable[[str], list[dict[str, object]]]
) -> None:
    with plain_server(tools=[GOOD, bad, {**GOOD, "name": "other"}]) as tools:
        names = [tool.name for tool in tools]

    assert names == ["good", "other"]
    assert warnings("mcp_tool_refused") == [{"server": "plain server", "tool": tool, "path": path}]


USABLE: list[dict[str, Any]] = [
    {"description": 5},
    {"title": ["x"]},
    {"icons": "none"},
    {"annotations": {"readOnlyHint": "yes"}},
    {"execution": {"taskSupport": "optional"}},
    {"execution": {"taskSupport": "sometimes"}},
    {"outputSchema": {"type": "nothing"}},
    {"outputSchema": True},
    {"_meta": 5},
]


@pytest.mark.parametrize("field", USABLE)
def test_bad_field_that_is_not_needed_makes_no_tool_unusable(field: dict[str, Any]) -> None:
    with plain_server(tools=[{**GOOD, **field}], results={}) as tools:
        assert [tool.name for tool in tools] == ["good"]


@pytest.mark.parametrize(("bad", "tool", "path"), UNUSABLE[:1])
def test_unusable_tool_in_a_changed_list_is_left_out_with_a_warning(
    bad: object, tool: str, path: str, warnings: Callable[[str], list[dict[str, object]]]
) -> None:
    transport = ScriptedTransport(calls(("good", {})), calls(("new", {})), "Done.")
    server = plain_server(
        tools=[GOOD],
        then=[GOOD, bad, {**GOOD, "name": "new"}],
        capabilities={"tools": {"listChanged": True}},
        results={"new": {"content": [{"type": "text", "text": "I am new"}]}},
    )

    with Agent(transport, tools=server) as agent:
        result = agent.run("Go.")

    sent = [[tool["function"]["name"] for tool in each["tools"]] for each in transport.requests]
    assert sent == [["good"], ["good", "new"], ["good", "new"]]
    assert [m.text for m in result.messages if isinstance(m, ToolMessage)][1] == "I am new"
    assert {"server": "plain server", "tool": tool, "path": path} in warnings("mcp_tool_refused")


def test_changed_list_that_cannot_be_read_leaves_the_tools_as_they_were() -> None:
    transport = ScriptedTransport(calls(("good", {})), calls(("good", {})), "Done.")
    server = plain_server(
        tools=[GOOD],
        then={"tools": [GOOD], "ttlMs": "soon", "resultType": 5},
        capabilities={"tools": {"listChanged": True}},
    )

    with Agent(transport, tools=server) as agent:
        result = agent.run("Go.")

    assert result.output == "Done."
    assert [m.outcome for m in result.messages if isinstance(m, ToolMessage)] == ["value"] * 2


@pytest.mark.parametrize(
    "pair",
    [
        {"type": "array", "items": [{"type": "integer"}, {"type": "string"}]},
        {"type": "array", "items": [{"type": "integer"}], "additionalItems": {"type": "string"}},
        {"anyOf": [{"type": "array", "items": [{"type": "integer"}, {"type": "string"}]}]},
    ],
)
@pytest.mark.parametrize("named", [{}, {"$schema": "http://json-schema.org/draft-07/schema#"}])
def test_tuples_of_draft_07_are_checked(pair: dict[str, Any], named: dict[str, Any]) -> None:
    schema = {**named, "type": "object", "properties": {"pair": pair}}
    fits: dict[str, JSONValue] = {"pair": [1, "a"]}
    fits_not: dict[str, JSONValue] = {"pair": ["a", "a"]}
    transport = ScriptedTransport(calls(("pair", fits)), calls(("pair", fits_not)), "Done.")

    tools = plain_server(tools=[{"name": "pair", "inputSchema": schema}])
    with Agent(transport, tools=tools) as agent:
        result = agent.run("Go.")

    outcomes = [m.outcome for m in result.messages if isinstance(m, ToolMessage)]
    assert outcomes == ["value", "error"]


def test_property_named_items_is_no_tuple() -> None:
    schema = {"type": "object", "properties": {"items": {"type": "array", "prefixItems": [{}]}}}

    listed, _ = repaired_tools({"tools": [{"name": "a", "inputSchema": schema}]})

    assert listed["tools"][0]["inputSchema"] == schema


def test_tools_that_run_only_as_tasks_are_refused_by_name() -> None:
    task_only = {**GOOD, "name": "long", "execution": {"taskSupport": "required"}}

    listed, refused = repaired_tools({"tools": [task_only, GOOD], "nextCursor": "2"})

    assert listed == {"tools": [GOOD], "nextCursor": "2"}
    assert refused == [RefusedDefinition("long", "execution/taskSupport")]


# - results -


CHARGED = [{"type": "text", "text": "charged 5 euros"}]
STRICT = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


@pytest.mark.parametrize(
    ("result", "content"),
    [
        ({"content": CHARGED, "structuredContent": {"n": "5"}}, 'charged 5 euros\n{"n":"5"}'),
        ({"content": CHARGED}, "charged 5 euros"),
        ({"content": CHARGED, "structuredContent": None}, "charged 5 euros"),
        ({"content": CHARGED, "structuredContent": [1, 2]}, 'charged 5 euros\n{"result":[1,2]}'),
        ({"content": CHARGED, "isError": "no"}, "charged 5 euros"),
        ({"content": CHARGED, "_meta": 5}, "charged 5 euros"),
        ({"structuredContent": {"n": 5}}, '{"n":5}'),
        ({"content": None, "structuredContent": {"n": 5}}, '{"n":5}'),
        ({"content": "charged 5 euros"}, "charged 5 euros"),
        ({"content": ["charged", "5 euros"]}, "charged\n5 euros"),
        ({"content": CHARGED[0]}, "charged 5 euros"),
        ({"content": [{"type": "chart", "n": 5}]}, '{"type":"chart","n":5}'),
        ({"content": [{"type": "text"}]}, '{"type":"text"}'),
        ({"toolResult": {"n": 5}}, '{"n":5}'),
        ({"n": 5}, '{"n":5}'),
        ({}, "done (no value)"),
    ],
)
def test_finished_call_is_reported_with_its_content(result: dict[str, Any], content: str) -> None:
    transport = ScriptedTransport(calls(("charge", {})), "Done.")
    charge = {"name": "charge", "inputSchema": OBJECT, "outputSchema": STRICT}

    with Agent(transport, tools=plain_server(tools=[charge], results={"charge": result})) as agent:
        messages = agent.run("Charge.").messages

    [message] = [m for m in messages if isinstance(m, ToolMessage)]
    assert (message.outcome, message.content) == ("value", content)


def test_image_next_to_an_unknown_block_stays_an_image() -> None:
    repaired = repaired_call({"content": [PICTURE, {"type": "chart", "n": 5}]})

    assert value_of(CallToolResult.model_validate(repaired)) == [
        ContentPart.model_validate(
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
        ),
        ContentPart(type="text", text='{"type":"chart","n":5}'),
    ]


def test_error_in_a_form_of_its_own_is_an_error() -> None:
    repaired = repaired_call({"isError": True, "content": "no such account"})

    with pytest.raises(ToolError, match="no such account"):
        value_of(CallToolResult.model_validate(repaired))


def test_question_of_the_server_is_left_as_it_is() -> None:
    asked = {"resultType": "input_required", "inputRequests": {}, "requestState": "s"}

    assert repaired_call(asked) == asked


# - anything -

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["", "a", "text", "object"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "text", "a", "data", "items"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)
BLOCKS = st.sampled_from([*CHARGED, PICTURE, {"type": "resource"}]) | JSON


def drawn(fields: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


TOOLS = drawn(
    {
        "name": st.sampled_from(["a", "b"]) | JSON,
        "inputSchema": st.just(OBJECT) | JSON,
        **dict.fromkeys(
            ["description", "title", "icons", "annotations", "outputSchema", "execution", "_meta"],
            JSON,
        ),
    }
)


@given(
    drawn({"tools": st.lists(TOOLS | JSON, max_size=4) | JSON, "nextCursor": JSON, "_meta": JSON}),
    st.sampled_from(KNOWN_PROTOCOL_VERSIONS),
)
def test_repaired_list_of_tools_is_one_that_the_package_takes(
    result: dict[str, Any], version: str
) -> None:
    listed, refused = repaired_tools(result)
    if version >= "2026":  # fields that a server of this version has to send
        listed |= {"resultType": "complete", "ttlMs": 0, "cacheScope": "public"}

    methods.validate_server_result("tools/list", version, listed)
    ListToolsResult.model_validate(listed, by_name=False)
    given = result.get("tools")
    count = len(given) if isinstance(given, list) else int(given is not None)
    assert len(listed["tools"]) + len(refused) == count


@given(
    drawn(
        {
            "content": st.lists(BLOCKS, max_size=3) | JSON,
            "structuredContent": JSON,
            "isError": JSON,
            "_meta": JSON,
        }
    ),
    st.sampled_from(KNOWN_PROTOCOL_VERSIONS),
)
def test_repaired_result_is_one_that_the_package_takes_and_a_value(
    result: dict[str, Any], version: str
) -> None:
    repaired = repaired_call(result)
    if version >= "2026":
        repaired["resultType"] = "complete"

    methods.validate_server_result("tools/call", version, repaired)
    answer = CallToolResult.model_validate(repaired, by_name=False)
    if answer.is_error:
        with pytest.raises(ToolError):
            value_of(answer)
    else:
        value_of(answer)


@pytest.mark.parametrize("kind", ["image", "audio", "resource"])
def test_media_that_is_no_base64_is_named_and_not_sent(kind: str) -> None:
    media = {"type": kind, "data": "!! no base64", "mimeType": f"{kind}/png"}
    resource = {"uri": "file:///a.png", "blob": "!! no base64", "mimeType": "image/png"}
    block = {"type": kind, "resource": resource} if kind == "resource" else media

    value = value_of(CallToolResult.model_validate({"content": [block]}))

    assert isinstance(value, str)
    assert value.endswith("/png, not shown: its data is not base64]")


@pytest.mark.parametrize(
    "data", ["iVBORw0KGgo=", "data:image/png;base64,iVBORw0KGgo=", "iVBO\nRw0KGgo=\n"]
)
def test_image_is_read_from_data_urls_and_lines_as_well(data: str) -> None:
    block = {"type": "image", "data": data, "mimeType": "image/png"}

    value = value_of(CallToolResult.model_validate({"content": [block]}))

    assert value == [ContentPart.image("data:image/png;base64,iVBORw0KGgo=")]
