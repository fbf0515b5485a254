"""Wrong use of the toolkit is an error that says what was meant."""

import importlib
import re
import sys
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from pathors_agent import (
    Agent,
    AsyncAgent,
    AsyncHTTPTransport,
    HTTPTransport,
    MCPTools,
    Tool,
    ToolRegistry,
    tool,
)
from pathors_agent.stores.memory import MemoryStore
from pathors_agent.testing import (
    AsyncCassette,
    AsyncScriptedTransport,
    Cassette,
    HostileScript,
    HostileTransport,
    ScriptedTransport,
    check_async_transport,
    check_history,
    check_store,
    check_tool,
    check_transport,
    expect,
    hostile_scripts,
    tool_arguments,
)

untyped: Any = lambda value: value  # noqa: E731  (what a type checker would refuse is given here)


@tool
def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: The one.
        b: The other.
    """
    return a + b


AGENT = Agent(ScriptedTransport("Hi.", then="Hi."), tools=[add])
SCRIPT = HostileScript(("Hi.",))
DRAWN = st.integers()


def run_async(function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    return lambda: anyio.run(function, *arguments)


WRONG: list[tuple[Callable[[], Any], str]] = [
    # - tools
    (
        lambda: hostile_scripts(untyped(add)),
        "hostile_scripts takes a list of tools, .* write [add]",
    ),
    (lambda: hostile_scripts(untyped(lambda user: [add])), "not a function that chooses them"),
    (lambda: hostile_scripts(untyped(AGENT)), "takes tools, not an Agent: pass its .tools"),
    (lambda: hostile_scripts(untyped("add")), "takes a list of tools or a ToolRegistry, not a str"),
    (lambda: hostile_scripts(untyped(None)), "takes a list of tools or a ToolRegistry, not a None"),
    (lambda: hostile_scripts(untyped({"add": add})), "or a ToolRegistry, not a dict"),
    (lambda: hostile_scripts(untyped(MCPTools.stdio("x"))), "`with mcp_tools as tools:`"),
    (lambda: tool_arguments(untyped([add])), "takes one tool, not a list: pass one of them"),
    (lambda: tool_arguments(untyped(ToolRegistry([add]))), 'pass one of it: registry["name"]'),
    (lambda: tool_arguments(untyped("add")), "takes a tool, not its name: pass the function add"),
    (lambda: tool_arguments(len), "is a plain function; decorate it with @tool"),
    # - options
    (lambda: hostile_scripts(faults=untyped("flood")), "not one name: write ['flood']"),
    (lambda: hostile_scripts(faults=untyped(["floods"])), "called floods. Did you mean flood?"),
    (lambda: hostile_scripts(faults=untyped(7)), "faults takes a list of names, not 7"),
    (
        lambda: hostile_scripts(max_turns=-1),
        "max_turns must be a whole number of 0 or more, not -1",
    ),
    (lambda: hostile_scripts(max_turns=untyped("5")), "a whole number of 0 or more, not '5'"),
    (lambda: HostileTransport(untyped("a")), "seed must be an integer, not 'a'"),
    (lambda: HostileTransport(untyped(DRAWN)), "seed must be an integer, not integers()"),
    (lambda: HostileTransport(1, faults=untyped("flood")), "not one name: write ['flood']"),
    (lambda: HostileScript(untyped("Hi.")), "takes a tuple of entries: write ('Hi.',)"),
    # - scripts in the place of transports
    (lambda: Agent(untyped(SCRIPT)), "is a HostileScript, not a Transport; pass its .transport()"),
    (lambda: AsyncAgent(untyped(SCRIPT)), "not a AsyncTransport; pass its .async_transport()"),
    (lambda: Agent(untyped(SCRIPT.transport)), "call it, and pass what it returns"),
    (lambda: Agent(untyped(SCRIPT.async_transport())), "is AsyncAgent the agent you want?"),
    # - checks
    (lambda: check_tool(untyped([add])), "check_tool takes one tool, not a list"),
    (lambda: check_tool(add, arguments=untyped({"a": 1})), "write arguments=[{...}]"),
    (lambda: check_tool(add, arguments=untyped(DRAWN)), "with @given(tool_arguments(tool))"),
    (lambda: check_tool(add, examples=-1), "examples must be a whole number of 0 or more"),
    (lambda: check_history(untyped(AGENT.run("Hi"))), "not a RunResult: pass its .messages"),
    (lambda: check_history(untyped(AGENT.run("Hi").conversation)), "not a Conversation: pass its"),
    (lambda: check_history(untyped([{"role": "user"}])), "messages[0] is a dict: load it with"),
    (lambda: check_history(untyped(AGENT.run("Hi").messages[0])), "not an? UserMessage"),
    (lambda: expect(untyped("Hi.")), "expect takes a list of messages, not a str"),
    (lambda: check_transport(untyped(ScriptedTransport("Hi."))), "write lambda base_url: "),
    (lambda: check_transport(untyped(AsyncHTTPTransport)), "use check_async_transport"),
    (lambda: check_transport(untyped(lambda url: None)), "returned a NoneType, not a Transport"),
    (run_async(check_async_transport, HTTPTransport), "use check_transport"),
    (run_async(check_async_transport, AsyncScriptedTransport("Hi.")), "write lambda base_url: "),
    (run_async(check_store, MemoryStore()), "write check_store(MyStore) or"),
    (run_async(check_store, anyio.sleep), "returns a store, not an async function"),
    (run_async(check_store, lambda: None), "returned a NoneType, not a Store"),
    # - cassettes
    (
        lambda: Cassette("a.json", untyped(AsyncScriptedTransport("Hi.")), record=True),
        "Cassette records a Transport, .* not an AsyncScriptedTransport; use AsyncCassette",
    ),
    (
        lambda: AsyncCassette("a.json", untyped(ScriptedTransport("Hi.")), record=True),
        "AsyncCassette records an AsyncTransport, .* not a ScriptedTransport; use Cassette",
    ),
    (lambda: Cassette("a.json", untyped("https://h/v1"), record=True), "not a str"),
    (lambda: Cassette("a.json", untyped(lambda: None), record=True), "not a NoneType"),
]


@pytest.mark.parametrize(("use", "said"), WRONG, ids=[said for _, said in WRONG])
def test_wrong_use_names_the_right_one(use: Callable[[], Any], said: str) -> None:
    pattern = re.escape(said).replace(r"\.\*", ".*").replace(r"an\?", "an?")
    with pytest.raises((TypeError, ValueError, AssertionError, Exception), match=pattern):
        use()


NEVER = Tool(
    name="never",
    parameters={"type": "object", "properties": {"x": False}, "required": ["x"]},
    function=lambda **arguments: None,
)


def test_arguments_that_cannot_be_made_fail_the_test_with_the_reason() -> None:
    @given(tool_arguments(NEVER))
    @settings(database=None, phases=[Phase.generate])
    def check(arguments: dict[str, Any]) -> None: ...

    with pytest.raises(
        ValueError, match="built for the tool never: the schema takes no value"
    ) as it:
        check()

    assert "add examples to its schema" in str(it.value)


def test_no_faults_are_a_good_model() -> None:
    @given(hostile_scripts([add], faults=[]))
    @settings(database=None, max_examples=20)
    def check(script: HostileScript) -> None:
        Agent(script.transport(), tools=[add]).run("Go.")

    check()


def test_missing_hypothesis_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    monkeypatch.delitem(sys.modules, "pathors_agent.testing.strategies")

    with pytest.raises(ModuleNotFoundError, match="need hypothesis: pip install hypothesis"):
        importlib.import_module("pathors_agent.testing.strategies")
