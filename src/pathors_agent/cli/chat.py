"""Chat with an endpoint on the terminal: type, read, stop an answer, go on."""

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from pathors_agent.cli.output import (
    FAILED,
    INTERRUPTED,
    NoOutput,
    Screen,
    in_own_words,
    listen_to_ctrl_c,
    one_line,
    tolerate_narrow_terminals,
    wants_colour,
    write_json,
    write_note,
)
from pathors_agent.cli.terminal import (
    TerminalChat,
    TimelineFile,
    answer_as_json,
    described,
    talking,
)
from pathors_agent.errors import AgentError, error_text
from pathors_agent.messages import ToolCall

# Where `serve` listens when it is told nothing else.
LOCAL_URL = "http://127.0.0.1:8000/v1/projects/demo"

_HELP = "/quit or Ctrl-D ends, /session names the session, Ctrl-C stops an answer."


def chat(
    url: str | None,
    *,
    key: str | None,
    model: str | None,
    session: str | None,
    timeline: Path | None,
    as_json: bool,
    options: Mapping[str, str],
) -> int:
    """Answer line after line of standard input; give the exit status."""
    listen_to_ctrl_c()
    tolerate_narrow_terminals()
    screen = Screen(NoOutput()) if as_json else Screen(sys.stdout, colour=wants_colour())
    is_person = sys.stdin.isatty() and not as_json
    lines = _typed(screen) if is_person else _read()
    with (
        TimelineFile(timeline) as charts,
        talking(
            url or _default_url(),
            screen,
            key=key,
            model=model,
            session=session,
            decide=_asked if is_person else lambda call: False,
        ) as terminal,
    ):
        if is_person:
            screen.note(_HELP)
        return _converse(terminal, lines, charts, options, is_person=is_person, as_json=as_json)


def _default_url() -> str | None:
    """Return PATHORS_BASE_URL, None if only a project is named, or else the local server."""
    named = os.environ.get("PATHORS_BASE_URL") or os.environ.get("PATHORS_PROJECT_ID")
    return os.environ.get("PATHORS_BASE_URL") if named else LOCAL_URL


def _converse(
    terminal: TerminalChat,
    lines: Iterator[str],
    charts: TimelineFile,
    options: Mapping[str, str],
    *,
    is_person: bool,
    as_json: bool,
) -> int:
    for line in lines:
        match line.strip():
            case "":
                continue
            case "/quit":
                break
            case "/session":
                session = terminal.conversation.session_id or "(none yet)"
                terminal.screen.note(one_line(f"session {session}"))
                continue
            case "/help":
                terminal.screen.note(_HELP)
                continue
            case _:
                pass
        status = _answer(terminal, line, options, as_json=as_json)
        charts.add(line, terminal.times)
        if status and not is_person:
            return status
    return 0


def _answer(terminal: TerminalChat, line: str, options: Mapping[str, str], *, as_json: bool) -> int:
    try:
        result = terminal.say(line)
    except KeyboardInterrupt:
        terminal.screen.note("(stopped)")
        return INTERRUPTED
    except AgentError as error:
        write_note(f"error: {' '.join(in_own_words(error_text(error), options).split())}")
        return FAILED
    if as_json:
        write_json(answer_as_json(result, terminal.activities))
    elif result.finish_reason not in ("stop", None):
        terminal.screen.note(one_line(f"(ended: {result.finish_reason})"))
    return 0


# - lines -


def _read() -> Iterator[str]:
    """Yield the lines of a file or pipe."""
    for line in sys.stdin:
        yield line.rstrip("\n")


def _typed(screen: Screen) -> Iterator[str]:
    """Yield the lines that a person types; the arrow keys recall earlier ones."""
    with suppress(ImportError):  # Windows has none
        import readline  # noqa: F401  (input() uses it from then on)
    prompt = "\n" + _unmeasured(screen.label("you"))
    while True:
        try:
            yield input(prompt)
        except KeyboardInterrupt:
            screen.note("\n/quit or Ctrl-D ends")
        except EOFError:
            screen.blank()
            return


def _unmeasured(prompt: str) -> str:
    """Mark colours so that readline does not take them for width."""
    return re.sub("\x1b[^m]*m", "\x01\\g<0>\x02", prompt)


def _asked(call: ToolCall) -> bool:
    """Ask the person whether a call may be made."""
    write_note(f"{described(call)} waits for your approval.")
    try:
        return input("Allow it? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False
