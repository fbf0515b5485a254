"""What an operator reads of requests: ids, a line for each request, a cause for each failed turn."""

import json
import logging
import re
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from live_server import live, project
from pathors_agent import tool
from pathors_agent.errors import StoreError
from pathors_agent.server import ServerSettings
from pathors_agent.server.http.problems import without_contents
from pathors_agent.stores import MemoryStore, Session, SQLStore
from pathors_agent.testing import calls, raw
from pathors_agent.tools.signature import ToolContext

MADE = re.compile(r"req_[0-9a-f]{24}")
SECRET = "the launch code is swordfish"


def failing(status: int, words: str, code: str | None = None) -> Any:
    """Answer as a provider does that refuses a request."""
    return raw(json.dumps({"error": {"message": words, "code": code}}).encode(), status=status)


class Events(logging.Handler):
    """Keeps the events of the library, with their fields."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        fields = getattr(record, "fields", {})
        told = {"event": record.event, "level": record.levelname}  # type: ignore[attr-defined]
        self.events.append({**told, **fields})

    def named(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == name]


@pytest.fixture
def heard() -> Iterator[Events]:
    """Hear warnings of the library, and its log of requests."""
    library, access = (logging.getLogger(f"pathors_agent{name}") for name in ("", ".access"))
    before = library.level, access.level
    events = Events()
    library.addHandler(events)
    library.setLevel(logging.WARNING)
    access.setLevel(logging.INFO)
    yield events
    library.removeHandler(events)
    library.setLevel(before[0])
    access.setLevel(before[1])


# - ids of requests -


def test_every_answer_has_an_id_of_its_own() -> None:
    paths = ("/healthz", "/readyz", "/nowhere", "/v1/projects/demo/sessions", "/openapi.json")
    with live(project()) as server, httpx2.Client(base_url=server.url) as client:
        ids = [client.get(path).headers["x-request-id"] for path in (*paths, *paths)]

    assert len(set(ids)) == 10
    assert all(MADE.fullmatch(one) for one in ids)


def test_answers_of_turns_streams_errors_and_preflights_have_an_id() -> None:
    settings = ServerSettings(cors_origins=("https://page.example",))
    preflight = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST"}
    with live(project("one", "two", failing(500, "no")), settings=settings) as server:
        answers = [
            server.complete("Hi"),
            server.complete("Hi", stream=True),
            server.complete("Hi"),
            server.client.request("OPTIONS", "/chat/completions", headers=preflight),
        ]

    assert [answer.status_code for answer in answers] == [200, 200, 502, 200]
    assert all(MADE.fullmatch(answer.headers["x-request-id"]) for answer in answers)


GOOD_IDS = ("1", "my-id", "2f1c0b0e-7f6a-4a55-9d50-0c4e6c6a3a11", "a+b/c==", "x" * 128)
BAD_IDS = ("", "two words", "x" * 129, 'quo"te', "<b>", "tab\tbed", "\u00e4", "a;b", "{}")


def test_clients_own_id_is_kept_if_it_is_well_formed() -> None:
    with live(project()) as server, httpx2.Client(base_url=server.url) as client:

        def answered(*ids: str) -> str:
            headers = [(b"X-Request-ID", each.encode("latin-1")) for each in ids]
            return str(client.get("/healthz", headers=headers).headers["x-request-id"])

        assert [answered(each) for each in GOOD_IDS] == list(GOOD_IDS)
        assert [each for each in BAD_IDS if not MADE.fullmatch(answered(each))] == []
        assert MADE.fullmatch(answered("one", "two"))


def test_events_of_a_turn_and_of_its_tools_name_request_project_and_session(heard: Events) -> None:
    @tool
    async def look(context: ToolContext) -> str:
        """Look."""
        context.log.info("looked")
        return "seen"

    logging.getLogger("pathors_agent").setLevel(logging.INFO)
    with live(project(calls(("look", {})), "done", tools=[look])) as server:
        server.complete("Hi", session="s1", headers={"X-Request-ID": "r-1"})

    names = [event["event"] for event in heard.events]
    assert names == ["chat", "looked", "execute_tool", "chat", "invoke_agent", "turn_served"]
    said = {(e["request_id"], e["project"], e["session"]) for e in heard.events}
    assert said == {("r-1", "demo", "s1")}


@pytest.mark.parametrize(
    "how", ["cancel", "finish", pytest.param("durable", marks=pytest.mark.slow)]
)
def test_ids_of_requests_are_not_mixed(heard: Events, how: Any, tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/sessions.db"
    script = [failing(400, f"error {number}") for number in range(3)]
    served = project(*script, on_disconnect="cancel" if how == "durable" else how)
    runs = database if how == "durable" else None
    with live(served, store=SQLStore(database), runs=runs) as server:
        for number in range(3):
            server.complete("Hi", session=f"s{number}", headers={"X-Request-ID": f"r{number}"})

    failed = [(event["request_id"], event["session"]) for event in heard.named("turn_failed")]
    assert failed == [("r0", "s0"), ("r1", "s1"), ("r2", "s2")]


# - failed turns -


def test_failed_turn_is_one_warning_with_status_code_and_words_of_the_model(heard: Events) -> None:
    refusal = failing(400, "temperature must be at most 2", "bad_temperature")
    with live(project(refusal)) as server:
        told = server.complete("Hi", session="s1", headers={"X-Request-ID": "r-1"})

    (event,) = heard.events
    assert event == {
        "event": "turn_failed",
        "level": "WARNING",
        "request_id": "r-1",
        "project": "demo",
        "session": "s1",
        "status": told.status_code,
        "model_status": 400,
        "code": "bad_temperature",
        "error": "ProviderError",
        "cause": "the provider answered 400: temperature must be at most 2",
    }


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "words",
    [
        f"cannot read '{SECRET}'",
        f"wrong key sk-proj-abcdef0123456789, said {SECRET}",
        f"Authorization: Bearer abc.def.ghi {SECRET}",
        f"see https://user:swordfish@model.example/v1, {SECRET}",
    ],
)
def test_words_of_the_model_are_logged_without_keys_and_contents(
    heard: Events, words: str, stream: bool
) -> None:
    instructions = "Never tell anybody about project bluebird."
    told = f"{words}; {instructions}"
    with live(project(failing(400, told), instructions=instructions)) as server:
        server.complete(f"Listen: {SECRET}. Ok?", stream=stream)

    (event,) = heard.named("turn_failed")
    assert "***" in event["cause"]
    for hidden in ("swordfish", "abcdef", "abc.def", "bluebird"):
        assert hidden not in str(heard.events)


class Full(MemoryStore):
    """A store whose disk is full by the end of a turn."""

    async def save_turn(self, *_: object, **__: object) -> Session:
        raise StoreError("Could not store a turn: the disk is full.")

    async def list_sessions(self, *_: object, **__: object) -> Any:
        raise StoreError("Could not list the sessions: the file is damaged.")


def test_failure_of_the_store_is_logged_with_its_text(heard: Events) -> None:
    with live(project("one"), store=Full()) as server:
        assert server.complete("Hi").status_code == 503
        assert server.client.get("/sessions").status_code == 503

    causes = [(event["event"], event["error"], event["cause"]) for event in heard.events]
    assert causes == [
        ("turn_failed", "StoreError", "Could not store a turn: the disk is full."),
        ("store_failed", "StoreError", "Could not list the sessions: the file is damaged."),
    ]


def test_failure_of_a_tool_is_logged_with_its_class_and_never_its_text(heard: Events) -> None:
    @tool
    def look() -> str:
        """Look."""
        raise LookupError(SECRET)

    @tool
    def leave() -> str:
        """Leave."""
        raise SystemExit(SECRET)

    script = (calls(("look", {})), "done", calls(("leave", {})))
    with live(project(*script, tools=[look, leave])) as server:
        assert server.complete("Hi").status_code == 200
        assert server.complete("Hi").status_code == 500

    failed = [(e["event"], e.get("error") or e["error.type"], e["level"]) for e in heard.events]
    assert failed == [
        ("execute_tool", "LookupError", "WARNING"),
        ("turn_failed", "SystemExit", "WARNING"),
    ]
    assert "swordfish" not in str(heard.events)


def test_turns_that_end_well_are_no_warnings(heard: Events) -> None:
    with live(project("one", "two")) as server:
        server.complete("Hi")
        server.complete("Hi", stream=True)

    assert heard.events == []


TEXTS = st.text(alphabet=string.ascii_lowercase + " '", min_size=12, max_size=40)


@given(st.lists(TEXTS, min_size=1, max_size=3), st.data())
def test_no_piece_of_a_content_is_left_from_a_word_on(
    contents: list[str], data: st.DataObject
) -> None:
    around = st.sampled_from(["", "it said: ", "I read '", "(a) "])
    quoted = data.draw(st.sampled_from(contents))
    kept = without_contents(f"{data.draw(around)}{quoted}{data.draw(around)}", contents)

    for word in re.finditer(r"\w+", kept):
        piece = kept[word.start() : word.start() + 12]
        assert len(piece) < 12 or not any(piece in content for content in contents)


def test_text_without_contents_is_left_as_it_is() -> None:
    assert without_contents("the context is too long", ["Hi", "another text"]) == (
        "the context is too long"
    )


# - the log of requests -


def test_requests_are_logged_if_that_is_asked_for(heard: Events) -> None:
    with live(project("one", "two"), settings=ServerSettings(access_log=True)) as server:
        turn = server.complete("Hi", session="s1", headers={"X-Request-ID": "r-1"})
        streamed = server.complete("Hi", session="s2", stream=True)
        asked = server.client.get("/sessions/s1?search=swordfish")
        wrong = httpx2.get(f"{server.base}/sessions", headers={"Authorization": "Bearer sk_x"})
        made = server.client.post("/sessions", json={"session_id": "s3"})
        nowhere = httpx2.get(f"{server.url}/no%0Awhere")

    answers = (turn, streamed, asked, wrong, made, nowhere)
    lines = heard.named("request")
    base = "/v1/projects/demo"
    assert [(e["method"], e["path"], e["status"]) for e in lines] == [
        ("POST", f"{base}/chat/completions", 200),
        ("POST", f"{base}/chat/completions", 200),
        ("GET", f"{base}/sessions/s1", 200),
        ("GET", f"{base}/sessions", 401),
        ("POST", f"{base}/sessions", 200),
        ("GET", "/no%0Awhere", 404),
    ]
    assert [e["bytes"] for e in lines] == [len(answer.content) for answer in answers]
    assert [e["request_id"] for e in lines] == [a.headers["x-request-id"] for a in answers]
    assert [e.get("project") for e in lines] == ["demo", "demo", "demo", None, "demo", None]
    assert [e.get("session") for e in lines] == ["s1", "s2", "s1", None, "s3", None]
    assert all(0 <= e["seconds"] < 60 for e in lines)
    assert "swordfish" not in str(heard.events)


def test_requests_are_not_logged_unless_that_is_asked_for(heard: Events) -> None:
    with live(project("one")) as server:
        server.complete("Hi")

    assert heard.events == []
