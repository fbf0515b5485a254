"""Logging transports over real sockets: each request and answer is written, and no secret is."""

import io
import json
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, cast

import anyio
import pytest
import structlog

from pathors_agent import Agent, AsyncAgent, tool
from pathors_agent.errors import TransportError
from pathors_agent.testing import (
    AsyncScriptedTransport,
    ScriptedTransport,
    calls,
    check_async_transport,
    check_transport,
)
from pathors_agent.transports import logged
from pathors_agent.transports.base import Request
from pathors_agent.transports.http import AsyncHTTPTransport, HTTPTransport
from pathors_agent.transports.logged import AsyncLoggingTransport, LoggingTransport
from servers import CLOSE, answer, chunk, free_port, head
from transports.fetching import StartServer

KEY = "an-odd-key-of-this-transport"
SHAPED = "sk-proj-abcdefghijklmnop0123456789"
SECRET = "the word of the day"


@dataclass
class Fetch:
    """One request through a logging transport of one kind."""

    way: str
    received: bytes = b""

    def __call__(self, url: str, to: Any, request: Request, **settings: Any) -> None:
        if self.way == "blocking":
            with LoggingTransport(
                HTTPTransport(url, api_key=KEY, retries=1), to, **settings
            ) as way:
                with way.send(request) as response:
                    self.received = b"".join(response.pieces)
        else:
            anyio.run(self._async, url, to, request, settings, backend=self.way)

    async def _async(self, url: str, to: Any, request: Request, settings: dict[str, Any]) -> None:
        inside = AsyncHTTPTransport(url, api_key=KEY, retries=1)
        async with AsyncLoggingTransport(inside, to, **settings) as way:
            async with way.send(request) as response:
                self.received = b"".join([piece async for piece in response.pieces])


@pytest.fixture(params=["blocking", "asyncio", "trio"])
def fetch(request: pytest.FixtureRequest) -> Fetch:
    return Fetch(request.param)


def plain(text: str) -> str:
    """Return a log without its times."""
    text = re.sub(r"\d\d:\d\d:\d\d\.\d{3}", "TIME", text)
    return re.sub(r"\d+\.\d{3} s", "SECONDS", text)


def body(content: str) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": content}]}).encode()


def test_request_and_answer_are_written(scripted_server: StartServer, fetch: Fetch) -> None:
    server = scripted_server([answer(b'{"ok": true}')])
    log = io.StringIO()

    fetch(server.url, log, Request(body=body("Hi"), session_id="session-1"))

    assert fetch.received == b'{"ok": true}'
    assert plain(log.getvalue()) == (
        "[1] TIME POST /chat/completions, session session-1\n"
        '{\n  "messages": [\n    {\n      "role": "user",\n      "content": "Hi"\n    }\n  ]\n}\n'
        f"[1] TIME request_sent address=127.0.0.1 port={server.port}\n"
        "[1] TIME 200 after SECONDS, 12 bytes\n"
        '{"ok": true}\n'
    )


def test_secrets_are_masked_in_request_and_answer(
    scripted_server: StartServer, fetch: Fetch
) -> None:
    echoed = f"{KEY} {SHAPED} {SECRET}"
    server = scripted_server([answer(json.dumps({"said": echoed}).encode())])
    log = io.StringIO()

    fetch(server.url, log, Request(body=body(f"{SHAPED} {SECRET}")), secrets=[SECRET])

    assert not [secret for secret in (KEY, SHAPED, SECRET) if secret in log.getvalue()]
    assert json.loads(fetch.received) == {"said": echoed}


@pytest.mark.parametrize("secret", [SHAPED, SECRET, KEY])
def test_secret_spread_over_a_stream_is_not_written(
    scripted_server: StartServer, fetch: Fetch, secret: str
) -> None:
    letters = [json.dumps({"choices": [{"delta": {"content": c}}]}) for c in secret]
    events = [chunk(f"data: {letter}\n\n".encode()) for letter in letters]
    server = scripted_server([head(Transfer_Encoding="chunked"), *events, chunk(b"")])
    log = io.StringIO()

    fetch(server.url, log, Request(body=body("Hi")), secrets=[SECRET])

    shown = "".join(re.findall(r'"content": ?"(.)"', log.getvalue()))
    assert shown in ("", "*" * len(secret))
    assert plain(log.getvalue()).splitlines()[-1]


def test_arrived_part_of_a_broken_answer_is_written(
    scripted_server: StartServer, fetch: Fetch
) -> None:
    server = scripted_server([head(Transfer_Encoding="chunked"), chunk(b"data: 1\n\n"), CLOSE])
    log = io.StringIO()

    with pytest.raises(TransportError):
        fetch(server.url, log, Request(body=b"{}"))

    *_, title, shown = plain(log.getvalue()).splitlines()
    assert title.startswith("[1] TIME 200 after SECONDS, 9 bytes, TransportError: ")
    assert shown == "data: 1"


def test_retries_are_written(scripted_server: StartServer, fetch: Fetch) -> None:
    server = scripted_server([answer(b"busy", "503 Busy")], [answer(b"fine")])
    log = io.StringIO()

    fetch(server.url, log, Request(body=b"{}", headers={"Retry-After": "0"}))

    titles = [line for line in plain(log.getvalue()).splitlines() if line.startswith("[1]")]
    assert titles[2].startswith("[1] TIME request_retried attempt=1 status=503")
    assert titles[-1].startswith("[1] TIME 200, 2 attempts")


