"""Check where a tool's function can run, and find the Python that starts its process.

`sys.executable` is not always a Python. In a frozen program it is the program, which would start
itself; under uWSGI it is the server; in an embedded Python it may be the application, or None.
"""

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from pathors_agent.tools.signature import refused


def check_placement(
    tool: str,
    *,
    function: Callable[..., Any] | None,
    run_in: str,
    timeout: float | None,
    memory: int | None,
) -> None:
    """Raise `ToolDefinitionError` if the tool cannot run where its definition says."""
    if timeout is not None and not timeout > 0:
        raise refused(tool, "timeout", "should be over 0, or None")
    if run_in not in ("thread", "process"):
        raise refused(tool, "run_in", 'should be "thread" or "process"')
    if memory is not None and run_in != "process":
        raise refused(tool, "memory", 'needs run_in="process"')
    if memory is not None and not memory > 0:
        raise refused(tool, "memory", "should be over 0, or None")
    if run_in == "process" and (problem := _process_problem(function)):
        raise refused(tool, "run_in", problem)


def _process_problem(function: Callable[..., Any] | None) -> str | None:
    """Return why a function cannot run in a process, which imports it by module and name."""
    if function is None:
        return "has no function to run in a process"
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        return "should be a thread: a process cannot run an async function"
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if module == "__main__":
        # The process would have to run the whole script, and with it the agent, once more.
        return "needs a function of a module that can be imported, not of the script that runs"
    if not module or not name or getattr(sys.modules.get(module), name, None) is not function:
        return "needs a function at the top level of its module, under its own name"
    return no_python() if python_executable() is None else None


# - the Python to start -

_PYTHON: Final = re.compile(
    r"(python|pypy|graalpy)([\d.]*|_d)[wdt]{0,2}(-dbg|-intel64)?(\.exe)?", re.IGNORECASE
)
_VERSION: Final = f"{sys.version_info.major}.{sys.version_info.minor}"


def python_executable() -> str | None:
    """Return the path of a Python of this version, or None if there is none to start.

    Searches `multiprocessing.set_executable`, `sys.executable` and this Python's environment, in
    this order. Only checks which files exist.
    """
    if is_frozen():
        return None
    return next((path for path in (*_named(), *_installed()) if Path(path).is_file()), None)


def is_frozen() -> bool:
    """Return True in a program built by PyInstaller, cx_Freeze, py2exe or similar tools."""
    return bool(getattr(sys, "frozen", False))


def no_python() -> str:
    """Return why no process can be started, and what to do."""
    if is_frozen():
        return "needs a Python to start, and a frozen program has none; use a thread"
    return (
        f"finds no Python to start: sys.executable is {sys.executable!r}; call "
        f"multiprocessing.set_executable with the path of a Python {_VERSION}, or use a thread"
    )


def _named() -> Iterator[str]:
    spawn = sys.modules.get("multiprocessing.spawn")  # imported by set_executable
    chosen = None if spawn is None else spawn.get_executable()
    for path in (chosen, sys.executable, getattr(sys, "_base_executable", None)):
        name = path.decode(sys.getfilesystemencoding()) if isinstance(path, bytes) else path
        if name and _PYTHON.fullmatch(Path(name).name):
            yield name


def _installed() -> Iterator[str]:
    names = ["python.exe", "Scripts/python.exe", f"bin/python{_VERSION}"]
    for prefix in dict.fromkeys((sys.exec_prefix, sys.base_exec_prefix)):
        # Outside an environment, a Python without a version in its name may be another version.
        own = [] if prefix == sys.base_exec_prefix else ["bin/python"]
        yield from (str(Path(prefix, name)) for name in names + own)
