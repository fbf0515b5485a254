"""Every event of a stream has an id, and a client that comes back gets the events after it."""

import json
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Literal

import anyio
import httpx2
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from live_server import PATIENCE_SECONDS, Live, events, external, live
from pathors_agent import AsyncResponse, AsyncTransport, Request, tool
from pathors_agent.server import Project, ServerSettings
from pathors_agent.server.http.problems import Problem
from pathors_agent.server.streams.kept import MAX_KEPT_BYTES, KeptEvents, StreamName
from pathors_agent.server.turns.answer import Chunks, Head, Position, TurnAnswer
from pathors_agent.stores import MemoryStore, SQLStore, Store
from pathors_agent.stores.values import RequestId
from pathors_agent.testing import AsyncScriptedTransport, answer, calls, http_error

HEAD = Head(id="chatcmpl-1", created=1, model="m", session_id="s1")
KEY = {"Idempotency-Key": "k1"}
OPTIONS = {"include_usage": True, "include_tool_activity": True, "include_reasoning": True}
WEATHER = external("weather", city=str)


@tool
def count(to: int) -> str:
    """Count to a number."""
    return " ".join(map(str, range(1, to + 1)))


# - reading a stream -


def parts(text: str) -> list[str]:
    """Return the events of a stream, each with the empty line after it."""
    return [event + "\n\n" for event in text.split("\n\n") if event and event[0] != ":"]


def event_id(event: str) -> str:
    first, data = event.removesuffix("\n\n").split("\n")
    assert first.startswith("id: ")
    assert data.startswith("data: ")
    return first.removeprefix("id: ")


def merged(stream: list[str]) -> dict[str, Any]:
    """Return what a client makes of these events, and after which text each event about tools came."""
    got: dict[str, Any] = {"content": "", "reasoning_content": "", "tools": [], "rest": []}
    for chunk in events("".join(stream)):
        if chunk == "[DONE]" or not chunk["choices"]:
            got["rest"].append(chunk)
            continue
        (choice,) = chunk["choices"]
        if "tool_activity" in chunk:
            after = got["reasoning_content"], got["content"]
            got["tools"].append((*after, chunk["tool_activity"]))
        for name, value in choice["delta"].items():
            if name in ("content", "reasoning_content"):
                got[name] += value
            else:
                got["rest"].append((name, value))
        if choice["finish_reason"]:
            got["rest"].append(choice["finish_reason"])
    return got


def streamed(server: Live, text: str = "Count", **headers: str) -> httpx2.Response:
    return server.complete(
        text, headers=headers, stream=True, stream_options=OPTIONS, tools=[WEATHER]
    )


# - a stored answer -


