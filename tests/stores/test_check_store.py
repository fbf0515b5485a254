"""Every store follows every rule, and a store that breaks one is found out."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from pathors_agent.errors import SessionConflict, StoreError
from pathors_agent.messages import Message
from pathors_agent.stores import (
    Lease,
    MemoryStore,
    OpenedSession,
    Page,
    RequestId,
    RequestRecord,
    Session,
    SessionSummary,
    SQLStore,
    StoredKey,
    Variables,
    now,
)
from pathors_agent.testing import check_store


@pytest.mark.anyio
async def test_memory_store_follows_every_rule() -> None:
    await check_store(MemoryStore)


def test_sqlite_store_follows_every_rule(tmp_path: Path) -> None:
    anyio.run(check_store, lambda: SQLStore(f"sqlite:///{tmp_path}/sessions.db"))


def test_postgresql_store_follows_every_rule(postgres_url: str) -> None:
    anyio.run(check_store, lambda: SQLStore(postgres_url))


class FindsNoRevokedKey(MemoryStore):
    async def find_key(self, digest: str) -> StoredKey | None:
        key = await super().find_key(digest)
        return None if key and key.revoked_at else key


class RevokesForEveryProject(MemoryStore):
    async def revoke_key(self, project: str, key_id: str) -> bool:
        key = self._keys.get(key_id)
        return await super().revoke_key(key.project if key else project, key_id)


class TakesOtherVariables(MemoryStore):
    async def create_session(
        self, project: str, session_id: str, *, variables: Variables, provider: str = ""
    ) -> Session:
        try:
            return await super().create_session(
                project, session_id, variables=variables, provider=provider
            )
        except SessionConflict:
            return await self.session(project, session_id)


class SearchesWithoutCase(MemoryStore):
    async def search_sessions(
        self, project: str, text: str, *, limit: int, offset: int, max_bytes: int = 2**60
    ) -> Page[Session]:
        found = await super().search_sessions(project, "", limit=1000, offset=0)
        items = [each for each in found.items if text.lower() in self.text(each).lower()]
        return Page(tuple(items[offset : offset + limit]), total=len(items))

    def text(self, session: Session) -> str:
        return "".join(self._live[session.project, session.id].session.data_pieces())


class SearchesMessageByMessage(MemoryStore):
    async def search_sessions(
        self, project: str, text: str, *, limit: int, offset: int, max_bytes: int = 2**60
    ) -> Page[Session]:
        if '},{"' in text:
            return Page((), total=0)
        return await super().search_sessions(project, text, limit=limit, offset=offset)


class FillsPagesWithoutBound(MemoryStore):
    async def search_sessions(
        self, project: str, text: str, *, limit: int, offset: int, max_bytes: int = 2**60
    ) -> Page[Session]:
        return await super().search_sessions(
            project, text, limit=limit, offset=offset, max_bytes=2**60
        )


class CountsThePage(MemoryStore):
    async def search_sessions(
        self, project: str, text: str, *, limit: int, offset: int, max_bytes: int = 2**60
    ) -> Page[Session]:
        page = await super().search_sessions(project, text, limit=limit, offset=offset)
        return Page(page.items, total=len(page.items))


class ForgetsEndedSessions(MemoryStore):
    async def list_sessions(
        self, project: str, *, limit: int, offset: int, text: str = ""
    ) -> Page[SessionSummary]:
        page = await super().list_sessions(project, limit=limit, offset=offset, text=text)
        live = tuple(line for line in page.items if line.ended_at is None)
        return Page(live, total=len(live))


class GoesOnWithEndedSessions(MemoryStore):
    async def save_turn(
        self, lease: Lease, messages: Sequence[Message], *, seen: Session | None, **more: Any
    ) -> Session:
        if seen and (lease.project, lease.session_id) not in self._live:
            seen = None
        return await super().save_turn(lease, messages, seen=seen, **more)


class LeavesLeasesOfEndedSessions(MemoryStore):
    async def end_session(self, project: str, session_id: str) -> bool:
        held = self._leases.get((project, session_id))
        ended = await super().end_session(project, session_id)
        if held is not None:
            self._leases[project, session_id] = held
        return ended


class LooksAtNoIncarnation(MemoryStore):
    async def save_turn(
        self, lease: Lease, messages: Sequence[Message], *, seen: Session | None, **more: Any
    ) -> Session:
        live = self._live.get((lease.project, lease.session_id))
        if seen and live:
            seen = replace(seen, incarnation=live.session.incarnation)
        return await super().save_turn(lease, messages, seen=seen, **more)


class LooksAtNoRevision(MemoryStore):
    async def save_turn(
        self, lease: Lease, messages: Sequence[Message], *, seen: Session | None, **more: Any
    ) -> Session:
        live = self._live.get((lease.project, lease.session_id))
        if seen and live:
            seen = replace(seen, revision=live.session.revision)
        return await super().save_turn(lease, messages, seen=seen, **more)


class LooksAtNoLease(MemoryStore):
    async def save_turn(
        self, lease: Lease, messages: Sequence[Message], *, seen: Session | None, **more: Any
    ) -> Session:
        lease, _ = self._leases.get((lease.project, lease.session_id), (lease, 0.0))
        return await super().save_turn(lease, messages, seen=seen, **more)


class KeepsLeasesOfSavedTurns(MemoryStore):
    async def save_turn(
        self, lease: Lease, messages: Sequence[Message], *, seen: Session | None, **more: Any
    ) -> Session:
        return await super().save_turn(lease, messages, seen=seen, **{**more, "drop": False})


class AnswersBeforeItSaves(MemoryStore):
    async def save_turn(
        self, lease: Lease, messages: Sequence[Message], *, seen: Session | None, **more: Any
    ) -> Session:
        saved = super().save_turn(lease, messages, seen=seen, **more)
        try:
            return await saved
        except SessionConflict:
            if more.get("request") in self._requests:
                self._requests[more["request"]].answer = more["answer"]
            raise


class KeepsNotesOfSavedTurns(MemoryStore):
    async def save_turn(
        self, lease: Lease, messages: Sequence[Message], *, seen: Session | None, **more: Any
    ) -> Session:
        return await super().save_turn(lease, messages, seen=seen, **{**more, "turn": None})


class RemovesNothing(MemoryStore):
    async def save_turn(
        self, lease: Lease, messages: Sequence[Message], *, seen: Session | None, **more: Any
    ) -> Session:
        return await super().save_turn(lease, messages, seen=seen, **{**more, "keep": None})


class KeepsTheIncarnation(MemoryStore):
    async def save_turn(
        self, lease: Lease, messages: Sequence[Message], *, seen: Session | None, **more: Any
    ) -> Session:
        saved = await super().save_turn(lease, messages, seen=seen, **more)
        incarnation = seen.incarnation if seen else saved.incarnation
        saved = replace(saved, incarnation=incarnation)
        self._live[lease.project, lease.session_id].session = saved
        return saved


class TakesNotesOfAnybody(MemoryStore):
    async def note_turn(self, lease: Lease, turn: str, notes: Sequence[str]) -> None:
        with suppress(SessionConflict):
            await super().note_turn(lease, turn, notes)


class CountsFencesAnew(MemoryStore):
    async def drop_lease(self, lease: Lease) -> None:
        await super().drop_lease(lease)
        self._fence = 0


class GivesLeasesAgainToTheirHolder(MemoryStore):
    async def take_lease(
        self, project: str, session_id: str, *, holder: str, seconds: float
    ) -> Lease | None:
        held, _ = self._leases.get((project, session_id), (None, 0.0))
        if held and held.holder == holder:
            return held
        return await super().take_lease(project, session_id, holder=holder, seconds=seconds)


class OpensWithoutNotes(MemoryStore):
    async def open_session(self, *names: str, **more: Any) -> OpenedSession | None:
        opened = await super().open_session(*names, **more)
        return opened and replace(opened, notes=())


class OpensAnOlderSession(MemoryStore):
    async def open_session(self, *names: str, **more: Any) -> OpenedSession | None:
        opened = await super().open_session(*names, **more)
        return opened and replace(opened, session=None)


class LooksBeforeItTakes(MemoryStore):
    async def take_lease(
        self, project: str, session_id: str, *, holder: str, seconds: float
    ) -> Lease | None:
        free = (project, session_id) not in self._leases
        await anyio.lowlevel.checkpoint()
        if free:
            self._leases.pop((project, session_id), None)
        return await super().take_lease(project, session_id, holder=holder, seconds=seconds)


class HoldsLeasesForEver(MemoryStore):
    async def take_lease(
        self, project: str, session_id: str, *, holder: str, seconds: float
    ) -> Lease | None:
        return await super().take_lease(project, session_id, holder=holder, seconds=seconds * 1e6)


class KeepsNothingUp(MemoryStore):
    async def keep_lease(self, lease: Lease, *, seconds: float) -> bool:
        return self._is_held(lease)


class TellsTheLastDigest(MemoryStore):
    async def begin_request(
        self, request: RequestId, body_digest: str, *, seconds: float
    ) -> RequestRecord:
        record = await super().begin_request(request, body_digest, seconds=seconds)
        return replace(record, body_digest=body_digest)


class OpensForRunningRequests(MemoryStore):
    async def begin_turn(
        self, request: RequestId, body_digest: str, *, session_id: str, **lease: Any
    ) -> tuple[RequestRecord, OpenedSession | None]:
        record = await self.begin_request(request, body_digest, seconds=lease["seconds"])
        return record, await self.open_session(request.project, session_id, **lease)


class OpensNothingForRequests(MemoryStore):
    async def begin_turn(
        self, request: RequestId, body_digest: str, **more: Any
    ) -> tuple[RequestRecord, OpenedSession | None]:
        return await self.begin_request(request, body_digest, seconds=more["seconds"]), None


class ForgetsAnswers(MemoryStore):
    async def forget_request(self, request: RequestId) -> None:
        self._requests.pop(request, None)


class KeepsAnswersOfEndedSessions(MemoryStore):
    async def end_session(self, project: str, session_id: str) -> bool:
        kept = dict(self._requests)
        ended = await super().end_session(project, session_id)
        self._requests.update(kept)
        return ended


class TellsLocalTimes(MemoryStore):
    async def note_key_used(self, key_id: str) -> None:
        self._keys[key_id] = replace(self._keys[key_id], last_used_at=now().replace(tzinfo=None))


class CannotBeWritten(MemoryStore):
    async def check(self) -> None:
        raise StoreError("The disk is full.")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (FindsNoRevokedKey, "a revoked key must be returned with its time"),
        (RevokesForEveryProject, "a key must not be revoked from another project"),
        (TakesOtherVariables, "creating a session again with other variables must raise"),
        (SearchesWithoutCase, "case must count"),
        (SearchesMessageByMessage, "a text that spans two messages must be found"),
        (OpensWithoutNotes, "an opened session must be returned with the notes of its turns"),
        (OpensAnOlderSession, "an opened session must be returned whole"),
        (FillsPagesWithoutBound, "a page must hold as many sessions as fit"),
        (CountsThePage, "total must be exact"),
        (ForgetsEndedSessions, "the newest session must be listed first, including ended ones"),
        (GoesOnWithEndedSessions, "a turn on a session that has ended must raise"),
        (LeavesLeasesOfEndedSessions, "a first turn of a session that was ended meanwhile must"),
        (LooksAtNoIncarnation, "a turn on an earlier session with this id must raise"),
        (LooksAtNoRevision, "a turn on an older revision must raise SessionConflict"),
        (LooksAtNoLease, "a holder that lost the lease must get SessionConflict"),
        (RemovesNothing, "a turn with `keep` must replace the messages after them"),
        (KeepsTheIncarnation, "a rewound session must get another incarnation"),
        (KeepsLeasesOfSavedTurns, "a turn with `drop` must release its lease"),
        (KeepsNotesOfSavedTurns, "a saved turn's notes must be deleted"),
        (TakesNotesOfAnybody, "a holder that lost the lease must get SessionConflict"),
        (AnswersBeforeItSaves, "must leave its request unanswered"),
        (CountsFencesAnew, "a lease's fence must grow, also after a drop"),
        (GivesLeasesAgainToTheirHolder, "a lease that is held must not be granted again"),
        (LooksBeforeItTakes, "of many concurrent callers, one must get the lease"),
        (KeepsNothingUp, "a lease that is kept must not expire"),
        (TellsTheLastDigest, "a request must have the digest of the first body"),
        (OpensForRunningRequests, "a request that is running must get no session"),
        (OpensNothingForRequests, "a new request must get its session"),
        (ForgetsAnswers, "a finished request must not be forgotten"),
        (KeepsAnswersOfEndedSessions, "the answers of a session must be deleted with it"),
        (TellsLocalTimes, "last_used_at must be the time of the last use"),
        (CannotBeWritten, "a working store reports that it works: StoreError was raised instead"),
    ],
)
async def test_broken_store_is_named(broken: Callable[[], MemoryStore], sentence: str) -> None:
    with pytest.raises(AssertionError, match=sentence):
        await check_store(broken)


@pytest.mark.anyio
async def test_lease_that_never_ends_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pathors_agent.testing.lease_rules.PATIENCE", 0.3)

    with pytest.raises(AssertionError, match="a lease must expire after its seconds"):
        await check_store(HoldsLeasesForEver)
