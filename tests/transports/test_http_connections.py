"""HTTP transports against real sockets: TLS, closing, secrets, and servers made by others."""

import os
import ssl
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import anyio
import httpx2
import pytest
import trustme

from pathors_agent.errors import TransportError
from pathors_agent.transports.http import AsyncHTTPTransport, HTTPTransport, Timeouts
from servers import CLOSE, RESET, STALL, Step, answer, chunk
from transports.fetching import (
    CANARY,
    CHUNKED,
    REQUEST,
    AsyncMaker,
    Fetch,
    StartServer,
    on_each_loop,
    read_all,
    read_all_async,
    told,
)

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


@pytest.mark.parametrize("way", ["blocking", "asyncio", "trio"])
def test_limits_hold_over_tls(
    scripted_server: StartServer,
    tls: ssl.SSLContext,
    certificate: Path,
    way: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fetch = Fetch(way)
    server = scripted_server([CHUNKED, chunk(b"a"), STALL], tls=tls)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))

    with pytest.raises(TransportError, match="between_bytes"):
        fetch(
            server.url.replace("http:", "https:"),
            timeouts=Timeouts(first_byte=30, between_bytes=0.2),
        )

    assert fetch.pieces == [b"a"]


# - closing -


@pytest.mark.parametrize("read", [0, 1])
def test_leaving_early_closes_the_connection(
    scripted_server: StartServer, fetch: Fetch, read: int
) -> None:
    server = scripted_server([CHUNKED, chunk(b"a"), STALL], [answer(b"next")])

    with fetch.opened(server.url) as transport:
        assert transport.read(read) == b"a" * read

        server.wait_until_clients_left()
        assert transport.read() == b"next"


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


@pytest.mark.parametrize("requests", [0, 1])
def test_closed_transport_has_no_connection_and_sends_nothing(
    scripted_server: StartServer, fetch: Fetch, requests: int
) -> None:
    server = scripted_server(*[[answer()]] * 2)

    with fetch.opened(server.url) as transport:
        for _ in range(requests):
            transport.read()
        transport.close()
        server.wait_until_clients_left()
        with pytest.raises(TransportError, match="closed"):
            transport.read()

    assert server.connections == requests


def test_client_of_the_caller_stays_open(scripted_server: StartServer) -> None:
    server = scripted_server([answer()])

    with httpx2.Client() as client:
        with HTTPTransport(server.url, retries=0, client=client) as transport:
            read_all(transport)
        assert not client.is_closed


def test_changes_of_a_callers_client_apply_to_the_next_request(
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


# - forked processes -

FORKED = """
import json, os, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathors_agent import Agent, HTTPTransport

class Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        said = {"role": "assistant", "content": body["messages"][0]["content"]}
        out = json.dumps({"choices": [{"message": said, "finish_reason": "stop"}]}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(out)))
        self.end_headers()
        self.wfile.write(out)

    def log_message(self, *args):
        pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
threading.Thread(target=server.serve_forever, daemon=True).start()
with HTTPTransport(f"http://127.0.0.1:{server.server_port}/v1", api_key="") as transport:
    agent = Agent(transport)
    agent.run("parent")
    children = []
    for number in range(4):
        child = os.fork()
        if child == 0:
            texts = [f"{number} {turn}" for turn in range(30)]
            os._exit(int([agent.run(text).output for text in texts] != texts))
        children.append(child)
    ends = [os.waitpid(child, 0)[1] for child in children]
    print(ends, agent.run("parent").output)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system that forks")
def test_forked_processes_have_connections_of_their_own() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKED],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.stdout, done.stderr) == ("[0, 0, 0, 0] parent\n", "")
