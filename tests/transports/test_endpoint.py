"""The addresses of endpoints, and when a transport parses them."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import examples
from pathors_agent.transports.endpoint import Endpoint
from pathors_agent.transports.exchange import DEFAULT_TIMEOUTS
from pathors_agent.transports.http import HTTPTransport
from servers import ScriptedServer, answer
from transports.fetching import REQUEST

SENDERS = 8

labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,6}[a-z0-9])?", fullmatch=True)
last_labels = st.from_regex(r"[a-z]([a-z0-9-]{0,6}[a-z0-9])?", fullmatch=True)
names = st.builds(
    lambda some, last: ".".join([*some, last]), st.lists(labels, max_size=3), last_labels
)
segments = st.from_regex(r"[A-Za-z0-9._~-]{1,6}", fullmatch=True)
addresses = st.builds(
    lambda host, port, path, end: f"http://{host}{port}{''.join(path)}{end}",
    names | st.just("127.0.0.1"),
    st.just("") | st.integers(1, 65535).map(lambda port: f":{port}"),
    st.lists(segments.map(lambda segment: f"/{segment}"), max_size=4),
    st.sampled_from(["", "/", "/chat/completions", "/chat/completions/"]),
)


def endpoint(address: str, *, is_own_client: bool = True) -> Endpoint:
    return Endpoint(
        address, "", None, DEFAULT_TIMEOUTS, {}, "X-Session-ID", is_own_client=is_own_client
    )


@settings(max_examples=examples(500))
@given(addresses)
def test_address_that_is_parsed_later_is_the_same_as_one_that_is_parsed_at_once(
    address: str,
) -> None:
    later, at_once = endpoint(address), endpoint(address, is_own_client=False)

    assert (later.shown, later.server) == (at_once.shown, at_once.server)
    later.resolve()
    assert later.url == at_once.url
    assert str(later.url) == later.shown


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:8000/v1", "http://localhost:11434/v1/", "https://a.example/v1.0"]
)
def test_usual_address_waits_for_the_first_request(address: str) -> None:
    assert not endpoint(address).is_resolved


@pytest.mark.parametrize(
    "address",
    [
        "http://LOCALHOST/v1",
        "http://localhost:80/v1",
        "https://localhost:443/v1",
        "http://127.0.0.2/v1",
        "http://[::1]:8000/v1",
        "http://xn--mller-kva.example/v1",
        "http://müller.example/v1",
        "http://me:secret@localhost/v1",
        "http://localhost/v1?key=secret",
        "http://localhost/a/../v1",
        "http://localhost/a%20b",
    ],
)
def test_other_address_is_parsed_at_once(address: str) -> None:
    assert endpoint(address).is_resolved


@pytest.mark.parametrize(
    ("name", "value"), [("http_proxy", "http://127.0.0.1:1"), ("NO_PROXY", "localhost")]
)
def test_proxy_in_the_environment_is_read_at_once(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)

    assert endpoint("http://127.0.0.1:8000/v1").is_resolved


def test_threads_that_send_first_share_one_client(
    scripted_server: Callable[..., ScriptedServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[httpx2.Client] = []
    open_client = httpx2.Client.__init__

    def count(client: httpx2.Client, **settings: object) -> None:
        opened.append(client)
        open_client(client, **settings)  # type: ignore[arg-type]  # passed on unchanged

    monkeypatch.setattr(httpx2.Client, "__init__", count)
    server = scripted_server(*[[answer(b"hi")]] * SENDERS)

    with HTTPTransport(server.url) as transport, ThreadPoolExecutor(SENDERS) as pool:

        def send(_: int) -> bytes:
            with transport.send(REQUEST) as response:
                return b"".join(response.pieces)

        assert list(pool.map(send, range(SENDERS))) == [b"hi"] * SENDERS

    assert len(opened) == 1
