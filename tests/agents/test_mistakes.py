"""Arguments and names of other libraries are refused in one sentence, with the right spelling."""

from collections.abc import Callable
from typing import Any

import pytest

from pathors_agent import (
    Agent,
    AsyncAgent,
    Budget,
    ContentPart,
    Conversation,
    ConversationError,
    Limits,
    MCPTools,
    ModelOptions,
    Retry,
    SystemMessage,
    Tool,
    ToolDefinitionError,
    UserMessage,
    tool,
)
from pathors_agent.agents.base import AgentSettings
from pathors_agent.server import ServerSettings
from pathors_agent.testing import (
    AsyncScriptedTransport,
    ScriptedTransport,
    answer,
    calls,
    http_error,
    raw,
)

MODEL = ScriptedTransport("Hello.")
agent: Any = Agent
async_agent: Any = AsyncAgent
MISTAKE: Any = 5


def search(query: str) -> str:
    """Search."""
    return query


def add(a: int, b: int) -> int:
    """Add."""
    return a + b


class OpenAI:
    """A client of another library."""


MISTAKES: list[tuple[Callable[[], object], str]] = [
    (
        lambda: agent("openai:gpt-4o"),
        "transport is a str, not a Transport; pass HTTPTransport(base_url, api_key=...) and "
        "model='gpt-4o'",
    ),
    (
        lambda: agent(OpenAI()),
        "transport is an OpenAI, not a Transport; "
        "pass HTTPTransport(base_url, api_key=...) as the first argument",
    ),
    (
        lambda: async_agent(MODEL),
        "transport is a ScriptedTransport, not a AsyncTransport; is Agent the agent you want?",
    ),
    (
        lambda: agent(name="Assistant", instructions="Be brief.", model="gpt-4o"),
        "Agent needs a transport; pass HTTPTransport(base_url, api_key=...) as the first argument",
    ),
    (
        lambda: async_agent(model="gpt-4o"),
        "AsyncAgent needs a transport; "
        "pass AsyncHTTPTransport(base_url, api_key=...) as the first argument",
    ),
    (
        lambda: agent(model=MODEL),
        "model= is a ScriptedTransport; pass it as the first argument, and the model's name as "
        "model=",
    ),
    (lambda: agent(MODEL, model=OpenAI()), "model= is an OpenAI; pass the model's name, a string"),
    (
        lambda: agent(llm=OpenAI()),
        "Agent has no llm=; pass HTTPTransport(base_url, api_key=...) as the first argument",
    ),
    (
        lambda: agent(MODEL, system_prompt="Be brief."),
        "Agent has no system_prompt=; pass instructions=",
    ),
    (
        lambda: agent(MODEL, instructons="Be brief."),
        "Agent has no instructons=; pass instructions=",
    ),
    (
        lambda: agent(MODEL, instructions=SystemMessage(content="Be brief.")),
        "instructions= is a SystemMessage; pass its text",
    ),
    (
        lambda: agent(MODEL, options={"temperature": 0, "top_k": 5}),
        "options= is a dict; pass options=ModelOptions(temperature=0, extra={'top_k': ...})",
    ),
    (
        lambda: agent(MODEL, temperature=0),
        "Agent has no temperature=; pass options=ModelOptions(temperature=...)",
    ),
    (
        lambda: agent(MODEL, model_settings={}),
        "Agent has no model_settings=; pass options=ModelOptions(...)",
    ),
    (lambda: agent(MODEL, limits=10), "limits= is an int; pass limits=Limits(turns=10)"),
    (
        lambda: agent(MODEL, limits={"seconds": 5}),
        "limits= is a dict; pass limits=Limits(seconds=5)",
    ),
    (lambda: agent(MODEL, max_turns=3), "Agent has no max_turns=; pass limits=Limits(turns=...)"),
    (lambda: agent(MODEL, output_type=int), "Agent has no output_type=; pass output="),
    (
        lambda: agent(MODEL, deps_type=int),
        "Agent has no deps_type=; pass the value to run(context=...); tools read it from their "
        "ToolContext",
    ),
    (
        lambda: agent(MODEL, history=[]),
        "history= is a list, not a function that selects the messages to send; "
        "pass the messages to run(conversation=...)",
    ),
    (
        lambda: agent(MODEL, history=Conversation()),
        "history= is a Conversation, not a function that selects the messages to send; "
        "pass the messages to run(conversation=...)",
    ),
    (
        lambda: agent(MODEL, message_history=[]),
        "Agent has no message_history=; pass the messages to run(conversation=...)",
    ),
    (
        lambda: agent(MODEL, handoffs=[]),
        "Agent has no handoffs=; pass each agent as a tool, "
        "tools=[agent.as_tool(name, description)]",
    ),
    (
        lambda: agent(MODEL, tools=search),
        "tools= is the function search; decorate it with @tool, and write tools=[search]",
    ),
    (
        lambda: agent(MODEL, tools=add),
        "tools= is the function add; decorate it with @tool, and write tools=[add]",
    ),
    (
        lambda: agent(MODEL, tools=tool(name="seek")(lambda query: query)),
        "tools= is a tool itself; write tools=[<lambda>]",
    ),
    (lambda: agent(MODEL, tools=Tool(name="look")), "tools= is a Tool; write tools=[...]"),
    (lambda: agent(MODEL, tools="search"), "tools= is a str; write tools=[...]"),
    (
        lambda: agent(MODEL, tools=AsyncAgent(AsyncScriptedTransport())),
        "tools= is an AsyncAgent; pass each agent as a tool, "
        "tools=[agent.as_tool(name, description)]",
    ),
    (lambda: agent(MODEL, mcp_servers=[]), "Agent has no mcp_servers=; pass tools=MCPTools(...)"),
]


