"""Follow a run, its model calls and its tool calls, and report each of them to the observers."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from time import monotonic
from typing import Self, TypeVar

from pathors_agent.core.conversation import Conversation
from pathors_agent.core.run import Run
from pathors_agent.messages import AssistantMessage, Message, ToolCall, ToolMessage
from pathors_agent.telemetry.events import Facts, ServerAddress
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
    output_text,
    request_facts,
    server_facts,
)
from pathors_agent.telemetry.operations import Observers, Operation
from pathors_agent.telemetry.spans import (
    AGENT,
    CHAT,
    NOTHING,
    SPANS,
    TOOL,
    AsyncInContext,
    InContext,
)
from pathors_agent.telemetry.timeline import TimedCall
from pathors_agent.wire.chat_completions import RequestTemplate

T = TypeVar("T")

_STOPPED = ("cancelled", "timeout")


class RunTelemetry(Observers):
    """Begin the calls of one run, each observed."""

    __slots__ = ()

    def follow(self, run: Run) -> AbstractContextManager[object]:
        """Return the context manager for a run's loop."""
        if run.limits.seconds is not None:
            self.deadline = monotonic() + run.limits.seconds
        if not self.is_observed and not self._denied:
            return NOTHING
        return RunOperation(self, "", run=run)

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
        self, key: str, call: ToolCall, description: str, *, queued: float | None = None
    ) -> "ToolOperation":
        """Begin a call of a tool with this description.

        `queued` is when the call began to wait in the queue, if it had to wait.
        """
        operation = ToolOperation(self, key, call=call, name=call.name, description=description)
        if self.api is not None:
            operation.start_span()
        if queued is not None:
            operation.waits = ((queued, operation.start),)
        return operation


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
                report_answered(self.telemetry, effect_key, call, message)

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


def report_answered(
    telemetry: Observers,
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
    operation = ToolOperation(telemetry, key, call=call, name=name, message=message)
    if message.outcome == "error":
        operation.error = error or ("invalid_arguments" if is_known else "unknown_tool")
    if telemetry.api is not None:
        operation.start_span()
    operation.close()


def _read_address(fields: Mapping[str, object]) -> ServerAddress:
    address, port = fields["address"], fields.get("port")
    return ServerAddress(str(address), port if isinstance(port, int) else None)
