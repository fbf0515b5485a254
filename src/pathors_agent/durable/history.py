"""Read the histories of sessions from the steps that segments recorded."""

import asyncio
from collections.abc import Iterable, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from pathors_agent.agents.setup import RunSetup
from pathors_agent.core.conversation import Conversation
from pathors_agent.core.run import Run
from pathors_agent.durable.records import Fields, SegmentInput, Step, dump, load
from pathors_agent.durable.tables import Tables
from pathors_agent.history.loading import added_messages
from pathors_agent.messages import AssistantMessage, Message, ToolMessage
from pathors_agent.wire.messages import read_message

BEGIN = "begin"
STARTED = "/started"

CLOSED = "Cancelled: the run was ended; if this call had begun, it may have been carried out."

# The most messages of all histories that a process keeps in memory.
MAX_KEPT_MESSAGES = 20_000


@dataclass(slots=True)
class RecordedSession:
    """The records of a session's segments.

    `begun` are the keys of calls that began and have no result. `known` are the names of tools that
    existed when they were called. `idempotent` are the tools of the last answer that may run twice.
    """

    history: Conversation = field(default_factory=Conversation)
    begun: set[str] = field(default_factory=set)
    known: set[str] = field(default_factory=set)
    idempotent: frozenset[str] = frozenset()
    endpoint_session: str | None = None

    def conversation(self, segment_input: SegmentInput) -> Conversation:
        """Return the history as a conversation whose id is the prefix of its tool calls' keys."""
        conversation = copy(self.history)
        conversation.session_id = self.endpoint_session or segment_input.endpoint_session
        conversation.id = segment_input.keys
        return conversation

    def copy(self) -> "RecordedSession":
        """Return a copy that a segment may change; this history stays as it is."""
        return replace(self, begun=set(self.begun), known=set(self.known))


class Histories:
    """The histories of sessions.

    Each is read in one statement, however many runs it has. A worker keeps the histories that it
    wrote last in memory: the records of an ended segment never change.
    """

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        # By the last segment and its token, the least recently used first.
        self._kept: dict[tuple[str, str], RecordedSession] = {}
        self._messages = 0

    async def read(
        self, agent: str, session: str, through: str | None, *, token: str | None = None
    ) -> RecordedSession:
        """Return the records of an agent's session up to and including the segment `through`.

        Without the segment's `token` it is read from the database.
        """
        if through is None:
            return RecordedSession()
        if token is not None and (kept := self._take_out((through, token))) is not None:
            self.keep((through, token), kept)
            return kept.copy()
        read = partial(self._tables.history, agent, session, through=through)
        return await asyncio.to_thread(lambda: past_of(read()))

    def keep(
        self,
        through: tuple[str, str],
        recorded: RecordedSession,
        *,
        instead_of: tuple[str, str] | None = None,
    ) -> None:
        """Keep a history under its last segment and token, instead of the one that it continues."""
        if instead_of is not None:
            self._take_out(instead_of)
        self._kept[through] = recorded
        self._messages += len(recorded.history)
        while self._messages > MAX_KEPT_MESSAGES:
            self._take_out(next(iter(self._kept)))

    def _take_out(self, through: tuple[str, str]) -> RecordedSession | None:
        recorded = self._kept.pop(through, None)
        self._messages -= len(recorded.history) if recorded else 0
        return recorded


def past_of(steps: Iterable[Step]) -> RecordedSession:
    """Build a history from recorded steps."""
    recorded = RecordedSession()
    run = Run(recorded.history)
    for step in steps:
        for message in new_messages(step):
            take(message, run)
        name, output = step["function_name"], step["output"] or {}
        if name.endswith(STARTED):
            recorded.begun.add(name.removesuffix(STARTED))
        elif "message" in output:
            recorded.begun.discard(name)
        if "known" in output:
            note_answer(recorded, output)
    return recorded


def begin_of(steps: Iterable[Step]) -> Mapping[str, Any] | None:
    """Return the output of a segment's first step, or None if it was not recorded."""
    return next((s["output"] for s in steps if s["function_name"] == BEGIN), None)


def take(message: Message, run: Run) -> None:
    """Add a recorded message to a history in the same way as when it was new."""
    if isinstance(message, AssistantMessage):
        run.record(message)
    else:
        run.conversation.append(message)


def check_key(run: Run, place: int) -> str:
    """Return the name of the step in which an async output function checks the last answer."""
    return f"output/{run.conversation.turns}/{place}"


def note_answer(recorded: RecordedSession, output: Mapping[str, Any]) -> None:
    """Apply the facts that a model call recorded with its answer."""
    recorded.known |= set(output["known"])
    recorded.idempotent = frozenset(output.get("idempotent", ()))
    recorded.endpoint_session = output.get("endpoint_session") or recorded.endpoint_session


def new_messages(step: Step) -> tuple[Message, ...]:
    """Return the messages that a step added to the history."""
    output = step["output"]
    if not isinstance(output, Mapping) or step["function_name"].endswith(STARTED):
        return ()
    if step["function_name"] == BEGIN:
        return load(output["added"])
    return (read_message(output["message"]),) if "message" in output else ()


def apply_input(
    conversation: Conversation, setup: RunSetup, segment_input: SegmentInput
) -> list[Fields]:
    """Apply the input of a segment to the history; return the messages that it added."""
    base = conversation.messages
    setup.approvals.decide(segment_input.decisions)
    for message in segment_input.messages:
        conversation.append(message)
    if segment_input.closes:
        for call in conversation.open_calls:
            closed = ToolMessage(tool_call_id=call.id, content=CLOSED, outcome="cancelled")
            conversation.append(closed)
    return dump(added_messages(base, conversation.messages))
