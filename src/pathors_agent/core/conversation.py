"""Decide which message may come next. Pure: no I/O, no clock.

The table is the documentation: a missing cell is a `ConversationError`. `Conversation.append` is the
only way to add a message.
"""

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from enum import StrEnum

from pydantic import ValidationError

from pathors_agent.core.batch import LISTED_IDS, Batch, CallState, quoted
from pathors_agent.errors import ConversationError, refuse_other
from pathors_agent.messages import (
    AssistantMessage,
    JSONValue,
    Message,
    MessageBase,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
    parse_message,
    write_message,
)
from pathors_agent.messages.transcript import Transcribed


class Role(StrEnum):
    """The role of the next message."""

    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class Event(StrEnum):
    """The kind of a message, as the state machine sees it."""

    SYSTEM = "system"
    USER = "user"
    ANSWER = "answer"
    TOOL_CALLS = "tool_calls"
    TOOL_RESULT = "tool_result"
    LAST_TOOL_RESULT = "last_tool_result"


TRANSITIONS: dict[Role, dict[Event, Role]] = {
    Role.USER: {
        Event.SYSTEM: Role.USER,
        Event.USER: Role.ASSISTANT,
        Event.ANSWER: Role.USER,
        Event.TOOL_CALLS: Role.TOOL,
    },
    Role.ASSISTANT: {
        Event.SYSTEM: Role.ASSISTANT,
        Event.USER: Role.ASSISTANT,
        Event.ANSWER: Role.USER,
        Event.TOOL_CALLS: Role.TOOL,
    },
    Role.TOOL: {Event.TOOL_RESULT: Role.TOOL, Event.LAST_TOOL_RESULT: Role.ASSISTANT},
}


REPAIR_HINT = "; load_messages(..., repair=True) mends a history and reports each change"


