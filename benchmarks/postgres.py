"""A PostgreSQL server for a benchmark: as the tests make it, but one that waits for the disk."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TESTS = Path(__file__).parent.parent / "tests"


@contextmanager
def cluster() -> Iterator[str | None]:
    """Give the URL of an empty database, or None where nothing can make one."""
    sys.path.append(str(TESTS))
    try:
        import psycopg  # noqa: F401  (what SQLStore needs for it)

        from postgres import find_programs, running_server
    except ModuleNotFoundError:
        yield None
        return
    finally:
        sys.path.remove(str(TESTS))
    programs = find_programs()
    if programs is None:
        yield None
        return
    with running_server(programs, {"max_connections": "200"}) as server:
        yield server.url()
