"""The public names: which they are, that each is documented, and that importing costs nothing."""

import ast
import importlib
import importlib.metadata
import inspect
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import pathors_agent

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "pathors_agent"

PUBLIC_NAMES = {
    # what most programs import
    *("Agent", "AsyncAgent", "RunResult", "RunStream", "AsyncRunStream"),
    *("Limits", "LimitReached", "Budget", "ModelOptions", "Hook", "AsyncHook"),
    *("tool", "Tool", "ToolRegistry", "ToolContext", "MCPTools", "Retry", "Approval", "Decision"),
    # messages, deltas and histories
    *("SystemMessage", "UserMessage", "AssistantMessage", "ToolMessage"),
    *("ToolCall", "Usage", "ContentPart", "JSONValue"),
    *("TextDelta", "ReasoningDelta", "ToolCallDelta", "ToolProgressDelta"),
    *("Conversation", "load_messages", "dump_messages"),
    # how requests reach a model
    *("Transport", "AsyncTransport", "Request", "Response", "AsyncResponse"),
    *("HTTPTransport", "AsyncHTTPTransport", "AiohttpTransport", "Timeouts"),
    *("RetryingTransport", "AsyncRetryingTransport", "FallbackTransport"),
    *("AsyncFallbackTransport", "EndpointProfile", "PROFILES"),
    # which messages a model is sent
    *("last_turns", "token_budget", "summarized"),
    # the exceptions that programs catch most often
    *("AgentError", "ConversationError", "ToolDefinitionError", "ToolError", "SessionNotFound"),
    *("TransportError", "ProviderError", "AuthenticationError"),
    *("IncompleteResponse", "MalformedResponse", "RunNotFinished"),
}

# The packages whose names are for programs, too.
NAMES_OF_PACKAGES = {
    "agents": {
        *("ModelContext", "ModelRequest", "Instructions", "AsyncInstructions"),
        *("ModelHook", "AsyncModelHook", "NextModel", "AsyncNextModel"),
        *("ToolHook", "AsyncToolHook", "NextTool", "AsyncNextTool"),
        *("Price", "Amounts"),
    },
    "checking": {"check_endpoint", "Finding", "Report", "Verdict"},
    "core": {"Run", "CallModel", "CallTool", "GiveFeedback", "Status"},
    "durable": {
        *("DurableAgent", "RunHandle", "RunEvent", "RunPage", "RunStatus", "RunSummary"),
        *("Schedule", "Heartbeat", "DoubtfulCall"),
        *("run_batch", "read_batch", "write_batch", "BatchLine"),
        *("BatchRefused", "RunExists", "RunFailed", "RunNotFound"),
    },
    "history": {
        *("estimate_tokens", "History", "AsyncHistory", "HistoryTail"),
        *("Prompt", "GivenConversation"),
    },
    "offline": {"OfflineTransport", "AsyncOfflineTransport"},
    "server": {
        *("create_app", "load_projects", "make_key", "Principal", "Project"),
        *("ServerSettings", "TurnContext"),
    },
    "sessions": {
        *("EndpointSessions", "AsyncEndpointSessions", "NewSession"),
        *("SessionRecord", "SessionEntry", "SessionPage"),
    },
    "stores": {
        *("SQLSessions", "SessionStore", "OpenSession", "LoadedSession", "Omitted"),
        *("Store", "MemoryStore", "SQLStore", "Session", "SessionSummary", "OpenedSession"),
        *("Lease", "Page", "RequestId", "RequestRecord", "StoredKey", "TurnNote", "Variables"),
        *("ANSWER_HOURS", "MAX_SEARCH_BYTES", "data_text", "message_text", "now"),
    },
    "testing": {
        *("ScriptedTransport", "AsyncScriptedTransport", "answer", "calls", "raw", "http_error"),
        *("Answer", "Raw", "Reply", "Entry"),
        *("HostileTransport", "AsyncHostileTransport", "HostileScript", "hostile_scripts", "Fault"),
        *("Cassette", "AsyncCassette", "Tape", "Scrub", "CassetteMiss", "CassetteRefused"),
        *("replay", "replay_async", "ReplayDifference", "Difference"),
        *("expect", "Expectation", "transcript"),
        *("check_tool", "check_history", "check_transport", "check_async_transport"),
        *("check_store", "tool_arguments"),
    },
    "tools": {
        *("Happened", "NOT_HAPPENED", "Reconcile", "Tools", "GivenTool"),
        *("ToolChoice", "AsyncToolChoice"),
    },
    "transports": {"LoggingTransport", "AsyncLoggingTransport"},
    "wire": {"Quirk", "Delta", "RequestTemplate", "ResponseStream"},
}
PACKAGES = {"pathors_agent": PUBLIC_NAMES} | {
    f"pathors_agent.{name}": names for name, names in NAMES_OF_PACKAGES.items()
}

