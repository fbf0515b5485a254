"""Sessions have titles: the user's first words, until they are renamed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest

from live_server import Live, live, project
from pathors_agent import AssistantMessage, ContentPart, UserMessage
from pathors_agent.messages import Message
from pathors_agent.stores import MemoryStore, SQLStore
from pathors_agent.stores.texts import first_words

FILE = ContentPart(type="text", text="<file>")
IMAGE = ContentPart(type="image_url")


@pytest.mark.parametrize(
    ("messages", "title"),
    [
        ([UserMessage(content="Plan\n my\t week ")], "Plan my week"),
        ([UserMessage(content="One"), UserMessage(content="Two")], "One"),
        ([UserMessage(content=" "), UserMessage(content="Two")], "Two"),
        ([UserMessage(content="no", feedback=True), UserMessage(content="yes")], "yes"),
        ([UserMessage(content=(IMAGE, ContentPart(type="text", text="What?"), FILE))], "What?"),
        ([UserMessage(content=(IMAGE,))], ""),
        ([AssistantMessage(content="Hello.")], ""),
        ([], ""),
        ([UserMessage(content="a" * 80)], "a" * 80),
        ([UserMessage(content="a" * 81)], "a" * 79 + "…"),
        ([UserMessage(content="word " * 20)], "word " * 14 + "word word…"),
        ([UserMessage(content="half \ud83d")], "half \ufffd"),
    ],
)
def test_title_is_the_first_message_of_the_user(messages: Sequence[Message], title: str) -> None:
    assert first_words(messages) == title
    assert len(title) <= 80


def titles(server: Live, search: str = "") -> dict[str, str]:
    found: list[dict[str, Any]] = server.client.get(f"/sessions?search={search}").json()["data"]
    return {session["sessionId"]: session["title"] for session in found}


def rename(server: Live, session: str, body: object) -> httpx2.Response:
    return server.client.patch(f"/sessions/{session}", json=body)


def test_list_of_sessions_has_titles() -> None:
    with live(project("Hello.", "Again.")) as server:
        server.client.post("/sessions", json={"session_id": "empty"})
        server.client.post("/sessions", json={"session_id": "made"})
        server.complete("Plan my week", session="made")
        server.complete("And then?", session="made")

        assert titles(server) == {"made": "Plan my week", "empty": ""}


def test_session_is_renamed() -> None:
    with live(project("Hello.", "Again.")) as server:
        server.complete("Plan my week", session="made")

        answered = rename(server, "made", {"title": 'The "week"'})
        server.complete("And then?", session="made")

        assert answered.json() == {"sessionId": "made", "title": 'The "week"'}
        assert titles(server) == titles(server, "week") == {"made": 'The "week"'}


@pytest.mark.parametrize("store", ["memory", "SQLite"])
@pytest.mark.parametrize(
    ("name", "title"), [(None, "Rest"), ("My week", "My week")], ids=["first words", "renamed"]
)
def test_title_from_first_words_follows_an_edit_of_them(
    store: str, name: str | None, title: str, tmp_path: Path
) -> None:
    kept = MemoryStore() if store == "memory" else SQLStore(f"sqlite:///{tmp_path}/s.db")
    with live(project("Hello.", "More.", "Good."), store=kept) as server:
        server.complete("Plan my week", session="made")
        server.complete("And then?", session="made")
        if name is not None:
            rename(server, "made", {"title": name})

        edited = server.complete("Rest", session="made", rewind=True)

        assert edited.headers["x-session-rewound"] == "4"
        assert titles(server) == {"made": title}
        assert len(server.stored("made")) == 2


def test_ended_session_has_no_title() -> None:
    with live(project("Hello.")) as server:
        server.complete("Plan my week", session="made")
        server.client.request("DELETE", "/sessions", json={"session_id": "made"})

        assert titles(server) == {"made": ""}
        assert rename(server, "made", {"title": "x"}).status_code == 404


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({}, "title: is required"),
        ({"title": ""}, "title: must not be empty"),
        ({"title": "a" * 81}, "title: is over 80 characters"),
        ({"title": 1}, "title: must be a string"),
    ],
)
def test_title_is_checked(body: object, detail: str) -> None:
    with live(project()) as server:
        server.client.post("/sessions", json={"session_id": "made"})

        answered = rename(server, "made", body)

        assert answered.status_code == 400
        assert answered.json()["error"]["details"] == [detail]


def test_session_of_another_project_is_not_renamed() -> None:
    with live(project()) as server:
        assert rename(server, "none", {"title": "x"}).json()["error"]["message"] == (
            "Session not found"
        )
