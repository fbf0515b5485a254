"""Follow a run: its model calls, its tools' calls, and the run around them."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from time import monotonic
from typing import Self

from pathors_agent.conversation import Conversation
from pathors_agent.messages import AssistantMessage, Message, ToolMessage, Usage
from pathors_agent.run import Run
from pathors_agent.telemetry.calls import Audience, Operation
from pathors_agent.telemetry.contents import input_text, instructions_text, output_text
from pathors_agent.telemetry.spans import AGENT, CHAT, NOTHING, Facts, attached
from pathors_agent.timeline import TimedCall
from pathors_agent.wire.chat_completions import ModelOptions, RequestTemplate

# The conventions' names for who is behind an address. Whoever else takes OpenAI's requests is
# "openai": the name says which requests are meant, and `server.address` who is asked.
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
    """Follows one run."""

    __slots__ = ()

    def of(self, run: Run) -> AbstractContextManager[object]:
        """Follow a run's loop, which goes into the `with` block."""
        if not self.listens:
            return NOTHING
        operation = RunOperation(self, "", run=run)
        if self.api is not None:
            operation.span = self.api.start(AGENT, None, None)
            self.parent = operation.context()
        return operation

    def current(self) -> AbstractContextManager[object]:
        """Make the run's span the current one for a `with` block in which nothing is yielded."""
        return attached(self.parent) if self.parent else NOTHING

    def begin_model(
        self,
        key: str,
        asked: RequestTemplate,
        conversation: Conversation,
        sent: Sequence[Message],
    ) -> "ModelOperation":
        """Begin a model call."""
        operation = ModelOperation(self, key, asked=asked, conversation=conversation)
        if self.api is not None:
            operation.span = self.api.start(CHAT, asked.model, self.parent)
            operation.sent = sent  # else a long history would be held for nothing
        return operation

    def not_run(self, key: str, name: str, message: ToolMessage) -> None:
        """Keep a call that was answered without its tool."""
        now = monotonic()
        self.keep(TimedCall("tool", name, key, now, now, message.outcome))


class RunOperation(Operation, kw_only=True):
    """A run: a context manager around its loop."""

    run: Run

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        # Whoever leaves the stream early may have all that they wanted.
        self.tell(AGENT, None if kind is GeneratorExit else error_type(error))

    def facts(self) -> Facts:
        """Where it stands, and what its model calls used."""
        return {
            "gen_ai.provider.name": DEFAULT_PROVIDER,
            **self.audience.facts,
            "gen_ai.conversation.id": conversation_id(self.run.conversation),
            "pathors_agent.status": self.run.status.value,
            "pathors_agent.limit": self.run.limit,
        }


class ModelOperation(Operation, kw_only=True):
    """A model call, with the `message` that it gave; the `first` of it came at that time."""

    asked: RequestTemplate
    conversation: Conversation
    sent: Sequence[Message] = ()
    server: Facts | None = None
    message: AssistantMessage | None = None
    first: float | None = None

    def note(self, event: str, **fields: object) -> None:
        """As `Operation.note`; where a request is sent is a fact of the call, and no event."""
        if event != "request_sent":
            super().note(event, **fields)
        elif self.audience.listens:
            self.server = fields

    def close(self, error: BaseException | None) -> None:
        """End it, by what was raised where it gave no message."""
        failure = None if error is None else error_type(error)
        outcome = "value" if failure is None else failure if failure in _STOPPED else "failed"
        times = (self.start, monotonic(), outcome, self.first, self.waits, self.notes)
        self.audience.keep(TimedCall("model", self.asked.model or "model", self.key, *times))
        if self.audience.listens:
            self.tell(CHAT, failure)

    def facts(self) -> Facts:
        """What was asked for, where, and what came."""
        server = self.server or {}
        host = server.get("address")
        asked, options = self.asked, self.asked.options
        is_json = asked.final_tool is not None or options.response_format is not None
        common: Facts = {
            "gen_ai.provider.name": _PROVIDERS.get(host or "", DEFAULT_PROVIDER),
            "gen_ai.request.model": asked.model,
            "gen_ai.output.type": "json" if is_json else None,
        }
        answer = self._answer()
        self._share(common, answer)
        return {
            **common,
            "gen_ai.conversation.id": conversation_id(self.conversation),
            "server.address": host,
            "server.port": server.get("port"),
            "http.request.resend_count": len(self.notes) or None,
            **{fact: getattr(options, name) for fact, name in _OPTIONS.items()},
            "gen_ai.request.stop_sequences": _stops(options),
            "gen_ai.request.stream": asked.profile.streams,
            **answer,
        }

    def contents(self) -> Facts:
        """What was sent, and what came."""
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

    def _share(self, common: Facts, answer: Facts) -> None:
        """Add to what is told of the run."""
        facts = self.audience.facts
        facts.update(common)
        facts["gen_ai.response.finish_reasons"] = answer.get("gen_ai.response.finish_reasons")
        for fact in _USAGE:
            if (tokens := answer.get(fact)) is not None:
                facts[fact] = facts.get(fact, 0) + tokens


_STOPPED = ("cancelled", "timeout")


def error_type(error: BaseException | None) -> str | None:
    """Name what a call failed of, in a word of few."""
    if error is None:
        return None
    if getattr(error, "timed_out", False):
        return "timeout"
    return type(error).__name__ if isinstance(error, Exception) else "cancelled"


def conversation_id(conversation: Conversation) -> str | None:
    """Name a conversation as its endpoint does, or else as its tools know it."""
    return conversation.session_id or conversation.id


def _stops(options: ModelOptions) -> list[str] | None:
    stop = options.stop
    return None if stop is None else [stop] if isinstance(stop, str) else list(stop)
