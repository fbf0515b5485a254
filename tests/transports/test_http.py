"""HTTP transports against real sockets: what is sent, what comes back, and what goes wrong."""

import gzip
import socket
import ssl
import subprocess
import sys
import traceback
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import httpx2
import pytest
import trustme

import pathors_agent
from pathors_agent.errors import AuthenticationError, InvalidSetting, TransportError
from pathors_agent.transports.aiohttp import AiohttpTransport
from pathors_agent.transports.base import AsyncTransport, Request
from pathors_agent.transports.endpoint import keeps_history
from pathors_agent.transports.http import AsyncHTTPTransport, HTTPTransport, Timeouts
from pathors_agent.wire.profiles import EndpointProfile
from servers import (
    CLOSE,
    RESET,
    STALL,
    Drip,
    FakeLLMServer,
    LLMockServer,
    ScriptedServer,
    Step,
    answer,
    chunk,
    head,
)

CANARY = "sk_canary_0123456789"
REQUEST = Request(body=b'{"messages": []}')
CHUNKED = head(Transfer_Encoding="chunked")

StartServer = Callable[..., ScriptedServer]


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    session_id: str | None
    body: bytes


@dataclass
class Fetch:
    """One whole request and answer: by the blocking transport, an async one, or aiohttp's."""

    way: str
    pieces: list[bytes] = field(default_factory=list)

    def __call__(self, base_url: str, request: Request = REQUEST, **settings: Any) -> Answer:
        if self.way == "blocking":
            return self._blocking(base_url, request, settings)
        backend = "asyncio" if self.way == "aiohttp" else self.way
        return anyio.run(self._async, base_url, request, settings, backend=backend)

    def _blocking(self, base_url: str, request: Request, settings: dict[str, Any]) -> Answer:
        settings.setdefault("retries", 0)
        with HTTPTransport(base_url, **settings) as transport, transport.send(request) as response:
            self.pieces.extend(response.pieces)
            return self._answer(response)

    async def _async(self, base_url: str, request: Request, settings: dict[str, Any]) -> Answer:
        make = AiohttpTransport if self.way == "aiohttp" else AsyncHTTPTransport
        settings.setdefault("retries", 0)
        async with (
            make(base_url, **settings) as transport,
            transport.send(request) as response,
        ):
            async for piece in response.pieces:
                self.pieces.append(piece)
            return self._answer(response)

    def _answer(self, response: Any) -> Answer:
        return Answer(response.status, response.headers, response.session_id, b"".join(self.pieces))


@pytest.fixture(params=["blocking", "asyncio", "trio", "aiohttp"])
def fetch(request: pytest.FixtureRequest) -> Fetch:
    return Fetch(request.param)


AsyncMaker = type[AsyncHTTPTransport] | type[AiohttpTransport]

on_each_loop = pytest.mark.parametrize(
    ("anyio_backend", "make"),
    [
        ("asyncio", AsyncHTTPTransport),
        ("trio", AsyncHTTPTransport),
        ("asyncio", AiohttpTransport),
    ],
)
of_each_kind = pytest.mark.parametrize(
    "make", [HTTPTransport, AsyncHTTPTransport, AiohttpTransport]
)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PATHORS_API_KEY", "PATHORS_PROJECT_ID", "PATHORS_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


# - what is sent -


def test_request_is_posted_with_these_headers(scripted_server: StartServer, fetch: Fetch) -> None:
    server = scripted_server([answer(b"hi")])

    fetch(server.url, api_key="sk_1")

    (received,) = server.requests
    assert received.line == "POST /v1/chat/completions HTTP/1.1"
    assert received.body == b'{"messages": []}'
    # HTTP/1.1 keeps connections alive unasked.
    assert received.headers.get("connection", "keep-alive") == "keep-alive"
    assert {**received.headers, "connection": "keep-alive"} == {
        "host": f"127.0.0.1:{server.port}",
        "accept": "text/event-stream, application/json",
        "accept-encoding": "gzip, deflate",
        "authorization": "Bearer sk_1",
        "connection": "keep-alive",
        "content-length": "16",
        "content-type": "application/json",
        "user-agent": f"pathors-agent/{pathors_agent.__version__}",
    }


def test_without_key_no_authorization_is_sent(scripted_server: StartServer, fetch: Fetch) -> None:
    server = scripted_server([answer()])

    fetch(server.url)

    assert "authorization" not in server.requests[0].headers


def test_user_name_in_address_is_sent_as_basic_authentication(
    scripted_server: StartServer, fetch: Fetch
) -> None:
    server = scripted_server([answer()])

    fetch(server.url.replace("http://", "http://me:p%40ss@"))

    # base64 of "me:p@ss"
    assert server.requests[0].headers["authorization"] == "Basic bWU6cEBzcw=="
    assert server.requests[0].headers["host"] == f"127.0.0.1:{server.port}"


def test_headers_of_request_win_over_those_of_transport_and_ours(
    scripted_server: StartServer, fetch: Fetch
) -> None:
    server = scripted_server([answer()])
    request = Request(body=b"{}", headers={"X-B": "request's", "user-agent": "mine"})

    fetch(server.url, request, headers={"x-a": "transport's", "x-b": "transport's"})

    headers = server.requests[0].headers
    assert (headers["x-a"], headers["x-b"]) == ("transport's", "request's")
    assert headers["user-agent"] == "mine"


