"""A real PostgreSQL server for tests: a private cluster, made from the installed programs.

The fixtures: `postgres_server` is started once per test run, on a free loopback port;
`postgres_url` is the URL of a new, empty database in it.
"""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

# Nothing has to outlive the tests, so nothing waits for the disk.
SETTINGS = "-c fsync=off -c full_page_writes=off"

# Another program may take a free port before the server does.
TRIES = 5


@dataclass(frozen=True)
class PostgresServer:
    """A running server; `user` may do everything, without a password."""

    port: int
    user: str = "postgres"

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://{self.user}@127.0.0.1:{self.port}/{database}"

    def execute(self, statement: str) -> None:
        """Execute one statement beside the databases of tests."""
        import psycopg

        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(statement.encode())


def find_programs() -> Path | None:
    """Find the folder of PostgreSQL's programs."""
    folders = [*Path("/usr/lib/postgresql").glob("*/bin")]
    folders.sort(key=lambda folder: int(folder.parent.name), reverse=True)
    if config := shutil.which("pg_config"):
        named = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=True)
        folders.insert(0, Path(named.stdout.strip()))
    if initdb := shutil.which("initdb"):
        folders.append(Path(initdb).resolve().parent)
    whole = (each for each in folders if (each / "initdb").exists() and (each / "pg_ctl").exists())
    return next(whole, None)


def as_plain_user(folder: Path) -> list[str]:
    """Say how to run a program that refuses root, and give it the folder."""
    if os.geteuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("PostgreSQL does not run as root, and setpriv is not installed")
    nobody = pwd.getpwnam("nobody")
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    return [setpriv, f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]


@contextmanager
def running_server(programs: Path) -> Iterator[PostgresServer]:
    """Start a server on a free loopback port, with its own files, and stop it."""
    with tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as name:
        folder, data = Path(name), str(Path(name) / "data")
        plain_user = as_plain_user(folder)

        def run(program: str, *arguments: str) -> None:
            command = [*plain_user, str(programs / program), "-D", data, *arguments]
            # The server inherits the outputs: as pipes they would never end.
            log = folder / f"{program}.log"
            with log.open("ab") as output:
                done = subprocess.run(
                    command, cwd=folder, stdout=output, stderr=output, check=False
                )
            assert done.returncode == 0, log.read_text()

        run("initdb", "-A", "trust", "-U", "postgres", "--no-locale", "-E", "UTF8", "--no-sync")
        port = start(run, folder)
        try:
            yield PostgresServer(port)
        finally:
            run("pg_ctl", "-w", "-m", "immediate", "stop")


def start(run: Callable[..., None], folder: Path) -> int:
    """Start the server; give its port."""
    for left in reversed(range(TRIES)):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = int(free.getsockname()[1])
        address = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
        try:
            run("pg_ctl", "-w", "-o", f"{address} {SETTINGS}", "start")
        except AssertionError:
            if not left:
                raise
        else:
            return port
    raise AssertionError("never reached")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """Start PostgreSQL once, or skip where it is not installed."""
    programs = find_programs()
    if programs is None:
        pytest.skip("PostgreSQL's programs are not installed")
    with running_server(programs) as server:
        yield server


NUMBERS = count(1)


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """Make an empty database for one test."""
    name = f"test_{next(NUMBERS)}"
    postgres_server.execute(f"CREATE DATABASE {name}")
    yield postgres_server.url(name)
    postgres_server.execute(f"DROP DATABASE {name} WITH (FORCE)")
