"""Statements and failures of databases."""

import sqlite3
from contextlib import closing

import psycopg
import pytest

from pathors_agent.errors import StoreError
from pathors_agent.messages import Message
from pathors_agent.stores import SQLStore

# Only a test that hangs waits so long.
LONG = 60.0


def execute(url: str, statement: str) -> None:
    """Execute a statement in a database, as another program."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            connection.execute(statement)
            connection.commit()
        return
    with psycopg.connect(url) as other:
        other.execute(statement.encode())


def value(url: str, query: str) -> int:
    """Ask a database for one number, as another program."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            return int(connection.execute(query).fetchone()[0])
    with psycopg.connect(url) as other:
        row = other.execute(query.encode()).fetchone()
        assert row is not None
        return int(row[0])


async def say(store: SQLStore, *messages: Message, id: str = "session") -> None:  # noqa: A002
    """Append messages to a session in one turn."""
    lease = await store.take_lease("project", id, holder="test", seconds=60)
    assert lease is not None
    await store.save_turn(lease, messages, seen=None)
    await store.drop_lease(lease)


async def error_of(store: SQLStore) -> str:
    """Return the error of a store that cannot be opened."""
    with pytest.raises(StoreError) as caught:
        async with store:
            pass
    return str(caught.value)
