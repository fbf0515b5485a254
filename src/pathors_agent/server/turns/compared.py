"""The messages that the client of a session knows, in the form in which they are compared. Pure.

A client knows a session by its answers: one for each request, with the joined texts of all model
calls and the calls of its own tools. Calls of the project's tools and their results are never
compared, and neither are results that the server wrote for a client's calls. If an agent runs as a
tool, the client knows the calls inside it that wait, and not the call that runs it.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import takewhile

from pathors_agent.core.conversation import inner_conversation
from pathors_agent.history.trim import leading_system
from pathors_agent.json_text import whole_characters
from pathors_agent.messages import (
    AssistantMessage,
    JSONValue,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
    parse_message,
)


@dataclass(frozen=True, slots=True)
class ComparedMessage:
    """A message in the form that is compared; `place` is its index in its list of messages."""

    place: int
    role: str
    text: str
    calls: frozenset[str] = frozenset()
    answers: str = ""

    def matches(self, other: "ComparedMessage") -> bool:
        """Return True if both messages are equal except for their places."""
        return (self.role, self.text, self.calls, self.answers) == (
            other.role,
            other.text,
            other.calls,
            other.answers,
        )


# The field of a suspended call's message that holds the user's messages for after its result.
QUEUED = "queued"


def queued_messages(stored: Sequence[Message]) -> list[UserMessage]:
    """Return the user's messages that follow the results of a session's open calls."""
    for message in reversed(stored):
        if not isinstance(message, ToolMessage):
            break
        if isinstance(values := message.extra.get(QUEUED), list):
            read = map(parse_message, values)
            return [each for each in read if isinstance(each, UserMessage)]
    return []


def call_ids(message: Message) -> list[str]:
    """Return the ids of the calls in an answer, or the id of the call that a result answers."""
    match message:
        case AssistantMessage():
            return [call.id for call in message.tool_calls]
        case ToolMessage():
            return [message.tool_call_id]
        case UserMessage() | SystemMessage():
            return []


class KnownCalls:
    """The tool calls of a session: which of them its client knows."""

    def __init__(self, stored: Sequence[Message], own_tools: Set[str]) -> None:
        self._stored = stored
        self._own_tools = own_tools
        self._hidden: set[tuple[int, str]] = set()
        self._waiting: dict[str, frozenset[str]] = {}  # of suspended agents, by the call of each
        begun: dict[str, frozenset[str]] = {}  # each such call, and all calls inside it
        inner_ids: set[str] = set()
        calls: dict[str, tuple[int, ToolCall]] = {}
        for place, message in enumerate(stored):
            if isinstance(message, AssistantMessage):
                calls.update({call.id: (place, call) for call in message.tool_calls})
            elif isinstance(message, ToolMessage) and message.tool_call_id in calls:
                asked_at, call = calls[message.tool_call_id]
                # A client's own result is a value; the server wrote all other results.
                if call.name in own_tools or message.outcome != "value":
                    self._hidden.add((asked_at, call.id))
                inner = frozenset(_inner_ids(message.extra.get("run")))
                inner_ids |= inner
                self._waiting.pop(call.id, None)
                begun.pop(call.id, None)
                if message.outcome == "suspended":
                    waiting = inner_conversation(message).waiting_calls
                    self._waiting[call.id] = frozenset(each.id for each in waiting)
                    begun[call.id] = inner | {call.id}
        every = {
            (place, call.id)
            for place, message in enumerate(stored)
            if isinstance(message, AssistantMessage)
            for call in message.tool_calls
        }
        self._waiting_ids = waiting_ids = frozenset[str]().union(*self._waiting.values())
        self._begun_ids = frozenset[str]().union(*begun.values()) - waiting_ids
        self._hidden_ids = {call_id for _, call_id in self._hidden} | (inner_ids - waiting_ids)
        self._shown_ids = {call_id for _, call_id in every - self._hidden} | waiting_ids

    def stored_entries(self) -> list[ComparedMessage]:
        """Return the stored messages that the client knows."""
        hidden: dict[str, bool] = {}
        entries: list[ComparedMessage] = []
        for place, message in enumerate(self._stored):
            if isinstance(message, AssistantMessage):
                hidden = {c.id: (place, c.id) in self._hidden for c in message.tool_calls}
            entries += _entry(place, message, hidden)
            entries += self._waiting_entry(place, message)
        return entries[leading_system(self._stored) :]

    def given_entries(self, given: Sequence[Message], start: int) -> list[ComparedMessage]:
        """Return the comparable messages of a request, from a place on."""
        hidden: Mapping[str, bool] = {i: i not in self._shown_ids for i in self._hidden_ids}
        entries: list[ComparedMessage] = []
        queued = self._queued_places(given)
        for place, message in enumerate(given[start:], start=start):
            if place in queued:
                continue
            if isinstance(message, AssistantMessage):
                hidden = {call.id: self._is_hidden(call) for call in message.tool_calls}
            entries += _entry(place, message, hidden)
            entries += self._waiting_entry(place, message)
        return entries

    def _queued_places(self, given: Sequence[Message]) -> set[int]:
        """Return the places of the user's messages that the session holds for later.

        A client that repeats its history shows them behind calls that have been decided about.
        """
        queue = [message.text.strip() for message in queued_messages(self._stored)]
        places: set[int] = set()
        is_decided = False
        for place, message in enumerate(given if queue else ()):
            if isinstance(message, AssistantMessage) and message.tool_calls:
                ids = {call.id for call in message.tool_calls}
                is_decided = bool(ids & self._begun_ids) and not ids & self._waiting_ids
            elif isinstance(message, UserMessage) and is_decided:
                text = whole_characters(message.text).strip()
                if queue[:1] == [text]:
                    places.add(place)
                    del queue[0]
        return places

    def _waiting_entry(self, place: int, message: Message) -> list[ComparedMessage]:
        """Return the calls that wait inside the agents that a message runs, if there are any."""
        if not self._waiting or not isinstance(message, AssistantMessage):
            return []
        agents = (call.id for call in message.tool_calls if call.name in self._own_tools)
        waiting = frozenset[str]().union(*(self._waiting.get(each, ()) for each in agents))
        return [ComparedMessage(place, "assistant", "", waiting)] if waiting else []

    def _is_hidden(self, call: ToolCall) -> bool:
        is_ambiguous = call.id in self._shown_ids
        return call.id in self._hidden_ids and (not is_ambiguous or call.name in self._own_tools)


def _inner_ids(run: JSONValue) -> Iterator[str]:
    """Yield the ids of the calls in the stored run of an agent, and in the runs inside of it."""
    values = run.get("messages") if isinstance(run, dict) else None
    for value in values if isinstance(values, list) else ():
        message = parse_message(value)
        yield from call_ids(message)
        if isinstance(message, ToolMessage):
            yield from _inner_ids(message.extra.get("run"))


def _entry(place: int, message: Message, hidden: Mapping[str, bool]) -> list[ComparedMessage]:
    """Return a message in the form that is compared; an empty list if it is not compared."""
    # A store replaces halves of characters, which clients may cut and send again.
    match message:
        case AssistantMessage():
            calls = frozenset(c.id for c in message.tool_calls if not hidden.get(c.id))
            # Clients store the answers that they show, so white space inside may differ.
            text = " ".join(whole_characters(message.text or message.refusal or "").split())
            return [ComparedMessage(place, "assistant", text, calls)] if text or calls else []
        case ToolMessage():
            if hidden.get(message.tool_call_id):
                return []
            text = whole_characters(message.text).strip()
            return [ComparedMessage(place, "tool", text, answers=message.tool_call_id)]
        case UserMessage() | SystemMessage():
            return [ComparedMessage(place, message.role, whole_characters(message.text).strip())]


def begun(entry: ComparedMessage, known: Sequence[ComparedMessage], at: int) -> int:
    """Return how many stored answers a request's answer is the beginning of, from a place on.

    They are all answers up to the next message of another role.
    """
    answers = list(takewhile(lambda each: each.role == "assistant", known[at:]))
    text = " ".join(each.text for each in answers if each.text)
    is_begun = entry.role == "assistant" and not entry.calls and text.startswith(entry.text)
    return len(answers) if is_begun else 0


def consumed(entry: ComparedMessage, known: Sequence[ComparedMessage], at: int, step: int) -> int:
    """Return how many stored entries a request's entry matches, from a place in a direction.

    An answer matches several stored ones if their joined texts and their calls are the same.
    """
    if entry.role != "assistant":
        return int(entry.matches(known[at]))
    texts: list[str] = []
    calls: set[str] = set()
    length, count = -1, 0
    while 0 <= at < len(known) and known[at].role == "assistant":
        count += 1
        if known[at].text:
            texts.append(known[at].text)
            length += len(known[at].text) + 1
        calls |= known[at].calls
        if length > len(entry.text) or not calls <= entry.calls:
            return 0
        if max(length, 0) == len(entry.text) and calls == entry.calls:
            return count if " ".join(texts[::step]) == entry.text else 0
        at += step
    return 0
