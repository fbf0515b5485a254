"""Observers that fail: a run ends as if nothing observed it, and no tool runs twice."""

import asyncio
import errno
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import metrics, propagate, trace
from opentelemetry.metrics import _internal as metrics_internals
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from pathors_agent import Agent, AsyncAgent, Conversation, Limits, tool
from pathors_agent.messages import Message, ToolMessage
from pathors_agent.telemetry import events
from pathors_agent.telemetry.events import bound_logger, emit, observe
from pathors_agent.testing import AsyncScriptedTransport, ScriptedTransport, calls, http_error, raw
from pathors_agent.tools.signature import ToolContext
from pathors_agent.transports.retry import AsyncRetryingTransport, RetryingTransport
from ways import WAYS, Way

CANARY = "hunter2-canary"


class Odd(BaseException):
    """An exception that no `except Exception` catches, and that asks nothing of the program."""


FAILURES: list[Callable[[], BaseException]] = [
    lambda: OSError(errno.ENOSPC, "No space left on device"),
    lambda: BrokenPipeError(errno.EPIPE, "Broken pipe"),
    lambda: ValueError("I/O operation on closed file."),
    lambda: RuntimeError("no running event loop"),
    lambda: RecursionError("maximum recursion depth exceeded"),
    MemoryError,
    lambda: StopIteration(1),
    StopAsyncIteration,
    asyncio.CancelledError,
    GeneratorExit,
    lambda: BaseExceptionGroup("several", [Odd()]),
    Odd,
]
STOPS: list[Callable[[], BaseException]] = [KeyboardInterrupt, lambda: SystemExit(3)]


class Fault:
    """Raises an exception at chosen calls of an observer, counted over all observers."""

    def __init__(self, make: Callable[[], BaseException], at: frozenset[int] | None) -> None:
        self._make = make
        self._at = at
        self.calls = 0

    def __call__(self, *_: object, **__: object) -> None:
        self.calls += 1
        if self._at is None or self.calls in self._at:
            raise self._make()


# - observers, each set up as a program does -


@contextmanager
def structlog_set(**settings: Any) -> Iterator[None]:
    structlog.configure(**settings)
    try:
        yield
    finally:
        structlog.reset_defaults()


def broken_processor(fault: Fault) -> Any:
    def process(_logger: Any, _method: str, event: Any) -> Any:
        fault()
        return event

    return structlog_set(processors=[process, drop])


def drop(*_: object) -> Any:
    raise structlog.DropEvent


def broken_sink(fault: Fault) -> Any:
    class Disk:
        def write(self, _text: str) -> None:
            fault()

        def flush(self) -> None:
            fault()

    return structlog_set(
        processors=[structlog.processors.JSONRenderer()],
        logger_factory=structlog.WriteLoggerFactory(Disk()),  # type: ignore[arg-type]  # as full as a disk
    )


def broken_logger_factory(fault: Fault) -> Any:
    return structlog_set(logger_factory=fault)


@contextmanager
def handled(handler: logging.Handler) -> Iterator[None]:
    logger = logging.getLogger("pathors_agent")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)


def broken_handler(fault: Fault) -> Any:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            fault()

    return handled(Broken())


