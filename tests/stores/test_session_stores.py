"""Sessions that a program keeps itself: what a block stores, who may have it, and who shares it."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from live_server import live
from pathors_agent import (
    Agent,
    AssistantMessage,
    AsyncAgent,
    ConversationError,
    Limits,
    ToolMessage,
    TransportError,
    UserMessage,
    tool,
)
from pathors_agent.errors import SessionConflict, StoreError
from pathors_agent.server import Project
from pathors_agent.stores import MemoryStore, SessionStore, SQLSessions, SQLStore, session_store
from pathors_agent.testing import (
    AsyncScriptedTransport,
    ScriptedTransport,
    calls,
    check_store,
    http_error,
)

PATIENCE_SECONDS = 60.0


class MemorySessions(SessionStore):
    """Sessions in memory; its leases have no end."""

    def __init__(self) -> None:
        self.messages: dict[str, list[str]] = {}
        self.leases: dict[str, str] = {}
        self.released = threading.Event()

    def load(self, session_id: str, *, holder: str, seconds: float) -> Sequence[str] | None:
        if self.leases.setdefault(session_id, holder) != holder:
            return None
        return list(self.messages.get(session_id, ()))

    def append(self, session_id: str, messages: Sequence[str], *, holder: str, after: int) -> bool:
        kept = self.messages.get(session_id, [])
        if self.leases.get(session_id) != holder or len(kept) != after:
            return False
        del self.leases[session_id]
        self.released.set()
        if messages:
            self.messages.pop(session_id, None)
            self.messages[session_id] = [*kept, *messages]
        return True

    def list(self, *, limit: int = 100, offset: int = 0) -> Sequence[str]:
        return [*reversed(self.messages)][offset : offset + limit]

    def delete(self, session_id: str) -> None:
        self.messages.pop(session_id, None)
        self.leases.pop(session_id, None)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/chat.db"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def sessions(url: str) -> Iterator[SQLSessions]:
    with SQLSessions(url, project="demo") as opened:
        yield opened


def texts(store: SessionStore, session_id: str = "s1") -> list[str]:
    """Return the texts of a session."""
    with store.open(session_id) as conversation:
        return [message.text for message in conversation.messages]


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool(approve=True)
def pay(amount: int) -> str:
    """Pay an amount."""
    return f"paid {amount}"


# - what a block stores -


def test_next_block_continues_where_the_last_one_ended(sessions: SQLSessions) -> None:
    model = ScriptedTransport(calls(("add", {"a": 1, "b": 2})), "It is 3.", "Yes.")
    agent = Agent(model, tools=[add])
    for prompt in ("1 + 2?", "Sure?"):
        with sessions.open("s1") as conversation:
            agent.run(prompt, conversation=conversation)

    assert texts(sessions) == ["1 + 2?", "", "3", "It is 3.", "Sure?", "Yes."]
    assert [m["role"] for m in model.requests[-1]["messages"]] == [
        *("user", "assistant", "tool", "assistant", "user")
    ]


@pytest.mark.anyio
async def test_async_block_continues_the_session_of_a_blocking_one(sessions: SQLSessions) -> None:
    with sessions.open("s1") as conversation:
        Agent(ScriptedTransport("Hi Ann")).run("I am Ann", conversation=conversation)
    agent = AsyncAgent(AsyncScriptedTransport("Ann"))
    async with sessions.open("s1") as conversation:
        async with agent.stream("Who am I?", conversation=conversation) as stream:
            async for _ in stream:
                pass

    assert texts(sessions) == ["I am Ann", "Hi Ann", "Who am I?", "Ann"]


def test_another_store_of_the_same_database_has_the_session(url: str) -> None:
    with SQLSessions(url) as first, first.open("s1") as conversation:
        conversation.append(UserMessage(content="Hello"))
    with SQLSessions(url) as second, SQLSessions(url, project="other") as other:
        assert (texts(second), second.list()) == (["Hello"], ["s1"])
        assert (texts(other), other.list()) == ([], [])


def test_all_runs_of_a_block_are_stored_together(sessions: SQLSessions) -> None:
    agent = Agent(ScriptedTransport("1", "2"))
    with sessions.open("s1") as conversation:
        agent.run("one", conversation=conversation)
        assert sessions.list() == []
        agent.run("two", conversation=conversation)

    assert texts(sessions) == ["one", "1", "two", "2"]


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, GeneratorExit])
def test_block_left_with_an_exception_stores_nothing(
    sessions: SQLSessions, kind: type[BaseException]
) -> None:
    with sessions.open("s1") as conversation:
        conversation.append(UserMessage(content="Hello"))

    def leave_it() -> None:
        with sessions.open("s1") as conversation:
            Agent(ScriptedTransport("Hi")).run("More", conversation=conversation)
            raise kind

    with pytest.raises(kind):
        leave_it()

    assert texts(sessions) == ["Hello"]


def test_failed_run_stores_nothing_and_its_repeat_doubles_nothing(sessions: SQLSessions) -> None:
    agent = Agent(ScriptedTransport(http_error(500, "down"), "Hi"))
    with pytest.raises(TransportError), sessions.open("s1") as conversation:
        agent.run("Hello", conversation=conversation)
    with sessions.open("s1") as conversation:
        agent.run("Hello", conversation=conversation)

    assert texts(sessions) == ["Hello", "Hi"]


@pytest.mark.anyio
async def test_cancelled_task_stores_nothing_and_frees_the_session(sessions: SQLSessions) -> None:
    with anyio.CancelScope() as scope:
        async with sessions.open("s1") as conversation:
            conversation.append(UserMessage(content="Hello"))
            scope.cancel()
            await anyio.sleep_forever()
    async with sessions.open("s1", wait=0) as conversation:
        assert conversation.messages == ()


@pytest.mark.parametrize("end", ["break", "cancel", "never read"])
def test_run_that_is_left_before_its_end_stores_nothing(sessions: SQLSessions, end: str) -> None:
    model = ScriptedTransport(calls(("add", {"a": 1, "b": 2})), "It is 3.")
    with sessions.open("s1") as conversation:
        with Agent(model, tools=[add]).stream("1 + 2?", conversation=conversation) as stream:
            for _ in stream if end != "never read" else ():
                if end == "break":
                    break
                stream.cancel()

    assert sessions.list() == []


@pytest.mark.anyio
@pytest.mark.parametrize("end", ["break", "cancel", "never read"])
async def test_async_run_that_is_left_before_its_end_stores_nothing(
    sessions: SQLSessions, end: str
) -> None:
    agent = AsyncAgent(AsyncScriptedTransport(calls(("add", {"a": 1, "b": 2}))), tools=[add])
    async with sessions.open("s1") as conversation:
        async with agent.stream("1 + 2?", conversation=conversation) as stream:
            if end != "never read":
                async for _ in stream:
                    if end == "break":
                        break
                    stream.cancel()

    assert sessions.list() == []


def test_run_that_continues_after_a_failure_in_the_same_block_is_stored(
    sessions: SQLSessions,
) -> None:
    agent = Agent(ScriptedTransport(http_error(500, "down"), "Hi"))
    with sessions.open("s1") as conversation:
        with pytest.raises(TransportError):
            agent.run("Hello", conversation=conversation)
        agent.run(conversation=conversation)

    assert texts(sessions) == ["Hello", "Hi"]


def test_messages_of_a_cancelled_run_can_be_kept(sessions: SQLSessions) -> None:
    agent = Agent(ScriptedTransport("A long answer"))
    with sessions.open("s1") as conversation:
        with agent.stream("Hello", conversation=conversation) as stream:
            for _ in stream:
                stream.cancel()
    with sessions.open("s1") as conversation:
        for message in stream.result.messages:
            conversation.append(message)

    assert texts(sessions) == ["Hello"]


def test_block_without_new_messages_creates_no_session(sessions: SQLSessions) -> None:
    with sessions.open("s1"):
        pass

    assert sessions.list() == []


def test_results_of_waiting_calls_are_stored_by_a_later_block(sessions: SQLSessions) -> None:
    model = ScriptedTransport(calls(("pay", {"amount": 5}), ("add", {"a": 1, "b": 2})), "Paid.")
    agent = Agent(model, tools=[pay, add])
    with sessions.open("s1") as conversation:
        [approval] = agent.run("Pay 5", conversation=conversation).approvals
    with sessions.open("s1") as conversation:
        assert [call.name for call in conversation.open_calls] == ["pay"]
        agent.run(conversation=conversation, decisions=[approval.approve()])

    with sessions.open("s1") as conversation:
        results = [m.text for m in conversation.messages if isinstance(m, ToolMessage)]
        assert results == ["paid 5", "3"]
        assert conversation.messages[-1].text == "Paid."


def test_run_that_stops_at_a_limit_continues_in_the_next_block(sessions: SQLSessions) -> None:
    model = ScriptedTransport(calls(("add", {"a": 1, "b": 2})), "It is 3.")
    with sessions.open("s1") as conversation:
        Agent(model, tools=[add], limits=Limits(turns=1)).run("?", conversation=conversation)
    with sessions.open("s1") as conversation:
        result = Agent(model, tools=[add]).run(conversation=conversation)

    assert result.output == "It is 3."


def test_calls_of_two_blocks_have_different_keys(sessions: SQLSessions) -> None:
    with sessions.open("s1") as first:
        pass
    with sessions.open("s1") as second:
        pass

    assert first.id != second.id


# - one turn at a time -


def test_second_block_waits_for_the_first(sessions: SQLSessions) -> None:
    is_open, may_end = threading.Event(), threading.Event()

    def first() -> None:
        with sessions.open("s1") as conversation:
            is_open.set()
            may_end.wait(PATIENCE_SECONDS)
            conversation.append(UserMessage(content="first"))

    thread = threading.Thread(target=first)
    thread.start()
    assert is_open.wait(PATIENCE_SECONDS)
    with pytest.raises(SessionConflict, match="Another turn of the session s1 ran"):
        sessions.open("s1", wait=0).__enter__()
    may_end.set()
    with sessions.open("s1", wait=PATIENCE_SECONDS) as conversation:
        conversation.append(UserMessage(content="second"))
    thread.join()

    assert texts(sessions) == ["first", "second"]


def test_lease_that_another_took_over_ends_in_a_conflict_and_stores_nothing() -> None:
    store = MemorySessions()

    def lose_it() -> None:
        with store.open("s1") as conversation:
            conversation.append(UserMessage(content="late"))
            store.leases["s1"] = "another"

    with pytest.raises(SessionConflict, match="changed the session s1 first; this turn was not"):
        lose_it()

    assert store.messages == {}


def test_session_that_is_deleted_while_it_is_open_stays_deleted(sessions: SQLSessions) -> None:
    def delete_it() -> None:
        with sessions.open("s1") as conversation:
            conversation.append(UserMessage(content="Hello"))
            sessions.delete("s1")

    with pytest.raises(SessionConflict):  # its first turn
        delete_it()
    assert sessions.list() == []
    with sessions.open("s1") as conversation:
        conversation.append(UserMessage(content="Hello"))
    with pytest.raises(SessionConflict):
        delete_it()
    assert sessions.list() == []


def test_lease_of_an_open_session_is_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_store, "_RENEWAL_SECONDS", 0.001)
    loads = threading.Semaphore(0)

    class Counting(MemorySessions):
        def load(self, session_id: str, *, holder: str, seconds: float) -> Sequence[str] | None:
            loads.release()
            return super().load(session_id, holder=holder, seconds=seconds)

    store = Counting()
    with store.open("s1"), store.open("s2"):
        assert all(loads.acquire(timeout=PATIENCE_SECONDS) for _ in range(10))

    assert store.leases == {}
    assert session_store.renewals_of(store)._due == {}


def test_renewal_that_fails_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_store, "_RENEWAL_SECONDS", 0.001)
    renewed, count = threading.Event(), iter(range(1, 1000))

    class FailsOnce(MemorySessions):
        def load(self, session_id: str, *, holder: str, seconds: float) -> Sequence[str] | None:
            number = next(count)
            if number == 2:
                raise StoreError("the database is away")
            if number > 2:
                renewed.set()
            return super().load(session_id, holder=holder, seconds=seconds)

    with FailsOnce().open("s1") as conversation:
        conversation.append(UserMessage(content="Hello"))
        assert renewed.wait(PATIENCE_SECONDS)


def test_session_of_a_cancelled_opening_is_freed() -> None:
    may_load, is_loading = threading.Event(), threading.Event()

    class Slow(MemorySessions):
        def load(self, session_id: str, *, holder: str, seconds: float) -> Sequence[str] | None:
            is_loading.set()
            may_load.wait(PATIENCE_SECONDS)
            return super().load(session_id, holder=holder, seconds=seconds)

    store = Slow()

    async def cancel_while_it_loads() -> None:
        async def use() -> None:
            async with store.open("s1"):
                pytest.fail("the task was cancelled")

        task = asyncio.create_task(use())
        await asyncio.to_thread(is_loading.wait, PATIENCE_SECONDS)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        may_load.set()
        assert await asyncio.to_thread(store.released.wait, PATIENCE_SECONDS)

    asyncio.run(cancel_while_it_loads())

    assert store.leases == {}


# - what is refused -


def test_block_is_entered_once(sessions: SQLSessions) -> None:
    block = sessions.open("s1")
    with block:
        pass
    with pytest.raises(RuntimeError, match="opened before: call `open` again"), block:
        pass


@pytest.mark.parametrize("session_id", ["", "a b", "é", ".", "x" * 256])
def test_id_that_a_server_would_refuse_is_refused(sessions: SQLSessions, session_id: str) -> None:
    with pytest.raises(ValueError, match="session_id must "):
        sessions.open(session_id)


@pytest.mark.parametrize("text", ["", "[]", '{"role": "x"}'])
def test_damaged_session_raises_and_is_not_locked(text: str) -> None:
    store = MemorySessions()
    store.messages["s1"] = [text]
    with pytest.raises(StoreError, match="A stored message cannot be read"), store.open("s1"):
        pass

    assert store.leases == {}


def test_database_that_cannot_be_opened_raises_each_time(tmp_path: Path) -> None:
    sessions = SQLSessions(f"sqlite:///{tmp_path}/no/folder.db")
    for _ in range(2):
        with pytest.raises(StoreError, match="Could not open the sessions"):
            sessions.list()


def test_store_that_was_closed_opens_again(sessions: SQLSessions) -> None:
    with sessions.open("s1") as conversation:
        conversation.append(UserMessage(content="Hello"))
    sessions.close()
    sessions.close()

    assert texts(sessions) == ["Hello"]


def test_password_is_not_shown() -> None:
    sessions = SQLSessions("postgresql://ann:secret@localhost/chat", project="demo")

    assert repr(sessions) == "SQLSessions('postgresql://ann@localhost/chat', project='demo')"


# - a server and a program share sessions -


def test_served_and_embedded_agent_continue_the_same_session(
    url: str, sessions: SQLSessions
) -> None:
    served = AsyncScriptedTransport("Hi Ann", "Ann", "Again: Ann")
    with live(Project(id="demo", transport=served), store=SQLStore(url)) as server:
        server.complete("I am Ann", session="s1")
        model = ScriptedTransport(calls(("add", {"a": 1, "b": 2})), "3")
        with sessions.open("s1") as conversation:
            Agent(model, tools=[add]).run("1 + 2?", conversation=conversation)
        server.complete("Who am I?", session="s1")
        history = [{"role": m["role"], "content": m["content"]} for m in server.stored("s1")]
        whole = [m for m in history if m["role"] != "tool" and m["content"]]
        server.complete(*whole, {"role": "user", "content": "And?"}, session="s1")

        assert [m["content"] for m in model.requests[0]["messages"]] == [
            *("I am Ann", "Hi Ann", "1 + 2?")
        ]
        assert texts(sessions) == [
            *("I am Ann", "Hi Ann", "1 + 2?", "", "3", "3", "Who am I?", "Ann"),
            *("And?", "Again: Ann"),
        ]


def test_served_turn_waits_for_an_embedded_one(url: str, sessions: SQLSessions) -> None:
    from pathors_agent.server import ServerSettings

    project = Project(id="demo", transport=AsyncScriptedTransport("Hi"))
    settings = ServerSettings(session_wait_seconds=0.05)
    with live(project, store=SQLStore(url), settings=settings) as server:
        with sessions.open("s1") as conversation:
            busy = server.complete("Hello", session="s1")
            conversation.append(UserMessage(content="first"))
            conversation.append(AssistantMessage(content="1"))
        answered = server.complete("Hello", session="s1")

        assert (busy.status_code, busy.json()["error"]["code"]) == (409, "session_busy")
        assert answered.status_code == 200
        assert texts(sessions) == ["first", "1", "Hello", "Hi"]


def test_session_that_a_server_rewinds_is_read_as_it_is_then(
    url: str, sessions: SQLSessions
) -> None:
    project = Project(id="demo", transport=AsyncScriptedTransport("one", "two"))
    with live(project, store=SQLStore(url)) as server:
        server.complete("1", session="s1")
        with sessions.open("s1") as conversation:
            Agent(ScriptedTransport("lost")).run("2", conversation=conversation)
        edited = [
            {"role": "user", "content": "1"},
            {"role": "assistant", "content": "one"},
            {"role": "user", "content": "another 2"},
        ]
        server.complete(*edited, session="s1")

        assert texts(sessions) == ["1", "one", "another 2", "two"]


def test_session_that_the_program_deletes_is_unknown_to_the_server(
    url: str, sessions: SQLSessions
) -> None:
    project = Project(id="demo", transport=AsyncScriptedTransport("Hi"))
    with live(project, store=SQLStore(url)) as server:
        server.complete("Hello", session="s1")
        sessions.delete("s1")

        assert server.client.get("/sessions/s1").status_code == 404


@pytest.mark.parametrize("number", [-1, 2**63, 1.5, "5", True, None])
def test_page_of_a_number_that_no_database_takes_is_refused(url: str, number: Any) -> None:
    async def pages() -> None:
        async with SQLStore(url) as shared:
            for store in (MemoryStore(), shared):
                for limit, offset, name in ((number, 0, "limit"), (1, number, "offset")):
                    with pytest.raises(ValueError, match=f"{name} must be a whole number from 0"):
                        await store.list_sessions("p", limit=limit, offset=offset)
                    with pytest.raises(ValueError, match=f"{name} must be a whole number from 0"):
                        await store.search_sessions("p", "", limit=limit, offset=offset)

    anyio.run(pages)
    with SQLSessions(url) as sessions, pytest.raises(ValueError, match="limit must be a whole"):
        sessions.list(limit=number)


# - the check of stores -


def test_sql_sessions_follow_every_rule(url: str) -> None:
    anyio.run(check_store, lambda: SQLSessions(url))


class ForgetsTheOrder(MemorySessions):
    def load(self, session_id: str, *, holder: str, seconds: float) -> Sequence[str] | None:
        loaded = super().load(session_id, holder=holder, seconds=seconds)
        return None if loaded is None else sorted(loaded)


class LocksNothing(MemorySessions):
    def load(self, session_id: str, *, holder: str, seconds: float) -> Sequence[str] | None:
        self.leases[session_id] = holder
        return super().load(session_id, holder=holder, seconds=seconds)


class RenewsNothing(MemorySessions):
    def load(self, session_id: str, *, holder: str, seconds: float) -> Sequence[str] | None:
        if session_id in self.leases:
            return None
        return super().load(session_id, holder=holder, seconds=seconds)


class KeepsTheLease(MemorySessions):
    def append(self, session_id: str, messages: Sequence[str], *, holder: str, after: int) -> bool:
        is_stored = super().append(session_id, messages, holder=holder, after=after)
        self.leases[session_id] = holder
        return is_stored


class AppendsForAnyHolder(MemorySessions):
    def append(self, session_id: str, messages: Sequence[str], *, holder: str, after: int) -> bool:
        held = self.leases.get(session_id, holder)
        return super().append(session_id, messages, holder=held, after=after)


class DoesNotCount(MemorySessions):
    def append(self, session_id: str, messages: Sequence[str], *, holder: str, after: int) -> bool:
        count = len(self.messages.get(session_id, ()))
        return super().append(session_id, messages, holder=holder, after=count)


class CreatesEmptySessions(MemorySessions):
    def append(self, session_id: str, messages: Sequence[str], *, holder: str, after: int) -> bool:
        self.messages.setdefault(session_id, [])
        return super().append(session_id, messages, holder=holder, after=after)


class ListsTheOldestFirst(MemorySessions):
    def list(self, *, limit: int = 100, offset: int = 0) -> Sequence[str]:
        return [*self.messages][offset : offset + limit]


class IgnoresTheLimit(MemorySessions):
    def list(self, *, limit: int = 100, offset: int = 0) -> Sequence[str]:
        return super().list(limit=10**6, offset=offset)


class KeepsTheLeaseOfADeletedSession(MemorySessions):
    def delete(self, session_id: str) -> None:
        self.messages.pop(session_id, None)


class IgnoresCase(MemorySessions):
    def load(self, session_id: str, *, holder: str, seconds: float) -> Sequence[str] | None:
        return super().load(session_id.lower(), holder=holder, seconds=seconds)

    def append(self, session_id: str, messages: Sequence[str], *, holder: str, after: int) -> bool:
        return super().append(session_id.lower(), messages, holder=holder, after=after)


BROKEN = {
    ForgetsTheOrder: "a turn must be appended after the others",
    LocksNothing: "load must return None while another holder has the lease",
    RenewsNothing: "load must renew the lease of its holder",
    KeepsTheLease: "a session that no holder has must be loaded",
    AppendsForAnyHolder: "append must return False to a holder without the lease",
    DoesNotCount: "append must return False if the session does not have `after` messages",
    CreatesEmptySessions: "append without messages must create no session",
    MemorySessions: "a lease must expire",
    IgnoresCase: "a new id must have no messages|each id must have its own",
    ListsTheOldestFirst: "the latest update must be listed first",
    IgnoresTheLimit: "a page must have `limit` ids",
    KeepsTheLeaseOfADeletedSession: "a session that no holder has must be loaded",
}


@pytest.mark.parametrize(
    ("kind", "sentence"), BROKEN.items(), ids=lambda value: getattr(value, "__name__", "")
)
def test_store_that_breaks_a_rule_is_found_out(
    kind: type[MemorySessions], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pathors_agent.testing import store_check

    monkeypatch.setattr(store_check, "PATIENCE", 0.01)
    rules = store_check._SESSION_STORE_RULES
    if kind is not MemorySessions:  # its leases do not expire
        monkeypatch.setattr(
            store_check,
            "_SESSION_STORE_RULES",
            [r for r in rules if r is not store_check._lease_expires],
        )
    with pytest.raises(AssertionError, match=sentence):
        anyio.run(check_store, kind)


def test_history_that_no_run_can_continue_raises_and_is_not_locked() -> None:
    store = MemorySessions()
    store.messages["s1"] = ['{"role": "tool", "tool_call_id": "1", "content": "3"}']
    with pytest.raises(ConversationError, match=r"messages\[0\]"), store.open("s1"):
        pass

    assert store.leases == {}


@pytest.mark.slow
def test_missing_sqlalchemy_is_named_with_its_extra() -> None:
    program = """