@pytest.mark.parametrize(
    ("suffix", "target"),
    [
        ("", "/v1/chat/completions"),
        ("/", "/v1/chat/completions"),
        ("/?api-version=2024&x=a%20b", "/v1/chat/completions?api-version=2024&x=a%20b"),
        ("?api-version=2024#top", "/v1/chat/completions?api-version=2024"),
        ("/chat/completions", "/v1/chat/completions"),
        ("/chat/completions//", "/v1/chat/completions"),
        ("//chat/completions", "/v1/chat/completions"),
        ("/chat/completions?api-version=2024#top", "/v1/chat/completions?api-version=2024"),
        ("/chat/completions/?a=/chat/completions", "/v1/chat/completions?a=/chat/completions"),
        ("/chat/completions/more", "/v1/chat/completions/more/chat/completions"),
        ("/mychat/completions", "/v1/mychat/completions/chat/completions"),
    ],
)
def test_path_is_added_to_base_and_query_is_kept(
    scripted_server: StartServer, fetch: Fetch, suffix: str, target: str
) -> None:
    server = scripted_server([answer()])

    fetch(server.url + suffix)

    assert server.requests[0].line == f"POST {target} HTTP/1.1"


@pytest.mark.parametrize("suffix", ["", "/chat/completions", "/chat/completions/"])
def test_other_operation_goes_to_its_own_path(
    scripted_server: StartServer, fetch: Fetch, suffix: str
) -> None:
    server = scripted_server([answer(b"hi")])
    request = Request(method="DELETE", path="/sessions/a%2Fb?x=%26&y=1", body=b'{"a": 1}')

    fetch(server.url + suffix, request)

    (received,) = server.requests
    assert received.line == "DELETE /v1/sessions/a%2Fb?x=%26&y=1 HTTP/1.1"
    assert received.headers["content-type"] == "application/json"
    assert received.body == b'{"a": 1}'


def test_query_of_path_follows_that_of_base(scripted_server: StartServer, fetch: Fetch) -> None:
    server = scripted_server([answer()])

    fetch(f"{server.url}/?version=1", Request(method="GET", path="/sessions?page=2", body=b""))

    assert server.requests[0].line == "GET /v1/sessions?version=1&page=2 HTTP/1.1"


def test_empty_body_is_not_sent(scripted_server: StartServer, fetch: Fetch) -> None:
    server = scripted_server([answer(b"hi")])

    answered = fetch(server.url, Request(method="GET", path="/sessions", body=b""), api_key="sk_1")

    headers = server.requests[0].headers
    assert answered.body == b"hi"
    assert not {"content-length", "content-type", "transfer-encoding"} & headers.keys()
    assert headers["authorization"] == "Bearer sk_1"


def test_answer_to_a_request_without_body_may_not_be_late(
    scripted_server: StartServer, fetch: Fetch
) -> None:
    server = scripted_server([STALL])

    with pytest.raises(TransportError, match=r"first_byte=0\.2"):
        fetch(
            server.url,
            Request(method="GET", path="/sessions", body=b""),
            timeouts=Timeouts(first_byte=0.2),
        )


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "sessions"),
        ("POST", ""),
        ("POST", "/a b"),
        ("POST", "/ü"),
        ("POST", "/a\r\nX-Evil: 1"),
        ("POST", "/a#b"),
        ("POST", "/a%2"),
        ("GET", "/sessions/.."),
        ("GET", "/./sessions"),
        ("GET /", "/sessions"),
        ("", "/sessions"),
    ],
)
def test_method_or_path_that_cannot_be_sent_is_refused_unsent(
    scripted_server: StartServer, fetch: Fetch, method: str, path: str
) -> None:
    server = scripted_server()

    with pytest.raises(TransportError, match="method or path cannot be sent") as caught:
        fetch(server.url, Request(method=method, path=path, body=b""))

    assert not caught.value.retryable
    assert server.connections == 0


def test_session_goes_and_comes_in_header(scripted_server: StartServer, fetch: Fetch) -> None:
    server = scripted_server([answer(X_Session_Id="session-2")])

    answered = fetch(server.url, Request(body=b"{}", session_id="session-1"))

    assert server.requests[0].headers["x-session-id"] == "session-1"
    assert answered.session_id == "session-2"


def test_session_header_can_have_another_name(scripted_server: StartServer, fetch: Fetch) -> None:
    server = scripted_server([answer(My_Session="2")])

    answered = fetch(server.url, Request(body=b"{}", session_id="1"), session_header="My-Session")

    assert server.requests[0].headers["my-session"] == "1"
    assert answered.session_id == "2"


def test_without_session_no_session_header_is_sent(
    scripted_server: StartServer, fetch: Fetch
) -> None:
    server = scripted_server([answer()])

    answered = fetch(server.url)

    assert "x-session-id" not in server.requests[0].headers
    assert answered.session_id is None


@pytest.mark.parametrize("session_id", ["", " a", "a\r\nX-Evil: 1", "a\x00", "sitzung-ü"])
def test_session_id_that_no_header_can_hold_is_refused_unsent(
    scripted_server: StartServer, fetch: Fetch, session_id: str
) -> None:
    server = scripted_server()

    with pytest.raises(TransportError, match="session id") as caught:
        fetch(server.url, Request(body=b"{}", session_id=session_id))

    assert not caught.value.retryable
    assert server.connections == 0


def test_header_of_request_that_cannot_be_sent_is_refused_unseen(
    scripted_server: StartServer, fetch: Fetch
) -> None:
    server = scripted_server()

    with pytest.raises(TransportError, match="X-Token") as caught:
        fetch(server.url, Request(body=b"{}", headers={"X-Token": f"{CANARY}\n"}))

    assert CANARY not in told(caught.value)
    assert server.connections == 0


