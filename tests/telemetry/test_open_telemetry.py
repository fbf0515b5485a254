"""Spans and metrics as the GenAI conventions have them, read back with the SDK."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.metrics import _internal as metrics_internals
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv._incubating.metrics import gen_ai_metrics
from opentelemetry.semconv.attributes import error_attributes, http_attributes, server_attributes

from live_server import live
from observed_runs import TURNS, look, within
from pathors_agent import Agent, HTTPTransport, ModelOptions, TransportError, tool
from pathors_agent.agents.summaries import summarized
from pathors_agent.server import Project
from pathors_agent.telemetry.spans import continued
from pathors_agent.testing import AsyncScriptedTransport, ScriptedTransport, calls, http_error, raw
from tracing import Exported, attributes, ids, is_below
from ways import Way

# What the conventions call it, written out; a test below compares with the published package.
CHAT_SECONDS = [
    *(0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
]
TOKENS = [
    *(1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)
]
AGENT_SECONDS = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 102.4, 204.8, 409.6]


# - spans -


def test_run_is_a_span_with_those_of_its_calls_below(way: Way, exported: Exported) -> None:
    way.run(*TURNS, prompt="Go.", tools=[look], model="small")

    run, *calls_made = exported.spans
    assert (run.name, run.kind, run.parent) == ("invoke_agent", trace.SpanKind.INTERNAL, None)
    assert [(span.name, span.kind) for span in calls_made] == [
        ("chat small", trace.SpanKind.CLIENT),
        ("execute_tool look", trace.SpanKind.INTERNAL),
        ("chat small", trace.SpanKind.CLIENT),
    ]
    assert all(is_below(span, run) for span in calls_made)
    assert {span.status.status_code for span in exported.spans} == {trace.StatusCode.UNSET}


def test_attributes_are_those_of_the_conventions(way: Way, exported: Exported) -> None:
    options = ModelOptions(temperature=0.5, top_p=0.9, max_tokens=50, seed=7, stop="END")
    settings: dict[str, Any] = {"tools": [look], "model": "small", "options": options}
    way.run(*TURNS, prompt="Go.", session_id="s-1", **settings)

    run, first, called, second = map(attributes, exported.spans)
    assert first == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.conversation.id": "s-1",
        "gen_ai.request.model": "small",
        "gen_ai.request.stream": True,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.request.max_tokens": 50,
        "gen_ai.request.seed": 7,
        "gen_ai.request.stop_sequences": ("END",),
        "gen_ai.response.id": "chatcmpl-1",
        "gen_ai.response.model": "small",
        "gen_ai.response.finish_reasons": ("tool_calls",),
        "gen_ai.usage.input_tokens": 5,
        "gen_ai.usage.output_tokens": 2,
        "pathors_agent.effect": "model/0",
        "http.response.status_code": 200,
        "pathors_agent.tool_calls": 1,
    }
    assert called == {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "look",
        "gen_ai.tool.call.id": "call_1",
        "gen_ai.tool.type": "function",
        "pathors_agent.effect": "tool/0/0",
        "pathors_agent.outcome": "value",
    }
    assert (second["pathors_agent.effect"], second["gen_ai.response.id"]) == (
        "model/1",
        "chatcmpl-2",
    )
    assert run == {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.provider.name": "openai",
        "gen_ai.conversation.id": "s-1",
        "gen_ai.request.model": "small",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 4,
        "pathors_agent.status": "finished",
    }


@pytest.mark.skipif(
    not hasattr(gen_ai_attributes, "GEN_AI_REQUEST_STREAM"), reason="this version has fewer names"
)
def test_every_name_is_published(way: Way, exported: Exported) -> None:
    way.run(*TURNS, prompt="Go.", tools=[look], model="small", output=None)
    published = {
        value
        for module in (
            *(gen_ai_attributes, error_attributes, http_attributes, server_attributes),
            gen_ai_metrics,
        )
        for value in vars(module).values()
        if isinstance(value, str)
    }
    used = {name for span in exported.spans for name in span.attributes or {}}
    own = {"pathors_agent.effect", "pathors_agent.tool_calls", "pathors_agent.outcome"}

    assert used - published == own | {"pathors_agent.status"}
    # These two are younger than the last release of the package that holds the names.
    younger = {"gen_ai.invoke_agent.duration", "gen_ai.execute_tool.duration"}
    assert exported.points().keys() - published <= younger


def test_version_of_the_conventions_is_reported_and_documented(exported: Exported) -> None:
    Agent(ScriptedTransport("Yes.")).run("Go.")

    scopes = [span.instrumentation_scope for span in exported.spans]
    assert {scope.schema_url for scope in scopes if scope} == {
        "https://opentelemetry.io/schemas/1.41.0"
    }
    page = Path(__file__).parents[2] / "docs" / "howto" / "observe-runs.md"
    assert "version 1.41.0 of OpenTelemetry's semantic conventions" in page.read_text()


def test_time_to_the_first_chunk_is_that_of_streams_only(exported: Exported) -> None:
    Agent(ScriptedTransport("Yes.")).run("Go.")

    name = "gen_ai.response.time_to_first_chunk"
    span = exported.named("chat")
    assert span.attributes is not None
    assert span.start_time is not None
    assert span.end_time is not None
    first: Any = span.attributes[name]
    assert 0 <= first <= (span.end_time - span.start_time) / 1e9


def test_cached_and_reasoning_tokens_are_reported(way: Way, exported: Exported) -> None:
    usage = {
        "prompt_tokens": 5,
        "completion_tokens": 2,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 1},
    }
    said = {"index": 0, "message": {"content": "Yes."}, "finish_reason": "stop"}
    way.run(raw(json.dumps({"choices": [said], "usage": usage}).encode()), prompt="Go.")

    for span in exported.spans:
        told = attributes(span)
        assert told["gen_ai.usage.cache_read.input_tokens"] == 4
        assert told["gen_ai.usage.reasoning.output_tokens"] == 1


def test_answer_of_a_type_is_said_to_be_json(way: Way, exported: Exported) -> None:
    way.run(calls(("final_answer", {"value": 3})), prompt="Go.", output=int)

    assert attributes(exported.named("chat"))["gen_ai.output.type"] == "json"


def test_run_belongs_to_the_span_of_its_caller(way: Way, exported: Exported) -> None:
    with trace.get_tracer("program").start_as_current_span("request") as mine:
        way.run("Done.", prompt="Go.")
        assert trace.get_current_span() is mine

    assert is_below(exported.named("invoke_agent"), exported.named("request"))


@pytest.mark.parametrize("stop_after", [None, 1])
def test_no_span_is_current_for_the_reader_of_a_stream(
    way: Way, exported: Exported, stop_after: int | None
) -> None:
    seen: list[Any] = []

    class Watching(list[Any]):
        def append(self, item: Any) -> None:
            seen.append(trace.get_current_span())
            super().append(item)

    way.items = Watching()
    way.stream(*TURNS, prompt="Go.", tools=[look], stop_after=stop_after)

    assert len(seen) >= 1
    assert set(seen) == {trace.INVALID_SPAN}
    assert trace.get_current_span() is trace.INVALID_SPAN


async def within_async(at: str) -> str:
    """Work in a span of its own."""
    with trace.get_tracer("program").start_as_current_span("my work"):
        return at


async def within_steps(at: str) -> Any:
    """Tell of a step, then work in a span of its own."""
    yield "one moment"
    yield await within_async(at)


@pytest.mark.parametrize(
    "worker",
    [
        tool(name="look")(within),
        tool(name="look", timeout=30)(within),
        tool(name="look")(within_async),
        tool(name="look")(within_steps),
    ],
    ids=["sync", "thread", "async", "generator"],
)
@pytest.mark.parametrize("count", [1, 2])
def test_spans_that_a_tool_makes_are_below_its_own(
    way: Way, exported: Exported, worker: Any, count: int
) -> None:
    asked = calls(*[("look", {"at": str(number)}) for number in range(count)])
    way.run(asked, "Done.", prompt="Go.", tools=[worker])

    tools = [span for span in exported.spans if span.name == "execute_tool look"]
    mine = [span for span in exported.spans if span.name == "my work"]
    assert len(mine) == len(tools) == count
    assert {ids(span) for span in tools} == {
        (span.parent.trace_id, span.parent.span_id) for span in mine if span.parent
    }


def test_agent_that_is_a_tool_runs_below_its_call(way: Way, exported: Exported) -> None:
    @tool
    def ask_another(question: str) -> str:
        """Ask another agent."""
        return Agent(ScriptedTransport("Yes.")).run(question).output

    way.run(calls(("ask_another", {"question": "?"})), "Done.", prompt="Go.", tools=[ask_another])

    outer, inner = [span for span in exported.spans if span.name == "invoke_agent"]
    assert outer.parent is None
    assert is_below(inner, exported.named("execute_tool ask_another"))


def test_summary_that_a_run_needs_is_written_below_it(exported: Exported) -> None:
    writer = Agent(ScriptedTransport("They counted."))
    agent = Agent(ScriptedTransport(*["word " * 50] * 4), history=summarized(writer, tokens=200))
    result = agent.run("Count.")
    for _ in range(3):
        result = agent.run("On.", conversation=result.conversation)

    runs = [span for span in exported.spans if span.name == "invoke_agent"]
    [written] = [span for span in runs if span.parent is not None]
    assert any(is_below(written, run) for run in runs)
    assert trace.get_current_span() is trace.INVALID_SPAN


@pytest.mark.parametrize("reading", ["run", "stream"])
def test_spans_of_hooks_and_of_functions_of_the_caller_are_below_the_run(
    exported: Exported, reading: str
) -> None:
    tracer = trace.get_tracer("app")

    def traced(name: str, value: Any) -> Any:
        with tracer.start_as_current_span(name):
            return value

    class Traced:
        def around_model(self, call: Any, request: Any, next_: Any) -> Any:
            with tracer.start_as_current_span("model hook"):
                return next_(request)

        def around_tool(self, call: Any, arguments: Any, context: Any, next_: Any) -> Any:
            with tracer.start_as_current_span("tool hook"):
                return next_(arguments)

    agent = Agent(
        ScriptedTransport(*TURNS),
        tools=lambda context: traced("tools", [look]),
        instructions=lambda context: traced("instructions", "Be brief."),
        hooks=[Traced()],
    )
    with tracer.start_as_current_span("app"):
        if reading == "run":
            agent.run("Go.")
        else:
            with agent.stream("Go.") as stream:
                list(stream)

    run = exported.named("invoke_agent")
    own = [
        s for s in exported.spans if s.name in {"model hook", "tool hook", "tools", "instructions"}
    ]
    assert len({span.name for span in own}) == 4
    assert all(is_below(span, run) for span in own)


# - metrics -


def counted(points: list[Any], *names: str) -> list[tuple[Any, ...]]:
    """Return each point's count and these attributes."""
    return sorted((p.count, *(p.attributes.get(name) for name in names)) for p in points)


