"""What is observed: a run and its calls, each with its times and its span.

The times of calls are always kept for the run's timeline. Usually nothing else observes a run; a
call then costs an object and a reading of the clock.
"""

import logging
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from time import monotonic
from types import MappingProxyType
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import msgspec

from pathors_agent.messages import ToolMessage
from pathors_agent.telemetry.events import LOG, Facts, ServerAddress, is_enabled, observe, write
from pathors_agent.telemetry.spans import (
    METRICS,
    NOTHING,
    SPANS,
    AttachedContext,
    Kind,
    OpenTelemetry,
    active_api,
    captures_contents,
)
from pathors_agent.telemetry.timeline import TimedCall

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span

P = ParamSpec("P")
T = TypeVar("T")

# Shared by all runs that are not observed: an open stream must be small.
_NO_FACTS: Facts = {}

_NO_LINKS: Mapping[str, str] = MappingProxyType({})

# Events that the timeline shows as a note of the call.
_NOTES = {"request_retried": "sent again", "transport_fell_back": "sent to the next endpoint"}


class Observers:
    """The observers of one run, and the `times` of its calls.

    `name` is the agent's name, and `model` the model's. `server` is the address of its model calls,
    if it is known before the first one. `started_by` holds the headers of the trace that started
    the run in another process; the run's span is linked to it.

    `api` creates spans, if the program has set OpenTelemetry up. Spans begin below `parent`, or
    below the current span if it is None. `facts` are common to the run's calls, or sums over
    them. `deadline` is the end of the run's time.
    """

    __slots__ = (
        *("_denied", "_stop", "_times", "api", "deadline", "facts", "is_logged", "is_observed"),
        *("model", "name", "parent", "server", "started_by"),
    )

    def __init__(
        self,
        name: str | None = None,
        *,
        model: str | None = None,
        server: ServerAddress | None = None,
    ) -> None:
        self._stop: BaseException | None = None
        self.name = name
        self.model = model
        self.server = server
        self.started_by: Mapping[str, str] = {}
        self.deadline: float | None = None
        is_imported = "opentelemetry" in sys.modules
        self.api = self.observe(SPANS, active_api) if is_imported else None
        self.is_logged = self.observe(LOG, is_enabled)
        self.is_observed = self.is_logged or self.api is not None
        self.parent: Context | None = None
        self.facts: Facts = {} if self.is_observed else _NO_FACTS
        self._times: list[TimedCall] | None = None  # allocated by the first call
        self._denied: list[ToolMessage] = []

    @property
    def times(self) -> tuple[TimedCall, ...]:
        """The times of the calls so far."""
        return tuple(self._times or ())

    def keep(self, call: TimedCall) -> None:
        """Keep the times of a call."""
        if self._times is None:
            self._times = []
        self._times.append(call)

    def observe(
        self, observer: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T | None:
        """Call an observer; keep an exception that stops the program until `raise_stop`."""
        try:
            return observe(observer, function, *args, **kwargs)
        except BaseException as stop:  # noqa: BLE001  (raised later, when no result can be lost)
            self._stop = self._stop or stop
            return None

    def raise_stop(self) -> None:
        """Raise what stopped an observer, before the next call begins or after the last one."""
        if self._stop is not None:
            stop, self._stop = self._stop, None
            raise stop

    def add_denied(self, messages: Iterable[ToolMessage]) -> None:
        """Report calls that a person denied, once the run has begun."""
        self._denied += messages

    def take_denied(self) -> list[ToolMessage]:
        """Return the denied calls that are not reported yet."""
        denied, self._denied = self._denied, []
        return denied

    def attached(self) -> AbstractContextManager[object]:
        """Return a context manager inside which the run's span is the current one."""
        return AttachedContext(self.parent) if self.parent else NOTHING


class Operation(msgspec.Struct):
    """A call of a run, or the run itself; times are those of `time.monotonic`."""

    telemetry: Observers
    key: str
    start: float = msgspec.field(default_factory=monotonic)
    span: "Span | None" = None
    waits: tuple[tuple[float, float], ...] = ()
    notes: tuple[str, ...] = ()

    def begin(
        self,
        kind: Kind,
        name: str | None,
        facts: Callable[[], Facts],
        links: Mapping[str, str] = _NO_LINKS,
    ) -> None:
        """Begin its span, with the facts that samplers may use."""
        telemetry, api = self.telemetry, self.telemetry.api
        if api is not None:
            all_facts = {
                "gen_ai.agent.name": telemetry.name,
                **(telemetry.observe(SPANS, facts) or {}),
            }
            known, parent = _known(all_facts), telemetry.parent
            self.span = telemetry.observe(SPANS, api.start, kind, name, parent, known, links)

    def context(self) -> "Context | None":
        """Return the context in which its span is the current one; None without a span."""
        api, span = self.telemetry.api, self.span
        return self.telemetry.observe(SPANS, api.context, span) if api and span else None

    def headers(self) -> dict[str, str]:
        """Return the request headers that continue the trace."""
        api, span = self.telemetry.api, self.span
        if api is None or span is None:
            return {}
        return self.telemetry.observe(SPANS, api.headers, span) or {}

    def note(self, event: str, **fields: object) -> None:
        """Report an event in the middle of the operation."""
        observe = self.telemetry.observe
        observe(LOG, write, event, fields)
        if self.span:
            observe(SPANS, self.span.add_event, event, _known(fields))
        if event in _NOTES:
            reason = fields.get("status") or fields.get("error") or "an empty answer"
            self.notes += (f"{_NOTES[event]}: {reason}",)
            self._note_wait(fields.get("seconds"))

    def report(self, kind: Kind, error: str | None, level: int = logging.INFO) -> None:
        """Log its end, and end its span. Warnings are logged even if events are not."""
        telemetry = self.telemetry
        seconds = monotonic() - self.start
        facts = telemetry.observe(LOG, self._all_facts, error) or {}
        if telemetry.api and self.span:
            self._end_span(telemetry.api, self.span, kind, facts, seconds)
            facts |= telemetry.observe(SPANS, telemetry.api.ids, self.span) or {}
        if telemetry.is_logged or level > logging.INFO:
            fields = {**facts, "seconds": round(seconds, 6)}
            telemetry.observe(LOG, write, kind.operation, fields, level)

    def facts(self) -> Facts:
        """Return the facts of the operation; unknown facts are None."""
        raise NotImplementedError

    def contents(self) -> Facts:
        """Return the contents, for programs that ask for them."""
        return {}

    def _all_facts(self, error: str | None) -> Facts:
        name = self.telemetry.name
        facts = {"pathors_agent.effect": self.key or None, "gen_ai.agent.name": name}
        return _known({**facts, **self.facts(), "error.type": error})

    def _end_span(
        self, api: OpenTelemetry, span: "Span", kind: Kind, facts: Facts, seconds: float
    ) -> None:
        # Each step is guarded alone: a failure must not prevent the next step.
        observe = self.telemetry.observe
        context = observe(SPANS, api.context, span)
        observe(SPANS, span.set_attributes, facts)
        if captures_contents() and observe(SPANS, span.is_recording):
            observe(SPANS, span.set_attributes, observe(SPANS, self.contents) or {})
        # A cancellation is not an error.
        if facts.get("error.type", "cancelled") != "cancelled":
            observe(SPANS, api.set_error, span)
        observe(SPANS, span.end)
        for metric, value, attributes in kind.measurements(facts, seconds):
            observe(METRICS, api.record, metric, value, attributes, context)

    def _note_wait(self, seconds: object) -> None:
        if isinstance(seconds, (int, float)) and seconds:
            now = monotonic()
            self.waits += ((now, now + seconds),)


def _known(facts: Facts) -> Facts:
    """Return the facts without those that are None."""
    return {name: value for name, value in facts.items() if value is not None}
