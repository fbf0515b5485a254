"""What went wrong in a database, said in one sentence that names what to do."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoFreeConnection

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

# By the names of SQLite's result codes; the longest that a name begins with counts.
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

# By the SQLSTATE codes of PostgreSQL, or their classes, which are the first two characters.
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


@contextmanager
def told_as_store_errors(doing: str, database: str) -> Iterator[None]:
    """Raise `StoreError` where the database fails; `doing` completes "could not".

    The texts of drivers are left out, and so is the cause: they quote what was being stored.
    """
    try:
        yield
    except NoFreeConnection:
        raise StoreError(_text(doing, database, "it has too much to do: try again")) from None
    except DBAPIError as error:
        raise StoreError(_text(doing, database, _reason(error))) from None
    except sqlite3.Error as error:
        raise StoreError(_text(doing, database, _known_reason(error) or _UNREACHABLE)) from None
    except TimeoutError:
        raise StoreError(_text(doing, database, _TOO_LONG)) from None
    except (SQLAlchemyError, OSError) as error:
        reason = f"{type(error).__name__} came from its driver"
        raise StoreError(_text(doing, database, reason)) from None


def _text(doing: str, database: str, reason: str) -> str:
    return f"Could not {doing} in {database}: {reason}."


def _reason(error: DBAPIError) -> str:
    # libpq has no code for a connection that was not made or broke.
    without_code = _CUT_OFF if error.connection_invalidated else _UNREACHABLE
    return _known_reason(error.orig) or without_code


def _known_reason(error: BaseException | None) -> str | None:
    code = getattr(error, "sqlite_errorname", None) or getattr(error, "sqlstate", None)
    if code is None:
        return None
    reasons = _SQLITE if code.startswith("SQLITE") else _POSTGRESQL
    begins = [start for start in reasons if code.startswith(start)]
    known = reasons[max(begins, key=len)] if begins else "its driver reports an error"
    return f"{known} ({code})"


def is_locked(error: DBAPIError) -> bool:
    """Tell whether SQLite did not do something because another program was at it."""
    return getattr(error.orig, "sqlite_errorname", "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))