class Conversation(Transcribed):
    """A message history that is legal after every append.

    `Conversation(messages)` raises `ConversationError` with the index of the first message that does
    not fit; `load_messages(..., repair=True)` repairs such a history. The results of one batch of
    tool calls are kept in call order, in whatever order they arrive. A result with the outcome
    "suspended" leaves its call open, until another result takes its place.

    `session_id` is the id of the stored session, or None. `id` names the conversation in the
    idempotency keys of its tool calls. It is the session id, or else a random id that the agent sets;
    pass a stored one to keep the keys equal over a restart.
    """

    __slots__ = (
        "__weakref__",
        "_batch",
        "_call_ids",
        "_messages",
        "_next_role",
        "_queued",
        "_turns",
        "_turns_at_user",
        "has_unfinished_run",
        "holder",
        "id",
        "session_id",
    )

    def __init__(
        self,
        messages: Iterable[Message] = (),
        *,
        session_id: str | None = None,
        id: str | None = None,  # noqa: A002  (the plain word)
    ) -> None:
        self.session_id = session_id
        self.id = id or session_id
        self._messages: list[Message] = []
        self._next_role = Role.USER
        self._batch: Batch | None = None
        self._turns = self._turns_at_user = 0
        self._call_ids: set[str] | None = None  # an empty set would be the largest value here
        self._queued: list[UserMessage] | None = None  # allocated by `queue_message`
        self.has_unfinished_run = False
        """Whether the last run was cancelled, failed or was left before its end. Never stored."""
        self.holder: object | None = None
        """The run that holds this conversation; only it may append."""
        for index, message in enumerate(messages):
            try:
                self.append(message)
            except ConversationError as error:
                error.index = index
                error.args = (f"messages[{index}]: {error}{REPAIR_HINT}",)
                raise

    def __repr__(self) -> str:
        return (
            f"<Conversation of {len(self)} messages, next: {self._next_role.value}, "
            f"session_id={self.session_id!r}>"
        )

    def _shown(self) -> tuple[str, Sequence[Message]]:
        return "", self.messages

    def __len__(self) -> int:
        batch = self._batch
        return len(self._messages) + (len(batch.results) + len(batch.suspended) if batch else 0)

    def __getstate__(self) -> tuple[None, dict[str, object]]:
        kept = (name for name in self.__slots__ if name not in ("__weakref__", "holder"))
        return None, {**{name: getattr(self, name) for name in kept}, "holder": None}

    def __copy__(self) -> "Conversation":
        # The messages were checked when they were appended: a long history is copied as it is.
        twin = Conversation(session_id=self.session_id, id=self.id)
        twin._messages = list(self._messages)
        twin._next_role = self._next_role
        if (batch := self._batch) is not None:
            twin._batch = batch.copy()
        twin._turns, twin._turns_at_user = self._turns, self._turns_at_user
        twin.has_unfinished_run = self.has_unfinished_run
        twin._call_ids = set(self._call_ids) if self._call_ids else None
        twin._queued = list(self._queued) if self._queued else None
        return twin

    @property
    def messages(self) -> tuple[Message, ...]:
        """The history so far."""
        if self._batch is None:
            return tuple(self._messages)
        return (*self._messages, *self._batch.results_in_call_order())

    @property
    def settled(self) -> Sequence[Message]:
        """The history without the results of an open batch. It grows with the conversation.

        Unlike `messages`, it is not a copy, which would take time by the length of the history.
        """
        return self._messages

    @property
    def next_role(self) -> Role:
        """The role of the next message."""
        return self._next_role

    @property
    def turns(self) -> int:
        """The number of assistant messages in the history."""
        return self._turns

    @property
    def turns_since_user(self) -> int:
        """The number of assistant messages since the last user message."""
        return self._turns - self._turns_at_user

    @property
    def call_ids(self) -> AbstractSet[str]:
        """The ids of every call in the history."""
        return self._call_ids or frozenset()

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """All tool calls of the open batch, if there is one."""
        return self._batch.calls if self._batch else ()

    @property
    def open_calls(self) -> tuple[ToolCall, ...]:
        """The tool calls without a result, in call order."""
        return tuple([call for _, call in self.open_places])

    @property
    def open_places(self) -> Sequence[tuple[int, ToolCall]]:
        """The tool calls without a result, each with its index in the answer."""
        return self._batch.open_places if self._batch else ()

    @property
    def waiting_calls(self) -> tuple[ToolCall, ...]:
        """The open calls, with those of a suspended agent in place of the call that runs it."""
        if self._batch is None:
            return ()
        calls: list[ToolCall] = []
        for call in self.open_calls:
            suspended = self.suspended(call)
            if suspended is None or can_go_on(suspended):
                calls.append(call)
            else:
                calls += inner_conversation(suspended).waiting_calls
        return tuple(calls)

    def suspended(self, call: ToolCall) -> ToolMessage | None:
        """Return the message of an open call that is suspended, or None for any other call."""
        batch = self._batch
        return batch.suspended_result(call) if batch is not None and batch.suspended else None

    def append(self, message: Message) -> None:
        """Add a message, or raise `ConversationError` and change nothing.

        A result may also be that of a call of a suspended agent (see `waiting_calls`).
        """
        if not isinstance(message, ToolMessage) or not self._answer_within(message):
            self._add(message)

    def _add(self, message: Message) -> None:
        """Append a message that a run has produced: no result is one of a suspended agent."""
        event = self._event(message)
        next_role = TRANSITIONS[self._next_role].get(event)
        if next_role is None:
            raise self._refusal(message, event)
        match message:
            case AssistantMessage():
                if message.tool_calls:
                    self._open_batch(message)
                self._messages.append(message)
                self._turns += 1
            case ToolMessage():
                self._take_result(message)
            case UserMessage():
                self._messages.append(message)
                self._turns_at_user = self._turns
            case SystemMessage():
                self._messages.append(message)
        self._next_role = next_role

    def call_state(self, call: ToolCall) -> CallState:
        """Return the state of an open call."""
        return self._batch.state(call) if self._batch else CallState.UNKNOWN

    def note_call_state(self, call: ToolCall, state: CallState) -> None:
        """Set the state of an open call, which is never stored."""
        if self._batch is not None:
            self._batch.states[call.id] = state

    def close_open_calls(self, reason: str = "the user went on") -> None:
        """Answer every open call, so that the user can speak again; recorded results are kept.

        The model reads the `reason` and the state of the call (see `CallState`): it was not run
        (outcome "not_run"), was interrupted or not answered by the caller ("cancelled"), or may have
        been carried out ("unknown").
        """
        refuse_other("close_open_calls", reason, str)
        reason = reason.strip().rstrip(".") or "it was closed"
        if (batch := self._batch) is not None:
            for _, call in batch.open_places:
                self._add(batch.closing(call, reason))
        self.append_queued()

    def count_omitted(self, *, turns: int, call_ids: Iterable[str]) -> None:
        """Count the answers, and the ids of the calls, of earlier messages that are not held here.

        The keys of effects and the ids of calls are then those of the whole history.
        """
        self._turns += turns
        self._turns_at_user += turns
        self._call_ids = {*self.call_ids, *call_ids}

    def queue_message(self, message: UserMessage) -> None:
        """Queue a message, which a run appends as soon as no calls are open."""
        self._queued = self._queued or []
        self._queued.append(message)

    @property
    def queued(self) -> tuple[UserMessage, ...]:
        """The queued messages that the history does not have yet."""
        return tuple(self._queued or ())

    def next_queued(self) -> UserMessage | None:
        """Remove and return the first queued message, or return None while calls are open."""
        if self._queued and self._next_role is not Role.TOOL:
            return self._queued.pop(0)
        return None

    def append_queued(self) -> bool:
        """Append the queued messages, unless calls are open; return True if any was appended."""
        has_grown = False
        while (message := self.next_queued()) is not None:
            self.append(message)
            has_grown = True
        return has_grown

    def unqueue(self, message: UserMessage) -> bool:
        """Remove a message from the queue; return False if it is in the history already."""
        try:
            (self._queued or []).remove(message)
        except ValueError:
            return False
        return True

    def trimmed(self, *, turns: int) -> "Conversation":
        """Copy the system messages and the last `turns` whole turns into a new conversation.

        A turn goes from a user's message to the next one that follows an answer, so that no call is
        separated from its result and no answer from its question. The copy has no session id.
        """
        if turns < 1:
            raise ValueError(f"turns must be at least 1, not {turns}")
        messages, starts = self.messages, turn_starts(self._messages)
        cut = starts[-turns] if turns <= len(starts) else 0
        system = [m for m in messages[:cut] if isinstance(m, SystemMessage)]
        return Conversation([*system, *messages[cut:]])

    def _answer_within(self, message: ToolMessage) -> bool:
        """Add a result to the suspended agent whose call it names; return False if there is none."""
        batch = self._batch
        if batch is None or not batch.suspended or message.extra:
            return False
        own = batch.places.get(message.tool_call_id)
        if own is not None and own not in batch.results and own not in batch.suspended:
            return False
        for place, suspended in batch.suspended.items():
            inner = inner_conversation(suspended)
            if message.tool_call_id in {call.id for call in inner.waiting_calls}:
                inner.append(message)
                batch.suspended[place] = _with_inner(suspended, inner)
                return True
        if own in batch.suspended and message.outcome != "suspended":
            waiting = ", ".join(quoted(call.id) for call in self.waiting_calls[:LISTED_IDS])
            raise self._error(
                f"the call {_quoted_id(message)} runs an agent that is suspended; "
                f"answer the calls that it waits for: {waiting}",
                Event.TOOL_RESULT,
            )
        return False

    def _event(self, message: Message) -> Event:
        match message:
            case AssistantMessage():
                return Event.TOOL_CALLS if message.tool_calls else Event.ANSWER
            case ToolMessage():
                return self._result_event(message)
            case UserMessage():
                return Event.USER
            case SystemMessage():
                return Event.SYSTEM

    def _result_event(self, message: ToolMessage) -> Event:
        batch = self._batch  # without one the table refuses the message
        if batch is not None and (problem := batch.problem(message)):
            raise self._error(
                f"the tool message for {_quoted_id(message)} {problem}; "
                f"open calls: {batch.open_ids()}",
                Event.TOOL_RESULT,
            )
        if message.outcome == "suspended":
            inner_conversation(message)
            return Event.TOOL_RESULT
        is_last = batch is not None and len(batch.places) - len(batch.results) == 1
        return Event.LAST_TOOL_RESULT if is_last else Event.TOOL_RESULT

    def _take_result(self, message: ToolMessage) -> None:
        assert self._batch  # otherwise the table has refused it
        self._batch.take(message)
        if len(self._batch.results) == len(self._batch.places):
            self._messages.extend(self._batch.results_in_call_order())
            self._batch = None

    def _open_batch(self, message: AssistantMessage) -> None:
        """Open the calls of a message; raise if an id occurs twice."""
        places: dict[str, int] = {}
        for place, call in enumerate(message.tool_calls):
            if places.setdefault(call.id, place) != place:
                raise self._error(
                    f"two calls of one assistant message have the id {quoted(call.id)}; "
                    "ids must differ",
                    Event.TOOL_CALLS,
                )
        self._batch = Batch(message.tool_calls, places)
        self._call_ids = self._call_ids or set()
        self._call_ids.update(places)

    def _refusal(self, message: Message, event: Event) -> ConversationError:
        if not isinstance(message, MessageBase):
            raise TypeError(
                f"a {type(message).__name__} is not a message; load_messages([...], "
                'format="openai") reads the messages of OpenAI\'s API'
            )
        if self._batch is not None:
            ids = self._batch.open_ids()
            text = f"no {message.role} message may come before the results of {ids}"
        else:
            got = _quoted_id(message)
            text = f"no tool message may come while no call is open (got one for {got})"
        return self._error(text, event)

    def _error(self, text: str, event: Event) -> ConversationError:
        return ConversationError(
            text,
            next_role=self._next_role,
            event=event,
            open_calls=tuple(call.id for call in self.open_calls),
        )


