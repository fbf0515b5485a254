"""Follow a run, its model calls and its tool calls, and report each of them to the observers.

The times of calls are always kept for the run's timeline. Usually nothing else observes a run; a
call then costs an object and a reading of the clock.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from time import monotonic
from types import MappingProxyType
from typing import TYPE_CHECKING, ParamSpec, Self, TypeVar

import msgspec

from pathors_agent.core.conversation import Conversation
from pathors_agent.core.run import Run
from pathors_agent.messages import AssistantMessage, Message, ToolCall, ToolMessage
from pathors_agent.telemetry.events import LOG, Facts, ServerAddress, is_enabled, observe, write
from pathors_agent.telemetry.facts import (
    COMMON,
    DEFAULT_PROVIDER,
    UNKNOWN_TOOL,
    USAGE,
    answer_facts,
    call_facts,
    conversation_id,
    error_type,
    input_text,
    instructions_text,
    known_facts,
    output_text,
    request_facts,
    server_facts,
)
from pathors_agent.telemetry.spans import (
    AGENT,
    CHAT,
    METRICS,
    NOTHING,
    SPANS,
    TOOL,
    AsyncInContext,
    AttachedContext,
    InContext,
    Kind,
    OpenTelemetry,
    active_api,
    captures_contents,
)
from pathors_agent.telemetry.timeline import TimedCall
from pathors_agent.wire.chat_completions import RequestTemplate

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

_STOPPED = ("cancelled", "timeout")


class RunTelemetry:
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
        self.api = self.observe(SPANS, active_api)
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

    def follow(self, run: Run) -> AbstractContextManager[object]:
        """Return the context manager for a run's loop."""
        if run.limits.seconds is not None:
            self.deadline = monotonic() + run.limits.seconds
        if not self.is_observed and not self._denied:
            return NOTHING
        return RunOperation(self, "", run=run)

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

    def begin_model(
        self,
        key: str,
        template: RequestTemplate,
        conversation: Conversation,
        sent: Sequence[Message],
    ) -> "ModelOperation":
        """Begin a model call."""
        self.raise_stop()
        operation = ModelOperation(
            self, key, template=template, conversation=conversation, server=self.server
        )
        if self.api is not None:
            operation.begin(CHAT, template.model, operation.request_facts)
            operation.sent = sent  # only spans need it
        return operation

    def begin_tool(
        self,
        key: str,
        call: ToolCall,
        *,
        name: str,
        description: str | None = None,
        queued: float | None = None,
    ) -> "ToolOperation":
        """Begin a tool call.

        `name` and `description` are those of the tool; `queued` is when the call began to wait in
        the queue, or None if it did not wait.
        """
        operation = ToolOperation(self, key, call=call, name=name, description=description)
        if self.api is not None:
            operation.start_span()
        if queued is not None:
            operation.waits = ((queued, operation.start),)
        return operation

    def report_answered(
        self,
        key: str,
        call: ToolCall,
        message: ToolMessage,
        *,
        is_known: bool = True,
        error: str | None = None,
    ) -> None:
        """Report a call whose result was not computed by its tool, such as a refusal.

        `is_known` is False if the agent has no such tool. `error` names what was wrong, if it was
        neither the tool nor its arguments.
        """
        name = call.name if is_known else UNKNOWN_TOOL
        operation = ToolOperation(self, key, call=call, name=name, message=message)
        if message.outcome == "error":
            operation.error = error or ("invalid_arguments" if is_known else "unknown_tool")
        if self.api is not None:
            operation.start_span()
        operation.close()


class Operation(msgspec.Struct):
    """A call of a run, or the run itself; times are those of `time.monotonic`."""

    telemetry: RunTelemetry
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
            known, parent = known_facts(all_facts), telemetry.parent
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
            observe(SPANS, self.span.add_event, event, known_facts(fields))
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
        return known_facts({**facts, **self.facts(), "error.type": error})

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


class RunOperation(Operation, kw_only=True):
    """A run: a context manager around its loop."""

    run: Run

    def __enter__(self) -> Self:
        telemetry = self.telemetry
        if telemetry.api is not None:
            self.begin(AGENT, telemetry.name, self._first_facts, telemetry.started_by)
            telemetry.parent = self.context()
        for message in telemetry.take_denied():
            self._report_denied(message)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        if self.telemetry.is_observed:
            # A caller that leaves the stream early may have all that it wanted.
            stopped = "cancelled" if self.run.cancelled else error_type(error)
            self.report(AGENT, None if kind is GeneratorExit else stopped)
        self.telemetry.raise_stop()

    def _first_facts(self) -> Facts:
        return {
            **server_facts(self.telemetry.server),
            "gen_ai.request.model": self.telemetry.model,
            "gen_ai.conversation.id": conversation_id(self.run.conversation),
        }

    def _report_denied(self, message: ToolMessage) -> None:
        for effect_key, call in self.run.keyed_calls():
            if call.id == message.tool_call_id:
                self.telemetry.report_answered(effect_key, call, message)

    def facts(self) -> Facts:
        """Return the run's status, and the usage of its model calls."""
        return {
            "gen_ai.provider.name": DEFAULT_PROVIDER,
            **self.telemetry.facts,
            "gen_ai.conversation.id": conversation_id(self.run.conversation),
            "pathors_agent.status": self.run.status.value,
            "pathors_agent.limit": self.run.limit,
        }


