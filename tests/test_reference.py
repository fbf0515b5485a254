"""The reference names what there is: settings, bounds and quirks, with their values."""

import ast
import importlib
import inspect
import re
import runpy
from collections import Counter
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

import pytest

from pathors_agent import (
    AiohttpTransport,
    AsyncHTTPTransport,
    AsyncRetryingTransport,
    EndpointProfile,
    HTTPTransport,
    Limits,
    ModelOptions,
    Retry,
    RetryingTransport,
    Timeouts,
    Tool,
)
from pathors_agent.server import ServerSettings
from pathors_agent.telemetry.spans import CAPTURE

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs" / "reference"
PACKAGE = ROOT / "src" / "pathors_agent"

SETTINGS = [Limits, ModelOptions, Timeouts, EndpointProfile, Tool, Retry, ServerSettings]
ROW = re.compile(r"^\| `([\w.]+)` \| (.+?) \| (.*?) \|$", re.MULTILINE)

UNITS = {"KiB": 1024, "MiB": 1024 * 1024}
# Texts of tests and demonstrations, which bound nothing.
NO_BOUNDS = ("testing", "offline", "cli", "demo", "demo_tools")


def page(name: str) -> str:
    return (REFERENCE / f"{name}.md").read_text()


@pytest.mark.parametrize("kind", SETTINGS, ids=lambda kind: kind.__name__)
def test_settings_have_the_fields_and_defaults_that_the_page_names(kind: type) -> None:
    shown = defaults_on_page(kind.__name__)

    assert shown == {field.name: default(field) for field in public_fields(kind)}


@pytest.mark.parametrize("kind", [RetryingTransport, AsyncRetryingTransport])
def test_retrying_has_the_arguments_and_defaults_that_the_page_names(kind: type) -> None:
    shown = defaults_on_page("RetryingTransport")
    parameters = inspect.signature(kind).parameters

    assert shown == {name: parameters[name].default for name in shown}


@pytest.mark.parametrize("kind", [HTTPTransport, AsyncHTTPTransport, AiohttpTransport])
def test_transport_has_the_arguments_and_defaults_that_the_page_names(kind: type) -> None:
    shown = defaults_on_page("HTTPTransport")
    parameters = inspect.signature(kind).parameters

    # Base URL and timeouts have their own places on the page.
    assert shown == {
        name: parameters[name].default
        for name in parameters
        if name not in ("base_url", "timeouts")
    }


def test_each_variable_of_the_environment_is_on_the_page() -> None:
    texts = "".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    read = {*re.findall(r'environ\.get\(\s*"(\w+)"', texts), CAPTURE}
    section = page("settings").partition("\n## Environment\n")[2].partition("\n## ")[0]

    assert {"PATHORS_BASE_URL", "PATHORS_API_KEY"} <= read
    assert read - set(re.findall(r"`(\w+)`", section)) == set()


def defaults_on_page(section: str) -> dict[str, object]:
    text = page("settings").partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return {name: eval(default.strip("`")) for name, default, _ in ROW.findall(text)}


def public_fields(kind: Any) -> Iterator[Field[Any]]:
    """Return the fields that may be set; what every tool must have is no setting."""
    required = {"name", "parameters", "function"} if kind is Tool else set()
    return (f for f in fields(kind) if f.name not in required and not f.name.startswith("_"))


def default(field: Field[Any]) -> object:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return field.default


@pytest.mark.process  # a library of the durable engine asks a program about the machine
def test_limits_have_the_values_that_the_page_names() -> None:
    shown = {name: number(value) for name, value, _ in ROW.findall(page("limits"))}

    assert shown == {name: value_of(name) for name in shown}


def test_every_bound_is_on_the_page() -> None:
    bounds = {
        f"{module}.{name}"
        for module, name in constants()
        if name.startswith("MAX_")
        and not module.startswith(NO_BOUNDS)
        and module != "server.settings"  # they are the defaults of its fields
    }

    assert bounds - {name for name, _, _ in ROW.findall(page("limits"))} == set()


def number(text: str) -> int:
    amount, _, unit = text.partition(" ")
    return int(amount.replace(",", "")) * UNITS.get(unit, 1)


