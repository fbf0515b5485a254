"""What pytest gets from this package: the fixture `cassette`, and the option `--record`."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # loaded with every run of pytest, so nothing heavy until it is used
    from pathors_agent.testing.tape import Tape

FOLDER = "cassettes"
_NOT_IN_NAMES = re.compile(r"[^\w.-]+")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that lets tests record."""
    parser.getgroup("pathors-agent").addoption(
        "--record",
        action="store_true",
        help="record the cassettes of the selected tests anew, from the real endpoints",
    )


@pytest.fixture
def cassette(request: pytest.FixtureRequest) -> "Tape":
    """Give the tape of this test, for `Cassette` or `AsyncCassette`: a file named after it.

    It is recorded with `--record` only; else a request that it does not hold fails the test.
    """
    from pathors_agent.testing.tape import Tape

    return Tape(tape_path(request), record=request.config.getoption("--record"))


def tape_path(request: pytest.FixtureRequest) -> Path:
    """Give the file of a test: `cassettes/<module>/<test>.json` beside its module."""
    test: pytest.Item = request.node
    owner = test.getparent(pytest.Class)
    name = f"{owner.name}.{test.name}" if owner else test.name
    plain = _NOT_IN_NAMES.sub("-", name).strip("-")
    return test.path.parent / FOLDER / test.path.stem / f"{plain}.json"
