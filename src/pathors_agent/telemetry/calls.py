"""Follow each call of a run from its beginning to its end, and report it once to each observer.

One list of facts, by the names of OpenTelemetry's conventions, is an event of the log and the
attributes of a span. The times of calls are always kept for the run's timeline. Mostly nothing
observes a run; a call then costs an object and a reading of the clock.
"""

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager
from time import monotonic
from types import MappingProxyType
from typing import TYPE_CHECKING, ParamSpec, Self, TypeVar

import msgspec

from pathors_agent.messages import ToolCall, ToolMessage
from pathors_agent.telemetry.events import LOG, is_heard, write
from pathors_agent.telemetry.guard import observe
from pathors_agent.telemetry.spans import (
    METRICS,
    SPANS,
    TOOL,
    Facts,
    Kind,
    OpenTelemetry,
    contents_are_asked_for,
    listening,
)
from pathors_agent.views.timeline import TimedCall

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.context import Context
    from opentelemetry.trace import Span

P = ParamSpec("P")
T = TypeVar("T")

# Shared by all runs that nothing observes: an open stream must be small.
_NO_FACTS: Facts = {}

_NO_LINKS: Mapping[str, str] = MappingProxyType({})

_NOTES = {"request_retried": "sent again", "transport_fell_back": "sent to the next endpoint"}

UNKNOWN_TOOL = "_OTHER"
"""The name reported for a tool that does not exist: what the model made up is content."""


class Audience:
    """The observers of one run, and the `times` of its calls.

    `api` makes spans, if the program has set OpenTelemetry up. Spans begin below `parent`, or
    below the current span if it is None. `facts` are common to the run's calls, or summed over
    them. `name` is the agent's. The run's time is over at `deadline`.
    """

    __slots__ = (
        *("_stop", "_times", "api", "deadline", "facts", "is_heard", "listens", "name", "parent"),
    )

    def __init__(self, name: str | None = None) -> None:
        self._stop: BaseException | None = None
        self.name = name
        self.deadline: float | None = None
        self.api = self.observe(SPANS, listening)
        self.is_heard = self.observe(LOG, is_heard)
        self.listens = self.is_heard or self.api is not None
        self.parent: Context | None = None
        self.facts: Facts = {} if self.listens else _NO_FACTS
        self._times: list[TimedCall] | None = None  # allocated by the first call

    @property
    def times(self) -> tuple[TimedCall, ...]:
        """When the calls began and ended, so far."""
        return tuple(self._times or ())

    def keep(self, call: TimedCall) -> None:
        """Keep the times of a call."""
        if self._times is None:
            self._times = []
        self._times.append(call)

    def observe(
        self, observer: str, function: "Callable[P, T]", *args: P.args, **kwargs: P.kwargs
    ) -> T | None:
        """Call an observer; keep what stops the program until `raise_stop`."""
        try:
            return observe(observer, function, *args, **kwargs)
        except BaseException as stop:  # noqa: BLE001  (raised again where no result is lost)
            self._stop = self._stop or stop
            return None

    def raise_stop(self) -> None:
        """Raise what stopped an observer, before the next call begins or after the last one."""
        if self._stop is not None:
            stop, self._stop = self._stop, None
            raise stop

    def begin_tool(
        self,
        key: str,
        call: ToolCall,
        *,
        name: str,
        description: str | None = None,
        queued: float | None = None,
    ) -> "ToolOperation":
        """Begin a tool call; `queued` is when it began to wait for a free place, if it did.

        `name` and `description` are those of the tool.
        """
        operation = ToolOperation(self, key, call=call, name=name, description=description)
        if self.api is not None:
            operation.start_span()
        if queued is not None:
            operation.waits = ((queued, operation.start),)
        return operation

    def answered(
        self, key: str, call: ToolCall, message: ToolMessage, *, is_known: bool = True
    ) -> None:
        """Report a call that got its result without running its tool: refused, limited, unknown.

        `is_known` is False if the agent has no such tool.
        """
        name = call.name if is_known else UNKNOWN_TOOL
        operation = ToolOperation(self, key, call=call, name=name, message=message)
        if message.outcome == "error":
            operation.error = "invalid_arguments" if is_known else "unknown_tool"
        if self.api is not None:
            operation.start_span()
        operation.close()


