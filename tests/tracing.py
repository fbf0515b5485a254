"""What a program's OpenTelemetry SDK receives: the fixture `exported`, and ways to look at spans."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"


class Exported:
    """What reached the SDK."""

    def __init__(self, exporter: "InMemorySpanExporter", reader: "InMemoryMetricReader") -> None:
        self._exporter = exporter
        self._reader = reader

    @property
    def spans(self) -> "list[ReadableSpan]":
        """The spans, by their beginnings."""
        return sorted(self._exporter.get_finished_spans(), key=lambda span: span.start_time or 0)

    def named(self, name: str) -> "ReadableSpan":
        [span] = [span for span in self.spans if span.name == name]
        return span

    def points(self) -> dict[str, list[Any]]:
        data = self._reader.get_metrics_data()
        assert data is not None
        return {
            metric.name: [*metric.data.data_points]
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Iterator[Exported]:
    """Set OpenTelemetry up as a program does; a program can do so once only, a test again."""
    from opentelemetry import metrics, trace
    from opentelemetry.metrics import _internal as metrics_internals
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers, meters = TracerProvider(), MeterProvider(metric_readers=[reader])
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", tracers)
    monkeypatch.setattr(metrics_internals, "_METER_PROVIDER", meters)
    assert metrics.get_meter_provider() is meters
    monkeypatch.delenv(CAPTURE, raising=False)
    yield Exported(exporter, reader)
    meters.shutdown()
    tracers.shutdown()


def ids(span: "ReadableSpan | None") -> tuple[int, int]:
    """Return the ids of the trace and the span."""
    assert span is not None
    assert span.context is not None
    return span.context.trace_id, span.context.span_id


def is_below(span: "ReadableSpan", parent: "ReadableSpan") -> bool:
    """Return True for a child of a span."""
    assert span.parent is not None
    return (span.parent.trace_id, span.parent.span_id) == ids(parent)


def attributes(span: "ReadableSpan") -> dict[str, Any]:
    """Return a span's attributes; the one time among them differs with each run."""
    known = dict(span.attributes or {})
    first: Any = known.pop("gen_ai.response.time_to_first_chunk", 0)
    assert first >= 0
    return known
