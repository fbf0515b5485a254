"""Write to the terminal: labelled lines, tables, JSON and errors.

No text of a model or user can forge what the terminal shows.
"""

import json
import logging
import math
import os
import re
import shutil
import signal
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn, Protocol, cast

import typer

# Characters that texts of models and users must not contain on a terminal: control characters
# except line feeds and tabs, other line breaks, characters that change the direction, and invisible
# ones.
_HIDDEN = (
    r"\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f"
    r"\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u2800\u3164\ud800-\udfff\ufe00-\ufe0d\ufeff"
    r"\uffa0\ufff9-\ufffb\U00013430-\U0001345f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    r"\U000e0000-\U000e0fff"
)
# Emoji and some scripts need these invisible characters after a visible character that is not
# ASCII.
_JOINERS = r"\u200c\u200d\ufe0e\ufe0f"
_CONTROL = re.compile(f"[{_HIDDEN}]|(?<![^\\x00-\\x7f{_HIDDEN}{_JOINERS}])[{_JOINERS}](?!\\u20e3)")
_LINE_END = re.compile("\r\n|\n")

_COLOURS = {
    "you": "1",
    "call": "36",
    "result": "32",
    "error": "31",
    "model": "1;35",
    "system": "33",
    "note": "2",
}
_LABEL_WIDTH = 8
# A narrower last column is not worth wrapping to.
_LEAST_LAST_COLUMN = 24
# The width of a label at the beginning of a line; the other lines of a text are indented.
_NEXT_LINE = "\n" + " " * _LABEL_WIDTH


class Output(Protocol):
    """A text file to write to, such as `sys.stdout`."""

    def write(self, text: str, /) -> object:
        """Write a text."""

    def flush(self) -> object:
        """Flush the output."""


class GrowingText(Protocol):
    """A text that is written in pieces."""

    def write(self, text: str, /) -> None:
        """Write a piece of the text."""

    def end(self) -> None:
        """End the text, and its line."""


class NoOutput:
    """An output that drops everything, for commands that write JSON instead."""

    def write(self, text: str, /) -> None:
        """Drop a text."""

    def flush(self) -> None:
        """Do nothing."""


@dataclass(slots=True)
class Screen:
    """Writes texts behind a label that names their speaker, in colour if wanted."""

    out: Output
    colour: bool = False
    is_mid_line: bool = False
    rendering: Callable[[Output, str, int], GrowingText] | None = None
    """Starts a growing text after a label of this width; without it, the text is plain."""
    _last: str = ""
    _growing: GrowingText | None = None

    def line(self, speaker: str, text: str, note: str = "") -> None:
        """Write a whole text, followed by a remark."""
        self.end_line()
        remark = f"  {self._painted('note', note)}" if note else ""
        self._write(f"{self.label(speaker)}{_indented(printable(text))}{remark}\n")

    def stream(self, speaker: str, text: str) -> None:
        """Write a piece of a growing text."""
        label = "" if self.is_mid_line else self.label(speaker)
        shown = printable(self._last + text)[len(self._last) :]
        if self.rendering is not None and not self.is_mid_line:
            self._growing = self.rendering(self.out, label, _LABEL_WIDTH)
        if self._growing is not None:
            self._growing.write(shown)
        else:
            self._write(label + _indented(shown))
        self._last = text[-1:] or self._last
        self.is_mid_line = True

    def end_line(self) -> None:
        """End a growing text."""
        if self._growing is not None:
            self._growing.end()
            self._growing = None
        elif self.is_mid_line:
            self._write("\n")
        self.is_mid_line, self._last = False, ""

    def blank(self) -> None:
        """Write an empty line."""
        self.end_line()
        self._write("\n")

    def note(self, text: str) -> None:
        """Write a remark of this program."""
        self.end_line()
        self._write(self._painted("note", printable(text)) + "\n")

    def label(self, speaker: str) -> str:
        """Return the label of a speaker's texts."""
        return self._painted(speaker, speaker) + " " * (_LABEL_WIDTH - len(speaker))

    def _painted(self, kind: str, text: str) -> str:
        return f"\x1b[{_COLOURS[kind]}m{text}\x1b[0m" if self.colour else text

    def _write(self, text: str) -> None:
        self.out.write(text)
        self.out.flush()


def printable(text: str) -> str:
    """Replace characters that control the terminal, are invisible, or change the direction.

    Line feeds and tabs stay; see `one_line`.
    """
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", _LINE_END.sub("\n", text))


