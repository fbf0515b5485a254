"""Many processes at one database: nothing is lost, doubled or mixed when processes are killed."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from pathors_agent.stores import Session, SQLStore
from servers import PATIENCE_SECONDS

WRITER = Path(__file__).parent / "writer.py"

pytestmark = [pytest.mark.slow, pytest.mark.anyio]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """SQLAlchemy runs on asyncio."""
    return "asyncio"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of an empty database, of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/sessions.db"
    return str(request.getfixturevalue("postgres_url"))


@contextmanager
def started(program: str, url: str, option: str = "") -> Iterator[subprocess.Popen[str]]:
    """Start a program of writer.py, and end it with the block."""
    command = [sys.executable, "-W", "error", str(WRITER), program, url, option]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def line_of(process: subprocess.Popen[str]) -> object:
    """Read what a program says next."""
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


async def stored(url: str) -> Session:
    async with SQLStore(url) as store:
        return await store.session("project", "session")


@pytest.fixture
def four_writers(url: str) -> list[str]:
    """Let 20 tasks in 4 processes save turns at once; return the turns that were saved."""
    with (
        started("five_writers", url, "a") as a,
        started("five_writers", url, "b") as b,
        started("five_writers", url, "c") as c,
        started("five_writers", url, "d") as d,
    ):
        writers = (a, b, c, d)
        assert [line_of(each) for each in writers] == ["ready"] * 4
        results = [line_of(each) for each in writers]
        assert [each.wait(PATIENCE_SECONDS) for each in writers] == [0] * 4
    turns: list[str] = []
    for result in results:
        assert isinstance(result, list)
        turns += result
    return turns


async def test_turns_of_twenty_tasks_in_four_processes_are_whole_and_single(
    url: str, four_writers: list[str]
) -> None:
    session = await stored(url)

    assert session.revision == len(session.messages) == 2 * len(four_writers)
    said = [(each.role, each.content) for each in session.messages]
    asked = [content for _, content in said[::2]]
    assert said == [(role, turn) for turn in asked for role in ("user", "assistant")]
    assert sorted(map(str, asked)) == sorted(four_writers)
    # Of each task, at least the three turns that kept within their lease.
    assert len(four_writers) >= 60


async def test_next_gets_in_when_the_holder_of_a_lease_is_killed(url: str) -> None:
    async with SQLStore(url) as store:
        with started("holder", url, "1.0") as process:
            assert line_of(process) == "ready"
            assert await store.take_lease("project", "session", holder="next", seconds=1) is None
            process.send_signal(signal.SIGKILL)
            while await store.take_lease("project", "session", holder="next", seconds=1) is None:  # noqa: ASYNC110
                await anyio.sleep(0.02)


async def test_turn_is_whole_or_absent_when_its_writer_is_killed(url: str) -> None:
    with started("big_turns", url) as process:
        assert line_of(process) == "ready"
        assert line_of(process) == "ready"
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE_SECONDS)

    session = await stored(url)

    assert session.revision == len(session.messages) >= 200
    assert session.revision % 100 == 0


async def test_processes_that_open_a_new_database_at_once_all_succeed(url: str) -> None:
    with (
        started("opener", url) as a,
        started("opener", url) as b,
        started("opener", url) as c,
        started("opener", url) as d,
    ):
        openers = (a, b, c, d)
        assert [line_of(each) for each in openers] == ["ready"] * 4
        for each in openers:
            assert each.stdin is not None
            each.stdin.write("go\n")
            each.stdin.flush()
        assert [line_of(each) for each in openers] == ["opened"] * 4
        assert [each.wait(PATIENCE_SECONDS) for each in openers] == [0] * 4


async def test_turns_before_the_disk_was_full_are_kept(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/sessions.db"

    with started("small_disk", url, "400000") as process:
        result = line_of(process)

    assert isinstance(result, list)
    text, revision = result
    assert text.startswith(f"Could not save a turn in {url}: the ")
    assert "check the disk and its free space (SQLITE_IOERR" in text
    session = await stored(url)
    assert session.revision == len(session.messages) == revision >= 2
    async with SQLStore(url) as store:
        await store.check()