@pytest.mark.parametrize(
    ("address", "keeps"),
    [
        ("https://api.pathors.com/v1/projects/p", True),
        ("http://localhost:8000/v1/projects/p", True),
        ("http://localhost:8000/v1/projects/p/", True),
        ("http://localhost:8000/v1/projects/a%20b?x=1", True),
        ("http://localhost:8000/project/p/integration/api", True),
        ("http://localhost:8000/api/project/p/integration/api", True),
        ("http://localhost:8000/behind/a/proxy/v1/projects/p", True),
        ("http://localhost/v1/projects/p/chat/completions", True),
        ("http://localhost:11434/v1", False),
        ("http://localhost:8000/v1/projects", False),
        ("http://localhost:8000/v1/projects/", False),
        ("http://localhost:8000/v1/my-projects/p", False),
        ("http://localhost:8000/v1/projects-of/p", False),
        ("http://projects/v1", False),
        ("http://localhost/v1?next=/projects/p", False),
    ],
)
@of_each_kind
def test_address_decides_who_keeps_the_history(make: Any, address: str, keeps: bool) -> None:
    by_address = "new_messages" if keeps else "history"

    assert keeps_history(address) is keeps
    assert make(address, api_key="").profile.sends == by_address
    assert make(address, api_key="k", sends="history").profile.sends == "history"
    assert make(address, api_key="k", sends="new_messages").profile.sends == "new_messages"


@of_each_kind
def test_hosted_service_keeps_the_history(make: Any) -> None:
    assert make(api_key="k", project_id="p").profile.sends == "new_messages"


@of_each_kind
def test_profile_can_say_that_another_endpoint_keeps_the_history(make: Any) -> None:
    profile = EndpointProfile(sends="new_messages", system_role="developer")

    assert make("http://127.0.0.1:1/v1", profile=profile).profile == profile


def test_cookies_are_not_kept_between_requests(scripted_server: StartServer) -> None:
    server = scripted_server([answer(Set_Cookie="session=1; Path=/")], [answer()])

    with HTTPTransport(server.url, retries=0) as transport:
        read_all(transport)
        read_all(transport)

    assert "cookie" not in server.requests[1].headers


# - settings -


