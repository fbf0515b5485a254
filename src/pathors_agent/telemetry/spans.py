"""Spans and metrics by OpenTelemetry's conventions for generative AI, where a program has set it up.

Nothing is imported unless the program has loaded the API and given it a provider. No span is made
the current one here but around a tool: a run's generators yield, and whoever reads them would find
themselves inside.
"""

import os
import sys
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from pathors_agent.transports.endpoint import library_version

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.metrics import Histogram, MeterProvider
    from opentelemetry.trace import Span, TracerProvider

NOTHING: AbstractContextManager[object] = nullcontext()

Facts = dict[str, Any]
"""What is told of a call, by the names of OpenTelemetry's conventions."""

CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
"""The environment variable that asks for contents; other libraries' instrumentation reads it, too."""

_ASKS = frozenset({"true", "span_only", "span_and_event"})

# What does nothing: providers of the API itself, until a program sets others.
_IDLE = ("opentelemetry.trace", "opentelemetry.metrics")
# Metrics without traces come from here; to ask the API for them costs a run 1 % more.
_METERS = "opentelemetry.sdk.metrics"


class Kind(NamedTuple):
    """A kind of operation: its name, where it runs, and what its duration is counted as."""

    operation: str
    is_remote: bool
    duration: str
    counted_by: tuple[str, ...]


_MODELS = ("gen_ai.provider.name", "gen_ai.request.model", "gen_ai.response.model")
_SERVER = ("server.address", "server.port")
_BY_MODEL = ("gen_ai.operation.name", *_MODELS, *_SERVER)

CHAT = Kind(
    operation="chat",
    is_remote=True,
    duration="gen_ai.client.operation.duration",
    counted_by=(*_BY_MODEL, "error.type"),
)
TOOL = Kind(
    operation="execute_tool",
    is_remote=False,
    duration="gen_ai.execute_tool.duration",
    counted_by=("gen_ai.tool.name", "gen_ai.tool.type", "error.type"),
)
AGENT = Kind(
    operation="invoke_agent",
    is_remote=False,
    duration="gen_ai.invoke_agent.duration",
    counted_by=("gen_ai.request.model", "error.type"),
)

_FIRST_CHUNK = "gen_ai.client.operation.time_to_first_chunk"
_TOKENS = "gen_ai.client.token.usage"

# The boundaries that the conventions ask for: seconds of calls and of runs, and tokens.
_CALL_SECONDS = [0.01 * 2**n for n in range(14)]
_RUN_SECONDS = [0.1 * 2**n for n in range(13)]
_METRICS = {
    CHAT.duration: ("s", "GenAI operation duration.", _CALL_SECONDS),
    TOOL.duration: ("s", "The duration of a single tool execution.", _CALL_SECONDS),
    AGENT.duration: ("s", "The duration of a single agent invocation.", _RUN_SECONDS),
    _FIRST_CHUNK: ("s", "Time to receive the first chunk.", _CALL_SECONDS),
    _TOKENS: ("{token}", "Number of input and output tokens used.", [4**n for n in range(14)]),
}


