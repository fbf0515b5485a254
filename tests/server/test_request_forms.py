"""Requests in the forms that clients of all kinds send: models, slashes, HEAD, CORS, bodies."""

import asyncio
import gzip
import json
import socket
import zlib
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any

import pytest
from uvicorn.protocols.http.auto import AutoHTTPProtocol
from uvicorn.protocols.http.h11_impl import H11Protocol

from live_server import PATIENCE_SECONDS, Live, live
from pathors_agent.server import Project, ServerSettings
from pathors_agent.testing import AsyncScriptedTransport

HELLO = json.dumps({"messages": [{"role": "user", "content": "Hi"}]}).encode()
ORIGIN = "https://shop.example"
SMALL = ServerSettings(max_body_bytes=100_000)
# uvicorn takes httptools where it is installed.
EACH_PROTOCOL = pytest.mark.parametrize("http", [H11Protocol, AutoHTTPProtocol])


def project(*script: Any, **fields: Any) -> Project:
    return Project(id="demo", transport=AsyncScriptedTransport(*(script or ["Hello!"])), **fields)


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    """A server whose turns are never run."""
    with live(project(), settings=SMALL) as running:
        yield running


# - models -


@pytest.mark.parametrize(
    "base", ["/v1/projects/demo", "/project/demo/integration/api", "/api/project/demo"]
)
@pytest.mark.parametrize("model", [None, "vendor/large:1"])
def test_models_are_the_projects_one(base: str, model: str | None) -> None:
    with live(project(model=model)) as server:
        listed = server.client.get(f"{server.url}{base}/models").json()
        (only,) = listed["data"]
        one = server.client.get(f"{server.url}{base}/models/{only['id']}")
        other = server.client.get(f"{server.url}{base}/models/gpt-0")

    assert listed["object"] == "list"
    assert only == {
        "id": model or "pathway-default",
        "object": "model",
        "created": only["created"],
        "owned_by": "pathors-agent",
    }
    assert type(only["created"]) is int
    assert one.json() == only
    assert (other.status_code, other.json()["error"]["code"]) == (404, "model_not_found")


def test_models_need_the_projects_key(server: Live) -> None:
    for path in ("/models", "/models/pathway-default", "/models/other"):
        wrong = server.client.get(path, headers={"Authorization": "Bearer sk_other"})
        assert wrong.status_code == 401


def test_listed_name_of_a_project_without_a_model_chooses_none() -> None:
    model = AsyncScriptedTransport("one", "two")
    with live(Project(id="demo", transport=model)) as server:
        listed = server.client.get("/models").json()["data"][0]["id"]
        assert server.complete("Hi", model=listed).json()["model"] == listed
        assert server.complete("Hi", model="gpt-9").json()["model"] == "gpt-9"

    assert [sent.get("model") for sent in model.requests] == [None, "gpt-9"]


# - paths -


@pytest.mark.parametrize(
    "path",
    [
        "/v1/projects/demo//chat/completions",
        "/v1/projects/demo/chat/completions/",
        "//v1//projects//demo//chat//completions//",
        "/project/demo//integration/api/chat/completions/",
    ],
)
def test_slashes_too_many_lead_to_the_same_address(path: str) -> None:
    with live(project()) as server:
        answered = server.client.post(f"{server.url}{path}", content=HELLO, headers=JSON)

    assert answered.status_code == 200, answered.text
    assert ("deprecation" in answered.headers) is path.startswith("/project")


def test_slashes_too_many_are_left_out_of_the_session_api(server: Live) -> None:
    server.client.post("/sessions/", json={"session_id": "a//b/"})

    assert server.client.get("/sessions//a%2F%2Fb%2F/").json()["sessionId"] == "a//b/"
    assert server.client.get("/sessions/").json()["data"][0]["sessionId"] == "a//b/"
    assert server.client.get(f"{server.url}/healthz/").status_code == 200


JSON = {"Content-Type": "application/json"}


# - HEAD -


