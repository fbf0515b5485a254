"""Importing the library, and running an agent on a script, opens no connection: there is no telemetry."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PACKAGE = Path(__file__).parent.parent / "src" / "pathors_agent"

# An audit hook sees every call of Python's own, whichever code makes it.
WATCHED = """
import sys

REACHES = {
    "socket.connect", "socket.sendto", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname",
    "http.client.connect", "urllib.Request",
}

def watch(event, arguments):
    if event in REACHES:
        raise SystemExit(f"{event} {arguments}")

sys.addaudithook(watch)
"""

IMPORTS = """
import importlib

for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as missing:  # an extra that is not installed here
        assert not missing.name.startswith("pathors_agent"), missing
print("imported")
"""

RUNS = """
from pathors_agent import Agent, tool
from pathors_agent.testing import ScriptedTransport, calls

@tool
def add(a: int, b: int) -> int:
    return a + b

script = ScriptedTransport(calls(("add", {"a": 1, "b": 2})), "Three.")
print(Agent(script, tools=[add]).run("1 + 2?").output)
"""


def watched(code: str, *arguments: str) -> str:
    """Run code in a process that may open no connection; return its output."""
    done = subprocess.run(
        [sys.executable, "-c", WATCHED + code, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def modules() -> list[str]:
    """Name every module of the package but the program itself, which runs when it is imported."""
    files = (path.relative_to(PACKAGE.parent).with_suffix("") for path in PACKAGE.rglob("*.py"))
    names = (".".join(file.parts).removesuffix(".__init__") for file in files)
    return sorted(name for name in names if not name.endswith("__main__"))


def test_importing_every_module_opens_no_connection() -> None:
    assert watched(IMPORTS, *modules()) == "imported\n"


def test_run_connects_only_to_its_transport() -> None:
    assert watched(RUNS) == "Three.\n"