class OpenTelemetry:
    """The API, with the providers that are set: begins spans, and ends them with their metrics."""

    def __init__(self, tracers: "TracerProvider", meters: "MeterProvider") -> None:
        from opentelemetry import propagate, trace

        self._trace = trace
        self._propagate = propagate
        self._tracer = tracers.get_tracer("pathors_agent", library_version())
        meter = meters.get_meter("pathors_agent", library_version())
        self._metrics: dict[str, Histogram] = {
            name: meter.create_histogram(
                name, unit, description, explicit_bucket_boundaries_advisory=boundaries
            )
            for name, (unit, description, boundaries) in _METRICS.items()
        }

    def start(self, kind: Kind, name: str | None, parent: "Context | None") -> "Span":
        """Begin a span; its parent is the current one where none is given."""
        kinds = self._trace.SpanKind
        return self._tracer.start_span(
            f"{kind.operation} {name}" if name else kind.operation,
            context=parent,
            kind=kinds.CLIENT if kind.is_remote else kinds.INTERNAL,
            attributes={"gen_ai.operation.name": kind.operation},
        )

    def end(
        self, span: "Span", kind: Kind, facts: Facts, contents: Facts, *, seconds: float
    ) -> None:
        """End a span, and count what it was."""
        known = {name: value for name, value in facts.items() if value is not None}
        span.set_attributes({**known, **contents})
        # Stopped on purpose is nobody's error.
        if known.get("error.type", "cancelled") != "cancelled":
            span.set_status(self._trace.StatusCode.ERROR)
        context = self.within(span)
        span.end()
        counted = {"gen_ai.operation.name": kind.operation, **known}
        self._count(kind.duration, seconds, kind.counted_by, counted, context)
        if kind is CHAT:
            self._count_answer(counted, context)

    def within(self, span: "Span") -> "Context":
        """Give the context in which a span is the current one."""
        return self._trace.set_span_in_context(span)

    def current(self, span: "Span") -> AbstractContextManager[object]:
        """Make a span the current one for a `with` block in which nothing is yielded."""
        return self._trace.use_span(span, record_exception=False, set_status_on_exception=False)

    def headers(self, span: "Span") -> dict[str, str]:
        """Give the headers by which the one who is asked goes on with the trace."""
        headers: dict[str, str] = {}
        self._propagate.inject(headers, context=self.within(span))
        return {name: value for name, value in headers.items() if _is_sendable(value)}

    def ids(self, span: "Span") -> Facts:
        """Give a span's ids, as logs have them."""
        context = span.get_span_context()
        if not context.is_valid:
            return {}
        trace = self._trace
        return {
            "trace_id": trace.format_trace_id(context.trace_id),
            "span_id": trace.format_span_id(context.span_id),
        }

    def _count_answer(self, counted: Facts, context: "Context") -> None:
        first = counted.get("gen_ai.response.time_to_first_chunk")
        if first is not None:
            self._count(_FIRST_CHUNK, first, _BY_MODEL, counted, context)
        for kind in ("input", "output"):
            tokens = counted.get(f"gen_ai.usage.{kind}_tokens")
            if tokens is not None:
                facts = {**counted, "gen_ai.token.type": kind}
                self._count(_TOKENS, tokens, (*_BY_MODEL, "gen_ai.token.type"), facts, context)

    def _count(
        self, metric: str, value: float, by: tuple[str, ...], facts: Facts, context: "Context"
    ) -> None:
        attributes = {name: facts[name] for name in by if name in facts}
        self._metrics[metric].record(value, attributes, context=context)


def listening() -> OpenTelemetry | None:
    """Give the API where somebody listens to it; None, at the cost of a look-up, elsewhere."""
    if "opentelemetry" not in sys.modules:
        return None
    try:
        trace, metrics = _api()
    except ImportError:  # another part of the namespace
        return None
    tracers = trace.get_tracer_provider()
    if _is_idle(tracers) and (_METERS not in sys.modules or _is_idle(metrics.get_meter_provider())):
        return None
    return _with_providers(tracers, metrics.get_meter_provider())


def contents_are_asked_for() -> bool:
    """Whether what was said may be told."""
    return os.environ.get(CAPTURE, "").strip().lower() in _ASKS


def continued(headers: Mapping[str, str]) -> AbstractContextManager[object]:
    """Go on with the trace that a request belongs to, unless somebody does already."""
    telemetry = listening()
    if telemetry is None or "traceparent" not in headers:
        return NOTHING
    from opentelemetry import propagate, trace

    if trace.get_current_span().get_span_context().is_valid:
        return NOTHING
    return attached(propagate.extract(headers))


@contextmanager
def attached(context: "Context") -> Generator[None]:
    """Make a context the current one for a `with` block in which nothing is yielded."""
    from opentelemetry.context import attach, detach

    token = attach(context)
    try:
        yield
    finally:
        detach(token)


@cache
def _api() -> tuple[Any, Any]:
    from opentelemetry import metrics, trace

    return trace, metrics


# The providers of a program, and of a test beside it.
@lru_cache(maxsize=2)
def _with_providers(tracers: "TracerProvider", meters: "MeterProvider") -> OpenTelemetry:
    return OpenTelemetry(tracers, meters)


def _is_idle(provider: object) -> bool:
    return type(provider).__module__.startswith(_IDLE)


def _is_sendable(value: str) -> bool:
    return value.isascii() and value.isprintable() and value == value.strip() != ""
