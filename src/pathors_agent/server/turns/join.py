"""Find the messages of a request that are new to its session, and add them. Pure.

A client may send only the new turn, the whole history, or any end of it. It knows a session by its
answers: one for each request, with the joined texts of all model calls and the calls of its own
tools. Calls of the project's tools and their results are never compared, and neither are results
that the server wrote for a client's calls. If an agent runs as a tool, the client knows the calls
inside it that wait, and not the call that runs it.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from http import HTTPStatus
from itertools import islice
from typing import Any

from pathors_agent.agents.agent import AsyncAgent
from pathors_agent.agents.approvals import Approval, Decision
from pathors_agent.core.batch import CallState
from pathors_agent.core.conversation import Conversation, Role, inner_conversation
from pathors_agent.errors import ConversationError
from pathors_agent.history.trim import HistoryTail
from pathors_agent.json_text import is_json_object, whole_characters
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
from pathors_agent.server.http.completion import FUNCTION_CALL, CompletionRequest
from pathors_agent.server.http.problems import DO_NOT_RETRY, Problem, bad_request
from pathors_agent.server.turns.project import Project, TurnContext
from pathors_agent.tools.registry import ToolRegistry

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


@dataclass(frozen=True, slots=True)
class _ComparedMessage:
    """A message in the form that is compared; `place` is its index in its list of messages."""

    place: int
    role: str
    text: str
    calls: frozenset[str] = frozenset()
    answers: str = ""

    def matches(self, other: "_ComparedMessage") -> bool:
        return (self.role, self.text, self.calls, self.answers) == (
            other.role,
            other.text,
            other.calls,
            other.answers,
        )


def needed_tail(project: Project, request: CompletionRequest) -> HistoryTail | None:
    """Return the policy that chooses what a turn needs of its session; None if it may need all.

    An answer of the request may match any of the session's, and so may a result without an id. Hooks
    may read all messages. The tools that the model has found are those of the whole history.
    """
    given = request.messages
    may_match = any(isinstance(m, AssistantMessage) for m in given) or _has_function_calls(given)
    if request.rewind or may_match or project.hooks or project.own_tools.has_deferred:
        return None
    return project.history if isinstance(project.history, HistoryTail) else None


def join(
    stored: Sequence[Message],
    given: Sequence[Message],
    own_tools: Iterable[str],
    *,
    lead: int | None = None,
    rewinds: bool = False,
) -> Joined:
    """Return how a request continues a session; raise a 409 `Problem` if it does not.

    `lead` is the number of leading system messages of a session that was read without its first
    turns. With `rewinds`, messages without an answer replace the whole session: its first message
    was edited, or is answered again.
    """
    system = _leading_system(given)
    lead = _leading_system(stored) if lead is None else lead
    keep = len(stored)
    if rewinds and not any(isinstance(message, AssistantMessage) for message in given):
        start = system if lead else 0
        applied = given[:system] if system and start else stored[:lead]
        return Joined(tuple(applied), lead, start, given[start:])
    if _follows_an_answer(stored, given):
        applied = given[:system] or stored[:lead]
        return Joined((*applied, *stored[lead:]), keep, system, given[system:])
    calls = _Calls(stored, frozenset(own_tools))
    known, sent = calls.stored_entries(), calls.given_entries(given, system)
    if not known:
        start = system if lead else 0
    elif (matched := _tail(known, sent, given)) is not None:
        start = _next_place(sent, matched, len(given))
    elif all(entry.role != "assistant" for entry in sent):
        start = _after_known_answers(given, sent, system)
    else:
        stored_count, sent_count = _rewound(known, sent)
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
    given: Sequence[Message], sent: Sequence[_ComparedMessage], system: int
) -> int:
    """Return where the new messages of a request begin, none of whose answers can be compared.

    Empty answers before the new messages are the end of the client's history. A call of the
    project's tools is in the session, and so are the messages before it: the client lost its
    connection before the answer.
    """
    called = [i for i, m in enumerate(given) if isinstance(m, AssistantMessage) and m.tool_calls]
    if called:
        return next((entry.place for entry in sent if entry.place > called[-1]), len(given))
    return _next_place(sent, 0, len(given)) if _has_answer(given) else system


def _leading_system(messages: Sequence[Message]) -> int:
    """Return the number of system messages before any other."""
    others = (i for i, m in enumerate(messages) if not isinstance(m, SystemMessage))
    return next(others, len(messages))


def _next_place(entries: Sequence[_ComparedMessage], count: int, end: int) -> int:
    """Return the place of the entry after the first `count`, or the end of the messages."""
    return entries[count].place if count < len(entries) else end


# - comparable messages -


class _Calls:
    """The tool calls of a session: which of them its client knows."""

    def __init__(self, stored: Sequence[Message], own_tools: Set[str]) -> None:
        self._stored = stored
        self._own_tools = own_tools
        self._hidden: set[tuple[int, str]] = set()
        self._waiting: dict[str, frozenset[str]] = {}  # of suspended agents, by the call of each
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
                inner_ids.update(_inner_ids(message.extra.get("run")))
                self._waiting.pop(call.id, None)
                if message.outcome == "suspended":
                    waiting = inner_conversation(message).waiting_calls
                    self._waiting[call.id] = frozenset(inner.id for inner in waiting)
        every = {
            (place, call.id)
            for place, message in enumerate(stored)
            if isinstance(message, AssistantMessage)
            for call in message.tool_calls
        }
        waiting_ids = frozenset[str]().union(*self._waiting.values())
        self._hidden_ids = {call_id for _, call_id in self._hidden} | (inner_ids - waiting_ids)
        self._shown_ids = {call_id for _, call_id in every - self._hidden} | waiting_ids

    def stored_entries(self) -> list[_ComparedMessage]:
        """Return the stored messages that the client knows."""
        hidden: dict[str, bool] = {}
        entries: list[_ComparedMessage] = []
        for place, message in enumerate(self._stored):
            if isinstance(message, AssistantMessage):
                hidden = {c.id: (place, c.id) in self._hidden for c in message.tool_calls}
            entries += _entry(place, message, hidden)
            entries += self._waiting_entry(place, message)
        return entries[_leading_system(self._stored) :]

    def given_entries(self, given: Sequence[Message], start: int) -> list[_ComparedMessage]:
        """Return the comparable messages of a request, from a place on."""
        hidden: Mapping[str, bool] = {i: i not in self._shown_ids for i in self._hidden_ids}
        entries: list[_ComparedMessage] = []
        for place, message in enumerate(given[start:], start=start):
            if isinstance(message, AssistantMessage):
                hidden = {call.id: self._is_hidden(call) for call in message.tool_calls}
            entries += _entry(place, message, hidden)
            entries += self._waiting_entry(place, message)
        return entries

    def _waiting_entry(self, place: int, message: Message) -> list[_ComparedMessage]:
        """Return the calls that wait inside the agents that a message runs, if there are any."""
        if not self._waiting or not isinstance(message, AssistantMessage):
            return []
        agents = (call.id for call in message.tool_calls if call.name in self._own_tools)
        waiting = frozenset[str]().union(*(self._waiting.get(each, ()) for each in agents))
        return [_ComparedMessage(place, "assistant", "", waiting)] if waiting else []

    def _is_hidden(self, call: ToolCall) -> bool:
        is_ambiguous = call.id in self._shown_ids
        return call.id in self._hidden_ids and (not is_ambiguous or call.name in self._own_tools)


def _inner_ids(run: JSONValue) -> Iterator[str]:
    """Yield the ids of the calls in the stored run of an agent, and in the runs inside of it."""
    values = run.get("messages") if isinstance(run, dict) else None
    for value in values if isinstance(values, list) else ():
        message = parse_message(value)
        yield from _call_ids(message)
        if isinstance(message, ToolMessage):
            yield from _inner_ids(message.extra.get("run"))


def _entry(place: int, message: Message, hidden: Mapping[str, bool]) -> list[_ComparedMessage]:
    """Return a message in the form that is compared; an empty list if it is not compared."""
    # A store replaces halves of characters, which clients may cut and send again.
    match message:
        case AssistantMessage():
            calls = frozenset(c.id for c in message.tool_calls if not hidden.get(c.id))
            # Clients store the answers that they show, so white space inside may differ.
            text = " ".join(whole_characters(message.text or message.refusal or "").split())
            return [_ComparedMessage(place, "assistant", text, calls)] if text or calls else []
        case ToolMessage():
            if hidden.get(message.tool_call_id):
                return []
            text = whole_characters(message.text).strip()
            return [_ComparedMessage(place, "tool", text, answers=message.tool_call_id)]
        case UserMessage() | SystemMessage():
            return [_ComparedMessage(place, message.role, whole_characters(message.text).strip())]


def _consumed(
    entry: _ComparedMessage, known: Sequence[_ComparedMessage], at: int, step: int
) -> int:
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


# - the rules -


def _has_answer(messages: Iterable[Message]) -> bool:
    """Return True if messages hold an answer, be it an empty one."""
    return any(isinstance(message, AssistantMessage) for message in messages)


def _tail(
    known: Sequence[_ComparedMessage],
    sent: Sequence[_ComparedMessage],
    given: Sequence[Message],
) -> int | None:
    """Return how many of a request's entries the session has, if they have the same end."""
    end = len(sent)
    if known[-1].role == "user":  # the last answer was empty, so the same question is a new message
        if not _has_answer(given):
            return None
        end -= bool(sent) and sent[-1].place == len(given) - 1
    last = len(known) - 1
    ends = (end for end in range(end, 0, -1) if _consumed(sent[end - 1], known, last, -1))
    return next((end for end in islice(ends, _MOST_ENDS) if _ends_alike(known, sent, end)), None)


