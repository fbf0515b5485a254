"""The commands `keys create`, `keys list` and `keys revoke`, directly on the database."""

from collections.abc import Sequence
from dataclasses import fields

from pathors_agent.cli.output import (
    WRONG_USAGE,
    fail,
    write_json,
    write_line,
    write_note,
    write_table,
)
from pathors_agent.server.http.keys import make_key
from pathors_agent.stores.base import Store
from pathors_agent.stores.values import StoredKey

_TITLES = ("id", "project", "name", "key", "created", "last used", "revoked")


async def create(store: Store, project: str, name: str, *, as_json: bool) -> None:
    """Create a key and print it: it cannot be shown again."""
    text, key = make_key(project, name=name)
    await store.add_key(key)
    if as_json:
        write_json({**_shown(key), "key": text})
        return
    write_note(f"{key.id} of the project {project}; the key is shown only now:")
    write_line(text)


async def show_all(store: Store, project: str | None, *, where: str, as_json: bool) -> None:
    """List keys with their names, last characters and times; `where` is the database's URL."""
    await check_project(store, project)
    keys = await store.keys(project)
    if as_json:
        write_json([_shown(key) for key in keys])
        return
    rows = [
        (k.id, k.project, k.name, _masked(k), k.created_at, k.last_used_at, k.revoked_at)
        for k in keys
    ]
    write_table(_TITLES, rows, empty=f"{where} has no keys.")


async def revoke(store: Store, project: str | None, id_or_name: str, *, as_json: bool) -> None:
    """Revoke a key permanently; servers refuse it within a second."""
    await check_project(store, project)
    key = _found(await store.keys(project), id_or_name)
    await store.revoke_key(key.project, key.id)
    if as_json:
        write_json({"id": key.id, "project": key.project, "revoked": True})
        return
    write_note(f"{key.id} of the project {key.project} is revoked.")


async def check_project(store: Store, project: str | None) -> None:
    """Exit with 2 if the database has keys of other projects, and nothing of this one."""
    known = sorted({key.project for key in await store.keys(None)})
    if project is None or not known or project in known:
        return
    if not (await store.list_sessions(project, limit=1, offset=0)).total:
        fail(
            f"--project {project}: this database has no such project; it has {', '.join(known)}",
            WRONG_USAGE,
        )


def _found(keys: Sequence[StoredKey], id_or_name: str) -> StoredKey:
    for key in keys:
        if key.id == id_or_name:
            return key
    named = [key for key in keys if key.name == id_or_name and key.revoked_at is None]
    if len(named) == 1:
        return named[0]
    # Not quoted: it may be the key itself.
    found = (
        f"{len(named)} keys have this name: give the id" if named else "no key has this id or name"
    )
    return fail(f"{found}; see `keys list`")


def _shown(key: StoredKey) -> dict[str, object]:
    names = [field.name for field in fields(key) if field.name not in ("digest", "prefix")]
    return {**{name: getattr(key, name) for name in names}, "key": _masked(key)}


def _masked(key: StoredKey) -> str:
    return f"{key.prefix}...{key.last_four}"