import sys
sys.modules["sqlalchemy"] = None
from pathors_agent.stores import SessionStore
from pathors_agent.stores import SQLSessions
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )

    last = done.stderr.splitlines()[-1]
    assert last.endswith(
        "pathors_agent.stores.SQLSessions needs sqlalchemy: pip install 'pathors-agent[sql]'"
    )


@pytest.mark.slow
def test_program_that_closes_nothing_ends(tmp_path: Path) -> None:
    program = f"""
from pathors_agent import UserMessage
from pathors_agent.stores import SQLSessions
sessions = SQLSessions("sqlite:///{tmp_path}/chat.db")
with sessions.open("s1") as conversation:
    conversation.append(UserMessage(content="Hello"))
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")


def test_task_that_is_cancelled_as_it_leaves_a_block_frees_the_session(
    sessions: SQLSessions,
) -> None:
    async def leave() -> None:
        async with sessions.open("s1") as conversation:
            conversation.append(UserMessage(content="Hello"))
            task = asyncio.current_task()
            assert task is not None
            task.cancel()  # at the next await, which is in leaving the block

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(leave())

    with sessions.open("s1", wait=PATIENCE_SECONDS) as conversation:
        assert list(conversation.messages) == []


def test_task_that_is_cancelled_as_it_closes_a_store_closes_its_connections(url: str) -> None:
    def threads() -> set[str]:
        pools = ("AnyIO", "asyncio_")
        return {t.name for t in threading.enumerate() if not t.name.startswith(pools)}

    async def leave() -> None:
        async with SQLStore(url) as store:
            await store.list_sessions("p", limit=1, offset=0)
            assert threads() > before
            task = asyncio.current_task()
            assert task is not None
            task.cancel()

    before = threads()
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(leave())

    assert threads() == before


FORKS = """
import os, sys
from pathors_agent import UserMessage
from pathors_agent.stores import SQLSessions

sessions = SQLSessions(sys.argv[1])

def say(session, text):
    with sessions.open(session) as conversation:
        conversation.append(UserMessage(content=text))

say("parent", "before")
with sessions.open("held") as conversation:  # its lease is the parent's to renew
    children = []
    for number in range(3):
        child = os.fork()
        if child == 0:
            for turn in range(5):
                say(f"child-{number}", f"{turn}")
            say("shared", f"{number}")
            sys.exit()
        children.append(child)
    ends = [os.waitpid(child, 0)[1] for child in children]
    conversation.append(UserMessage(content="held"))
say("parent", "after")
print(ends, sorted(sessions.list()))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system that forks")
def test_forked_processes_have_connections_of_their_own(url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKS, url],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )

    names = ["child-0", "child-1", "child-2", "held", "parent", "shared"]
    assert (done.stdout, done.stderr) == (f"[0, 0, 0] {names}\n", "")
    with SQLSessions(url) as sessions:
        assert texts(sessions, "child-1") == ["0", "1", "2", "3", "4"]
        assert texts(sessions, "parent") == ["before", "after"]
        assert sorted(texts(sessions, "shared")) == ["0", "1", "2"]
        assert texts(sessions, "held") == ["held"]
