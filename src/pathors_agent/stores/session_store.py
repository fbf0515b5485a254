"""Sessions that a program keeps itself: a store of four methods, and the block that opens a session."""

import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from secrets import token_hex
from types import TracebackType

import anyio

from pathors_agent.core.conversation import Conversation
from pathors_agent.errors import SessionConflict
from pathors_agent.history.loading import added_messages
from pathors_agent.history.trim import HistoryTail
from pathors_agent.messages import Message
from pathors_agent.stores.texts import message_text, read_message_text
from pathors_agent.stores.values import Omitted, session_id_problem

# How long a session stays locked if its process dies. An open session renews its lease.
LEASE_SECONDS = 30.0
_RENEWAL_SECONDS = LEASE_SECONDS / 3

# How long `open` waits for another turn of the session.
WAIT_SECONDS = 30.0
_FIRST_PAUSE_SECONDS = 0.02
_LONGEST_PAUSE_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class LoadedSession:
    """A session as it was loaded: its messages, and the number of all that are stored.

    `omitted` describes the messages that were not loaded.
    """

    messages: Sequence[str | bytes] = field(repr=False)
    count: int
    omitted: Omitted | None = None


class SessionStore(ABC):
    """Keep sessions: conversations that are stored under an id.

    `open` loads a session for one turn, and stores what the turn added. To write a store of your
    own, subclass this class and write the four other methods. They block: async code calls them in
    worker threads, so several threads may call them at once. They raise `StoreError` if the
    sessions cannot be read or written. `pathors_agent.testing.check_store` tests them.
    """

    @abstractmethod
    def load(self, session_id: str, *, holder: str, seconds: float) -> Sequence[str | bytes] | None:
        """Acquire the lease of a session and return its messages, as `append` got them.

        Return None while another holder has the lease. A session that does not exist has no
        messages. The lease expires after `seconds`; the same holder calls `load` again to renew it.
        """

    def load_tail(
        self, session_id: str, *, holder: str, seconds: float, tail: HistoryTail
    ) -> LoadedSession | None:
        """Acquire the lease as `load`, and return the messages without those that a tail leaves out.

        A store need not leave any out: this returns all messages.
        """
        messages = self.load(session_id, holder=holder, seconds=seconds)
        return None if messages is None else LoadedSession(messages, len(messages))

    @abstractmethod
    def append(self, session_id: str, messages: Sequence[str], *, holder: str, after: int) -> bool:
        """Append the messages of a turn and release the lease, in one transaction.

        Return False, and change nothing, if `holder` does not have the lease any more, or if the
        session does not have `after` messages. Without messages, only the lease is released.
        """

    @abstractmethod
    def list(self, *, limit: int = 100, offset: int = 0) -> Sequence[str]:
        """Return the ids of the sessions, the most recently updated first."""

    @abstractmethod
    def delete(self, session_id: str) -> None:
        """Delete a session and its lease: a turn that runs now is not stored. Idempotent."""

    def open(
        self, session_id: str, *, wait: float = WAIT_SECONDS, tail: HistoryTail | None = None
    ) -> "OpenSession":
        """Open a session for one turn, in a `with` or `async with` block.

        The block gets the session as a `Conversation` for runs of any agent. Leaving the block
        stores what was added, all or nothing. It stores nothing if the block is left with an
        exception, or if its last run failed, was cancelled or was left before its end. A session
        that does not exist is created.

        With a `tail`, the `history` of the agent that runs in the block, the conversation may lack
        messages that the tail leaves out: of a long session, only its end is read.

        One block at a time has a session, in all processes. Entering waits up to `wait` seconds
        for another block, and then raises `SessionConflict`. Leaving raises `SessionConflict` if
        another process has taken the session over, or if it was deleted.
        """
        if problem := session_id_problem(session_id):
            raise ValueError(f"session_id {problem}")
        return OpenSession(self, session_id, wait, tail)


