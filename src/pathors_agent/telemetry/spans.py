"""Spans and metrics by OpenTelemetry's conventions for generative AI, if a program has set it up.

Nothing is imported unless the program has loaded the API and set a provider. A span is the current
one only while a tool runs, and while a request is sent: a run's generators yield to the caller's
code, which must not run inside the span.
"""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from pathors_agent.telemetry.events import Facts, library_version, observe

if TYPE_CHECKING:
    from contextvars import Token

    from opentelemetry.context import Context
    from opentelemetry.metrics import Histogram, MeterProvider
    from opentelemetry.trace import Link, Span, TracerProvider

T = TypeVar("T")

NOTHING: AbstractContextManager[object] = nullcontext()

CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
"""The environment variable that enables contents, also in the instrumentation of other libraries."""

_CAPTURES = frozenset({"true", "span_only", "span_and_event"})

# The providers of the API itself do nothing; programs replace them.
_IDLE = ("opentelemetry.trace", "opentelemetry.metrics")
# The package of metrics without traces. Asking the API for them costs a run 1 % more.
_METERS = "opentelemetry.sdk.metrics"

SPANS = "a span"
METRICS = "a metric"
"""The names of these observers in reports of failures."""

SCHEMA_URL = "https://opentelemetry.io/schemas/1.41.0"
"""The conventions' version: the last release with names for generative AI.

Their new repository, open-telemetry/semantic-conventions-genai, has no release yet. It is the source
of two metrics: the durations of tool calls and of agents.
"""

_MODELS = ("gen_ai.provider.name", "gen_ai.request.model", "gen_ai.response.model")
_SERVER = ("server.address", "server.port")
_BY_MODEL = ("gen_ai.operation.name", *_MODELS, *_SERVER)

_FIRST_CHUNK = "gen_ai.client.operation.time_to_first_chunk"
_TOKENS = "gen_ai.client.token.usage"

Measurement = tuple[str, float, Facts]
"""The name of a metric, a value, and the attributes of the value."""


class Kind(NamedTuple):
    """A kind of operation: its name, whether it is remote, and the metric of its duration."""

    operation: str
    is_remote: bool
    duration: str
    attributes: tuple[str, ...]

    def measurements(self, facts: Facts, seconds: float) -> Iterator[Measurement]:
        """Yield the measurements of an operation with these facts."""
        facts = {"gen_ai.operation.name": self.operation, **facts}
        yield self.duration, seconds, _chosen(facts, self.attributes)
        if self.operation != "chat":
            return
        if (first := facts.get("gen_ai.response.time_to_first_chunk")) is not None:
            yield _FIRST_CHUNK, first, _chosen(facts, _BY_MODEL)
        for kind in ("input", "output"):
            if (tokens := facts.get(f"gen_ai.usage.{kind}_tokens")) is not None:
                yield _TOKENS, tokens, {**_chosen(facts, _BY_MODEL), "gen_ai.token.type": kind}


CHAT = Kind(
    operation="chat",
    is_remote=True,
    duration="gen_ai.client.operation.duration",
    attributes=(*_BY_MODEL, "error.type"),
)
TOOL = Kind(
    operation="execute_tool",
    is_remote=False,
    duration="gen_ai.execute_tool.duration",
    attributes=("gen_ai.tool.name", "gen_ai.tool.type", "gen_ai.agent.name", "error.type"),
)
AGENT = Kind(
    operation="invoke_agent",
    is_remote=False,
    duration="gen_ai.invoke_agent.duration",
    attributes=("gen_ai.agent.name", "gen_ai.request.model", "error.type"),
)

# The boundaries in the conventions: seconds of calls and of runs, and tokens.
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
    """The API with the providers of the program: begins spans, and records metrics.

    Exceptions of processors, samplers, exporters and propagators are raised.
    """

    def __init__(self, tracers: "TracerProvider", meters: "MeterProvider") -> None:
        from opentelemetry import propagate, trace

        self._trace = trace
        self._propagate = propagate
        scope = ("pathors_agent", library_version())
        self._tracer = tracers.get_tracer(*scope, schema_url=SCHEMA_URL)
        meter = meters.get_meter(*scope, schema_url=SCHEMA_URL)
        self._metrics: dict[str, Histogram] = {
            name: meter.create_histogram(
                name, unit, description, explicit_bucket_boundaries_advisory=boundaries
            )
            for name, (unit, description, boundaries) in _METRICS.items()
        }

    def start(
        self,
        kind: Kind,
        name: str | None,
        parent: "Context | None",
        facts: Facts,
        links: Mapping[str, str],
    ) -> "Span":
        """Begin a span; without `parent` its parent is the current span.

        `links` are the headers of a trace to which the span is linked.
        """
        kinds = self._trace.SpanKind
        return self._tracer.start_span(
            f"{kind.operation} {name}" if name else kind.operation,
            context=parent,
            kind=kinds.CLIENT if kind.is_remote else kinds.INTERNAL,
            attributes={"gen_ai.operation.name": kind.operation, **facts},
            links=self._links(links),
        )

    def _links(self, headers: Mapping[str, str]) -> "list[Link]":
        if not headers:
            return []
        trace = self._trace
        linked = trace.get_current_span(self._propagate.extract(headers)).get_span_context()
        return [trace.Link(linked)] if linked.is_valid else []

    def set_error(self, span: "Span") -> None:
        """Mark a span as failed."""
        span.set_status(self._trace.StatusCode.ERROR)

    def record(
        self, metric: str, value: float, attributes: Facts, context: "Context | None"
    ) -> None:
        """Record a value of a metric."""
        self._metrics[metric].record(value, attributes, context=context)

    def context(self, span: "Span") -> "Context":
        """Return the context in which a span is the current one."""
        return self._trace.set_span_in_context(span)

    def current(self, span: "Span") -> AbstractContextManager[object]:
        """Return a context manager inside which a span is the current one; it must not yield."""
        return self._trace.use_span(span, record_exception=False, set_status_on_exception=False)

    def headers(self, span: "Span | None" = None) -> dict[str, str]:
        """Return the headers that continue the trace from this span, or from the current one."""
        headers: dict[str, str] = {}
        self._propagate.inject(headers, context=self.context(span) if span else None)
        return {name: value for name, value in headers.items() if _is_sendable(value)}

    def ids(self, span: "Span") -> Facts:
        """Return the ids of a span in the form of log fields."""
        context = span.get_span_context()
        if not context.is_valid:
            return {}
        trace = self._trace
        return {
            "trace_id": trace.format_trace_id(context.trace_id),
            "span_id": trace.format_span_id(context.span_id),
        }