def test_durations_and_tokens_are_counted(way: Way, exported: Exported) -> None:
    way.run(*TURNS, prompt="Go.", tools=[look], model="small")
    points = exported.points()

    chats = points["gen_ai.client.operation.duration"]
    assert [dict(point.attributes) for point in chats] == [
        {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": "small",
            "gen_ai.response.model": "small",
        }
    ]
    assert (chats[0].count, [*chats[0].explicit_bounds]) == (2, CHAT_SECONDS)
    tokens = points["gen_ai.client.token.usage"]
    assert {point.attributes["gen_ai.token.type"]: point.sum for point in tokens} == {
        "input": 10,
        "output": 4,
    }
    assert {tuple(point.explicit_bounds) for point in tokens} == {tuple(TOKENS)}
    assert points["gen_ai.client.operation.time_to_first_chunk"][0].count == 2
    assert counted(points["gen_ai.execute_tool.duration"], "gen_ai.tool.name") == [(1, "look")]
    [run] = points["gen_ai.invoke_agent.duration"]
    assert dict(run.attributes) == {"gen_ai.request.model": "small"}
    assert [*run.explicit_bounds] == pytest.approx(AGENT_SECONDS)


def test_failures_are_counted_by_their_kind(way: Way, exported: Exported) -> None:
    with pytest.raises(TransportError):
        way.run(http_error(500, "gone"), prompt="Go.")

    points = exported.points()
    for name in ("gen_ai.client.operation.duration", "gen_ai.invoke_agent.duration"):
        assert counted(points[name], "error.type") == [(1, "ProviderError")]
    assert "gen_ai.client.token.usage" not in points


