"""What a turn did that must not be done twice: noted in the store, read by who takes it up."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import anyio

from pathors_agent.calls.doubt import settle
from pathors_agent.conversation import Conversation
from pathors_agent.errors import ConversationError, StoreError
from pathors_agent.messages import Message, ToolMessage
from pathors_agent.run import CallTool, Run
from pathors_agent.server.problems import Problem
from pathors_agent.stores.base import Lease, Store
from pathors_agent.stores.texts import json_text, message_text, read_message_text
from pathors_agent.telemetry.events import emit
from pathors_agent.tools.registry import BoundCall

# A result is worth this much of a cancelled turn's time: without it the call is in doubt.
_NOTE_SECONDS = 5.0


@dataclass(slots=True, kw_only=True)
class TurnJournal:
    """The notes of one turn, under the identity that its tools' keys are made of.

    `since` names the state of the session that the turn began with.
    """

    store: Store
    lease: Lease
    turn: str
    since: str
    context: object
    _is_new: bool = True
    _noted: set[int] = field(default_factory=set)  # ids of messages, which the conversation holds
    _begun: set[str] = field(default_factory=set)
    # The notes of calls side by side are written in the order in which they were made.
    _lock: anyio.Lock = field(default_factory=anyio.Lock)

    async def take_up(self, conversation: Conversation) -> Sequence[Message]:
        """Add what was said and done before this process had the turn; give it."""
        texts = await self.store.turn_notes(self.lease.project, self.lease.session_id, self.turn)
        before = len(conversation.messages)
        for note in map(_read, texts):
            match note:
                case {"since": since} if since != self.since:
                    raise _changed()
                case {"begun": str(key)}:
                    self._begun.add(key)
                case {"message": message}:
                    _append(conversation, json_text(message))
                case _:
                    pass
        self._is_new = not texts
        self._noted = {id(message) for message in conversation.messages}
        return conversation.messages[before:]

    async def begin(self, run: Run, effect: CallTool, bound: BoundCall) -> ToolMessage | None:
        """Note that a call begins, or say what became of it where it had begun before."""
        known = None
        if effect.key in self._begun:
            known = await self._settle(run, effect, bound)
        async with self._lock:
            new = [m for m in run.conversation.messages if id(m) not in self._noted]
            new += [] if known is None else [known]
            texts = [json_text({"since": self.since})] if self._is_new else []
            texts += [*map(_message, new), json_text({"begun": effect.key})]
            await self.store.note_turn(self.lease, self.turn, texts)
            self._noted |= {id(message) for message in new}
            self._is_new = False
        return known

    async def end(self, message: ToolMessage) -> None:
        """Note what a call gave."""
        with anyio.move_on_after(_NOTE_SECONDS, shield=True):
            async with self._lock:
                await self.store.note_turn(self.lease, self.turn, [_message(message)])
                self._noted.add(id(message))

    async def _settle(self, run: Run, effect: CallTool, bound: BoundCall) -> ToolMessage | None:
        message = await settle(run, effect, bound, self.context)
        is_known = message is None or message.outcome != "unknown"
        emit("call_in_doubt", tool=bound.tool.name, key=run.call_key(effect), known=is_known)
        return message


def _message(message: Message) -> str:
    return f'{{"message":{message_text(message)}}}'


def _read(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        raise StoreError("A note of a turn cannot be read: the database is damaged.") from None


def _append(conversation: Conversation, text: str) -> None:
    try:
        conversation.append(read_message_text(text))
    except ConversationError:
        raise _changed() from None


def _changed() -> Problem:
    return Problem(
        409,
        "This turn was cut off in the middle of its tools, and the session went on without it",
        code="session_changed",
    )