def test_environment_gives_address_and_key(
    scripted_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = scripted_server([answer()])
    monkeypatch.setenv("PATHORS_BASE_URL", server.url)
    monkeypatch.setenv("PATHORS_API_KEY", "sk_from_environment")

    with HTTPTransport(retries=0) as transport:
        read_all(transport)

    assert server.requests[0].headers["authorization"] == "Bearer sk_from_environment"


def test_arguments_win_over_environment(
    scripted_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = scripted_server([answer()])
    monkeypatch.setenv("PATHORS_BASE_URL", "http://127.0.0.1:1/v1")
    monkeypatch.setenv("PATHORS_API_KEY", "sk_from_environment")

    with HTTPTransport(server.url, retries=0, api_key="sk_argument") as transport:
        read_all(transport)

    assert server.requests[0].headers["authorization"] == "Bearer sk_argument"


def test_empty_key_keeps_that_of_the_environment_at_home(
    scripted_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = scripted_server([answer()])
    monkeypatch.setenv("PATHORS_API_KEY", "sk_from_environment")

    with HTTPTransport(server.url, retries=0, api_key="") as transport:
        read_all(transport)

    assert "authorization" not in server.requests[0].headers


def test_project_makes_the_hosted_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATHORS_PROJECT_ID", "from-environment")

    with (
        HTTPTransport(api_key="k") as one,
        HTTPTransport(api_key="k", project_id="a b/ü?#%") as other,
    ):
        assert repr(one) == (
            "HTTPTransport('https://api.pathors.com/v1/projects/from-environment/chat/completions')"
        )
        assert repr(other) == (
            "HTTPTransport("
            "'https://api.pathors.com/v1/projects/a%20b%2F%C3%BC%3F%23%25/chat/completions')"
        )


@pytest.mark.parametrize("scheme", ["http://", ""])
def test_environment_gives_a_proxy(
    scripted_server: StartServer, fetch: Fetch, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    proxy = scripted_server([answer(b"hi")])
    monkeypatch.setenv("http_proxy", f"{scheme}127.0.0.1:{proxy.port}")

    assert fetch("http://elsewhere.invalid/v1").body == b"hi"

    assert proxy.requests[0].line == "POST http://elsewhere.invalid/v1/chat/completions HTTP/1.1"


def test_environment_names_hosts_without_a_proxy(
    scripted_server: StartServer, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, server = scripted_server([answer(b"proxy")]), scripted_server([answer(b"server")])
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
    monkeypatch.setenv("no_proxy", "localhost,127.0.0.1")

    assert fetch(server.url).body == b"server"


@of_each_kind
def test_missing_project_is_told(make: Callable[..., object]) -> None:
    with pytest.raises(AuthenticationError, match="project_id= or set PATHORS_PROJECT_ID"):
        make(api_key="k")


@of_each_kind
def test_missing_key_is_told(make: Callable[..., object]) -> None:
    with pytest.raises(AuthenticationError, match="api_key= or set PATHORS_API_KEY"):
        make(project_id="p")


@pytest.mark.parametrize(
    "base_url",
    [
        "localhost:11434/v1",
        "ftp://host/v1",
        "http://",
        "/v1",
        "http://host:port/v1",
        "http://host\n/v1",
        "http://[::1/v1",
    ],
)
@of_each_kind
def test_address_that_is_none_is_refused_unseen(make: Callable[..., object], base_url: str) -> None:
    with pytest.raises(InvalidSetting, match="base_url") as caught:
        make(base_url)

    assert base_url not in str(caught.value)


@pytest.mark.parametrize("project_id", [".", ".."])
@of_each_kind
def test_project_that_would_change_the_path_is_refused(
    make: Callable[..., object], project_id: str
) -> None:
    with pytest.raises(InvalidSetting, match="project_id"):
        make(api_key="k", project_id=project_id)


@pytest.mark.parametrize("ending", ["\n", "\r\nX-Evil: 1", " ", "ü", "\x7f"])
@of_each_kind
def test_key_that_no_header_can_hold_is_refused_unseen(
    make: Callable[..., object], ending: str
) -> None:
    with pytest.raises(InvalidSetting, match="API key") as caught:
        make("http://127.0.0.1:1", api_key=CANARY + ending)

    assert CANARY not in told(caught.value)


@of_each_kind
def test_header_name_that_is_none_is_refused(make: Callable[..., object]) -> None:
    with pytest.raises(InvalidSetting, match="name"):
        make("http://127.0.0.1:1", headers={"X Y": "1"})


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_limit_of_time_that_is_none_is_refused(seconds: float) -> None:
    with pytest.raises(InvalidSetting, match=r"Timeouts\.first_byte"):
        Timeouts(first_byte=seconds)


def test_refused_setting_is_a_value_error_too() -> None:
    with pytest.raises(ValueError):
        Timeouts(whole=0)


def test_profile_is_the_given_one_with_what_is_sent() -> None:
    profile = EndpointProfile(system_role="developer")

    with (
        HTTPTransport("http://127.0.0.1:1") as plain,
        HTTPTransport("http://127.0.0.1:1", sends="new_messages") as sessions,
        HTTPTransport("http://127.0.0.1:1", profile=profile, sends="new_messages") as both,
    ):
        assert plain.profile == EndpointProfile()
        assert sessions.profile == EndpointProfile(sends="new_messages")
        assert both.profile == EndpointProfile(system_role="developer", sends="new_messages")


def test_repr_hides_user_name_and_query() -> None:
    with HTTPTransport(f"http://me:{CANARY}@127.0.0.1:1/v1?key={CANARY}") as transport:
        assert repr(transport) == "HTTPTransport('http://127.0.0.1:1/v1/chat/completions')"


@pytest.mark.slow
def test_importing_the_module_does_not_import_httpx2() -> None:
    code = "import sys, pathors_agent.transports.http; sys.exit('httpx2' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# - what comes back -


@pytest.mark.parametrize("status", ["400 Bad Request", "401 No", "429 Slow", "500 Oops", "529 x"])
def test_error_status_is_given_with_its_body(
    scripted_server: StartServer, fetch: Fetch, status: str
) -> None:
    server = scripted_server([answer(b'{"error": "no"}', status, Retry_After="1")])

    answered = fetch(server.url)

    assert answered.status == int(status[:3])
    assert answered.body == b'{"error": "no"}'
    assert answered.headers == {"content-length": "15", "retry-after": "1"}


def test_answer_without_content_is_given(scripted_server: StartServer, fetch: Fetch) -> None:
    server = scripted_server([head("204 No Content")])

    answered = fetch(server.url)

    assert (answered.status, answered.body) == (204, b"")


def test_informational_answers_are_passed_over(scripted_server: StartServer, fetch: Fetch) -> None:
    server = scripted_server([head("103 Early Hints", Link="</a>"), answer(b"hi")])

    assert fetch(server.url).body == b"hi"


def test_body_without_length_ends_with_the_connection(
    scripted_server: StartServer, fetch: Fetch
) -> None:
    server = scripted_server([head(), b"hel", b"lo", CLOSE])

    assert fetch(server.url).body == b"hello"


def test_piece_is_given_as_soon_as_it_arrives(scripted_server: StartServer, fetch: Fetch) -> None:
    server = scripted_server([CHUNKED, chunk(b"data: 1\n\n"), STALL])

    with pytest.raises(TransportError, match=r"between_bytes=0\.2"):
        fetch(server.url, timeouts=Timeouts(between_bytes=0.2))

    assert fetch.pieces == [b"data: 1\n\n"]


@pytest.mark.parametrize(("encoding", "wbits"), [("gzip", 31), ("deflate", 15), ("deflate", -15)])
def test_compressed_piece_is_given_as_soon_as_it_arrives(
    scripted_server: StartServer, fetch: Fetch, encoding: str, wbits: int
) -> None:
    press = zlib.compressobj(wbits=wbits)
    piece = press.compress(b"data: 1\n\n") + press.flush(zlib.Z_SYNC_FLUSH)
    start = head(Transfer_Encoding="chunked", Content_Encoding=encoding)
    server = scripted_server([start, chunk(piece), STALL])

    with pytest.raises(TransportError, match="after 9 bytes"):
        fetch(server.url, timeouts=Timeouts(between_bytes=0.2))

    assert b"".join(fetch.pieces) == b"data: 1\n\n"


def test_compressed_body_is_unpacked(scripted_server: StartServer, fetch: Fetch) -> None:
    server = scripted_server([answer(gzip.compress(b"hello" * 1000), Content_Encoding="gzip")])

    assert fetch(server.url).body == b"hello" * 1000


def test_connection_of_a_finished_answer_is_used_again(scripted_server: StartServer) -> None:
    server = scripted_server([answer(b"1")], [answer(b"2")])

    with HTTPTransport(server.url, retries=0) as transport:
        assert (read_all(transport), read_all(transport)) == (b"1", b"2")

    assert server.connections == 1


def test_connection_is_used_again_when_reading_stopped_before_its_last_bytes(
    scripted_server: StartServer,
) -> None:
    script = [CHUNKED, chunk(b"data: [DONE]\n\n"), chunk(b": bye\n\n") + b"0\r\n\r\n"]
    server = scripted_server(script, script)

    with HTTPTransport(server.url, retries=0) as transport:
        for _ in range(2):
            with transport.send(REQUEST) as response:
                assert next(iter(response.pieces)).startswith(b"data: [DONE]")

    assert server.connections == 1


@pytest.mark.anyio
@on_each_loop
async def test_connection_is_used_again_when_reading_stopped_before_its_last_bytes_async(
    scripted_server: StartServer, make: AsyncMaker
) -> None:
    script = [CHUNKED, chunk(b"data: [DONE]\n\n"), chunk(b": bye\n\n") + b"0\r\n\r\n"]
    server = scripted_server(script, script)

    async with make(server.url, retries=0) as transport:
        for _ in range(2):
            async with transport.send(REQUEST) as response:
                async for piece in response.pieces:
                    assert piece.startswith(b"data: [DONE]")
                    break

    assert server.connections == 1


def test_server_that_never_ends_its_body_does_not_hold_the_caller(
    scripted_server: StartServer,
) -> None:
    server = scripted_server([CHUNKED, chunk(b"data: [DONE]\n\n"), STALL])
    patient = Timeouts(between_bytes=3600, whole=3600)

    with HTTPTransport(server.url, retries=0, timeouts=patient) as transport:
        with transport.send(REQUEST) as response:
            assert next(iter(response.pieces)) == b"data: [DONE]\n\n"


def test_flood_after_the_answer_is_not_read(scripted_server: StartServer) -> None:
    server = scripted_server([CHUNKED, chunk(b"data: [DONE]\n\n"), Drip(chunk(b"x" * 9_000), 0)])

    with HTTPTransport(server.url, retries=0) as transport, transport.send(REQUEST) as response:
        next(iter(response.pieces))

    server.wait_until_clients_left()


def test_key_in_an_error_of_the_provider_is_masked(
    scripted_server: StartServer, fetch: Fetch
) -> None:
    body = b'{"error": {"message": "Incorrect API key provided: ' + CANARY.encode() + b'"}}'
    server = scripted_server([answer(body, "401 Unauthorized")])

    got = fetch(server.url, api_key=CANARY)

    assert got.body == b'{"error": {"message": "Incorrect API key provided: ***"}}'


# - limits of time -


@pytest.mark.parametrize(
    ("script", "limit"),
    [
        pytest.param([STALL], "first_byte=0.2", id="nothing"),
        pytest.param(
            [b"HTTP/1.1 200 O", Drip(b"K", 0.02)], "first_byte=0.2", id="endless status line"
        ),
        pytest.param(
            [b"HTTP/1.1 200 OK\r\n", Drip(b"X: y\r\n", 0.02)], "first_byte=0.2", id="endless head"
        ),
        pytest.param(
            [Drip(b"HTTP/1.1 103 Wait\r\n\r\n", 0.02)], "first_byte=0.2", id="endless hints"
        ),
        pytest.param([CHUNKED, STALL], "first_byte=0.2", id="head only"),
        pytest.param([CHUNKED, chunk(b"a"), STALL], "between_bytes=0.1", id="silence"),
        pytest.param([CHUNKED, Drip(chunk(b": alive\n\n"), 0.02)], "whole=0.6", id="endless body"),
    ],
)
def test_slow_server_is_left_at_the_limit(
    scripted_server: StartServer, fetch: Fetch, script: Iterable[Step], limit: str
) -> None:
    server = scripted_server(script)
    timeouts = Timeouts(first_byte=0.2, between_bytes=0.1, whole=0.6)

    with pytest.raises(TransportError) as caught:
        fetch(server.url, timeouts=timeouts)

    assert f"the limit is Timeouts({limit})" in str(caught.value)
    assert f"127.0.0.1:{server.port}" in str(caught.value)
    server.wait_until_clients_left()


def test_silence_before_the_first_byte_may_be_longer_than_later_ones(
    scripted_server: StartServer, fetch: Fetch
) -> None:
    # Drip waits before it sends: the first byte comes after 0.3 s, longer than between_bytes.
    server = scripted_server([CHUNKED, Drip(chunk(b"a"), 0.3)])

    with pytest.raises(TransportError, match="between_bytes"):
        fetch(server.url, timeouts=Timeouts(first_byte=20, between_bytes=0.1))

    assert fetch.pieces == [b"a"]


@pytest.mark.parametrize("script", [[STALL], [CHUNKED, chunk(b"a"), STALL]])
def test_no_read_waits_longer_than_the_whole_may_take(
    scripted_server: StartServer, fetch: Fetch, script: Iterable[Step]
) -> None:
    server = scripted_server(script)

    with pytest.raises(TransportError, match=r"whole=0\.3") as caught:
        fetch(server.url, timeouts=Timeouts(first_byte=3600, between_bytes=3600, whole=0.3))

    assert not caught.value.retryable


def test_limits_hold_on_a_connection_used_again(scripted_server: StartServer) -> None:
    server = scripted_server([answer(b"1")], [b"HTTP/1.1 200 OK\r\n", Drip(b"X: y\r\n", 0.02)])

    with HTTPTransport(server.url, retries=0, timeouts=Timeouts(first_byte=0.3)) as transport:
        read_all(transport)
        with pytest.raises(TransportError, match=r"first_byte=0\.3"):
            read_all(transport)

    assert server.connections == 1


class EndlessBody(httpx2.SyncByteStream):
    """A body that is never waited for: no read of a connection notices the time."""

    def __iter__(self) -> Iterator[bytes]:
        while True:
            yield b"a"


def test_whole_is_limited_where_no_read_waits() -> None:
    endless = httpx2.MockTransport(lambda _: httpx2.Response(200, stream=EndlessBody()))

    with httpx2.Client(transport=endless) as client:
        transport = HTTPTransport("http://127.0.0.1:1", client=client, timeouts=Timeouts(whole=0.2))
        with transport.send(REQUEST) as response, pytest.raises(TransportError, match="whole"):
            for _ in response.pieces:
                pass


def test_no_limits_are_possible(scripted_server: StartServer, fetch: Fetch) -> None:
    server = scripted_server([answer(b"hi")])
    timeouts = Timeouts(connect=None, first_byte=None, between_bytes=None, whole=None)

    assert fetch(server.url, timeouts=timeouts).body == b"hi"


def test_connection_that_is_not_accepted_is_given_up(fetch: Fetch) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address = full.getsockname()
        waiting = [socket.socket() for _ in range(3)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(address)

        with pytest.raises(TransportError, match=r"Timeouts\(connect=0\.2\)") as caught:
            fetch(f"http://127.0.0.1:{address[1]}", timeouts=Timeouts(connect=0.2))

        for client in waiting:
            client.close()
    assert caught.value.retryable


def test_wait_for_a_free_connection_is_limited(scripted_server: StartServer) -> None:
    server = scripted_server([CHUNKED, chunk(b"a"), STALL])
    limits = httpx2.Limits(max_connections=1)

    with httpx2.Client(limits=limits) as client:
        transport = HTTPTransport(
            server.url, retries=0, client=client, timeouts=Timeouts(connect=0.2)
        )
        with (
            transport.send(REQUEST),
            pytest.raises(TransportError, match=r"connect=0\.2"),
            transport.send(REQUEST),
        ):
            pass


# - failures -


@pytest.mark.parametrize(
    ("script", "received"),
    [
        pytest.param([RESET], 0, id="reset before the head"),
        pytest.param([CLOSE], 0, id="closed before the head"),
        pytest.param([b"HTTP/1.1 200 O", RESET], 0, id="reset in the head"),
        pytest.param([b"HTTP/1.1 200 O", CLOSE], 0, id="closed in the head"),
        pytest.param([b"SSH-2.0-OpenSSH\r\n\r\n", STALL], 0, id="not HTTP"),
        pytest.param([CHUNKED, chunk(b"abc"), CLOSE], 3, id="closed in the body"),
        pytest.param([head(Content_Length="9"), b"abc", CLOSE], 3, id="body shorter than told"),
    ],
)
def test_broken_answer_is_a_transport_error(
    scripted_server: StartServer, fetch: Fetch, script: Iterable[Step], received: int
) -> None:
    server = scripted_server(script)

    with pytest.raises(TransportError) as caught:
        fetch(server.url)

    assert type(caught.value) is TransportError
    assert caught.value.retryable
    assert f"after {received} bytes" in str(caught.value)
    assert f"http://127.0.0.1:{server.port}" in str(caught.value)
    assert isinstance(caught.value.__cause__, httpx2.TransportError | aiohttp.ClientError)
    assert len(b"".join(fetch.pieces)) == received
    assert len(server.requests) == 1


def test_garbled_chunk_is_a_transport_error(scripted_server: StartServer, fetch: Fetch) -> None:
    # aiohttp drops what comes in one packet with the garbled bytes.
    server = scripted_server([CHUNKED, chunk(b"abc"), Drip(b"zz\r\n", 0.05)])

    with pytest.raises(TransportError, match=r"garbled its answer after [03] bytes") as caught:
        fetch(server.url)

    assert caught.value.retryable
    server.wait_until_clients_left()


def test_reset_in_the_body_is_a_transport_error(scripted_server: StartServer, fetch: Fetch) -> None:
    # A reset may overtake what was sent before it.
    server = scripted_server([CHUNKED, chunk(b"abc"), RESET])

    with pytest.raises(TransportError, match=r"(broke|cut off .*) after [03] bytes") as caught:
        fetch(server.url)

    assert caught.value.retryable


def test_refused_connection_is_told(fetch: Fetch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    with pytest.raises(TransportError, match=f"No connection to http://127.0.0.1:{port}") as caught:
        fetch(f"http://127.0.0.1:{port}/v1")

    assert caught.value.retryable


# httpx2 leaves a generator to the garbage collector when its own decoder fails; trio warns of it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_body_that_cannot_be_unpacked_is_final(scripted_server: StartServer, fetch: Fetch) -> None:
    server = scripted_server([answer(b"no gzip", Content_Encoding="gzip")])

    with pytest.raises(TransportError, match="decompressed") as caught:
        fetch(server.url)

    assert not caught.value.retryable


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Same", "308 Same"])
def test_redirect_is_refused_and_the_key_stays_here(
    scripted_server: StartServer, fetch: Fetch, status: str
) -> None:
    elsewhere = scripted_server([answer()])
    server = scripted_server([answer(b"", status, Location=elsewhere.url)])

    with pytest.raises(TransportError, match=f"answered {status[:3]}") as caught:
        fetch(server.url, api_key=CANARY)

    assert not caught.value.retryable
    assert elsewhere.connections == 0


def test_redirect_with_an_endless_body_is_closed(
    scripted_server: StartServer, fetch: Fetch
) -> None:
    moved = head("301 Moved", Location="http://127.0.0.1:1", Transfer_Encoding="chunked")
    server = scripted_server([moved, chunk(b"a"), STALL])

    with pytest.raises(TransportError, match="301"):
        fetch(server.url)

    server.wait_until_clients_left()


def test_redirect_is_refused_through_a_client_that_follows(scripted_server: StartServer) -> None:
    elsewhere = scripted_server([answer()])
    server = scripted_server([answer(b"", "307 Same", Location=elsewhere.url)])

    with httpx2.Client(follow_redirects=True) as client:
        transport = HTTPTransport(server.url, retries=0, client=client)
        with pytest.raises(TransportError, match="307"):
            read_all(transport)

    assert elsewhere.connections == 0


# - TLS -


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a certificate for 127.0.0.1, its key, and the authority that signed it, in one file."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    file = tmp_path_factory.mktemp("tls") / "certificate.pem"
    issued.private_key_and_cert_chain_pem.write_to_path(file)
    authority.cert_pem.write_to_path(file, append=True)
    return file


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def test_certificate_of_unknown_issuer_is_final(
    scripted_server: StartServer, tls: ssl.SSLContext, fetch: Fetch
) -> None:
    server = scripted_server([answer()], tls=tls)

    with pytest.raises(TransportError, match=r"(?i)certificate") as caught:
        fetch(server.url)

    assert not caught.value.retryable
    assert server.requests == []


def test_server_that_does_not_answer_in_tls_is_left_at_the_limit(
    scripted_server: StartServer, fetch: Fetch
) -> None:
    server = scripted_server()

    with pytest.raises(TransportError, match=r"No connection to https://.*connect=0\.2"):
        fetch(server.url.replace("http:", "https:"), timeouts=Timeouts(connect=0.2))


def test_limits_hold_over_tls(
    scripted_server: StartServer, tls: ssl.SSLContext, certificate: Path
) -> None:
    server = scripted_server([CHUNKED, chunk(b"a"), STALL], tls=tls)
    trusting = ssl.create_default_context(cafile=certificate)

    with httpx2.Client(verify=trusting) as client:
        transport = HTTPTransport(
            server.url, client=client, timeouts=Timeouts(first_byte=30, between_bytes=0.2)
        )
        with pytest.raises(TransportError, match="between_bytes"):
            read_all(transport)


@pytest.mark.anyio
async def test_limits_hold_over_tls_async(
    scripted_server: StartServer, tls: ssl.SSLContext, certificate: Path
) -> None:
    server = scripted_server([CHUNKED, chunk(b"a"), STALL], tls=tls)
    trusting = ssl.create_default_context(cafile=certificate)

    async with httpx2.AsyncClient(verify=trusting) as client:
        transport = AsyncHTTPTransport(
            server.url, client=client, timeouts=Timeouts(first_byte=30, between_bytes=0.2)
        )
        with pytest.raises(TransportError, match="between_bytes"):
            await read_all_async(transport)


# - closing -


def test_leaving_early_closes_the_connection(scripted_server: StartServer) -> None:
    server = scripted_server([CHUNKED, chunk(b"a"), STALL], [answer(b"next")])

    with HTTPTransport(server.url, retries=0) as transport:
        with transport.send(REQUEST) as response:
            for _ in response.pieces:
                break
        server.wait_until_clients_left()
        assert read_all(transport) == b"next"


def test_leaving_unread_closes_the_connection(scripted_server: StartServer) -> None:
    server = scripted_server([CHUNKED, STALL])

    with HTTPTransport(server.url, retries=0) as transport:
        with transport.send(REQUEST):
            pass
        server.wait_until_clients_left()


@pytest.mark.anyio
@pytest.mark.parametrize("read", [0, 1])
@on_each_loop
async def test_leaving_early_closes_the_connection_async(
    scripted_server: StartServer, make: AsyncMaker, read: int
) -> None:
    server = scripted_server([CHUNKED, chunk(b"a"), STALL])

    async with make(server.url, retries=0) as transport:
        async with transport.send(REQUEST) as response:
            if read:
                async for _ in response.pieces:
                    break
        await anyio.to_thread.run_sync(server.wait_until_clients_left)


@pytest.mark.anyio
@pytest.mark.parametrize("script", [[STALL], [CHUNKED, STALL], [CHUNKED, chunk(b"a"), STALL]])
@on_each_loop
async def test_cancelling_closes_the_connection(
    scripted_server: StartServer, make: AsyncMaker, script: Iterable[Step]
) -> None:
    server = scripted_server(script)

    async with make(server.url, retries=0) as transport:
        with anyio.move_on_after(0.2) as scope:
            await read_all_async(transport)
        await anyio.to_thread.run_sync(server.wait_until_clients_left)

    assert scope.cancelled_caught


def test_own_client_is_closed(scripted_server: StartServer) -> None:
    server = scripted_server([answer()])

    with HTTPTransport(server.url, retries=0) as transport:
        read_all(transport)

    server.wait_until_clients_left()
    with pytest.raises(TransportError, match="closed"):
        read_all(transport)


def test_client_of_the_caller_stays_open(scripted_server: StartServer) -> None:
    server = scripted_server([answer()])

    with httpx2.Client() as client:
        with HTTPTransport(server.url, retries=0, client=client) as transport:
            read_all(transport)
        assert not client.is_closed


def test_what_the_caller_changes_on_a_client_goes_with_the_next_request(
    scripted_server: StartServer,
) -> None:
    server = scripted_server([answer()], [answer()], [answer()])

    with httpx2.Client(headers={"X-Version": "1"}, cookies={"seat": "12"}) as client:
        transport = HTTPTransport(server.url, retries=0, client=client)
        read_all(transport)
        client.headers["X-Version"] = "2"
        client.params = httpx2.QueryParams({"tier": "flex"})
        client.cookies.set("seat", "34")
        read_all(transport)
        client.cookies.clear()
        read_all(transport)

    first, second, third = server.requests
    assert [r.headers["x-version"] for r in server.requests] == ["1", "2", "2"]
    assert first.line.split()[1] == "/v1/chat/completions"
    assert second.line.split()[1] == "/v1/chat/completions?tier=flex"
    assert [r.headers.get("cookie") for r in (first, second, third)] == ["seat=12", "seat=34", None]


@pytest.mark.anyio
async def test_client_of_the_caller_stays_open_async(scripted_server: StartServer) -> None:
    server = scripted_server([answer()])

    async with httpx2.AsyncClient() as client:
        async with (
            AsyncHTTPTransport(server.url, retries=0, client=client) as transport,
            transport.send(REQUEST),
        ):
            pass
        assert not client.is_closed


# - secrets -


# As above: of the generator that httpx2 leaves when a decoder fails.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "script",
    [
        [RESET],
        [STALL],
        [CHUNKED, chunk(b"a"), CLOSE],
        [f"{CANARY} says the server\r\n\r\n".encode(), CLOSE],
        [b"SSH-2.0-OpenSSH\r\n\r\n", CLOSE],
        [CHUNKED, f"Bearer {CANARY}\r\n".encode(), CLOSE],
        [answer(b"", "301 Moved", Location=f"http://127.0.0.1:1/{CANARY}")],
        [answer(b"no gzip", Content_Encoding="gzip")],
    ],
)
def test_key_is_in_no_error_and_no_log(
    scripted_server: StartServer,
    fetch: Fetch,
    script: Iterable[Step],
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = scripted_server(script)
    caplog.set_level("DEBUG")

    with pytest.raises(TransportError) as caught:
        fetch(server.url, api_key=CANARY, timeouts=Timeouts(first_byte=0.2))

    assert CANARY not in told(caught.value)
    logged = [record for record in caplog.records if record.name.startswith("pathors_agent")]
    assert CANARY not in str(logged)


def test_secret_header_is_in_no_error(scripted_server: StartServer, fetch: Fetch) -> None:
    server = scripted_server([f"{CANARY}\r\n\r\n".encode(), CLOSE])

    with pytest.raises(TransportError) as caught:
        fetch(server.url, headers={"api-key": CANARY})

    assert CANARY not in told(caught.value)
    assert "***" in str(caught.value)


# - model servers made by others -


@pytest.mark.parametrize("stream", [False, True])
def test_llmock_answers(llmock_server: LLMockServer, fetch: Fetch, stream: bool) -> None:
    answered = fetch(llmock_server.url, completion(stream=stream), api_key="sk_x")

    assert answered.status == 200
    assert answered.body.endswith(b"data: [DONE]\n\n") is stream


@pytest.mark.parametrize("stream", [False, True])
def test_fakellm_answers_by_rule(fakellm_server: FakeLLMServer, fetch: Fetch, stream: bool) -> None:
    fakellm_server.rules(
        {"name": "r", "when": {"header.x-test": "yes"}, "respond": {"content": "pong"}}
    )

    answered = fetch(fakellm_server.url, completion(stream=stream), headers={"X-Test": "yes"})

    assert answered.status == 200
    assert b"pong" in answered.body


def test_llmock_breaking_off_is_a_transport_error(
    llmock_server: LLMockServer, fetch: Fetch
) -> None:
    llmock_server.scenario({"type": "stream_fault", "kind": "disconnect", "after_chunks": 2})

    with pytest.raises(TransportError, match=r"after [1-9]\d* bytes"):
        fetch(llmock_server.url, completion(stream=True))

    assert b"data: " in b"".join(fetch.pieces)


def completion(*, stream: bool) -> Request:
    said = '"model": "gpt-4o", "messages": [{"role": "user", "content": "Tell me about tea."}]'
    return Request(body=f'{{{said}, "stream": {str(stream).lower()}}}'.encode())


def read_all(transport: HTTPTransport) -> bytes:
    with transport.send(REQUEST) as response:
        return b"".join(response.pieces)


async def read_all_async(transport: AsyncTransport) -> bytes:
    async with transport.send(REQUEST) as response:
        return b"".join([piece async for piece in response.pieces])


def told(error: BaseException) -> str:
    """Give all that an error shows: text, repr, attributes, and the traceback with its causes."""
    shown = [str(error), repr(error), repr(vars(error)), *traceback.format_exception(error)]
    cause = error.__cause__
    while cause is not None:
        shown.append(repr(cause))
        cause = cause.__cause__ or cause.__context__
    return "\n".join(shown)