@pytest.mark.parametrize(("build", "said"), MISTAKES, ids=[said for _, said in MISTAKES])
def test_mistake_of_the_first_minute_is_answered(build: Callable[[], object], said: str) -> None:
    with pytest.raises(TypeError) as caught:
        build()

    assert str(caught.value) == said


def test_unknown_argument_is_answered_with_those_that_there_are() -> None:
    with pytest.raises(TypeError, match=r"^Agent has no wibble=; its arguments are ") as caught:
        agent(MODEL, wibble=1)

    for name in (*AgentSettings.__annotations__, "tools", "output", "history"):
        assert name in str(caught.value)


@pytest.mark.parametrize(
    ("owner", "name", "instead"),
    [
        (Agent(MODEL), "run_sync", "write run(prompt)"),
        (AsyncAgent(AsyncScriptedTransport()), "ainvoke", "write run(prompt)"),
        (Agent(MODEL), "run_stream", "write stream(prompt)"),
        (Agent(MODEL), "tool", "write @tool above the function, and tools=[...]"),
        (Agent(ScriptedTransport("Hi.")).run("Hi"), "final_output", "write output"),
        (Agent(ScriptedTransport("Hi.")).run("Hi"), "all_messages", "write conversation.messages"),
    ],
)
def test_name_of_another_library_is_answered(owner: object, name: str, instead: str) -> None:
    kind = type(owner).__name__

    with pytest.raises(AttributeError) as caught:
        getattr(owner, name)
    assert str(caught.value) == f"{kind!r} object has no attribute {name!r}; {instead}"

    with pytest.raises(AttributeError) as caught:
        _ = owner.wibble  # type: ignore[attr-defined]
    assert str(caught.value) == f"{kind!r} object has no attribute 'wibble'"


def test_right_values_are_taken() -> None:
    def choose(context: object) -> list[Tool]:
        return []

    Agent(
        MODEL,
        tools=choose,
        history=lambda messages: messages,
        options=ModelOptions(temperature=0),
        limits=Limits(turns=1),
        model="m",
        name="n",
        instructions="Be brief.",
    )
    Agent(MODEL, tools=lambda context: [], options=None, limits=None, model=None)


@pytest.mark.parametrize("prompt", [5, b"Hello.", SystemMessage(content="Be brief.")])
def test_prompt_of_another_type_is_refused_by_name(prompt: Any) -> None:
    with pytest.raises(TypeError, match=f"prompt= is of type {type(prompt).__name__}; pass a text"):
        Agent(ScriptedTransport("Hello.")).run(prompt)


def test_list_of_messages_as_a_prompt_is_refused_with_the_argument_for_it() -> None:
    messages: Any = [UserMessage(content="Hello.")]

    with pytest.raises(ConversationError, match="pass it as conversation="):
        Agent(ScriptedTransport("Hello.")).run(messages)


def test_prompt_may_be_one_content_part() -> None:
    part = ContentPart(type="text", text="Hello.")

    result = Agent(ScriptedTransport("Hello.")).run(part)

    assert result.messages[0] == UserMessage(content=(part,))