def active_api() -> OpenTelemetry | None:
    """Return the API if the program has set a provider, otherwise None."""
    if "opentelemetry" not in sys.modules:
        return None
    try:
        trace, metrics = _api()
    except ImportError:  # another package of the namespace
        return None
    tracers = trace.get_tracer_provider()
    if _is_idle(tracers) and (_METERS not in sys.modules or _is_idle(metrics.get_meter_provider())):
        return None
    return _with_providers(tracers, metrics.get_meter_provider())


def captures_contents() -> bool:
    """Return True if spans may contain message contents."""
    return os.environ.get(CAPTURE, "").strip().lower() in _CAPTURES


def current_headers() -> dict[str, str]:
    """Return the headers that continue the current trace; none without a trace."""
    api = observe(SPANS, active_api)
    return (api and observe(SPANS, api.headers)) or {}


def continued(headers: Mapping[str, str]) -> AbstractContextManager[object]:
    """Continue the trace of a request, unless an instrumentation does so already."""
    context = observe(SPANS, _extracted, headers)
    return NOTHING if context is None else AttachedContext(context)


def _extracted(headers: Mapping[str, str]) -> "Context | None":
    if active_api() is None or "traceparent" not in headers:
        return None
    from opentelemetry import propagate, trace

    if trace.get_current_span().get_span_context().is_valid:
        return None
    return propagate.extract(headers)


class AttachedContext:
    """Activate a context for a `with` block, which must not yield."""

    __slots__ = ("_context", "_token")

    def __init__(self, context: "Context") -> None:
        self._context = context
        self._token: Token[Context] | None = None

    def __enter__(self) -> None:
        from opentelemetry.context import attach

        self._token = observe(SPANS, attach, self._context)

    def __exit__(self, *_: object) -> None:
        from opentelemetry.context import detach

        if self._token is not None:
            observe(SPANS, detach, self._token)


class InContext(AbstractContextManager[T]):
    """A context manager that is opened and closed inside a context, and used outside of it."""

    def __init__(self, context: "Context", open_: Callable[[], AbstractContextManager[T]]) -> None:
        self._context = context
        self._open = open_
        self._opened: AbstractContextManager[T] | None = None

    def __enter__(self) -> T:
        with AttachedContext(self._context):
            self._opened = self._open()
            return self._opened.__enter__()

    def __exit__(self, *error: Any) -> bool | None:
        assert self._opened is not None  # it was entered
        with AttachedContext(self._context):
            return self._opened.__exit__(*error)


class AsyncInContext(AbstractAsyncContextManager[T]):
    """`InContext` for async context managers."""

    def __init__(
        self, context: "Context", open_: Callable[[], AbstractAsyncContextManager[T]]
    ) -> None:
        self._context = context
        self._open = open_
        self._opened: AbstractAsyncContextManager[T] | None = None

    async def __aenter__(self) -> T:
        with AttachedContext(self._context):
            self._opened = self._open()
            return await self._opened.__aenter__()

    async def __aexit__(self, *error: Any) -> bool | None:
        assert self._opened is not None  # it was entered
        with AttachedContext(self._context):
            return await self._opened.__aexit__(*error)


@cache
def _api() -> tuple[Any, Any]:
    from opentelemetry import metrics, trace

    return trace, metrics


# Two entries: the providers of a program, and those of a test.
_with_providers = lru_cache(maxsize=2)(OpenTelemetry)


def _chosen(facts: Facts, names: tuple[str, ...]) -> Facts:
    return {name: facts[name] for name in names if name in facts}


def _is_idle(provider: object) -> bool:
    return type(provider).__module__.startswith(_IDLE)


def _is_sendable(value: str) -> bool:
    return value.isascii() and value.isprintable() and value == value.strip() != ""
