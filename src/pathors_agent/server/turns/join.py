"""Find the messages of a request that are new to its session. Pure.

A client may send only the new turn, the whole history, or any end of it.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from itertools import islice

from pathors_agent.history.trim import leading_system
from pathors_agent.json_text import is_json_object
from pathors_agent.messages import (
    AssistantMessage,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from pathors_agent.server.http.completion import FUNCTION_CALL
from pathors_agent.server.http.problems import DO_NOT_RETRY, Problem
from pathors_agent.server.turns.compared import (
    ComparedMessage,
    KnownCalls,
    begun,
    call_ids,
    consumed,
)

# The separator between the texts of model calls that a client reads as one answer.
BETWEEN_TEXTS = "\n\n"

# Only the last few messages that equal the last stored one are candidates. Comparing the messages
# before each of thousands would take seconds.
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


def join(
    stored: Sequence[Message],
    given: Sequence[Message],
    own_tools: Iterable[str],
    *,
    lead: int | None = None,
    rewinds: bool = False,
    may_be_cut: bool = False,
) -> Joined:
    """Return how a request continues a session; raise a 409 `Problem` if it does not.

    `lead` is the number of leading system messages of a session that was read without its first
    turns. With `rewinds`, messages without an answer replace the whole session: its first message
    was edited, or is answered again. With `may_be_cut`, the beginning of an answer stands for the
    whole: a front end keeps what it has read of an answer that its user stopped.
    """
    if not stored:
        return Joined((), 0, 0, given)
    system = leading_system(given)
    lead = leading_system(stored) if lead is None else lead
    keep = len(stored)
    if rewinds and not _has_answer(given):
        start = system if lead else 0
        applied = given[:system] if system and start else stored[:lead]
        return Joined(tuple(applied), lead, start, given[start:])
    if _follows_an_answer(stored, given):
        applied = given[:system] or stored[:lead]
        return Joined((*applied, *stored[lead:]), keep, system, given[system:])
    calls = KnownCalls(stored, frozenset(own_tools))
    known, sent = calls.stored_entries(), calls.given_entries(given, system)
    if not known:
        start = system if lead else 0
    elif (matched := _tail(known, sent, given)) is not None:
        start = _next_place(sent, matched, len(given))
    elif all(entry.role != "assistant" for entry in sent):
        start = _after_known_answers(given, sent, system)
    else:
        stored_count, sent_count = _rewound(known, sent, may_be_cut=may_be_cut)
        keep = _next_place(known, stored_count, len(stored))
        start = _next_place(sent, sent_count, len(given))
    applied = given[:system] if system and start else stored[:lead]
    return Joined((*applied, *stored[lead:keep]), keep, start, given[start:])


def _follows_an_answer(stored: Sequence[Message], given: Sequence[Message]) -> bool:
    """Return True if the session ends with a text and the request repeats no answer.

    In this case all messages of the request are new: only an answer could match the end of the
    session. Comparing thousands of messages would take most of a turn's time.
    """
    last = stored[-1] if stored else None
    has_text = isinstance(last, AssistantMessage) and bool((last.text or "").strip())
    return has_text and not _has_answer(given)


def _after_known_answers(
    given: Sequence[Message], sent: Sequence[ComparedMessage], system: int
) -> int:
    """Return where the new messages begin in a request without answers that can be compared.

    Empty answers before the new messages are the end of the client's history. A call of the
    project's tools is in the session, and so are the messages before it: the client lost its
    connection before the answer.
    """
    called = [i for i, m in enumerate(given) if isinstance(m, AssistantMessage) and m.tool_calls]
    if called:
        return next((entry.place for entry in sent if entry.place > called[-1]), len(given))
    return _next_place(sent, 0, len(given)) if _has_answer(given) else system


def _next_place(entries: Sequence[ComparedMessage], count: int, end: int) -> int:
    """Return the place of the entry after the first `count`, or the end of the messages."""
    return entries[count].place if count < len(entries) else end


def _has_answer(messages: Iterable[Message]) -> bool:
    """Return True if messages contain an answer, even an empty one."""
    return any(isinstance(message, AssistantMessage) for message in messages)


def _tail(
    known: Sequence[ComparedMessage], sent: Sequence[ComparedMessage], given: Sequence[Message]
) -> int | None:
    """Return how many of a request's entries the session has, if they have the same end."""
    end = len(sent)
    if known[-1].role == "user":  # the last answer was empty, so the same question is a new message
        if not _has_answer(given):
            return None
        end -= bool(sent) and sent[-1].place == len(given) - 1
    last = len(known) - 1
    ends = (end for end in range(end, 0, -1) if consumed(sent[end - 1], known, last, -1))
    return next((end for end in islice(ends, _MOST_ENDS) if _ends_alike(known, sent, end)), None)


