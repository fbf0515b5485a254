"""A store in the memory of this process: for tests, and for data that may be lost."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from math import inf
from time import monotonic
from uuid import uuid4

from pathors_agent.errors import SessionConflict, SessionNotFound, StoreError
from pathors_agent.messages import Message
from pathors_agent.stores.base import ANSWER_HOURS, MAX_SEARCH_BYTES, Store
from pathors_agent.stores.texts import (
    Variables,
    first_words,
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
    check_page,
    now,
)

# Old entries deleted for each new one: more than one, so that the store shrinks again.
_FORGOTTEN_AT_ONCE = 10

_KEPT_SECONDS = ANSWER_HOURS * 3600


@dataclass(slots=True)
class _StoredSession:
    """A session, its number and its title. An ended session has no messages and variables."""

    session: Session
    number: int
    title: str = ""
    ended_at: datetime | None = None

    def value(self) -> Session:
        return replace(self.session)  # a copy: what its user parses is not kept

    def summary(self) -> SessionSummary:
        return SessionSummary(
            id=self.session.id,
            provider=self.session.provider,
            message_count=self.session.revision,
            created_at=self.session.created_at,
            ended_at=self.ended_at,
            title=self.title,
        )


@dataclass(slots=True)
class _NamedRequest:
    """A named request, the monotonic time when it expires, and the session of its answer."""

    body_digest: str
    until: float
    answer: str | None = None
    session: int | None = None

    def can_be_forgotten(self) -> bool:
        # A running request may still be saved after its seconds.
        return self.until + (_KEPT_SECONDS if self.answer is None else 0) <= monotonic()


class MemoryStore(Store):
    """A store in memory. Its content is lost when the process ends."""

    def __init__(self) -> None:
        self._keys: dict[str, StoredKey] = {}
        self._sessions: list[_StoredSession] = []
        self._live: dict[tuple[str, str], _StoredSession] = {}
        # Leases and notes with the monotonic times when they expire.
        self._leases: dict[tuple[str, str], tuple[Lease, float]] = {}
        self._fence = 0
        self._requests: dict[RequestId, _NamedRequest] = {}
        self._notes: dict[tuple[str, str], list[tuple[TurnNote, float]]] = {}

    async def check(self) -> None:
        """Do nothing: memory can always be written."""

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
        found = live.session
        is_same = await same_json(found.variables_text, json_text(variables))
        if found.revision or found.provider != provider or not is_same:
            raise SessionConflict(f"The session {session_id} exists with other content.")
        return live.value()

    def _begin(
        self, project: str, session_id: str, variables: str, provider: str
    ) -> _StoredSession:
        time = now()
        session = Session(
            project=project,
            id=session_id,
            incarnation=uuid4().hex,
            variables_text=variables,
            provider=provider,
            created_at=time,
            updated_at=time,
        )
        begun = _StoredSession(session, number=len(self._sessions))
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
        self, project: str, text: str, *, limit: int, offset: int, max_bytes: int = MAX_SEARCH_BYTES
    ) -> Page[Session]:
        """Return the sessions whose `data_text` contains the text, newest update first."""
        check_page(limit, offset)
        live = [each for each in self._live.values() if each.session.project == project]
        found = await _containing(text, live)
        found.sort(key=lambda each: (each.session.updated_at, each.number), reverse=True)
        page: list[Session] = []
        size = 0
        for each in found[offset : offset + limit]:
            size += each.session.size
            if page and size > max_bytes:
                break
            page.append(each.value())
        return Page(tuple(page), total=len(found))

    async def list_sessions(
        self, project: str, *, limit: int, offset: int, text: str = ""
    ) -> Page[SessionSummary]:
        """List sessions, newest first, including ended sessions."""
        check_page(limit, offset)
        of_project = [each for each in reversed(self._sessions) if each.session.project == project]
        live = [each for each in of_project if each.ended_at is None]
        containing = {each.number for each in await _containing(text, live)}
        wanted = searchable(text)
        found = [
            each
            for each in of_project
            if wanted is not None
            and (
                wanted in each.session.id
                or wanted in json_text(each.title)
                or each.number in containing
            )
        ]
        found.sort(key=lambda each: each.session.created_at, reverse=True)
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
        live.ended_at, live.title = now(), ""
        live.session = replace(live.session, variables_text="{}", message_texts=())
        self._forget(of for of, known in self._requests.items() if known.session == live.number)
        return True

    # - turns -

    async def take_lease(
        self, project: str, session_id: str, *, holder: str, seconds: float
    ) -> Lease | None:
        """Acquire the lease of a session. Return None while another holder has it."""
        _, until = self._leases.get((project, session_id), (None, -inf))
        if until > monotonic():
            return None
        self._fence += 1
        lease = Lease(project=project, session_id=session_id, holder=holder, fence=self._fence)
        self._leases[project, session_id] = lease, monotonic() + seconds
        return lease

    def _is_held(self, lease: Lease) -> bool:
        held, _ = self._leases.get((lease.project, lease.session_id), (None, 0.0))
        return held == lease

    async def keep_lease(self, lease: Lease, *, seconds: float) -> bool:
        """Renew a lease. Return False if another holder has taken it over."""
        is_held = self._is_held(lease)
        if is_held:
            self._leases[lease.project, lease.session_id] = lease, monotonic() + seconds
        return is_held

    async def drop_lease(self, lease: Lease) -> None:
        """Release a lease. No effect if another holder has taken it over."""
        if self._is_held(lease):
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
        kept = live.session.revision if keep is None else keep
        lost = lost_title(seen.messages, kept) if seen and keep is not None else ""
        if (lost or kept == 0) and live.title in ("", lost):
            live.title = first_words(messages)
        live.session = live.session.grown(
            texts,
            kept=kept,
            incarnation=None if keep is None else uuid4().hex,
            updated_at=max(live.session.updated_at, now()),
        )
        if running is not None:
            running.answer, running.session = answer or "", live.number
            running.until = monotonic() + _KEPT_SECONDS
        if drop:
            await self.drop_lease(lease)
        if turn is not None:
            self._forget_notes(lease.project, lease.session_id, turn)
        return live.value()

    async def note_turn(self, lease: Lease, turn: str, notes: Sequence[str]) -> None:
        """Append notes about a running turn. Raise `SessionConflict` if the lease has expired."""
        if not self._is_held(lease):
            raise changed_conflict(lease)
        for session, [*_, (_, until)] in list(islice(self._notes.items(), _FORGOTTEN_AT_ONCE)):
            if until <= monotonic():
                del self._notes[session]
        of = {"project": lease.project, "session_id": lease.session_id, "turn": turn}
        held = self._notes.setdefault((lease.project, lease.session_id), [])
        until = monotonic() + _KEPT_SECONDS
        held += [(TurnNote(**of, text=text), until) for text in notes]

    async def turn_notes(
        self, project: str | None = None, session_id: str | None = None
    ) -> list[TurnNote]:
        """Return the notes of turns that were not saved, in the order they were written."""
        if project is not None and session_id is not None:
            return [note for note, _ in self._notes.get((project, session_id), ())]
        every = (note for notes in self._notes.values() for note, _ in notes)
        return [note for note in every if project in (None, note.project)]

    async def forget_notes(self, lease: Lease, turn: str) -> None:
        """Delete the notes of a turn. Raise `SessionConflict` if the lease has expired."""
        if not self._is_held(lease):
            raise changed_conflict(lease)
        self._forget_notes(lease.project, lease.session_id, turn)

    def _forget_notes(self, project: str, session_id: str, turn: str | None = None) -> None:
        notes = self._notes.pop((project, session_id), [])
        if left := [each for each in notes if turn not in (None, each[0].turn)]:
            self._notes[project, session_id] = left

    def _as_seen(self, lease: Lease, seen: Session | None) -> _StoredSession | None:
        """Return the session that the writer has seen, or None if it is new."""
        place = lease.project, lease.session_id
        live = self._live.get(place)
        if lease.fence == 0:  # the session's id is new
            is_held = live is None and place not in self._leases
        else:
            is_held = self._is_held(lease)
        if not is_held or _version(seen) != _version(live.session if live else None):
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
        oldest = islice(self._requests.items(), _FORGOTTEN_AT_ONCE)
        self._forget(of for of, known in oldest if known.can_be_forgotten())
        known = self._requests.get(request)
        if known is not None and known.until > monotonic():
            return RequestRecord(
                state="running" if known.answer is None else "finished",
                body_digest=known.body_digest,
                answer=known.answer,
            )
        self._requests[request] = _NamedRequest(body_digest, monotonic() + seconds)
        return RequestRecord(state="begun", body_digest=body_digest)

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


def _version(session: Session | None) -> tuple[str, int] | None:
    return None if session is None else (session.incarnation, session.revision)


async def _containing(text: str, live: Sequence[_StoredSession]) -> list[_StoredSession]:
    """Return the sessions whose data contains a text; looks through it off the event loop."""
    wanted = searchable(text)
    if wanted is None:
        return []
    if not wanted:
        return list(live)
    # As they are now: the sessions may change meanwhile.
    sessions = [(each, each.session) for each in live]
    return await off_loop(
        sum(session.size for _, session in sessions),
        lambda: [
            each
            for each, session in sessions
            if wanted in joined_text(session.variables_text, session.message_texts)
        ],
    )
