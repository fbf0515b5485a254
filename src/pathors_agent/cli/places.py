"""Where the command line keeps what it keeps: the user's data folder, and the database in it."""

import os
import sys
from pathlib import Path

_NAME = "pathors-agent"
_FILE = "sessions.db"


def data_folder() -> Path:
    """Give the folder for this user's data, made when it is absent, for nobody else to read.

    PATHORS_DATA_DIR names it; else it lies where the system keeps such folders.
    """
    named = os.environ.get("PATHORS_DATA_DIR")
    folder = Path(named) if named else _user_data() / _NAME
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def database_url(given: str | None) -> str:
    """Give the database that was asked for, or that of the data folder."""
    if given:
        return given
    from sqlalchemy import URL

    path = (data_folder() / _FILE).resolve()
    return URL.create("sqlite", database=str(path)).render_as_string()


def _user_data() -> Path:
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return Path(local) if local else Path.home() / "AppData" / "Local"
    named = os.environ.get("XDG_DATA_HOME", "")
    # The specification: a path that is not absolute is to be ignored.
    return Path(named) if Path(named).is_absolute() else Path.home() / ".local" / "share"
