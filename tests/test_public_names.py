"""The public names: which they are, that each is documented, and that importing costs nothing."""

import ast
import importlib
import importlib.metadata
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import pathors_agent

ROOT = Path(__file__).parent.parent

PUBLIC_NAMES = {
    # what most programs import
    *(
        "Agent",
        "AsyncAgent",
        "RunResult",
        "RunStream",
        "AsyncRunStream",
        "Limits",
        "Budget",
        "ModelOptions",
        "Status",
    ),
    *("tool", "Tool", "ToolRegistry", "ToolContext", "MCPTools"),
    # what was said
    *("SystemMessage", "UserMessage", "AssistantMessage", "ToolMessage"),
    *("ToolCall", "Usage", "ContentPart", "JSONValue"),
    *("TextDelta", "ReasoningDelta", "ToolCallDelta", "ToolProgressDelta"),
    *("Conversation", "load_messages", "dump_messages"),
    # the loop itself
    *("Run", "CallModel", "CallTool", "GiveFeedback"),
    # what of a history is sent
    *("last_turns", "token_budget", "estimate_tokens", "summarized"),
    *("Approval", "Decision", "Happened", "NOT_HAPPENED"),
    # what wraps each call
    *("Hook", "AsyncHook", "ModelContext", "ModelRequest", "LimitReached"),
    # how a model is reached
    *("Transport", "AsyncTransport", "Request", "Response", "AsyncResponse"),
    *("HTTPTransport", "AsyncHTTPTransport", "Timeouts", "EndpointProfile", "PROFILES", "Quirk"),
    *("Retry", "RetryingTransport", "AsyncRetryingTransport", "FallbackTransport"),
    *("AsyncFallbackTransport", "AiohttpTransport", "LoggingTransport", "AsyncLoggingTransport"),
    # sessions that the program keeps, and those that the endpoint keeps
    *("SessionStore", "SQLSessions"),
    *(
        "EndpointSessions",
        "AsyncEndpointSessions",
        "NewSession",
        "SessionRecord",
        "SessionEntry",
        "SessionPage",
    ),
    # what goes wrong
    *("AgentError", "ConversationError", "ToolDefinitionError", "RunNotFinished", "StreamInUse"),
    *("TransportError", "ProviderError", "MalformedResponse", "IncompleteResponse"),
    *("StoreError", "SessionNotFound", "SessionConflict", "AuthenticationError", "ToolError"),
    "ToolLoopError",
}

# An alias has no `__doc__` of its own; a text below its definition documents it.
ALIASES = {
    "AsyncHook": "agents.hooks",
    "Hook": "agents.hooks",
    "JSONValue": "messages",
    "NOT_HAPPENED": "agents.perform.reconcile",
    "PROFILES": "wire.profiles",
}

# Those whose `__all__` is for users, each name of which has its docstring in the reference.
DOCUMENTED_PACKAGES = [
    *("", "checking", "durable", "offline", "server", "server.streams", "stores", "testing"),
]

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


def test_public_names_are_these() -> None:
    assert set(pathors_agent.__all__) == PUBLIC_NAMES


def test_dir_lists_the_public_names() -> None:
    assert dir(pathors_agent) == sorted([*PUBLIC_NAMES, "__version__"])


@pytest.mark.parametrize("name", sorted(PUBLIC_NAMES))
def test_name_is_importable(name: str) -> None:
    assert getattr(pathors_agent, name) is not None


@pytest.mark.parametrize("name", sorted(PUBLIC_NAMES - ALIASES.keys()))
def test_name_is_documented(name: str) -> None:
    documented = getattr(pathors_agent, name).__doc__

    # A dataclass without a docstring gets its signature for one.
    assert documented
    assert not documented.startswith(f"{name}(")


@pytest.mark.parametrize(("name", "module"), ALIASES.items())
def test_alias_is_documented(name: str, module: str) -> None:
    source = Path(str(importlib.import_module(f"pathors_agent.{module}").__file__)).read_text()
    body = ast.parse(source).body
    following = dict(zip(map(ast.unparse, body), body[1:], strict=False))
    [text] = [node for code, node in following.items() if code.startswith(f"{name} = ")]

    assert isinstance(text, ast.Expr)
    assert isinstance(ast.literal_eval(text.value), str)


def test_type_checkers_and_python_see_the_same_names() -> None:
    tree = ast.parse(Path(str(pathors_agent.__file__)).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    for_types = {alias.name: node.module for node in imports for alias in node.names}

    at_runtime = {
        name: f"pathors_agent.{module}" for name, module in pathors_agent._MODULES.items()
    }

    assert for_types == at_runtime
    assert set(at_runtime) == PUBLIC_NAMES


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


def test_unknown_name_is_an_attribute_error_that_helps() -> None:
    with pytest.raises(AttributeError, match=r"no public name 'Agnet'; dir\(pathors_agent\) lists"):
        _ = pathors_agent.Agnet  # type: ignore[attr-defined]


def test_version_is_that_of_the_installed_distribution() -> None:
    assert pathors_agent.__version__ == importlib.metadata.version("pathors-agent")


@pytest.mark.parametrize("package", DOCUMENTED_PACKAGES)
def test_each_public_name_is_in_the_reference_once(package: str) -> None:
    source = (
        ROOT / "src" / "pathors_agent" / package.replace(".", "/") / "__init__.py"
    ).read_text()
    named = re.search(r"^__all__ = (\[.*?\])$", source, re.MULTILINE | re.DOTALL)
    found = Counter(
        name
        for path in (ROOT / "docs" / "reference" / "api").glob("*.md")
        for place, name in re.findall(r"^`(\S+)\.(\w+)`$", path.read_text(), re.MULTILINE)
        if place == f"pathors_agent.{package}".rstrip(".")
    )

    assert named
    assert found == Counter(ast.literal_eval(named[1])), "a name in pages.toml for each"