def _ends_alike(
    known: Sequence[ComparedMessage], sent: Sequence[ComparedMessage], end: int
) -> bool:
    """Return True if the session and the request's entries before `end` have the same end.

    They are compared back to the beginning of either, or at least to the session's previous answer.
    The client's earlier messages may be a summary.
    """
    at = len(known) - 1
    has_answer = known[-1].role != "user"
    for index in range(end - 1, -1, -1):
        count = consumed(sent[index], known, at, -1)
        if not count:
            return False
        at -= count
        if at < 0:
            return True
        is_previous = known[at].place != known[at + 1].place  # not the same message's other part
        if has_answer and is_previous and known[at].role == "assistant":
            return True
    return True


def _rewound(
    known: Sequence[ComparedMessage], sent: Sequence[ComparedMessage], *, may_be_cut: bool
) -> tuple[int, int]:
    """Return how many entries of session and request begin equally, up to an answered question."""
    best: tuple[int, int] | None = None
    at, index = 0, 0
    open_calls: set[str] = set()
    while index < len(sent) and at < len(known):
        count = consumed(sent[index], known, at, 1)
        count = count or (begun(sent[index], known, at) if may_be_cut else 0)
        if not count:
            break
        open_calls |= sent[index].calls
        open_calls.discard(sent[index].answers)
        at, index = at + count, index + 1
        if not open_calls and sent[index - 1].role in ("assistant", "tool"):
            best = at, index
    if best is None:
        raise _mismatch(sent[min(index, len(sent) - 1)])
    return best


def _mismatch(entry: ComparedMessage) -> Problem:
    return Problem(
        HTTPStatus.CONFLICT,
        "The messages are not a history of this session; send the new messages alone, or use"
        " another session",
        code="history_mismatch",
        param="messages",
        details=[f"messages[{entry.place}]: is not a message of the session at this point"],
        headers=DO_NOT_RETRY,
    )


# - calls of clients that send `functions` -


def with_stored_ids(given: Sequence[Message], stored: Sequence[Message]) -> Sequence[Message]:
    """Return a request's messages with the ids that the session has for their calls.

    From the last message backwards, each call gets the id of the latest stored call of the same
    function with the same arguments. A result without its call gets the id of the function's open
    call.
    """
    if not has_function_calls(given):
        return given
    ids = _known_ids(given, stored)
    return [_renamed(message, ids) for message in given]


def has_function_calls(given: Sequence[Message]) -> bool:
    """Return True if messages hold calls or results without the ids that a session has for them."""
    return any(call_id.startswith(FUNCTION_CALL) for m in given for call_id in call_ids(m))


def _known_ids(given: Sequence[Message], stored: Sequence[Message]) -> dict[str, str]:
    """Return the stored ids by the ids that were made here."""
    calls = [c for m in stored if isinstance(m, AssistantMessage) for c in m.tool_calls]
    settled = {m.tool_call_id for m in stored if isinstance(m, ToolMessage)}
    ids = {FUNCTION_CALL + call.name: call.id for call in calls if call.id not in settled}
    for message in reversed(given):
        for call in message.tool_calls if isinstance(message, AssistantMessage) else ():
            while call.id.startswith(FUNCTION_CALL) and calls:
                candidate = calls.pop()
                if _called(candidate) == _called(call):
                    ids[call.id] = candidate.id
                    break
    return ids


def _called(call: ToolCall) -> tuple[str, object]:
    is_object = is_json_object(call.arguments)
    return call.name, json.loads(call.arguments) if is_object else call.arguments


def _renamed(message: Message, ids: Mapping[str, str]) -> Message:
    match message:
        case AssistantMessage() if message.tool_calls:
            calls = tuple(
                call.model_copy(update={"id": ids.get(call.id, call.id)})
                for call in message.tool_calls
            )
            return message.model_copy(update={"tool_calls": calls})
        case ToolMessage():
            call_id = ids.get(message.tool_call_id, message.tool_call_id)
            return message.model_copy(update={"tool_call_id": call_id})
        case AssistantMessage() | UserMessage() | SystemMessage():
            return message
