"""The journal of a turn: its tool calls, noted in the store before and after each call.

A repeat of the request reads the notes of its own turn and continues from them. A later turn of the
session reads the notes of interrupted turns, so that the model knows what they did.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio

from pathors_agent.agents.perform.bound import settle, unknown_result
from pathors_agent.core.conversation import Conversation
from pathors_agent.core.run import CallTool, Run
from pathors_agent.errors import ConversationError, StoreError
from pathors_agent.messages import (
    AssistantMessage,
    Message,
    SystemMessage,
    ToolMessage,
    UserMessage,
)
from pathors_agent.server.http.body import parsed
from pathors_agent.server.http.problems import DO_NOT_RETRY, Problem
from pathors_agent.stores.base import Store
from pathors_agent.stores.texts import json_text, message_text, read_message_text
from pathors_agent.stores.values import Lease, TurnNote
from pathors_agent.telemetry.events import emit, warn
from pathors_agent.tools.registry import BoundCall

# How long a cancelled turn tries to note a result; without its note, the call is in doubt.
_NOTE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class BegunCall:
    """A call that began, with the idempotency key that its tool got."""

    id: str
    tool: str
    key: str


_Noted = Message | BegunCall

# The most bytes of a session's notes. Beyond it, the notes of the oldest turns are deleted,
# and a result of the present turn is replaced by a remark.
MAX_NOTES_BYTES = 8 * 2**20
# A longer result is cut in its note; few models read more of one result.
MAX_RESULT_CHARACTERS = 128 * 1024
# The model reads this if a turn continues from a result that was too long for its note.
_NOT_KEPT = "\n[The rest of this result was lost when the turn was interrupted.]"

# The prefix of the name of a note with an answer; the digest of the request follows it.
_UNDELIVERED = "undelivered "
# The prefix of the names of notes that stay when the turn is saved; the name of the turn follows
# it.
_DOUBT = "doubt "


@dataclass(slots=True, kw_only=True)
class TurnJournal:
    """The notes of one turn; `turn` is the identity in the keys of its tools.

    `since` names the state of the session when the turn began. `earlier` and `later` are the calls
    of interrupted turns of that state, before and after this turn's first note.
    """

    store: Store
    lease: Lease
    turn: str
    since: str
    context: object
    earlier: list[Message] = field(default_factory=list)
    later: list[Message] = field(default_factory=list)
    has_acted: bool = False  # a call of the turn began, in this process or before
    _undelivered: dict[str, str] = field(default_factory=dict)
    _own: list[_Noted] = field(default_factory=list)
    _size: int = 0  # of the turn's own notes, in characters of ASCII
    _has_state: bool = False  # the note that names the session's state is stored
    _noted: set[int] = field(default_factory=set)  # ids of messages, which the conversation holds
    _begun: set[str] = field(default_factory=set)  # ids of calls, of the answer that is open
    _begun_in: int = 0  # the answer's number
    # The notes of calls side by side are written in the order in which they were made.
    _lock: anyio.Lock = field(default_factory=anyio.Lock)

    async def open(self, notes: Sequence[TurnNote]) -> None:
        """Read the session's notes.

        Raise a 409 `Problem` if this turn's notes are of another state.
        """
        notes = await self._bounded(notes)
        self._undelivered = {
            note.turn: note.text for note in notes if note.turn.startswith(_UNDELIVERED)
        }
        told = [note for note in notes if note.turn not in self._undelivered]
        turns = await parsed(sum(len(note.text) for note in told), lambda: _by_turn(told))
        for turn, (since, noted) in turns.items():
            if turn == self.turn:
                if since != self.since:
                    raise _changed()
                self._own, self._has_state, self.has_acted = noted, True, bool(noted)
                self._size = sum(len(note.text) for note in told if note.turn == turn)
            elif since == self.since:
                (self.later if self._has_state else self.earlier).extend(interrupted(noted))

    async def _bounded(self, notes: Sequence[TurnNote]) -> list[TurnNote]:
        """Drop the notes of the oldest turns if those of other turns exceed `MAX_NOTES_BYTES`."""
        sizes: dict[str, int] = {}
        for note in notes:
            if note.turn != self.turn and not note.turn.startswith(_DOUBT):
                sizes[note.turn] = sizes.get(note.turn, 0) + len(note.text)
        total, forgotten = sum(sizes.values()), set[str]()
        for turn, size in sizes.items():
            if total <= MAX_NOTES_BYTES:
                break
            await self.store.forget_notes(self.lease, turn)
            forgotten.add(turn)
            total -= size
        if forgotten:
            warn("turn_notes_forgotten", turns=len(forgotten), limit=MAX_NOTES_BYTES)
        return [note for note in notes if note.turn not in forgotten]

    def take_up(self, conversation: Conversation) -> Sequence[Message]:
        """Add the messages from before this turn was interrupted, and return them."""
        before = len(conversation.messages)
        for noted in self._own:
            match noted:
                case BegunCall():
                    self._begun.add(noted.id)
                case AssistantMessage():
                    self._begun.clear()
                    _append(conversation, noted)
                case UserMessage():
                    if not noted.feedback:
                        conversation.next_queued()  # this message, which came with decisions
                    _append(conversation, noted)
                case ToolMessage() | SystemMessage():
                    _append(conversation, noted)
        self._begun_in = conversation.turns
        self._noted = {id(message) for message in conversation.messages}
        return conversation.messages[before:]

    async def begin(self, run: Run, effect: CallTool, bound: BoundCall) -> ToolMessage | None:
        """Record that a call begins, or return its result if it began earlier."""
        known = None
        if effect.call.id in self._begun and run.conversation.turns == self._begun_in:
            known = await self._settle(run, effect, bound)
        begun = BegunCall(effect.call.id, bound.tool.name, run.call_key(effect))
        async with self._lock:
            if known is not None and known.outcome == "unknown":
                await self.store.note_turn(self.lease, _DOUBT + self.turn, [_begun(begun)])
            new = [m for m in run.conversation.messages if id(m) not in self._noted]
            new += [] if known is None else [known]
            texts = [] if self._has_state else [state_note(self.since)]
            texts += [*map(_message, new), _begun(begun)]
            await self._note(texts)
            self._has_state = self.has_acted = True
            self._noted |= {id(message) for message in new}
        return known

    async def end(self, message: ToolMessage) -> None:
        """Record the result of a call."""
        with anyio.move_on_after(_NOTE_SECONDS, shield=True):
            async with self._lock:
                room = MAX_RESULT_CHARACTERS if self._size < MAX_NOTES_BYTES else 0
                await self._note([_message(_cut(message, room))])
                self._noted.add(id(message))

    async def _note(self, texts: Sequence[str]) -> None:
        await self.store.note_turn(self.lease, self.turn, texts)
        self._size += sum(map(len, texts))

    async def keep_undelivered(self, request: str, answer: str, revision: int) -> None:
        """Keep an answer whose client disconnected, for a repeat of the request.

        It is valid while the session has the `revision` of this turn.
        """
        text = json_text({"revision": revision, "answer": answer})
        await self.store.note_turn(self.lease, _UNDELIVERED + request, [text])

    def undelivered(self, request: str, revision: int) -> str | None:
        """Return the answer to a request whose client disconnected before it."""
        text = self._undelivered.get(_UNDELIVERED + request)
        note = {} if text is None else json.loads(text)
        return note["answer"] if note.get("revision") == revision else None

    async def forget_undelivered(self, request: str) -> None:
        """Delete an answer that its client gets now; a repeat of the request is a new one."""
        await self.store.forget_notes(self.lease, _UNDELIVERED + request)

    def with_later(self, added: Sequence[Message]) -> list[Message]:
        """Insert the calls of `later` turns before the first message that is not a result."""
        results = (i for i, message in enumerate(added) if not isinstance(message, ToolMessage))
        place = next(results, len(added))
        answers = (i for i, m in enumerate(self.later) if isinstance(m, AssistantMessage))
        whole = self.later[next(answers, len(self.later)) :]
        return [*added[:place], *whole, *added[place:]]

    async def _settle(self, run: Run, effect: CallTool, bound: BoundCall) -> ToolMessage | None:
        message = await settle(run, effect, bound, self.context)
        is_known = message is None or message.outcome != "unknown"
        emit("call_in_doubt", tool=bound.tool.name, key=run.call_key(effect), known=is_known)
        return message


def interrupted(noted: Iterable[_Noted]) -> list[Message]:
    """Return an interrupted turn's calls that began, with their results or "outcome unknown".

    The texts of its answers and the calls that never began are left out, because the client got
    neither.
    """
    messages: list[Message] = []
    answer: AssistantMessage | None = None
    done: dict[str, ToolMessage] = {}
    begun: dict[str, BegunCall] = {}
    for each in [*noted, None]:
        match each:
            case BegunCall():
                begun[each.id] = each
            case ToolMessage(outcome="suspended"):  # its agent cannot continue in another turn
                pass
            case ToolMessage():
                done[each.tool_call_id] = each
            case AssistantMessage() | None:
                messages += _with_results(answer, done, begun)
                answer, done, begun = each, {}, {}
            case UserMessage() | SystemMessage():
                pass
    return messages


def _with_results(
    answer: AssistantMessage | None, done: dict[str, ToolMessage], begun: dict[str, BegunCall]
) -> list[Message]:
    lost = {i: unknown_result(i, call.tool) for i, call in begun.items() if i not in done}
    results = {**done, **lost}
    if answer is None:  # calls of the session that a person had approved
        return list(results.values())
    calls = tuple(call for call in answer.tool_calls if call.id in results)
    if not calls:
        return []
    kept = answer.model_copy(update={"content": None, "refusal": None, "tool_calls": calls})
    return [kept, *(results[call.id] for call in calls)]


def calls_in_doubt(notes: Iterable[TurnNote]) -> list[tuple[TurnNote, BegunCall]]:
    """Return the calls that began and have no known result, each with a note of its turn."""
    open_calls: dict[tuple[str, str, str, str], tuple[TurnNote, BegunCall]] = {}
    for note in notes:
        turn = note.project, note.session_id, note.turn.removeprefix(_DOUBT)
        match None if note.turn.startswith(_UNDELIVERED) else _read(note.text)[1]:
            case BegunCall() as call:
                open_calls[*turn, call.id] = note, call
            case ToolMessage() as message if message.outcome != "unknown":
                open_calls.pop((*turn, message.tool_call_id), None)
            case ToolMessage() | AssistantMessage() | UserMessage() | SystemMessage() | None:
                pass
    return list(open_calls.values())


def _by_turn(notes: Iterable[TurnNote]) -> dict[str, tuple[str, list[_Noted]]]:
    """Read notes by turn, in the order of the first note of each: the state, and the calls."""
    turns: dict[str, tuple[str, list[_Noted]]] = {}
    for note in notes:
        since, noted = _read(note.text)
        if noted is None:
            turns.setdefault(note.turn, (since, []))
        elif note.turn in turns:
            turns[note.turn][1].append(noted)
    return turns


def state_note(since: str) -> str:
    """Return the first note of a turn: the state of the session that it began with."""
    return json_text({"since": since})


def _cut(message: ToolMessage, room: int) -> ToolMessage:
    """Return a result whose text has room in a note; images and other parts have none."""
    content = message.content
    is_text = isinstance(content, str) and not message.extra
    if len(content if is_text else message_text(message)) <= room:
        return message
    return message.model_copy(update={"content": message.text[:room] + _NOT_KEPT, "extra": {}})


def _message(message: Message) -> str:
    return f'{{"message":{message_text(message)}}}'


def _begun(call: BegunCall) -> str:
    return json_text({"begun": call.id, "tool": call.tool, "key": call.key})


def _read(text: str) -> tuple[str, _Noted | None]:
    """Read a note: the state of the session, or a call."""
    try:
        note: Any = json.loads(text)
    except ValueError:
        note = None
    match note:
        case {"since": str(since)}:
            return since, None
        case {"message": dict(message)}:
            return "", read_message_text(json_text(message))
        case {"begun": str(call_id), "tool": str(tool), "key": str(key)}:
            return "", BegunCall(call_id, tool, key)
        case _:
            raise StoreError("A note of a turn cannot be read: the database is damaged.")


def _append(conversation: Conversation, message: Message) -> None:
    try:
        conversation.append(message)
    except ConversationError:
        raise _changed() from None


def _changed() -> Problem:
    return Problem(
        409,
        "This turn was cut off in the middle of its tools, and the session went on without it",
        code="session_changed",
        headers=DO_NOT_RETRY,
    )
