"""Run the tests on the oldest versions that pyproject.toml allows, extras and tools included.

    python3 .ci/lowest.py [PYTEST ARGUMENTS]

uv finds those versions, and is installed in `.venvs/uv` where the PATH has none. Fails, too, where
a bound is never reached because another requirement asks for more: then nobody tests it.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".venvs" / "lowest"
PYTHON = ENVIRONMENT / "bin" / "python"

# Those that depend on no version of ours: of other programs, of the documents, of the tools.
LEFT_OUT = [
    *("tests/clients", "tests/server/test_page.py", "tests/test_fuzz.py", "tests/soak"),
    *("tests/test_benchmarks.py", "tests/test_mutants.py", "tests/test_imports.py"),
]
TESTS = ["-n", "auto", "--maxprocesses", "8", "--dist", "loadfile"]
TESTS += [f"--ignore={path}" for path in LEFT_OUT]

BOUND = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?\s*>=\s*([0-9.]+)")


def main():
    """Make the environment, look at its versions, run the tests."""
    make_environment()
    wrong = list(bounds_not_reached())
    if wrong:
        sys.exit("No test can reach these bounds; raise them: " + ", ".join(wrong))
    command = [str(PYTHON), "-m", "pytest", "-p", "no:cacheprovider", *(sys.argv[1:] or TESTS)]
    os.execv(PYTHON, command)


def make_environment():
    """Install the oldest direct dependencies; what those depend on is as new as they allow."""
    uv = shutil.which("uv") or installed_uv()
    call([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(ENVIRONMENT)])
    install = [uv, "pip", "install", "--quiet", "--python", str(PYTHON)]
    call([*install, "--resolution", "lowest-direct", "-e", f"{ROOT}[all,dev]"])


def installed_uv():
    """Install uv for this alone."""
    folder = ROOT / ".venvs" / "uv"
    if not (folder / "bin" / "uv").exists():
        call([sys.executable, "-m", "venv", str(folder)])
        call([str(folder / "bin" / "python"), "-m", "pip", "install", "-qq", "uv"])
    return str(folder / "bin" / "uv")


def bounds_not_reached():
    """Name the lower bounds above which something was installed, with that version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    [everything] = extras["all"]
    names = re.search(r"\[(.*)\]", everything)[1].split(",")
    asked = [*project["dependencies"], *(line for name in names for line in extras[name])]
    for name, bound in sorted({found.groups() for found in map(BOUND.match, asked) if found}):
        version = version_of(name)
        if not f"{version}.".startswith(f"{bound}."):
            yield f"{name}>={bound} ({version} is installed)"


def version_of(name):
    """Ask the environment for the version of a package."""
    code = f"from importlib.metadata import version; print(version({name!r}))"
    return subprocess.check_output([str(PYTHON), "-c", code], text=True).strip()


def call(command):
    """Run a command; end with its error when it fails."""
    if subprocess.call(command) != 0:
        sys.exit("This command failed, see above: " + " ".join(command))


if __name__ == "__main__":
    main()
