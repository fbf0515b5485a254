"""A store keeps long sessions parsed between turns, and reads what others changed meanwhile."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pathors_agent.messages import Message, UserMessage
from pathors_agent.stores import Session, SQLStore, sql, values
from pathors_agent.stores.texts import read_message_text

pytestmark = pytest.mark.anyio

COUNT = 60


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/sessions.db"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
async def store(url: str) -> AsyncIterator[SQLStore]:
    async with SQLStore(url) as opened:
        yield opened


@pytest.fixture
async def other(url: str, store: SQLStore) -> AsyncIterator[SQLStore]:
    """A store of another process."""
    async with SQLStore(url) as opened:
        yield opened


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts of messages that are parsed from now on."""
    texts: list[str] = []
    read = read_message_text

    def record(text: str) -> Message:
        texts.append(text)
        return read(text)

    monkeypatch.setattr(values, "read_message_text", record)
    return texts


def messages(*texts: str) -> list[Message]:
    return [UserMessage(content=text) for text in texts]


async def turn(store: SQLStore, *texts: str, id: str = "s", **more: Any) -> Session:  # noqa: A002
    """Take a turn as the server does: open, parse, and save."""
    opened = await store.open_session("p", id, holder="test", seconds=60)
    assert opened is not None
    if opened.session:
        _ = opened.session.messages
    new = messages(*texts)
    return await store.save_turn(opened.lease, new, seen=opened.session, drop=True, **more)


async def opened(store: SQLStore) -> Session | None:
    found = await store.open_session("p", "s", holder="test", seconds=60)
    assert found is not None
    await store.drop_lease(found.lease)
    return found.session


LONG = [f"{number}" for number in range(COUNT)]


async def test_turn_of_a_long_session_parses_only_new_messages(
    store: SQLStore, parsed: list[str]
) -> None:
    await turn(store, *LONG)
    await turn(store, "a")
    parsed.clear()

    await turn(store, "b")
    await turn(store, "c")

    assert parsed == ['{"role":"user","content":"a"}', '{"role":"user","content":"b"}']
    session = await opened(store)
    assert session == await store.session("p", "s")
    assert [m.text for m in session.messages] == [*LONG, "a", "b", "c"]


async def test_messages_that_another_process_added_are_read(
    store: SQLStore, other: SQLStore
) -> None:
    await turn(store, *LONG)
    await turn(store, "a")
    await turn(other, "b", "c")

    session = await opened(store)

    assert session == await other.session("p", "s")
    assert session is not None
    assert [m.text for m in session.messages[COUNT:]] == ["a", "b", "c"]


async def test_session_that_another_process_rewound_is_read_again(
    store: SQLStore, other: SQLStore
) -> None:
    await turn(store, *LONG)
    await turn(store, "a")
    await turn(other, "b", "c", keep=COUNT - 1)

    session = await opened(store)

    assert session == await other.session("p", "s")
    assert session is not None
    assert [m.text for m in session.messages] == [*LONG[:-1], "b", "c"]


async def test_session_that_is_rewound_here_keeps_its_first_messages(
    store: SQLStore, parsed: list[str]
) -> None:
    await turn(store, *LONG)
    await turn(store, "a")
    parsed.clear()

    saved = await turn(store, "b", keep=COUNT - 1)

    assert [m.text for m in saved.messages] == [*LONG[:-1], "b"]
    assert saved == await store.session("p", "s")


async def test_session_that_another_process_ended_is_not_found(
    store: SQLStore, other: SQLStore
) -> None:
    await turn(store, *LONG)
    await other.end_session("p", "s")
    assert await opened(store) is None

    again = await turn(other, *LONG[::-1])

    assert await opened(store) == again


async def test_sessions_are_kept_up_to_a_limit_and_for_a_time(
    store: SQLStore, parsed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def parsed_again(id: str) -> int:  # noqa: A002
        parsed.clear()
        await turn(store, "x", id=id)
        return len(parsed)

    for id in ("a", "b", "c"):  # noqa: A001
        await turn(store, *LONG, id=id)
        await turn(store, "x", id=id)
    one = sql._weight(await store.session("p", "c"))
    monkeypatch.setattr(sql, "RECENT_WEIGHT", 2 * one + one // 2)

    assert await parsed_again("c") == 1
    assert await parsed_again("b") == 1
    assert await parsed_again("a") > COUNT
    monkeypatch.setattr(sql, "RECENT_SECONDS", -1.0)
    assert await parsed_again("a") == 1
    assert await parsed_again("a") > COUNT
