"""A process that serves turns, killed at any moment: what was answered is there, and all is whole."""

import json
import os
import random
import re
import select
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pathors_agent.core.conversation import Conversation
from pathors_agent.stores import Session, SQLStore
from servers import PATIENCE_SECONDS

PROGRAM = Path(__file__).parent / "turns_program.py"

# By default a few; with FAULTS=all as many as it takes to trust it.
KILLS = 200 if os.environ.get("FAULTS") == "all" else 8
# How many answers are waited for, and how much longer at most: about the time of a turn.
MOST_ANSWERS = 12
LATEST_SECONDS = 0.05

TURN = "user assistant tool assistant"
# What a killed turn did, for the model of the next one to read.
INTERRUPTED = "assistant tool"

pytestmark = [pytest.mark.slow, pytest.mark.anyio]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """SQLAlchemy runs on asyncio."""
    return "asyncio"


@dataclass
class Program:
    """The program, and what each session was answered, over all kills."""

    process: "subprocess.Popen[bytes]"
    answered: dict[str, list[str]] = field(default_factory=dict)

    def kill_one(self, name: str, url: str, answers: int, seconds: float) -> None:
        """Let a process serve turns, and kill it so long after so many answers."""
        child = self._start(name, url)
        for _ in range(answers):
            self._note(self.line())
        select.select([], [], [], seconds)
        self._kill(child)

    def serve_until_answered(self, session: str, name: str, url: str) -> None:
        """Let a process serve turns until it answers in a session that others had before."""
        child = self._start(name, url)
        before = len(self.answered.get(session, []))
        while len(self.answered.get(session, [])) == before:
            self._note(self.line())
        self._kill(child)

    def _start(self, name: str, url: str) -> int:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{name} {url}\n".encode())
        child = self.line()
        assert isinstance(child, int)
        return child

    def _kill(self, child: int) -> None:
        os.kill(child, signal.SIGKILL)
        while (line := self.line()) != "gone":
            self._note(line)

    def _note(self, line: object) -> None:
        if isinstance(line, list):
            session, text, status = line
            assert status == 200, line
            self.answered.setdefault(session, []).append(text)

    def line(self) -> object:
        """Read what it says next."""
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())


@contextmanager
def program() -> Iterator[Program]:
    command = [sys.executable, "-W", "error", str(PROGRAM)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as process:
        turns = Program(process)
        while turns.line() != "imported":
            pass
        yield turns
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(PATIENCE_SECONDS) == 0


@pytest.mark.timeout(3600 if KILLS > 100 else 120)
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_killed_process_leaves_whole_turns_and_each_that_was_answered(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    file = tmp_path / "sessions.db"
    url = f"sqlite:///{file}" if kind == "sqlite" else request.getfixturevalue("postgres_url")
    moments = random.Random(7)
    with program() as turns:
        for number in range(KILLS):
            turns.kill_one(
                f"k{number}",
                url,
                moments.randrange(MOST_ANSWERS),
                moments.uniform(0, LATEST_SECONDS),
            )
            if kind == "sqlite":
                check_integrity(file)
            await check_sessions(url, turns.answered)
        turns.serve_until_answered("shared", "last", url)
        await check_sessions(url, turns.answered)

    # It was no idle run: most were killed after some turns.
    assert len(turns.answered) > KILLS


def check_integrity(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


async def check_sessions(url: str, answered: dict[str, list[str]]) -> None:
    """Compare the newest sessions with what was answered."""
    async with SQLStore(url) as store:
        await store.check()
        page = await store.search_sessions("demo", "", limit=8, offset=0)
    for session in page.items:
        check_session(session, answered.get(session.id, []))


def check_session(session: Session, answered: list[str]) -> None:
    said = Conversation(session.messages)  # a legal history, or an error
    assert said.open_calls == ()
    roles = " ".join(message.role for message in session.messages)
    asked = [m.text for m in session.messages if m.role == "user"]
    assert re.fullmatch(f"(({INTERRUPTED} )*{TURN} ?)*", roles), (session.id, roles)
    # Each that was answered, in order and once; those of each killed process may end with one
    # that was stored, and whose answer the kill cut off.
    others = [text for text in asked if text not in answered]
    assert [text for text in asked if text in answered] == answered, session.id
    assert len({text.partition("(")[2] for text in others}) == len(others), session.id
