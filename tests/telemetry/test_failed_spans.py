"""Spans of what fails, and contents of spans."""

import json
from typing import Any

import anyio
import pytest
from opentelemetry import trace

from observed_runs import TURNS, look, within
from pathors_agent import (
    Agent,
    AssistantMessage,
    AsyncAgent,
    Conversation,
    HTTPTransport,
    Limits,
    ToolCall,
    ToolError,
    TransportError,
    UserMessage,
    tool,
)
from pathors_agent.core.run import CallTool, Run
from pathors_agent.messages import ToolMessage
from pathors_agent.testing import (
    AsyncScriptedTransport,
    ScriptedTransport,
    answer,
    calls,
    http_error,
)
from pathors_agent.tools.registry import BoundCall
from pathors_agent.transports.base import AsyncTransport, Transport
from pathors_agent.transports.fallback import AsyncFallbackTransport, FallbackTransport
from pathors_agent.transports.retry import AsyncRetryingTransport, RetryingTransport
from servers import ScriptedServer
from servers import answer as served
from tracing import CAPTURE, Exported, attributes, is_below
from ways import Way

CANARY = "hunter2-canary"


# - what fails -


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (http_error(500, CANARY), "ProviderError"),
        (answer("Hello").broken_after(events=2), "IncompleteResponse"),
        (TransportError(CANARY, timed_out=True), "timeout"),
    ],
)
def test_failed_call_names_its_error_and_nothing_more(
    way: Way, exported: Exported, reply: Any, error: str
) -> None:
    with pytest.raises(TransportError):
        way.run(reply, prompt="Go.")

    for span in exported.spans:
        assert attributes(span)["error.type"] == error
        assert span.status.status_code is trace.StatusCode.ERROR
        assert span.status.description is None
        assert not span.events


def test_failed_tool_names_its_exception(way: Way, exported: Exported) -> None:
    @tool
    def fail(how: str) -> None:
        """Fail."""
        raise ToolError(CANARY) if how == "gently" else ZeroDivisionError(CANARY)

    failures = calls(("fail", {"how": "gently"}), ("fail", {"how": "hard"}))
    way.run(failures, "Done.", prompt="Go.", tools=[fail])

    tools = [span for span in exported.spans if span.name == "execute_tool fail"]
    failed = {attributes(s)["pathors_agent.effect"]: attributes(s)["error.type"] for s in tools}
    assert failed == {"tool/0/0": "ToolError", "tool/0/1": "ZeroDivisionError"}
    assert {span.status.status_code for span in tools} == {trace.StatusCode.ERROR}
    assert exported.named("invoke_agent").status.status_code is trace.StatusCode.UNSET


def test_call_without_a_run_is_seen_with_its_outcome(
    way: Way, exported: Exported, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="pathors_agent")
    asked = calls(
        ("look", {"at": "me"}), ("look", {"from": "me"}), ("look", "{"), ("nope", {}), ("look", {})
    )
    # Of five calls the limit lets four run.
    limits = Limits(tool_calls=4)
    way.run(asked, "Done.", prompt="Go.", tools=[look], limits=limits)

    spans = [span for span in exported.spans if span.name.startswith("execute_tool")]
    seen = {attributes(s)["pathors_agent.effect"]: attributes(s) for s in spans}
    told = {key: (a["gen_ai.tool.name"], a["pathors_agent.outcome"]) for key, a in seen.items()}
    assert told == {
        "tool/0/0": ("look", "value"),
        "tool/0/1": ("look", "error"),
        "tool/0/2": ("look", "error"),
        "tool/0/3": ("_OTHER", "error"),
        "tool/0/4": ("look", "not_run"),
    }
    errors = {key: a.get("error.type") for key, a in seen.items()}
    assert [*dict(sorted(errors.items())).values()] == [
        *(None, "invalid_arguments", "invalid_arguments", "unknown_tool", "not_run")
    ]
    assert all(is_below(span, exported.named("invoke_agent")) for span in spans)
    points, by = (
        exported.points()["gen_ai.execute_tool.duration"],
        ("gen_ai.tool.name", "error.type"),
    )
    assert {(p.count, *(p.attributes.get(n) for n in by)) for p in points} == {
        (1, "look", None),
        (2, "look", "invalid_arguments"),
        (1, "_OTHER", "unknown_tool"),
        (1, "look", "not_run"),
    }
    logged = [vars(r)["fields"] for r in caplog.records if vars(r)["event"] == "execute_tool"]
    assert {e["pathors_agent.effect"]: e["pathors_agent.outcome"] for e in logged} == {
        key: outcome for key, (_, outcome) in told.items()
    }


