"""Talk to an endpoint: one conversation, shown while it runs."""

import json
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, Self

from pathors_agent.agents.agent import Agent
from pathors_agent.agents.result import RunResult
from pathors_agent.cli.output import Screen, one_line, write_note
from pathors_agent.core.conversation import Conversation
from pathors_agent.errors import SessionNotFound
from pathors_agent.json_text import call_text
from pathors_agent.messages import (
    AssistantMessage,
    JSONValue,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
    write_call,
    write_message,
)
from pathors_agent.sessions.client import EndpointSessions
from pathors_agent.telemetry.timeline import Chart, TimedCall, page
from pathors_agent.transports.base import Request, Response, Transport
from pathors_agent.transports.http import HTTPTransport
from pathors_agent.wire.chat_completions import ModelOptions
from pathors_agent.wire.deltas import (
    Delta,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    ToolProgressDelta,
)

_FIELD = "tool_activity"
# In JSON these bytes can only be the name of a field, because quotes inside a text have
# backslashes.
_MARK = f'"{_FIELD}":'.encode()
_EVENT_END = b"\n\n"


class ToolActivity(Transport):
    """Passes on another transport's answers; calls `tell` with their events about tools, in order."""

    def __init__(self, transport: Transport, tell: Callable[[Mapping[str, Any]], None]) -> None:
        self._transport = transport
        self._tell = tell
        self.profile = transport.profile
        self.server_address = transport.server_address

    @contextmanager
    def send(self, request: Request) -> Generator[Response]:
        """Send a request, and watch its answer."""
        with self._transport.send(request) as response:
            yield replace(response, pieces=self._watched(response.pieces))

    def _watched(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Yield whole events one by one, so that earlier text is shown before each."""
        rest = b""
        for piece in pieces:
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


# The width of a title of one line.
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
        self._write()  # raise now if the file cannot be written
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
    """The times of a server's own tools, from the events of the server."""

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
            if call.id in self._batch:  # shown when it arrived, and again with the whole answer
                continue
            self._called_at = time.perf_counter()
            self._batch[call.id] = call
            self.screen.line("call", described(call))

    def _show_result(self, call_id: str, text: str, *, is_error: bool) -> None:
        milliseconds = (time.perf_counter() - self._called_at) * 1000
        call = self._batch.get(call_id)
        self._shown.add(call_id)
        name = f"{call.name}: " if call and len(self._batch) > 1 else ""
        is_timed = self.is_timed and call is not None  # not a call of an earlier turn
        note = f"{milliseconds:.1f} ms" if is_timed else ""
        self.screen.line("error" if is_error else "result", name + text, note)


def described(call: ToolCall) -> str:
    """Return a call on one line, as Python would write it."""
    return one_line(call_text(call))


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
        "waiting": [
            {
                "call": call.id,
                "tool": call.name,
                "arguments": call.arguments,
                "digest": approval_digest(call),
            }
            for call in result.open_calls
        ],
    }


