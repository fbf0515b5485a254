"""What was recorded once is replayed for ever, without a network, a key or a secret."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from pathors_agent import (
    Agent,
    AsyncAgent,
    AsyncHTTPTransport,
    EndpointProfile,
    HTTPTransport,
    Limits,
    ProviderError,
    Request,
    RunResult,
    Transport,
    TransportError,
    tool,
)
from pathors_agent.testing import (
    AsyncCassette,
    AsyncScriptedTransport,
    Cassette,
    CassetteMiss,
    Entry,
    ScriptedTransport,
    Scrub,
    Tape,
    answer,
    calls,
    raw,
)
from servers import CLOSE, ScriptedServer, chunk, head
from ways import WAYS

KEY = "sk-not-a-real-key-0123456789"
STREAM = {"Content_Type": "text/event-stream", "Transfer_Encoding": "chunked"}


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def streamed(entry: Entry, **headers: str) -> list[bytes | Any]:
    """A script of a server that streams what a scripted model answers, event by event."""
    request = Request(body=b'{"stream": true, "model": "m"}')
    with ScriptedTransport(entry).send(request) as response:
        pieces = list(response.pieces)
    return [head(**STREAM, **headers), *map(chunk, pieces), chunk(b"")]


def ask(
    way: str, path: Path | Tape, url: str = "", *, keeps: bool = False, **options: Any
) -> RunResult[Any]:
    """Ask an agent through a cassette; without an address there is nothing to record from.

    `keeps`: the endpoint keeps the history.
    """
    sends: dict[str, Any] = {"sends": "new_messages"} if keeps else {}

    async def main() -> RunResult[Any]:
        make = (lambda: AsyncHTTPTransport(url, api_key=KEY, retries=0, **sends)) if url else None
        async with AsyncCassette(path, make, **options) as model:
            return await AsyncAgent(model, tools=[add]).run("What is 1 + 2?")

    if way != "blocking":
        return anyio.run(main, backend=way)
    with Cassette(
        path,
        (lambda: HTTPTransport(url, api_key=KEY, retries=0, **sends)) if url else None,
        **options,
    ) as m:
        return Agent(m, tools=[add]).run("What is 1 + 2?")


def written(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.mark.parametrize("replayed", WAYS)
@pytest.mark.parametrize("recorded", WAYS)
def test_run_is_recorded_once_and_replayed_for_ever(
    recorded: str, replayed: str, tmp_path: Path, scripted_server: Callable[..., ScriptedServer]
) -> None:
    path = tmp_path / "deep" / "sum.json"
    called = calls(("add", {"a": 1, "b": 2}))
    script = [streamed(called, X_Session_ID="s1"), streamed("It is 3.", X_Session_ID="s1")]
    server = scripted_server(*script)

    first = ask(recorded, path, server.url, keeps=True)
    before = path.read_bytes()
    again = [ask(replayed, path) for _ in range(3)]

    assert first.output == "It is 3."
    assert [each.messages for each in again] == [first.messages] * 3
    assert again[0].session_id == first.session_id == "s1"
    assert len(server.requests) == 2
    assert path.read_bytes() == before


def test_file_is_readable_and_has_no_secret(
    tmp_path: Path, scripted_server: Callable[..., ScriptedServer]
) -> None:
    path = tmp_path / "hello.json"
    server = scripted_server(streamed("Hi", Set_Cookie="session=abc", X_Request_ID="r1"))

    with Cassette(path, HTTPTransport(server.url, api_key=KEY)) as model:
        Agent(model, model="m").run("Hello")

    document = written(path)
    [exchange] = document["exchanges"]
    assert document["version"] == 1
    assert exchange["request"] == {
        "method": "POST",
        "path": "/chat/completions",
        "body": {
            "messages": [{"role": "user", "content": "Hello"}],
            "model": "m",
            "stream": True,
            "stream_options": {"include_usage": True},
        },
    }
    assert exchange["response"]["status"] == 200
    assert exchange["response"]["headers"] == {"content-type": "text/event-stream"}
    assert exchange["response"]["pieces"][-1] == "data: [DONE]\n\n"
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"
    for secret in (KEY, "Bearer", "abc", "r1"):
        assert secret not in path.read_text()


PLAIN = Request(body=b'{"messages":[],"model":"m"}')


def record(path: Path, *entries: Entry, request: Request = PLAIN, **options: Any) -> list[bytes]:
    """Send one request to a script, through a cassette that records; return the pieces."""
    with Cassette(path, ScriptedTransport(*entries), **options).send(request) as response:
        return list(response.pieces)


def play(path: Path, request: Request = PLAIN, **options: Any) -> list[bytes]:
    with Cassette(path, record=False, **options).send(request) as response:
        return list(response.pieces)


def test_stream_is_replayed_in_its_pieces_also_where_they_cut_a_character(tmp_path: Path) -> None:
    path = tmp_path / "cut.json"
    body = "data: Grüße 🙂\n\n".encode()
    transport = ScriptedTransport(raw(body), cut=1)
    with Cassette(path, transport).send(PLAIN) as response:
        pieces = list(response.pieces)

    assert len(pieces) == len(body)
    assert play(path) == pieces


def test_order_of_the_fields_does_not_matter(tmp_path: Path) -> None:
    recorded = record(tmp_path / "a.json", "Hi")

    assert play(tmp_path / "a.json", Request(body=b'{"model": "m", "messages": []}')) == recorded


def test_equal_requests_are_replayed_in_their_order_and_no_further(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    transport = ScriptedTransport(raw(b"1"), raw(b"2"))
    recording = Cassette(path, transport)
    for _ in range(2):
        with recording.send(PLAIN) as response:
            list(response.pieces)
    replaying = Cassette(path)

    bodies: list[bytes] = []
    for _ in range(2):
        with replaying.send(PLAIN) as response:
            bodies += response.pieces

    assert bodies == [b"1", b"2"]
    with pytest.raises(CassetteMiss, match="has 2 recordings of this request, and it came 3 times"):
        replaying.send(PLAIN).__enter__()


@pytest.mark.parametrize(
    ("body", "difference"),
    [
        (
            {"messages": [{"role": "user", "content": "Hello, Bert"}], "model": "m"},
            'body.messages[0].content: "Hello, Anna" before, "Hello, Bert" now',
        ),
        (
            {"messages": [{"role": "user", "content": "Hello, Anna"}]},
            'body.model: "m" before, nothing now',
        ),
        (
            {"messages": [{"role": "user", "content": "Hello, Anna"}], "model": "m", "n": 2},
            "body.n: nothing before, 2 now",
        ),
        (
            {"messages": [{"role": "user", "content": "Hello, Anna"}, 1], "model": "m"},
            "body.messages[1]: nothing before, 1 now",
        ),
    ],
)
def test_miss_names_the_nearest_recording_and_its_first_difference(
    body: Any, difference: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.json"
    recorded = {"messages": [{"role": "user", "content": "Hello, Anna"}], "model": "m"}
    far = Request(body=b'{"input": "something else"}')
    recording = Cassette(path, ScriptedTransport("far", "near"))
    for request in (far, Request(body=json.dumps(recorded).encode())):
        with recording.send(request) as response:
            list(response.pieces)

    with pytest.raises(CassetteMiss) as caught:
        play(path, Request(body=json.dumps(body).encode()))

    assert str(caught.value.difference) == difference
    assert f"the nearest, number 2 of 2, differs first in {difference}" in str(caught.value)
    assert "pytest --record" in str(caught.value)


def test_long_texts_are_shown_where_they_differ(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    long = "x" * 500
    record(path, "Hi", request=Request(body=json.dumps({"prompt": long + "A" + long}).encode()))

    with pytest.raises(CassetteMiss) as caught:
        play(path, Request(body=json.dumps({"prompt": long + "B" + long}).encode()))

    difference = caught.value.difference
    assert difference is not None
    middle = "x" * 25
    assert difference.before == f'"…{middle}A{"x" * 24}…"'
    assert difference.now == f'"…{middle}B{"x" * 24}…"'


def test_other_method_or_path_is_a_miss(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    record(path, "Hi")

    with pytest.raises(CassetteMiss, match=r"path: \"/chat/completions\" before, \"/models\" now"):
        play(path, Request(body=PLAIN.body, path="/models"))


def test_missing_file_is_a_miss_that_says_how_to_record(tmp_path: Path) -> None:
    with pytest.raises(CassetteMiss, match=r"no recording in .*none\.json.* pytest --record"):
        play(tmp_path / "none.json")


def test_miss_leaves_the_agent_as_it_is_and_is_no_transport_error(tmp_path: Path) -> None:
    record(tmp_path / "a.json", "Hi")

    with pytest.raises(CassetteMiss):
        Agent(Cassette(tmp_path / "a.json")).run("Hello")


def test_nothing_to_record_from_is_said(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="there is nothing to record"):
        Cassette(tmp_path / "none.json")


def test_replaying_makes_no_transport(tmp_path: Path) -> None:
    record(tmp_path / "a.json", "Hi")

    def make() -> Transport:
        pytest.fail("no transport is needed")

    with Cassette(tmp_path / "a.json", make).send(PLAIN) as response:
        assert response.status == 200


def test_new_recording_replaces_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    record(path, raw(b"old"))
    record(path, raw(b"new"), record=True)

    assert play(path) == [b"new"]
    assert len(written(path)["exchanges"]) == 1


def test_profile_is_that_of_the_recorded_endpoint(tmp_path: Path) -> None:
    profile = EndpointProfile(sends="new_messages", echoed_fields=("a", "b"))
    with Cassette(tmp_path / "a.json", ScriptedTransport("Hi", profile=profile)).send(PLAIN) as r:
        list(r.pieces)

    assert Cassette(tmp_path / "a.json").profile == profile
    assert written(tmp_path / "a.json")["profile"] == {
        "sends": "new_messages",
        "echoed_fields": ["a", "b"],
    }


# - what goes wrong is recorded, too -


@pytest.mark.parametrize("way", WAYS)
def test_error_status_is_replayed(
    way: str, tmp_path: Path, scripted_server: Callable[..., ScriptedServer]
) -> None:
    path = tmp_path / "a.json"
    body = b'{"error": {"message": "slow down"}}'
    busy = head("429 Busy", Retry_After="7", Content_Length=str(len(body))) + body
    server = scripted_server([busy])

    for url in (server.url, ""):
        with pytest.raises(ProviderError, match="slow down") as caught:
            ask(way, path, url)
        assert (caught.value.status, caught.value.retry_after) == (429, 7)


@pytest.mark.parametrize("way", WAYS)
def test_broken_stream_is_replayed(
    way: str, tmp_path: Path, scripted_server: Callable[..., ScriptedServer]
) -> None:
    path = tmp_path / "a.json"
    server = scripted_server([*streamed("It was a dark night.")[:3], CLOSE])

    texts = []
    for url in (server.url, ""):
        with pytest.raises(TransportError) as caught:
            ask(way, path, url)
        texts.append((type(caught.value), str(caught.value)))

    assert texts[0] == texts[1]
    assert "failure" in written(path)["exchanges"][0]["response"]


@pytest.mark.parametrize("way", WAYS)
def test_connection_that_cannot_be_made_is_replayed(
    way: str, tmp_path: Path, scripted_server: Callable[..., ScriptedServer]
) -> None:
    path = tmp_path / "a.json"
    server = scripted_server([CLOSE])

    for url in (server.url, ""):
        with pytest.raises(TransportError) as caught:
            ask(way, path, url)
        assert caught.value.retryable

    [exchange] = written(path)["exchanges"]
    assert exchange["failure"]["retryable"] is True
    assert "response" not in exchange


@pytest.mark.parametrize("retryable", [True, False])
def test_failure_may_be_tried_again_as_it_might(retryable: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(TransportError):
        record(path, TransportError("no", retryable=retryable))

    with pytest.raises(TransportError, match="no") as caught:
        play(path)

    assert caught.value.retryable is retryable


def test_reader_that_reads_more_than_was_recorded_gets_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with Cassette(path, ScriptedTransport(raw(b"a\n\nb\n\n"))).send(PLAIN) as response:
        next(iter(response.pieces))

    with Cassette(path).send(PLAIN) as response:
        pieces = iter(response.pieces)
        assert next(pieces) == b"a\n\n"
        with pytest.raises(CassetteMiss, match="ends here, because its reader stopped"):
            next(pieces)


def test_run_that_is_left_early_is_recorded_as_far_as_it_went(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for transport in (ScriptedTransport("Hello there"), None):
        with Agent(Cassette(path, transport)).stream("Hi") as stream:
            assert next(iter(stream)).text == "Hello th"  # type: ignore[union-attr]


# - secrets -


@pytest.mark.parametrize(
    "secret",
    [
        KEY,
        "gsk_0123456789abcdefABCDEF",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl",
        "Bearer abcdefghijklmnop1234",
    ],
)
def test_texts_that_look_like_secrets_are_masked_everywhere(secret: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    request = Request(body=json.dumps({"prompt": f"my key is {secret}, keep it"}).encode())
    given = record(path, raw(f"data: your key is {secret}\n\n".encode()), request=request)

    assert secret in b"".join(given).decode()
    assert secret.rpartition(" ")[2] not in path.read_text()
    [played] = play(path, request)
    assert len(played) == len(given[0])
    assert b"**********" in played


def test_named_secrets_are_masked_across_pieces(tmp_path: Path) -> None:
    path, scrub = tmp_path / "a.json", Scrub(secrets=["Anna Smith"])
    transport = ScriptedTransport(raw(b"Dear Anna Smith!"), cut=7)
    with Cassette(path, transport, scrub=scrub).send(PLAIN) as response:
        assert list(response.pieces) == [b"Dear An", b"na Smit", b"h!"]

    assert play(path) == [b"Dear **", b"*******", b"*!"]


def test_header_that_is_asked_for_is_kept_and_a_secret_one_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    entry = raw(b"{}", headers={"X-Model-Version": "7", "X-Other": "8"})
    record(path, entry, scrub=Scrub(headers=["X-Model-Version"]))

    assert written(path)["exchanges"][0]["response"]["headers"] == {
        "content-type": "application/json",
        "x-model-version": "7",
    }
    for name in ("Authorization", "Set-Cookie", "x-api-key", "X-Amz-Security-Token"):
        with pytest.raises(ValueError, match="may hold a secret"):
            Scrub(headers=[name])


def test_secrets_that_are_one_text_or_empty_are_refused() -> None:
    for wrong in ("abc", [""]):
        with pytest.raises(ValueError, match="must be a list of texts"):
            Scrub(secrets=wrong)


def test_scrub_removes_fields_of_a_body_that_change_in_every_run(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    scrub = Scrub(body=lambda body: {k: v for k, v in body.items() if k != "now"})
    recorded = record(path, "Hi", request=Request(body=b'{"a":1,"now":1}'), scrub=scrub)

    assert play(path, Request(body=b'{"a":1,"now":2}'), scrub=scrub) == recorded


def test_request_headers_are_no_part_of_it(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    request = Request(body=b"{}", headers={"Authorization": "Bearer x", "X-Secret": "quiet"})
    record(path, "Hi", request=request)

    assert "quiet" not in path.read_text()
    assert play(path, Request(body=b"{}"))


# - files -


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"version": 2, "exchanges": []}', "its version is 2; this library reads 1"),
        ("not json", "Expecting value"),
        ("[]", "no attribute 'get'"),
        ('{"version": 1}', "exchanges"),
        ('{"version": 1, "exchanges": [{"request": {}}]}', "missing"),
    ],
)
def test_file_that_is_no_cassette_is_named(text: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)

    with pytest.raises(ValueError, match=rf"a\.json is not a cassette: .*{problem}"):
        Cassette(path)


def test_no_other_file_is_left_in_the_folder(tmp_path: Path) -> None:
    record(tmp_path / "a.json", "Hi")

    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.anyio
async def test_parallel_requests_are_kept_in_the_order_of_their_begin(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    recording = AsyncCassette(path, AsyncScriptedTransport(raw(b"1"), raw(b"2")))
    first, second = (Request(body=b'{"n":%d}' % n) for n in (1, 2))

    async with recording.send(first) as one:
        async with recording.send(second) as two:
            assert [piece async for piece in two.pieces] == [b"2"]
        assert [piece async for piece in one.pieces] == [b"1"]

    bodies = [each["request"]["body"]["n"] for each in written(path)["exchanges"]]
    assert bodies == [1, 2]


def test_tape_and_record_are_said_once(tmp_path: Path) -> None:
    tape = Tape(tmp_path / "a.json", record=False)

    with pytest.raises(TypeError, match="pass record= to the Tape"):
        Cassette(tape, record=True)


def test_repr_has_the_file_and_the_mode(tmp_path: Path) -> None:
    record(tmp_path / "a.json", "Hi")

    assert repr(Tape(tmp_path / "a.json")).endswith("a.json', replays 1 exchanges)")


def test_limits_of_a_replayed_run_hold(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    script = [calls(("add", {"a": n, "b": 2})) for n in range(3)]
    for transport in (ScriptedTransport(*script), None):
        agent = Agent(Cassette(path, transport), tools=[add], limits=Limits(turns=3))
        assert agent.run("Go.").limit == "turns"


def test_answer_made_of_pieces_is_one_again(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    entry = answer("Well, naïve 🙂", reasoning="Hm")
    for transport in (ScriptedTransport(entry, cut=3), None):
        assert Agent(Cassette(path, transport)).run("Go.").output == "Well, naïve 🙂"
