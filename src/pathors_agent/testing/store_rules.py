"""The rules for what a store keeps: keys, sessions, and the lists of them."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import anyio

from pathors_agent.errors import SessionConflict, SessionNotFound
from pathors_agent.messages import (
    AssistantMessage,
    ContentPart,
    JSONValue,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    Usage,
    UserMessage,
)
from pathors_agent.stores.base import Store
from pathors_agent.stores.texts import data_text
from pathors_agent.stores.values import (
    Lease,
    Page,
    RequestId,
    Session,
    SessionSummary,
    StoredKey,
    now,
)

# Seconds of a lease that must not end during a rule.
LONG = 600.0

# Seconds of a lease whose end a rule waits for.
SHORT = 0.05

# Seconds that only a broken store takes; a working one needs milliseconds.
PATIENCE = 5.0


def _name(kind: str) -> Callable[[], str]:
    return lambda: f"{kind}-{uuid4().hex}"


@dataclass(frozen=True, slots=True)
class Trial:
    """A store, with names that no other trial uses."""

    store: Store
    project: str = field(default_factory=_name("project"))
    id: str = field(default_factory=_name("session"))

    async def create(self, id: str | None = None, **variables: JSONValue) -> Session:  # noqa: A002
        """Create a session."""
        return await self.store.create_session(self.project, id or self.id, variables=variables)

    async def try_lease(
        self,
        id: str | None = None,  # noqa: A002
        *,
        holder: str = "next",
        seconds: float = LONG,
    ) -> Lease | None:
        """Acquire a lease; None while another holder has it."""
        return await self.store.take_lease(
            self.project, id or self.id, holder=holder, seconds=seconds
        )

    async def lease(self, id: str | None = None, *, seconds: float = LONG) -> Lease:  # noqa: A002
        """Acquire a free lease."""
        lease = await self.try_lease(id, holder="writer", seconds=seconds)
        require("a free lease must be granted", holds=lease is not None)
        assert lease is not None
        return lease

    async def say(self, *messages: Message, id: str | None = None) -> Session:  # noqa: A002
        """Save a turn to a session, whatever it holds."""
        lease = await self.lease(id)
        seen = await self.seen(id)
        saved = await self.store.save_turn(lease, messages, seen=seen)
        await self.store.drop_lease(lease)
        return saved

    async def seen(self, id: str | None = None) -> Session | None:  # noqa: A002
        """Read a session; None when there is none."""
        try:
            return await self.store.session(self.project, id or self.id)
        except SessionNotFound:
            return None

    async def found(self, text: str) -> list[str]:
        """Search, and return the ids that were found."""
        return _ids(await self.store.search_sessions(self.project, text, limit=50, offset=0))

    async def listed(self, text: str = "") -> list[str]:
        """Return the ids of a list."""
        return _ids(await self.store.list_sessions(self.project, limit=50, offset=0, text=text))

    async def notes(self, id: str | None = None) -> list[tuple[str, str]]:  # noqa: A002
        """Return the turns and texts of a session's notes."""
        notes = await self.store.turn_notes(self.project, id or self.id)
        return [(note.turn, note.text) for note in notes]

    def request(self, name: str = "request") -> RequestId:
        """Name a request."""
        return RequestId(project=self.project, api_key="key", name=name)


def _ids(page: Page[Session] | Page[SessionSummary]) -> list[str]:
    require("total must be the number of all found sessions", holds=page.total == len(page.items))
    return [each.id for each in page.items]


Rule = Callable[[Trial], Awaitable[None]]


def require(sentence: str, *, holds: bool) -> None:
    """Raise the sentence unless it holds."""
    if not holds:
        raise AssertionError(sentence)


async def require_error(sentence: str, kind: type[Exception], work: Awaitable[object]) -> None:
    """Raise the sentence unless the work raises such an error."""
    try:
        await work
    except kind:
        return
    raise AssertionError(sentence)


async def next_millisecond() -> None:
    """Wait until the clock of stores, in milliseconds, has moved."""
    time = now()
    while now() <= time:  # noqa: ASYNC110  (a clock sends no event)
        await anyio.sleep(0.002)


# - keys -


def _key(trial: Trial, number: int = 1) -> StoredKey:
    return StoredKey(
        id=f"{trial.project}-{number}",
        project=trial.project,
        digest=f"{trial.project}-digest-{number}",
        prefix="sk_abc",
        last_four="wxyz",
        name="Ann's “key” %_\0",
        created_at=datetime(2030, 1, number, 12, 30, 59, 7000, UTC),
    )


async def _keys_are_found(trial: Trial) -> None:
    """Check that a key is found by its digest, unchanged."""
    key = _key(trial)
    await trial.store.add_key(key)
    same = await trial.store.find_key(key.digest) == key
    require("a key must be found by its digest, unchanged", holds=same)
    none = await trial.store.find_key(key.digest.upper()) is None
    require("`find_key` must return None for an unknown digest", holds=none)