class OpenSession:
    """A `with` or `async with` block that has a session; `SessionStore.open` returns it."""

    def __init__(
        self, store: SessionStore, session_id: str, wait: float, tail: HistoryTail | None = None
    ) -> None:
        self._store = store
        self._tail = tail
        self._id = session_id
        self._wait = wait
        self._holder = token_hex(16)
        self._conversation = Conversation()
        self._base: Sequence[Message] = ()
        self._after = 0  # the number of stored messages
        self._is_entered = self._is_open = self._is_given_up = False
        self._process = os.getpid()
        # Renewing must not take the lease again after it was released.
        self._lock = threading.Lock()

    # - blocking code -

    def __enter__(self) -> Conversation:
        pause, until = _FIRST_PAUSE_SECONDS, self._begin()
        while not self._open():
            if time.monotonic() >= until:
                raise self._busy()
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        return self._conversation

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close(is_kept=error is None)

    # - async code -

    async def __aenter__(self) -> Conversation:
        pause, until = _FIRST_PAUSE_SECONDS, self._begin()
        try:
            while not await anyio.to_thread.run_sync(self._open):
                if time.monotonic() >= until:
                    raise self._busy()
                await anyio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        except BaseException:
            # The thread of a cancelled task may still acquire the lease.
            self._is_given_up = True
            self._close_beside()
            raise
        return self._conversation

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(lambda: self._close(is_kept=error is None))
        except BaseException:
            # A task of asyncio that is cancelled now may not have begun the thread.
            self._close_beside()
            raise

    def _close_beside(self) -> None:
        """Release the lease in a thread, unless another one has closed the session."""
        threading.Thread(target=self._close, kwargs={"is_kept": False}, daemon=True).start()

    # - both -

    def _begin(self) -> float:
        """Return the time until which to wait for the session."""
        if self._is_entered:
            raise RuntimeError("this session was opened before: call `open` again for each block")
        self._is_entered = True
        return time.monotonic() + self._wait

    def _open(self) -> bool:
        """Acquire the lease and load the session. Return False while another holder has it."""
        with self._lock:
            if self._is_given_up:
                return False
            loaded = self._load()
            if loaded is None:
                return False
            self._is_open, self._after = True, loaded.count
            try:
                self._base = [read_message_text(text) for text in loaded.messages]
                # The id is another for each block: a block that stored nothing leaves no trace in
                # the idempotency keys of the next one.
                self._conversation = Conversation(self._base, id=f"{self._id}/{self._holder}")
                if omitted := loaded.omitted:
                    self._conversation.count_omitted(turns=omitted.turns, call_ids=omitted.call_ids)
            except BaseException:
                self._release()
                raise
        renewals_of(self._store).add(self)
        return True

    def _close(self, *, is_kept: bool) -> None:
        """Store what was added, or only release the lease."""
        if self._process != os.getpid():  # a forked process leaves the block of its parent
            return
        renewals_of(self._store).remove(self)
        with self._lock:
            if not self._is_open:
                return
            texts: list[str] = []
            try:
                if is_kept and not self._conversation.has_unfinished_run:
                    added = added_messages(self._base, self._conversation.messages)
                    texts = list(map(message_text, added))
                if texts and not self._append(texts):
                    raise SessionConflict(
                        f"Another writer changed the session {self._id} first; this turn was not"
                        " stored."
                    )
            finally:
                if not texts:
                    self._release()
                self._is_open = False

    def renew(self) -> bool:
        """Renew the lease. Return False if it cannot be renewed any more."""
        with self._lock:
            if not self._is_open:
                return False
            renewed = self._store.load(self._id, holder=self._holder, seconds=LEASE_SECONDS)
            return renewed is not None

    def _load(self) -> LoadedSession | None:
        store, name, holder = self._store, self._id, self._holder
        if self._tail is not None:
            return store.load_tail(name, holder=holder, seconds=LEASE_SECONDS, tail=self._tail)
        messages = store.load(name, holder=holder, seconds=LEASE_SECONDS)
        return None if messages is None else LoadedSession(messages, len(messages))

    def _append(self, texts: Sequence[str]) -> bool:
        return self._store.append(self._id, texts, holder=self._holder, after=self._after)

    def _release(self) -> None:
        """Release the lease. If that fails, it expires."""
        self._is_open = False
        with suppress(Exception):
            self._append([])

    def _busy(self) -> SessionConflict:
        return SessionConflict(
            f"Another turn of the session {self._id} ran for all of {self._wait} seconds: try again."
        )


class Renewals:
    """One thread that renews the leases of the open sessions of a store; it ends with the last."""

    def __init__(self) -> None:
        self._due: dict[OpenSession, float] = {}  # by time
        self._changed = threading.Condition()
        self._runs = False
        self.process = os.getpid()  # a forked process lacks the thread

    def add(self, session: OpenSession) -> None:
        """Renew the lease of a session from now on."""
        with self._changed:
            self._due[session] = time.monotonic() + _RENEWAL_SECONDS
            if not self._runs:
                self._runs = True
                threading.Thread(target=self._main, name="pathors-leases", daemon=True).start()

    def remove(self, session: OpenSession) -> None:
        """Stop renewing the lease of a session. Idempotent."""
        with self._changed:
            self._due.pop(session, None)
            if not self._due:
                self._changed.notify()

    def _main(self) -> None:
        while (session := self._next()) is not None:
            is_renewed = True
            with suppress(Exception):  # the next attempt may succeed; if not, `append` raises
                is_renewed = session.renew()
            with self._changed:
                if self._due.pop(session, None) is not None and is_renewed:
                    self._due[session] = time.monotonic() + _RENEWAL_SECONDS

    def _next(self) -> OpenSession | None:
        """Return the session whose lease is due as soon as it is; None if no session is open."""
        with self._changed:
            while self._due:
                session, due = next(iter(self._due.items()))  # the longest ago renewed
                if (left := due - time.monotonic()) <= 0:
                    return session
                self._changed.wait(left)
            self._runs = False
            return None


def renewals_of(store: SessionStore) -> Renewals:
    """Return the renewals of a store."""
    renewals = vars(store).setdefault("_renewals", Renewals())
    if renewals.process != os.getpid():
        renewals = vars(store)["_renewals"] = Renewals()
    assert isinstance(renewals, Renewals)
    return renewals