def test_request_without_an_answer_is_written(fetch: Fetch) -> None:
    log = io.StringIO()

    with pytest.raises(TransportError):
        fetch(f"http://127.0.0.1:{free_port()}", log, Request(body=b"{}"))

    assert "no answer after" in log.getvalue().splitlines()[-1]


def test_file_is_appended_to(scripted_server: StartServer, fetch: Fetch, tmp_path: Path) -> None:
    server = scripted_server([answer(b"fine")])
    path = tmp_path / "run.log"
    path.write_text("before\n")

    fetch(server.url, path, Request(body=b"\xff"))

    before, request, *_, last = path.read_text(encoding="utf-8").splitlines()
    assert (before, last) == ("before", "fine")
    assert request.endswith("POST /chat/completions")


def test_logger_gets_one_text_for_each(caplog: pytest.LogCaptureFixture) -> None:
    model = LoggingTransport(ScriptedTransport("100 % sure"), logging.getLogger("debug.model"))

    with caplog.at_level(logging.INFO, logger="debug.model"):
        Agent(model).run("Are you 100% sure?")

    request, answered = (record.getMessage() for record in caplog.records)
    assert "Are you 100% sure?" in request
    assert "100 % su" in answered


def test_logger_of_structlog_gets_events() -> None:
    events: list[Any] = []

    def keep(logger: object, level: str, event: Any) -> Any:
        events.append((level, event["event"]))
        raise structlog.DropEvent

    logger = structlog.wrap_logger(structlog.PrintLogger(), processors=[keep])
    Agent(LoggingTransport(ScriptedTransport("Hello."), logger)).run("Hi")

    assert [level for level, _ in events] == ["info", "info"]
    assert "Hello." in events[1][1]


def test_text_without_a_target_is_written_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    Agent(LoggingTransport(ScriptedTransport("Hello."))).run("Hi")

    out, err = capsys.readouterr()
    assert (out, "Hello." in err) == ("", True)


def test_full_disk_does_not_end_the_run() -> None:
    class Full:
        def write(self, text: str) -> None:
            raise OSError(28, "No space left on device")

    model = LoggingTransport(ScriptedTransport("Hello."), cast(TextIO, Full()))

    assert Agent(model).run("Hi").output == "Hello."


def test_each_turn_of_a_run_has_its_number() -> None:
    @tool
    def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    log = io.StringIO()
    model = AsyncScriptedTransport(calls(("add", {"a": 1, "b": 2})), "3")

    anyio.run(AsyncAgent(AsyncLoggingTransport(model, log), tools=[add]).run, "1 + 2?")

    numbers = re.findall(r"^\[(\d)\]", log.getvalue(), re.MULTILINE)
    assert numbers == ["1", "1", "2", "2"]


def test_stream_that_is_left_is_written() -> None:
    log = io.StringIO()
    agent = Agent(LoggingTransport(ScriptedTransport("One two three."), log))

    with agent.stream("Hi") as stream:
        next(iter(stream))

    assert "[1]" in log.getvalue().splitlines()[0]
    assert re.search(r"bytes, GeneratorExit\ndata: ", log.getvalue())


def test_long_texts_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logged, "MAX_LOGGED_CHARACTERS", 100)
    monkeypatch.setattr(logged, "MARGIN_BYTES", 0)
    log = io.StringIO()

    Agent(LoggingTransport(ScriptedTransport("y" * 10_000), log)).run("x" * 10_000)

    assert len(log.getvalue()) < 600
    assert len(re.findall(r"\(and [\d,]+ more characters\)", log.getvalue())) == 2


@pytest.mark.slow  # every rule of both checks, ten seconds
def test_it_carries_answers_as_any_transport() -> None:
    log = io.StringIO()

    check_transport(lambda url: LoggingTransport(HTTPTransport(url), log))
    anyio.run(
        check_async_transport, lambda url: AsyncLoggingTransport(AsyncHTTPTransport(url), log)
    )


def test_profile_is_that_of_the_transport_inside() -> None:
    inside = HTTPTransport("http://127.0.0.1:9/v1")

    assert LoggingTransport(inside).profile == inside.profile
    assert LoggingTransport(inside).server_address == inside.server_address


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (
            lambda: LoggingTransport(cast(Any, AsyncScriptedTransport())),
            "LoggingTransport takes a Transport, not a AsyncScriptedTransport; "
            "use AsyncLoggingTransport",
        ),
        (
            lambda: AsyncLoggingTransport(cast(Any, ScriptedTransport())),
            "AsyncLoggingTransport takes a AsyncTransport, not a ScriptedTransport; "
            "use LoggingTransport",
        ),
        (
            lambda: LoggingTransport(ScriptedTransport(), cast(Any, 5)),
            "to= must be the path of a file, an open text file or a logger that is not async, "
            "not a int",
        ),
    ],
)
def test_wrong_argument_fails_at_once(build: Callable[[], object], said: str) -> None:
    with pytest.raises(TypeError, match=f"^{re.escape(said)}$"):
        build()


def test_wrong_path_fails_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        LoggingTransport(ScriptedTransport(), tmp_path / "missing" / "run.log")
