"""Sessions that an endpoint keeps: what is asked, and what is made of hand-written answers."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import anyio
import pytest

from pathors_agent.errors import (
    AgentError,
    IncompleteResponse,
    MalformedResponse,
    ProviderError,
    SessionConflict,
    SessionNotFound,
    TransportError,
)
from pathors_agent.messages import AssistantMessage, SystemMessage, ToolCall, ToolMessage
from pathors_agent.messages import UserMessage as User
from pathors_agent.sessions.answers import (
    NewSession,
    SessionEntry,
    SessionPage,
    SessionRecord,
    read_object,
    read_session,
)
from pathors_agent.sessions.client import AsyncEndpointSessions, EndpointSessions
from pathors_agent.transports.aiohttp import AiohttpTransport
from pathors_agent.transports.base import AsyncTransport
from pathors_agent.transports.http import AsyncHTTPTransport, HTTPTransport
from pathors_agent.transports.retry import AsyncRetryingTransport, RetryingTransport
from servers import CLOSE, ScriptedServer, answer

CANARY = "canary in the conversation"

StartServer = Callable[..., ScriptedServer]
Ask = Callable[[Any], Any]


@dataclass(frozen=True)
class Client:
    """Asks for one thing: blocking, on asyncio, on trio, or through aiohttp."""

    way: str

    def __call__(self, url: str, ask: Ask, *, retrying: bool = False) -> Any:
        if self.way != "blocking":
            backend = "asyncio" if self.way == "aiohttp" else self.way
            return anyio.run(self._ask_async, url, ask, retrying, backend=backend)
        with HTTPTransport(url, api_key="sk_1", retries=0) as transport:
            again = RetryingTransport(transport, sleep=lambda seconds: None)
            return ask(EndpointSessions(again if retrying else transport))

    async def _ask_async(self, url: str, ask: Ask, retrying: bool) -> Any:
        make = AiohttpTransport if self.way == "aiohttp" else AsyncHTTPTransport
        async with make(url, api_key="sk_1", retries=0) as transport:
            again = AsyncRetryingTransport(transport, sleep=no_sleep)
            chosen: AsyncTransport = again if retrying else transport
            return await ask(AsyncEndpointSessions(chosen))


async def no_sleep(seconds: float) -> None:
    pass


@pytest.fixture(params=["blocking", "asyncio", "trio", "aiohttp"])
def client(request: pytest.FixtureRequest) -> Client:
    return Client(request.param)


@pytest.fixture
def ask(scripted_server: StartServer) -> Callable[..., Any]:
    """Ask, blocking, for what is answered with this body."""

    def get(body: object, question: Ask, status: str = "200 OK") -> Any:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return Client("blocking")(scripted_server([answer(data, status)]).url, question)

    return get


def get_it(sessions: Any) -> Any:
    return sessions.get("s-1")


def search_it(sessions: Any) -> Any:
    return sessions.search("x")


def list_it(sessions: Any) -> Any:
    return sessions.list()


def create_it(sessions: Any) -> Any:
    return sessions.create("s-1")


def end_it(sessions: Any) -> Any:
    return sessions.end("s-1")


# - what is asked, and the documented answers -


def test_session_is_created(scripted_server: StartServer, client: Client) -> None:
    server = scripted_server([answer(b'{"sessionId": "s-1", "pathwayId": "p-1"}')])

    made = client(
        server.url, lambda s: s.create("s-1", variables={"name": "Ana"}, provider="phone")
    )

    (received,) = server.requests
    assert received.line == "POST /v1/sessions HTTP/1.1"
    assert received.headers["authorization"] == "Bearer sk_1"
    assert json.loads(received.body) == {
        "session_id": "s-1",
        "variables": {"name": "Ana"},
        "provider": "phone",
    }
    assert made == NewSession(id="s-1", project_id="p-1")


def test_unset_options_are_not_sent(scripted_server: StartServer, client: Client) -> None:
    server = scripted_server([answer(b'{"session_id": "s-1"}')])

    made = client(server.url, create_it)

    assert json.loads(server.requests[0].body) == {"session_id": "s-1"}
    assert made == NewSession(id="s-1")


def test_session_is_read(scripted_server: StartServer, client: Client) -> None:
    data = """{
        "variables": {"name": "Ana"},
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": null, "tool_calls": [{"id": "call_1",
             "type": "function", "function": {"name": "look", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "call_1", "content": "42"},
            {"role": "assistant", "content": "It is 42."}
        ]
    }"""
    body = f"""{{
        "sessionId": "s-1", "state": {data}, "data": {data},
        "createdAt": "2025-01-02T03:04:05.678Z", "updatedAt": "2025-01-02T03:05:00.000Z"
    }}"""
    server = scripted_server([answer(body.encode())])

    session = client(server.url, get_it)

    assert server.requests[0].line == "GET /v1/sessions/s-1 HTTP/1.1"
    assert server.requests[0].body == b""
    assert session.id == "s-1"
    assert session.variables == {"name": "Ana"}
    assert session.messages == (
        SystemMessage(content="Be brief."),
        User(content="Hi"),
        AssistantMessage(tool_calls=(ToolCall(id="call_1", name="look", arguments="{}"),)),
        ToolMessage(tool_call_id="call_1", content="42"),
        AssistantMessage(content="It is 42."),
    )
    assert session.created_at == datetime(2025, 1, 2, 3, 4, 5, 678_000, UTC)
    assert session.updated_at == datetime(2025, 1, 2, 3, 5, tzinfo=UTC)
    assert session.data == json.loads(data)


def test_sessions_are_found(scripted_server: StartServer, client: Client) -> None:
    body = b"""{
        "results": [
            {"sessionId": "s-2", "data": {"variables": {}, "messages":
             [{"role": "user", "content": "Anything?"}]},
             "createdAt": "2025-01-02T00:00:00.000Z", "updatedAt": "2025-01-03T00:00:00.000Z"}
        ],
        "pagination": {"limit": 1, "offset": 2, "total": 3}
    }"""
    server = scripted_server([answer(body)])

    found = client(server.url, lambda s: s.search("Any%", limit=1, offset=2))

    assert server.requests[0].line == "POST /v1/sessions/search HTTP/1.1"
    assert json.loads(server.requests[0].body) == {"search_string": "Any%", "limit": 1, "offset": 2}
    assert found.total == 3
    assert found.items == (
        SessionRecord(
            id="s-2",
            messages=(User(content="Anything?"),),
            created_at=datetime(2025, 1, 2, tzinfo=UTC),
            updated_at=datetime(2025, 1, 3, tzinfo=UTC),
            data={"variables": {}, "messages": [{"role": "user", "content": "Anything?"}]},
        ),
    )


def test_session_is_ended(scripted_server: StartServer, client: Client) -> None:
    body = b'{"success": true, "sessionId": "s-1", "message": "Session ended successfully"}'
    server = scripted_server([answer(body)])

    assert client(server.url, end_it) is None

    assert server.requests[0].line == "DELETE /v1/sessions HTTP/1.1"
    assert json.loads(server.requests[0].body) == {"session_id": "s-1"}


def test_sessions_are_listed(scripted_server: StartServer, client: Client) -> None:
    body = b"""{
        "data": [
            {"sessionId": "s-2", "startTime": "2025-01-02T00:00:00.000Z", "endTime": null,
             "provider": "", "messageCount": 0},
            {"sessionId": "s-1", "startTime": "2025-01-01T00:00:00.000Z",
             "endTime": "2025-01-01T01:00:00.000Z", "provider": "phone", "messageCount": 4}
        ],
        "pagination": {"page": 2, "totalPages": 3, "total": 22}
    }"""
    server = scripted_server([answer(body)])

    listed = client(server.url, lambda s: s.list(page=2, page_size=10, search="a b&c=ü"))

    assert server.requests[0].line == (
        "GET /v1/sessions?page=2&pageSize=10&search=a%20b%26c%3D%C3%BC HTTP/1.1"
    )
    assert listed == SessionPage(
        items=(
            SessionEntry(
                id="s-2", provider="", message_count=0, started_at=datetime(2025, 1, 2, tzinfo=UTC)
            ),
            SessionEntry(
                id="s-1",
                provider="phone",
                message_count=4,
                started_at=datetime(2025, 1, 1, tzinfo=UTC),
                ended_at=datetime(2025, 1, 1, 1, tzinfo=UTC),
            ),
        ),
        total=22,
    )


@pytest.mark.parametrize(
    ("session_id", "segment"),
    [
        ("a/b?c#d", "a%2Fb%3Fc%23d"),
        ("100%25", "100%2525"),
        ("..", "%2E%2E"),
        (".", "%2E"),
        (".a.", ".a."),
        ("\"<>\\^`{|}+&'", "%22%3C%3E%5C%5E%60%7B%7C%7D%2B%26%27"),
    ],
)
def test_id_is_one_part_of_the_path(
    scripted_server: StartServer, client: Client, session_id: str, segment: str
) -> None:
    body = {"sessionId": session_id, "data": {}}
    server = scripted_server([answer(json.dumps(body).encode())])

    session = client(server.url, lambda s: s.get(session_id))

    assert server.requests[0].line == f"GET /v1/sessions/{segment} HTTP/1.1"
    assert session.id == session_id


# - other spellings, and what is missing -


@pytest.mark.parametrize(
    "spelled",
    [
        {"sessionId": "s-1", "state": {"variables": {"a": 1}}},
        {"session_id": "s-1", "data": {"variables": {"a": 1}}},
        {"sessionId": "s-1", "state": "active", "data": {"variables": {"a": 1}}},
        {"sessionId": "s-1", "state": None, "data": {"variables": {"a": 1}, "messages": None}},
        {"sessionId": "s-1", "data": {"variables": {"a": 1}, "x": 1}, "y": [2], "detail": "z"},
    ],
)
def test_session_is_read_in_every_spelling(ask: Callable[..., Any], spelled: object) -> None:
    session = ask(spelled, get_it)

    assert (session.id, session.variables, session.messages) == ("s-1", {"a": 1}, ())
    assert session.created_at is None


@pytest.mark.parametrize(
    ("written", "time"),
    [
        ("2025-01-02T03:04:05Z", datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2025-01-02T05:04:05.5+02:00", datetime(2025, 1, 2, 3, 4, 5, 500_000, UTC)),
        ("2025-01-02 03:04:05", datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)),
        (1735787045, datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)),
        (1735787045000, datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)),
        (None, None),
        ("", None),
        ("yesterday", None),
        ("0001-01-01T00:00:00+23:00", None),
        (1e300, None),
        (-1e300, None),
        (True, None),
        ({"$date": 1}, None),
    ],
)
def test_time_is_read_where_it_can_be(
    ask: Callable[..., Any], written: object, time: datetime | None
) -> None:
    session = ask({"sessionId": "s-1", "data": {}, "createdAt": written}, get_it)

    assert session.created_at == time


def test_times_of_any_zone_are_converted_to_utc() -> None:
    session = read_session({"sessionId": "s", "data": {}, "updatedAt": "2025-01-01T09:00:00+09:00"})

    assert session.updated_at == datetime(2025, 1, 1, 9, tzinfo=timezone(timedelta(hours=9)))
    assert str(session.updated_at) == "2025-01-01 00:00:00+00:00"


def test_messages_that_cannot_be_read_are_left_in_data(ask: Callable[..., Any]) -> None:
    messages = [
        {"role": "narrator", "content": "Once upon a time"},
        "text",
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "Hi", "timestamp": 7},
        {"role": "tool", "content": "no id"},
    ]

    session = ask({"sessionId": "s-1", "data": {"messages": messages}}, get_it)

    assert session.messages == (SystemMessage(content="Be brief."), User(content="Hi"))
    assert session.data["messages"] == messages


def test_fields_that_only_our_server_sends_are_read(ask: Callable[..., Any]) -> None:
    message = {"role": "tool", "tool_call_id": "c", "content": "late", "outcome": "timeout"}

    session = ask({"sessionId": "s-1", "data": {"messages": [message]}}, get_it)

    assert session.messages == (ToolMessage(tool_call_id="c", content="late", outcome="timeout"),)


def test_incomplete_messages_of_other_servers_are_read(ask: Callable[..., Any]) -> None:
    function = {"name": "add", "arguments": {"a": 1}}
    messages = [
        {"role": "assistant", "tool_calls": [{"id": "c", "function": function}], "id": "m1"},
        {"role": "tool", "tool_call_id": "c", "name": "add", "content": 3},
    ]

    session = ask({"sessionId": "s-1", "data": {"messages": messages}}, get_it)

    [answer, result] = session.messages
    assert answer.tool_calls == (ToolCall(id="c", name="add", arguments='{"a":1}'),)
    assert result == ToolMessage(tool_call_id="c", content="3")


def test_page_without_pagination_has_no_total(ask: Callable[..., Any]) -> None:
    assert ask({"results": []}, search_it) == SessionPage(items=(), total=None)
    assert ask({"data": [{"session_id": "a"}], "pagination": None}, list_it) == SessionPage(
        items=(SessionEntry(id="a"),), total=None
    )
    assert ask({"data": [], "pagination": {"total": "many"}}, list_it).total is None


def test_end_may_be_answered_without_a_body(ask: Callable[..., Any]) -> None:
    assert ask(b"", end_it, "204 No Content") is None


# - what goes wrong -


def test_unknown_session_is_not_found(scripted_server: StartServer, client: Client) -> None:
    body = b'{"error": {"message": "Session not found", "type": "not_found"}}'
    server = scripted_server([answer(body, "404 Not Found")])

    with pytest.raises(SessionNotFound, match="no session 's-1'") as caught:
        client(server.url, get_it)

    assert isinstance(caught.value.__cause__, ProviderError)
    assert "Session not found" in str(caught.value.__cause__)


def test_empty_id_is_not_found_unasked(scripted_server: StartServer, client: Client) -> None:
    server = scripted_server()

    with pytest.raises(SessionNotFound):
        client(server.url, lambda s: s.get(""))

    assert server.connections == 0


def test_other_content_under_the_same_id_is_a_conflict(
    scripted_server: StartServer, client: Client
) -> None:
    server = scripted_server([answer(b'{"error": "exists"}', "409 Conflict")])

    with pytest.raises(SessionConflict, match="'s-1'") as caught:
        client(server.url, create_it)

    assert isinstance(caught.value.__cause__, ProviderError)


@pytest.mark.parametrize(
    ("question", "status"),
    [
        (create_it, "404 Not Found"),
        (search_it, "404 Not Found"),
        (get_it, "409 Conflict"),
        (end_it, "409 Conflict"),
        (get_it, "401 Unauthorized"),
        (list_it, "400 Bad Request"),
        (list_it, "302 Found"),
        (search_it, "503 Service Unavailable"),
    ],
)
def test_other_error_status_is_a_provider_error(
    scripted_server: StartServer, client: Client, question: Ask, status: str
) -> None:
    body = b'{"error": {"message": "Invalid it is", "type": "some_error", "code": "c1"}}'
    server = scripted_server([answer(body, status, Retry_After="7")])

    with pytest.raises(ProviderError, match="Invalid it is") as caught:
        client(server.url, question)

    assert caught.value.status == int(status[:3])
    assert (caught.value.type, caught.value.code) == ("some_error", "c1")
    assert caught.value.body == body.decode()
    assert caught.value.retry_after == 7


@pytest.mark.parametrize("body", [b"<html>Bad gateway</html>", b"oops", b"\xff\xfe"])
def test_good_status_without_json_is_a_provider_error(ask: Callable[..., Any], body: bytes) -> None:
    with pytest.raises(ProviderError, match="with a body that is not JSON") as caught:
        ask(body, get_it)

    assert caught.value.status == 200


def test_error_inside_an_answer_is_a_provider_error(ask: Callable[..., Any]) -> None:
    with pytest.raises(ProviderError, match="no such luck"):
        ask({"error": {"message": "no such luck"}}, search_it)


def test_empty_answer_is_incomplete(ask: Callable[..., Any]) -> None:
    with pytest.raises(IncompleteResponse, match="empty body"):
        ask(b"", get_it)


@pytest.mark.parametrize(
    ("question", "body", "said"),
    [
        (create_it, {}, "sessionId of the provider's answer .* is missing"),
        (create_it, {"sessionId": ""}, "sessionId of .* not empty, and is a text"),
        (create_it, {"sessionId": 7}, "sessionId of .*, and is a number"),
        (create_it, [], "the provider's answer must be an object, and is a list"),
        (get_it, {"data": {}}, "sessionId of"),
        (get_it, {"sessionId": "a"}, "data of .* must be an object, and is missing"),
        (get_it, {"sessionId": "a", "data": 5}, "data of .*, and is a number"),
        (get_it, {"sessionId": "a", "data": {"variables": []}}, r"data\.variables of"),
        (get_it, {"sessionId": "a", "data": {"messages": {}}}, r"data\.messages of"),
        (search_it, {"data": []}, "results of .* must be a list, and is missing"),
        (search_it, {"results": [{"sessionId": "a", "data": {}}, 3]}, r"results\[1\] of"),
        (search_it, {"results": [{"data": {}}]}, r"results\[0\]\.sessionId of"),
        (search_it, {"results": [{"sessionId": "a"}]}, r"results\[0\]\.data of"),
        (list_it, {"data": {}}, "data of .* must be a list, and is an object"),
        (list_it, {"data": [{"sessionId": False}]}, r"data\[0\]\.sessionId of .* true or false"),
        (end_it, {"success": False}, "success of .* must be true"),
    ],
)
def test_error_for_an_answer_of_the_wrong_form_names_the_field(
    ask: Callable[..., Any], question: Ask, body: object, said: str
) -> None:
    with pytest.raises(MalformedResponse, match=said) as caught:
        ask(body, question)

    assert not caught.value.retryable


@pytest.mark.parametrize(
    "body",
    [
        f'{{"sessionId": "a", "data": {{"messages": ["{CANARY}"'.encode(),
        f'{{"sessionId": "a", "data": "{CANARY}"}}'.encode(),
        b'{"data":' * 150 + f'"{CANARY}"'.encode() + b"}" * 150,
    ],
    ids=["cut off", "wrong type", "too deep"],
)
def test_malformed_answer_is_reported_without_its_contents(
    ask: Callable[..., Any], body: bytes
) -> None:
    with pytest.raises(MalformedResponse) as caught:
        ask(body, get_it)

    assert CANARY not in str(caught.value)


def test_session_shows_no_contents() -> None:
    session = read_session(
        {"sessionId": "s-1", "data": {"variables": {"a": CANARY}, "messages": [CANARY]}}
    )

    assert CANARY not in repr(session)


def test_answer_of_any_size_is_not_read(
    scripted_server: StartServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pathors_agent.sessions.client.MAX_ANSWER_BYTES", 1000)
    monkeypatch.setattr("pathors_agent.sessions.answers.MAX_ANSWER_BYTES", 1000)
    server = scripted_server([answer(b'{"results": [' + b" " * 1000 + b"]}")])

    with pytest.raises(MalformedResponse, match="more than 1000 bytes"):
        client(server.url, search_it)


def test_answer_of_the_largest_size_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pathors_agent.sessions.answers.MAX_ANSWER_BYTES", 15)

    assert read_object(b'{"results": []}') == {"results": []}


def test_error_page_is_read_in_part(scripted_server: StartServer, client: Client) -> None:
    server = scripted_server([answer(b"x" * 1_000_000, "500 Internal Server Error")])

    with pytest.raises(ProviderError) as caught:
        client(server.url, get_it)

    assert caught.value.body == "x" * 2048


def test_connection_that_breaks_is_a_transport_error(
    scripted_server: StartServer, client: Client
) -> None:
    whole = answer(b'{"sessionId": "s-1", "pathwayId": "p"}')
    server = scripted_server([whole[:-5], CLOSE])

    with pytest.raises(TransportError) as caught:
        client(server.url, create_it)

    assert caught.value.retryable


# - around other transports -


def test_requests_are_repeated_while_their_failure_may_pass(
    scripted_server: StartServer, client: Client
) -> None:
    body = b'{"sessionId": "s-1", "pathwayId": "p"}'
    server = scripted_server([CLOSE], [answer(b"", "503 Busy")], [answer(body)])

    assert client(server.url, create_it, retrying=True).id == "s-1"

    lines = [received.line for received in server.requests]
    keys = {received.headers["idempotency-key"] for received in server.requests}
    assert lines == ["POST /v1/sessions HTTP/1.1"] * 3
    assert len(keys) == 1


def test_request_without_body_is_repeated(scripted_server: StartServer, client: Client) -> None:
    server = scripted_server([answer(b"", "429 Slow down")], [answer(b'{"data": []}')])

    assert client(server.url, list_it, retrying=True) == SessionPage(items=())

    assert [received.body for received in server.requests] == [b"", b""]


def test_session_that_is_not_found_is_asked_for_once(
    scripted_server: StartServer, client: Client
) -> None:
    server = scripted_server([answer(b"{}", "404 Not Found")])

    with pytest.raises(AgentError):
        client(server.url, get_it, retrying=True)

    assert len(server.requests) == 1
