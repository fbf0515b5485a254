"""Chat with an endpoint on the terminal: send lines, read answers, and stop them."""

import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sized
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from pathors_agent.agents.agent import Agent
from pathors_agent.agents.result import RunResult
from pathors_agent.cli.demo_tools import INSTRUCTIONS, PACE, demo_tools
from pathors_agent.cli.output import (
    FAILED,
    INTERRUPTED,
    WRONG_USAGE,
    NoOutput,
    Screen,
    can_render,
    fail,
    in_own_words,
    listen_to_ctrl_c,
    one_line,
    wants_colour,
    write_json,
    write_note,
)
from pathors_agent.cli.terminal import (
    RunDisplay,
    TerminalChat,
    TimelineFile,
    Verdict,
    answer_as_json,
    approval_digest,
    described,
    talking,
    undecided,
)
from pathors_agent.core.conversation import Conversation
from pathors_agent.errors import AgentError, error_text
from pathors_agent.json_text import iso, read_json
from pathors_agent.messages import AssistantMessage, ToolCall, UserMessage
from pathors_agent.offline.transport import OfflineTransport

_HELP = """\
/new            start a new conversation
/sessions       list conversations; /sessions N or /sessions ID continues one
/session        show the id of this session, for --session
/retry          ask the last question again and replace its answer
/edit           change the last question and ask it again; /edit TEXT replaces it
/tools          list the tools that are known here
/help           show this list
exit            end, as Ctrl-D does
//TEXT          send a text that begins with a slash
Ctrl-C          stop an answer"""
_ENDS = ("exit", "/exit", "/quit")
_COMMAND = re.compile(r"/[a-z]+(?=\s|$)")
# The rows of `/sessions`, which fit on a screen.
_SESSION_ROWS = 20
_TITLE_CHARACTERS = 60


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
    """Answer line after line of standard input; return the exit status."""
    listen_to_ctrl_c()
    screen = Screen(NoOutput()) if as_json else Screen(sys.stdout, colour=wants_colour())
    if can_render() and not as_json:
        from pathors_agent.cli.markdown import MarkdownStream  # late: pipes need no rich

        screen.rendering = partial(MarkdownStream, colour=wants_colour())
    keyboard = _Keyboard(screen) if sys.stdin.isatty() and not as_json else None
    decide = keyboard.decide if keyboard else undecided
    names_endpoint = any(map(os.environ.get, ("PATHORS_BASE_URL", "PATHORS_PROJECT_ID")))
    opened: AbstractContextManager[TerminalChat]
    if url or names_endpoint:
        opened = talking(url, screen, key=key, model=model, session=session, decide=decide)
    else:
        for name, value in {"--key": key, "--model": model, "--session": session}.items():
            if value is not None:
                fail(f"{name} needs an endpoint: pass --url, or set PATHORS_BASE_URL", WRONG_USAGE)
        opened = nullcontext(_demo(screen))
    with TimelineFile(timeline) as charts, opened as terminal:
        address = f" --url {shlex.quote(url)}" if url else ""
        return _Talk(terminal, keyboard, charts, options, address, as_json).go_on(session)


def _demo(screen: Screen) -> TerminalChat:
    """Return a chat with the demo in this process: answers by rules, and three real tools."""
    if not isinstance(screen.out, NoOutput):
        write_note("No address is given: the demo answers by rules, without a language model.")
    transport = OfflineTransport(pace=PACE)
    return TerminalChat(Agent(transport, instructions=INSTRUCTIONS, tools=demo_tools()), screen)


