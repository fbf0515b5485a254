"""Check a store, rule by rule; the rules of `SessionStore`, for blocking code, are here."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from uuid import uuid4

import anyio

from pathors_agent.messages import Message, UserMessage
from pathors_agent.stores.base import Store
from pathors_agent.stores.session_store import SessionStore
from pathors_agent.stores.texts import message_text
from pathors_agent.testing.lease_rules import LEASE_RULES
from pathors_agent.testing.store_rules import (
    LONG,
    MESSAGES,
    PATIENCE,
    SESSION_RULES,
    SHORT,
    Rule,
    Trial,
    require,
)
from pathors_agent.testing.turn_rules import TURN_RULES
from pathors_agent.testing.usage import check_made, maker_of
from pathors_agent.testing.value_rules import VALUE_RULES

HELLO = (message_text(UserMessage(content="Hello")), message_text(UserMessage(content="“é” 😀")))
MORE = (message_text(UserMessage(content="And?\0\u2028")),)

# How many holders want one session at the same time.
MANY = 8

# Characters that separate keys or have a meaning in patterns; all may be in an id.
SUFFIXES = ("", ":lease", ":messages", "/a", "%", "_", "*", "[x]", ".A", ".a")


@dataclass(frozen=True, slots=True)
class SessionTrial:
    """A session store, with an id in it that no other trial uses."""

    store: SessionStore
    id: str = field(default_factory=lambda: f"session-{uuid4().hex}")

    def load(
        self, holder: str = "one", *, suffix: str = "", seconds: float = LONG
    ) -> list[str] | None:
        """Load the session; return its messages as texts."""
        texts = self.store.load(self.id + suffix, holder=holder, seconds=seconds)
        return None if texts is None else [as_text(text) for text in texts]

    def append(
        self, texts: Sequence[str], *, after: int, holder: str = "one", suffix: str = ""
    ) -> bool:
        """Append messages to the session."""
        return self.store.append(self.id + suffix, texts, holder=holder, after=after)

    def say(self, *texts: str, suffix: str = "") -> None:
        """Store a turn."""
        loaded = self.load("writer", suffix=suffix)
        require("a session that no holder has must be loaded", holds=loaded is not None)
        is_stored = self.append(texts, after=len(loaded or ()), holder="writer", suffix=suffix)
        require("the holder of the lease must be able to append", holds=is_stored)

    def require_messages(self, sentence: str, texts: Sequence[str]) -> None:
        """Raise the sentence unless the session has these messages and is free."""
        loaded = self.load("reader")
        require("a session that no holder has must be loaded", holds=loaded is not None)
        require(sentence, holds=loaded == list(texts))
        self.append((), after=len(texts), holder="reader")

    def listed(self) -> list[str]:
        """List the trial's sessions, by their suffixes."""
        ids = map(as_text, self.store.list(limit=100))
        return [name.removeprefix(self.id) for name in ids if name.startswith(self.id)]


SessionRule = Callable[[SessionTrial], None]


def as_text(text: str | bytes) -> str:
    """Return a text that a store may return as bytes."""
    return text.decode() if isinstance(text, bytes) else text


def _messages_are_kept(trial: SessionTrial) -> None:
    """Check that messages come back in order, as they were appended."""
    require("a session that does not exist must have no messages", holds=trial.load() == [])
    require("append must return True to the holder", holds=trial.append(HELLO, after=0))
    trial.require_messages("messages must come back as they were appended", HELLO)
    trial.say(*MORE)
    trial.require_messages("a turn must be appended after the others", (*HELLO, *MORE))
    many = [message_text(_numbered(number)) for number in range(200)]
    every = [*map(message_text, MESSAGES), *many]
    trial.say(*every)
    trial.require_messages("many messages must be kept", (*HELLO, *MORE, *every))


def _numbered(number: int) -> Message:
    return UserMessage(content=f"{number} " + "x" * 500)


def _lease_is_of_one(trial: SessionTrial) -> None:
    """Check that one holder has a session, until it appends."""
    trial.say(*HELLO)
    require("a free session must be loaded", holds=trial.load() == list(HELLO))
    require(
        "load must return None while another holder has the lease", holds=trial.load("b") is None
    )
    require("load must renew the lease of its holder", holds=trial.load() == list(HELLO))
    refused = not trial.append(MORE, after=len(HELLO), holder="b")
    require("append must return False to a holder without the lease", holds=refused)
    released = not trial.append((), after=len(HELLO), holder="b") and trial.load("b") is None
    require("a holder must not release the lease of another", holds=released)
    require("append must return True to the holder", holds=trial.append(MORE, after=len(HELLO)))
    refused = not trial.append(MORE, after=len(HELLO) + len(MORE))
    require("append must release the lease", holds=refused)
    trial.require_messages("a refused turn must change nothing", (*HELLO, *MORE))


def _release_changes_nothing(trial: SessionTrial) -> None:
    """Check that appending nothing only releases the lease."""
    trial.load()
    trial.append((), after=0)
    require("append without messages must create no session", holds=trial.listed() == [])
    trial.say(*HELLO)
    trial.load()
    trial.append((), after=len(HELLO))
    trial.require_messages("append without messages must release the lease", HELLO)


def _turn_follows_what_was_loaded(trial: SessionTrial) -> None:
    """Check that a turn is refused if the session has another number of messages."""
    trial.say(*HELLO)
    for after in (0, 1, 3):
        trial.load()
        refused = not trial.append(MORE, after=after)
        require(
            "append must return False if the session does not have `after` messages", holds=refused
        )
        trial.append((), after=len(HELLO))
    trial.store.append(trial.id, (), holder="one", after=len(HELLO))