# Those whose `__all__` is for users, each name of which has its docstring in the reference.
DOCUMENTED_PACKAGES = [*PACKAGES, "pathors_agent.server.streams"]

# Each costs more to import than a command-line program wants to wait for `--help`.
HEAVY = [
    "pydantic",
    "msgspec",
    "httpx2",
    "aiohttp",
    "jsonschema",
    "structlog",
    "tenacity",
    "anyio",
    "asyncio",
    "sqlalchemy",
]


def lazy_imports(package: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return the module of each name of a package: for type checkers, and when it is used."""
    tree = ast.parse(Path(str(importlib.import_module(package).__file__)).read_text())
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    [assignment] = block.orelse
    assert isinstance(assignment, ast.Assign)
    assert isinstance(assignment.value, ast.Call)
    modules = ast.literal_eval(assignment.value.args[1])
    return (
        {alias.name: str(node.module) for node in imports for alias in node.names},
        {name: f"pathors_agent.{module}" for module, names in modules.items() for name in names},
    )


def is_documented(value: object) -> bool:
    """Return whether a class or function has a docstring that a person wrote."""
    text = getattr(value, "__doc__", None)
    # A dataclass without a docstring gets its signature for one.
    return bool(text) and not str(text).startswith(f"{getattr(value, '__name__', '')}(")


def is_documented_below(module: str, name: str) -> bool:
    """Return whether a text stands below the definition of an alias or constant."""
    body = ast.parse(Path(str(importlib.import_module(module).__file__)).read_text()).body
    following = dict(zip(map(ast.unparse, body), body[1:], strict=False))
    [text] = [
        node for code, node in following.items() if code.startswith((f"{name} = ", f"{name}: "))
    ]
    return isinstance(text, ast.Expr) and isinstance(ast.literal_eval(text.value), str)


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_are_these(package: str) -> None:
    module = importlib.import_module(package)

    assert set(module.__all__) == PACKAGES[package]
    assert dir(module) == sorted(PACKAGES[package])


@pytest.mark.parametrize("package", PACKAGES)
def test_type_checkers_and_python_see_the_same_names(package: str) -> None:
    for_types, when_used = lazy_imports(package)

    assert for_types == when_used
    assert set(when_used) == PACKAGES[package]


def test_no_name_is_in_two_places() -> None:
    places = Counter(name for names in PACKAGES.values() for name in names)

    assert [name for name, count in places.items() if count > 1] == []


@pytest.mark.parametrize("package", NAMES_OF_PACKAGES)
def test_no_name_is_hidden_by_a_module_of_the_same_name(package: str) -> None:
    modules = {path.stem for path in (PACKAGE / package).iterdir()}

    assert NAMES_OF_PACKAGES[package] & modules == set()


@pytest.mark.parametrize("package", [name for name in PACKAGES if name != "pathors_agent.durable"])
def test_names_are_importable_and_documented(package: str) -> None:
    _, modules = lazy_imports(package)
    values = {name: getattr(importlib.import_module(package), name) for name in modules}
    defined = {n: v for n, v in values.items() if isinstance(v, type) or inspect.isroutine(v)}
    others = values.keys() - defined.keys()

    assert {name for name, value in defined.items() if not is_documented(value)} == set()
    assert {name for name in others if not is_documented_below(modules[name], name)} == set()


@pytest.mark.slow  # DBOS starts a process when it is imported
def test_names_of_durable_runs_are_importable_and_documented() -> None:
    test_names_are_importable_and_documented("pathors_agent.durable")


@pytest.mark.process
def test_import_alone_loads_nothing_heavy() -> None:
    code = f"import sys, pathors_agent; print([m for m in {HEAVY} if m in sys.modules])"

    # -S: without site-packages' own start-up files, which may import what they like
    printed = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert printed == "[]\n"


# What the first run or request needs, by the beginnings of modules' names.
NEEDED_TO_RUN = (
    *("anyio", "asyncio", "concurrent", "difflib", "ssl", "subprocess", "trio"),
    *("httpx2", "jsonschema", "opentelemetry", "structlog", "tenacity"),
    *("pathors_agent.agents.ask", "pathors_agent.agents.control", "pathors_agent.agents.drivers"),
    *("pathors_agent.agents.perform", "pathors_agent.agents.stream", "pathors_agent.agents.result"),
    *(
        "pathors_agent.telemetry.runs",
        "pathors_agent.telemetry.spans",
        "pathors_agent.telemetry.timeline",
    ),
    *("pathors_agent.wire.response_stream", "pathors_agent.wire.sse"),
)

AN_AGENT = """
import sys
before = set(sys.modules)
from pathors_agent import Agent, AsyncAgent, AsyncHTTPTransport, HTTPTransport, tool

@tool
def add(a: int, b: int) -> int:
    "Add two numbers."
    return a + b

Agent(HTTPTransport("http://127.0.0.1:9/v1", api_key="none"), tools=[add])
AsyncAgent(AsyncHTTPTransport("http://127.0.0.1:9/v1", api_key="none"), tools=[add])
print(*sorted(set(sys.modules) - before))
"""


@pytest.mark.process
def test_agent_with_a_transport_and_a_tool_loads_nothing_that_only_runs_need() -> None:
    imported = subprocess.run(
        [sys.executable, "-c", AN_AGENT], capture_output=True, text=True, check=True
    ).stdout.split()

    assert "pathors_agent.tools.tool" in imported
    assert [name for name in imported if name.startswith(NEEDED_TO_RUN)] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_unknown_name_is_an_attribute_error_that_lists_the_names(package: str) -> None:
    with pytest.raises(AttributeError) as refused:
        _ = importlib.import_module(package).Agnet

    assert str(refused.value) == (
        f"{package} has no public name 'Agnet'; dir({package}) lists them"
    )


@pytest.mark.parametrize(
    ("package", "name", "place"),
    [
        ("pathors_agent", "Run", "pathors_agent.core"),
        ("pathors_agent", "DurableAgent", "pathors_agent.durable"),
        ("pathors_agent", "StoreError", "pathors_agent.errors"),
        ("pathors_agent.core", "Conversation", "pathors_agent"),
        ("pathors_agent.transports", "HTTPTransport", "pathors_agent"),
        ("pathors_agent.tools", "ScriptedTransport", "pathors_agent.testing"),
    ],
)
def test_name_of_another_package_is_an_attribute_error_that_names_it(
    package: str, name: str, place: str
) -> None:
    with pytest.raises(AttributeError) as refused:
        getattr(importlib.import_module(package), name)

    assert str(refused.value) == f"{package} has no public name {name!r}; import it from {place}"


def test_version_is_that_of_the_installed_distribution() -> None:
    assert pathors_agent.__version__ == importlib.metadata.version("pathors-agent")


@pytest.mark.parametrize("package", DOCUMENTED_PACKAGES)
def test_each_public_name_is_in_the_reference_once(package: str) -> None:
    source = (ROOT / "src" / package.replace(".", "/") / "__init__.py").read_text()
    named = re.search(r"^__all__ = (\[.*?\])$", source, re.MULTILINE | re.DOTALL)
    found = Counter(
        name
        for path in (ROOT / "docs" / "reference" / "api").glob("*.md")
        for place, name in re.findall(r"^`(\S+)\.(\w+)`$", path.read_text(), re.MULTILINE)
        if place == package
    )

    assert named
    assert found == Counter(ast.literal_eval(named[1])), "a name in pages.toml for each"
