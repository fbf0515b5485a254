"""Which database a URL names, in all the spellings that people use; never shows a password."""

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from pathors_agent.errors import StoreError

_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
    "postgresql+psycopg_async": "postgresql+psycopg",
}


def read_url(text: str) -> URL:
    """Read the URL of a database; `StoreError` for one that no store can open."""
    url = _parsed(text)
    driver = _DRIVERS.get(url.drivername)
    if driver is None or "@" in (url.host or ""):
        raise _unusable()
    if driver.startswith("sqlite") and _is_in_memory(url):
        raise StoreError("A database in memory is lost with its connection: use MemoryStore().")
    return url.set(drivername=driver)


def shown(url: URL) -> str:
    """Write a URL for people: without the password, and without options, which may hold one."""
    known = URL.create(
        url.get_backend_name(),
        username=url.username,
        host=url.host,
        port=url.port,
        database=url.database,
    )
    return known.render_as_string()


def _parsed(text: str) -> URL:
    try:
        return make_url(text)
    except (ArgumentError, ValueError):  # their texts quote the URL
        raise _unusable() from None


def _unusable() -> StoreError:
    return StoreError(
        "The database's URL cannot be used: it must be like sqlite:///sessions.db or"
        " postgresql://user:password@host:5432/name, with the special characters of a password"
        " percent-encoded."
    )


def _is_in_memory(url: URL) -> bool:
    name = url.database or ""
    return name in {"", ":memory:", "file::memory:"} or url.query.get("mode") == "memory"
