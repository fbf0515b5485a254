"""Errors of databases as `StoreError`: one sentence that says what failed, and what to do."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from pathors_agent.errors import StoreError

_LOCKED = "another program holds the database locked: try again, or end that program"
_FULL = "the disk is full or a limit for files is reached: make room"
_READ_ONLY = "the database is read-only: give this program the right to write to it"
_DAMAGED = "the database is damaged: bring back a copy of it"
_RIGHTS = "the database's user lacks the right to do it: grant it"
_CUT_OFF = "the connection to the database broke: check that it runs, and try again"
_UNREACHABLE = "the database cannot be reached: check that it runs, and its URL's parts"
_CHANGED = "the tables are not as this program made them: bring back a copy of the database"
_TOO_LONG = "the database took too long: try again, or ask for less"
_BUSY = "it has too much to do: try again"

# The reasons by the names of SQLite's result codes. The longest matching prefix counts.
_SQLITE = {
    "SQLITE_BUSY": _LOCKED,
    "SQLITE_LOCKED": _LOCKED,
    "SQLITE_ERROR": _CHANGED,
    "SQLITE_FULL": _FULL,
    "SQLITE_IOERR": "the file cannot be read or written: check the disk and its free space",
    "SQLITE_READONLY": _READ_ONLY,
    "SQLITE_CORRUPT": _DAMAGED,
    "SQLITE_NOTADB": "the file is no database, or is damaged: name another, or bring back a copy",
    "SQLITE_CANTOPEN": "the file cannot be opened: check that its folder is there, and the rights",
    "SQLITE_PERM": _RIGHTS,
    "SQLITE_AUTH": _RIGHTS,
    "SQLITE_INTERRUPT": _TOO_LONG,
    "SQLITE_CONSTRAINT": "the store has it already",
    "SQLITE_TOOBIG": "it is too big for the database: keep sessions smaller",
}

# The reasons by PostgreSQL's SQLSTATE codes or their classes, which are the first two characters.
_POSTGRESQL = {
    "08": _CUT_OFF,
    "25006": _READ_ONLY,
    "28": "the database refuses the user or the password: check the URL",
    "3D": "there is no database of this name: make it, or check the URL",
    "42501": _RIGHTS,
    "42": _CHANGED,
    "53": "the database has no room left on its disk, in memory, or for connections: make some",
    "53300": "the database has too many connections: allow more, or run fewer programs",
    "54": "it is too big for the database: keep sessions smaller",
    "55P03": _LOCKED,
    "57014": _TOO_LONG,
    "57P": _CUT_OFF,
    "58": "the database's machine cannot read or write its files: check its disk",
    "XX": _DAMAGED,
    "40": "other writers were in the way: try again",
    "23": "the store has it already",
}


class TooBusy(Exception):
    """No thread of the store was free in time."""


class CutOff(Exception):
    """A connection to the database broke."""


@contextmanager
def as_store_errors(doing: str, database: str) -> Iterator[None]:
    """Raise errors of a database as `StoreError`; `doing` completes "could not".

    The driver's text and the cause are left out, because they quote the data.
    """
    try:
        yield
    except Exception as error:
        found = store_error(error, doing, database)
        if found is error:
            raise
        raise found from None


def store_error(error: BaseException, doing: str, database: str) -> BaseException:
    """Return the `StoreError` for an error of a database, or any other error unchanged."""
    reason = _reason(error)
    return StoreError(f"Could not {doing} in {database}: {reason}.") if reason else error


def _reason(error: BaseException) -> str | None:
    match error:
        case StoreError():
            return None
        case TooBusy():
            return _BUSY
        case CutOff():
            return _CUT_OFF
        case TimeoutError():
            return _TOO_LONG
        case DBAPIError():
            # libpq has no code for a connection that could not be made, or that broke.
            without_code = _CUT_OFF if error.connection_invalidated else _UNREACHABLE
            return _coded_reason(error.orig) or without_code
        case SQLAlchemyError() | OSError():
            return f"{type(error).__name__} came from its driver"
        case _:
            is_driver = isinstance(error, sqlite3.Error) or hasattr(error, "sqlstate")
            return _coded_reason(error) or (_UNREACHABLE if is_driver else None)


def _coded_reason(error: BaseException | None) -> str | None:
    code = _code(error)
    if not code:
        return None
    reasons = _SQLITE if code.startswith("SQLITE") else _POSTGRESQL
    begins = [start for start in reasons if code.startswith(start)]
    known = reasons[max(begins, key=len)] if begins else "its driver reports an error"
    return f"{known} ({code})"


def _code(error: BaseException | None) -> str:
    return getattr(error, "sqlite_errorname", None) or getattr(error, "sqlstate", None) or ""


def is_locked(error: BaseException) -> bool:
    """Return True if SQLite refused because another program uses the file."""
    return _code(error).startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))


def is_interrupted(error: BaseException) -> bool:
    """Return True if SQLite was interrupted because a statement took too long."""
    return _code(error) == "SQLITE_INTERRUPT"
