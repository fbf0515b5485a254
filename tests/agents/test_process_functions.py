"""Which functions run in a process of their own, and which Python runs them."""

import multiprocessing.spawn
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import process_tools
from pathors_agent.agents.perform.process import ToolProcess
from pathors_agent.errors import ToolDefinitionError, ToolError
from pathors_agent.tools.interpreter import python_executable
from pathors_agent.tools.registry import ToolRegistry
from pathors_agent.tools.tool import Tool
from process_calls import PARENT, Dispatch, Function, call_in_process, in_process, start_parent
from ways import WAYS

pytestmark = pytest.mark.slow


@pytest.fixture(params=WAYS)
def dispatch(request: pytest.FixtureRequest) -> Dispatch:
    return partial(call_in_process, request.param)


# - which Python

# What stands where a Python is expected: a server, an application, nothing.
NO_PYTHONS = ["/bin/true", "/usr/bin/uwsgi", "", None]


@pytest.fixture
def no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away what multiprocessing would start."""
    monkeypatch.setattr(multiprocessing.spawn, "_python_exe", None)
    monkeypatch.setattr(sys, "_base_executable", None)


@pytest.mark.usefixtures("no_choice")
@pytest.mark.parametrize("executable", NO_PYTHONS)
def test_tool_runs_by_the_python_of_its_environment_where_the_executable_is_none(
    monkeypatch: pytest.MonkeyPatch, dispatch: Dispatch, executable: str | None
) -> None:
    monkeypatch.setattr(sys, "executable", executable)

    assert dispatch(process_tools.double, {"number": 21}).content == "42"


@pytest.mark.parametrize("executable", NO_PYTHONS)
def test_multiprocessing_executable_is_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, executable: str | None
) -> None:
    chosen = tmp_path / "python3.11"
    chosen.symlink_to(sys.executable)
    monkeypatch.setattr(multiprocessing.spawn, "_python_exe", os.fsencode(chosen))
    monkeypatch.setattr(sys, "executable", executable)

    assert python_executable() == str(chosen)


@pytest.mark.parametrize("executable", ["/bin/true", "/app/my-program", None])
@pytest.mark.usefixtures("no_choice")
def test_tool_is_refused_where_there_is_no_python(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, executable: str | None
) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    monkeypatch.setattr(sys, "exec_prefix", str(tmp_path))
    monkeypatch.setattr(sys, "base_exec_prefix", str(tmp_path))

    with pytest.raises(ToolDefinitionError) as refused:
        ToolRegistry([in_process(process_tools.double)])

    assert refused.value.path == "run_in"
    assert str(refused.value) == (
        f"tool 'look': run_in finds no Python to start: sys.executable is {executable!r}; call "
        "multiprocessing.set_executable with the path of a Python "
        f"{sys.version_info.major}.{sys.version_info.minor}, or use a thread"
    )


def test_frozen_program_refuses_the_tool_and_never_starts_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registered = ToolRegistry([in_process(process_tools.double)])["look"]
    monkeypatch.setattr(sys, "frozen", True, raising=False)

    with pytest.raises(ToolDefinitionError) as refused:
        ToolRegistry([in_process(process_tools.double)])

    assert str(refused.value) == (
        "tool 'look': run_in needs a Python to start, and a frozen program has none; use a thread"
    )
    with pytest.raises(ToolError, match="Not run: it needs a Python to start"):
        ToolProcess(registered, {"number": 1}).run(None)


@pytest.mark.parametrize(
    ("name", "is_python"),
    [
        *((name, True) for name in ("python", "python3", "python3.13t", "pythonw.exe", "PYPY3.10")),
        *((name, True) for name in ("Python", "python_d.exe", "graalpy", "python3.11-dbg")),
        *((name, False) for name in ("uwsgi", "pythonservice.exe", "python-app", "my-python")),
    ],
)
def test_python_is_known_by_the_name_of_its_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, is_python: bool
) -> None:
    executable = tmp_path / name
    executable.touch()
    monkeypatch.setattr(multiprocessing.spawn, "_python_exe", None)
    monkeypatch.setattr(sys, "executable", str(executable))

    assert (python_executable() == str(executable)) is is_python


def test_process_awaits_the_value_of_a_wrapper_of_an_async_function(dispatch: Dispatch) -> None:
    assert dispatch(process_tools.wait_inside, {"number": 42}).content == "42"


def test_definition_of_a_tool_warns_if_python_removed_its_docstring(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from pathors_agent import tool\n"
        "@tool\n"
        "def look(city: str) -> str:\n"
        "    'Look.'\n"
        "@tool(description='See.')\n"
        "def see() -> None: ...\n"
    )

    def told(flag: str) -> list[str]:
        command = [sys.executable, flag, str(script)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return [line for line in done.stderr.splitlines() if "RuntimeWarning" in line]

    assert told("-O") == []
    assert told("-OO") == [
        f"{script}:2: RuntimeWarning: tool 'look': Python runs with -OO, which removes docstrings, "
        "so that the model sees no descriptions. Run it with -O, or pass description= and annotate "
        "the parameters with Field(description=...)."
    ]


# - which functions


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("is_script", [False, True])
def test_tool_of_a_module_runs_whatever_the_main_program_is(
    tmp_path: Path, way: str, is_script: bool
) -> None:
    script = tmp_path / "script.py"
    script.write_text(PARENT)

    with start_parent(*([str(script)] if is_script else ["-c", PARENT]), way, "double") as parent:
        assert parent.communicate(timeout=30) == ("42\n", "")


def test_tool_of_the_script_itself_is_refused(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from pathors_agent import ToolRegistry, tool\n"
        "@tool(run_in='process')\n"
        "def look() -> None: ...\n"
        "ToolRegistry([look])\n"
    )

    with start_parent(str(script)) as parent:
        _, errors = parent.communicate(timeout=30)

    assert errors.splitlines()[-1] == (
        "pathors_agent.errors.ToolDefinitionError: tool 'look': run_in needs a function of a "
        "module that can be imported, not of the script that runs"
    )


TOP_LEVEL = "needs a function at the top level of its module, under its own name"


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (process_tools.wait, "should be a thread: a process cannot run an async function"),
        (process_tools.wait_in_parts, "should be a thread: a process cannot run an async function"),
        (process_tools.unnamed, TOP_LEVEL),
        (process_tools.nested(), TOP_LEVEL),
        (process_tools.Methods.static, TOP_LEVEL),
        (process_tools.Methods().bound, TOP_LEVEL),
        (None, "has no function to run in a process"),
    ],
)
def test_function_that_no_process_would_find_is_refused(
    function: Function | None, problem: str
) -> None:
    tool = Tool(name="look", function=function, run_in="process")

    with pytest.raises(ToolDefinitionError) as refused:
        ToolRegistry([tool])

    assert (refused.value.tool, refused.value.path) == ("look", "run_in")
    assert str(refused.value) == f"tool 'look': run_in {problem}"


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"timeout": 0}, "timeout"),
        ({"timeout": -1.0}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"timeout": "5"}, "timeout"),
        ({"timeout": True}, "timeout"),
        ({"run_in": "cloud"}, "run_in"),
        ({"memory": 1_000_000}, "memory"),
        ({"memory": 0, "run_in": "process"}, "memory"),
        ({"memory": "1 GB", "run_in": "process"}, "memory"),
    ],
)
def test_placement_that_cannot_be_kept_is_refused(options: dict[str, Any], path: str) -> None:
    with pytest.raises(ToolDefinitionError) as refused:
        ToolRegistry([Tool(name="look", function=process_tools.where, **options)])

    assert refused.value.path == path