async def _keys_are_listed(trial: Trial) -> None:
    """Check that the keys of a project are listed."""
    second, first = _key(trial, 2), _key(trial, 1)
    other = _key(Trial(trial.store), 3)
    for key in (second, first, other):
        await trial.store.add_key(key)
    listed = await trial.store.keys(trial.project)
    require("the keys of one project must be listed, oldest first", holds=listed == [first, second])
    everywhere = await trial.store.keys()
    inside = all(key in everywhere for key in (first, second, other))
    require("without a project, the keys of all projects must be listed", holds=inside)


async def _keys_are_revoked(trial: Trial) -> None:
    """Check that a revoked key stays revoked."""
    key = _key(trial)
    await trial.store.add_key(key)
    elsewhere = await trial.store.revoke_key(f"{trial.project}-other", key.id)
    untouched = await trial.store.find_key(key.digest) == key
    require("a key must not be revoked from another project", holds=not elsewhere and untouched)
    unknown = await trial.store.revoke_key(trial.project, f"{key.id}-other")
    require("revoking an unknown key must return False", holds=not unknown)
    require(
        "revoking a key must return True", holds=await trial.store.revoke_key(trial.project, key.id)
    )
    revoked = await trial.store.find_key(key.digest)
    given = revoked is not None and is_recent(revoked.revoked_at)
    require("a revoked key must be returned with its time, in UTC with milliseconds", holds=given)
    await next_millisecond()
    again = await trial.store.revoke_key(trial.project, key.id)
    same = await trial.store.find_key(key.digest) == revoked
    require("revoking a key must be idempotent", holds=again and same)


async def _key_use_is_noted(trial: Trial) -> None:
    """Check that the last use of a key is recorded."""
    key = _key(trial)
    await trial.store.add_key(key)
    await trial.store.note_key_used(key.id)
    used = await trial.store.find_key(key.digest)
    noted = used is not None and is_recent(used.last_used_at)
    require("last_used_at must be the time of the last use", holds=noted)


def is_recent(time: datetime | None) -> bool:
    """Return True if a time is about now, in UTC, with whole milliseconds."""
    if time is None or time.utcoffset() != timedelta(0) or time.microsecond % 1000:
        return False
    # The store's machine may have a clock of its own.
    return abs(now() - time) < timedelta(hours=1)


# - sessions -


async def _sessions_are_made(trial: Trial) -> None:
    """Check that a created session is empty and is returned."""
    made = await trial.store.create_session(
        trial.project, trial.id, variables={"name": "Ann"}, provider="web"
    )
    empty = made.messages == () and made.revision == 0
    require("a new session must be empty and have revision 0", holds=empty)
    kept = dict(made.variables) == {"name": "Ann"} and made.provider == "web"
    require("a session must keep its variables and provider", holds=kept)
    timely = is_recent(made.created_at) and made.updated_at == made.created_at
    require("a session's times must be UTC, with milliseconds", holds=timely)
    again = await trial.store.session(trial.project, trial.id)
    require("a session must be returned unchanged", holds=again == made)


async def _same_session_is_given(trial: Trial) -> None:
    """Check that creating a session twice is idempotent, and refused if it differs."""
    made = await trial.create(a=1, b=2)
    again = await trial.create(b=2, a=1)
    require("creating an empty session again must return it unchanged", holds=again == made)
    conflict = "creating a session again with other variables must raise SessionConflict"
    await require_error(conflict, SessionConflict, trial.create(a=True, b=2))
    other_provider = trial.store.create_session(
        trial.project, trial.id, variables={"a": 1, "b": 2}, provider="other"
    )
    conflict = "creating a session again with another provider must raise SessionConflict"
    await require_error(conflict, SessionConflict, other_provider)
    await trial.say(UserMessage(content="Hi"))
    conflict = "creating a session that has messages again must raise SessionConflict"
    await require_error(conflict, SessionConflict, trial.create(a=1, b=2))


async def _sessions_are_apart(trial: Trial) -> None:
    """Check that a session is found under its own id and project only."""
    await trial.create()
    missing = "an unknown session must raise SessionNotFound"
    await require_error(missing, SessionNotFound, trial.store.session(trial.project, "unknown"))
    upper = trial.store.session(trial.project, trial.id.upper())
    await require_error("case must count in a session's id", SessionNotFound, upper)
    elsewhere = replace(trial, project=f"{trial.project}-other")
    missing = "a session must not be found in another project"
    other = trial.store.session(elsewhere.project, trial.id)
    await require_error(missing, SessionNotFound, other)
    await elsewhere.create(x=1)
    apart = await trial.seen() != await elsewhere.seen()
    require("one id in two projects must name two sessions", holds=apart)


