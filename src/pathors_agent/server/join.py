"""Find out which messages of a request are new to its session: the join rule. Pure.

A client may send the new turn alone, the whole history, or any end of it. What it knows of a session
is what it was given: one answer for each request, with the texts of all model calls joined and with
the calls of its own tools. Calls of the project's tools and their results are never compared, nor
are the results that the server wrote for a client's calls.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from http import HTTPStatus
from itertools import islice

from pathors_agent.messages import (
    AssistantMessage,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
)
from pathors_agent.server.problems import DO_NOT_RETRY, Problem

# Between the texts of two model calls that a client reads as one answer.
BETWEEN_TEXTS = "\n\n"

# The right one is the last or the last but few of the messages that are like the last stored one.
# To compare what comes before each of thousands would take seconds.
_MOST_ENDS = 32


@dataclass(frozen=True, slots=True)
class Joined:
    """How a request continues its session.

    `base` is the history that the request continues: its own leading system messages, or else the
    stored ones, and the first `keep` stored messages without theirs. `new` are the request's
    messages from the place `start` on.
    """

    base: tuple[Message, ...]
    keep: int
    start: int
    new: Sequence[Message]


@dataclass(frozen=True, slots=True)
class _Entry:
    """A message as it is compared; `place` is its index among the messages it is taken from."""

    place: int
    role: str
    text: str
    calls: frozenset[str] = frozenset()
    answers: str = ""

    def matches(self, other: "_Entry") -> bool:
        return (self.role, self.text, self.calls, self.answers) == (
            other.role,
            other.text,
            other.calls,
            other.answers,
        )


def join(stored: Sequence[Message], given: Sequence[Message], own_tools: Iterable[str]) -> Joined:
    """Return how a request continues a session; raise a 409 `Problem` if it does not."""
    lead, system = _leading_system(stored), _leading_system(given)
    calls = _Calls(stored, frozenset(own_tools))
    known, told = calls.stored_entries(), calls.given_entries(given, system)
    keep = len(stored)
    if not known:
        start = system if lead else 0
    elif (matched := _tail(known, told)) is not None:
        start = _next_place(told, matched, len(given))
    elif not _has_answer(told):
        start = system
    else:
        known_count, told_count = _rewound(known, told)
        keep = _next_place(known, known_count, len(stored))
        start = _next_place(told, told_count, len(given))
    applied = given[:system] if system and start else stored[:lead]
    return Joined((*applied, *stored[lead:keep]), keep, start, given[start:])


def _leading_system(messages: Sequence[Message]) -> int:
    """Return the number of system messages before any other."""
    others = (i for i, m in enumerate(messages) if not isinstance(m, SystemMessage))
    return next(others, len(messages))


def _next_place(entries: Sequence[_Entry], count: int, end: int) -> int:
    """Return the place of the entry after the first `count`, or the end of the messages."""
    return entries[count].place if count < len(entries) else end


# - what is compared -


class _Calls:
    """The tool calls of a session: which of them its client knows."""

    def __init__(self, stored: Sequence[Message], own_tools: Set[str]) -> None:
        self._stored = stored
        self._own_tools = own_tools
        self._hidden: set[tuple[int, str]] = set()
        calls: dict[str, tuple[int, ToolCall]] = {}
        for place, message in enumerate(stored):
            if isinstance(message, AssistantMessage):
                calls.update({call.id: (place, call) for call in message.tool_calls})
            elif isinstance(message, ToolMessage) and message.tool_call_id in calls:
                asked_at, call = calls[message.tool_call_id]
                # A client's own result is a value: any other was written by the server.
                if call.name in own_tools or message.outcome != "value":
                    self._hidden.add((asked_at, call.id))
        every = {
            (place, call.id)
            for place, message in enumerate(stored)
            if isinstance(message, AssistantMessage)
            for call in message.tool_calls
        }
        self._hidden_ids = {call_id for _, call_id in self._hidden}
        self._shown_ids = {call_id for _, call_id in every - self._hidden}

    def stored_entries(self) -> list[_Entry]:
        """Return what the client knows of the stored messages."""
        hidden: dict[str, bool] = {}
        entries: list[_Entry] = []
        for place, message in enumerate(self._stored):
            if isinstance(message, AssistantMessage):
                hidden = {c.id: (place, c.id) in self._hidden for c in message.tool_calls}
            entries += _entry(place, message, hidden)
        return entries[_leading_system(self._stored) :]

    def given_entries(self, given: Sequence[Message], start: int) -> list[_Entry]:
        """Return what is compared of a request's messages from a place on."""
        hidden: Mapping[str, bool] = {i: i not in self._shown_ids for i in self._hidden_ids}
        entries: list[_Entry] = []
        for place, message in enumerate(given[start:], start=start):
            if isinstance(message, AssistantMessage):
                hidden = {call.id: self._is_hidden(call) for call in message.tool_calls}
            entries += _entry(place, message, hidden)
        return entries

    def _is_hidden(self, call: ToolCall) -> bool:
        is_ambiguous = call.id in self._shown_ids
        return call.id in self._hidden_ids and (not is_ambiguous or call.name in self._own_tools)


