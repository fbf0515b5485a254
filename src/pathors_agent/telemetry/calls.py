"""Follow each call of a run from its beginning to its end: it is told once, to all who listen.

One list of facts, by the names of OpenTelemetry's conventions, is an event of the log and the
attributes of a span. Its times are kept for the run's timeline, whoever listens. Most often nobody
does, and then a call costs an object and a look at the clock.
"""

from contextlib import AbstractContextManager
from time import monotonic
from typing import TYPE_CHECKING, Self

import msgspec

from pathors_agent.messages import ToolMessage
from pathors_agent.telemetry.events import emit, is_heard
from pathors_agent.telemetry.spans import (
    TOOL,
    Facts,
    Kind,
    contents_are_asked_for,
    listening,
)
from pathors_agent.timeline import TimedCall
from pathors_agent.tools.registry import BoundCall

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span

# One for all whom nobody listens to: an open stream is to be small.
_NO_FACTS: Facts = {}

_NOTES = {"request_retried": "sent again", "transport_fell_back": "sent to the next endpoint"}


class Audience:
    """Who is told of one run, and the `times` that are kept of it.

    `api` is that of spans, where it is listened to. Spans begin below `parent`, or else below the
    current one. `facts` are those that the calls have in common, or that are summed up over them.
    """

    __slots__ = ("_times", "api", "facts", "is_heard", "listens", "parent")

    def __init__(self) -> None:
        self.api = listening()
        self.is_heard = is_heard()
        self.listens = self.is_heard or self.api is not None
        self.parent: Context | None = None
        self.facts: Facts = {} if self.listens else _NO_FACTS
        self._times: list[TimedCall] | None = None  # an open stream has none yet

    @property
    def times(self) -> tuple[TimedCall, ...]:
        """When the calls began and ended, as far as they have."""
        return tuple(self._times or ())

    def keep(self, call: TimedCall) -> None:
        """Keep the times of a call."""
        if self._times is None:
            self._times = []
        self._times.append(call)

    def begin_tool(
        self, key: str, bound: BoundCall, *, queued: float | None = None
    ) -> "ToolOperation":
        """Begin a tool's call; where it had to wait for a place, it did so since `queued`."""
        operation = ToolOperation(self, key, bound=bound)
        if self.api is not None:
            operation.span = self.api.start(TOOL, bound.tool.name, self.parent)
        if queued is not None:
            operation.waits = ((queued, operation.start),)
        return operation


class Operation(msgspec.Struct):
    """A call of a run, or the run itself; times are those of `time.monotonic`."""

    audience: Audience
    key: str
    start: float = msgspec.field(default_factory=monotonic)
    span: "Span | None" = None
    waits: tuple[tuple[float, float], ...] = ()
    notes: tuple[str, ...] = ()

    def context(self) -> "Context | None":
        """The context in which its span is the current one; None where there is no span."""
        api = self.audience.api
        return api.within(self.span) if api and self.span else None

    def headers(self) -> dict[str, str]:
        """Give the headers by which whoever is asked goes on with the trace."""
        api = self.audience.api
        return api.headers(self.span) if api and self.span else {}

    def note(self, event: str, **fields: object) -> None:
        """Tell of something on the way, as an event of its own."""
        emit(event, **fields)
        if self.span:
            self.span.add_event(event, _known(fields))
        if event in _NOTES:
            reason = fields.get("status") or fields.get("error") or "an empty answer"
            self.notes += (f"{_NOTES[event]}: {reason}",)
            self._note_wait(fields.get("seconds"))

    def tell(self, kind: Kind, error: str | None) -> None:
        """Tell of its end."""
        seconds = monotonic() - self.start
        api, span = self.audience.api, self.span
        effect = {"pathors_agent.effect": self.key or None}
        facts = _known({**effect, **self.facts(), "error.type": error})
        if api and span:
            told = self.contents() if span.is_recording() and contents_are_asked_for() else {}
            api.end(span, kind, facts, told, seconds=seconds)
            facts |= api.ids(span)
        if self.audience.is_heard:
            emit(kind.operation, **facts, seconds=round(seconds, 6))

    def facts(self) -> Facts:
        """What is told of it; what is unknown is None."""
        raise NotImplementedError

    def contents(self) -> Facts:
        """What was said, for those who ask for it."""
        return {}

    def _note_wait(self, seconds: object) -> None:
        if isinstance(seconds, (int, float)) and seconds:
            now = monotonic()
            self.waits += ((now, now + seconds),)


class ToolOperation(Operation, kw_only=True):
    """A tool's call: a context manager that ends it, with the `message` that it gave.

    What runs inside finds its span the current one; nothing may be yielded there. `error` names
    what the tool's function raised.
    """

    bound: BoundCall
    message: ToolMessage | None = None
    error: str | None = None
    inside: AbstractContextManager[object] | None = None

    @property
    def outcome(self) -> str:
        """How it ended."""
        return self.message.outcome if self.message else "cancelled"

    def __enter__(self) -> Self:
        if self.span and self.audience.api:
            self.inside = self.audience.api.current(self.span)
            self.inside.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self.inside:
            self.inside.__exit__(None, None, None)
        name, outcome = self.bound.tool.name, self.outcome
        self.audience.keep(
            TimedCall("tool", name, self.key, self.start, monotonic(), outcome, None, self.waits)
        )
        if self.audience.listens:
            failed = self.error or "error" if outcome == "error" else outcome
            self.tell(TOOL, None if outcome == "value" else failed)

    def facts(self) -> Facts:
        """The tool, the call, and how it ended."""
        return {
            **call_facts(self.bound),
            "gen_ai.tool.type": "function",
            "pathors_agent.outcome": self.outcome,
        }

    def contents(self) -> Facts:
        """What the model asked for, and what it is told."""
        told: Facts = {
            "gen_ai.tool.description": self.bound.tool.description,
            "gen_ai.tool.call.arguments": self.bound.call.arguments,
        }
        return told | ({"gen_ai.tool.call.result": self.message.text} if self.message else {})


def call_facts(bound: BoundCall) -> dict[str, str]:
    """Say which call it is."""
    return {"gen_ai.tool.name": bound.tool.name, "gen_ai.tool.call.id": bound.call.id}


def _known(facts: Facts) -> Facts:
    return {name: value for name, value in facts.items() if value is not None}
