"""HTTP transports against real sockets: what is sent, and the settings."""

from collections.abc import Callable
from typing import Any

import httpx2
import pytest

import pathors_agent
from pathors_agent.errors import AuthenticationError, InvalidSetting, TransportError
from pathors_agent.transports.base import Request
from pathors_agent.transports.endpoint import Endpoint, keeps_history
from pathors_agent.transports.fallback import FallbackTransport
from pathors_agent.transports.http import AsyncHTTPTransport, HTTPTransport, Timeouts
from pathors_agent.transports.retry import RetryingTransport
from pathors_agent.wire.profiles import EndpointProfile
from servers import STALL, answer
from transports.fetching import CANARY, Fetch, StartServer, of_each_kind, told

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
def test_other_operation_uses_its_own_path(
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


def test_session_id_is_sent_and_read_in_a_header(
    scripted_server: StartServer, fetch: Fetch
) -> None:
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
def test_address_decides_whether_the_endpoint_keeps_the_history(
    make: Any, address: str, keeps: bool
) -> None:
    by_address = "new_messages" if keeps else "history"

    assert keeps_history(address) is keeps
    assert make(address, api_key="").profile.sends == by_address
    assert make(address, api_key="k", sends="history").profile.sends == "history"
    assert make(address, api_key="k", sends="new_messages").profile.sends == "new_messages"


@of_each_kind
def test_hosted_service_keeps_the_history(make: Any) -> None:
    assert make(api_key="k", project_id="p").profile.sends == "new_messages"


def test_cookies_are_not_kept_between_requests(scripted_server: StartServer, fetch: Fetch) -> None:
    server = scripted_server([answer(Set_Cookie="session=1; Path=/")], [answer()])

    with fetch.opened(server.url) as transport:
        transport.read()
        transport.read()

    assert "cookie" not in server.requests[1].headers


# - settings -


@pytest.mark.parametrize(
    ("settings", "authorization"),
    [
        ({}, "Bearer sk_from_environment"),
        ({"api_key": "sk_argument"}, "Bearer sk_argument"),
        ({"api_key": ""}, None),
    ],
)
def test_address_and_key_come_from_the_environment_unless_they_are_arguments(
    scripted_server: StartServer,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    authorization: str | None,
) -> None:
    server = scripted_server(*[[answer()]] * 2)
    monkeypatch.setenv("PATHORS_API_KEY", "sk_from_environment")
    monkeypatch.setenv("PATHORS_BASE_URL", server.url)

    Fetch("blocking")("", **settings)
    monkeypatch.setenv("PATHORS_BASE_URL", "http://127.0.0.1:1/v1")
    Fetch("blocking")(server.url, **settings)

    sent = [request.headers.get("authorization") for request in server.requests]
    assert sent == [authorization] * 2


@pytest.mark.parametrize(
    ("base_url", "is_sent"),
    [
        ("https://api.pathors.com/v1/projects/shop", True),
        ("https://llm.example/v1", True),
        ("http://localhost:8000/v1", True),
        ("http://127.0.0.1:8000/v1", True),
        ("http://[::1]:8000/v1", True),
        ("https://api.openai.com/v1", False),
        ("https://llm.example.evil.test/v1", False),
        ("https://llm.example%40evil.test/v1", False),
        ("https://localhost.evil.test/v1", False),
        ("https://127.0.0.1.evil.test/v1", False),
    ],
)
def test_key_of_the_environment_is_for_its_own_hosts_only(
    base_url: str, is_sent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATHORS_BASE_URL", "https://llm.example/v1/other")
    monkeypatch.setenv("PATHORS_API_KEY", "sk_from_environment")

    endpoint = Endpoint(base_url, None, None, Timeouts(), {}, "X-Session-ID", is_own_client=True)

    assert ("Authorization" in endpoint.headers) is is_sent


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
def test_proxy_comes_from_the_environment(
    scripted_server: StartServer, fetch: Fetch, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    proxy = scripted_server([answer(b"hi")])
    monkeypatch.setenv("http_proxy", f"{scheme}127.0.0.1:{proxy.port}")

    assert fetch("http://elsewhere.invalid/v1").body == b"hi"

    assert proxy.requests[0].line == "POST http://elsewhere.invalid/v1/chat/completions HTTP/1.1"


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"api_key": "k"}, "project_id= or set PATHORS_PROJECT_ID"),
        ({"project_id": "p"}, "api_key= or set PATHORS_API_KEY"),
    ],
)
@of_each_kind
def test_missing_project_or_key_is_reported(
    make: Callable[..., object], settings: dict[str, str], text: str
) -> None:
    with pytest.raises(AuthenticationError, match=text):
        make(**settings)


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


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"api_key": lambda: CANARY}, "The API key is of the type function"),
        ({"api_key": b"12345678"}, "The API key is of the type bytes"),
        ({"api_key": "Bearer " + CANARY}, 'The API key begins with "Bearer"'),
        ({"headers": {"X-Team": None}}, "The header X-Team is of the type NoneType"),
        ({"headers": {"X-Team": 5}}, "The header X-Team is of the type int"),
        ({"headers": [("X-Team", "5")]}, "headers= is of the type list"),
        ({"headers": {b"X-Team": "5"}}, "headers= has a name that is not a string"),
        ({"headers": {"X Y": "1"}}, "headers= has a name"),
        ({"session_header": None}, "session_header= has a name that is not a string"),
        ({"base_url": b"http://127.0.0.1:1"}, "base_url= is of the type bytes"),
        ({"timeouts": 30}, "timeouts= is of the type int"),
        ({"timeouts": None}, "timeouts="),
        ({"retries": None}, "retries must be a whole number from 0, not None"),
        ({"retries": -1}, "retries must be a whole number from 0, not -1"),
        ({"retries": 2.0}, "retries must be a whole number from 0, not 2.0"),
        ({"sends": "all"}, "sends="),
        ({"profile": "openai"}, "profile= is of the type str"),
        ({"client": "http"}, "client= is str; pass an"),
    ],
)
@of_each_kind
def test_setting_of_another_type_is_refused_before_any_request(
    make: Callable[..., object], settings: dict[str, Any], text: str
) -> None:
    with pytest.raises(InvalidSetting, match=text) as caught:
        make(**{"base_url": "http://127.0.0.1:1", **settings})

    assert CANARY not in told(caught.value)