@dataclass
class _Talk:
    """Performs the lines of a chat: commands, and prompts for the endpoint.

    `address` is the option for the endpoint in commands that are shown.
    """

    _terminal: TerminalChat
    _keyboard: "_Keyboard | None"
    _charts: TimelineFile
    _options: Mapping[str, str]
    _address: str
    _as_json: bool
    _listed: list[str] = field(default_factory=list)  # the sessions of the last /sessions

    def go_on(self, session: str | None) -> int:
        """Perform lines until the end; return the exit status."""
        if self._keyboard is not None:
            self._terminal.streaming = self._keyboard.without_echo
            self._note("/help lists the commands; exit or Ctrl-D ends; Ctrl-C stops an answer.")
            if session is not None:
                self._perform("", lambda: self._continue(session))
        for line in self._keyboard.lines() if self._keyboard else _read():
            text = line.strip()
            if text in _ENDS:
                break
            status = self._take(line) if text else 0
            if status and self._keyboard is None:
                return status
        return 0

    def _take(self, line: str) -> int:
        text = line.strip()
        if (found := _COMMAND.match(text)) is None:
            prompt = text[1:] if text.startswith("//") else line
            return self._perform(line, lambda: self._terminal.say(prompt))
        command = _COMMANDS.get(found[0])
        if command is None:
            write_note(f"error: there is no command {found[0]}; /help lists the commands")
            return FAILED
        return self._perform(line, lambda: command(self, text[found.end() :].strip()))

    def _perform(self, line: str, act: Callable[[], RunResult[str] | None]) -> int:
        """Send a prompt or carry out a command, and write the outcome."""
        try:
            result = act()
        except KeyboardInterrupt:
            self._note("(stopped)")
            return INTERRUPTED
        except AgentError as error:
            text = in_own_words(error_text(error), self._options)
            write_note(f"error: {' '.join(text.split())}")
            return FAILED
        if result is None:
            return 0
        self._charts.add(line, self._terminal.times)
        if self._as_json:
            write_json(answer_as_json(result, self._terminal.activities))
        if waiting := [call for call in result.open_calls if approval_digest(call)]:
            return self._leave_open(waiting)
        if not self._as_json and result.finish_reason not in ("stop", None):
            self._note(f"(ended: {result.finish_reason})")
        return 0

    def _leave_open(self, waiting: list[ToolCall]) -> int:
        for call in waiting:
            write_note(f"{described(call)} waits for your approval.")
        session = self._terminal.conversation.session_id
        if session is None:
            write_note("Decide on a terminal: the endpoint keeps no sessions to continue later.")
        else:
            command = f"pathors-agent chat{self._address} --session {shlex.quote(session)}"
            write_note(f"It was not run. Decide on a terminal, with: {command}")
        return FAILED

    def _note(self, text: str) -> None:
        self._terminal.screen.note(one_line(text))

    # - commands -

    def new(self, _: str) -> None:
        """Begin a new conversation."""
        self._terminal.begin()
        self._note("A new conversation.")

    def session(self, _: str) -> None:
        """Show the id of this session."""
        self._note(f"session {self._terminal.conversation.session_id or '(none yet)'}")

    def help(self, _: str) -> None:
        """List the commands."""
        self._terminal.screen.note(_HELP)

    def retry(self, _: str) -> RunResult[str] | None:
        """Ask the last question again."""
        if (prompt := self._last_prompt()) is None:
            return None
        self._note(f"again: {prompt}")
        return self._terminal.ask_again(prompt)

    def edit(self, text: str) -> RunResult[str] | None:
        """Change the last question, and ask it again."""
        if (prompt := self._last_prompt()) is None:
            return None
        if not text:
            if self._keyboard is None:
                raise AgentError("/edit needs the new text here: /edit TEXT")
            text = self._keyboard.edit(prompt).strip()
        return self._terminal.ask_again(text) if text else None

    def _last_prompt(self) -> str | None:
        prompt = self._terminal.last_prompt
        if prompt is None:
            self._note("There is no question yet.")
        return prompt

    def tools(self, _: str) -> None:
        """List the tools that are known here."""
        own = self._terminal.agent.tools
        for tool in own:
            self._note(f"{tool.name}: {' '.join(tool.description.split())}")
        if not len(own):
            messages = self._terminal.history()
            asked = (each for each in messages if isinstance(each, AssistantMessage))
            called = sorted({call.name for each in asked for call in each.tool_calls})
            names = ", ".join(called) or "none yet"
            self._note(f"The endpoint does not list its tools. Called so far: {names}.")

    def sessions(self, chosen: str) -> RunResult[str] | None:
        """List or continue the sessions of the server."""
        if self._terminal.sessions is None:
            self._conversations(chosen)
            return None
        if chosen:
            at = _place(chosen, self._listed)
            return self._continue(chosen if at is None else self._listed[at])
        page = self._terminal.sessions.list(page_size=_SESSION_ROWS)
        open_ones = [each for each in page.items if each.ended_at is None]
        self._listed = [each.id for each in open_ones]
        for at, each in enumerate(open_ones, 1):
            count = f"{each.message_count} messages  " if each.message_count is not None else ""
            started = iso(each.started_at) or ""
            self._note(f"{at:3}  {started}  {count}{_titled(each.title or each.id)}")
        if not open_ones:
            self._note("There are no sessions yet.")
        return None

    def _conversations(self, chosen: str) -> None:
        """List or continue the conversations of this program."""
        earlier = self._terminal.earlier
        if (at := _place(chosen, earlier)) is not None:
            self._terminal.reopen(at)
            self._show(self._terminal.conversation)
            return
        if chosen:
            raise AgentError(f"there is no conversation {chosen!r}; /sessions lists them")
        for at, each in enumerate(earlier, 1):
            self._note(f"{at:3}  {len(each)} messages  {_titled(_first_words(each))}")
        if not earlier:
            self._note("There are no earlier conversations.")

    def _continue(self, session: str) -> RunResult[str] | None:
        self._terminal.open_session(session)
        self._show(self._terminal.conversation)
        waits = any(map(approval_digest, self._terminal.conversation.open_calls))
        return self._terminal.resume() if waits else None

    def _show(self, conversation: Conversation) -> None:
        """Show a conversation that is continued."""
        display = RunDisplay(self._terminal.screen, is_timed=False)
        for message in conversation.messages:
            display.show_message(message)


