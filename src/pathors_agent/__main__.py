"""The program `pathors-agent`, also `python -m pathors_agent`; needs the extra `cli`."""

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    try:
        from pathors_agent.cli.app import app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("typer", "rich"):
            raise
        sys.stderr.write(
            f"error: the command line needs {error.name}: pip install 'pathors-agent[cli]'\n"
        )
        return 2
    app(arguments, prog_name="pathors-agent")  # ends the process, with the command's status
    return 0


if __name__ == "__main__":
    sys.exit(main())
