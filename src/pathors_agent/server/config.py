"""Read projects from a TOML file."""

import importlib
import os
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from pathors_agent.core.limits import Limits
from pathors_agent.errors import (
    AgentError,
    InvalidProjectFile,
    ToolDefinitionError,
    error_text,
    named_error,
)
from pathors_agent.server.settings import ServerSettings
from pathors_agent.server.turns.project import Project
from pathors_agent.tools.registry import Tools
from pathors_agent.tools.tool import Tool
from pathors_agent.transports.base import AsyncTransport
from pathors_agent.wire.chat_completions import ModelOptions
from pathors_agent.wire.profiles import PROFILES

# UTF-8, with or without the mark that Windows programs write at the start of a file.
_ENCODING = "utf-8-sig"

# The keys of a project's table whose values are texts. It may also have the tables `options` and
# `limits`.
_TEXTS = (
    "base_url",
    "api_key_env",
    "profile",
    "transport",
    "model",
    "instructions",
    "instructions_file",
    "tools",
    "on_disconnect",
    "reasoning",
)
_TABLES = {"options": ModelOptions, "limits": Limits}
# The table `server` is read by `load_settings`.
_TOP = {"projects", "server"}
# Settings that need `base_url`.
_OF_ADDRESSES = ("api_key_env", "profile")


def load_projects(path: str | Path) -> list[Project]:
    """Read the projects of a file.

    Each project is a table `[projects.NAME]`. Its model is at `base_url`, with the key in the
    environment variable that `api_key_env` names, or `transport` names a Python object, as
    "module:name". `tools` names an object in the same way: a tool, a list of tools or a registry.
    `instructions_file` names a file with the `instructions`. Modules are first searched in the
    folder of the file. Raises `InvalidProjectFile`.
    """
    path = Path(path)
    document = _document(path)
    if unknown := sorted(document.keys() - _TOP):
        raise InvalidProjectFile(
            f"{path}: {unknown[0]} is unknown; known: {', '.join(sorted(_TOP))}"
        )
    tables = document.get("projects")
    if not isinstance(tables, dict) or not tables:
        raise InvalidProjectFile(f"{path}: has no table [projects.NAME]")
    return [_Table(path, name, table).project() for name, table in tables.items()]


