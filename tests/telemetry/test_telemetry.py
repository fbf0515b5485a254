"""What is logged: names, ids, counts and seconds; never what was said."""

import logging
import subprocess
import sys
from collections.abc import Iterator, MutableMapping
from typing import Any, NoReturn

import pytest
import structlog

from pathors_agent.errors import TransportError
from pathors_agent.messages import Usage
from pathors_agent.testing import answer, calls, http_error, raw
from pathors_agent.tools.tool import tool
from ways import Way

CANARY = "hunter2-canary"

TURNS = (
    answer(
        "Hm.",
        calls=[("look", {"at": "me"})],
        usage=Usage(prompt_tokens=5, completion_tokens=2, total_tokens=7),
    ),
    "Done.",
)


@pytest.fixture
def structlog_events() -> Iterator[list[dict[str, Any]]]:
    """Configure structlog as a user does, and return the events that go there."""
    events: list[dict[str, Any]] = []

    def keep(logger: Any, method: str, event: MutableMapping[str, Any]) -> NoReturn:
        events.append({"level": method, **event})
        raise structlog.DropEvent

    structlog.configure(processors=[keep])
    yield events
    structlog.reset_defaults()


@pytest.fixture
def no_structlog() -> None:
    structlog.reset_defaults()
    assert not structlog.is_configured()


@tool
def look(at: str) -> str:
    """Look at something."""
    return f"{at} it is"


def without_seconds(event: dict[str, Any]) -> dict[str, Any]:
    """Take what differs with each run away."""
    times = ("seconds", "gen_ai.response.time_to_first_chunk")
    assert all(event.get(name, 0) >= 0 for name in times)
    return {name: value for name, value in event.items() if name not in times}


def test_events_go_to_structlog_where_it_is_configured(
    way: Way, structlog_events: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    way.run(*TURNS, prompt="Go.", tools=[look], session_id="session-1")

    first, called, second, run = [without_seconds(event) for event in structlog_events]
    assert first == {
        "level": "info",
        "event": "chat",
        "pathors_agent.effect": "model/0",
        "pathors_agent.tool_calls": 1,
        "gen_ai.provider.name": "openai",
        "gen_ai.conversation.id": "session-1",
        "gen_ai.request.stream": True,
        "http.response.status_code": 200,
        "gen_ai.response.id": "chatcmpl-1",
        "gen_ai.response.model": "scripted",
        "gen_ai.response.finish_reasons": ["tool_calls"],
        "gen_ai.usage.input_tokens": 5,
        "gen_ai.usage.output_tokens": 2,
    }
    assert called == {
        "level": "info",
        "event": "execute_tool",
        "pathors_agent.effect": "tool/0/0",
        "pathors_agent.outcome": "value",
        "gen_ai.tool.name": "look",
        "gen_ai.tool.call.id": "call_1",
        "gen_ai.tool.type": "function",
    }
    assert {"event": "chat", "pathors_agent.effect": "model/1"}.items() <= second.items()
    assert run == {
        "level": "info",
        "event": "invoke_agent",
        "pathors_agent.status": "finished",
        "gen_ai.provider.name": "openai",
        "gen_ai.conversation.id": "session-1",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 5,
        "gen_ai.usage.output_tokens": 2,
    }
    assert not [record for record in caplog.records if record.name.startswith("pathors_agent")]


@pytest.mark.usefixtures("no_structlog")
def test_events_go_to_the_standard_logger_otherwise(
    way: Way, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="pathors_agent")

    way.run(*TURNS, prompt="Go.", tools=[look])

    records = [record for record in caplog.records if record.name == "pathors_agent"]
    assert [vars(record)["event"] for record in records] == [
        *("chat", "execute_tool", "chat", "invoke_agent")
    ]
    assert vars(records[1])["fields"]["gen_ai.tool.name"] == "look"
    said = "execute_tool pathors_agent.effect='tool/0/0' gen_ai.tool.name='look' "
    assert records[1].getMessage().startswith(said)
    assert {record.levelname for record in records} == {"INFO"}


@pytest.mark.usefixtures("no_structlog")
def test_nothing_is_written_without_a_listener(way: Way, capfd: pytest.CaptureFixture[str]) -> None:
    way.run(*TURNS, prompt="Go.", tools=[look])

    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (http_error(500, "gone"), "ProviderError"),
        (answer("Hello").broken_after(events=2), "IncompleteResponse"),
        (answer("Hello").ended_after(events=2), "IncompleteResponse"),
        (raw(b"data: {\n\n"), "MalformedResponse"),
        (raw(b'data: {"error": "gone"}\n\n'), "ProviderError"),
        (raw(b""), "IncompleteResponse"),
        (TransportError("no connection"), "TransportError"),
    ],
)
def test_failed_model_call_is_logged_once_with_the_class_of_its_error(
    way: Way, structlog_events: list[dict[str, Any]], reply: Any, error: str
) -> None:
    with pytest.raises(TransportError):
        way.run(reply, prompt="Go.")

    told = [(e["event"], e.get("pathors_agent.effect"), e["error.type"]) for e in structlog_events]
    assert told == [("chat", "model/0", error), ("invoke_agent", None, error)]