def _lease_expires(trial: SessionTrial) -> None:
    """Check that an expired lease is granted to another holder, and that the first has lost it."""
    trial.say(*HELLO)
    trial.load(seconds=SHORT)
    _until("a lease must expire", lambda: trial.load("b") is not None)
    require("load must not renew a lease that another took over", holds=trial.load() is None)
    refused = not trial.append(MORE, after=len(HELLO))
    require("append must return False after another took the lease over", holds=refused)
    require(
        "the new holder must be able to append",
        holds=trial.append(MORE, after=len(HELLO), holder="b"),
    )
    trial.require_messages("only the new holder's turn must be stored", (*HELLO, *MORE))


def _lease_is_renewed(trial: SessionTrial) -> None:
    """Check that a renewed lease is kept for the new time."""
    trial.load(seconds=SHORT)
    if trial.load(seconds=LONG) is None:
        return  # it expired first, on a slow machine, and was not granted to this holder again
    time.sleep(2 * SHORT)
    require(
        "a renewed lease must last as long as it was renewed for", holds=trial.load("b") is None
    )
    trial.append((), after=0)


def _one_of_many_gets_it(trial: SessionTrial) -> None:
    """Check that one of many holders gets the lease, when all want it at once."""
    with ThreadPoolExecutor(MANY) as threads:
        loaded = list(threads.map(lambda number: trial.load(f"holder-{number}"), range(MANY)))
    count = sum(texts is not None for texts in loaded)
    require(f"one of {MANY} holders must get the lease, not {count}", holds=count == 1)


def _ids_are_apart(trial: SessionTrial) -> None:
    """Check that each id has a session of its own."""
    for suffix in SUFFIXES:
        require("a new id must have no messages", holds=trial.load(suffix=suffix) == [])
    for number, suffix in enumerate(SUFFIXES):
        text = message_text(_numbered(number))
        require(
            "each id must have its own lease", holds=trial.append([text], after=0, suffix=suffix)
        )
    for number, suffix in enumerate(SUFFIXES):
        text = message_text(_numbered(number))
        require("each id must have its own messages", holds=trial.load(suffix=suffix) == [text])
        trial.append((), after=1, suffix=suffix)


def _sessions_are_listed(trial: SessionTrial) -> None:
    """Check that the ids are listed in pages, the most recently updated first."""
    for suffix in ("a", "b", "c", "a"):
        trial.say(*MORE, suffix=suffix)
        time.sleep(0.005)  # the next update has a later time, in milliseconds
    require(
        "the latest update must be listed first, and each id once",
        holds=trial.listed() == ["a", "c", "b"],
    )
    everything = [*map(as_text, trial.store.list(limit=100))]
    place = everything.index(f"{trial.id}a")
    page = [*map(as_text, trial.store.list(limit=2, offset=place))]
    require(
        "a page must have `limit` ids from `offset` on", holds=page == everything[place : place + 2]
    )


def _deleted_sessions_are_gone(trial: SessionTrial) -> None:
    """Check that a deleted session is gone, and that a running turn does not bring it back."""
    trial.say(*HELLO)
    trial.load()
    trial.store.delete(trial.id)
    refused = not trial.append(MORE, after=len(HELLO))
    require("a turn of a deleted session must be refused", holds=refused)
    require("a deleted session must not be listed", holds=trial.listed() == [])
    trial.require_messages("a deleted session must begin anew without messages", ())
    trial.load()
    trial.store.delete(trial.id)
    refused = not trial.append(MORE, after=0)
    require("delete must release the lease of a session without messages", holds=refused)
    trial.store.delete(trial.id)  # again
    trial.say(*MORE)
    trial.require_messages("a session must begin anew after it was deleted", MORE)


def _until(sentence: str, what: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not what():
        require(sentence, holds=time.monotonic() < end)
        time.sleep(SHORT / 5)


_SESSION_STORE_RULES: tuple[SessionRule, ...] = (
    _messages_are_kept,
    _lease_is_of_one,
    _release_changes_nothing,
    _turn_follows_what_was_loaded,
    _lease_expires,
    _lease_is_renewed,
    _one_of_many_gets_it,
    _ids_are_apart,
    _sessions_are_listed,
    _deleted_sessions_are_gone,
)


# - the check -


async def check_store(make: Callable[[], Store | SessionStore]) -> None:
    """Check a store; raise AssertionError naming the first broken rule.

    The rules: keys, sessions, turns, requests and notes are stored as the methods of `Store` say;
    names and texts are returned unchanged; stored and returned values are copies; two holders never
    have one lease; an answer is kept longer than its request. A `SessionStore` is checked by the rules
    of its four methods, in a worker thread.

    `make` returns a store, which is opened for one rule and closed again. Other programs may use
    the same database, because each rule uses its own projects and sessions.
    """
    maker = maker_of(
        make,
        function="check_store",
        wanted="a store",
        example="check_store(MyStore) or check_store(lambda: MyStore(...))",
    )
    if isinstance(maker(), SessionStore):
        for session_rule in _SESSION_STORE_RULES:
            await anyio.to_thread.run_sync(_check_blocking, maker(), session_rule)
        return
    for rule in (*SESSION_RULES, *LEASE_RULES, *TURN_RULES, *VALUE_RULES):
        made: Store = maker()
        check_made(made, Store, function="check_store")
        await _check(made, rule)


async def _check(made: Store, rule: Rule) -> None:
    try:
        async with made as store:
            await rule(Trial(store))
    except AssertionError:
        raise
    except Exception as error:
        claim = (rule.__doc__ or "").rstrip(".").removeprefix("Check that ")
        raise AssertionError(f"{claim}: {type(error).__name__} was raised instead") from error


def _check_blocking(made: SessionStore, rule: SessionRule) -> None:
    with made if isinstance(made, AbstractContextManager) else nullcontext():
        rule(SessionTrial(made))
