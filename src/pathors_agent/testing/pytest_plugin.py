"""The pytest plugin: the fixture `cassette` and the option `--record`."""

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # loaded with every run of pytest, so nothing heavy until it is used
    from pathors_agent.testing.tape import Tape

FOLDER = "cassettes"

# A file of this name is the same on every file system, also where "A" and "a" are one file.
_PLAIN_NAME = re.compile(r"[a-z0-9_]{1,100}")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]+")
# File systems allow names of 255 bytes; Windows, whole paths of 260 characters.
_NAME_LENGTH = 80
_DIGEST_LENGTH = 12


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option `--record`."""
    parser.getgroup("pathors-agent").addoption(
        "--record",
        action="store_true",
        help="record the cassettes of the selected tests again, from the real endpoints",
    )


@pytest.fixture
def cassette(request: pytest.FixtureRequest) -> "Tape":
    """Return the tape of this test, for `Cassette` or `AsyncCassette`; its file is named after the test.

    It is recorded with `--record` only. Otherwise, a request that is not on the tape fails the test.
    """
    from pathors_agent.testing.tape import Tape

    return Tape(tape_path(request), record=request.config.getoption("--record"))


def tape_path(request: pytest.FixtureRequest) -> Path:
    """Return the file of a test: `cassettes/<module>/<test>.json` beside its module."""
    test: pytest.Item = request.node
    folder = test.path.parent / FOLDER / test.path.stem
    # The id of the test within its module, with its classes and parameters.
    name = test.nodeid.partition("::")[2] or test.name
    return folder / f"{file_name(name)}.json"


def file_name(test: str) -> str:
    """Return the name of a test's file, without its ending; two tests never have the same one.

    A name that had to be changed, or that another file system may take for another one, ends with a
    digest of the test's id.
    """
    if _PLAIN_NAME.fullmatch(test):
        return test
    readable = _NOT_IN_NAMES.sub("-", test.replace("::", ".")).strip("-.")[:_NAME_LENGTH]
    digest = hashlib.sha256(test.encode(errors="surrogatepass")).hexdigest()[:_DIGEST_LENGTH]
    return f"{readable}.{digest}"