@pytest.fixture(params=["memory", "SQLite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return MemoryStore() if request.param == "memory" else SQLStore(f"sqlite:///{tmp_path}/s.db")


def test_stored_answer_continues_after_any_of_its_events(store: Store) -> None:
    model = AsyncScriptedTransport(
        answer("I count \U0001f9ee.", reasoning="Hm, to three.", calls=[("count", {"to": 3})]),
        answer("1, 2 é 3.", reasoning="And the weather.", calls=[("weather", {"city": "Oslo"})]),
    )
    one = Project(id="demo", transport=model, tools=[count])
    with live(one, store=store) as server:
        whole = parts(streamed(server, **KEY).text)
        ids = [event_id(event) for event in whole]
        assert len(set(ids)) == len(ids) > 12
        expected = merged(whole)
        assert (expected["reasoning_content"], expected["content"]) == (
            "Hm, to three.\n\nAnd the weather.",
            "I count \U0001f9ee.\n\n1, 2 é 3.",
        )
        told = [(text, *value) for _, text, value in expected["tools"]]
        assert told == [
            ("I count \U0001f9ee.", "call"),
            ("I count \U0001f9ee.", "result"),
            (expected["content"], "call"),
        ]
        for cut in range(1, len(whole) + 1):
            rest = parts(streamed(server, **KEY, **{"Last-Event-ID": ids[cut - 1]}).text)
            assert merged(whole[:cut] + rest) == expected
            if rest:  # the rest has ids of its own, and is cut once more
                last = {"Last-Event-ID": event_id(rest[0])}
                more = parts(streamed(server, **KEY, **last).text)
                assert merged([*whole[:cut], rest[0], *more]) == expected


@tool
async def report() -> AsyncIterator[str]:
    """Report progress."""
    for number in range(3):
        yield f"{number} of 3"
    yield "done"


def test_stored_answer_has_the_events_about_tools_up_to_a_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = AsyncScriptedTransport(calls(("report", {})), "One.", calls(("report", {})), "Two.")
    with live(Project(id="demo", transport=model, tools=[report])) as server:
        whole = streamed(server, **KEY).text
        repeat = streamed(server, **KEY).text
        monkeypatch.setattr("pathors_agent.server.turns.writers.MAX_KEPT_BYTES", 0)
        streamed(server, "Again", **{"Idempotency-Key": "k2"})
        bounded = merged(parts(streamed(server, "Again", **{"Idempotency-Key": "k2"}).text))

    assert merged(parts(repeat)) == merged(parts(whole))
    kinds = [name for *_, value in merged(parts(whole))["tools"] for name in value]
    assert kinds == ["call", "progress", "progress", "progress", "result"]
    assert (bounded["content"], bounded["tools"]) == ("Two.", [])


def test_answer_of_a_continued_turn_resumes_after_any_of_its_events() -> None:
    counting = answer("I count.", reasoning="To three.", calls=[("count", {"to": 3})])
    model = AsyncScriptedTransport(
        counting, http_error(500, "broken"), answer("Three.", reasoning="I did.")
    )
    with live(Project(id="demo", transport=model, tools=[count])) as server:
        failed = parts(streamed(server, **KEY).text)
        assert '"error"' in failed[-1]
        assert event_id(failed[-1]) == event_id(failed[-2])
        whole = parts(streamed(server, **KEY, **{"Last-Event-ID": event_id(failed[-1])}).text)
        expected = merged(whole)
        assert expected["content"] == "I count.\n\nThree."
        assert expected["reasoning_content"] == "To three.\n\nI did."
        for cut, event in enumerate(whole, 1):
            rest = streamed(server, **KEY, **{"Last-Event-ID": event_id(event)}).text
            assert merged(whole[:cut] + parts(rest)) == expected


TEXTS = st.lists(st.text(min_size=1), max_size=5)
OBJECTS = st.fixed_dictionaries(
    {"id": st.text(), "function": st.dictionaries(st.text(), st.text())}
)
ANSWERS = st.builds(
    TurnAnswer,
    head=st.just(HEAD),
    refusal=st.none() | st.text(),
    calls=st.lists(OBJECTS, max_size=3),
    function_call=st.none() | OBJECTS,
    usage=st.dictionaries(st.text(), st.integers(0, 9)),
)


@given(ANSWERS, TEXTS, TEXTS, st.booleans(), st.integers(0))
def test_rest_of_a_stream_follows_from_its_position_and_the_stored_answer(
    stored: TurnAnswer, texts: list[str], reasonings: list[str], include_usage: bool, cut: int
) -> None:
    text, reasoning = "".join(texts), "".join(reasonings)
    stored = msgspec.structs.replace(stored, text=text, reasoning=reasoning)
    chunks = Chunks(HEAD, include_usage=include_usage)
    written = [chunks.opening(), *map(chunks.reasoning, reasonings), *map(chunks.text, texts)]
    whole = [event.decode() for event in [*written, *chunks.end(stored)]]
    cut = cut % len(whole) + 1
    after = Position.read(event_id(whole[cut - 1]))
    assert after is not None
    chunks = Chunks(HEAD, include_usage=include_usage, after=after)
    left = [chunks.reasoning(reasoning[after.reasoning :]), chunks.text(text[after.text :])]
    rest = [event.decode() for event in [*left, *chunks.end(stored)]]

    assert merged(whole[:cut] + rest) == merged(whole)
    assert event_id(rest[-1]) == event_id(whole[-1]) or cut == len(whole)


@pytest.mark.parametrize(
    "last",
    ["chatcmpl-other:1:0:0:0", "7", "{id}", "{id}:1", "{id}:-1:0:0:0", "{id}:1:0:0:0:0", "é"],
)
def test_id_of_another_answer_gets_the_whole_answer(last: str) -> None:
    with live(Project(id="demo", transport=AsyncScriptedTransport("Hello."))) as server:
        first = streamed(server, **KEY).text
        completion = events(first)[0]["id"]
        sent: Any = {"Last-Event-ID": last.format(id=completion).encode()}
        again = streamed(server, **KEY, **sent).text

        assert merged(parts(again)) == merged(parts(first))


def test_last_event_id_without_a_key_is_ignored() -> None:
    with live(Project(id="demo", transport=AsyncScriptedTransport("One.", "Two."))) as server:
        last = event_id(parts(streamed(server).text)[-1])

        assert merged(parts(streamed(server, **{"Last-Event-ID": last}).text))["content"] == "Two."


def test_answer_that_is_not_streamed_is_whole_for_any_last_event_id() -> None:
    with live(Project(id="demo", transport=AsyncScriptedTransport("Hello."))) as server:
        first = server.complete("Hi", headers=KEY).json()
        named = {**KEY, "Last-Event-ID": f"{first['id']}:3:0:0:0"}

        assert server.complete("Hi", headers=named).json() == first


# - a running turn -


class Stepwise(AsyncTransport):
    """A model that says one word for each `step`, and ends its answer, or fails, after the last."""

    def __init__(self, *words: str, fails: bool = False) -> None:
        self.words = words
        self.fails = fails
        self.steps = threading.Semaphore(0)
        self.count = 0
        self.is_over = threading.Event()

    def step(self) -> None:
        self.steps.release()

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncGenerator[AsyncResponse]:
        self.count += 1
        headers = {"content-type": "text/event-stream"}
        try:
            yield AsyncResponse(status=200, headers=headers, pieces=self._pieces())
        finally:
            self.is_over.set()

    async def _pieces(self) -> AsyncIterator[bytes]:
        for word in self.words:
            await self._stepped()
            yield _model_event({"content": word}, None)
        await self._stepped()
        if self.fails:
            yield b'data: {"error": {"message": "out of order"}}\n\n'
            return
        yield _model_event({}, "stop") + b"data: [DONE]\n\n"

    async def _stepped(self) -> None:
        while not self.steps.acquire(blocking=False):
            await anyio.lowlevel.checkpoint()
            await anyio.sleep(0.001)


def _model_event(delta: dict[str, str], reason: str | None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


@contextmanager
def opened(server: Live, **headers: str) -> Iterator[Iterator[str]]:
    """Send a request, and return the events of its answer one by one; leave at the end."""
    body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
    with server.client.stream("POST", "/chat/completions", json=body, headers=headers) as got:
        assert got.status_code == 200, got.read()
        yield _read(got.iter_lines())


def _read(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        if line.startswith("id: "):
            yield f"{line}\n{next(lines)}\n\n"


Outliving = Literal["finish", "durable"]


@pytest.fixture(params=["finish", pytest.param("durable", marks=pytest.mark.slow)])
def how(request: pytest.FixtureRequest) -> Outliving:
    given: Outliving = request.param
    return given


@contextmanager
def serving(model: AsyncTransport, how: Outliving, folder: Path) -> Iterator[Live]:
    """Serve turns that outlive their clients."""
    database = f"sqlite:///{folder}/sessions.db"
    if how == "durable":
        with live(
            Project(id="demo", transport=model), store=SQLStore(database), runs=database
        ) as server:
            yield server
    else:
        with live(Project(id="demo", transport=model, on_disconnect="finish")) as server:
            yield server


def test_client_that_reconnects_follows_the_running_turn(how: Outliving, tmp_path: Path) -> None:
    model = Stepwise("One,", " two,", " three.")
    with serving(model, how, tmp_path) as server:
        model.step()
        with opened(server, **KEY) as first:
            opening, one = next(first), next(first)
        with opened(server, **KEY, **{"Last-Event-ID": event_id(opening)}) as second:
            assert next(second) == one
            model.step()
            two = next(second)
            assert '" two,"' in two
        with opened(server, **KEY, **{"Last-Event-ID": event_id(two)}) as third:
            model.step()
            three = next(third)
            model.step()
            rest = list(third)
        stored = parts(streamed_hi(server, event_id(two)))

        assert model.count == 1
        assert rest[-1].endswith("data: [DONE]\n\n")
        assert merged([opening, one, two, three, *rest])["content"] == "One, two, three."
        assert stored == [three, *rest]


def streamed_hi(server: Live, last: str) -> str:
    named = {**KEY, "Last-Event-ID": last}
    return server.complete("Hi", headers=named, stream=True).text


def test_unknown_id_gets_a_running_turn_from_its_beginning(how: Outliving, tmp_path: Path) -> None:
    model = Stepwise("One.")
    with serving(model, how, tmp_path) as server:
        model.step()
        with opened(server, **KEY) as first:
            seen = [next(first), next(first)]
            with opened(server, **KEY, **{"Last-Event-ID": "chatcmpl-0:9:0:0:0"}) as second:
                assert [next(second), next(second)] == seen
                model.step()
                assert list(second) == list(first)


def test_failure_of_a_turn_reaches_the_client_that_follows_it(
    how: Outliving, tmp_path: Path
) -> None:
    model = Stepwise("One.", fails=True)
    with serving(model, how, tmp_path) as server:
        model.step()
        with opened(server, **KEY) as first:
            next(first)
            one = next(first)
        with opened(server, **KEY, **{"Last-Event-ID": event_id(one)}) as second:
            model.step()
            (failure,) = list(second)

        assert '"error"' in failure
        assert event_id(failure) == event_id(one)  # an error adds nothing to the answer
        assert not server.app.state.runtime.services.running_streams


def test_repeat_waits_for_a_turn_that_ends_with_its_client() -> None:
    model = Stepwise("One,", " two.")
    with live(Project(id="demo", transport=model)) as server:
        model.step()
        with opened(server, **KEY) as first:
            next(first)
            one = next(first)
            got: list[str] = []
            again = threading.Thread(target=lambda: got.append(streamed_hi(server, event_id(one))))
            again.start()
            model.step()
            model.step()
            rest = list(first)
            again.join()

        assert model.count == 1
        assert parts(got[0]) == rest


def test_repeat_after_a_cut_off_turn_gets_another_answer_whole() -> None:
    model = Stepwise("One.")
    with live(Project(id="demo", transport=model)) as server:
        model.step()
        with opened(server, **KEY) as first:
            next(first)
            one = next(first)
        assert model.is_over.wait(PATIENCE_SECONDS)
        model.step()
        model.step()
        again = parts(streamed_hi(server, event_id(one)))

        assert merged(again)["content"] == "One."
        assert '"role":"assistant"' in again[0]
        assert events(again[0])[0]["id"] != events(one)[0]["id"]


def test_other_callers_and_bodies_do_not_follow_a_stream(tmp_path: Path) -> None:
    model = Stepwise("One.")
    settings = ServerSettings(session_wait_seconds=0.05)
    one = Project(id="demo", transport=model, on_disconnect="finish")
    with live(one, settings=settings) as server:
        model.step()
        with opened(server, **KEY) as first:
            named = {**KEY, "Last-Event-ID": event_id(next(first))}
            other = server.complete("Other", headers=named, stream=True)
            model.step()

        assert other.status_code == 422


# - the kept events -

NAME: StreamName = (RequestId(project="demo", api_key="k", name="n"), "digest")


@pytest.mark.anyio
async def test_kept_events_are_bounded() -> None:
    running: dict[StreamName, KeptEvents] = {}
    kept = KeptEvents(running, NAME, rewound=0)
    event = b"id: a\n" + b"x" * (MAX_KEPT_BYTES // 2)
    kept.add(event)
    assert running == {NAME: kept}
    kept.add(event)
    kept.add(event)
    assert running == {}
    read = []
    with pytest.raises(Problem, match="Last-Event-ID"):
        read += [event async for event in kept.after("")]


@pytest.mark.anyio
async def test_closing_kept_events_leaves_those_of_a_later_turn() -> None:
    running: dict[StreamName, KeptEvents] = {}
    first, second = (KeptEvents(running, NAME, rewound=0) for _ in range(2))
    first.close()
    assert running == {NAME: second}
