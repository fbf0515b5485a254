"""A conversation with three real tools, shown on the terminal as it streams.

A server in a process of its own answers over HTTP. If the environment names an endpoint, that
endpoint answers, and the tools run in this process.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pathors_agent.agents.agent import Agent
from pathors_agent.cli.demo_tools import INSTRUCTIONS, demo_tools
from pathors_agent.cli.output import WRONG_USAGE, NoOutput, Screen, fail, wants_colour, write_json
from pathors_agent.cli.terminal import TerminalChat, TimelineFile, answer_as_json, talking
from pathors_agent.errors import AgentError
from pathors_agent.transports.http import HTTPTransport

PROMPTS = (
    "How many kilometres are 26.2 miles?",
    "Divide that by 3.5, and tell me what time it is in Tokyo and in New York.",
    "And in Lisbon?",
)

# An idle server needs a tenth of this time to stop.
_STOP_SECONDS = 10.0


def run_demo(
    prompts: Sequence[str] = (),
    *,
    model: str | None = None,
    colour: bool = True,
    timeline: Path | None = None,
    as_json: bool = False,
) -> None:
    """Show the conversation on standard output, and the calls in a file."""
    screen = Screen(NoOutput()) if as_json else Screen(sys.stdout, colour=colour and wants_colour())
    names_endpoint = any(map(os.environ.get, ("PATHORS_API_KEY", "PATHORS_BASE_URL")))
    if model is not None and not names_endpoint:
        fail("--model needs an endpoint: set PATHORS_BASE_URL", WRONG_USAGE)
    opened = _with_endpoint(screen, model) if names_endpoint else _with_server(screen)
    try:
        with TimelineFile(timeline) as charts, opened as terminal:
            for prompt in prompts or PROMPTS:
                screen.blank()
                screen.line("you", prompt)
                try:
                    result = terminal.say(prompt)
                    if as_json:
                        write_json(answer_as_json(result, terminal.activities))
                    _ = result.output  # raises if the run stopped without an answer
                finally:
                    charts.add(prompt, terminal.times)
            if not names_endpoint:
                screen.blank()
                screen.note(f"The server kept all of it as {terminal.conversation.session_id}.")
    finally:
        if sys.exc_info()[0] is not BrokenPipeError:
            screen.end_line()


@contextmanager
def _with_server(screen: Screen) -> Iterator[TerminalChat]:
    screen.note("The answers come from rules, not from a language model; the tools are real.")
    with _server() as (url, key), talking(url, screen, key=key) as terminal:
        screen.note(f"A server answers over HTTP, and runs the tools: {url}")
        yield terminal


@contextmanager
def _with_endpoint(screen: Screen, model: str | None) -> Iterator[TerminalChat]:
    with HTTPTransport() as http:
        screen.note(f"The answers come from {http!r}; the tools run here.")
        agent = Agent(http, model=model, instructions=INSTRUCTIONS, tools=demo_tools())
        yield TerminalChat(agent, screen)


@contextmanager
def _server() -> Iterator[tuple[str, str]]:
    """Run a server on a free port with a new database; yield its address and a key."""
    with TemporaryDirectory(prefix="pathors-agent-") as folder:
        database = f"sqlite:///{folder}/sessions.db"
        command = [sys.executable, "-m", "pathors_agent", "serve", "--json"]
        options = ["--port", "0", "--database", database]
        with subprocess.Popen(  # noqa: S603  (this very program)
            command + options,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            process_group=0,  # Ctrl-C is for the conversation; its end is the server's, too
        ) as process:
            try:
                told = _told(process)
                yield told["base_urls"]["demo"], told["keys"]["demo"]
            finally:
                _stop(process)


def _told(process: "subprocess.Popen[bytes]") -> dict[str, Any]:
    """Wait for the server's address; raise `AgentError` if it does not start."""
    assert process.stdout is not None  # it was asked for
    line = process.stdout.readline()
    if not line:
        raise AgentError("the server for the demo did not start; its output says why")
    told: dict[str, Any] = json.loads(line)
    return told


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
