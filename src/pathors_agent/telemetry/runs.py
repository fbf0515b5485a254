"""Follow a run: its model calls, its tools' calls, and the run around them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from functools import partial
from time import monotonic
from typing import Self, TypeVar

from pathors_agent.core.conversation import Conversation
from pathors_agent.core.run import Run
from pathors_agent.messages import AssistantMessage, Message, ToolMessage, Usage
from pathors_agent.telemetry.calls import Audience, Operation
from pathors_agent.telemetry.contents import input_text, instructions_text, output_text
from pathors_agent.telemetry.events import ServerAddress
from pathors_agent.telemetry.spans import (
    AGENT,
    CHAT,
    NOTHING,
    SPANS,
    AsyncWithin,
    Attached,
    Facts,
    Within,
)
from pathors_agent.views.timeline import TimedCall
from pathors_agent.wire.chat_completions import ModelOptions, RequestTemplate

T = TypeVar("T")

# The conventions' names of providers, by address. Every other one is "openai": the name tells which
# API is spoken, and `server.address` tells the endpoint.
_PROVIDERS = {
    "api.anthropic.com": "anthropic",
    "api.cohere.ai": "cohere",
    "api.deepseek.com": "deepseek",
    "api.groq.com": "groq",
    "api.mistral.ai": "mistral_ai",
    "api.moonshot.ai": "moonshot_ai",
    "api.perplexity.ai": "perplexity",
    "api.x.ai": "x_ai",
    "generativelanguage.googleapis.com": "gcp.gemini",
}
DEFAULT_PROVIDER = "openai"

# What the calls of a run have in common.
_COMMON = ("gen_ai.provider.name", "gen_ai.request.model", "gen_ai.output.type")

# By the names of `ModelOptions` and of `Usage`.
_OPTIONS = {
    "gen_ai.request.temperature": "temperature",
    "gen_ai.request.top_p": "top_p",
    "gen_ai.request.max_tokens": "max_tokens",
    "gen_ai.request.seed": "seed",
}
_USAGE = {
    "gen_ai.usage.input_tokens": "prompt_tokens",
    "gen_ai.usage.output_tokens": "completion_tokens",
    "gen_ai.usage.cache_read.input_tokens": "cached_tokens",
    "gen_ai.usage.reasoning.output_tokens": "reasoning_tokens",
}


class RunTelemetry(Audience):
    """The observers of one run.

    `name` is the agent's, `model` the model's. `server` is where its model calls go, if that is
    known before the first one. `started_by` are the headers of the trace that started the run in
    another process, which its span is linked to.
    """

    __slots__ = ("_denied", "model", "server", "started_by")

    def __init__(
        self,
        name: str | None = None,
        *,
        model: str | None = None,
        server: ServerAddress | None = None,
    ) -> None:
        super().__init__(name)
        self.model = model
        self.server = server
        self.started_by: Mapping[str, str] = {}
        self._denied: list[ToolMessage] = []

    def of(self, run: Run) -> AbstractContextManager[object]:
        """Follow a run's loop, which goes into the `with` block."""
        if run.limits.seconds is not None:
            self.deadline = monotonic() + run.limits.seconds
        if not self.listens and not self._denied:
            return NOTHING
        return RunOperation(self, "", run=run)

    def denied(self, messages: Iterable[ToolMessage]) -> None:
        """Report calls that a person denied, once the run has begun."""
        self._denied += messages

    def take_denied(self) -> list[ToolMessage]:
        """Return the denied calls that are not reported yet."""
        denied, self._denied = self._denied, []
        return denied

    def current(self) -> AbstractContextManager[object]:
        """Make the run's span the current one for a `with` block in which nothing is yielded."""
        return Attached(self.parent) if self.parent else NOTHING

    def begin_model(
        self,
        key: str,
        asked: RequestTemplate,
        conversation: Conversation,
        sent: Sequence[Message],
    ) -> "ModelOperation":
        """Begin a model call."""
        self.raise_stop()
        operation = ModelOperation(
            self, key, asked=asked, conversation=conversation, server=self.server
        )
        if self.api is not None:
            operation.begin(CHAT, asked.model, operation.asked_facts)
            operation.sent = sent  # only spans need it
        return operation


class RunOperation(Operation, kw_only=True):
    """A run: a context manager around its loop."""

    run: Run

    def __enter__(self) -> Self:
        telemetry = self.audience
        assert isinstance(telemetry, RunTelemetry)
        if telemetry.api is not None:
            facts = partial(self._first_facts, telemetry.model, telemetry.server)
            self.begin(AGENT, telemetry.name, facts, telemetry.started_by)
            telemetry.parent = self.context()
        for message in telemetry.take_denied():
            self._report_denied(message)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        if self.audience.listens:
            # A caller that leaves the stream early may have all that it wanted.
            stopped = "cancelled" if self.run.cancelled else error_type(error)
            self.tell(AGENT, None if kind is GeneratorExit else stopped)
        self.audience.raise_stop()

    def _first_facts(self, model: str | None, server: ServerAddress | None) -> Facts:
        conversation = conversation_id(self.run.conversation)
        asked = {"gen_ai.request.model": model, "gen_ai.conversation.id": conversation}
        return {**server_facts(server), **asked}

    def _report_denied(self, message: ToolMessage) -> None:
        for effect_key, call in self.run.keyed_calls():
            if call.id == message.tool_call_id:
                self.audience.answered(effect_key, call, message)

    def facts(self) -> Facts:
        """Return where it stands, and what its model calls used."""
        return {
            "gen_ai.provider.name": DEFAULT_PROVIDER,
            **self.audience.facts,
            "gen_ai.conversation.id": conversation_id(self.run.conversation),
            "pathors_agent.status": self.run.status.value,
            "pathors_agent.limit": self.run.limit,
        }


