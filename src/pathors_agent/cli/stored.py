"""The commands `keys` and `sessions`, directly on the server's database."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from pathors_agent.cli.output import (
    EXIT_STATUS,
    WRONG_USAGE,
    Screen,
    fail,
    place,
    reporting,
    stored_in,
    wants_colour,
    write_json,
    write_line,
    write_note,
    write_rest,
    write_table,
)
from pathors_agent.cli.values import (
    AsJSON,
    Limit,
    Offset,
    database_option,
    filled,
    new_group,
    project_id,
)

if TYPE_CHECKING:
    from pathors_agent.stores.base import Store
    from pathors_agent.stores.values import Session, StoredKey

_HERE = "Works directly on the database, without a key or a running server."

keys = new_group(f"Create, list and revoke API keys. {_HERE}")
sessions = new_group(f"List, show, search and end sessions. {_HERE}")

Database = Annotated[str | None, database_option("sessions.db")]
ProjectName = Annotated[
    str, typer.Option(parser=project_id, metavar="NAME", help="The project's name.")
]
AnyProject = Annotated[
    str | None,
    typer.Option(parser=project_id, metavar="NAME", help="Only the keys of this project."),
]
SessionId = Annotated[
    str, typer.Argument(metavar="SESSION", help="The session's id, as shown by `sessions list`.")
]


def _with_store(
    database: str | None, project: str | None, work: "Callable[[Store], Awaitable[None]]"
) -> None:
    """Open the database for one command, which must know the project."""
    with reporting():
        from pathors_agent.stores.sql import SQLStore

        async def run() -> None:
            async with SQLStore(stored_in(database)) as store:
                await _check_project(store, project)
                await work(store)

        asyncio.run(run())


async def _check_project(store: "Store", project: str | None) -> None:
    """Exit with 2 if the database has keys of other projects, and nothing of this one."""
    if project is None:
        return
    known = sorted({key.project for key in await store.keys(None)})
    if not known or project in known:
        return
    if not (await store.list_sessions(project, limit=1, offset=0)).total:
        fail(
            f"--project {project}: this database has no such project; it has {', '.join(known)}",
            WRONG_USAGE,
        )


# - keys -


@keys.command("create", epilog=EXIT_STATUS)
def create_key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the key is for.")] = "",
    *,
    project: ProjectName = "demo",
    database: Database = None,
    as_json: AsJSON = False,
) -> None:
    """Create a key, and print it once.

    The database keeps only its digest.
    """

    async def work(store: "Store") -> None:
        from pathors_agent.server.http.keys import make_key

        text, key = make_key(project, name=name)
        await store.add_key(key)
        if as_json:
            write_json({**_key_as_json(key), "key": text})
            return
        write_note(f"{key.id} of the project {project}; the key is shown only now:")
        write_line(text)

    _with_store(database, None, work)


@keys.command("list", epilog=EXIT_STATUS)
def list_keys(
    *, project: AnyProject = None, database: Database = None, as_json: AsJSON = False
) -> None:
    """List keys, including revoked ones."""

    async def work(store: "Store") -> None:
        found = await store.keys(project)
        if as_json:
            write_json({"data": [_key_as_json(key) for key in found]})
            return
        rows = [
            (k.id, k.project, k.name, _masked(k), k.created_at, k.last_used_at, k.revoked_at)
            for k in found
        ]
        titles = ("id", "project", "name", "key", "created", "last used", "revoked")
        write_table(titles, rows, empty=f"{place(stored_in(database))} has no keys.")

    _with_store(database, project, work)


@keys.command("revoke", epilog=EXIT_STATUS)
def revoke_key(
    key: Annotated[
        str, typer.Argument(parser=filled, metavar="KEY", help="The key's id, or its name.")
    ],
    *,
    project: AnyProject = None,
    database: Database = None,
    as_json: AsJSON = False,
) -> None:
    """Revoke a key permanently. Running servers refuse it within a second."""

    async def work(store: "Store") -> None:
        found = _key_named(await store.keys(project), key)
        await store.revoke_key(found.project, found.id)
        if as_json:
            write_json({"id": found.id, "project": found.project, "revoked": True})
            return
        write_note(f"{found.id} of the project {found.project} is revoked.")

    _with_store(database, project, work)


def _key_named(known: "Sequence[StoredKey]", id_or_name: str) -> "StoredKey":
    for key in known:
        if key.id == id_or_name:
            return key
    named = [key for key in known if key.name == id_or_name]
    valid = [key for key in named if key.revoked_at is None]
    if len(valid) == 1:
        return valid[0]
    # The name is not quoted: it may be the key itself.
    problem = "no key has this id or name"
    if valid:
        problem = f"{len(valid)} keys have this name: pass the id"
    elif named:
        problem = "the key with this name is already revoked"
    return fail(f"{problem}; see `keys list`")


def _key_as_json(key: "StoredKey") -> dict[str, object]:
    names = [field.name for field in fields(key) if field.name not in ("digest", "prefix")]
    return {**{name: getattr(key, name) for name in names}, "key": _masked(key)}


def _masked(key: "StoredKey") -> str:
    return f"{key.prefix}...{key.last_four}"


# - sessions -


@sessions.command("list", epilog=EXIT_STATUS)
def list_sessions(
    *,
    project: ProjectName = "demo",
    limit: Limit = 50,
    offset: Offset = 0,
    database: Database = None,
    as_json: AsJSON = False,
) -> None:
    """List sessions, newest first, including ended ones."""

    async def work(store: "Store") -> None:
        page = await store.list_sessions(project, limit=limit, offset=offset)
        if as_json:
            data = [
                {
                    "sessionId": each.id,
                    "startTime": each.created_at,
                    "endTime": each.ended_at,
                    "provider": each.provider,
                    "messageCount": each.message_count,
                }
                for each in page.items
            ]
            write_json({"data": data, "total": page.total})
            return
        rows = [(s.id, s.message_count, s.created_at, s.ended_at, s.provider) for s in page.items]
        titles = ("session", "messages", "started", "ended", "provider")
        where = place(stored_in(database))
        write_table(titles, rows, empty=f"The project {project} has no sessions in {where}.")
        write_rest(len(page.items), page.total, offset)

    _with_store(database, project, work)


@sessions.command("show", epilog=EXIT_STATUS)
def show_session(
    session: SessionId,
    *,
    project: ProjectName = "demo",
    database: Database = None,
    as_json: AsJSON = False,
) -> None:
    """Show the messages of a session."""

    async def work(store: "Store") -> None:
        from pathors_agent.errors import SessionNotFound

        try:
            found = await store.session(project, session)
        except SessionNotFound:
            _fail_of_absence(project)
        if as_json:
            write_json(_session_as_json(found))
        else:
            _show(found)

    _with_store(database, project, work)


@sessions.command("search", epilog=EXIT_STATUS)
def search_sessions(
    text: Annotated[
        str,
        typer.Argument(metavar="TEXT", help="The text as it appears in the JSON; case-sensitive."),
    ],
    *,
    project: ProjectName = "demo",
    limit: Limit = 50,
    offset: Offset = 0,
    database: Database = None,
    as_json: AsJSON = False,
) -> None:
    """Find sessions that contain a text, last updated first.

    Their messages and variables are searched.
    """

    async def work(store: "Store") -> None:
        page = await store.search_sessions(project, text, limit=limit, offset=offset)
        if as_json:
            write_json({"data": [_session_as_json(s) for s in page.items], "total": page.total})
            return
        rows = [(s.id, s.revision, s.created_at, s.updated_at) for s in page.items]
        titles = ("session", "messages", "started", "updated")
        write_table(titles, rows, empty="No session has this text.")
        write_rest(len(page.items), page.total, offset)

    _with_store(database, project, work)


@sessions.command("end", epilog=EXIT_STATUS)
def end_session(
    session: SessionId,
    *,
    project: ProjectName = "demo",
    database: Database = None,
    as_json: AsJSON = False,
) -> None:
    """End a session, and delete its variables and messages permanently."""

    async def work(store: "Store") -> None:
        if not await store.end_session(project, session):
            _fail_of_absence(project)
        if as_json:
            write_json({"success": True, "sessionId": session})
            return
        write_note(f"{session} has ended; its variables and messages are deleted.")

    _with_store(database, project, work)


def _fail_of_absence(project: str) -> NoReturn:
    fail(
        f"the project {project} has no such session, or it has ended; see `sessions list --project {project}`"
    )


def _session_as_json(session: "Session") -> dict[str, object]:
    """Return a session in the form of the API."""
    return {
        "sessionId": session.id,
        "data": json.loads("".join(session.data_pieces())),
        "createdAt": session.created_at,
        "updatedAt": session.updated_at,
    }


def _show(session: "Session") -> None:
    from pathors_agent.cli.terminal import RunDisplay
    from pathors_agent.json_text import iso

    write_line(f"session {session.id}, started {iso(session.created_at)}")
    if session.variables:
        write_line(f"variables {json.dumps(dict(session.variables), ensure_ascii=False)}")
    display = RunDisplay(Screen(sys.stdout, colour=wants_colour()), is_timed=False)
    for message in session.messages:
        display.show_message(message)
