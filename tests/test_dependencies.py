"""The page of dependencies names each package that is installed, with its bound and extra."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parent.parent
CORE_ROW = re.compile(r"^\| `([\w.-]+)` \| (?:`([^`]+)`|any) \|", re.MULTILINE)
EXTRA_ROW = re.compile(r"^\| `([\w.-]+)` \| (?:`([^`]+)`|any) \| `(\w+)` \|", re.MULTILINE)
# For work on the library, and what only repeats the others.
UNSHOWN = {"dev", "docs", "bench", "bench-litellm", "all"}

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PAGE = (ROOT / "docs" / "reference" / "dependencies.md").read_text()
CORE, EXTRAS = PAGE.split("\n## With an extra\n")


def test_page_names_each_package_that_is_always_installed_with_its_bound() -> None:
    shown = {name: SpecifierSet(bound) for name, bound in CORE_ROW.findall(CORE)}
    needed = [Requirement(line) for line in PROJECT["dependencies"]]

    assert shown == {each.name: each.specifier for each in needed}


def test_page_names_each_package_of_an_extra_with_its_bound() -> None:
    shown = {(extra, name): SpecifierSet(bound) for name, bound, extra in EXTRA_ROW.findall(EXTRAS)}
    needed = [
        (extra, Requirement(line))
        for extra, lines in PROJECT["optional-dependencies"].items()
        if extra not in UNSHOWN
        for line in lines
    ]

    assert shown == {
        (extra, each.name): each.specifier for extra, each in needed if each.name != PROJECT["name"]
    }


def run_code(code: str) -> "subprocess.CompletedProcess[str]":
    """Run code in a process: what is imported here cannot be imported again."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.process
@pytest.mark.parametrize(
    ("code", "error"),
    [
        (
            "import sys; sys.modules['dbos'] = None\n"
            "from pathors_agent.durable import DurableAgent",
            "pathors_agent.durable.DurableAgent needs dbos: pip install 'pathors-agent[durable]'",
        ),
        (
            "import sys; sys.modules['aiohttp'] = None\n"
            "from pathors_agent import AiohttpTransport; AiohttpTransport('http://127.0.0.1:1')",
            "AiohttpTransport needs aiohttp: pip install 'pathors-agent[aiohttp]'",
        ),
    ],
    ids=["durable runs", "aiohttp"],
)
def test_part_without_its_packages_names_the_extra(code: str, error: str) -> None:
    assert run_code(code).stderr.splitlines()[-1] == f"ModuleNotFoundError: {error}"


USES = {
    "import pathors_agent.transports.http": {"httpx2"},
    "import pathors_agent as p; p.HTTPTransport('http://a.example')": {"httpx2"},
    "import pathors_agent as p; p.AsyncHTTPTransport('http://127.0.0.1:1/v1')": {"httpx2"},
    "import pathors_agent.transports.aiohttp": {"aiohttp"},
    "import pathors_agent as p; p.Conversation([p.UserMessage(content='Hi')])._repr_html_()": {
        "rich"
    },
    "from pathors_agent import tool, ToolRegistry\n"
    "def f(x: int) -> int:\n    'Double.'\n    return 2 * x\n"
    "ToolRegistry([tool(f)])": {"jsonschema", "referencing", "docstring_parser", "difflib"},
}


@pytest.mark.slow
@pytest.mark.parametrize("code", USES)
def test_heavy_packages_are_imported_only_where_they_are_needed(code: str) -> None:
    done = run_code(f"{code}\nimport sys; print({USES[code]} & sys.modules.keys())")

    assert (done.stdout, done.stderr) == ("set()\n", "")