class ModelOperation(Operation, kw_only=True):
    """A model call, with the `message` that was its answer and the time `first` at which it began.

    `server` is where the request goes, `status` the answer's HTTP status.
    """

    asked: RequestTemplate
    conversation: Conversation
    sent: Sequence[Message] = ()
    server: ServerAddress | None = None
    status: int | None = None
    message: AssistantMessage | None = None
    first: float | None = None

    def note(self, event: str, **fields: object) -> None:
        """As `Operation.note`; where a request is sent is a fact of the call, and no event."""
        if event != "request_sent":
            super().note(event, **fields)
        elif self.audience.listens:
            self.server = self.audience.observe(SPANS, _read_address, fields) or self.server

    def sending(self, open_: Callable[[], AbstractContextManager[T]]) -> AbstractContextManager[T]:
        """Open an answer in the context of the span, so that a client's own spans are below it."""
        context = self.context()
        return open_() if context is None else Within(context, open_)

    def sending_async(
        self, open_: Callable[[], AbstractAsyncContextManager[T]]
    ) -> AbstractAsyncContextManager[T]:
        """As `sending`."""
        context = self.context()
        return open_() if context is None else AsyncWithin(context, open_)

    def close(self, error: BaseException | None) -> None:
        """End it, by what was raised if it got no message."""
        failure = None if error is None else error_type(error)
        outcome = "value" if failure is None else failure if failure in _STOPPED else "failed"
        times = (self.start, monotonic(), outcome, self.first, self.waits, self.notes)
        self.audience.keep(TimedCall("model", self.asked.model or "model", self.key, *times))
        if self.audience.listens:
            self.tell(CHAT, failure)

    def asked_facts(self) -> Facts:
        """Return what is known before the request is sent."""
        asked, options = self.asked, self.asked.options
        is_json = asked.final_tool is not None or options.response_format is not None
        return {
            **server_facts(self.server),
            "gen_ai.request.model": asked.model,
            "gen_ai.output.type": "json" if is_json else None,
            "gen_ai.conversation.id": conversation_id(self.conversation),
            **{fact: getattr(options, name) for fact, name in _OPTIONS.items()},
            "gen_ai.request.stop_sequences": _stops(options),
            "gen_ai.request.stream": asked.profile.streams,
        }

    def facts(self) -> Facts:
        """Return what was asked for, where, and what came."""
        asked, answer = self.asked_facts(), self._answer()
        self._share(asked, answer)
        return {
            **asked,
            "http.response.status_code": self.status,
            "http.request.resend_count": len(self.notes) or None,
            **answer,
        }

    def contents(self) -> Facts:
        """Return what was sent, and what came."""
        told: Facts = {"gen_ai.input.messages": input_text(self.sent)}
        if self.asked.instructions:
            told["gen_ai.system_instructions"] = instructions_text(self.asked.instructions)
        if self.message:
            told["gen_ai.output.messages"] = output_text(self.message)
        return told

    def _answer(self) -> Facts:
        message, first = self.message, self.first
        if message is None:
            return {}
        reason, usage = message.finish_reason, message.usage or Usage()
        if first is not None and self.asked.profile.streams:
            first -= self.start
        else:
            first = None
        return {
            "gen_ai.response.id": message.id,
            "gen_ai.response.model": message.model,
            "gen_ai.response.finish_reasons": [reason] if reason else None,
            "gen_ai.response.time_to_first_chunk": first,
            "pathors_agent.tool_calls": len(message.tool_calls),
            **{fact: getattr(usage, name) for fact, name in _USAGE.items()},
        }

    def _share(self, asked: Facts, answer: Facts) -> None:
        """Add to what is reported of the run."""
        facts = self.audience.facts
        facts.update({name: asked.get(name) for name in _COMMON})
        facts["gen_ai.response.finish_reasons"] = answer.get("gen_ai.response.finish_reasons")
        for fact in _USAGE:
            if (tokens := answer.get(fact)) is not None:
                facts[fact] = facts.get(fact, 0) + tokens


_STOPPED = ("cancelled", "timeout")


def error_type(error: BaseException | None) -> str | None:
    """Return a word of low cardinality for what a call failed with."""
    if error is None:
        return None
    if getattr(error, "timed_out", False):
        return "timeout"
    return type(error).__name__ if isinstance(error, Exception) else "cancelled"


def _read_address(fields: Mapping[str, object]) -> ServerAddress:
    address, port = fields["address"], fields.get("port")
    return ServerAddress(str(address), port if isinstance(port, int) else None)


def server_facts(server: ServerAddress | None) -> Facts:
    """Return the facts that name an endpoint."""
    if server is None:
        return {"gen_ai.provider.name": DEFAULT_PROVIDER}
    return {
        "gen_ai.provider.name": _PROVIDERS.get(server.address, DEFAULT_PROVIDER),
        "server.address": server.address,
        "server.port": server.port,
    }


def conversation_id(conversation: Conversation) -> str | None:
    """Return the endpoint's session id, or else the id in the keys of the conversation's calls."""
    return conversation.session_id or conversation.id


def _stops(options: ModelOptions) -> list[str] | None:
    stop = options.stop
    return None if stop is None else [stop] if isinstance(stop, str) else list(stop)
