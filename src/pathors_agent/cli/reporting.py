"""Say what went wrong in one line on standard error, and end with the status that tells it."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

from pathors_agent.cli.output import write_note

FAILED = 1
WRONG_USAGE = 2
INTERRUPTED = 130  # what shells report of a program that Ctrl-C ended

EXIT_STATUS = "Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted."

# Which extra a package belongs to that is not there.
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
def reporting() -> Iterator[None]:
    """Turn what goes wrong in a command into a line and an exit status."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader went away (`| head`). Python writes out what is left at exit: into nothing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(FAILED) from None
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except ImportError as error:
        hint = _what_to_install(error)
        if hint is None:
            raise
        fail(hint, WRONG_USAGE)
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except Exception as error:
        # Here, for it loads a lot: --help is quick.
        from pathors_agent.errors import AgentError, error_text

        if not isinstance(error, AgentError):
            raise
        fail(error_text(error))


def _what_to_install(error: ImportError) -> str | None:
    """Say what is missing; None where it is no part of an extra."""
    if "pip install" in str(error):
        return str(error)
    extra = _EXTRAS.get((error.name or "").partition(".")[0])
    return extra and f"{error.name} is missing: pip install 'pathors-agent[{extra}]'"


def fail(text: str, status: int = FAILED) -> NoReturn:
    """Say what went wrong, and end."""
    write_note(f"error: {' '.join(text.split())}")
    raise typer.Exit(status)


def listen_to_ctrl_c() -> None:
    """Let Ctrl-C interrupt, also where whoever started this program ignores it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