class Operation(msgspec.Struct):
    """A call of a run, or the run itself; times are those of `time.monotonic`."""

    audience: Audience
    key: str
    start: float = msgspec.field(default_factory=monotonic)
    span: "Span | None" = None
    waits: tuple[tuple[float, float], ...] = ()
    notes: tuple[str, ...] = ()

    def begin(
        self,
        kind: Kind,
        name: str | None,
        facts: "Callable[[], Facts]",
        links: Mapping[str, str] = _NO_LINKS,
    ) -> None:
        """Begin its span, with the facts that a sampler may decide by."""
        audience, api = self.audience, self.audience.api
        if api is not None:
            told = {"gen_ai.agent.name": audience.name, **(audience.observe(SPANS, facts) or {})}
            known, parent = known_facts(told), audience.parent
            self.span = audience.observe(SPANS, api.start, kind, name, parent, known, links)

    def context(self) -> "Context | None":
        """Return the context in which its span is the current one; None without a span."""
        api, span = self.audience.api, self.span
        return self.audience.observe(SPANS, api.within, span) if api and span else None

    def headers(self) -> dict[str, str]:
        """Return the request headers that carry the trace on."""
        api, span = self.audience.api, self.span
        if api is None or span is None:
            return {}
        return self.audience.observe(SPANS, api.headers, span) or {}

    def note(self, event: str, **fields: object) -> None:
        """Report something on the way, as an event of its own."""
        observe = self.audience.observe
        observe(LOG, write, event, fields)
        if self.span:
            observe(SPANS, self.span.add_event, event, known_facts(fields))
        if event in _NOTES:
            reason = fields.get("status") or fields.get("error") or "an empty answer"
            self.notes += (f"{_NOTES[event]}: {reason}",)
            self._note_wait(fields.get("seconds"))

    def tell(self, kind: Kind, error: str | None, level: int = logging.INFO) -> None:
        """Report its end to the log, and end its span; warnings need no listener for events."""
        audience = self.audience
        seconds = monotonic() - self.start
        facts = audience.observe(LOG, self._all_facts, error) or {}
        if audience.api and self.span:
            self._end_span(audience.api, self.span, kind, facts, seconds)
            facts |= audience.observe(SPANS, audience.api.ids, self.span) or {}
        if audience.is_heard or level > logging.INFO:
            told = {**facts, "seconds": round(seconds, 6)}
            audience.observe(LOG, write, kind.operation, told, level)

    def facts(self) -> Facts:
        """Return what is reported of it; None for what is unknown."""
        raise NotImplementedError

    def contents(self) -> Facts:
        """Return what was said, for programs that ask for it."""
        return {}

    def _all_facts(self, error: str | None) -> Facts:
        name = self.audience.name
        facts = {"pathors_agent.effect": self.key or None, "gen_ai.agent.name": name}
        return known_facts({**facts, **self.facts(), "error.type": error})

    def _end_span(
        self, api: OpenTelemetry, span: "Span", kind: Kind, facts: Facts, seconds: float
    ) -> None:
        # Each step by itself: a failure must not keep the next from being taken.
        observe = self.audience.observe
        context = observe(SPANS, api.within, span)
        observe(SPANS, span.set_attributes, facts)
        if contents_are_asked_for() and observe(SPANS, span.is_recording):
            observe(SPANS, span.set_attributes, observe(SPANS, self.contents) or {})
        # Stopped on purpose is not an error.
        if facts.get("error.type", "cancelled") != "cancelled":
            observe(SPANS, api.set_error, span)
        observe(SPANS, span.end)
        for metric, value, counted in kind.counts(facts, seconds):
            observe(METRICS, api.count, metric, value, counted, context)

    def _note_wait(self, seconds: object) -> None:
        if isinstance(seconds, (int, float)) and seconds:
            now = monotonic()
            self.waits += ((now, now + seconds),)


class ToolOperation(Operation, kw_only=True):
    """A tool call: a context manager that ends it, with the `message` that is its result.

    Code inside it finds its span the current one; nothing may be yielded there. `error` names what
    the tool's function raised, or what was wrong with the call. `outcome` is set at its end.
    With `is_fault`, the tool raised something else than `ToolError`: its end is logged as a warning.
    """

    call: ToolCall
    name: str
    description: str | None = None
    message: ToolMessage | None = None
    error: str | None = None
    is_fault: bool = False
    outcome: str = ""
    inside: AbstractContextManager[object] | None = None

    def start_span(self) -> None:
        """Begin its span."""
        self.begin(TOOL, self.name, self._call_facts)

    def __enter__(self) -> Self:
        api, span = self.audience.api, self.span
        if api and span:
            self.inside = self.audience.observe(SPANS, api.current, span)
            if self.inside:
                self.audience.observe(SPANS, self.inside.__enter__)
        return self

    def __exit__(self, *_: object) -> None:
        if self.inside:
            self.audience.observe(SPANS, self.inside.__exit__, None, None, None)
        self.close()

    def close(self) -> None:
        """End it."""
        deadline = self.audience.deadline
        if self.message is not None:
            outcome: str = self.message.outcome
        else:
            is_late = deadline is not None and monotonic() >= deadline
            outcome = "timeout" if is_late else "cancelled"
        self.outcome = outcome
        times = (self.start, monotonic(), outcome, None, self.waits)
        self.audience.keep(TimedCall("tool", self.call.name, self.key, *times))
        if self.audience.listens or self.is_fault:
            failed = self.error or "error" if outcome == "error" else outcome
            level = logging.WARNING if self.is_fault else logging.INFO
            self.tell(TOOL, None if outcome == "value" else failed, level)

    def facts(self) -> Facts:
        """Return the tool, the call, and how it ended."""
        return {**self._call_facts(), "pathors_agent.outcome": self.outcome}

    def contents(self) -> Facts:
        """Return what the model asked for, and the result that it reads."""
        told: Facts = {"gen_ai.tool.call.arguments": self.call.arguments}
        if self.description is not None:
            told["gen_ai.tool.description"] = self.description
        if self.message:
            told["gen_ai.tool.call.result"] = self.message.text
        return told

    def _call_facts(self) -> Facts:
        return {**call_facts(self.name, self.call), "gen_ai.tool.type": "function"}


def call_facts(name: str, call: ToolCall) -> dict[str, str]:
    """Return the facts that identify a call."""
    return {"gen_ai.tool.name": name, "gen_ai.tool.call.id": call.id}


def known_facts(facts: Facts) -> Facts:
    """Return the facts that are known, those that are not None."""
    return {name: value for name, value in facts.items() if value is not None}
