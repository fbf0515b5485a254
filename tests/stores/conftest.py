"""Fixtures of the tests of stores."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pathors_agent.stores import SQLStore
from sql_stores import LONG


@pytest.fixture
def sqlite_file(tmp_path: Path) -> Path:
    return tmp_path / "sessions.db"


@pytest.fixture
def sqlite_url(sqlite_file: Path) -> str:
    return f"sqlite:///{sqlite_file}"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    """Return the URL of an empty database, of either kind."""
    name = "sqlite_url" if request.param == "sqlite" else "postgres_url"
    return str(request.getfixturevalue(name))


@pytest.fixture
async def store(url: str) -> AsyncIterator[SQLStore]:
    async with SQLStore(url, timeout=LONG) as opened:
        yield opened
