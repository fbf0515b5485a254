"""A conversation with three real tools, shown on the terminal as it streams."""

import io
import json
import os
import re
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

import anyio

from pathors_agent.agent import AsyncAgent
from pathors_agent.conversation import Conversation
from pathors_agent.demo_tools import demo_tools
from pathors_agent.errors import AgentError
from pathors_agent.http import AsyncHTTPTransport
from pathors_agent.message_builder import Delta, TextDelta
from pathors_agent.messages import AssistantMessage, Message, ToolCall, ToolMessage
from pathors_agent.offline import AsyncOfflineTransport
from pathors_agent.retry import AsyncRetryingTransport
from pathors_agent.transport import AsyncTransport

PROMPTS = (
    "How many kilometres are 26.2 miles?",
    "Divide that by 3.5, and tell me what time it is in Tokyo and in New York.",
    "And in Lisbon?",
)

INSTRUCTIONS = (
    "Use the tools for every calculation, conversion and time, several at once where that is"
    " possible. Answer in one or two plain sentences, without markup."
)

# Seconds between two words of the offline answer: about as fast as people read.
PACE = 0.015

_INTERRUPTED = 130  # what shells report of a program that Ctrl-C ended

# A model's text must not steer the terminal: all control characters but line ends and tabs.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

_COLOURS = {"you": "1", "call": "36", "result": "32", "error": "31", "model": "1;35", "note": "2"}


class Output(Protocol):
    """Where the demo writes: a text file such as `sys.stdout`."""

    def write(self, text: str, /) -> object:
        """Write a text."""

    def flush(self) -> object:
        """Send on what was written."""


@dataclass(slots=True)
class Screen:
    """Writes lines that begin with who speaks, in colour where that is wanted."""

    out: Output
    colour: bool = False
    _mid_line: bool = False

    def line(self, who: str, text: str, note: str = "") -> None:
        """Write a whole line, and beside it a remark."""
        self.end_line()
        remark = f"  {self._painted('note', note)}" if note else ""
        self._write(f"{self._label(who)}{_printable(text)}{remark}\n")

    def stream(self, who: str, text: str) -> None:
        """Write a piece of a line that grows."""
        self._write(_printable(text) if self._mid_line else self._label(who) + _printable(text))
        self._mid_line = True

    def end_line(self) -> None:
        """End a line that grew."""
        if self._mid_line:
            self._write("\n")
        self._mid_line = False

    def blank(self) -> None:
        """Write an empty line."""
        self.end_line()
        self._write("\n")

    def note(self, text: str) -> None:
        """Write a remark of its own."""
        self.end_line()
        self._write(self._painted("note", _printable(text)) + "\n")

    def _label(self, who: str) -> str:
        return self._painted(who, who) + " " * (8 - len(who))

    def _painted(self, kind: str, text: str) -> str:
        return f"\x1b[{_COLOURS[kind]}m{text}\x1b[0m" if self.colour else text

    def _write(self, text: str) -> None:
        self.out.write(text)
        self.out.flush()


@dataclass(slots=True)
class Scene:
    """Shows the items of one run: the text as it streams, calls and results as they come."""

    screen: Screen
    called_at: float = 0.0
    calls: dict[str, ToolCall] = field(default_factory=dict)

    def show(self, item: Delta | Message) -> None:
        """Show one item of a stream."""
        match item:
            case TextDelta():
                self.screen.stream("model", item.text)
            case AssistantMessage():
                self._show_calls(item.tool_calls)
            case ToolMessage():
                self._show_result(item)
            case _:
                pass

    def _show_calls(self, calls: Sequence[ToolCall]) -> None:
        self.screen.end_line()
        self.called_at = time.perf_counter()
        self.calls = {call.id: call for call in calls}
        for call in calls:
            self.screen.line("call", described(call))

    def _show_result(self, message: ToolMessage) -> None:
        milliseconds = (time.perf_counter() - self.called_at) * 1000
        call = self.calls.get(message.tool_call_id)
        name = f"{call.name}: " if call and len(self.calls) > 1 else ""
        who = "error" if message.is_error else "result"
        self.screen.line(who, name + message.text, f"{milliseconds:.1f} ms")


def run_demo(prompts: Sequence[str] = (), *, model: str | None = None, colour: bool = True) -> int:
    """Show the conversation on standard output; give the exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal may know fewer characters
    screen = Screen(sys.stdout, colour=colour and wants_colour())
    try:
        anyio.run(_converse, screen, prompts, model)
    except KeyboardInterrupt:
        screen.end_line()
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader went away (`| head`). Python writes out what is left at exit: into nothing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except AgentError as error:
        screen.end_line()
        print(f"error: {_printable(str(error))}", file=sys.stderr)
        return 1
    return 0


def wants_colour() -> bool:
    """Tell whether standard output is a terminal that is not asked to stay plain."""
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def described(call: ToolCall) -> str:
    """Write a call the way Python would."""
    try:
        arguments = json.loads(call.arguments or "{}")
    except ValueError:
        return f"{call.name}({call.arguments})"
    if not isinstance(arguments, dict):
        return f"{call.name}({call.arguments})"
    given = (f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in arguments.items())
    return f"{call.name}({', '.join(given)})"


async def _converse(screen: Screen, prompts: Sequence[str], model: str | None) -> None:
    async with _transport(screen) as transport:
        agent = AsyncAgent(transport, model=model, instructions=INSTRUCTIONS, tools=demo_tools())
        conversation = Conversation()
        for prompt in prompts or PROMPTS:
            screen.blank()
            screen.line("you", prompt)
            await _answer(screen, agent, conversation, prompt)


async def _answer(
    screen: Screen, agent: AsyncAgent, conversation: Conversation, prompt: str
) -> None:
    scene = Scene(screen)
    async with agent.stream(prompt, conversation=conversation) as stream:
        async for item in stream:
            scene.show(item)
    _ = stream.result.output  # raises when the run stopped without an answer


@asynccontextmanager
async def _transport(screen: Screen) -> AsyncIterator[AsyncTransport]:
    """Give the endpoint that the environment names, else the stand-in; say which."""
    if not (os.environ.get("PATHORS_API_KEY") or os.environ.get("PATHORS_BASE_URL")):
        screen.note("The answers come from rules, not from a language model; the tools are real.")
        yield AsyncOfflineTransport(pace=PACE)
        return
    async with AsyncHTTPTransport() as http:
        screen.note(f"The answers come from {http!r}; the tools run here.")
        yield AsyncRetryingTransport(http)


def _printable(text: str) -> str:
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