def _document(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding=_ENCODING))
    except OSError as error:
        raise InvalidProjectFile(f"{path}: cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidProjectFile(f"{path}: is not valid TOML: {error}") from None


class _Table:
    """Reads the table of one project."""

    def __init__(self, path: Path, name: str, table: object) -> None:
        self._path = path
        self._where = f"{path}: projects.{name}"
        self._name = name
        if not isinstance(table, dict):
            raise self._wrong("", "must be a table")
        self._table: Mapping[str, Any] = table
        for key, value in table.items():
            if key not in (*_TEXTS, *_TABLES):
                allowed = ", ".join((*_TEXTS, *_TABLES))
                raise self._wrong(key, f"is not a setting; the settings are {allowed}")
            if key in _TEXTS and not isinstance(value, str):
                raise self._wrong(key, "must be a text")

    def project(self) -> Project:
        """Build the project."""
        settings: dict[str, Any] = {
            "transport": self._transport(),
            "instructions": self._instructions(),
            "model": self._table.get("model"),
            "tools": self._tools() if "tools" in self._table else (),
            "on_disconnect": self._table.get("on_disconnect", "cancel"),
            "reasoning": self._table.get("reasoning", "asked"),
        }
        for key in _TABLES.keys() & self._table.keys():
            settings[key] = self._values(key)
        try:
            return Project(id=self._name, **settings)
        except (ValueError, ToolDefinitionError) as error:
            raise self._wrong("", str(error)) from None

    def _transport(self) -> AsyncTransport:
        given = [key for key in ("base_url", "transport") if key in self._table]
        if len(given) != 1:
            raise self._wrong("", "needs either base_url or transport")
        for key in _OF_ADDRESSES:
            if key in self._table and given != ["base_url"]:
                raise self._wrong(key, f"belongs to base_url, not to {given[0]}")
        if given == ["transport"]:
            made = self._named("transport")
            with self._errors_of_authors("transport", "cannot be made"):
                made = made() if callable(made) else made
            if not isinstance(made, AsyncTransport):
                raise self._wrong(
                    "transport", "must name an AsyncTransport, or a function that returns one"
                )
            return made
        return self._http_transport()

    def _http_transport(self) -> AsyncTransport:
        from pathors_agent.transports.aiohttp import AiohttpTransport

        profile = self._table.get("profile", "default")
        if profile not in PROFILES:
            raise self._wrong("profile", f"must be one of {', '.join(PROFILES)}")
        variable = self._table.get("api_key_env")
        if variable is not None and not os.environ.get(variable):
            raise self._wrong(
                "api_key_env", f"names {variable}, which is not set in the environment"
            )
        try:
            return AiohttpTransport(
                self._table["base_url"],
                api_key=os.environ[variable] if variable else "",
                profile=PROFILES[profile],
            )
        except AgentError as error:
            raise self._wrong("base_url", str(error)) from None

    def _tools(self) -> Tools:
        found = self._named("tools")
        is_one = isinstance(found, Tool) or hasattr(found, "__tool__")
        if not (is_one or isinstance(found, Iterable)):
            raise self._wrong("tools", "must name a tool, a list of tools or a ToolRegistry")
        return [found] if is_one else found

    def _instructions(self) -> str | None:
        file = self._table.get("instructions_file")
        if file is None:
            return self._table.get("instructions")
        if "instructions" in self._table:
            raise self._wrong(
                "instructions_file", "cannot be used with instructions; set one of them"
            )
        try:
            return Path(self._path.resolve().parent, file).read_text(encoding=_ENCODING)
        except (OSError, UnicodeDecodeError):
            raise self._wrong("instructions_file", f"{file} cannot be read") from None

    def _values(self, key: str) -> object:
        """Build the options or limits from the table under this name."""
        kind, table = _TABLES[key], self._table[key]
        known = {field.name for field in fields(kind)}
        if not isinstance(table, dict):
            raise self._wrong(key, "must be a table")
        if unknown := sorted(table.keys() - known):
            raise self._wrong(
                f"{key}.{unknown[0]}", f"is unknown; known: {', '.join(sorted(known))}"
            )
        defaults = {"last_word": True} if kind is Limits else {}
        try:
            return kind(**{**defaults, **table})
        except (ValueError, TypeError) as error:
            raise self._wrong(key, str(error)) from None

    def _named(self, key: str) -> Any:
        """Import the object that "module:name" names."""
        module, colon, name = self._table[key].partition(":")
        if not (colon and module and name):
            raise self._wrong(key, 'must be "module:name"')
        folder = str(self._path.resolve().parent)
        sys.path.insert(0, folder)
        try:
            with self._errors_of_authors(key, "cannot be imported"):
                found: Any = importlib.import_module(module)
                for part in name.split("."):
                    found = getattr(found, part)
        finally:
            sys.path.remove(folder)
        return found

    @contextmanager
    def _errors_of_authors(self, key: str, problem: str) -> Iterator[None]:
        """Raise `InvalidProjectFile` for any exception of the code that the file names."""
        try:
            yield
        except (ImportError, AttributeError) as error:  # their texts say what they are
            raise self._wrong(key, f"{problem}: {error_text(error)}") from error
        except Exception as error:
            raise self._wrong(key, f"{problem}: {named_error(error)}") from error

    def _wrong(self, key: str, problem: str) -> InvalidProjectFile:
        place = f"{self._where}.{key}" if key else self._where
        return InvalidProjectFile(f"{place} {problem}")


# - settings of the server -


_DEFAULTS = {field.name: field.default for field in fields(ServerSettings)}


def load_settings(path: str | Path) -> ServerSettings:
    """Read the table `[server]` of a file: the fields of `ServerSettings`, all optional."""
    path = Path(path)
    table = _document(path).get("server", {})
    if not isinstance(table, dict):
        raise InvalidProjectFile(f"{path}: server must be a table")
    for name, value in table.items():
        if name not in _DEFAULTS:
            known = ", ".join(sorted(_DEFAULTS))
            raise InvalidProjectFile(
                f"{path}: server.{name} is not a setting; the settings are {known}"
            )
        if not _is_like(value, _DEFAULTS[name]):
            raise InvalidProjectFile(f"{path}: server.{name} is of the wrong type")
    origins = {"cors_origins": tuple(table["cors_origins"])} if "cors_origins" in table else {}
    try:
        return ServerSettings(**{**table, **origins})
    except ValueError as error:
        raise InvalidProjectFile(f"{path}: {error}") from None


def _is_like(value: object, default: object) -> bool:
    """Return True if a value of TOML has the type of a setting with this default."""
    match default:
        case bool():
            return isinstance(value, bool)
        case tuple():
            return isinstance(value, list) and all(isinstance(each, str) for each in value)
        case _:  # a number, or None for no limit
            kinds = int | float if isinstance(default, float) else int
            return isinstance(value, kinds) and not isinstance(value, bool)