@pytest.mark.parametrize("path", ["/models", "/sessions", "/session-history", "/sessions/none"])
def test_head_is_answered_like_get_without_the_body(server: Live, path: str) -> None:
    got, head = server.client.get(path), server.client.head(path)

    assert head.status_code == got.status_code
    assert head.headers["content-length"] == got.headers["content-length"]
    assert head.content == b""
    assert server.client.head(path, headers={"Authorization": ""}).status_code == 401


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/openapi.json"])
def test_head_is_answered_outside_of_projects(server: Live, path: str) -> None:
    assert server.client.head(f"{server.url}{path}").status_code == 200


# - CORS -


def preflight(server: Live, method: str = "POST", **asked: str) -> Any:
    headers = {"Origin": ORIGIN, "Access-Control-Request-Method": method}
    more = {f"Access-Control-Request-{k.replace('_', '-')}": v for k, v in asked.items()}
    return server.client.options("/chat/completions", headers=headers | more)


@pytest.mark.parametrize(
    "wanted",
    [
        "authorization,content-type",
        "authorization,content-type,x-stainless-lang,x-stainless-retry-count",
        "authorization, traceparent, baggage, x-anything-at-all",
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE"])
def test_page_of_a_named_origin_may_send_any_header(method: str, wanted: str) -> None:
    with live(project(), settings=ServerSettings(cors_origins=(ORIGIN,))) as server:
        allowed = preflight(server, method, Headers=wanted)
        seen = server.client.get("/sessions", headers={"Origin": ORIGIN})
        other = server.client.get("/sessions", headers={"Origin": "https://other.example"})

    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-headers"] == wanted
    assert seen.headers["access-control-allow-origin"] == ORIGIN
    assert seen.headers["access-control-expose-headers"] == "*"
    assert "access-control-allow-origin" not in other.headers


@pytest.mark.parametrize("is_allowed", [True, False])
def test_private_network_is_open_to_named_origins_unless_forbidden(*, is_allowed: bool) -> None:
    settings = ServerSettings(cors_origins=(ORIGIN,), cors_private_network=is_allowed)
    with live(project(), settings=settings) as server:
        answered = preflight(server, Headers="authorization", Private_Network="true")

    assert answered.status_code == (200 if is_allowed else 400)
    assert answered.headers.get("access-control-allow-private-network") == (
        "true" if is_allowed else None
    )


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "null",
        "file://",
        "https://example.com",
        "http://localhost:3000",
        "http://127.0.0.1:8080",
        "http://[::1]:3000",
        "https://example.com:80",
        "https://xn--mnchen-3ya.example",
        "chrome-extension://abcdefgh",
        "app://obsidian.md",
        "capacitor://localhost",
    ],
)
def test_origin_that_browsers_send_is_accepted(origin: str) -> None:
    assert ServerSettings(cors_origins=(origin,)).cors_origins == (origin,)


@pytest.mark.parametrize(
    ("origin", "said"),
    [
        ("https://example.com/", "write 'https://example.com'"),
        ("https://example.com/app", "a scheme, a host and perhaps a port"),
        ("https://example.com?x", "a scheme, a host and perhaps a port"),
        ("https://me@example.com", "a scheme, a host and perhaps a port"),
        ("https://example.com:99999", "a scheme, a host and perhaps a port"),
        ("https://example.com:", "a scheme, a host and perhaps a port"),
        ("https:// example.com", "a scheme, a host and perhaps a port"),
        ("https://", "no slash at its end"),
        ("https://example.com:443", "leave out the port 443"),
        ("http://localhost:80", "leave out the port 80"),
        ("https://Example.com", "write 'https://example.com'"),
        ("HTTPS://example.com", "write 'https://example.com'"),
        ("https://*.example.com", "wildcards are not supported"),
        ("https://münchen.example", "xn--"),
        ("example.com", "'https://example.com'"),
        ("localhost:3000", "scheme is missing"),
        ("", "scheme is missing"),
    ],
)
def test_origin_that_never_matches_is_refused_at_start(origin: str, said: str) -> None:
    with pytest.raises(ValueError, match="cors_origins: ") as refused:
        ServerSettings(cors_origins=("https://example.com", origin))

    assert said in str(refused.value)


def test_one_origin_for_a_list_of_them_is_refused() -> None:
    with pytest.raises(ValueError, match="must be a list of origins"):
        ServerSettings(cors_origins=ORIGIN)  # type: ignore[arg-type]  # the mistake


