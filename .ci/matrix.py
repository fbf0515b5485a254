"""Run the tests on every Python from 3.11 on that this machine has, and say which those were.

    python3 .ci/matrix.py [PYTEST ARGUMENTS]

Pythons are looked for on the PATH and under pyenv; each gets an environment in `.venvs/`.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
OLDEST = (3, 11)
NEWEST_KNOWN = 30


def main():
    """Run them one after another; fail when one fails, or when there is none."""
    found = pythons()
    if not found:
        sys.exit("No Python from 3.11 on was found, on the PATH or under pyenv.")
    results = {version: tested(version, path) for version, path in sorted(found.items())}
    print("\nPython   result   tests")
    for (major, minor), (ok, closing_line) in results.items():
        print(f"{major}.{minor:<6} {'passed' if ok else 'FAILED':<8} {closing_line}")
    sys.exit(not all(ok for ok, _ in results.values()))


def tested(version, path):
    """Run the suite on one Python; return whether it passed, and pytest's closing line."""
    name = "{}.{}".format(*version)
    print(f"\n=== Python {name}: {path}", flush=True)
    directory = ROOT / ".venvs" / name
    made = subprocess.call([path, str(ROOT / ".ci" / "make_venv.py"), str(directory)])
    if made != 0:
        return False, "no environment, see above"
    command = [str(directory / "bin" / "python"), "-m", "pytest", *sys.argv[1:]]
    run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    closing_line = ""
    for line in run.stdout:
        print(line, end="", flush=True)
        closing_line = line.strip(" =\n") or closing_line
    return run.wait() == 0, closing_line


def pythons():
    """Find one interpreter for each minor version, by asking each what it is."""
    found = {}
    for path in [*on_path(), *under_pyenv(), sys.executable]:
        version = version_of(path)
        if version and version >= OLDEST:
            found.setdefault(version, path)
    return found


def on_path():
    """Name the interpreters of the PATH."""
    names = (f"python3.{minor}" for minor in range(OLDEST[1], NEWEST_KNOWN))
    return [path for path in map(shutil.which, names) if path]


def under_pyenv():
    """Name the interpreters that pyenv installed."""
    root = (
        os.environ.get("PYENV_ROOT") or asked(["pyenv", "root"]) or pathlib.Path.home() / ".pyenv"
    )
    return sorted(
        str(path) for path in pathlib.Path(root).glob("versions/*/bin/python3.[1-9][0-9]")
    )


def version_of(path):
    """Ask an interpreter for its version; None for one that does not start (a pyenv shim)."""
    words = re.fullmatch(r"Python 3\.(\d+)\.\S+", asked([path, "--version"]) or "")
    return (3, int(words[1])) if words else None


def asked(command):
    """Run a command; return what it printed, or None when it failed or is not there."""
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip()


if __name__ == "__main__":
    main()
