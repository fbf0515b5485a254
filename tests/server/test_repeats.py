"""A repeated request repeats nothing, and what tools did is not forgotten."""

import asyncio
import json
import socket
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Literal

import anyio
import httpx2
import pytest
from typer.testing import CliRunner

from live_server import PATIENCE_SECONDS, Live, external, live, on_loop, result
from pathors_agent import AsyncResponse, AsyncTransport, Request, ToolContext, tool
from pathors_agent.cli.app import app
from pathors_agent.server import Project, ServerSettings
from pathors_agent.server.turns import journal
from pathors_agent.stores import MemoryStore, SQLStore, Store
from pathors_agent.stores.sqlite import SQLiteConnection
from pathors_agent.stores.values import OpenedSession, RequestRecord
from pathors_agent.testing import AsyncScriptedTransport, calls, http_error

PAY = calls(("pay", {"amount": 5}))
BROKEN = http_error(500, "broken")
Serve = Callable[[AsyncTransport, "Payments"], AbstractContextManager[Live]]
ANSWERS = ["user", "assistant", "tool", "assistant"]


class Payments:
    """Two tools, and what they did: one pays at once, one is cut off while it pays."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.begun = threading.Event()

    def tools(self) -> list[Callable[..., Any]]:
        @tool
        def pay(amount: int, context: ToolContext[Any], note: str = "") -> str:
            """Pay an amount."""
            self.keys.append(context.key)
            return f"paid {amount}"

        @tool
        async def transfer(amount: int) -> str:
            """Transfer an amount, for ever."""
            self.begun.set()
            await anyio.sleep_forever()
            return "never"

        return [pay, transfer]


class Waiting(AsyncTransport):
    """A model that plays a script, and waits with one of its answers."""

    def __init__(self, *script: Any, waits_with: int) -> None:
        self.inner = AsyncScriptedTransport(*script)
        self.waits_with = waits_with
        self.is_waiting = threading.Event()
        self.is_released = threading.Event()

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncGenerator[AsyncResponse]:
        if len(self.inner.requests) == self.waits_with and not self.is_waiting.is_set():
            self.is_waiting.set()
            await anyio.to_thread.run_sync(self.is_released.wait, abandon_on_cancel=True)
        async with self.inner.send(request) as response:
            yield response


@pytest.fixture(params=["cancel", "finish", pytest.param("durable", marks=pytest.mark.slow)])
def serve(request: pytest.FixtureRequest, tmp_path: Path) -> Serve:
    """Return what serves a model with the tools of payments: by each way to see to a turn."""
    database = f"sqlite:///{tmp_path}/sessions.db"
    is_durable = request.param == "durable"

    @contextmanager
    def serve(transport: AsyncTransport, payments: Payments) -> Iterator[Live]:
        how: Literal["finish", "cancel"] = "finish" if request.param == "finish" else "cancel"
        project = Project(id="demo", transport=transport, tools=payments.tools(), on_disconnect=how)
        store: Store = SQLStore(database) if is_durable else MemoryStore()
        with live(project, store=store, runs=database if is_durable else None) as server:
            yield server

    return serve


@contextmanager
def paying(*script: Any) -> Iterator[tuple[Live, Waiting, Payments]]:
    """Serve a model that follows a script, with the tools of payments."""
    payments, model = Payments(), Waiting(*script, waits_with=9)
    with live(Project(id="demo", transport=model, tools=payments.tools())) as server:
        yield server, model, payments


def body(text: str, **fields: Any) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": text}], **fields}).encode()


def ask(server: Live, content: bytes, **headers: str) -> httpx2.Response:
    headers = {"Content-Type": "application/json", **headers}
    return server.client.post("/chat/completions", content=content, headers=headers)


def leave(server: Live, content: bytes, until: threading.Event, **headers: str) -> None:
    """Send a request, and close the connection once something happened."""
    head = {"Host": "x", "Content-Type": "application/json", **server.headers, **headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    first = f"POST /v1/projects/demo/chat/completions HTTP/1.1\r\n{lines}"
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(f"{first}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        assert until.wait(PATIENCE_SECONDS)


def said(answered: httpx2.Response) -> str:
    assert answered.status_code == 200, answered.text
    text: str = answered.json()["choices"][0]["message"]["content"]
    return text


def roles(server: Live, session: str) -> list[str]:
    return [message["role"] for message in server.stored(session)]


NAMED = {"X-Session-ID": "s1"}
KEY = {"Idempotency-Key": "k1"}


@pytest.mark.parametrize("session", [{}, NAMED], ids=["no session", "session"])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_repeats_under_a_key_run_no_tool_again(
    serve: Serve, session: dict[str, str], stream: bool
) -> None:
    payments = Payments()
    model = AsyncScriptedTransport(PAY, BROKEN, BROKEN, http_error(429, "slow"), "Done.")
    with serve(model, payments) as server:
        content = body("Pay 5", stream=stream)
        failed = [ask(server, content, **KEY, **session) for _ in range(3)]
        done = ask(server, content, **KEY, **session)
        again = ask(server, content, **KEY, **session)

        assert len(payments.keys) == 1
        assert again.content == done.content or stream
        assert "Done." in done.text
        assert "Done." in again.text
        assert not any("x-should-retry" in each.headers for each in failed)
        answers = [*failed, done, again]
        assert len({each.headers["x-session-id"] for each in answers}) == 1
        assert roles(server, done.headers["x-session-id"]) == ANSWERS


def test_each_key_has_a_session_of_its_own() -> None:
    with live(Project(id="demo", transport=AsyncScriptedTransport(*"abc"))) as server:
        first = ask(server, body("Hi"), **KEY)
        other = ask(server, body("Hi"), **{"Idempotency-Key": "k2"})
        unnamed = ask(server, body("Hi"))

        ids = {each.headers["x-session-id"] for each in (first, other, unnamed)}
        assert len(ids) == 3


def test_error_after_tools_ran_is_not_to_be_retried_without_a_key(serve: Serve) -> None:
    payments = Payments()
    with serve(AsyncScriptedTransport(PAY, BROKEN), payments) as server:
        failed = ask(server, body("Pay 5"))

        assert failed.status_code == 502
        assert failed.headers["x-should-retry"] == "false"


class Shared(AsyncScriptedTransport):
    """A model whose second request awaits something that another task cancels."""

    is_cancelled = False

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncGenerator[AsyncResponse]:
        if len(self.requests) == 1 and not self.is_cancelled:
            self.is_cancelled = True
            shared = asyncio.get_running_loop().create_future()
            shared.cancel()
            await shared
        async with super().send(request) as response:
            yield response


@pytest.mark.parametrize("stream", [False, True])
def test_model_that_is_cancelled_by_itself_fails_the_turn(serve: Serve, *, stream: bool) -> None:
    payments = Payments()
    with serve(Shared(PAY, "Hello."), payments) as server:
        failed = ask(server, body("Pay 5", stream=stream))
        again = ask(server, body("Hi"))

        assert '{"error":{"message":"Internal server error"' in failed.text
        assert "[DONE]" not in failed.text
        assert stream or (failed.status_code, failed.headers["x-should-retry"]) == (500, "false")
        assert (again.status_code, len(payments.keys)) == (200, 1)


def test_error_before_any_tool_ran_may_be_retried(serve: Serve) -> None:
    with serve(AsyncScriptedTransport(BROKEN), Payments()) as server:
        assert "x-should-retry" not in ask(server, body("Hi")).headers


@pytest.mark.parametrize("headers", [KEY, NAMED, {**KEY, **NAMED}], ids=["key", "session", "both"])
def test_client_that_stopped_waiting_and_repeats_gets_its_answer_and_pays_once(
    serve: Serve, headers: dict[str, str]
) -> None:
    payments = Payments()
    model = Waiting(PAY, "Done.", "Done.", waits_with=1)
    with serve(model, payments) as server:
        leave(server, body("Pay 5"), model.is_waiting, **headers)
        model.is_released.set()
        done = ask(server, body("Pay 5"), **headers)

        assert said(done) == "Done."
        assert len(payments.keys) == 1
        assert roles(server, done.headers["x-session-id"]) == ANSWERS


def test_undelivered_answer_is_returned_once() -> None:
    model, payments = Waiting("Done.", "Again.", waits_with=0), Payments()
    one = Project(id="demo", transport=model, tools=payments.tools(), on_disconnect="finish")
    with live(one) as server:
        leave(server, body("yes"), model.is_waiting, **NAMED)
        model.is_released.set()

        assert said(ask(server, body("yes"), **NAMED)) == "Done."
        assert said(ask(server, body("yes"), **NAMED)) == "Again."
        assert [m["content"] for m in server.stored("s1")] == ["yes", "Done.", "yes", "Again."]


def sent(model: Waiting) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = model.inner.requests[-1]["messages"]
    return messages


def test_next_turn_reads_the_results_of_the_tools_of_a_disconnected_client() -> None:
    payments, model = Payments(), Waiting(PAY, "Paid before.", "Bye.", waits_with=1)
    one = Project(id="demo", transport=model, tools=payments.tools())
    with live(one) as server:
        leave(server, body("Pay 5"), model.is_waiting, **NAMED)
        said(ask(server, body("What did you do?"), **NAMED))
        read = [(m["role"], m.get("content")) for m in sent(model)]
        history = ["What did you do?", {"role": "assistant", "content": "Paid before."}, "Bye"]
        server.complete(*history, session="s1")
        model.is_released.set()

        assert read == [("assistant", None), ("tool", "paid 5"), ("user", "What did you do?")]
        assert roles(server, "s1") == ["assistant", "tool", *("user", "assistant") * 2]
        assert len(payments.keys) == 1


def test_next_turn_reads_that_a_calls_outcome_is_unknown() -> None:
    script = (calls(("pay", {"amount": 5}), ("transfer", {"amount": 7})), "Look it up.")
    with paying(*script) as (server, model, payments):
        leave(server, body("Pay and transfer"), payments.begun, **NAMED)
        said(ask(server, body("Well?"), **NAMED))

        results = {m["tool_call_id"]: m["content"] for m in sent(model) if m["role"] == "tool"}
        assert results["call_1"] == "paid 5"
        assert results["call_2"].startswith("Outcome unknown: ")
        assert [m.get("outcome") for m in server.stored("s1")[1:3]] == [None, "unknown"]


def test_turns_that_failed_one_after_another_are_all_read() -> None:
    with paying(PAY, BROKEN, PAY, BROKEN, "Twice.") as (server, model, payments):
        ask(server, body("Pay 5"), **NAMED)
        ask(server, body("Pay 5 more"), **NAMED)
        said(ask(server, body("How much?"), **NAMED))

        assert [m["role"] for m in sent(model)] == ["assistant", "tool"] * 2 + ["user"]
        assert len(payments.keys) == 2


def test_notes_of_the_oldest_turns_are_forgotten_beyond_a_bound(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(journal, "MAX_NOTES_BYTES", 2_000)
    first, second = (calls(("pay", {"amount": n, "note": "x" * 1_000})) for n in (1, 2))
    with paying(first, BROKEN, second, BROKEN, "I paid.") as (server, model, _):
        ask(server, body("Pay 1"), **NAMED)
        ask(server, body("Pay 2"), **NAMED)
        said(ask(server, body("How much?"), **NAMED))
        left = on_loop(server.app, server.store.turn_notes("demo", "s1"))

        assert [m["content"] for m in sent(model) if m["role"] == "tool"] == ["paid 2"]
        assert len({note.turn for note in left}) == 1
        assert "turn_notes_forgotten" in caplog.text


def test_results_that_are_too_long_are_cut_in_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "MAX_RESULT_CHARACTERS", 4)
    with paying(PAY, BROKEN, "Done.") as (server, model, payments):
        ask(server, body("Pay 5"), **NAMED, **KEY)
        said(ask(server, body("Pay 5"), **NAMED, **KEY))

        (read,) = (m["content"] for m in sent(model) if m["role"] == "tool")
        remark = "[The rest of this result was lost when the turn was interrupted.]"
        assert read == f"paid\n{remark}"
        assert len(payments.keys) == 1


def test_repeat_of_a_turn_that_another_one_followed_is_refused() -> None:
    with paying(PAY, BROKEN, "Paid before.") as (server, _, payments):
        ask(server, body("Pay 5"), **NAMED, **KEY)
        said(ask(server, body("What did you do?"), **NAMED))
        refused = ask(server, body("Pay 5"), **NAMED, **KEY)

        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "session_changed")
        assert refused.headers["x-should-retry"] == "false"
        assert len(payments.keys) == 1


def test_calls_of_a_turn_in_between_are_kept_when_the_first_turn_is_repeated() -> None:
    with paying(PAY, BROKEN, PAY, BROKEN, "Done.", "Ten.") as (server, model, payments):
        ask(server, body("Pay 5"), **NAMED, **KEY)
        ask(server, body("Pay 5 more"), **NAMED)
        said(ask(server, body("Pay 5"), **NAMED, **KEY))
        said(ask(server, body("How much?"), **NAMED))

        assert len(payments.keys) == 2
        assert [m["role"] for m in sent(model)].count("tool") == 2


def test_refused_request_of_a_named_session_finds_its_tools_results() -> None:
    too_long = http_error(400, "too long", code="context_length_exceeded")
    with paying(PAY, too_long, "Short.") as (server, _, payments):
        refused = ask(server, body("Pay 5"), **NAMED)
        answered = ask(server, body("Pay 5"), **NAMED)

        assert (refused.status_code, refused.json()["error"]["code"]) == (
            400,
            "context_length_exceeded",
        )
        assert said(answered) == "Short."
        assert len(payments.keys) == 1


@tool(approve=True)
def order(amount: int) -> str:
    """Order an amount."""
    return f"ordered {amount}"


def test_approved_call_of_a_turn_that_failed_is_not_run_again() -> None:
    model = Waiting(calls(("order", {"amount": 5})), BROKEN, "It came.", "Yes.", waits_with=9)
    with live(Project(id="demo", transport=model, tools=[order])) as server:
        asked = ask(server, body("Order 5"), **NAMED).json()["choices"][0]["message"]
        (call,) = asked["tool_calls"]
        yes = json.dumps({"approved": True, "digest": call["approval"]["digest"]})
        decided = {"role": "tool", "tool_call_id": "call_1", "content": yes}
        failed = server.complete(decided, session="s1")
        again = server.complete(asked, decided, session="s1")
        server.complete("Well?", session="s1")

        assert failed.status_code == 502
        assert said(again) == "It came."
        assert [m["content"] for m in server.stored("s1")] == [
            *("Order 5", None, "ordered 5", "It came.", "Well?", "Yes.")
        ]


def test_message_behind_a_decision_is_told_once_when_its_turn_is_repeated() -> None:
    payments = Payments()
    script = (calls(("order", {"amount": 5})), PAY, BROKEN, "Both came.")
    model = Waiting(*script, waits_with=9)
    tools = [order, *payments.tools()]
    with live(Project(id="demo", transport=model, tools=tools)) as server:
        asked = ask(server, body("Order 5"), **NAMED).json()["choices"][0]["message"]
        digest = asked["tool_calls"][0]["approval"]["digest"]
        yes = result("call_1", json.dumps({"approved": True, "digest": digest}))
        also = {"role": "user", "content": "And pay."}
        failed = server.complete(yes, also, session="s1", headers=KEY)
        again = server.complete(yes, also, session="s1", headers=KEY)

        assert failed.status_code == 502
        assert said(again) == "Both came."
        assert [m["content"] for m in server.stored("s1")] == [
            *("Order 5", None, "ordered 5", "And pay.", None, "paid 5", "Both came.")
        ]
        assert len(payments.keys) == 1


def test_interrupted_turn_follows_the_results_of_its_clients_calls() -> None:
    weather = external("weather", city=str)
    script = (calls(("weather", {"city": "Oslo"})), PAY, BROKEN, "Sunny, and paid.")
    with paying(*script) as (server, model, payments):
        server.complete("Weather?", session="s1", tools=[weather])
        failed = server.complete(result("call_1", "sunny"), session="s1", tools=[weather])
        more = {"role": "user", "content": "And pay."}
        server.complete(result("call_1", "sunny"), more, session="s1", tools=[weather])

        assert failed.status_code == 502
        assert len(payments.keys) == 1
        assert [m["role"] for m in sent(model)] == [
            *("user", "assistant", "tool", "assistant", "tool", "user")
        ]


@pytest.mark.slow
def test_calls_in_doubt_are_listed_until_their_session_ends(tmp_path: Path) -> None:
    database, payments = f"sqlite:///{tmp_path}/sessions.db", Payments()

    def listed() -> list[tuple[str, str, str]]:
        shown = CliRunner().invoke(app, ["runs", "doubts", "--json", "--database", database])
        found = json.loads(shown.stdout)["data"]
        return [(doubt["run_id"], doubt["tool"], doubt["effect"]) for doubt in found]

    script = (calls(("pay", {"amount": 5}), ("transfer", {"amount": 7})), "Look it up.", "Yes.")
    model = Waiting(*script, waits_with=9)
    one = Project(id="demo", transport=model, tools=payments.tools())
    with live(one, store=SQLStore(database)) as server:
        assert listed() == []
        leave(server, body("Transfer"), payments.begun, **NAMED)
        said(ask(server, body("Transfer"), **NAMED))  # the repeat settles the call as unknown
        assert listed() == [("demo/s1", "transfer", "tool/0/1")]
        said(ask(server, body("Well?"), **NAMED))
        assert listed() == [("demo/s1", "transfer", "tool/0/1")]
        server.client.request("DELETE", "/sessions", json={"session_id": "s1"})
        assert listed() == []


# - transactions -


@pytest.mark.parametrize("session", [None, "s1"])
def test_named_request_takes_two_transactions(
    session: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[bool] = []
    begin = SQLiteConnection.begin

    def count(self: SQLiteConnection, *, flushes: bool) -> None:
        begun.append(flushes)
        begin(self, flushes=flushes)

    model = AsyncScriptedTransport("Hello.", "Again.")
    store = SQLStore(f"sqlite:///{tmp_path}/sessions.db")
    with live(Project(id="demo", transport=model), store=store) as server:
        server.complete("Hi", session=session)  # notes that the key was used
        monkeypatch.setattr(SQLiteConnection, "begin", count)
        key = {"Idempotency-Key": "k"}
        first = server.complete("Hi", session=session, headers=key)
        assert begun == [False, True]  # begun and opened; stored
        repeat = server.complete("Hi", session=session, headers=key)
        assert begun == [False, True, False]

    assert first.json()["choices"][0]["message"]["content"] == "Again."
    assert repeat.json() == first.json()


class SlowToBegin(MemoryStore):
    """A store that waits before a request begins together with its session."""

    def __init__(self) -> None:
        super().__init__()
        self.has_begun, self.may_go_on = threading.Event(), threading.Event()

    async def begin_turn(
        self, *names: Any, **more: Any
    ) -> tuple[RequestRecord, OpenedSession | None]:
        found = await super().begin_turn(*names, **more)
        self.has_begun.set()
        await anyio.to_thread.run_sync(self.may_go_on.wait, abandon_on_cancel=True)
        return found


def test_waiting_request_releases_its_session_for_earlier_turns() -> None:
    store, model = SlowToBegin(), AsyncScriptedTransport("One.", "Two.")
    settings = ServerSettings(turns_per_key=1)
    project = Project(id="demo", transport=model)
    with live(project, store=store, settings=settings) as server, ThreadPoolExecutor(2) as threads:
        key = {"Idempotency-Key": "k"}
        named = threads.submit(server.complete, "Named", session="s1", headers=key)
        assert store.has_begun.wait(PATIENCE_SECONDS)
        other = threads.submit(server.complete, "Other", session="s1")
        admission = server.app.state.runtime.services.admission
        (used,) = on_loop(server.app, store.keys())
        while admission.has_room("demo", used.id):
            on_loop(server.app, asyncio.sleep(0))
        store.may_go_on.set()
        statuses = [each.result(PATIENCE_SECONDS).status_code for each in (named, other)]

        assert statuses == [200, 200]
        asked = on_loop(server.app, store.session("demo", "s1")).messages
    assert [message.text for message in asked] == ["Other", "One.", "Named", "Two."]
