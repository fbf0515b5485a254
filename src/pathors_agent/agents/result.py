"""The result of a run: its answer, its messages, its status and its usage."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from operator import add
from typing import TYPE_CHECKING, Generic, cast

from pathors_agent.agents.answers import AnswerType, OutputT
from pathors_agent.agents.approvals import Approval
from pathors_agent.agents.mistakes import missing
from pathors_agent.core.conversation import Conversation
from pathors_agent.core.limits import Limits
from pathors_agent.core.run import Status
from pathors_agent.errors import RunNotFinished
from pathors_agent.messages import AssistantMessage, EndedBy, Message, ToolCall, Usage
from pathors_agent.messages.transcript import Transcribed
from pathors_agent.schema.arguments import ArgumentsRefused
from pathors_agent.schema.bounds import cut
from pathors_agent.telemetry.timeline import Chart, TimedCall, page
from pathors_agent.wire.message_builder import Quirk

# A sentence or two: models explain a refusal in their first words.
MAX_REFUSAL_CHARACTERS = 500

_NOTHING_USED = Usage(
    prompt_tokens=0, completion_tokens=0, total_tokens=0, cached_tokens=0, reasoning_tokens=0
)


@dataclass(frozen=True)
class RunResult(Transcribed, Generic[OutputT]):
    """The state of a run when it ended, and its messages.

    `messages` are the messages of this run, the prompt first. `conversation` is the whole history,
    which another run can continue. `open_calls` wait for the caller's results; the calls among them
    that wait for a person's approval are in `approvals`. `quirks` are the deviations of the
    provider's answers from the wire format, each kind once.
    """

    conversation: Conversation
    messages: tuple[Message, ...]
    status: Status
    limit: str | None = None
    """The name of the limit that stopped the run."""
    ended_by: EndedBy | None = None
    """The reason why the last answer ended early: its length, a content filter or a refusal."""
    open_calls: tuple[ToolCall, ...] = ()
    approvals: tuple[Approval, ...] = ()
    quirks: tuple[Quirk, ...] = ()
    cancelled: bool = False
    """Whether `cancel` of its stream ended the run."""
    answer: str | None = field(default=None, repr=False)
    """The text of the answer, as written by the model."""
    answers: AnswerType[OutputT] | None = field(default=None, repr=False, compare=False)
    """The type of the answer, or None for text."""
    spent: tuple[Usage, ...] = field(default=(), repr=False)
    """The tokens of summaries that its requests needed."""
    times: tuple[TimedCall, ...] = field(default=(), repr=False, compare=False)
    """When each model call and tool call began and ended, in the order of their ends."""

    @cached_property
    def output(self) -> OutputT:
        """The answer: its text, or a value of the agent's `output` type.

        Raises `RunNotFinished` if there is no answer yet, or a stored one of another type.
        """
        if self.status is Status.FINISHED and self.answer is not None:
            if self.answers is not None:
                try:
                    return self.answers.read(self.answer)
                except ArgumentsRefused as refused:  # a stored answer, and the type has changed
                    raise RunNotFinished(
                        f"the answer of the run is not of the agent's output type: its fields {refused}",
                        status=self.status,
                        messages=self.conversation.messages,
                    ) from None
            return cast(OutputT, self.answer)  # without a type it is `str`
        raise RunNotFinished(
            f"the run has no answer: {self._why_not()}",
            status=self.status,
            messages=self.conversation.messages,
        )

    def __getstate__(self) -> dict[str, object]:
        """Return the fields for pickles and copies: the answer's value instead of its type."""
        if self.status is Status.FINISHED and self.answer is not None:
            _ = self.output  # a cached property, which is one of the fields from now on
        return {**self.__dict__, "answers": None}

    @cached_property
    def usage(self) -> Usage:
        """The sum of the tokens of this run, including those of summaries.

        A count is None if one answer left it out.
        """
        used = (message.usage or Usage() for message in self._answers())
        return reduce(add, (*used, *self.spent), _NOTHING_USED)

    @property
    def finish_reason(self) -> str | None:
        """The finish_reason of the last answer, in the provider's words."""
        return next((m.finish_reason for m in reversed(self._answers())), None)

    @property
    def session_id(self) -> str | None:
        """The id of the endpoint's session, if it keeps this conversation."""
        return self.conversation.session_id

    if not TYPE_CHECKING:  # a type checker that saw __getattr__ would accept any name

        def __getattr__(self, name: str) -> object:
            raise missing(self, name)

    def timeline(self) -> str:
        """Return an HTML page that shows the run's calls as bars."""
        return page(Chart("Run", self._outcome(), self.times))

    def _shown(self) -> tuple[str, Sequence[Message]]:
        return self._outcome(), self.messages

    def _outcome(self) -> str:
        tokens = self.usage.total_tokens
        used = "" if tokens is None else f", {tokens} tokens"
        stopped = f" ({self.limit})" if self.limit else ""
        return f"{self.status.value}{stopped}{used}"

    def _answers(self) -> list[AssistantMessage]:
        return [m for m in self.messages if isinstance(m, AssistantMessage)]

    def _why_not(self) -> str:
        match self.status:
            case Status.SUSPENDED:
                names = ", ".join(sorted({call.name for call in self.open_calls}))
                if self.approvals:
                    return f"it waits for approval of {names}; run again with decisions="
                return f"it waits for the caller's results of {names}; append them and run again"
            case Status.NO_ANSWER:
                return self._why_cut_off()
            case Status.LIMIT_REACHED if self.limit == "output_retries":
                return "no answer was of the requested type within limits.output_retries"
            case Status.LIMIT_REACHED if self.limit not in Limits.__dataclass_fields__:
                return f"it stopped at {self.limit}; run the conversation again to go on"
            case Status.LIMIT_REACHED:
                return f"it stopped at limits.{self.limit}; raise it and run again"
            case Status.RUNNING if self.cancelled:
                return "it was cancelled; run the conversation again to go on"
            case Status.RUNNING:
                return "it was left before its end; run the conversation again to go on"
            case Status.FINISHED:
                return "there was nothing to run; pass a prompt"

    def _why_cut_off(self) -> str:
        answer = next(reversed(self._answers()), None) or AssistantMessage()
        reason = f"finish_reason {answer.finish_reason!r}"
        match self.ended_by:
            case "refusal":
                said = cut(answer.refusal or answer.text, MAX_REFUSAL_CHARACTERS)
                return f"the model refused{': ' + said if said else f' ({reason})'}"
            case "content_filter":
                return f"a content filter of the provider ended the answer ({reason})"
            case "length" | None:
                return (
                    f"the answer reached its length limit ({reason}); raise "
                    "ModelOptions.max_tokens, or ask for less, and run again with a prompt"
                )