def value_of(name: str) -> object:
    module, _, constant = name.rpartition(".")
    return getattr(importlib.import_module(f"pathors_agent.{module}"), constant)


def constants() -> Iterator[tuple[str, str]]:
    """Return the module and name of each number that a module gives a public name in capitals."""
    for path in PACKAGE.rglob("*.py"):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for node in ast.parse(path.read_text()).body:
            for target in node.targets if isinstance(node, ast.Assign) else ():
                if isinstance(target, ast.Name) and target.id.isupper():
                    yield module, target.id


def test_every_quirk_is_in_the_wire_format() -> None:
    texts = "".join(path.read_text() for path in (PACKAGE / "wire").glob("*.py"))
    kinds = {*re.findall(r'\bnote\(\s*"(\w+)"', texts), "shared_id", "missing_id"}
    section = page("wire-format").partition("\n## Quirks\n")[2]

    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == kinds


API = REFERENCE / "api"
ENTRY = re.compile(r"^(?=##+ )", re.MULTILINE)
# What an entry has beside its text.
GIVEN = re.compile(
    r"```py\n(?s:.*?)```|^(?:##|`pathors|Types: |Inherits |Supports ).*$", re.MULTILINE
)


def entries() -> Iterator[tuple[str, str]]:
    """Return the page and text of each class, function, method and type of the reference."""
    for path in sorted(API.glob("*.md")):
        yield from ((path.name, text) for text in ENTRY.split(path.read_text())[1:])


def test_pages_of_names_are_those_of_the_source() -> None:
    writer = runpy.run_path(str(ROOT / ".ci" / "reference.py"))
    written = writer["pages"]()

    assert {path.name for path in API.glob("*.md")} == written.keys()
    for name, text in written.items():
        assert (API / name).read_text() == text, "run: python3 .ci/reference.py"


def test_each_type_in_a_signature_is_linked() -> None:
    known = {text.split()[1] for _, text in entries() if text.startswith("## ")}
    unlinked = []
    for page, text in entries():
        # The lines of fields link their types themselves.
        [code] = re.findall(r"^```py\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)[:1] or [""]
        names = set(re.findall(r"(?<=[\[ ,(])[A-Z]\w*", re.sub(r'"[^"]*"', "", code)))
        linked = set(re.findall(r"\[(\w+)\]\(", text))
        unlinked += [
            (page, text.splitlines()[0], name)
            for name in (names & known) - linked - {text.split()[1]}
        ]

    assert len(known) > 200
    assert unlinked == [  # `mcp` and Starlette have types of the same names
        ("tools.md", "### MCPTools.list_prompts", "Prompt"),
        ("types.md", "## Authenticate", "Request"),
    ]


def test_each_type_in_a_signature_is_documented_or_from_elsewhere() -> None:
    known = {text.split()[1] for _, text in entries() if text.startswith("## ")}
    named = {
        name
        for _, text in entries()
        for code in re.findall(r"^```py\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        for name in re.findall(r"(?<=[\[ ,(|])[A-Z]\w*", re.sub(r'"[^"]*"', "", code))
    }
    ours = {
        node.name
        for path in PACKAGE.rglob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef)
    }

    assert (named & ours) - known == set()


def test_each_entry_of_a_name_has_a_text() -> None:
    assert [
        (page, text.splitlines()[0]) for page, text in entries() if not GIVEN.sub("", text).strip()
    ] == []


def test_headings_of_a_page_differ() -> None:
    headings = Counter((page, text.splitlines()[0].lower()) for page, text in entries())

    assert [heading for heading, count in headings.items() if count > 1] == []


def test_reference_shows_async_defaults_and_members() -> None:
    agents, tools = (API / "agents.md").read_text(), (API / "tools.md").read_text()

    assert "\nasync def run(\n    prompt: Prompt | None = None,\n" in agents
    assert "\n    turns: int = 25,\n" in agents
    assert '- `SUSPENDED` = `"suspended"`\n' in agents
    assert "\n    max_result_characters: int = 20000,\n" in tools