def test_call_that_a_person_denied_is_seen_below_the_next_run(way: Way, exported: Exported) -> None:
    @tool(approve=True, name="look")
    def guarded(at: str) -> str:
        """Look at something."""
        return within(at)

    conversation = Conversation()
    first = way.run(TURNS[0], prompt="Go.", tools=[guarded], conversation=conversation)
    denied = [approval.deny(CANARY) for approval in first.approvals]
    way.run("Done.", tools=[guarded], conversation=conversation, decisions=denied)

    _, _, run, call, _ = exported.spans
    assert call.name == "execute_tool look"
    assert is_below(call, run)
    told = attributes(call)
    assert (told["pathors_agent.effect"], told["pathors_agent.outcome"]) == ("tool/0/0", "not_run")
    assert told["error.type"] == "not_run"
    assert CANARY not in everything(exported)


def test_call_that_the_end_of_the_run_cuts_off_is_out_of_time(way: Way, exported: Exported) -> None:
    @tool
    async def wait() -> None:
        """Wait for ever."""
        await anyio.sleep_forever()

    asked = AssistantMessage(tool_calls=(ToolCall(id="c1", name="wait"),))
    conversation = Conversation([UserMessage(content="Go."), asked])
    limits = Limits(seconds=0.3, tool_seconds=None)
    result = way.run(conversation=conversation, tools=[wait], limits=limits)

    told = attributes(exported.named("execute_tool wait"))
    assert (told["pathors_agent.outcome"], told["error.type"]) == ("timeout", "timeout")
    assert result.times[-1].outcome == "timeout"
    assert attributes(exported.named("invoke_agent"))["pathors_agent.limit"] == "seconds"


class Found:
    """A journal that knows of every call that it was begun before, and no more."""

    async def begin(self, run: Run, effect: CallTool, bound: BoundCall) -> ToolMessage | None:
        return ToolMessage(tool_call_id=effect.call.id, content="Unknown.", outcome="unknown")

    async def end(self, message: ToolMessage) -> None:
        raise AssertionError("nothing was begun")


def test_call_in_doubt_is_seen_as_unknown(exported: Exported) -> None:
    async def main() -> None:
        agent = AsyncAgent(AsyncScriptedTransport(*TURNS), tools=[look])
        async with agent.stream("Go.") as stream:
            stream.keep_journal(Found())
            async for _ in stream:
                pass

    anyio.run(main)

    told = attributes(exported.named("execute_tool look"))
    assert (told["pathors_agent.outcome"], told["error.type"]) == ("unknown", "unknown")


def test_answer_of_a_type_is_a_call_that_is_seen(way: Way, exported: Exported) -> None:
    wrong, right = calls(("final_answer", {"value": "x"})), calls(("final_answer", {"value": 3}))
    way.run(wrong, right, prompt="Go.", output=int)

    answers = [s for s in exported.spans if s.name == "execute_tool final_answer"]
    assert [attributes(span).get("error.type") for span in answers] == ["invalid_arguments", None]


def test_stream_that_is_left_ends_its_spans(way: Way, exported: Exported) -> None:
    way.stream(answer("One two three", chunk_size=4), prompt="Go.", stop_after=1)

    run, call = exported.spans
    assert attributes(call)["error.type"] == "cancelled"
    assert "error.type" not in attributes(run)
    assert attributes(run)["pathors_agent.status"] == "running"
    assert {span.status.status_code for span in exported.spans} == {trace.StatusCode.UNSET}


def test_limit_that_ends_a_run_is_reported(way: Way, exported: Exported) -> None:
    way.run(TURNS[0], prompt="Go.", tools=[look], limits=Limits(turns=1))

    told = attributes(exported.named("invoke_agent"))
    assert (told["pathors_agent.status"], told["pathors_agent.limit"]) == ("limit_reached", "turns")


def around(way: Way, kind: str, *scripts: tuple[Any, ...]) -> Any:
    """Put a retrying or falling-back transport around scripted ones."""
    if way.name == "blocking":
        inner = [ScriptedTransport(*script) for script in scripts]
        if kind == "retry":
            return RetryingTransport(inner[0], sleep=lambda seconds: None, seed=1)
        return FallbackTransport(*inner)
    inner_async = [AsyncScriptedTransport(*script) for script in scripts]
    if kind == "retry":
        return AsyncRetryingTransport(inner_async[0], sleep=no_sleep, seed=1)
    return AsyncFallbackTransport(*inner_async)