def broken_filter(fault: Fault) -> Any:
    class Broken(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            fault()
            return False

    handler = logging.NullHandler()
    handler.handle = Broken().filter  # type: ignore[method-assign]  # a filter that raises
    return handled(handler)


@contextmanager
def traced(tracers: Any, meters: Any = None) -> Iterator[None]:
    before = trace._TRACER_PROVIDER, metrics_internals._METER_PROVIDER
    trace._TRACER_PROVIDER, metrics_internals._METER_PROVIDER = tracers, meters
    try:
        yield
    finally:
        trace._TRACER_PROVIDER, metrics_internals._METER_PROVIDER = before


def processed(processor: SpanProcessor) -> Any:
    tracers = TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(processor)
    return traced(tracers)


def broken_start(fault: Fault) -> Any:
    class Broken(SpanProcessor):
        def on_start(self, span: Any, parent_context: Any = None) -> None:
            fault()

    return processed(Broken())


def broken_end(fault: Fault) -> Any:
    class Broken(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            fault()

    return processed(Broken())


def broken_exporter(fault: Fault) -> Any:
    class Broken(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            fault()
            return SpanExportResult.SUCCESS

    return processed(SimpleSpanProcessor(Broken()))


def broken_sampler(fault: Fault) -> Any:
    class Broken(type(ALWAYS_ON)):  # type: ignore[misc]  # the sampler's own class
        def should_sample(self, *args: Any, **kwargs: Any) -> Any:
            fault()
            return super().should_sample(*args, **kwargs)

    return traced(TracerProvider(sampler=Broken(ALWAYS_ON._decision), shutdown_on_exit=False))


def broken_span(fault: Fault) -> Any:
    """Break every method of the spans, as another maker's provider may."""

    class Span(trace.NonRecordingSpan):
        set_attributes = set_attribute = add_event = set_status = end = fault
        is_recording = fault  # type: ignore[assignment]

    class Tracer(trace.NoOpTracer):
        def start_span(self, *_: Any, **__: Any) -> trace.Span:
            return Span(trace.INVALID_SPAN_CONTEXT)

    class Tracers(trace.TracerProvider):
        def get_tracer(self, *_: Any, **__: Any) -> trace.Tracer:
            return Tracer()

    return traced(Tracers())


def broken_provider(fault: Fault) -> Any:
    class Tracers(trace.TracerProvider):
        def get_tracer(self, *_: Any, **__: Any) -> trace.Tracer:
            fault()
            return trace.NoOpTracer()

    return traced(Tracers())


@contextmanager
def broken_propagator(fault: Fault) -> Iterator[None]:
    class Broken(type(propagate.get_global_textmap())):  # type: ignore[misc]
        def inject(self, *_: Any, **__: Any) -> None:
            fault()

    before = propagate.get_global_textmap()
    propagate.set_global_textmap(Broken([]))
    try:
        with traced(TracerProvider(shutdown_on_exit=False)):
            yield
    finally:
        propagate.set_global_textmap(before)


def broken_metrics(fault: Fault) -> Any:
    class Histogram(metrics.NoOpHistogram):
        def record(self, *_: Any, **__: Any) -> None:
            fault()

    class Meter(metrics.NoOpMeter):
        def create_histogram(self, name: str, *_: Any, **__: Any) -> Any:
            return Histogram(name)

    class Meters(metrics.MeterProvider):
        def get_meter(self, name: str, *_: Any, **__: Any) -> metrics.Meter:
            return Meter(name)

    return traced(TracerProvider(shutdown_on_exit=False), Meters())


def broken_reader(fault: Fault) -> Any:
    """Break the SDK's own metrics, in the filter of its exemplars."""

    class Broken:
        should_sample = fault

    reader = InMemoryMetricReader()
    meters = MeterProvider(
        metric_readers=[reader],
        exemplar_filter=Broken(),  # type: ignore[arg-type]  # one that raises
        shutdown_on_exit=False,
    )
    return traced(TracerProvider(shutdown_on_exit=False), meters)


OBSERVERS: dict[str, Callable[[Fault], Any]] = {
    name.removeprefix("broken_"): make
    for name, make in list(globals().items())
    if name.startswith("broken_")
}


# - the run that they observe -


class Shop:
    """Counts what its tools did, which must happen once."""

    def __init__(self) -> None:
        self.charged: list[int] = []

        @tool
        def charge(euros: int) -> str:
            """Charge the card."""
            self.charged.append(euros)
            return "charged"

        @tool
        async def refund(euros: int, context: ToolContext[None]) -> str:
            """Pay back."""
            self.charged.append(-euros)
            context.log.info("refunded", euros=euros)
            context.log.bind(by="card").warning("paid back")  # type: ignore[attr-defined]  # structlog's own
            return "paid back"

        @tool
        async def fail() -> str:
            """Fail."""
            raise ValueError("no")

        self.tools = [charge, refund, fail]

    def script(self) -> list[Any]:
        many = calls(
            ("refund", {"euros": 1}), ("nope", {}), ("charge", {"euros": "x"}), ("fail", {})
        )
        quirk = b'data: {"choices": [{"delta": {"content": "Done."}}]}\n\ndata: [DONE]\n\n'
        return [http_error(503, "busy"), calls(("charge", {"euros": 5})), many, raw(quirk)]

    def run(self, way: Way, conversation: Conversation, script: list[Any]) -> Any:
        settings: dict[str, Any] = {"tools": self.tools, "limits": Limits(max_concurrency=1)}
        prompt = None if conversation.messages else "Go."
        if way.name == "blocking":
            transport = RetryingTransport(ScriptedTransport(*script), sleep=lambda _: None, seed=1)
            return Agent(transport, **settings).run(prompt, conversation=conversation)

        async def no_sleep(_: float) -> None:
            pass

        slow = AsyncRetryingTransport(AsyncScriptedTransport(*script), sleep=no_sleep, seed=1)
        agent = AsyncAgent(slow, **settings)
        return way.on_loop(lambda: agent.run(prompt, conversation=conversation))


def said(messages: Sequence[Message]) -> list[Any]:
    return [m.model_dump(exclude={"id"}) for m in messages]


def undisturbed(way: Way) -> list[Any]:
    conversation = Conversation(id="c")
    Shop().run(way, conversation, Shop().script())
    assert len(conversation.messages) == 9
    return said(conversation.messages)


EXPECTED = {way: undisturbed(Way(way)) for way in WAYS}


@given(
    name=st.sampled_from([*OBSERVERS]),
    make=st.sampled_from(FAILURES),
    at=st.none() | st.frozensets(st.integers(1, 30), min_size=1, max_size=8),
    way=st.sampled_from(WAYS),
)
def test_observer_that_fails_changes_nothing(
    name: str, make: Callable[[], BaseException], at: frozenset[int] | None, way: str
) -> None:
    shop, conversation, fault = Shop(), Conversation(id="c"), Fault(make, at)

    with OBSERVERS[name](fault):
        result = shop.run(Way(way), conversation, shop.script())

    assert fault.calls > 0
    assert shop.charged == [5, -1]
    assert (str(result.status), result.output) == ("finished", "Done.")
    assert said(conversation.messages) == EXPECTED[way]


@pytest.mark.parametrize("name", OBSERVERS)
@pytest.mark.parametrize("way", WAYS)
def test_every_observer_may_fail_at_every_event(name: str, way: str) -> None:
    shop, conversation, fault = Shop(), Conversation(id="c"), Fault(FAILURES[0], None)

    with OBSERVERS[name](fault):
        result = shop.run(Way(way), conversation, shop.script())

    assert fault.calls > 0
    assert shop.charged == [5, -1]
    assert result.output == "Done."
    assert len(result.times) == 8


@pytest.mark.parametrize("way", WAYS)
def test_all_observers_may_fail_at_once(way: str) -> None:
    shop, conversation, fault = Shop(), Conversation(id="c"), Fault(Odd, None)

    with ExitStack() as stack:
        for name in ("sink", "handler", "start", "propagator"):
            stack.enter_context(OBSERVERS[name](fault))
        shop.run(Way(way), conversation, shop.script())

    assert shop.charged == [5, -1]
    assert said(conversation.messages) == EXPECTED[way]


LOSSLESS = sorted({*OBSERVERS} - {"processor", "sink", "logger_factory", "handler", "filter"})


@given(
    name=st.sampled_from(LOSSLESS),
    make=st.sampled_from(STOPS),
    at=st.integers(1, 30),
    way=st.sampled_from(WAYS),
)
def test_stop_that_strikes_in_an_observer_loses_no_result(
    name: str, make: Callable[[], BaseException], at: int, way: str
) -> None:
    shop, conversation, fault = Shop(), Conversation(id="c"), Fault(make, frozenset({at}))
    script = shop.script()

    stopped: list[BaseException] = []
    with OBSERVERS[name](fault):
        try:
            shop.run(Way(way), conversation, script)
        except (KeyboardInterrupt, SystemExit) as stop:
            stopped.append(stop)
    assert [type(stop) for stop in stopped] == [type(make())] * (fault.calls >= at)
    answers = sum(message.role == "assistant" for message in conversation.messages)
    left = [script[1:], script[2:], script[3:], ["unused"]][answers]
    result = shop.run(Way(way), conversation, left)

    assert shop.charged == [5, -1]
    assert result.output == "Done."
    assert [m.role for m in conversation.messages] == [m["role"] for m in EXPECTED[way]]
    assert all(m.outcome != "unknown" for m in conversation.messages if isinstance(m, ToolMessage))


# - what is said of it -


def fail_quietly() -> None:
    raise OSError(errno.ENOSPC, CANARY)


def test_failure_is_reported_once_by_its_kind_and_never_by_its_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(events, "_REPORTED", set())

    for _ in range(3):
        assert observe("the log", fail_quietly) is None
    assert observe("the log", [].pop) is None

    first, second = capsys.readouterr().err.splitlines()
    where = f"{__file__}:{fail_quietly.__code__.co_firstlineno + 1}"
    assert first.startswith(f"pathors_agent: the log failed with OSError in {where}; ")
    assert second.startswith("pathors_agent: the log failed with IndexError")
    assert CANARY not in first


@pytest.mark.slow
def test_full_stderr_fails_nothing_either() -> None:
    code = (
        "import os, structlog\n"
        "from pathors_agent import Agent\n"
        "from pathors_agent.testing import ScriptedTransport\n"
        "os.dup2(os.open('/dev/full', os.O_WRONLY), 2)\n"
        "structlog.configure(logger_factory=structlog.PrintLoggerFactory(open('/dev/full', 'w', 1)))\n"
        "print(Agent(ScriptedTransport('Yes.')).run('Go.').output, flush=True)\n"
        "os._exit(0)\n"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "Yes.\n"


# - the loggers of structlog -


class AsyncMethods:
    """A wrapper class of a program's own, with coroutines for methods."""

    def __init__(self, logger: Any, processors: Any, context: Any) -> None:
        raise AssertionError("blocking code cannot use it")

    async def info(self, event: str, **fields: Any) -> None:
        raise AssertionError("nothing awaits it")


WRAPPERS = {
    "async": structlog.stdlib.AsyncBoundLogger,
    "own async": AsyncMethods,
    "stdlib": structlog.stdlib.BoundLogger,
    "generic": structlog.BoundLogger,
    "filtering": structlog.make_filtering_bound_logger(logging.INFO),
}


@pytest.fixture
def kept() -> Iterator[list[dict[str, Any]]]:
    yield []
    structlog.reset_defaults()


def keep_in(kept: list[dict[str, Any]]) -> Any:
    def keep(_logger: Any, method: str, event: Any) -> Any:
        kept.append({"level": method, **event})
        raise structlog.DropEvent

    return keep


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("way", WAYS)
def test_events_reach_every_kind_of_logger(
    way: str, wrapper: str, kept: list[dict[str, Any]]
) -> None:
    structlog.configure(processors=[keep_in(kept)], wrapper_class=WRAPPERS[wrapper])
    shop = Shop()

    shop.run(Way(way), Conversation(id="c"), shop.script())

    names = [event["event"] for event in kept]
    assert names.count("execute_tool") == 5
    assert names.count("chat") == 3
    assert names.count("request_retried") == 1
    [refunded] = [event for event in kept if event["event"] == "refunded"]
    assert {"level": "info", "euros": 1, "gen_ai.tool.name": "refund"}.items() <= refunded.items()
    [paid] = [event for event in kept if event["event"] == "paid back"]
    assert (paid["level"], paid["by"]) == ("warning", "card")


def test_filtering_logger_gets_only_the_events_of_its_level(kept: list[dict[str, Any]]) -> None:
    quiet = structlog.make_filtering_bound_logger(logging.WARNING)
    structlog.configure(processors=[keep_in(kept)], wrapper_class=quiet)
    shop = Shop()

    shop.run(Way("blocking"), Conversation(id="c"), shop.script())
    emit("nothing")

    # A tool of the shop raises: its end is a warning.
    assert [event["event"] for event in kept] == ["paid back", "execute_tool"]
    assert kept[1]["error.type"] is not None


@pytest.mark.parametrize("wrapper", [*WRAPPERS, "none"])
def test_tool_may_use_all_of_its_logger(
    wrapper: str, kept: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    if wrapper in WRAPPERS:
        structlog.configure(processors=[keep_in(kept)], wrapper_class=WRAPPERS[wrapper])
    else:
        caplog.set_level(logging.DEBUG, logger="pathors_agent")
    log: Any = bound_logger(call="c1")

    log.bind(a=1).new(b=2).info("new")
    log.error("wrong")
    if wrapper != "generic":  # which has what its logger has
        log.exception("worse")  # noqa: LOG004  (what is said of no exception is said, too)
        asyncio.run(log.ainfo("awaited"))

    names = [event["event"] for event in kept] or [vars(r)["event"] for r in caplog.records]
    assert names == ["new", "wrong", "worse", "awaited"][: 2 if wrapper == "generic" else 4]


def test_awaited_log_that_fails_fails_no_tool() -> None:
    with OBSERVERS["sink"](Fault(FAILURES[0], None)):
        log: Any = bound_logger(call="c1")
        assert asyncio.run(log.ainfo("awaited")) is None
