"""Read a server's settings from the TOML file of its projects."""

import tomllib
from dataclasses import fields
from pathlib import Path

from pathors_agent.errors import InvalidProjectFile
from pathors_agent.server.settings import ServerSettings

_NAMES = {field.name for field in fields(ServerSettings)}


def load_settings(path: str | Path) -> ServerSettings:
    """Read the table `[server]` of a file: the fields of `ServerSettings`, all optional."""
    path = Path(path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8")).get("server", {})
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError):
        raise InvalidProjectFile(f"{path}: cannot be read as TOML") from None
    if not isinstance(table, dict):
        raise InvalidProjectFile(f"{path}: server must be a table")
    for name, value in table.items():
        if name not in _NAMES:
            known = ", ".join(sorted(_NAMES))
            raise InvalidProjectFile(f"{path}: server.{name} is no setting; there are {known}")
        if not _fits(name, value):
            raise InvalidProjectFile(f"{path}: server.{name} is of the wrong type")
    origins = {"cors_origins": tuple(table["cors_origins"])} if "cors_origins" in table else {}
    try:
        return ServerSettings(**{**table, **origins})
    except ValueError as error:
        raise InvalidProjectFile(f"{path}: {error}") from None


def _fits(name: str, value: object) -> bool:
    if name == "cors_origins":
        return isinstance(value, list) and all(isinstance(origin, str) for origin in value)
    if name in ("access_log", "cors_private_network", "event_ids", "metrics"):
        return isinstance(value, bool)
    kinds = (int, float) if name.endswith("seconds") else (int,)
    return isinstance(value, kinds) and not isinstance(value, bool)