# Options that request events about the tools of an endpoint that keeps sessions.
_TELL_ALL: dict[str, JSONValue] = {
    "stream_options": {"include_usage": True, "include_tool_activity": True}
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """A person's decision about a call: a reason if it is denied, arguments if they are changed."""

    approved: bool
    reason: str = ""
    arguments: Mapping[str, JSONValue] | None = None

    def as_json(self, digest: object) -> dict[str, object]:
        """Return the decision in the form of the server's API."""
        said: dict[str, object] = {"approved": self.approved, "digest": digest}
        if self.reason:
            said["reason"] = self.reason
        if self.arguments is not None:
            said["arguments"] = dict(self.arguments)
        return said


Decide = Callable[[ToolCall], Verdict | None]
"""Asks a person about a call that waits for approval; None leaves the call open."""


def undecided(_call: ToolCall) -> None:
    """Leave a call open: no person can be asked."""


@dataclass(slots=True)
class TerminalChat:
    """A conversation with an endpoint, and the earlier ones.

    `activities` are the calls and results of tools, here or at the endpoint, and `times` the times of the last
    answer's calls. `sessions` are the sessions of a server that keeps them. `rewinding` is the
    agent that sends it the whole history, which replaces the history of the session.
    """

    agent: Agent[str]
    screen: Screen
    decide: Decide = undecided
    conversation: Conversation = field(default_factory=Conversation)
    sessions: EndpointSessions | None = None
    rewinding: Agent[str] | None = None
    streaming: Callable[[], AbstractContextManager[object]] = nullcontext
    activities: list[dict[str, Any]] = field(default_factory=list)
    times: list[TimedCall] = field(default_factory=list)
    display: RunDisplay | None = None
    earlier: list[Conversation] = field(default_factory=list)
    _server_calls: ServerCalls = field(default_factory=ServerCalls)
    _is_rewound: bool = False
    _failed: str | None = None

    def say(self, prompt: str) -> RunResult[str]:
        """Send a prompt, and show the answer as it arrives."""
        before = self.conversation
        result = self._run(prompt, Conversation(before.messages, session_id=before.session_id))
        assert result is not None  # a prompt is always answered
        return result

    def resume(self) -> RunResult[str] | None:
        """Ask about the open calls of the conversation, and continue.

        Return None without decisions.
        """
        return self._run(None, self.conversation)

    @property
    def last_prompt(self) -> str | None:
        """The last question, or None before the first one."""
        if self._failed is not None:
            return self._failed
        messages = self.history()
        at = _last_question(messages)
        return None if at is None else messages[at].text

    def ask_again(self, prompt: str) -> RunResult[str]:
        """Replace the last question, and remove its answer.

        A server cannot remove the first turn of a session, so a new session begins instead.
        """
        messages = self.history()
        at = _last_question(messages)
        if self._failed is not None or at is None:
            return self.say(prompt)
        before, session = messages[:at], self.conversation.session_id
        was_rewound = self._is_rewound
        if self.sessions is not None and len(messages) > at + 1:
            self._is_rewound = any(isinstance(each, AssistantMessage) for each in before)
            if not self._is_rewound:
                before, session = (), None
        try:
            result = self._run(prompt, Conversation(before, session_id=session))
        except Exception:
            self._is_rewound = was_rewound
            raise
        assert result is not None  # a prompt is always answered
        return result

    def begin(self) -> None:
        """Begin a new conversation; the old one is kept."""
        if self.sessions is None and len(self.conversation):
            self.earlier.append(self.conversation)
        self.conversation = Conversation()
        self._is_rewound, self._failed = False, None

    def open_session(self, session_id: str) -> None:
        """Continue a stored session; a server creates a session that it does not have."""
        messages: Sequence[Message] = ()
        if self.sessions is not None:
            with suppress(SessionNotFound):
                messages = self.sessions.get(session_id).messages
        self.conversation = Conversation(messages, session_id=session_id)
        self._is_rewound, self._failed = False, None

    def reopen(self, number: int) -> None:
        """Continue an earlier conversation of this program."""
        chosen = self.earlier.pop(number)
        self.begin()
        self.conversation = chosen

    def tell(self, activity: dict[str, Any]) -> None:
        """Show an event of the endpoint about its tools."""
        self.activities.append(activity)
        self._server_calls.take(activity)
        if self.display is not None:
            self.display.show_activity(activity)

    def history(self) -> Sequence[Message]:
        """Return the messages, including the calls of a server's own tools after its answer."""
        messages, session = self.conversation.messages, self.conversation.session_id
        is_answered = not messages or not isinstance(messages[-1], UserMessage)
        if self.sessions is not None and session and is_answered and not self._is_rewound:
            with suppress(SessionNotFound):
                return self.sessions.get(session).messages
        return messages

    def _run(self, prompt: str | None, conversation: Conversation) -> RunResult[str] | None:
        self.activities.clear()
        self.times = []
        before, self.conversation = self.conversation, conversation
        try:
            result = None if prompt is None else self._answer(prompt)
            while calls := conversation.open_calls if result is None else result.open_calls:
                replies = self._replies(calls)
                if not replies:
                    break
                for reply in replies:
                    conversation.append(reply)
                result = self._answer(None)
        except KeyboardInterrupt:
            conversation.close_open_calls("the user stopped the answer")
            raise
        except Exception:
            self.conversation = before  # the next prompt does not repeat a refused one
            self._failed = prompt
            raise
        finally:
            self.screen.end_line()
        self._is_rewound, self._failed = False, None
        return result

    def _answer(self, prompt: str | None) -> RunResult[str]:
        self.display = display = RunDisplay(self.screen)
        self._server_calls = ServerCalls()
        agent = self.rewinding if self._is_rewound and self.rewinding else self.agent
        stream = agent.stream(prompt, conversation=self.conversation)
        try:
            with self.streaming(), stream:
                for item in stream:
                    display.show(item)
                    if agent.tools:
                        self.activities += _activities(item)
                    if isinstance(item, AssistantMessage) and item.tool_calls and not agent.tools:
                        break  # a person decides about these calls, which are not calls of our tools
        finally:
            self.screen.end_line()
            self.times += [*stream.result.times, *self._server_calls.times]
        return stream.result

    def _replies(self, calls: Sequence[ToolCall]) -> list[ToolMessage]:
        """Return the decisions about open calls, or none of them if one call stays open."""
        replies = []
        for call in calls:
            if (digest := approval_digest(call)) is None:
                text = "This client has no tools."
                reply = ToolMessage(tool_call_id=call.id, content=text, outcome="error")
            elif (verdict := self.decide(call)) is None:
                return []
            else:
                content = json.dumps(verdict.as_json(digest))
                reply = ToolMessage(tool_call_id=call.id, content=content)
            replies.append(reply)
        return replies


def _activities(item: Delta | Message) -> list[dict[str, Any]]:
    """Return calls and results of tools of this program in the form of a server's events."""
    if isinstance(item, AssistantMessage):
        return [{"call": write_call(call)} for call in item.tool_calls]
    return [{"result": write_message(item)}] if isinstance(item, ToolMessage) else []


def approval_digest(call: ToolCall) -> str | None:
    """Return the digest of a call that waits for approval, or None for other calls."""
    approval = (call.extra or {}).get("approval")
    digest = approval.get("digest") if isinstance(approval, dict) else None
    return digest if isinstance(digest, str) else None


def _last_question(messages: Sequence[Message]) -> int | None:
    asked = [
        at
        for at, each in enumerate(messages)
        if isinstance(each, UserMessage) and not each.feedback
    ]
    return asked[-1] if asked else None


@contextmanager
def talking(
    url: str | None,
    screen: Screen,
    *,
    key: str | None = None,
    model: str | None = None,
    session: str | None = None,
    decide: Decide = undecided,
) -> Iterator[TerminalChat]:
    """Open a conversation with an endpoint, new or a session's."""
    http = HTTPTransport(url, api_key=key)
    keeps_history = http.profile.sends == "new_messages"
    options = ModelOptions(extra=_TELL_ALL if keeps_history else {})
    with http:
        told: list[TerminalChat] = []
        transport = ToolActivity(http, lambda activity: told[0].tell(dict(activity)))
        chat = TerminalChat(Agent(transport, model=model, options=options), screen, decide)
        told.append(chat)
        if keeps_history:
            whole = ToolActivity(http, lambda activity: chat.tell(dict(activity)))
            whole.profile = replace(http.profile, sends="history")
            chat.rewinding = Agent(whole, model=model, options=options)
            chat.sessions = EndpointSessions(http)
        chat.conversation = Conversation(session_id=session)
        yield chat