# - the log, and other processes -


def test_event_of_the_log_has_the_names_and_ids_of_its_span(
    way: Way, exported: Exported, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="pathors_agent")
    way.run(*TURNS, prompt="Go.", tools=[look], model="small")

    told = {vars(r)["fields"]["span_id"]: vars(r) for r in caplog.records}
    assert len(told) == len(exported.spans) == 4
    for span in exported.spans:
        trace_id, span_id = ids(span)
        event = told[f"{span_id:016x}"]
        known = dict(span.attributes or {})
        fields = {n: tuple(v) if isinstance(v, list) else v for n, v in event["fields"].items()}
        assert event["event"] == known.pop("gen_ai.operation.name")
        assert fields.pop("trace_id") == f"{trace_id:032x}"
        del fields["span_id"], fields["seconds"]
        assert fields == known


def test_request_carries_the_trace_on(way: Way, exported: Exported) -> None:
    way.run("Done.", prompt="Go.")

    [request] = way.sent
    trace_id, span_id = ids(exported.named("chat"))
    assert request.headers["traceparent"][:53] == f"00-{trace_id:032x}-{span_id:016x}-"


@pytest.mark.parametrize("by_fastapi", [True, False])
def test_server_continues_the_trace_of_its_client(
    exported: Exported, monkeypatch: pytest.MonkeyPatch, *, by_fastapi: bool
) -> None:
    project = Project(id="demo", transport=AsyncScriptedTransport("Yes."))
    with live(project) as server:
        if not by_fastapi:  # older ones make no span of a request by themselves
            idle = SimpleNamespace(enabled=lambda: False)
            monkeypatch.setattr(server.app, "_native_telemetry", idle, raising=False)
        with HTTPTransport(server.base, api_key=server.key) as transport:
            Agent(transport).run("Go.")

    outer, asked, *_, served, inner = exported.spans
    assert (is_below(asked, outer), is_below(inner, served)) == (True, True)
    above = {ids(span)[1]: span.parent for span in exported.spans}
    parents = []
    parent = served.parent
    while parent is not None:
        parents.append(parent.span_id)
        parent = above[parent.span_id]
    assert parents[-2:] == [ids(asked)[1], ids(outer)[1]]
    assert by_fastapi or len(parents) == 2


def test_trace_of_a_request_is_continued_if_no_instrumentation_did_so(exported: Exported) -> None:
    headers = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    with continued(headers):
        Agent(ScriptedTransport("Yes.")).run("Go.")
        with trace.get_tracer("program").start_as_current_span("mine"), continued(headers):
            Agent(ScriptedTransport("Yes.")).run("Go.")

    first, _, mine, second, _ = exported.spans
    assert first.parent is not None
    assert first.parent.span_id == 0xB7AD6B7169203331
    assert is_below(second, mine)
    assert trace.get_current_span() is trace.INVALID_SPAN


@pytest.mark.slow
def test_nothing_is_imported_unless_the_program_has() -> None:
    code = """
import sys
from pathors_agent import Agent
from pathors_agent.testing import ScriptedTransport
print(Agent(ScriptedTransport("Yes.")).run("Go.").output)
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd()
    )

    assert done.stdout == "Yes.\n[]\n"


def test_nothing_is_done_while_the_program_has_set_nothing(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(metrics_internals, "_METER_PROVIDER", None)
    way.run("Done.", prompt="Go.")

    assert "traceparent" not in way.sent[0].headers
