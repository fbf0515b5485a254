"""Build what is released, and try it as somebody who has nothing else: `make dist`.

    python3 .ci/dist.py [--no-benchmarks] [--suite]

`--suite` also runs the quick tests of the source where there is nothing else: `make test` in the
unpacked sdist, in an environment of its own, which takes three minutes and more. The wheel and the source go into `dist/`. Environments of their own lie in `.venvs/`: one with the
tools, one with nothing but the wheel, and one with openai beside it, for the figures.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile

from make_venv import ROOT, call, create, python, uv

DIST = pathlib.Path(ROOT, "dist")
TOOLS = ["build>=1.2", "twine>=6.1"]
# What the figures T15 and T17 are measured with.
BESIDE = ["openai>=3.0", "packaging"]

IN_WHEEL = {"pathors_agent/__init__.py", "pathors_agent/py.typed"}
IN_SOURCE = {"README.md", "CHANGELOG.md", "LICENSE", "Makefile", "pyproject.toml"}
IN_SOURCE |= {"src/pathors_agent/py.typed", "tests/conftest.py", "docs/index.md"}
# The suite reads these.
IN_SOURCE |= {"CONTRIBUTING.md", "SECURITY.md", "benchmarks/__main__.py", ".ci/make_venv.py"}


def main():
    """Do one after another; the first failure ends it."""
    tools = environment("dist-tools", TOOLS)
    wheel, source = build(tools)
    call([python(tools), "-m", "twine", "check", "--strict", str(wheel), str(source)])
    check_contents(wheel, source)
    try_alone(environment("dist-alone", [str(wheel)]))
    if "--no-benchmarks" not in sys.argv[1:]:
        measure(environment("dist-beside", [str(wheel), *BESIDE]))
    if "--suite" in sys.argv[1:]:
        run_suite(source)
    else:
        print('not tried: the tests of the source, make dist ARGS="--suite"')
    print(f"\n{wheel.name} and {source.name} are in dist/")


def environment(name, packages):
    """Make an environment anew, with these packages and what they need."""
    directory = str(pathlib.Path(ROOT, ".venvs", name))
    shutil.rmtree(directory, ignore_errors=True)
    create(directory)
    if uv():
        call([uv(), "pip", "install", "--quiet", "--python", python(directory), *packages])
    else:
        quietly = ["-qq", "--disable-pip-version-check"]
        call([python(directory), "-m", "pip", "install", *quietly, *packages])
    return directory


def build(tools):
    """Build both, the wheel out of the source; return their paths."""
    shutil.rmtree(DIST, ignore_errors=True)
    options = ["--installer", "uv"] if uv() else []
    call([python(tools), "-m", "build", *options, "--outdir", str(DIST), ROOT])
    [wheel], [source] = DIST.glob("*.whl"), DIST.glob("*.tar.gz")
    return wheel, source


def check_contents(wheel, source):
    """End where something is missing, or where something is there that does not belong."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    strange = {name for name in names if not re.match(r"pathors_agent(-[\w.]+\.dist-info)?/", name)}
    with tarfile.open(source) as archive:
        files = {name.partition("/")[2] for name in archive.getnames()}
    for what, wrong in {
        "missing in the wheel": IN_WHEEL - names,
        "not to be in the wheel": strange,
        "missing in the source": IN_SOURCE - files,
    }.items():
        if wrong:
            sys.exit(f"{what}: {', '.join(sorted(wrong))}")
    print(f"contents: {len(names)} files in the wheel, py.typed among them")


def try_alone(directory):
    """Run the README's first example where there is nothing but the wheel, warnings as errors."""
    readme = pathlib.Path(ROOT, "README.md").read_text()
    code = re.search(r"^```python\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)[1]
    expected = re.findall(r"# -> (.*)$", code, re.MULTILINE)
    command = [python(directory), "-I", "-W", "error", "-c", code]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    printed = done.stdout.splitlines()
    if done.returncode != 0 or not matches(printed, expected):
        sys.exit(f"the README's first example failed: {done.stderr or printed}")
    print(f"the README's first example, alone: {printed[0]}")


def matches(printed, expected):
    """Tell whether the lines are the expected ones, three dots standing for any text."""
    patterns = (".*".join(map(re.escape, line.split("..."))) for line in expected)
    return len(printed) == len(expected) and all(map(re.fullmatch, patterns, printed))


def measure(directory):
    """Print what importing costs (T15) and what an installation brings (T17)."""
    with tempfile.TemporaryDirectory() as folder:
        only = ["--only", "imports", "--only", "installs"]
        files = ["--json", f"{folder}/found.json", "--svg", f"{folder}/found.svg"]
        call([python(directory), "-m", "benchmarks", *only, *files])


def run_suite(source):
    """Unpack the source into an empty folder, and run its quick tests there."""
    # What reaches this program by make and by the shell is not for the other checkout.
    handed_down = {"MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS", "ARGS", "PYTHONPATH", "VIRTUAL_ENV"}
    variables = {name: value for name, value in os.environ.items() if name not in handed_down}
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(source) as archive:
            archive.extractall(folder, filter="data")
        [unpacked] = pathlib.Path(folder).iterdir()
        if subprocess.call(["make", "test"], cwd=unpacked, env=variables) != 0:
            sys.exit("the quick tests of the unpacked source failed, see above")
    print("the quick tests of the unpacked source passed")


if __name__ == "__main__":
    os.chdir(ROOT)
    main()
