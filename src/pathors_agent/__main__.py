"""The command line: `python -m pathors_agent`."""

import argparse
import sys
from collections.abc import Sequence

from pathors_agent import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; give the exit status."""
    given = _parser().parse_args(arguments)
    from pathors_agent.demo import run_demo  # here, so that --help need not wait for it

    return run_demo(given.prompt or (), model=given.model, colour=not given.no_color)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pathors_agent",
        description="Agents over OpenAI-compatible chat completions.",
    )
    parser.add_argument("--version", action="version", version=f"pathors_agent {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_demo(commands)
    return parser


def _add_demo(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    demo = commands.add_parser(
        "demo",
        help="show a conversation with tools; needs no key and no network",
        description="Show a conversation with three tools: calculate, convert and local_time. "
        "Without a key the answers come from rules, not from a language model.",
        epilog="With PATHORS_BASE_URL, or PATHORS_API_KEY and PATHORS_PROJECT_ID, in the "
        "environment that endpoint answers. NO_COLOR turns colours off.",
    )
    demo.add_argument(
        "-p",
        "--prompt",
        action="append",
        metavar="TEXT",
        help="what to say instead of the built-in conversation; repeat it to go on",
    )
    demo.add_argument("--model", metavar="NAME", help="the model to ask the endpoint for")
    demo.add_argument("--no-color", action="store_true", help="write without colours")


if __name__ == "__main__":
    sys.exit(main())
