"""The program `pathors-agent`, also `python -m pathors_agent`; needs the extra `cli`."""

import io
import os
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    prepare_streams()
    try:
        from pathors_agent.cli.app import app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("typer", "rich"):
            raise
        sys.stderr.write(
            f"error: the command line needs {error.name}: pip install 'pathors-agent[cli]'\n"
        )
        return 2
    except KeyboardInterrupt:  # the imports take some time; commands handle Ctrl-C themselves
        return 130
    try:
        app(arguments, prog_name="pathors-agent")  # ends the process, with the command's status
    except OSError as error:  # the help or the version could not be written; commands report theirs
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def prepare_streams() -> None:
    """Replace closed standard streams, and bytes or characters that their encoding does not have."""
    streams = (("stdin", os.O_RDONLY), ("stdout", os.O_WRONLY), ("stderr", os.O_WRONLY))
    for number, (name, mode) in enumerate(streams):
        if getattr(sys, name) is None:  # closed by the caller, as by `>&-`
            _open_null(number, mode)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", encoding="utf-8"))
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _open_null(number: int, mode: int) -> None:
    """Open the null device as this file descriptor."""
    opened = os.open(os.devnull, mode)
    if opened != number:
        os.dup2(opened, number)
        os.close(opened)


if __name__ == "__main__":
    sys.exit(main())