_COMMANDS: dict[str, Callable[[_Talk, str], RunResult[str] | None]] = {
    "/new": _Talk.new,
    "/sessions": _Talk.sessions,
    "/session": _Talk.session,
    "/retry": _Talk.retry,
    "/edit": _Talk.edit,
    "/tools": _Talk.tools,
    "/help": _Talk.help,
}


def _place(number: str, listed: Sized) -> int | None:
    """Return the index of a row of a list by its number, or None if there is no such row."""
    numbers = map(str, range(1, len(listed) + 1))
    return next((at for at, each in enumerate(numbers) if each == number), None)


def _first_words(conversation: Conversation) -> str:
    asked = (each.text for each in conversation.messages if isinstance(each, UserMessage))
    return next(asked, "")


def _titled(text: str) -> str:
    return text if len(text) <= _TITLE_CHARACTERS else f"{text[:_TITLE_CHARACTERS]}..."


# - lines -


def _read() -> Iterator[str]:
    """Yield the lines of a file or pipe."""
    for line in sys.stdin:
        yield line.rstrip("\n")


class _Keyboard:
    """Reads what a person types; the arrow keys recall earlier lines."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        with suppress(ImportError):  # Windows has none
            import readline  # noqa: F401  (input() uses it from then on)

    def lines(self) -> Iterator[str]:
        """Yield line after line until Ctrl-D."""
        while True:
            try:
                yield input(self._prompt)
            except KeyboardInterrupt:
                self._screen.note("\nexit or Ctrl-D ends")
            except EOFError:
                self._screen.blank()
                return

    def edit(self, text: str) -> str:
        """Let the person change a text; return "" if they leave it with Ctrl-D."""
        try:
            import readline
        except ImportError:  # Windows has none
            return input(self._prompt)
        readline.set_startup_hook(lambda: readline.insert_text(text))
        try:
            return input(self._prompt)
        except EOFError:
            self._screen.blank()
            return ""
        finally:
            readline.set_startup_hook()

    def decide(self, call: ToolCall) -> Verdict | None:
        """Ask the person about a call; Ctrl-D leaves it open."""
        write_note(f"{described(call)} waits for your approval.")
        self._drop_typed()  # text that was typed before the question is not an answer
        while True:
            try:
                said = input("Allow it? y, n, a reason against it, or other arguments as JSON: ")
            except EOFError:
                self._screen.blank()
                return None
            try:
                return verdict(said)
            except ValueError as error:
                write_note(f"{error}")

    @contextmanager
    def without_echo(self) -> Iterator[None]:
        """Hide the text that is typed inside the block, and keep it for the next prompt."""
        try:
            import termios
        except ImportError:  # Windows has none
            yield
            return
        before = termios.tcgetattr(sys.stdin)
        hidden = [*before]
        hidden[3] &= ~termios.ECHO
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, hidden)
        try:
            yield
        finally:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)

    def _drop_typed(self) -> None:
        with suppress(ImportError):  # Windows has none
            import termios

            termios.tcflush(sys.stdin, termios.TCIFLUSH)

    @property
    def _prompt(self) -> str:
        # Colours are marked, so that readline does not count them as width.
        return "\n" + re.sub("\x1b[^m]*m", "\x01\\g<0>\x02", self._screen.label("you"))


def verdict(said: str) -> Verdict:
    """Read a decision: y, n, a reason, or a JSON object; an empty line denies the call.

    Raise `ValueError` for arguments that are not a JSON object.
    """
    text = said.strip()
    if text.lower() in ("y", "yes"):
        return Verdict(approved=True)
    if text[:1] in ("{", "["):
        arguments = read_json(text)
        if not isinstance(arguments, dict):
            raise ValueError('The arguments must be a JSON object such as {"amount": 5}.')
        return Verdict(approved=True, arguments=arguments)
    reason = re.sub(r"^(no?)(?=\W|$)[\s,:;.-]*", "", text, flags=re.IGNORECASE)
    return Verdict(approved=False, reason=reason)