def _ends_alike(
    known: Sequence[_ComparedMessage], sent: Sequence[_ComparedMessage], end: int
) -> bool:
    """Return True if the session and the request's entries before `end` have the same end.

    They are compared back to the beginning of either, or at least to the session's previous answer.
    The client's earlier messages may be a summary.
    """
    at = len(known) - 1
    has_answer = known[-1].role != "user"
    for index in range(end - 1, -1, -1):
        count = _consumed(sent[index], known, at, -1)
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
    known: Sequence[_ComparedMessage], sent: Sequence[_ComparedMessage]
) -> tuple[int, int]:
    """Return how many entries of session and request begin equally, up to an answered question."""
    best: tuple[int, int] | None = None
    at, index = 0, 0
    open_calls: set[str] = set()
    while index < len(sent) and at < len(known):
        count = _consumed(sent[index], known, at, 1)
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


def _mismatch(entry: _ComparedMessage) -> Problem:
    return Problem(
        HTTPStatus.CONFLICT,
        "The messages are not a history of this session; send the new messages alone, or use"
        " another session",
        code="history_mismatch",
        param="messages",
        details=[f"messages[{entry.place}]: is not a message of the session at this point"],
        headers=DO_NOT_RETRY,
    )


# - adding the new messages -


# The model reads this after "Not answered: " for a call that its client left open.
_WENT_ON = "the user went on"