def _entry(place: int, message: Message, hidden: Mapping[str, bool]) -> list[_Entry]:
    """Return a message as it is compared; an empty list if it is not."""
    match message:
        case AssistantMessage():
            calls = frozenset(c.id for c in message.tool_calls if not hidden.get(c.id))
            # Clients show answers and store what they show: white space inside may differ.
            text = " ".join((message.text or message.refusal or "").split())
            return [_Entry(place, "assistant", text, calls)] if text or calls else []
        case ToolMessage():
            if hidden.get(message.tool_call_id):
                return []
            return [_Entry(place, "tool", message.text.strip(), answers=message.tool_call_id)]
        case _:
            return [_Entry(place, message.role, message.text.strip())]


def _consumed(entry: _Entry, known: Sequence[_Entry], at: int, step: int) -> int:
    """Return how many stored entries a request's entry matches, from a place in a direction.

    An answer matches several stored ones if their texts joined and their calls are the same.
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


# - the rules -


def _has_answer(entries: Iterable[_Entry]) -> bool:
    return any(entry.role == "assistant" for entry in entries)


def _tail(known: Sequence[_Entry], told: Sequence[_Entry]) -> int | None:
    """Return how many of a request's entries the session holds if they end as the session does."""
    if known[-1].role == "user" and not _has_answer(told):
        return None  # the last answer was empty: the same question again is a new one
    last = len(known) - 1
    ends = (end for end in range(len(told), 0, -1) if _consumed(told[end - 1], known, last, -1))
    return next((end for end in islice(ends, _MOST_ENDS) if _ends_alike(known, told, end)), None)


def _ends_alike(known: Sequence[_Entry], told: Sequence[_Entry], end: int) -> bool:
    """Return True if the session ends as the request's entries before `end` do.

    They are compared back to the beginning of either, or at least to the session's previous answer:
    what the client holds from before it may be a summary.
    """
    at = len(known) - 1
    has_answer = known[-1].role != "user"
    for index in range(end - 1, -1, -1):
        count = _consumed(told[index], known, at, -1)
        if not count:
            return False
        at -= count
        if at < 0 or (has_answer and known[at].role == "assistant"):
            return True
    return True


def _rewound(known: Sequence[_Entry], told: Sequence[_Entry]) -> tuple[int, int]:
    """Return how many entries of session and request begin alike, up to an answered question."""
    best: tuple[int, int] | None = None
    at, index = 0, 0
    open_calls: set[str] = set()
    while index < len(told) and at < len(known):
        count = _consumed(told[index], known, at, 1)
        if not count:
            break
        open_calls |= told[index].calls
        open_calls.discard(told[index].answers)
        at, index = at + count, index + 1
        if not open_calls and told[index - 1].role in ("assistant", "tool"):
            best = at, index
    if best is None:
        raise _mismatch(told[min(index, len(told) - 1)])
    return best


def _mismatch(entry: _Entry) -> Problem:
    return Problem(
        HTTPStatus.CONFLICT,
        "The messages are not a history of this session; send the new messages alone, or use"
        " another session",
        code="history_mismatch",
        param="messages",
        details=[f"messages[{entry.place}]: is no message of the session at this point"],
        headers=DO_NOT_RETRY,
    )