async def no_sleep(seconds: float) -> None:
    pass


def run_with(way: Way, transport: Any) -> Any:
    if isinstance(transport, Transport):
        return Agent(transport).run("Go.")
    assert isinstance(transport, AsyncTransport)
    return way.on_loop(lambda: AsyncAgent(transport).run("Go."))


def test_retries_are_events_of_the_call(way: Way, exported: Exported) -> None:
    script = (http_error(503, "busy"), TransportError("gone"), "Done.")
    result = run_with(way, around(way, "retry", script))

    call = exported.named("chat")
    first, second = call.events
    assert (first.name, dict(first.attributes or {})) == (
        "request_retried",
        {"attempt": 1, "status": 503, "seconds": (first.attributes or {})["seconds"]},
    )
    assert dict(second.attributes or {})["error"] == "TransportError"
    assert attributes(call)["http.request.resend_count"] == 2
    [timed] = result.times
    assert timed.notes == ("sent again: 503", "sent again: TransportError")
    assert len(timed.waits) == 2


def test_fallbacks_are_events_of_the_call(way: Way, exported: Exported) -> None:
    result = run_with(way, around(way, "fallback", (http_error(503, "busy"),), ("Done.",)))

    [event] = exported.named("chat").events
    told = dict(event.attributes or {})
    assert event.name == "transport_fell_back"
    assert (told["position"], told["status"]) == (0, 503)
    assert result.times[0].notes == ("sent to the next endpoint: 503",)


# - contents -


def run_with_canaries(way: Way) -> None:
    """Put a canary wherever contents are."""

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
    for failing in (
        http_error(500, CANARY, code=CANARY),
        answer(CANARY).broken_after(events=2),
        TransportError(CANARY),
    ):
        with pytest.raises(TransportError):
            way.run(failing, prompt=CANARY, **settings)


def everything(exported: Exported) -> str:
    """Write down all that reached the SDK."""
    return "".join(span.to_json() for span in exported.spans) + repr(exported.points())


@pytest.mark.parametrize("asked", [None, "false", "no_content"])
def test_contents_are_in_no_span_unless_asked_for(
    way: Way, exported: Exported, monkeypatch: pytest.MonkeyPatch, asked: str | None
) -> None:
    if asked is not None:
        monkeypatch.setenv(CAPTURE, asked)

    run_with_canaries(way)

    assert len(exported.spans) > 10
    assert CANARY not in everything(exported)


@pytest.mark.parametrize("asked", ["true", "SPAN_ONLY"])
def test_contents_are_in_the_spans_where_asked_for(
    way: Way, exported: Exported, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    monkeypatch.setenv(CAPTURE, asked)
    way.run(*TURNS, prompt="Go.", tools=[look], instructions="Be brief.")

    _, first, called, second = map(attributes, exported.spans)
    system = [{"type": "text", "content": "Be brief."}]
    call = {"type": "tool_call", "id": "call_1", "name": "look", "arguments": {"at": "me"}}
    asks = {"role": "assistant", "parts": [{"type": "text", "content": "Hm."}, call]}
    says = {"type": "tool_call_response", "id": "call_1", "response": "me it is"}
    question = {"role": "user", "parts": [{"type": "text", "content": "Go."}]}
    assert json.loads(first["gen_ai.system_instructions"]) == system
    assert json.loads(first["gen_ai.input.messages"]) == [question]
    assert json.loads(first["gen_ai.output.messages"]) == [{**asks, "finish_reason": "tool_calls"}]
    assert json.loads(second["gen_ai.input.messages"]) == [
        *(question, asks, {"role": "tool", "parts": [says]})
    ]
    assert called["gen_ai.tool.call.arguments"] == '{"at": "me"}'
    assert called["gen_ai.tool.call.result"] == "me it is"
    assert called["gen_ai.tool.description"] == "Look at something."


def test_key_is_in_no_span(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CAPTURE, "true")
    server = ScriptedServer([served(CANARY.encode(), "401 Unauthorized")])
    port = server.port
    try:
        with HTTPTransport(server.url, api_key=CANARY) as transport:
            with pytest.raises(TransportError):
                Agent(transport).run("Go.")
    finally:
        server.stop()

    told = attributes(exported.named("chat"))
    assert (told["server.address"], told["server.port"]) == ("127.0.0.1", port)
    assert CANARY not in everything(exported)