def test_failing_tool_is_reported_as_a_failure(
    way: Way, structlog_events: list[dict[str, Any]]
) -> None:
    @tool
    def fail() -> None:
        """Fail."""
        raise ValueError(CANARY)

    way.run(calls(("fail", {})), "Done.", prompt="Go.", tools=[fail])

    [event] = [event for event in structlog_events if event["event"] == "execute_tool"]
    assert event["pathors_agent.outcome"] == "error"
    assert event["error.type"] == "ValueError"


def test_tolerated_deviations_are_reported(
    way: Way, structlog_events: list[dict[str, Any]]
) -> None:
    body = b'data: {"choices": [{"delta": {"content": "Hello"}}]}\n\ndata: [DONE]\n\n'

    way.run(raw(body), prompt="Go.")

    kinds = [e["kind"] for e in structlog_events if e["event"] == "provider_quirk"]
    assert kinds == ["no_finish_reason"]


def run_with_canaries(way: Way) -> None:
    """Put a canary wherever contents are, in runs that end well and in all that do not."""

    @tool
    def tell(text: str, *, fails: bool = False) -> str:
        """Tell."""
        if fails:
            raise ValueError(CANARY)
        return text + CANARY

    good = calls(
        ("tell", {"text": CANARY}),
        ("tell", {"text": CANARY, "fails": True}),
        ("tell", {"txt": CANARY}),
        ("tell", CANARY),
        (CANARY, {}),
    )
    settings: dict[str, Any] = {"instructions": CANARY, "tools": [tell], "context": CANARY}
    way.run(good, answer(CANARY, reasoning=CANARY), prompt=CANARY, **settings)
    chunk = f'data: {{"choices": [{{"delta": {{"content": "{CANARY}", "x": "{CANARY}"}}}}]}}\n\n'
    for failing in (
        http_error(500, CANARY, code=CANARY),
        answer(CANARY).broken_after(events=2),
        raw(chunk.encode()),
        raw(f'{chunk}data: {{"error": {{"message": "{CANARY}"}}}}\n\n'.encode()),
        raw(f"data: {CANARY}\n\n".encode()),
        raw(CANARY.encode()),
        TransportError(CANARY),
    ):
        with pytest.raises(TransportError):
            way.run(failing, prompt=CANARY, **settings)
    way.run(raw(f"{chunk}data: [DONE]\n\n".encode()), prompt=CANARY, **settings)


@pytest.mark.usefixtures("no_structlog")
def test_contents_are_never_logged(
    way: Way, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)

    run_with_canaries(way)

    logged = "".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)
    assert logged.count("error.type='ProviderError'") >= 2
    assert "execute_tool" in logged
    assert "provider_quirk" in logged
    assert CANARY not in logged
    assert CANARY not in "".join(capfd.readouterr())


def test_contents_never_reach_structlog(way: Way, structlog_events: list[dict[str, Any]]) -> None:
    run_with_canaries(way)

    assert len(structlog_events) > 10
    assert CANARY not in repr(structlog_events)


@pytest.mark.slow
def test_structlog_is_not_imported_for_a_program_that_does_not_use_it() -> None:
    code = (
        "import sys\n"
        "from pathors_agent import Agent\n"
        "from pathors_agent.offline import OfflineTransport\n"
        "print(Agent(OfflineTransport()).run('Hi.').status)\n"
        "print(sorted({'structlog', 'jsonschema', 'tenacity', 'rich'} & set(sys.modules)))\n"
    )

    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert shown.stdout == "finished\n[]\n"
