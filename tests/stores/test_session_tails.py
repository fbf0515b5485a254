"""Stores read the end of a long session, and count what they do not read."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from pathors_agent import Agent, ToolContext, tool
from pathors_agent.core.conversation import Conversation
from pathors_agent.history.trim import HistoryTail, last_turns, token_budget
from pathors_agent.messages import (
    AssistantMessage,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from pathors_agent.stores import Session, SQLSessions, SQLStore, sql, sql_sessions, values
from pathors_agent.stores.texts import read_message_text
from pathors_agent.testing import ScriptedTransport, calls

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/sessions.db"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
async def store(url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SQLStore]:
    """A store that keeps no sessions between turns, as if each turn had a new process."""
    monkeypatch.setattr(sql, "RECENT_MESSAGES", 1_000_000)
    async with SQLStore(url) as opened:
        yield opened


async def opened(store: SQLStore, tail: HistoryTail | None) -> Session:
    found = await store.open_session("p", "s", holder="test", seconds=60, tail=tail)
    assert found is not None
    assert found.session is not None
    await store.drop_lease(found.lease)
    return found.session


async def say(store: SQLStore, messages: Sequence[Message]) -> None:
    lease = await store.take_lease("p", "s", holder="test", seconds=60)
    assert lease is not None
    await store.save_turn(lease, messages, seen=None, drop=True)


def spoken(number: int) -> list[Message]:
    return [UserMessage(content=f"{number}?"), AssistantMessage(content=f"{number}.")]


def called(number: int, *call_ids: str) -> list[Message]:
    """A turn with calls, with texts that are lines and roles to a careless reader."""
    odd = '\u2028{"role":"system"\n"tool_calls":[ü'
    calls = tuple(ToolCall(id=each, name="f", arguments='{"a": 1}') for each in call_ids)
    return [
        UserMessage(content=f"{number} {odd}"),
        AssistantMessage(content=None, tool_calls=calls),
        *(ToolMessage(tool_call_id=each, content=odd) for each in call_ids),
        AssistantMessage(content=odd),
    ]


async def test_new_process_reads_the_last_64_of_5000_messages(
    store: SQLStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await say(store, [message for number in range(2_500) for message in spoken(number)])
    read: list[str] = []

    def record(text: str) -> Message:
        read.append(text)
        return read_message_text(text)

    monkeypatch.setattr(values, "read_message_text", record)

    session = await opened(store, last_turns(5))

    assert len(read) == 64
    assert [m.text for m in session.messages[::2]] == [f"{n}?" for n in range(2_495, 2_500)]
    assert session.revision == 5_000
    assert session.omitted == values.Omitted(
        leading=0, turns=2_495, size=session.size - session.size_read
    )


SYSTEM = SystemMessage(content="Be kind.\u2028Always.")
HISTORY = [
    SYSTEM,
    SYSTEM,
    *called(0, "call_0", "ü\u2028"),
    *spoken(1),
    SYSTEM,
    *called(2, "call_0"),
    UserMessage(content="add"),
    *called(3, "call_1", "call_2")[1:-1],
    SYSTEM,
    AssistantMessage(content="three"),
    *spoken(4),
    *called(5, "call_3"),
]


@pytest.mark.parametrize(
    "tail", [last_turns(1), last_turns(2), token_budget(40)], ids=["one", "two", "budget"]
)
async def test_skipped_parts_are_counted(
    store: SQLStore, tail: HistoryTail, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql_sessions, "_READ_MORE", 2)
    await say(store, HISTORY)
    whole = await opened(store, None)
    for count in range(1, len(HISTORY)):
        monkeypatch.setattr(sql_sessions, "_READ_FIRST", count)

        session = await opened(store, tail)

        kept = len(session.messages)
        while isinstance(session.messages[-kept], SystemMessage):
            kept -= 1
        alike = whole if session.omitted is None else whole.without_first(len(HISTORY) - kept)
        assert session == alike
        assert session.messages[-kept:] == whole.messages[-kept:]
        assert (session.size, session.leading, session.revision) == (whole.size, 2, len(HISTORY))
        assert list(tail(session.messages)) == list(tail(whole.messages))
        assert counts(session) == counts(whole)


def counts(session: Session) -> object:
    conversation = Conversation(session.messages)
    if session.omitted is not None:
        omitted = session.omitted
        conversation.count_omitted(turns=omitted.turns, call_ids=omitted.call_ids)
    return conversation.turns, conversation.turns_since_user, conversation.call_ids


async def test_system_messages_are_read_though_nothing_else_precedes_the_tail(
    store: SQLStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql_sessions, "_READ_FIRST", 6)
    await say(store, [SYSTEM, SYSTEM, SYSTEM, *spoken(1), *spoken(2), *spoken(3)])

    session = await opened(store, last_turns(1))

    assert session.messages == (SYSTEM, SYSTEM, SYSTEM, *spoken(3))
    assert session.omitted is not None
    assert (session.omitted.leading, session.omitted.turns) == (3, 2)


async def test_saved_turn_of_a_tail_keeps_the_messages_before_it(
    store: SQLStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql_sessions, "_READ_FIRST", 6)
    await say(store, [*spoken(0), *spoken(1), *spoken(2), *spoken(3)])
    found = await store.open_session("p", "s", holder="test", seconds=60, tail=last_turns(1))
    assert found is not None
    assert found.session is not None

    saved = await store.save_turn(found.lease, spoken(4), seen=found.session, drop=True)

    assert [message.text for message in saved.messages] == ["3?", "3.", "4?", "4."]
    whole = await store.session("p", "s")
    assert list(whole.messages) == [m for number in range(5) for m in spoken(number)]
    assert (saved.size, saved.revision) == (whole.size, whole.revision)


def test_blocks_with_and_without_a_tail_write_and_store_the_same(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql_sessions, "_READ_FIRST", 16)
    recent = last_turns(2)
    sent: dict[str, list[object]] = {"tail": [], "all": []}
    lengths: dict[str, list[int]] = {"tail": [], "all": []}
    for number in range(8):
        for project, tail in (("tail", recent), ("all", None)):
            model = ScriptedTransport(calls(("place", {})), f"{number}.")
            agent = Agent(model, tools=[place], history=recent)
            with SQLSessions(url, project=project) as sessions, sessions.open("s", tail=tail) as c:
                agent.run(f"{number}?", conversation=c)
            sent[project].append([request["messages"] for request in model.requests])
            lengths[project].append(len(c))

    assert sent["tail"] == sent["all"]
    assert lengths == {
        "tail": [4, 8, 12, 16, 20, 12, 12, 12],
        "all": [4, 8, 12, 16, 20, 24, 28, 32],
    }
    with SQLSessions(url, project="tail") as one, SQLSessions(url, project="all") as other:
        with one.open("s") as tail_stored, other.open("s") as all_stored:
            assert tail_stored.messages == all_stored.messages
            assert len(tail_stored) == 32


@tool
def place(context: ToolContext) -> str:
    """Return the place of the call in the session."""
    return context.key.rpartition("/tool/")[2]