def add_new_messages(
    joined: Joined,
    interrupted: Sequence[Message],
    conversation: Conversation,
    agent: AsyncAgent[str],
    context: TurnContext,
    own_tools: ToolRegistry,
    *,
    decided: Sequence[Decision] = (),
) -> list[Decision]:
    """Add a request's new messages; return their decisions about calls that wait for approval."""
    own_names = [tool.name for tool in own_tools]
    pending = list(interrupted)
    # Results that the session has: of decisions that the interrupted turn carried out, and of the
    # project's calls beside those of the client.
    answered = {result.tool_call_id for result in _leading_results(pending)}
    open_ids = {call.id for call in conversation.open_calls}
    answered |= {
        call.id for call in conversation.calls if call.name in own_names and call.id not in open_ids
    }
    _add_interrupted(conversation, pending)
    own_calls = {call.id for call in conversation.open_calls if call.name in own_names}
    waiting = {a.call.id: a for a in agent.approvals(conversation, context=context)}
    decisions = _by_call(decided, waiting.values())
    for index, message in enumerate(joined.new, start=joined.start):
        if isinstance(message, ToolMessage) and message.tool_call_id in waiting:
            approval = waiting[message.tool_call_id]
            decision = _decision(message.text, approval, f"messages[{index}]")
            if decisions.setdefault(approval.call.id, decision) is not decision:
                raise _decided_twice(approval, index)
            continue
        if isinstance(message, ToolMessage) and message.tool_call_id in answered:
            continue
        if isinstance(message, UserMessage) and not decisions:
            _close_open_calls(conversation, own_names)
        _add_interrupted(conversation, pending)
        try:
            conversation.append(message)
        except ConversationError as error:
            raise _illegal(error, index) from None
    _refuse_open_calls(conversation, own_calls - (waiting.keys() - decisions))
    _add_interrupted(conversation, pending)
    if conversation.next_role is Role.USER and not decisions:
        raise bad_request(
            "There is nothing to answer",
            "messages: must end with a message of the user, or a tool's result, that is new",
            param="messages",
        )
    return list(decisions.values())


