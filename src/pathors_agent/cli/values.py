"""Options of several commands, and readers of their values.

A wrong value is refused with the option's name: exit status 2.
"""

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from urllib.parse import urlsplit

import typer

from pathors_agent.cli.output import EXIT_STATUS

if TYPE_CHECKING:
    from pathors_agent.messages import JSONValue

AGE = re.compile(r"([1-9]\d{0,3})([mhd])", re.ASCII)
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}
# Equal to the rule of `Project.id`, whose import would slow `--help` down.
_PROJECT = re.compile(r"(?!\.+\Z)[A-Za-z0-9._~-]{1,100}")
_APP = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
_DATABASE = re.compile(r"(sqlite|postgres(ql)?)(\+\w+)?://")
_VISIBLE = re.compile(r"[!-~]([ -~]*[!-~])?")

_RATE_SECONDS = 60

NumberT = TypeVar("NumberT", int, float)

# No locals in tracebacks, because they may contain keys. Plain help, because it is fast.
new_app = partial(
    typer.Typer,
    epilog=EXIT_STATUS,
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def new_group(help: str) -> typer.Typer:  # noqa: A002  (typer's name)
    """Return a group of commands."""
    return new_app(add_completion=False, help=help)


TIME = "an age such as 30m, 12h or 7d, or a time such as 2026-11-28T10:00 (local without a zone)"


def age(text: str) -> timedelta:
    """Read an age: a number with m (minutes), h (hours) or d (days)."""
    if (found := AGE.fullmatch(text)) is None:
        raise typer.BadParameter(
            f"{text!r} is not an age: write a number with m, h or d, such as 30d"
        )
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def moment(text: str) -> datetime:
    """Read a time: an age before now, or a date with or without a time of day."""
    try:
        if AGE.fullmatch(text):
            return datetime.now(UTC) - age(text)
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{text!r} is not a time: write {TIME}") from None


def json_object(text: str) -> dict[str, "JSONValue"]:
    """Read a JSON object."""
    from pathors_agent.json_text import read_json  # late: `--help` needs no JSON

    value: dict[str, JSONValue] | None = read_json(text)
    if not isinstance(value, dict):
        raise typer.BadParameter('must be a JSON object such as {"amount": 5}')
    return value


def _matching(
    pattern: re.Pattern[str], rule: str, *, is_quoted: bool = True
) -> Callable[[str], str]:
    """Return a parser that refuses texts that do not match; secrets must not be quoted."""

    def parse(text: str) -> str:
        if pattern.fullmatch(text):
            return text
        raise typer.BadParameter(f"{text!r} {rule}" if is_quoted else rule)

    return parse


project_id = _matching(
    _PROJECT, "is not a project's name: write 1 to 100 of the characters A-Z a-z 0-9 . _ ~ -"
)
app_object = _matching(_APP, "does not name an agent: write MODULE:OBJECT, such as my_agent:agent")
# An empty text sends no key.
api_key = _matching(
    re.compile(f"({_VISIBLE.pattern})?"),
    "must be visible ASCII characters, without a space or a line break at its ends",
    is_quoted=False,
)
filled = _matching(re.compile(r"[\s\S]*\S[\s\S]*"), "must not be empty", is_quoted=False)


def _number(kind: type[NumberT], least: NumberT, most: NumberT | None) -> Callable[[str], NumberT]:
    """Return a parser of numbers in this range."""
    name = "a whole number" if kind is int else "a number"
    ends = f"of {least} or more" if most is None else f"from {least} to {most}"

    def parse(text: str) -> NumberT:
        try:
            value = kind(text)
        except (ValueError, OverflowError):
            value = None
        if value is None or not least <= value or (most is not None and value > most):
            raise typer.BadParameter(f"{text!r} is not {name} {ends}")
        return value

    return parse


def number_option(
    help: str,  # noqa: A002  (typer's name)
    *,
    least: int = 1,
    most: int | None = None,
    metavar: str = "N",
) -> Any:
    """Return an option for a whole number."""
    return typer.Option(parser=_number(int, least, most), metavar=metavar, help=help)


def choice_option(names: Sequence[str], help: str, *, metavar: str) -> Any:  # noqa: A002  (typer's name)
    """Return an option whose value is one of these names."""

    def parse(text: str) -> str:
        if text in names:
            return text
        raise typer.BadParameter(f"{text!r} is not one of {', '.join(map(repr, names))}")

    def completed(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return typer.Option(parser=parse, autocompletion=completed, metavar=metavar, help=help)


def session_id(text: str) -> str:
    """Read the id of a session."""
    from pathors_agent.stores.values import session_id_problem  # late: `--help` needs no store

    if problem := session_id_problem(text):
        raise typer.BadParameter(problem)
    return text


def endpoint(text: str) -> str:
    """Read the base URL of an endpoint. An error does not quote it: it may hold a password."""
    try:
        parts = urlsplit(text)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is not a number, or an invalid IPv6 address
        is_url = False
    if not is_url or re.search(r"\s", text):
        raise typer.BadParameter("must be an address of the form https://host/path")
    if parts.path.rstrip("/").endswith("/chat/completions"):
        raise typer.BadParameter("must be the base URL: leave out /chat/completions")
    return text


def database_url(text: str) -> str:
    """Read the URL of a database. An error does not quote it: it may hold a password."""
    if not _DATABASE.match(text):
        raise typer.BadParameter(
            "must be of the form sqlite:///FILE or postgresql://USER@HOST/NAME"
        )
    return text


def per_minute(rate: int | None) -> tuple[int, float] | None:
    """Return a rate of runs per minute in the form that `DurableAgent` accepts."""
    return None if rate is None else (rate, _RATE_SECONDS)


def database_option(file: str) -> Any:
    """Return the option of a command for its database, whose default is a `file`."""
    return typer.Option(
        envvar="PATHORS_DATABASE",
        parser=database_url,
        metavar="URL",
        help=f"sqlite:///FILE or postgresql://USER@HOST/NAME. Default: {file} in the user's data"
        " folder (PATHORS_DATA_DIR).",
    )


# - options of several commands -

AsJSON = Annotated[bool, typer.Option("--json", help="Write JSON, one value per line.")]
Database = Annotated[str | None, database_option("runs.db")]
Host = Annotated[str, typer.Option(parser=filled, metavar="HOST", help="The address to listen on.")]
Port = Annotated[
    int,
    number_option(
        "The port to listen on; 0 picks a free one.", least=0, most=65_535, metavar="PORT"
    ),
]
# The largest number that databases accept.
LARGEST_NUMBER = 2**63 - 1

Limit = Annotated[int, number_option("The maximum number of rows, up to 1000.", most=1_000)]
Offset = Annotated[int, number_option("The number of rows to skip.", least=0, most=LARGEST_NUMBER)]
Rate = Annotated[int | None, number_option("The maximum number of runs that start per minute.")]
Key = Annotated[
    str | None,
    typer.Option(
        parser=api_key,
        metavar="KEY",
        help="The API key, which other users of the machine can see. Default: PATHORS_API_KEY,"
        " which is sent only to this machine and to the host of PATHORS_BASE_URL.",
    ),
]
Model = Annotated[
    str | None, typer.Option(parser=filled, metavar="NAME", help="The model to ask for.")
]
Seconds = Annotated[
    float,
    typer.Option(
        parser=_number(float, 1, 86_400), metavar="S", help="The timeout of one answer in seconds."
    ),
]
Timeline = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write a timeline of all calls to an HTML file.")
]
