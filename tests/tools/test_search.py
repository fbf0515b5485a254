"""A model searches a large registry, and a request has only the tools that its history found."""

import json

import anyio
import pytest

from pathors_agent import (
    Agent,
    AsyncAgent,
    Conversation,
    Limits,
    Tool,
    ToolDefinitionError,
    ToolRegistry,
    dump_messages,
    load_messages,
    tool,
)
from pathors_agent.messages import (
    AssistantMessage,
    JSONValue,
    Message,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from pathors_agent.testing import AsyncScriptedTransport, ScriptedTransport, calls
from pathors_agent.tools.search import MAX_FOUND, ToolSearch, found_tools


def echo(**arguments: object) -> str:
    """Return the arguments."""
    return json.dumps(arguments)


def made(name: str, description: str, *parameters: str) -> Tool:
    properties = {each: {"type": "string"} for each in parameters}
    schema = {"type": "object", "properties": properties}
    return Tool(name=name, description=description, parameters=schema, function=echo)


AREAS = ("invoice", "customer", "ticket", "order", "employee", "contract", "shipment", "meeting")
VERBS = {
    "create": "Create a new",
    "delete": "Delete the",
    "list": "List every",
    "get": "Return one",
    "export": "Write to a spreadsheet the",
}
MANY = ToolRegistry(
    made(f"{verb}_{area}", f"{words} {area}.", "id")
    for area in AREAS
    for verb, words in VERBS.items()
)


@tool
def pay(amount: int) -> str:
    """Pay an amount."""
    return f"{amount} paid"


def names(request: dict[str, object]) -> list[str]:
    tools = request.get("tools", [])
    assert isinstance(tools, list)
    return [each["function"]["name"] for each in tools]


def search(query: str) -> tuple[str, dict[str, JSONValue]]:
    return "search_tools", {"query": query}


# - what is found -

FOUND = [
    ("create_invoice", "create_invoice"),
    ("create an invoice", "create_invoice"),
    ("export all shipments to a spreadsheet", "export_shipment"),
    ("deleteCustomer", "delete_customer"),
    ("MEETINGS list", "list_meeting"),
    ("\u7570\u52d5\u8a02\u55ae", "edit"),
    ("Fl\u00fcge suchen", "fluege"),
]


@pytest.mark.parametrize(("query", "name"), FOUND, ids=[name for _, name in FOUND])
def test_best_match_comes_first(query: str, name: str) -> None:
    others = [
        made("edit", "\u8b8a\u66f4\u8a02\u55ae"),
        made("weather", "\u5929\u6c23\u9810\u5831"),
        made("fluege", "Fl\u00fcge suchen und buchen."),
        made("hotels", "Hotels buchen."),
    ]

    found = ToolSearch([*MANY, *others]).find(query)

    assert found[0].name == name
    assert len(found) <= MAX_FOUND


@pytest.mark.parametrize(
    "query", ["", "   ", "?!", "xylophone"], ids=["empty", "space", "signs", "other"]
)
def test_query_without_a_match_is_reported_as_such(query: str) -> None:
    assert ToolSearch(MANY)(query) == (
        "No tool matches these words. Describe in other words what it should do."
    )


def test_result_has_one_line_for_each_tool() -> None:
    tools = [made("a_b", "Look\n\n  for: it."), made("long", "word " * 100)]

    lines = ToolSearch(tools)("a b long").split("\n")

    assert lines[1] == "a_b: Look for: it."
    assert lines[2].startswith("long: word word")
    assert len(lines[2]) < 220


# - what a request has -


def test_found_tools_are_added_for_the_rest_of_the_run() -> None:
    model = ScriptedTransport(
        calls(search("create invoice")),
        calls(("create_invoice", {"id": "7"})),
        calls(search("delete_ticket")),
        "Done.",
    )
    agent = Agent(model, tools=ToolRegistry([pay]) + MANY.searchable())

    result = agent.run("An invoice, please.")

    offered = [names(request) for request in model.requests]
    assert offered[0] == ["pay", "search_tools"]
    assert offered[1][:3] == ["pay", "search_tools", "create_invoice"]
    assert offered[2] == offered[1]
    assert offered[3][: len(offered[2])] == offered[2]
    assert "delete_ticket" in offered[3]
    assert result.messages[4].text == '{"id": "7"}'
    assert len(model.requests[0]["tools"][1]["function"]["description"]) < 200


def test_stored_history_offers_the_same_tools_to_another_process() -> None:
    one = ScriptedTransport(calls(search("list orders")), "Here they are.", "Again.")
    agent = Agent(one, tools=MANY.searchable())
    conversation = agent.run("Orders?").conversation
    stored = dump_messages(conversation.messages)
    agent.run("And now?", conversation=conversation)

    other = ScriptedTransport("Again.")
    Agent(other, tools=MANY.searchable()).run("And now?", conversation=load_messages(stored))

    assert names(other.requests[0]) == names(one.requests[2])
    assert "list_order" in names(other.requests[0])


def test_tool_that_the_history_called_is_offered_without_its_search() -> None:
    history: list[Message] = [
        UserMessage(content="Delete it."),
        AssistantMessage(tool_calls=(ToolCall(id="a", name="delete_order", arguments="{}"),)),
        ToolMessage(tool_call_id="a", content="deleted"),
        AssistantMessage(content="Done."),
    ]
    model = ScriptedTransport("Yes.")

    Agent(model, tools=MANY.searchable()).run("Sure?", conversation=Conversation(history))

    assert names(model.requests[0]) == ["search_tools", "delete_order"]


def test_tool_that_was_not_found_runs_when_it_is_called() -> None:
    model = ScriptedTransport(calls(("get_order", {"id": "1"})), "One.")

    result = Agent(model, tools=MANY.searchable()).run("Order 1?")

    assert result.messages[2].text == '{"id": "1"}'


def test_async_agent_searches_and_calls_side_by_side() -> None:
    model = AsyncScriptedTransport(
        calls(search("create invoice"), search("get employee")),
        calls(("create_invoice", {"id": "1"}), ("get_employee", {"id": "2"})),
        "Done.",
    )
    agent = AsyncAgent(model, tools=lambda context: MANY.searchable())

    result = anyio.run(agent.run, "Both.")

    assert {"create_invoice", "get_employee"} <= set(names(model.requests[1]))
    assert [message.text for message in result.messages[5:7]] == ['{"id": "1"}', '{"id": "2"}']


def test_note_below_a_result_is_no_tool() -> None:
    warned = Limits(repeats_warned=1)
    model = ScriptedTransport(calls(search("create_invoice")), "Done.")

    result = Agent(model, tools=MANY.searchable(), limits=warned).run("Go.")

    assert result.messages[2].text.endswith(
        "(This was call 1 of search_tools with the same arguments.)"
    )
    assert set(names(model.requests[1])) <= {"search_tools", *(each.name for each in MANY)}


def test_result_of_another_tool_finds_nothing() -> None:
    history: list[Message] = [
        AssistantMessage(tool_calls=(ToolCall(id="a", name="get_order", arguments="{}"),)),
        ToolMessage(tool_call_id="a", content="delete_order: Delete it."),
    ]

    assert found_tools(history, {"get_order": None, "delete_order": None}) == ["get_order"]


# - registries -


def test_search_survives_the_ways_to_combine_registries() -> None:
    many = MANY.searchable()
    both = (
        ToolRegistry([pay]) + many.filtered(lambda tool: "order" in tool.name).prefixed("x_")
    ) + ToolRegistry([made("late", "Come late.")]).searchable()

    assert [each["function"]["name"] for each in both.offered([])] == ["pay", "search_tools"]
    bound = both.bind(
        ToolCall(id="a", name="search_tools", arguments='{"query": "late get order"}')
    )
    assert not isinstance(bound, ToolMessage)
    found = bound.function(**bound.kwargs)
    assert "late: Come late." in found
    assert "x_get_order: Return one order." in found
    assert "more tools" in both["search_tools"].description


def test_own_tool_with_the_name_of_the_search_is_refused() -> None:
    own = ToolRegistry([made("search_tools", "Search my tools.")])

    with pytest.raises(
        ToolDefinitionError, match=r"search_tools.*is taken by the search for tools"
    ):
        own + MANY.searchable()
    assert [each["function"]["name"] for each in own.offered([])] == ["search_tools"]


def test_registry_without_search_offers_all_tools() -> None:
    assert MANY.offered([UserMessage(content="?")]) == MANY.definitions()