@of_each_kind
def test_client_of_another_kind_is_refused(make: Callable[..., object]) -> None:
    sync = make is HTTPTransport
    other = httpx2.AsyncClient() if sync else httpx2.Client()

    with pytest.raises(InvalidSetting, match=r"client= is httpx2\."):
        make("http://127.0.0.1:1", client=other)


@pytest.mark.parametrize("around", [RetryingTransport, FallbackTransport])
def test_transport_around_one_of_another_kind_is_refused(around: Callable[..., object]) -> None:
    inner = AsyncHTTPTransport("http://127.0.0.1:1")
    count = 1 if around is RetryingTransport else 2

    with pytest.raises(TypeError, match="takes a Transport, not a AsyncHTTPTransport; use Async"):
        around(*[inner] * count)
    with pytest.raises(TypeError, match="call it, and pass what it returns"):
        around(*[HTTPTransport] * count)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), "5", True])
def test_limit_of_time_that_is_none_is_refused(seconds: Any) -> None:
    with pytest.raises(InvalidSetting, match=r"Timeouts\.first_byte") as caught:
        Timeouts(first_byte=seconds)

    assert isinstance(caught.value, ValueError)


@of_each_kind
def test_profile_is_the_callers_with_the_mode_of_sending(make: Any) -> None:
    profile = EndpointProfile(system_role="developer")
    both = EndpointProfile(system_role="developer", sends="new_messages")

    assert make("http://127.0.0.1:1").profile == EndpointProfile()
    assert make("http://127.0.0.1:1", profile=both).profile == both
    assert make("http://127.0.0.1:1", profile=profile, sends="new_messages").profile == both


@of_each_kind
def test_repr_hides_user_name_and_query(make: Any) -> None:
    transport = make(f"http://me:{CANARY}@127.0.0.1:1/v1?key={CANARY}")

    assert repr(transport) == f"{make.__name__}('http://127.0.0.1:1/v1/chat/completions')"
