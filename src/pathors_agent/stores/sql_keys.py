"""The statements for API keys."""

import json

from sqlalchemy import Row, case, select
from sqlalchemy.ext.asyncio import AsyncConnection

from pathors_agent.stores.base import StoredKey
from pathors_agent.stores.sql_schema import (
    clock,
    keys,
    read_optional_time,
    read_time,
    write_time,
)
from pathors_agent.stores.texts import json_text

_COLUMNS = select(*(column for column in keys.c if column is not keys.c.number))


async def add(connection: AsyncConnection, key: StoredKey) -> None:
    """Store a new key."""
    await connection.execute(
        keys.insert().values(
            id=key.id,
            project=key.project,
            digest=key.digest,
            prefix=key.prefix,
            last_four=key.last_four,
            name=json_text(key.name),
            created_at=write_time(key.created_at),
            revoked_at=write_time(key.revoked_at),
            last_used_at=write_time(key.last_used_at),
        )
    )


async def by_digest(connection: AsyncConnection, digest: str) -> StoredKey | None:
    """Give the key of this digest."""
    row = (await connection.execute(_COLUMNS.where(keys.c.digest == digest))).first()
    return None if row is None else _read(row)


async def of_project(connection: AsyncConnection, project: str | None) -> list[StoredKey]:
    """Give the keys of a project, or of all; oldest first."""
    wanted = _COLUMNS.order_by(keys.c.created_at, keys.c.number)
    if project is not None:
        wanted = wanted.where(keys.c.project == project)
    return [_read(row) for row in await connection.execute(wanted)]


async def revoke(connection: AsyncConnection, project: str, key_id: str) -> bool:
    """Revoke a key; tell whether it is one of this project."""
    time = case((keys.c.revoked_at.is_(None), clock()), else_=keys.c.revoked_at)
    changed = await connection.execute(
        keys.update().where(keys.c.project == project, keys.c.id == key_id).values(revoked_at=time)
    )
    return changed.rowcount > 0


async def note_used(connection: AsyncConnection, key_id: str) -> None:
    """Set a key's `last_used_at`."""
    await connection.execute(keys.update().where(keys.c.id == key_id).values(last_used_at=clock()))


def _read(row: Row[tuple[object, ...]]) -> StoredKey:
    fields = dict(row._mapping)
    return StoredKey(
        **{
            **fields,
            "name": json.loads(fields["name"]),
            "created_at": read_time(fields["created_at"]),
            "revoked_at": read_optional_time(fields["revoked_at"]),
            "last_used_at": read_optional_time(fields["last_used_at"]),
        }
    )