class ModelOperation(Operation, kw_only=True):
    """A model call; `message` is its answer, and `first` the time at which the answer began.

    `server` is the address of the request, and `status` the HTTP status of the answer.
    """

    template: RequestTemplate
    conversation: Conversation
    sent: Sequence[Message] = ()
    server: ServerAddress | None = None
    status: int | None = None
    message: AssistantMessage | None = None
    first: float | None = None

    def note(self, event: str, **fields: object) -> None:
        """As `Operation.note`; the address of a request becomes a fact instead of an event."""
        if event != "request_sent":
            super().note(event, **fields)
        elif self.telemetry.is_observed:
            self.server = self.telemetry.observe(SPANS, _read_address, fields) or self.server

    def sending(self, open_: Callable[[], AbstractContextManager[T]]) -> AbstractContextManager[T]:
        """Open an answer in the context of the span, the parent of the HTTP client's spans."""
        context = self.context()
        return open_() if context is None else InContext(context, open_)

    def sending_async(
        self, open_: Callable[[], AbstractAsyncContextManager[T]]
    ) -> AbstractAsyncContextManager[T]:
        """As `sending`."""
        context = self.context()
        return open_() if context is None else AsyncInContext(context, open_)

    def close(self, error: BaseException | None) -> None:
        """End the call; `error` is the exception that was raised instead of a message."""
        failure = None if error is None else error_type(error)
        outcome = "value" if failure is None else failure if failure in _STOPPED else "failed"
        times = (self.start, monotonic(), outcome, self.first, self.waits, self.notes)
        name = self.template.model or "model"
        self.telemetry.keep(TimedCall("model", name, self.key, *times))
        if self.telemetry.is_observed:
            self.report(CHAT, failure)

    def request_facts(self) -> Facts:
        """Return the facts that are known before the request is sent."""
        return request_facts(self.template, self.server, self.conversation)

    def facts(self) -> Facts:
        """Return the facts of the request, the endpoint and the answer."""
        request = self.request_facts()
        answer = {} if self.message is None else answer_facts(self.message)
        self._share(request, answer)
        if self.message is not None and self.first is not None and self.template.profile.streams:
            answer["gen_ai.response.time_to_first_chunk"] = self.first - self.start
        return {
            **request,
            "http.response.status_code": self.status,
            "http.request.resend_count": len(self.notes) or None,
            **answer,
        }

    def contents(self) -> Facts:
        """Return the messages that were sent, and the answer."""
        contents: Facts = {"gen_ai.input.messages": input_text(self.sent)}
        if self.template.instructions:
            contents["gen_ai.system_instructions"] = instructions_text(self.template.instructions)
        if self.message:
            contents["gen_ai.output.messages"] = output_text(self.message)
        return contents

    def _share(self, request: Facts, answer: Facts) -> None:
        """Add to the facts of the run."""
        facts = self.telemetry.facts
        facts.update({name: request.get(name) for name in COMMON})
        facts["gen_ai.response.finish_reasons"] = answer.get("gen_ai.response.finish_reasons")
        for fact in USAGE:
            if (tokens := answer.get(fact)) is not None:
                facts[fact] = facts.get(fact, 0) + tokens


class ToolOperation(Operation, kw_only=True):
    """A tool call: a context manager that ends it, with the `message` that is its result.

    Inside the block its span is the current one, so nothing may be yielded there. `error` names
    the exception of the tool's function, or what was wrong with the call. `outcome` is set at the
    end. With `is_fault` the tool raised something else than `ToolError`, and the end is logged as a
    warning.
    """

    call: ToolCall
    name: str
    description: str | None = None
    message: ToolMessage | None = None
    error: str | None = None
    is_fault: bool = False
    outcome: str = ""
    current_span: AbstractContextManager[object] | None = None

    def start_span(self) -> None:
        """Begin its span."""
        self.begin(TOOL, self.name, self._call_facts)

    def __enter__(self) -> Self:
        api, span = self.telemetry.api, self.span
        if api and span:
            self.current_span = self.telemetry.observe(SPANS, api.current, span)
            if self.current_span:
                self.telemetry.observe(SPANS, self.current_span.__enter__)
        return self

    def __exit__(self, *_: object) -> None:
        if self.current_span:
            self.telemetry.observe(SPANS, self.current_span.__exit__, None, None, None)
        self.close()

    def close(self) -> None:
        """End the call."""
        deadline = self.telemetry.deadline
        if self.message is not None:
            outcome: str = self.message.outcome
        else:
            is_late = deadline is not None and monotonic() >= deadline
            outcome = "timeout" if is_late else "cancelled"
        self.outcome = outcome
        times = (self.start, monotonic(), outcome, None, self.waits)
        self.telemetry.keep(TimedCall("tool", self.call.name, self.key, *times))
        if self.telemetry.is_observed or self.is_fault:
            failed = self.error or "error" if outcome == "error" else outcome
            level = logging.WARNING if self.is_fault else logging.INFO
            self.report(TOOL, None if outcome in ("value", "suspended") else failed, level)

    def facts(self) -> Facts:
        """Return the facts of the tool, the call and its outcome."""
        return {**self._call_facts(), "pathors_agent.outcome": self.outcome}

    def contents(self) -> Facts:
        """Return the arguments of the call, and its result."""
        contents: Facts = {"gen_ai.tool.call.arguments": self.call.arguments}
        if self.description is not None:
            contents["gen_ai.tool.description"] = self.description
        if self.message:
            contents["gen_ai.tool.call.result"] = self.message.text
        return contents

    def _call_facts(self) -> Facts:
        return {**call_facts(self.name, self.call), "gen_ai.tool.type": "function"}


def _read_address(fields: Mapping[str, object]) -> ServerAddress:
    address, port = fields["address"], fields.get("port")
    return ServerAddress(str(address), port if isinstance(port, int) else None)
