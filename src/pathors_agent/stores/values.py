"""The values of stores: keys, sessions, leases, requests and notes; ids and times."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Generic, Literal, Self, TypeVar

from pathors_agent.errors import SessionConflict
from pathors_agent.history.trim import leading_system
from pathors_agent.messages import AssistantMessage, Message, SystemMessage
from pathors_agent.stores.texts import (
    Variables,
    data_pieces,
    joined_size,
    read_message_text,
    read_variables_text,
    utf8_size,
)

ItemT = TypeVar("ItemT")

MAX_SESSION_ID = 255

# The numbers that databases accept.
_PLACES = range(2**63)


def check_page(limit: int, offset: int) -> None:
    """Raise `ValueError` unless both are whole numbers from 0 that a database accepts."""
    for name, number in (("limit", limit), ("offset", offset)):
        if type(number) is not int or number not in _PLACES:
            raise ValueError(f"{name} must be a whole number from 0 to 2**63 - 1, not {number!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredKey:
    """A project's API key as it is stored: its digest, and the parts by which people recognise it.

    `digest` is the SHA-256 of the key in hexadecimal digits. The key itself is not stored.
    """

    id: str
    project: str
    digest: str = field(repr=False)
    prefix: str
    last_four: str
    name: str = ""
    created_at: datetime
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Omitted:
    """The facts about the first messages of a session that was read without them.

    System messages are never omitted; the session began with `leading` of them. `turns` is the
    number of answers, `call_ids` are the ids of their calls, and `size` is what the messages add to
    the size of the session's data.
    """

    leading: int
    turns: int
    size: int
    call_ids: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Session:
    """A stored conversation.

    It holds the JSON texts that the store keeps. `variables` and `messages` parse them on first
    use, in time and memory proportional to their size.

    `message_texts` are in the order they were stored; those that `omitted` describes are missing.
    `revision` is the number of all messages; a writer passes the session it has seen, and the store
    compares the revisions. `incarnation` distinguishes sessions that had the same id one after the
    other. A session that is rewound gets a new one, because its revision repeats old numbers.
    """

    project: str
    id: str
    incarnation: str
    variables_text: str = field(default="{}", repr=False)
    provider: str = ""
    message_texts: tuple[str, ...] = field(default=(), repr=False)
    omitted: Omitted | None = None
    revision: int = 0
    created_at: datetime
    updated_at: datetime
    _parsed: tuple[Message, ...] = field(default=(), repr=False, compare=False)

    @cached_property
    def variables(self) -> Variables:
        """The variables, parsed. Raise `StoreError` if the stored text is damaged."""
        return read_variables_text(self.variables_text)

    @cached_property
    def messages(self) -> tuple[Message, ...]:
        """The messages, parsed. Raise `StoreError` if a stored text is damaged."""
        rest = self.message_texts[len(self._parsed) :]
        return (*self._parsed, *map(read_message_text, rest))

    def grown(
        self,
        texts: Sequence[str],
        *,
        kept: int | None = None,
        incarnation: str | None = None,
        updated_at: datetime,
    ) -> "Session":
        """Return the session with more messages after the first `kept`, or after all of them.

        Messages that have been parsed are not parsed again.
        """
        kept = self.revision if kept is None else kept
        left = len(self.message_texts) - (self.revision - kept)
        parsed: tuple[Message, ...] = self.__dict__.get("messages", self._parsed)
        return replace(
            self,
            message_texts=(*self.message_texts[:left], *texts),
            revision=kept + len(texts),
            incarnation=incarnation or self.incarnation,
            updated_at=updated_at,
            _parsed=parsed[:left],
        )

    def without_first(self, count: int) -> "Session":
        """Return the session without its first `count` messages, except for system messages."""
        first, texts = self.messages[:count], self.message_texts
        known = self.omitted or Omitted(leading=self.leading, turns=0, size=0)
        system = [i for i, message in enumerate(first) if isinstance(message, SystemMessage)]
        answers = [message for message in first if isinstance(message, AssistantMessage)]
        size = sum(utf8_size(text) + 1 for text in texts[:count])  # with the comma after each
        size -= sum(utf8_size(texts[i]) + 1 for i in system)
        ids = (call.id for message in answers for call in message.tool_calls)
        return replace(
            self,
            message_texts=(*(texts[i] for i in system), *texts[count:]),
            omitted=Omitted(
                leading=known.leading,
                turns=known.turns + len(answers),
                size=known.size + size,
                call_ids=known.call_ids.union(ids),
            ),
            _parsed=(*(first[i] for i in system), *self.messages[count:]),
        )

    @property
    def leading(self) -> int:
        """The number of system messages before any other."""
        if self.omitted is not None:
            return self.omitted.leading
        return leading_system(self.messages)

    @cached_property
    def size(self) -> int:
        """The size of the session's data as JSON in UTF-8, in bytes."""
        return self.size_read + (self.omitted.size if self.omitted else 0)

    @cached_property
    def size_read(self) -> int:
        """The part of the size that was read: all but omitted messages."""
        return joined_size(self.variables_text, self.message_texts)

    def data_pieces(self) -> Iterator[str]:
        """Yield the JSON text of the session's data in pieces, without a copy of the whole."""
        return data_pieces(self.variables_text, self.message_texts)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSummary:
    """An entry in the list of a project's sessions. Ended sessions have `ended_at`, and no title."""

    id: str
    provider: str
    message_count: int
    created_at: datetime
    ended_at: datetime | None = None
    title: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Page(Generic[ItemT]):
    """A page of a list, and the number of items in the whole list."""

    items: tuple[ItemT, ...]
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The exclusive right to write a session for a limited time.

    `fence` is a fencing token: each lease of a session has a larger one than the lease before, and
    the store rejects writes with an older one. It is 0 for a session whose id only the caller
    knows: `save_turn` creates the session with it if the id has neither a session nor a lease.
    """

    project: str
    session_id: str
    holder: str
    fence: int

    @classmethod
    def of_secret_id(cls, project: str, session_id: str) -> Self:
        """Return a lease for a session whose id was just generated; the store has none for it."""
        return cls(project=project, session_id=session_id, holder="", fence=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestId:
    """The name of a request: its Idempotency-Key, which is unique per project and API key."""

    project: str
    api_key: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """The state of a named request.

    `begun`: the caller must answer it. `running`: another caller answers it. `finished`: `answer`
    is its answer. `body_digest` is the digest of the first request with this name.
    """

    state: Literal["begun", "running", "finished"]
    body_digest: str
    answer: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnNote:
    """A note about a turn that has not been saved."""

    project: str
    session_id: str
    turn: str
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedSession:
    """A session and its lease, as they were when the lease was acquired.

    `session` is None if it does not exist. `notes` belong to its turns that were not saved.
    """

    lease: Lease
    session: Session | None
    notes: tuple[TurnNote, ...] = field(default=(), repr=False)


def now() -> datetime:
    """Return the current time as stores keep it: UTC with millisecond precision."""
    time = datetime.now(UTC)
    return time.replace(microsecond=time.microsecond // 1000 * 1000)


def id_problem(text: str) -> str | None:
    """Return the problem of a text that cannot be an id, or None."""
    if not isinstance(text, str):
        raise TypeError(f"an id must be a text, not a {type(text).__name__}")
    is_visible = text.isascii() and text.isprintable() and " " not in text
    if 0 < len(text) <= MAX_SESSION_ID and is_visible:
        return None
    return f"must be 1 to {MAX_SESSION_ID} visible ASCII characters without spaces"


def session_id_problem(text: str) -> str | None:
    """Return the problem of a text that cannot be a session's id, or None.

    URL libraries remove the path segments `.` and `..`, even percent-encoded ones, so that a
    session with one of these ids could not be queried.
    """
    if text in (".", ".."):
        return f"must not be {text!r}, which URLs cannot hold"
    return id_problem(text)


def changed_conflict(lease: Lease) -> SessionConflict:
    """Return the error for a session that another writer changed first."""
    return SessionConflict(f"Another writer changed the session {lease.session_id} first.")