def one_line(text: str) -> str:
    """Return a text on one line: a sign replaces a line feed, and a space a tab."""
    text = printable(text).replace("\t", " ")
    return text.replace("\n", "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}")


def _indented(text: str) -> str:
    return text.replace("\n", _NEXT_LINE)


def wants_colour() -> bool:
    """Return whether standard output is a terminal, and colours are not turned off."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def can_render() -> bool:
    """Return whether standard output is a terminal whose cursor can be moved."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in ("", "dumb")


def write_line(text: str) -> None:
    """Write one line to standard output."""
    print(one_line(text), flush=True)


def write_text(text: str) -> None:
    """Write lines of this program to standard output."""
    print(printable(text), flush=True)


def write_note(text: str) -> None:
    """Write one line to standard error."""
    print(one_line(text), file=sys.stderr, flush=True)


def write_json(value: object) -> None:
    """Write a value as one line of ASCII JSON, in which no text can control the terminal."""
    print(json.dumps(value, default=_as_json), flush=True)


def write_table(titles: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Write rows in columns to standard output, or `empty` to standard error if there are none.

    Files and pipes get one line for each row. A terminal wraps the last column; if it has no room
    for the others, each row becomes a block of lines, so that ids can be copied whole.
    """
    from rich.cells import cell_len, set_cell_size  # some characters are two columns wide

    cells = [[_cell(value) for value in row] for row in rows]
    if not cells:
        write_note(empty)
        return
    widths = [max(map(cell_len, column)) for column in zip(titles, *cells, strict=True)]
    room = math.inf
    if sys.stdout.isatty():
        room = shutil.get_terminal_size().columns - sum(widths[:-1]) - 3 * len(widths[:-1])
    if room < min(widths[-1], _LEAST_LAST_COLUMN):
        _write_blocks(titles, cells)
        return
    for row in (titles, *cells):
        first = "   ".join(map(set_cell_size, row[:-1], widths))
        lines = [row[-1]] if room >= widths[-1] else textwrap.wrap(row[-1], int(room)) or [""]
        for at, line in enumerate(lines):
            write_line(f"{first if not at else ' ' * cell_len(first)}   {line}".rstrip())


def _write_blocks(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    width = max(map(len, titles))
    for number, row in enumerate(rows):
        if number:
            write_text("")
        for title, cell in zip(titles, row, strict=True):
            if cell:
                write_line(f"{title:{width}}   {cell}")


def write_rest(shown: int, total: int, offset: int) -> None:
    """Write a note on how to see the rest of a list, if there is more of it."""
    end = offset + shown
    if shown and end < total:
        write_note(f"{end} of {total}; continue with --offset {end}")


def _cell(value: object) -> str:
    if isinstance(value, datetime):
        return str(_as_json(value))
    return one_line("" if value is None else str(value))


def _as_json(value: object) -> object:
    from pathors_agent.json_text import iso  # late: `--help` needs no JSON

    return iso(value) if isinstance(value, datetime) else str(value)


FAILED = 1
WRONG_USAGE = 2
INTERRUPTED = 130  # the status that shells report for a program that Ctrl-C ended

EXIT_STATUS = "Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted."

# The extra of each package that may be missing.
_EXTRAS = {
    "typer": "cli",
    "rich": "cli",
    "fastapi": "server",
    "starlette": "server",
    "uvicorn": "server",
    "sqlalchemy": "server",
    "psycopg": "postgres",
    "dbos": "durable",
}


@contextmanager
def reporting(options: Mapping[str, str] | None = None) -> Iterator[None]:
    """Write an error of a command as one line, and exit with its status.

    `options` are the options of the command by the parameters of the library, see `in_own_words`.
    Pass them if the command has options for an endpoint.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has closed the pipe (`| head`). Python flushes the rest at exit, to os.devnull.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(FAILED) from None
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except ImportError as error:
        hint = what_to_install(error)
        if hint is None:
            raise
        fail(hint, WRONG_USAGE)
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except Exception as error:
        # Imported here, because it is slow to import and --help should be fast.
        from pathors_agent.errors import AgentError, InvalidSetting, error_text

        if not isinstance(error, AgentError):
            raise
        status = WRONG_USAGE if isinstance(error, InvalidSetting) else FAILED
        text = error_text(error)
        fail(text if options is None else in_own_words(text, options), status)


# The library's parameters in its errors, and the variables that replace them without an option.
_VARIABLES = {
    "api_key": "PATHORS_API_KEY",
    "base_url": "PATHORS_BASE_URL",
    "model": "",
    "project_id": "PATHORS_PROJECT_ID",
}
_PARAMETER = re.compile(
    rf"(?P<pass>\bpass )?\b(?P<name>{'|'.join(_VARIABLES)})=(?![\w\"'=])(?P<or> or set |, )?"
    r"|\b(?P<bare>base_url)\b(?!=)"
)


def in_own_words(text: str, options: Mapping[str, str]) -> str:
    """Replace the names of the library's parameters by those of a command's options.

    A parameter without an option is left out; its environment variable stays.
    """

    def named(found: re.Match[str]) -> str:
        if found["bare"]:
            return options.get("base_url", _VARIABLES["base_url"])
        start, rest = found["pass"] or "", found["or"] or ""
        if option := options.get(found["name"]):
            return f"{start}{option}{rest}"
        if rest == " or set ":
            return "set "
        return f"set {_VARIABLES[found['name']]}{rest}" if start else ""

    return _PARAMETER.sub(named, text).replace(", )", ")").replace(" ()", "")


def what_to_install(error: ImportError) -> str | None:
    """Return how to install a missing module, or None if no extra brings it."""
    if "pip install" in str(error):
        return str(error)
    extra = _EXTRAS.get((error.name or "").partition(".")[0])
    return extra and f"{error.name} is missing: pip install 'pathors-agent[{extra}]'"


def fail(text: str, status: int = FAILED) -> NoReturn:
    """Write an error and exit."""
    write_note(f"error: {' '.join(text.split())}")
    raise typer.Exit(status)


def listen_to_ctrl_c() -> None:
    """Let Ctrl-C interrupt this program even if its parent process ignores SIGINT."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


_NAME = "pathors-agent"
_SERVER_FILE = "sessions.db"
RUNS_FILE = "runs.db"


def data_folder() -> Path:
    """Return the folder for this user's data; create it readable by the user only.

    PATHORS_DATA_DIR names it; by default, it is in the system's folder for such data.
    """
    named = os.environ.get("PATHORS_DATA_DIR")
    folder = Path(named) if named else _user_data() / _NAME
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        fail(
            f"the data folder {folder} cannot be created: {error.strerror}; set PATHORS_DATA_DIR to"
            " another folder, or pass --database"
        )
    return folder


def stored_in(given: str | None, *, file: str = _SERVER_FILE) -> str:
    """Return the requested database, or a file in the data folder."""
    if given:
        return given
    from sqlalchemy import URL

    path = (data_folder() / file).resolve()
    return URL.create("sqlite", database=str(path)).render_as_string()


def place(database: str) -> str:
    """Return a database's URL for people, without its password."""
    from pathors_agent.stores.database import read_url, shown

    return shown(read_url(database))


def _user_data() -> Path:
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return Path(local) if local else Path.home() / "AppData" / "Local"
    named = os.environ.get("XDG_DATA_HOME", "")
    # The XDG specification: ignore a path that is not absolute.
    return Path(named) if Path(named).is_absolute() else Path.home() / ".local" / "share"


def log_to_stderr(*, everything: bool, as_json: bool) -> None:
    """Log failures and, if a server logs them, requests; with `everything`, each event."""
    import structlog  # only servers and workers log

    # A line stays a line: control characters in values are escaped by `repr` and by JSON.
    render = structlog.processors.JSONRenderer() if as_json else _as_text
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.stdlib.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                _add_fields,
                structlog.processors.format_exc_info,
            ],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    level = logging.INFO if everything else logging.WARNING
    for name, heard in (("pathors_agent", level), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(heard)
        logger.propagate = False
    # Uses the handler of its parent; events are written only if a setting of the server says so.
    logging.getLogger("pathors_agent.access").setLevel(logging.INFO)


def _add_fields(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Add the fields of an event from its log record."""
    record = cast(logging.LogRecord, event["_record"])
    if hasattr(record, "fields"):
        return {**event, "event": record.event, **record.fields}  # type: ignore[attr-defined]  # set by `telemetry.events`
    return event


def _as_text(_logger: object, _method: str, event: MutableMapping[str, Any]) -> str:
    """Render `2026-11-28T10:00:00.000000Z warning turn_failed name='value' ...`."""
    fields = dict(event)
    start = [fields.pop("timestamp"), fields.pop("level"), repr(str(fields.pop("event")))[1:-1]]
    return " ".join([*start, *(f"{name}={value!r}" for name, value in fields.items())])