def inner_conversation(suspended: ToolMessage) -> Conversation:
    """Return the conversation of an agent whose run is suspended."""
    run = suspended.extra.get("run")
    values = run.get("messages") if isinstance(run, dict) else None
    try:
        if isinstance(values, list):
            return Conversation(map(parse_message, values))
    except (ValidationError, ConversationError):
        pass  # the path and the text would be those of another history
    raise ConversationError(
        f"the tool message for {_quoted_id(suspended)} is suspended, but extra['run'] does not "
        "hold the messages of its agent"
    )


def can_go_on(suspended: ToolMessage) -> bool:
    """Return True if a suspended agent was only interrupted, or a result was added to it."""
    run = suspended.extra.get("run")
    return isinstance(run, dict) and bool(run.get("can_go_on"))


def _with_inner(suspended: ToolMessage, inner: Conversation) -> ToolMessage:
    run = suspended.extra["run"]
    assert isinstance(run, dict)  # `inner_conversation` has read it
    messages: list[JSONValue] = [write_message(message) for message in inner.messages]
    extra = {"run": {**run, "messages": messages, "can_go_on": True}}
    return suspended.model_copy(update={"extra": extra})


def turn_starts(messages: Sequence[Message]) -> list[int]:
    """Return the indices at which turns start: the first user message, and those after an answer.

    Feedback of the library belongs to the turn that it answers.
    """
    starts: list[int] = []
    is_over = True
    for index, message in enumerate(messages):
        match message:
            case UserMessage():
                if is_over and not message.feedback:
                    starts.append(index)
                is_over = False
            case AssistantMessage():
                is_over = not message.tool_calls
            case ToolMessage():
                # The accepted call of a final tool ends its tool, and is no error.
                is_over = is_over or (message.ends_tool and not message.is_error)
            case SystemMessage():  # may come anywhere
                pass
    return starts


def _quoted_id(message: Message) -> str:
    return quoted(message.tool_call_id) if isinstance(message, ToolMessage) else ""
