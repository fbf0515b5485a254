"""A real PostgreSQL server for tests: a private cluster, made from the installed programs.

The fixtures: `postgres_server` is started once per test run, on a free loopback port;
`postgres_url` is the URL of a new, empty database in it.
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from time import monotonic, sleep

import pytest

from servers import PATIENCE_SECONDS

INITDB = ("-A", "trust", "-U", "postgres", "--no-locale", "-E", "UTF8", "--no-sync")

# Nothing has to outlive the tests, so nothing waits for the disk.
NOT_DURABLE = {"fsync": "off", "full_page_writes": "off"}

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
    whole = (
        each for each in folders if (each / "initdb").exists() and (each / "postgres").exists()
    )
    return next(whole, None)


def as_plain_user(folder: Path) -> list[str]:
    """Return a command that runs a program as a plain user, who gets the folder."""
    if os.geteuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("PostgreSQL does not run as root, and setpriv is not installed")
    nobody = pwd.getpwnam("nobody")
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    return [setpriv, f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]


@contextmanager
def running_server(
    programs: Path, settings: Mapping[str, str] = NOT_DURABLE
) -> Iterator[PostgresServer]:
    """Start a server on a free loopback port, with its own files, and stop it."""
    with restartable_server(programs, settings) as running:
        yield running.server


class Restartable:
    """A server that is stopped and started again, at one port."""

    def __init__(self, command: list[str], folder: Path, settings: Mapping[str, str]) -> None:
        self._start = partial(start, command, folder)
        self._settings = settings
        self._process, self._port = self._start(settings)
        self.server = PostgresServer(self._port)

    def stop(self) -> None:
        """End it at once, as a machine does that loses its power."""
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(PATIENCE_SECONDS)

    def start(self) -> None:
        """Start it again."""
        self._process, _ = self._start({**self._settings, "port": str(self._port)})


@contextmanager
def restartable_server(
    programs: Path, settings: Mapping[str, str] = NOT_DURABLE
) -> Iterator[Restartable]:
    """As `running_server`."""
    with tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        plain_user = as_plain_user(folder)
        initdb = [*plain_user, str(programs / "initdb"), *INITDB, "-D", str(folder / "data")]
        made = subprocess.run(initdb, cwd=folder, capture_output=True, text=True, check=False)
        assert made.returncode == 0, made.stderr
        command = [*plain_user, *end_with_parent(), str(programs / "postgres")]
        running = Restartable(command, folder, settings)
        try:
            yield running
        finally:
            running.stop()


def end_with_parent() -> list[str]:
    """Return a command that runs a program which ends with these tests, even if they are killed."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig=QUIT"] if setpriv else []


def start(
    postgres: list[str], folder: Path, more: Mapping[str, str]
) -> tuple["subprocess.Popen[bytes]", int]:
    """Start the server and wait for it; return its process and port."""
    for _ in range(TRIES):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = int(free.getsockname()[1])
        settings: dict[str, object] = {
            "port": port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": folder,
            **more,
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        log = folder / "log"
        with log.open("wb") as output:
            command = [*postgres, "-D", str(folder / "data"), *options]
            process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output)
        if is_ready(process, log):
            return process, port
    raise AssertionError(log.read_text())


def is_ready(process: "subprocess.Popen[bytes]", log: Path) -> bool:
    """Wait until the server takes connections; False when it ended instead."""
    until = monotonic() + PATIENCE_SECONDS
    while process.poll() is None and monotonic() < until:
        if b"ready to accept connections" in log.read_bytes():
            return True
        sleep(0.01)
    process.kill()
    return False


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
    """Build an empty database for one test."""
    name = f"test_{next(NUMBERS)}"
    postgres_server.execute(f"CREATE DATABASE {name}")
    yield postgres_server.url(name)
    postgres_server.execute(f"DROP DATABASE {name} WITH (FORCE)")
