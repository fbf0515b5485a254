"""Find the Python that can run a tool in a process of its own. Looks only at which files exist.

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
    """Return the path of a Python of this version, or None where there is none to start.

    The one of `multiprocessing.set_executable` comes first, then `sys.executable`, then those of
    the environment that this Python belongs to.
    """
    if is_frozen():
        return None
    return next((path for path in (*_named(), *_installed()) if Path(path).is_file()), None)


def is_frozen() -> bool:
    """Whether this is a program of PyInstaller, cx_Freeze, py2exe or their like."""
    return bool(getattr(sys, "frozen", False))


def no_python() -> str:
    """Return why no process can be started, and what to do."""
    if is_frozen():
        return "needs a Python to start, which a frozen program has not; use a thread"
    return (
        f"finds no Python to start: sys.executable is {sys.executable!r}; call "
        f"multiprocessing.set_executable with the path of a Python {_VERSION}, or use a thread"
    )


def _named() -> Iterator[str]:
    spawn = sys.modules.get("multiprocessing.spawn")  # set_executable has imported it
    chosen = None if spawn is None else spawn.get_executable()
    for path in (chosen, sys.executable, getattr(sys, "_base_executable", None)):
        name = path.decode(sys.getfilesystemencoding()) if isinstance(path, bytes) else path
        if name and _PYTHON.fullmatch(Path(name).name):
            yield name


def _installed() -> Iterator[str]:
    names = ["python.exe", "Scripts/python.exe", f"bin/python{_VERSION}"]
    for prefix in dict.fromkeys((sys.exec_prefix, sys.base_exec_prefix)):
        # A Python without a version in its name may be another one, but not in an environment.
        own = [] if prefix == sys.base_exec_prefix else ["bin/python"]
        yield from (str(Path(prefix, name)) for name in names + own)
