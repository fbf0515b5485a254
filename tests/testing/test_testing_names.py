"""The public names of the toolkit: which they are, that each is documented, and loaded when used."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pathors_agent.testing

PUBLIC_NAMES = {
    *("ScriptedTransport", "AsyncScriptedTransport", "answer", "calls", "raw", "http_error"),
    *("Answer", "Raw", "Reply", "Entry"),
    *("HostileTransport", "AsyncHostileTransport", "HostileScript", "hostile_scripts", "Fault"),
    *("Cassette", "AsyncCassette", "Tape", "Scrub", "CassetteMiss", "CassetteRefused"),
    *("replay", "replay_async", "ReplayDifference", "Difference"),
    *("expect", "Expectation", "transcript"),
    *("check_tool", "check_history", "check_transport", "check_async_transport", "check_store"),
    "tool_arguments",
}
ALIASES = {"Entry", "Fault"}


def test_public_names_are_these() -> None:
    assert set(pathors_agent.testing.__all__) == PUBLIC_NAMES
    assert dir(pathors_agent.testing) == sorted(PUBLIC_NAMES)


@pytest.mark.parametrize("name", sorted(PUBLIC_NAMES))
def test_name_is_importable_and_documented(name: str) -> None:
    value = getattr(pathors_agent.testing, name)

    assert name in ALIASES or (value.__doc__ and not value.__doc__.startswith(f"{name}("))


def test_type_checkers_and_python_see_the_same_names() -> None:
    tree = ast.parse(Path(str(pathors_agent.testing.__file__)).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    for_types = {alias.name: node.module for node in imports for alias in node.names}

    assert for_types == pathors_agent.testing._MODULES


def test_no_name_is_hidden_by_a_module_of_the_same_name() -> None:
    folder = Path(str(pathors_agent.testing.__file__)).parent

    assert not PUBLIC_NAMES & {path.stem for path in folder.glob("*.py")}


def test_unknown_name_is_an_attribute_error_that_helps() -> None:
    with pytest.raises(AttributeError, match="no public name 'Scripted'; dir"):
        _ = pathors_agent.testing.Scripted  # type: ignore[attr-defined]


@pytest.mark.slow
def test_transports_need_no_hypothesis() -> None:
    code = """
import sys
sys.modules["hypothesis"] = None
from pathors_agent.testing import *
""".replace("*", "Cassette, HostileTransport, ScriptedTransport, check_tool, expect, replay")

    subprocess.run([sys.executable, "-c", code], check=True)
