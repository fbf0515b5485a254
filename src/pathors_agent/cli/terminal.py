"""Talk to an endpoint: one conversation, shown as it goes."""

import json
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, Self

from pathors_agent.agents.agent import Agent
from pathors_agent.agents.result import RunResult
from pathors_agent.cli.output import Screen, one_line, write_note
from pathors_agent.core.conversation import Conversation
from pathors_agent.messages import (
    AssistantMessage,
    JSONValue,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from pathors_agent.transports.base import Request, Response, Transport
from pathors_agent.transports.http import HTTPTransport
from pathors_agent.views.timeline import Chart, TimedCall, page
from pathors_agent.wire.chat_completions import ModelOptions
from pathors_agent.wire.deltas import (
    Delta,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    ToolProgressDelta,
)

_FIELD = "tool_activity"
# In JSON these bytes are a field's name: inside a text the quotes have backslashes.
_MARK = f'"{_FIELD}":'.encode()
_EVENT_END = b"\n\n"


class ToolActivity(Transport):
    """Passes on another transport's answers, and calls `tells` with its events about tools, in order."""

    def __init__(self, transport: Transport, tell: Callable[[Mapping[str, Any]], None]) -> None:
        self._transport = transport
        self._tell = tell
        self.profile = transport.profile
        self.server_address = transport.server_address

    @contextmanager
    def send(self, request: Request) -> Generator[Response]:
        """Send a request, and watch over its answer."""
        with self._transport.send(request) as response:
            yield replace(response, pieces=self._watched(response.pieces))

    def _watched(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Yield whole events one by one, so that earlier text is shown before each."""
        rest = b""
        for piece in pieces:
            if _EVENT_END not in rest[-1:] + piece:
                rest += piece
                continue
            *events, rest = (rest + piece).split(_EVENT_END)
            for event in events:
                if _MARK in event:
                    self._read(event)
                yield event + _EVENT_END
        yield rest

    def _read(self, event: bytes) -> None:
        try:
            chunk = json.loads((b"\n" + event).partition(b"\ndata:")[2])
        except ValueError:
            return
        activity = chunk.get(_FIELD) if isinstance(chunk, dict) else None
        if isinstance(activity, dict):
            self._tell(activity)


# A title is a line.
_TITLE_CHARACTERS = 100


class TimelineFile:
    """A file with the charts of a conversation, written when the `with` block ends.

    Without a path it draws nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._charts: list[Chart] = []

    def add(self, prompt: str, calls: Sequence[TimedCall]) -> None:
        """Add the calls that answered a prompt."""
        title = " ".join(prompt.split())
        cut = title if len(title) <= _TITLE_CHARACTERS else f"{title[:_TITLE_CHARACTERS]}..."
        self._charts.append(Chart(cut, f"Answer {len(self._charts) + 1}", calls))

    def __enter__(self) -> Self:
        self._write()  # a file that cannot be written is told of now
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._write()
        if self._path is not None and kind is None:
            write_note(f"{self._path} shows all calls.")

    def _write(self) -> None:
        if self._path is not None:
            self._path.write_text(page(*self._charts), encoding="utf-8")


class ServerCalls:
    """The times of a server's own tools, as far as the server tells of them."""

    def __init__(self) -> None:
        self.times: list[TimedCall] = []
        self._begun: dict[str, tuple[str, float]] = {}

    def take(self, activity: Mapping[str, Any]) -> None:
        """Record an activity of the server: a call that began, or its result."""
        match activity:
            case {"call": {"id": str() as id, "function": {"name": str() as name}}}:
                self._begun[id] = name, monotonic()
            case {"result": {"tool_call_id": str() as id} as result} if id in self._begun:
                name, start = self._begun.pop(id)
                outcome = str(result.get("outcome", "value"))
                self.times.append(TimedCall("tool", name, id, start, monotonic(), outcome))
            case _:
                pass


@dataclass(slots=True)
class RunDisplay:
    """Shows the items of one run, and the activities of a server's own tools."""

    screen: Screen
    is_timed: bool = True
    _called_at: float = 0.0
    _batch: dict[str, ToolCall] = field(default_factory=dict)
    _shown: set[str] = field(default_factory=set)

    def show(self, item: Delta | Message) -> None:
        """Show one item of a stream."""
        match item:
            case TextDelta():
                self._show_text(item.text)
            case AssistantMessage():
                self._show_calls(item.tool_calls)
            case ToolMessage():
                self._show_result(item.tool_call_id, item.text, is_error=item.is_error)
            case ReasoningDelta() | ToolCallDelta() | ToolProgressDelta():
                pass
            case UserMessage() | SystemMessage():
                pass

    def show_activity(self, activity: Mapping[str, Any]) -> None:
        """Show an event about a server's tools: a call, a result, or progress."""
        match activity:
            case {"call": {"id": str() as id, "function": {"name": str() as name} as function}}:
                arguments = str(function.get("arguments") or "")
                self._show_calls([ToolCall(id=id, name=name, arguments=arguments)])
            case {"result": {"tool_call_id": str() as id, "content": str() as content} as result}:
                self._show_result(id, content, is_error=result.get("outcome") != "value")
            case {"progress": {"value": value}}:
                self.screen.line("note", f"{value}")
            case _:
                pass

    def show_message(self, message: Message) -> None:
        """Show a stored message."""
        match message:
            case UserMessage():
                self.screen.line("you", message.text)
            case SystemMessage():
                self.screen.line("system", message.text)
            case AssistantMessage():
                if message.text:
                    self.screen.line("model", message.text)
                self._show_calls(message.tool_calls)
            case ToolMessage():
                self.show(message)

    def _show_text(self, text: str) -> None:
        # A server puts empty lines between the texts before and after its calls.
        text = text if self.screen.is_mid_line else text.lstrip("\n")
        if text:
            self.screen.stream("model", text)

    def _show_calls(self, calls: Iterable[ToolCall]) -> None:
        self.screen.end_line()
        if self._batch and self._batch.keys() <= self._shown:
            self._batch = {}
        for call in calls:
            if call.id in self._batch:  # told as it came, and again with the whole answer
                continue
            self._called_at = time.perf_counter()
            self._batch[call.id] = call
            self.screen.line("call", described(call))

    def _show_result(self, call_id: str, text: str, *, is_error: bool) -> None:
        milliseconds = (time.perf_counter() - self._called_at) * 1000
        call = self._batch.get(call_id)
        self._shown.add(call_id)
        name = f"{call.name}: " if call and len(self._batch) > 1 else ""
        note = f"{milliseconds:.1f} ms" if self.is_timed else ""
        self.screen.line("error" if is_error else "result", name + text, note)


def described(call: ToolCall) -> str:
    """Return a call on one line, as Python would write it."""
    try:
        arguments = json.loads(call.arguments or "{}")
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        return one_line(f"{call.name}({call.arguments})")
    given = (f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in arguments.items())
    return one_line(f"{call.name}({', '.join(given)})")


def answer_as_json(
    result: RunResult[str], activities: Sequence[Mapping[str, Any]]
) -> dict[str, object]:
    """Return an answer and the calls that led to it, for `--json`."""
    return {
        "session_id": result.session_id,
        "output": result.answer,
        "finish_reason": result.finish_reason,
        "tool_activity": activities,
        "usage": result.usage.model_dump(),
    }


# What an endpoint that keeps sessions is asked to tell: also what its own tools do.
_TELL_ALL: dict[str, JSONValue] = {
    "stream_options": {"include_usage": True, "include_tool_activity": True}
}

Decide = Callable[[ToolCall], bool]
"""Asks a person whether a call may be made."""


@dataclass(slots=True)
class TerminalChat:
    """A conversation with an endpoint.

    `activities` are its events about its tools, and `times` the times of the last answer's calls.
    """

    agent: Agent[str]
    screen: Screen
    decide: Decide
    conversation: Conversation = field(default_factory=Conversation)
    activities: list[dict[str, Any]] = field(default_factory=list)
    times: list[TimedCall] = field(default_factory=list)
    display: RunDisplay | None = None
    _server_calls: ServerCalls = field(default_factory=ServerCalls)

    def say(self, prompt: str) -> RunResult[str]:
        """Send a prompt, and show the answer as it arrives."""
        self.activities.clear()
        self.times = []
        before = self.conversation
        self.conversation = Conversation(before.messages, session_id=before.session_id)
        try:
            result = self._answer(prompt)
            while result.open_calls:
                for call in result.open_calls:
                    self.conversation.append(self._reply(call))
                result = self._answer(None)
        except KeyboardInterrupt:
            self.conversation.close_open_calls("the user stopped the answer")
            raise
        except Exception:
            self.conversation = before  # the next prompt does not repeat a refused one
            raise
        finally:
            self.screen.end_line()
        return result

    def tell(self, activity: dict[str, Any]) -> None:
        """Show what the endpoint says of its tools."""
        self.activities.append(activity)
        self._server_calls.take(activity)
        if self.display is not None:
            self.display.show_activity(activity)

    def _answer(self, prompt: str | None) -> RunResult[str]:
        self.display = display = RunDisplay(self.screen)
        self._server_calls = ServerCalls()
        stream = self.agent.stream(prompt, conversation=self.conversation)
        try:
            with stream:
                for item in stream:
                    display.show(item)
                    if isinstance(item, AssistantMessage) and item.tool_calls:
                        break  # these calls are for a person to decide on, and no tools of ours
        finally:
            self.times += [*stream.result.times, *self._server_calls.times]
        return stream.result

    def _reply(self, call: ToolCall) -> ToolMessage:
        """Answer a call that is open: only those can be that wait for a person's yes."""
        approval = (call.extra or {}).get("approval")
        digest = approval.get("digest") if isinstance(approval, dict) else None
        if digest is None:
            text = "This client has no tools."
            return ToolMessage(tool_call_id=call.id, content=text, outcome="error")
        said = {"approved": self.decide(call), "digest": digest}
        return ToolMessage(tool_call_id=call.id, content=json.dumps(said))


@contextmanager
def talking(
    url: str | None,
    screen: Screen,
    *,
    key: str | None = None,
    model: str | None = None,
    session: str | None = None,
    decide: Decide = lambda call: False,
) -> Iterator[TerminalChat]:
    """Open a conversation with an endpoint, new or a session's."""
    http = HTTPTransport(url, api_key=key)
    options = ModelOptions(extra=_TELL_ALL if http.profile.sends == "new_messages" else {})
    with http:
        told: list[TerminalChat] = []
        transport = ToolActivity(http, lambda activity: told[0].tell(dict(activity)))
        agent = Agent(transport, model=model, options=options)
        told.append(TerminalChat(agent, screen, decide, Conversation(session_id=session)))
        yield told[0]
