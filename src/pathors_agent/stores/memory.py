"""A store in the memory of this process: for tests, and for data that may be lost."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from time import monotonic
from uuid import uuid4

from pathors_agent.errors import SessionConflict, SessionNotFound, StoreError
from pathors_agent.messages import Message
from pathors_agent.stores.base import ANSWER_HOURS, MAX_SEARCH_BYTES, Store
from pathors_agent.stores.texts import (
    Variables,
    first_words,
    joined_size,
    joined_text,
    json_text,
    lost_title,
    message_texts,
    off_loop,
    same_json,
    searchable,
)
from pathors_agent.stores.values import (
    Lease,
    Page,
    RequestId,
    RequestRecord,
    Session,
    SessionSummary,
    StoredKey,
    TurnNote,
    changed_conflict,
    now,
)

# Old entries deleted for each new one: more than one, so that the store shrinks again.
_FORGOTTEN_AT_ONCE = 10


@dataclass(slots=True)
class _StoredSession:
    """One session with its stored texts. An ended session has none."""

    project: str
    id: str
    number: int
    variables: str
    provider: str
    created_at: datetime
    updated_at: datetime
    incarnation: str = field(default_factory=lambda: uuid4().hex)
    messages: list[str] = field(default_factory=list)
    ended_at: datetime | None = None
    message_count: int = 0
    title: str = ""

    @property
    def size(self) -> int:
        return joined_size(self.variables, self.messages)

    def value(self) -> Session:
        return Session(
            project=self.project,
            id=self.id,
            incarnation=self.incarnation,
            variables_text=self.variables,
            provider=self.provider,
            message_texts=tuple(self.messages),
            revision=len(self.messages),
            created_at=self.created_at,
            updated_at=self.updated_at,
        )

    def summary(self) -> SessionSummary:
        return SessionSummary(
            id=self.id,
            provider=self.provider,
            message_count=self.message_count,
            created_at=self.created_at,
            ended_at=self.ended_at,
            title=self.title,
        )


@dataclass(slots=True)
class _HeldLease:
    """A lease and the monotonic time when it expires."""

    lease: Lease
    until: float


@dataclass(slots=True)
class _NamedRequest:
    """A named request, the monotonic time when it expires, and the session of its answer."""

    body_digest: str
    until: float
    answer: str | None = None
    session: int | None = None

    def record(self) -> RequestRecord:
        return RequestRecord(
            state="running" if self.answer is None else "finished",
            body_digest=self.body_digest,
            answer=self.answer,
        )

    def is_about(self, session: _StoredSession) -> bool:
        return self.session == session.number

    def is_over(self) -> bool:
        return self.until <= monotonic()

    def can_be_forgotten(self) -> bool:
        # A running request may still be saved after its seconds.
        return self.until + (ANSWER_HOURS * 3600 if self.answer is None else 0) <= monotonic()


@dataclass(frozen=True, slots=True)
class _Note:
    """A note of a turn, and the monotonic time when it expires."""

    note: TurnNote
    until: float = field(default_factory=lambda: monotonic() + ANSWER_HOURS * 3600)


class MemoryStore(Store):
    """A store in memory. Its content is lost when the process ends."""

    def __init__(self) -> None:
        self._keys: dict[str, StoredKey] = {}
        self._sessions: list[_StoredSession] = []
        self._live: dict[tuple[str, str], _StoredSession] = {}
        self._leases: dict[tuple[str, str], _HeldLease] = {}
        self._fence = 0
        self._requests: dict[RequestId, _NamedRequest] = {}
        self._notes: dict[tuple[str, str], list[_Note]] = {}

    async def check(self) -> None:
        """Return: memory can always be written."""

    # - keys -

    async def add_key(self, key: StoredKey) -> None:
        """Store a new key."""
        if key.id in self._keys or any(k.digest == key.digest for k in self._keys.values()):
            raise StoreError(f"The key {key.id} cannot be added: the store has it already.")
        self._keys[key.id] = key

    async def find_key(self, digest: str) -> StoredKey | None:
        """Return the key with this SHA-256 digest, including revoked keys, or None."""
        return next((key for key in self._keys.values() if key.digest == digest), None)

    async def keys(self, project: str | None = None) -> list[StoredKey]:
        """Return the keys of a project, or of all projects, oldest first, including revoked keys."""
        found = (key for key in self._keys.values() if project in (None, key.project))
        return sorted(found, key=lambda key: key.created_at)

    async def revoke_key(self, project: str, key_id: str) -> bool:
        """Revoke a key permanently. Return False if the project has no such key. Idempotent."""
        key = self._keys.get(key_id)
        if key is None or key.project != project:
            return False
        self._keys[key_id] = replace(key, revoked_at=key.revoked_at or now())
        return True

    async def note_key_used(self, key_id: str) -> None:
        """Set a key's `last_used_at` to now."""
        if key := self._keys.get(key_id):
            self._keys[key_id] = replace(key, last_used_at=now())

    # - sessions -

    async def create_session(
        self, project: str, session_id: str, *, variables: Variables, provider: str = ""
    ) -> Session:
        """Create an empty session, or return the same one if it exists and is still empty."""
        live = self._live.get((project, session_id))
        if live is None:
            return self._begin(project, session_id, json_text(variables), provider).value()
        same = await same_json(live.variables, json_text(variables))
        if live.messages or live.provider != provider or not same:
            raise SessionConflict(f"The session {session_id} exists with other content.")
        return live.value()

    def _begin(
        self, project: str, session_id: str, variables: str, provider: str
    ) -> _StoredSession:
        time = now()
        begun = _StoredSession(
            project, session_id, len(self._sessions), variables, provider, time, time
        )
        self._sessions.append(begun)
        self._live[project, session_id] = begun
        return begun

    async def session(self, project: str, session_id: str) -> Session:
        """Return a session with its messages. Raise `SessionNotFound` if there is none."""
        live = self._live.get((project, session_id))
        if live is None:
            raise SessionNotFound(f"There is no session {session_id}.")
        return live.value()

    async def search_sessions(
        self,
        project: str,
        text: str,
        *,
        limit: int,
        offset: int,
        max_bytes: int = MAX_SEARCH_BYTES,
    ) -> Page[Session]:
        """Return the sessions whose `data_text` contains the text, newest update first."""
        live = [each for each in self._live.values() if each.project == project]
        found = await _containing(text, live)
        found.sort(key=lambda each: (each.updated_at, each.number), reverse=True)
        page: list[Session] = []
        size = 0
        for each in found[offset : offset + limit]:
            size += each.size
            if page and size > max_bytes:
                break
            page.append(each.value())
        return Page(tuple(page), total=len(found))

    async def list_sessions(
        self, project: str, *, limit: int, offset: int, text: str = ""
    ) -> Page[SessionSummary]:
        """List sessions, newest first, including ended sessions."""
        of_project = [each for each in reversed(self._sessions) if each.project == project]
        live = [each for each in of_project if each.ended_at is None]
        containing = {each.number for each in await _containing(text, live)}
        wanted = searchable(text)
        found = [
            each
            for each in of_project
            if wanted is not None
            and (wanted in each.id or wanted in json_text(each.title) or each.number in containing)
        ]
        found.sort(key=lambda each: each.created_at, reverse=True)
        page = found[offset : offset + limit]
        return Page(tuple(each.summary() for each in page), total=len(found))

    async def rename_session(self, project: str, session_id: str, title: str) -> bool:
        """Set a session's title. Return False if there is no such session."""
        live = self._live.get((project, session_id))
        if live is None:
            return False
        live.title = title
        return True

    async def end_session(self, project: str, session_id: str) -> bool:
        """Delete a session's content permanently. Return False if there was none."""
        live = self._live.pop((project, session_id), None)
        self._leases.pop((project, session_id), None)
        self._forget_notes(project, session_id)
        if live is None:
            return False
        live.ended_at = now()
        live.variables, live.messages, live.title = "{}", [], ""
        self._forget(each for each, known in self._requests.items() if known.is_about(live))
        return True

    # - turns -

    async def take_lease(
        self, project: str, session_id: str, *, holder: str, seconds: float
    ) -> Lease | None:
        """Acquire the lease of a session. Return None while another holder has it."""
        held = self._leases.get((project, session_id))
        if held is not None and held.until > monotonic():
            return None
        self._fence += 1
        lease = Lease(project=project, session_id=session_id, holder=holder, fence=self._fence)
        self._leases[project, session_id] = _HeldLease(lease, monotonic() + seconds)
        return lease

    def _held(self, lease: Lease) -> _HeldLease | None:
        held = self._leases.get((lease.project, lease.session_id))
        return held if held is not None and held.lease == lease else None

    async def keep_lease(self, lease: Lease, *, seconds: float) -> bool:
        """Renew a lease. Return False if another holder has taken it over."""
        if held := self._held(lease):
            held.until = monotonic() + seconds
        return held is not None

    async def drop_lease(self, lease: Lease) -> None:
        """Release a lease. No effect if another holder has taken it over."""
        if self._held(lease):
            del self._leases[lease.project, lease.session_id]

    async def save_turn(
        self,
        lease: Lease,
        messages: Sequence[Message],
        *,
        seen: Session | None,
        keep: int | None = None,
        request: RequestId | None = None,
        answer: str | None = None,
        drop: bool = False,
        turn: str | None = None,
    ) -> Session:
        """Append the messages of a turn in one transaction, and return the updated session."""
        texts = await message_texts(messages)
        live = self._as_seen(lease, seen)
        running = self._running(request)
        if live is None:
            live = self._begin(lease.project, lease.session_id, "{}", "")
        lost = ""
        if keep is not None:
            lost = lost_title(seen.messages, keep) if seen else ""
            del live.messages[keep:]
            live.incarnation = uuid4().hex
        if (lost or not live.messages) and live.title in ("", lost):
            live.title = first_words(messages)
        live.messages += texts
        live.message_count = len(live.messages)
        live.updated_at = max(live.updated_at, now())
        if running is not None:
            running.answer, running.session = answer or "", live.number
            running.until = monotonic() + ANSWER_HOURS * 3600
        if drop:
            await self.drop_lease(lease)
        if turn is not None:
            self._forget_notes(lease.project, lease.session_id, turn)
        return live.value()

    async def note_turn(self, lease: Lease, turn: str, notes: Sequence[str]) -> None:
        """Append notes about a running turn. Raise `SessionConflict` if the lease has expired."""
        if self._held(lease) is None:
            raise changed_conflict(lease)
        self._forget_old_notes()
        of = {"project": lease.project, "session_id": lease.session_id, "turn": turn}
        held = self._notes.setdefault((lease.project, lease.session_id), [])
        held += [_Note(TurnNote(**of, text=text)) for text in notes]

    def _forget_old_notes(self) -> None:
        oldest = list(islice(self._notes.items(), _FORGOTTEN_AT_ONCE))
        for session, notes in oldest:
            if notes[-1].until <= monotonic():
                del self._notes[session]

    async def turn_notes(
        self, project: str | None = None, session_id: str | None = None
    ) -> list[TurnNote]:
        """Return the notes of turns that were not saved, in the order they were written."""
        if project is not None and session_id is not None:
            return [each.note for each in self._notes.get((project, session_id), ())]
        every = (each.note for notes in self._notes.values() for each in notes)
        return [note for note in every if project in (None, note.project)]

    async def forget_notes(self, lease: Lease, turn: str) -> None:
        """Delete the notes of a turn. Raise `SessionConflict` if the lease has expired."""
        if self._held(lease) is None:
            raise changed_conflict(lease)
        self._forget_notes(lease.project, lease.session_id, turn)

    def _forget_notes(self, project: str, session_id: str, turn: str | None = None) -> None:
        notes = self._notes.pop((project, session_id), [])
        if left := [each for each in notes if turn not in (None, each.note.turn)]:
            self._notes[project, session_id] = left

    def _as_seen(self, lease: Lease, seen: Session | None) -> _StoredSession | None:
        """Return the session that the writer has seen, or None if it is new."""
        live = self._live.get((lease.project, lease.session_id))
        found = None if live is None else (live.incarnation, len(live.messages))
        wanted = None if seen is None else (seen.incarnation, seen.revision)
        if lease.fence == 0:  # the session's id is new
            is_held = live is None and (lease.project, lease.session_id) not in self._leases
        else:
            is_held = self._held(lease) is not None
        if not is_held or found != wanted:
            raise changed_conflict(lease)
        return live

    def _running(self, request: RequestId | None) -> _NamedRequest | None:
        if request is None:
            return None
        known = self._requests.get(request)
        if known is None or known.answer is not None:
            raise SessionConflict("The request was answered or given up while this turn ran.")
        return known

    # - requests -

    async def begin_request(
        self, request: RequestId, body_digest: str, *, seconds: float
    ) -> RequestRecord:
        """Begin a named request, or return its state if it has begun before."""
        self._forget_old_answers()
        known = self._requests.get(request)
        if known is not None and not known.is_over():
            return known.record()
        self._requests[request] = _NamedRequest(body_digest, monotonic() + seconds)
        return RequestRecord(state="begun", body_digest=body_digest)

    def _forget_old_answers(self) -> None:
        oldest = islice(self._requests.items(), _FORGOTTEN_AT_ONCE)
        self._forget(request for request, known in oldest if known.can_be_forgotten())

    def _forget(self, requests: Iterable[RequestId]) -> None:
        for request in list(requests):
            del self._requests[request]

    async def keep_request(self, request: RequestId, *, seconds: float) -> None:
        """Renew a running request for `seconds` from now."""
        known = self._requests.get(request)
        if known is not None and known.answer is None:
            known.until = monotonic() + seconds

    async def forget_request(self, request: RequestId) -> None:
        """Delete a request without an answer. A finished request stays."""
        known = self._requests.get(request)
        if known is not None and known.answer is None:
            del self._requests[request]


async def _containing(text: str, live: Sequence[_StoredSession]) -> list[_StoredSession]:
    """Return the sessions whose data contains a text; looks through it off the event loop."""
    wanted = searchable(text)
    if wanted is None:
        return []
    if not wanted:
        return list(live)
    # As they are now: the sessions may change meanwhile.
    texts = [(each, each.variables, tuple(each.messages)) for each in live]
    return await off_loop(
        sum(len(variables) + sum(map(len, messages)) for _, variables, messages in texts),
        lambda: [
            each
            for each, variables, messages in texts
            if wanted in joined_text(variables, messages)
        ],
    )