# - bodies -


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(HELLO, mtime=0)),
        ("deflate", zlib.compress(HELLO)),
        ("br", HELLO),
        ("zstd", HELLO),
        ("identity, gzip", gzip.compress(HELLO, mtime=0)),
        ("GZIP", gzip.compress(HELLO, mtime=0)),
    ],
)
@pytest.mark.parametrize("path", ["/chat/completions", "/sessions", "/sessions/search"])
def test_compressed_body_is_refused(server: Live, path: str, encoding: str, body: bytes) -> None:
    packed = {**JSON, "Content-Encoding": encoding}
    refused = server.client.post(path, content=body, headers=packed)

    assert refused.status_code == 415
    assert refused.headers["accept-encoding"] == "identity"
    assert refused.json()["error"]["param"] == "Content-Encoding"


def test_body_that_says_it_is_not_packed_is_read() -> None:
    with live(project()) as server:
        plain = {**JSON, "Content-Encoding": "identity"}
        answered = server.client.post("/chat/completions", content=HELLO, headers=plain)

    assert answered.status_code == 200


@pytest.mark.parametrize(
    ("body", "param", "detail"),
    [
        ({}, "messages", "messages: is required, a list that is not empty"),
        (
            {"messages": [{"role": "user"}, {"role": "tool", "content": "x"}]},
            "messages[1].tool_call_id",
            "messages[1].tool_call_id: is required",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]},
            "messages[0].content[0].text",
            "messages[0].content[0].text: must be a string",
        ),
        (
            {"messages": [{"role": "user", "content": "x"}], "temperature": "hot"},
            "temperature",
            "temperature: must be a number",
        ),
        (
            {"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "magic"}]},
            "tools[0].type",
            None,
        ),
    ],
)
def test_first_detail_is_in_the_message_and_its_field_in_param(
    server: Live, body: dict[str, Any], param: str, detail: str | None
) -> None:
    error = server.client.post("/chat/completions", json=body).json()["error"]

    assert error["details"][0] == (detail or error["details"][0])
    assert error["message"] == f"Invalid request body: {error['details'][0]}"
    assert error["param"] == param


def test_message_counts_the_details_that_it_does_not_show(server: Live) -> None:
    body = {"messages": [], "temperature": "hot", "seed": "x"}
    error = server.client.post("/chat/completions", json=body).json()["error"]

    assert error["message"] == f"Invalid request body: {error['details'][0]} (and 2 more)"
    assert len(error["details"]) == 3


@EACH_PROTOCOL
@pytest.mark.parametrize("is_chunked", [False, True])
def test_body_too_large_is_answered_to_clients_that_send_all_of_it_first(
    http: type[asyncio.Protocol], *, is_chunked: bool
) -> None:
    with live(project(), settings=SMALL, http=http) as server:
        status, body = large_answer(server, is_chunked=is_chunked)

    assert status == 413
    assert json.loads(body)["error"]["message"] == "The body is larger than 100000 bytes"


def large_answer(server: Live, *, is_chunked: bool) -> tuple[int, bytes]:
    # More than the buffers of a connection hold: the client must be read on.
    body = b"x" * 20_000_000
    connection = HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_SECONDS)
    pieces = (body[at : at + 100_000] for at in range(0, len(body), 100_000))
    connection.request(
        "POST",
        "/v1/projects/demo/chat/completions",
        pieces if is_chunked else body,
        {**JSON, **server.headers},
        encode_chunked=is_chunked,
    )
    refused = connection.getresponse()
    said = refused.read()
    connection.close()
    return refused.status, said


@EACH_PROTOCOL
def test_request_with_two_lengths_is_the_last_of_its_connection(
    http: type[asyncio.Protocol],
) -> None:
    with live(project(), http=http) as server:
        received = answers_to_two_lengths(server)

    assert received.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in received.lower()


def answers_to_two_lengths(server: Live) -> bytes:
    head = (
        "POST /v1/projects/demo/sessions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    )
    head += f"Authorization: Bearer {server.key}\r\n"
    body = b'{"session_id": "two"}'
    both = f"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n{len(body):x}\r\n"
    hidden = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE_SECONDS) as connection:
        connection.sendall(f"{head}{both}".encode() + body + b"\r\n0\r\n\r\n" + hidden)
        return b"".join(iter(lambda: connection.recv(65536), b""))