MESSAGES: tuple[Message, ...] = (
    SystemMessage(content="Be kind.\0\x1f"),
    UserMessage(content=(ContentPart(type="text", text="what is 1+2? “é” 😀 \u2028"),), name="Ann"),
    AssistantMessage(
        tool_calls=(
            ToolCall(id="a", name="add", arguments='{"a": 1,', extra={"big": 2**70}),
            ToolCall(id="b", name="add"),
        ),
        reasoning="easy",
        finish_reason="tool_calls",
        usage=Usage(prompt_tokens=-1, total_tokens=3),
    ),
    ToolMessage(tool_call_id="a", content="3", ends_tool=True),
    ToolMessage(tool_call_id="b", content=""),
    AssistantMessage(content="3", extra={"x": [1.5, None, {"y": True}]}),
)


async def _everything_is_kept(trial: Trial) -> None:
    """Messages and variables must come back as they were stored."""
    variables: dict[str, JSONValue] = {"\0 é": [1, 1.5, True, None, "\0", "😀", {"big": -(2**70)}]}
    made = await trial.store.create_session(
        trial.project, trial.id, variables=variables, provider="\0 %_ é"
    )
    provider_kept = made.provider == "\0 %_ é"
    require("a provider must be kept, whatever its characters", holds=provider_kept)
    await trial.say(*MESSAGES)
    read = await trial.store.session(trial.project, trial.id)
    require("messages must come back as they were stored", holds=read.messages == MESSAGES)
    same = data_text(read.variables, ()) == data_text(variables, ())
    require("variables must come back as they were stored", holds=same)


async def _ended_sessions_are_gone(trial: Trial) -> None:
    """Check that an ended session is deleted permanently."""
    made = await trial.create(color="red")
    await trial.say(UserMessage(content="hello"))
    ended = await trial.store.end_session(trial.project, trial.id)
    again = await trial.store.end_session(trial.project, trial.id)
    require("ending a session must return True, and False the next time", holds=ended and not again)
    gone = trial.store.session(trial.project, trial.id)
    await require_error("an ended session must raise SessionNotFound", SessionNotFound, gone)
    require("an ended session must not be found", holds=await trial.found("") == [])
    anew = await trial.create()
    empty = anew.messages == () and anew.revision == 0 and not anew.variables
    require("a session with the id of an ended one must begin empty", holds=empty)
    other = anew.incarnation != made.incarnation
    require("two sessions with one id must have two incarnations", holds=other)


# - lists -


async def _search_is_over_the_text(trial: Trial) -> None:
    """Check that the search covers the whole text of the data."""
    await trial.create(pet="Cat%")
    await trial.say(UserMessage(content="grüße"), AssistantMessage(content="a_b"))
    await trial.create("another", pet="dog")
    await replace(trial, project=f"{trial.project}-other").create(pet="Cat%")
    await _require_found(trial, "Cat%", "grüße", "a_b", '"messages":[{"role":"user"', "")
    across = '"grüße"},{"role":"assistant"'
    require(
        "a text that spans two messages must be found",
        holds=await trial.found(across) == [trial.id],
    )
    whole = await trial.store.session(trial.project, trial.id)
    text = data_text(whole.variables, whole.messages)
    require("all of `data_text` must be found", holds=await trial.found(text) == [trial.id])
    require(
        "an empty session must be found", holds=await trial.found('"messages":[]') == ["another"]
    )
    require("case must count", holds=await trial.found("cat%") == [])
    literal = await trial.found("Ca%%") == [] and await trial.found("a%b") == []
    require("% must have no meaning of its own", holds=literal)
    require("_ must have no meaning of its own", holds=await trial.found("C_t") == [])
    require("a text with U+0000 must find nothing", holds=await trial.found("Cat\0") == [])


async def _require_found(trial: Trial, *texts: str) -> None:
    for text in texts:
        sentence = f"the search must find {text!r} in the data"
        require(sentence, holds=trial.id in await trial.found(text))


async def _search_is_in_pages(trial: Trial) -> None:
    """Check that results come in pages, last updated first."""
    for id in ("a", "b", "c"):  # noqa: A001
        await trial.create(id, found="yes")
        await next_millisecond()
    await trial.say(UserMessage(content="x"), id="a")
    pages = [
        await trial.store.search_sessions(trial.project, "yes", limit=2, offset=offset)
        for offset in (0, 2, 4)
    ]
    ids = [[session.id for session in page.items] for page in pages]
    require("the newest update must come first, in pages", holds=ids == [["a", "c"], ["b"], []])
    total = all(page.total == 3 for page in pages)
    require("total must be exact, also past the end", holds=total)
    given = pages[0].items[0] == await trial.store.session(trial.project, "a")
    require("a found session must be returned completely", holds=given)