def _add_interrupted(conversation: Conversation, pending: list[Message]) -> None:
    """Add the messages of an interrupted turn while no other calls are open."""
    while pending:
        message, open_ids = pending[0], {call.id for call in conversation.open_calls}
        if isinstance(message, ToolMessage):
            if message.tool_call_id in open_ids:  # or a rewind removed its call
                conversation.append(message)
        elif open_ids:
            return
        else:
            conversation.append(message)
        del pending[0]


def _close_open_calls(conversation: Conversation, own_names: Sequence[str]) -> None:
    """Answer the calls that the user ignored."""
    for call in conversation.open_calls:
        is_own = call.name in own_names  # it waits for an approval, and has not begun
        state = CallState.NOT_BEGUN if is_own else CallState.HANDED_OUT
        conversation.note_call_state(call, state)
    conversation.close_open_calls(_WENT_ON)


def _refuse_open_calls(conversation: Conversation, runnable: Set[str]) -> None:
    """Refuse a request that leaves open calls that are not `runnable`.

    A call of the project's tools is runnable if the model made it in a turn of the session. A
    client cannot add such a call by writing it into its history.
    """
    still_open = [call.id for call in conversation.open_calls if call.id not in runnable]
    if still_open:
        raise bad_request(
            "Some tool calls have no result",
            f"messages: no tool message for {', '.join(still_open)}",
            param="messages",
        )


def _leading_results(messages: Sequence[Message]) -> Iterator[ToolMessage]:
    """Yield the results of calls that were open before an interrupted turn."""
    for message in messages:
        if not isinstance(message, ToolMessage):
            return
        yield message


def _illegal(error: ConversationError, index: int) -> Problem:
    field_name = ".tool_call_id" if error.event == "tool_result" else ""
    return bad_request(
        "The messages do not fit the session", f"messages[{index}]{field_name}: {error}"
    )


def _by_call(decided: Iterable[Decision], waiting: Iterable[Approval]) -> dict[str, Decision]:
    """Return decisions by the ids of their calls; raise a 400 `Problem` for one without a call."""
    calls = {approval.digest: approval.call.id for approval in waiting}
    for decision in decided:
        if decision.digest not in calls:
            raise bad_request(
                "The approval is for another call",
                f"no call waits for the approval {decision.digest}: it was answered, or has changed",
            )
    return {calls[decision.digest]: decision for decision in decided}


def _decided_twice(approval: Approval, index: int) -> Problem:
    return bad_request(
        "The messages do not fit the session",
        f"messages[{index}].tool_call_id: {approval.call.id} was decided about before",
    )


def _decision(text: str, approval: Approval, place: str) -> Decision:
    """Read a person's decision about a call that waits for it."""
    try:
        said: Any = json.loads(text)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict) or not isinstance(said.get("approved"), bool):
        raise bad_request(
            "The call waits for a person's approval",
            f'{place}.content: must be {{"approved": true or false, "digest": "..."}} as JSON text',
        )
    if said.get("digest") != approval.digest:
        raise bad_request(
            "The approval is for another call",
            f"{place}.content: digest must be {approval.digest}, that of the call as it is now",
        )
    if not said["approved"]:
        return approval.deny(str(said.get("reason") or ""))
    arguments = said.get("arguments")
    return approval.approve(arguments if isinstance(arguments, dict) else None)


# - calls of clients that send `functions` -


def with_stored_ids(given: Sequence[Message], stored: Sequence[Message]) -> Sequence[Message]:
    """Return a request's messages with the ids that the session has for their calls.

    From the last message backwards, each call gets the id of the latest stored call of the same
    function with the same arguments. A result without its call gets the id of the function's open
    call.
    """
    if not _has_function_calls(given):
        return given
    ids = _known_ids(given, stored)
    return [_renamed(message, ids) for message in given]


def _has_function_calls(given: Sequence[Message]) -> bool:
    return any(call_id.startswith(FUNCTION_CALL) for m in given for call_id in _call_ids(m))


def _call_ids(message: Message) -> list[str]:
    match message:
        case AssistantMessage():
            return [call.id for call in message.tool_calls]
        case ToolMessage():
            return [message.tool_call_id]
        case UserMessage() | SystemMessage():
            return []


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
