"""The commands `sessions list`, `show`, `search` and `end`, directly on the database."""

import json
import sys

from pathors_agent.cli.keys import check_project
from pathors_agent.cli.output import (
    Screen,
    fail,
    wants_colour,
    write_json,
    write_line,
    write_note,
    write_rest,
    write_table,
)
from pathors_agent.cli.terminal import RunDisplay
from pathors_agent.errors import SessionNotFound
from pathors_agent.json_text import iso
from pathors_agent.stores.base import Store
from pathors_agent.stores.values import Session, SessionSummary


async def show_all(
    store: Store, project: str, *, where: str, limit: int, offset: int, as_json: bool
) -> None:
    """List a project's sessions, newest first, including ended ones; `where` is the database's URL."""
    await check_project(store, project)
    page = await store.list_sessions(project, limit=limit, offset=offset)
    if as_json:
        write_json({"data": [_summary(s) for s in page.items], "total": page.total})
        return
    rows = [(s.id, s.message_count, s.created_at, s.ended_at, s.provider) for s in page.items]
    titles = ("session", "messages", "started", "ended", "provider")
    write_table(titles, rows, empty=f"The project {project} has no sessions in {where}.")
    write_rest(len(page.items), page.total, offset)


async def show(store: Store, project: str, session_id: str, *, as_json: bool) -> None:
    """Show the messages of a session."""
    await check_project(store, project)
    try:
        session = await store.session(project, session_id)
    except SessionNotFound:
        _fail_of_absence(project)
    if as_json:
        write_json(_whole(session))
        return
    write_line(f"session {session.id}, started {iso(session.created_at)}")
    if session.variables:
        write_line(f"variables {json.dumps(dict(session.variables), ensure_ascii=False)}")
    screen = Screen(sys.stdout, colour=wants_colour())
    display = RunDisplay(screen, is_timed=False)
    for message in session.messages:
        display.show_message(message)


async def search(
    store: Store, project: str, text: str, *, limit: int, offset: int, as_json: bool
) -> None:
    """Find sessions by a text in their data, newest update first."""
    await check_project(store, project)
    page = await store.search_sessions(project, text, limit=limit, offset=offset)
    if as_json:
        write_json({"results": [_whole(session) for session in page.items], "total": page.total})
        return
    rows = [(s.id, s.revision, s.created_at, s.updated_at) for s in page.items]
    titles = ("session", "messages", "started", "updated")
    write_table(titles, rows, empty="No session has this text.")
    write_rest(len(page.items), page.total, offset)


async def end(store: Store, project: str, session_id: str, *, as_json: bool) -> None:
    """Delete a session's variables and messages permanently."""
    await check_project(store, project)
    if not await store.end_session(project, session_id):
        _fail_of_absence(project)
    if as_json:
        write_json({"success": True, "sessionId": session_id})
        return
    write_note(f"{session_id} has ended; its variables and messages are deleted.")


def _fail_of_absence(project: str) -> None:
    fail(
        f"the project {project} has no such session, or it has ended; see `sessions list --project {project}`"
    )


def _summary(session: SessionSummary) -> dict[str, object]:
    return {
        "sessionId": session.id,
        "startTime": session.created_at,
        "endTime": session.ended_at,
        "provider": session.provider,
        "messageCount": session.message_count,
    }


def _whole(session: Session) -> dict[str, object]:
    """Return a session in the form of the API."""
    return {
        "sessionId": session.id,
        "data": json.loads("".join(session.data_pieces())),
        "createdAt": session.created_at,
        "updatedAt": session.updated_at,
    }
