"""A PostgreSQL server for a benchmark: as the tests make it, but one that waits for the disk."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def cluster() -> Iterator[str | None]:
    """Give the URL of an empty database, or None where nothing can make one."""
    try:
        import psycopg  # noqa: F401  (what SQLStore needs for it)
        from tests.postgres import find_programs, running_server
    except ModuleNotFoundError:
        yield None
        return
    programs = find_programs()
    if programs is None:
        yield None
        return
    with running_server(programs, settings="-c max_connections=200") as server:
        yield server.url()
