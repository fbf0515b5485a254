"""An app's own users: let in beside keys, and kept apart from each other."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from live_server import Live, live
from pathors_agent import tool
from pathors_agent.server import Principal, Project, ServerSettings, TurnContext, create_app
from pathors_agent.server.http import keys
from pathors_agent.stores import MemoryStore, SQLStore, Store
from pathors_agent.testing import AsyncScriptedTransport, calls
from pathors_agent.tools.signature import ToolContext


def project(*script: Any, name: str = "demo", **more: Any) -> Project:
    return Project(id=name, transport=AsyncScriptedTransport(*script, then="Fine."), **more)


async def by_header(request: Request) -> Principal | None:
    """Let in the user in the header `X-User`, as an app behind a login does."""
    user = request.headers.get("x-user")
    return None if user is None else Principal(project="demo", id=user)


@contextmanager
def as_user(server: Live, user: str, project: str = "demo") -> Iterator[httpx2.Client]:
    """Speak to the server as a user, without a key."""
    base = f"{server.url}/v1/projects/{project}"
    with httpx2.Client(base_url=base, headers={"X-User": user}, timeout=60) as client:
        yield client


def say(client: httpx2.Client, text: str, session: str | None = None, **headers: str) -> Any:
    named = {"X-Session-ID": session} if session else {}
    body = {"messages": [{"role": "user", "content": text}]}
    return client.post("/chat/completions", json=body, headers={**named, **headers})


def listed(client: httpx2.Client) -> list[str]:
    return [session["sessionId"] for session in client.get("/sessions").json()["data"]]


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Any) -> Store:
    return MemoryStore() if request.param == "memory" else SQLStore(f"sqlite:///{tmp_path}/s.db")


def test_users_and_keys_are_authenticated_and_others_are_refused() -> None:
    with live(project(), authenticate=by_header) as server:
        with as_user(server, "ann") as ann, as_user(server, "ann", "other") as elsewhere:
            assert say(ann, "Hi").status_code == 200
            refused = [say(elsewhere, "Hi")]
        assert server.complete("Hi").status_code == 200
        refused.append(httpx2.get(f"{server.base}/sessions"))
        refused.append(httpx2.get(f"{server.base}/sessions", headers={"Authorization": "Bearer x"}))

    assert [answer.status_code for answer in refused] == [401, 401, 401]
    assert len({answer.content for answer in refused}) == 1


def test_principal_of_one_project_is_a_stranger_in_another() -> None:
    with live(project(), project(name="other"), authenticate=by_header) as server:
        with as_user(server, "ann", "other") as client:
            assert say(client, "Hi").status_code == 401
            assert client.get("/sessions").status_code == 401
            assert client.get("/models").status_code == 401


def test_sessions_of_one_user_do_not_exist_for_another(store: Store) -> None:
    with live(project(), store=store, authenticate=by_header) as server:
        with as_user(server, "ann") as ann, as_user(server, "bob") as bob:
            assert say(ann, "I am Ann", "s1").status_code == 200
            found = {"search_string": "Ann"}

            for stranger in (bob, server.client):
                assert stranger.get("/sessions/s1").status_code == 404
                assert listed(stranger) == []
                assert stranger.post("/sessions/search", json=found).json()["results"] == []
                ended = stranger.request("DELETE", "/sessions", json={"session_id": "s1"})
                assert ended.status_code == 200
            made = {"session_id": "s1", "variables": {"x": 1}}
            assert bob.post("/sessions", json=made).status_code == 200
            assert say(bob, "I am Bob", "s1").status_code == 200

            messages = ann.get("/sessions/s1").json()["data"]["messages"]
            assert [message["content"] for message in messages] == ["I am Ann", "Fine."]
            assert listed(ann) == listed(bob) == ["s1"]
            assert len(ann.post("/sessions/search", json=found).json()["results"]) == 1


def test_users_may_share_the_sessions_of_the_project() -> None:
    async def sharing(request: Request) -> Principal | None:
        user = request.headers.get("x-user")
        return user and Principal(project="demo", id=user, own_sessions=False)  # type: ignore[return-value]  # "" is none

    with live(project(), authenticate=sharing) as server:
        with as_user(server, "ann") as ann, as_user(server, "bob") as bob:
            say(ann, "Hi", "s1")
            assert listed(bob) == ["s1"]
        assert len(server.stored("s1")) == 2


def test_names_of_requests_belong_to_their_users(store: Store) -> None:
    with live(project("one", "two"), store=store, authenticate=by_header) as server:
        with as_user(server, "ann") as ann, as_user(server, "bob") as bob:
            answers = [
                say(client, "Hi", **{"Idempotency-Key": "k1"}).json()
                for client in (ann, bob, ann, bob)
            ]

    assert [a["choices"][0]["message"]["content"] for a in answers] == ["one", "two"] * 2
    assert answers[0]["session_id"] != answers[1]["session_id"]


@pytest.mark.parametrize("is_durable", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_tools_know_the_user_and_have_keys_of_their_own(tmp_path: Path, is_durable: bool) -> None:
    seen: list[tuple[str | None, str]] = []

    @tool
    async def look(context: ToolContext[TurnContext]) -> str:
        """Look."""
        assert "ann" not in repr(context.context)
        seen.append((context.context.principal, context.key))
        return "seen"

    script = [calls(("look", {})), "done"] * 3
    database = f"sqlite:///{tmp_path}/sessions.db"
    served = project(*script, tools=[look])
    runs = database if is_durable else None
    with live(served, store=SQLStore(database), runs=runs, authenticate=by_header) as server:
        with as_user(server, "ann") as ann, as_user(server, "bob") as bob:
            say(ann, "Hi", "s1")
            say(bob, "Hi", "s1")
            assert listed(ann) == listed(bob) == ["s1"]
        server.complete("Hi", session="s1")

    assert [principal for principal, _ in seen] == ["ann", "bob", None]
    assert len({key for _, key in seen}) == 3


def test_limits_count_by_user() -> None:
    settings = ServerSettings(turns_per_key=1, queue_length=0)
    begun, may_end = anyio.Event(), anyio.Event()

    @tool
    async def wait() -> str:
        """Wait."""
        begun.set()
        await may_end.wait()
        return "done"

    async def ask() -> list[int]:
        served = project(calls(("wait", {})), tools=[wait])
        app = create_app([served], MemoryStore(), settings, authenticate=by_header)
        transport = httpx2.ASGITransport(app=app)
        statuses: list[int] = []
        async with httpx2.AsyncClient(
            transport=transport, base_url="http://test/v1/projects/demo"
        ) as client:

            async def turn(user: str) -> None:
                body = {"messages": [{"role": "user", "content": "Hi"}]}
                sent = await client.post("/chat/completions", json=body, headers={"X-User": user})
                statuses.append(sent.status_code)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(turn, "ann")
                await begun.wait()
                await turn("ann")
                await turn("bob")
                may_end.set()
        await app.state.runtime.stop()
        return statuses

    assert anyio.run(ask) == [429, 200, 200]


def test_function_may_refuse_with_a_status_of_its_own() -> None:
    async def refusing(request: Request) -> Principal | None:
        raise HTTPException(403)

    with live(project(), authenticate=refusing) as server:
        answered = server.client.get("/sessions")

    assert answered.status_code == 403
    assert answered.json()["error"]["message"] == "Forbidden"


def test_function_that_does_not_answer_is_a_503(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "AUTHENTICATE_SECONDS", 0.01)

    async def waiting(request: Request) -> Principal | None:
        await anyio.sleep_forever()
        return None

    with live(project(), authenticate=waiting) as server:
        answered = server.client.get("/sessions")

    assert answered.status_code == 503
    assert answered.json()["error"]["message"] == "Requests cannot be authenticated now"


def test_function_reads_headers_cookies_and_the_path_but_no_body() -> None:
    async def by_cookie(request: Request) -> Principal | None:
        assert request.method == "POST"
        with pytest.raises(RuntimeError):
            await request.body()
        user = request.cookies["user"]
        return Principal(project=request.path_params["project_id"], id=user)

    with live(project(), authenticate=by_cookie) as server:
        body = {"messages": [{"role": "user", "content": "Hi"}]}
        address = f"{server.base}/chat/completions"
        answered = httpx2.post(address, json=body, headers={"Cookie": "user=ann"})

    assert answered.status_code == 200


@pytest.mark.parametrize("returned", ["ann", {"project": "demo"}, True])
def test_value_that_is_not_a_principal_is_a_bug_and_authenticates_no_request(returned: Any) -> None:
    async def wrong(request: Request) -> Any:
        return returned

    with live(project(), authenticate=wrong) as server:
        assert server.client.get("/sessions").status_code == 500


def test_wrong_principals_and_functions_are_refused_at_once() -> None:
    for wrong in ("", "a\nb", "x" * 256, "\ud800", 7, None):
        with pytest.raises(ValueError, match=r"Principal\.id must be a text of 1 to 255 printable"):
            Principal(project="demo", id=wrong)  # type: ignore[arg-type]  # wrong on purpose

    def blocking(request: Request) -> Principal | None:
        return None

    with pytest.raises(TypeError, match="authenticate= must be an async function"):
        create_app([project()], MemoryStore(), authenticate=blocking)  # type: ignore[arg-type]  # wrong on purpose


def test_login_that_is_cancelled_by_itself_is_a_500() -> None:
    """As one that awaits keys which several requests share."""

    async def cancelled(request: Request) -> Principal | None:
        shared: asyncio.Future[Principal] = asyncio.get_running_loop().create_future()
        shared.cancel()
        return await shared

    with live(project(), authenticate=cancelled) as server:
        answers = [server.complete("Hi"), server.client.get("/sessions")]

    assert [answer.status_code for answer in answers] == [500, 500]
    assert {answer.json()["error"]["message"] for answer in answers} == {"Internal server error"}


def test_object_with_an_async_call_authenticates() -> None:
    class Login:
        async def __call__(self, request: Request) -> Principal | None:
            return Principal(project="demo", id="ann")

    with live(project(), authenticate=Login()) as server:
        assert httpx2.get(f"{server.base}/sessions").status_code == 200


def test_session_of_a_user_that_another_process_holds_is_not_reported_as_ended() -> None:
    store = MemoryStore()

    @tool
    async def lose_lease() -> str:
        """Let another process take the session over."""
        (place,) = store._leases
        del store._leases[place]
        await store.take_lease(*place, holder="other", seconds=60)
        return "lost"

    served = project("Hello.", calls(("lose_lease", {})), tools=[lose_lease])
    with live(served, store=store, authenticate=by_header) as server, as_user(server, "ann") as ann:
        assert say(ann, "Hi", "s1").status_code == 200
        error = say(ann, "Go on", "s1").json()["error"]

    assert (error["type"], error["code"]) == ("conflict_error", None)
