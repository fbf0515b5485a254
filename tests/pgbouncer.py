"""A real pgbouncer for tests, in transaction mode, before the PostgreSQL server of the tests."""

import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

from postgres import TRIES, PostgresServer, as_plain_user, end_with_parent
from servers import PATIENCE_SECONDS


def find_pgbouncer() -> str | None:
    """Return the path of pgbouncer's program; Debian keeps it where only root's PATH leads."""
    return shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/sbin")


@contextmanager
def running_pgbouncer(
    program: str, server: PostgresServer, *, connections: int
) -> Iterator[PostgresServer]:
    """Start pgbouncer on a free loopback port, with so many connections to each database."""
    with tempfile.TemporaryDirectory(prefix="pgbouncer-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        user = as_plain_user(folder)
        process, port = start(user, program, folder, server, connections)
        try:
            yield PostgresServer(port)
        finally:
            process.terminate()
            process.wait(PATIENCE_SECONDS)


def start(
    user: list[str], program: str, folder: Path, server: PostgresServer, connections: int
) -> tuple["subprocess.Popen[bytes]", int]:
    """Start pgbouncer and wait until it takes connections."""
    for _ in range(TRIES):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = int(free.getsockname()[1])
        settings = folder / "pgbouncer.ini"
        settings.write_text(
            f"""[databases]
* = host=127.0.0.1 port={server.port} user={server.user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {connections}
max_client_conn = 500
"""
        )
        with (folder / "log").open("wb") as log:
            command = [*user, *end_with_parent(), program, str(settings)]
            process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        until = monotonic() + PATIENCE_SECONDS
        while process.poll() is None and monotonic() < until:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
            except OSError:
                sleep(0.01)
            else:
                return process, port
        process.kill()
    raise AssertionError((folder / "log").read_text())
