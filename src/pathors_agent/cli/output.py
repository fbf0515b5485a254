"""Write to the terminal: what is whose, in colour where that is wanted, and never its controls."""

import io
import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

# Texts of models and users must not steer the terminal: all control characters but line ends
# and tabs, and those that turn the order of what is read.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

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
# Wider than any line: what is not shown on a terminal is not cut.
_UNCUT = 100_000


class Output(Protocol):
    """Where something is written: a text file such as `sys.stdout`."""

    def write(self, text: str, /) -> object:
        """Write a text."""

    def flush(self) -> object:
        """Send on what was written."""


@dataclass(slots=True)
class Screen:
    """Writes lines that begin with who speaks, in colour where that is wanted."""

    out: Output
    colour: bool = False
    is_mid_line: bool = False

    def line(self, who: str, text: str, note: str = "") -> None:
        """Write a whole line, and beside it a remark."""
        self.end_line()
        remark = f"  {self._painted('note', note)}" if note else ""
        self._write(f"{self.label(who)}{printable(text)}{remark}\n")

    def stream(self, who: str, text: str) -> None:
        """Write a piece of a line that grows."""
        self._write(printable(text) if self.is_mid_line else self.label(who) + printable(text))
        self.is_mid_line = True

    def end_line(self) -> None:
        """End a line that grew."""
        if self.is_mid_line:
            self._write("\n")
        self.is_mid_line = False

    def blank(self) -> None:
        """Write an empty line."""
        self.end_line()
        self._write("\n")

    def note(self, text: str) -> None:
        """Write a remark of its own."""
        self.end_line()
        self._write(self._painted("note", printable(text)) + "\n")

    def label(self, who: str) -> str:
        """Give how the lines of somebody begin."""
        return self._painted(who, who) + " " * (_LABEL_WIDTH - len(who))

    def _painted(self, kind: str, text: str) -> str:
        return f"\x1b[{_COLOURS[kind]}m{text}\x1b[0m" if self.colour else text

    def _write(self, text: str) -> None:
        self.out.write(text)
        self.out.flush()


def printable(text: str) -> str:
    """Replace what would steer the terminal."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def wants_colour() -> bool:
    """Tell whether standard output is a terminal that is not asked to stay plain."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def tolerate_narrow_terminals() -> None:
    """Let characters that a terminal does not know be shown as others."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def write_line(text: str) -> None:
    """Write a line to standard output."""
    print(printable(text), flush=True)


def write_note(text: str) -> None:
    """Write a line beside the output: to standard error."""
    print(printable(text), file=sys.stderr, flush=True)


def write_json(value: object) -> None:
    """Write a value as one line of JSON, in ASCII: no text can steer a terminal from in there."""
    print(json.dumps(value, default=_as_json), flush=True)


def write_table(titles: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Write lines in columns to standard output; `empty` to standard error where there are none."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*titles, box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row))
    if not table.row_count:
        write_note(empty)
        return
    colour = wants_colour()
    width = None if sys.stdout.isatty() else _UNCUT
    Console(width=width, no_color=not colour, highlight=False).print(table)


def iso(time: datetime | None) -> str | None:
    """Write a time as the API does: UTC, milliseconds, Z."""
    if time is None:
        return None
    return time.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def _cell(value: object) -> str:
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    return printable("" if value is None else str(value))


def _as_json(value: object) -> object:
    return iso(value) if isinstance(value, datetime) else str(value)
