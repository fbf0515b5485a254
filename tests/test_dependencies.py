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


@pytest.mark.process  # what is imported here cannot be imported again
def test_durable_runs_without_their_packages_name_the_extra() -> None:
    code = "import sys; sys.modules['dbos'] = None; from pathors_agent.durable import DurableAgent"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.stderr.splitlines()[-1] == (
        "ModuleNotFoundError: pathors_agent.durable.DurableAgent needs dbos:"
        " pip install 'pathors-agent[durable]'"
    )
