"""Find the Python that runs tools in processes of their own.

`sys.executable` is not always a Python. In a frozen program it is the program, which would start
itself; under uWSGI it is the server; in an embedded Python it may be the application, or None.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

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