@pytest.mark.parametrize("given", ["add", ("add",), ("add", [1, 2]), (1, {})])
def test_scripted_call_that_is_no_pair_is_refused_with_an_example(given: Any) -> None:
    with pytest.raises(TypeError, match=r"write calls\(\(\"add\""):
        calls(given)


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: answer(MISTAKE), "answer: text takes str or NoneType, not int"),
        (
            lambda: answer("x", reasoning=MISTAKE),
            "answer: reasoning= takes str or NoneType, not int",
        ),
        (lambda: answer("x", finish_reason=MISTAKE), "answer: finish_reason= takes str or NoneTy"),
        (lambda: raw("data: {}"), "raw: body takes bytes, not str"),  # type: ignore[arg-type]
        (lambda: http_error("500", "down"), "status takes int, not str"),  # type: ignore[arg-type]
    ],
)
def test_script_of_another_kind_is_refused_where_it_is_written(
    build: Callable[[], object], says: str
) -> None:
    with pytest.raises(TypeError, match=says):
        build()


WRONG_SETTINGS: list[tuple[Callable[..., object], str, object, str]] = [
    (Limits, "turns", "5", "must be a number"),
    (Limits, "seconds", True, "must be a number"),
    (Limits, "output_retries", "2", "must be a number"),
    (Budget, "tokens", "5", "must be a number"),
    (Budget, "seconds", True, "must be a number"),
    (Retry, "backoff", "1", "must be 0 to"),
    (Retry, "max_wait", None, "must be 0 to"),
    (ModelOptions, "temperature", "hot", "must be a finite number"),
    (ModelOptions, "temperature", float("nan"), "must be a finite number"),
    (ModelOptions, "top_p", float("inf"), "must be a finite number"),
    (ModelOptions, "top_p", True, "must be a finite number"),
    (ModelOptions, "max_tokens", 1.5, "must be a whole number"),
    (ModelOptions, "seed", "7", "must be a whole number"),
    (ModelOptions, "seed", True, "must be a whole number"),
    (ModelOptions, "stop", 5, "must be a text or a list of texts"),
    (ModelOptions, "tool_choice", ["look"], "must be a text or a mapping"),
    (ModelOptions, "parallel_tool_calls", "no", "must be True or False"),
    (ModelOptions, "reasoning_effort", 1, "must be a text"),
    (ModelOptions, "response_format", "json", "must be a mapping"),
    (ModelOptions, "extra", [("a", 1)], "must be a mapping"),
    (ModelOptions, "extra", None, "must be a mapping"),
    (ServerSettings, "body_seconds", "5", "must be a number"),
    (ServerSettings, "max_tools", [], "must be a number"),
    (ServerSettings, "turn_seconds", True, "must be a number"),
    (ServerSettings, "queue_length", 1.5, "must be a whole number of 0 or more"),
    (ServerSettings, "queue_length", -1, "must be a whole number of 0 or more"),
    (ServerSettings, "cors_origins", 5, "must be a list of origins"),
]


@pytest.mark.parametrize(("kind", "name", "value", "wanted"), WRONG_SETTINGS)
def test_setting_of_another_type_is_refused_by_name(
    kind: Callable[..., object], name: str, value: object, wanted: str
) -> None:
    with pytest.raises(ValueError, match=f"{name} {wanted}"):
        kind(**{name: value})


@pytest.mark.parametrize(
    ("argument", "value", "wanted"),
    [
        ("tools", None, "takes a list of tools, not NoneType"),
        ("hooks", None, "is a NoneType; write hooks="),
        ("hooks", 5, "is a int; write hooks="),
    ],
)
def test_argument_that_is_no_list_is_refused_by_name(
    argument: str, value: object, wanted: str
) -> None:
    with pytest.raises(TypeError, match=f"{argument}= {wanted}"):
        agent(MODEL, **{argument: value})


@pytest.mark.parametrize("argument", ["function", "reconcile"])
@pytest.mark.parametrize("value", [5, b"x", "search"])
def test_tool_without_a_function_is_refused(argument: str, value: Any) -> None:
    with pytest.raises(ToolDefinitionError, match=f"{argument}= must be a function, not {value!r}"):
        Tool(name="look", **{argument: value})


@pytest.mark.parametrize("server", ["npx server", None, ["npx", "server"]])
def test_mcp_tools_of_no_server_are_refused_with_the_right_calls(server: Any) -> None:
    with pytest.raises(TypeError, match=r"call MCPTools\.stdio\(command, args\) or MCPTools\.http"):
        MCPTools(server)