async def _search_is_bounded_in_bytes(trial: Trial) -> None:
    """Check that a page of a search ends at `max_bytes`, and holds at least one session."""
    for id, text in (("last", "é"), ("large", "é" * 500), ("b", "é"), ("a", "é")):  # noqa: A001
        await trial.create(id, text="x")
        await trial.say(UserMessage(content=text), AssistantMessage(content="x"), id=id)
        await next_millisecond()
    small = await trial.store.session(trial.project, "a")
    written = len(data_text(small.variables, small.messages).encode())
    require("a session's size must be the bytes of its `data_text`", holds=small.size == written)

    async def found(offset: int, max_bytes: int) -> list[str]:
        page = await trial.store.search_sessions(
            trial.project, "x", limit=3, offset=offset, max_bytes=max_bytes
        )
        require("total must also count sessions that do not fit the page", holds=page.total == 4)
        return [session.id for session in page.items]

    fits = await found(0, 2 * written) == ["a", "b"]
    require("a page must hold as many sessions as fit `max_bytes`", holds=fits)
    one_less = await found(0, 2 * written - 1) == ["a"]
    require("a page must end before a session that does not fit `max_bytes`", holds=one_less)
    alone = await found(2, written) == ["large"] and await found(0, 1) == ["a"]
    require("a session that is larger than `max_bytes` must come alone", holds=alone)
    both = await found(0, 100 * written) == ["a", "b", "large"]
    require("a page must end at its limit", holds=both)


async def _sessions_are_listed(trial: Trial) -> None:
    """All sessions must be listed, ended ones, too."""
    for id in ("first", "second", "third"):  # noqa: A001
        await trial.store.create_session(
            trial.project, id, variables={"pet": "first cat" if id == "third" else ""}, provider="p"
        )
        await next_millisecond()
    await trial.say(UserMessage(content="x"), AssistantMessage(content="y"), id="first")
    await trial.store.end_session(trial.project, "first")
    order = await trial.listed() == ["third", "second", "first"]
    require("the newest session must be listed first, including ended ones", holds=order)
    page = await trial.store.list_sessions(trial.project, limit=1, offset=2)
    line = page.items[0] if page.items else None
    require(
        "a list must come in pages, with an exact total",
        holds=line is not None and page.total == 3 and len(page.items) == 1,
    )
    assert line is not None
    require("a list must have the provider of each session", holds=line.provider == "p")
    require("an ended session must keep the number of its messages", holds=line.message_count == 2)
    require("a list must have the time when a session ended", holds=is_recent(line.ended_at))
    past = await trial.store.list_sessions(trial.project, limit=1, offset=9)
    require("total must be exact, also past the end", holds=(past.items, past.total) == ((), 3))
    texts = await trial.listed("first") == ["third", "first"]
    require("a list must search ids and data for the text", holds=texts)
    ended = "first" not in await trial.listed("variables")
    require("the data of an ended session must not be found", holds=ended)


async def _sessions_have_titles(trial: Trial) -> None:
    """Titles must be the first words of users, until a session is renamed or ends."""
    asked = UserMessage(content="Ünder\0 the\n stars")
    await trial.say(asked, AssistantMessage(content="y"), id="one")
    require(
        "a title must be the first words of the user",
        holds=await _title(trial) == "Ünder\0 the stars",
    )
    named = await trial.store.rename_session(trial.project, "one", 'A "name"')
    require("a session must be renamed", holds=named and await _title(trial) == 'A "name"')
    await trial.say(UserMessage(content="x"), AssistantMessage(content="y"), id="one")
    require("a turn must not change the title", holds=await _title(trial) == 'A "name"')
    require("a list must search titles for the text", holds=await trial.listed("name") == ["one"])
    other = await trial.store.rename_session(trial.project, "other", "x")
    require("a session that does not exist must not be renamed", holds=not other)
    await trial.store.end_session(trial.project, "one")
    require("an ended session must lose its title", holds=await _title(trial) == "")
    gone = await trial.store.rename_session(trial.project, "one", "x")
    require("an ended session must not be renamed", holds=not gone and await _title(trial) == "")


async def _title(trial: Trial) -> str | None:
    page = await trial.store.list_sessions(trial.project, limit=1, offset=0)
    return page.items[0].title if page.items else None


SESSION_RULES: tuple[Rule, ...] = (
    _keys_are_found,
    _keys_are_listed,
    _keys_are_revoked,
    _key_use_is_noted,
    _sessions_are_made,
    _same_session_is_given,
    _sessions_are_apart,
    _everything_is_kept,
    _ended_sessions_are_gone,
    _search_is_over_the_text,
    _search_is_in_pages,
    _search_is_bounded_in_bytes,
    _sessions_are_listed,
    _sessions_have_titles,
)
