"""Where a run stops by itself, and which calls may not run: read from the history alone.

Everything here looks at the messages since the user last spoke, so that a run taken up again in
another process stops at the same place.
"""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields

from pathors_agent.messages import AssistantMessage, Message, ToolCall, ToolMessage, UserMessage

# A question that needs more model calls than this is a loop in almost every agent.
DEFAULT_TURNS = 25
# Twice the same may be a retry, three times is a habit; at six nobody is learning anything.
DEFAULT_REPEATS_WARNED = 3
DEFAULT_REPEATS = 6

# More at once than this only wait for each other in most back ends.
DEFAULT_CONCURRENCY = 32

# Whoever has read twice what is wrong with an answer seldom mends it the third time.
DEFAULT_OUTPUT_RETRIES = 2

# Proxies and people give up sooner; a tool that needs longer says so with its own `timeout`.
DEFAULT_TOOL_SECONDS = 300.0

# The answer was ended by something else than the model: its last call may lack its end.
_CUT_REASONS = frozenset({"length", "content_filter"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Where a run stops by itself; each counts since the user last spoke, and None sets no limit.

    - `turns`: model calls.
    - `tool_calls`: tool calls; those of a batch that do not fit are answered "not run".
    - `total_tokens`: tokens as the provider counts them, looked at before each model call. An
      answer without a count counts nothing.
    - `seconds`: time of one run; a tool call gets what is left of it, but for sync tools without
      a `timeout` of a blocking `Agent`.
    - `tool_seconds`: time of one tool call, where the tool has no `timeout` of its own. A sync
      tool of a blocking `Agent` is not stopped by it, only by its own.
    - `repeats`: calls of one tool with the same arguments, this one not run any more; from
      `repeats_warned` on, their results tell the model that it repeats itself.
    - `max_concurrency`: tool calls of one answer that run at the same time (`AsyncAgent`).
    - `output_retries`: times that the model is asked again for an answer of the type asked for.
    - `last_word`: at a limit, ask the model once more, without tools, for what it has.
    """

    turns: int = DEFAULT_TURNS
    tool_calls: int | None = None
    total_tokens: int | None = None
    seconds: float | None = None
    tool_seconds: float | None = DEFAULT_TOOL_SECONDS
    repeats: int | None = DEFAULT_REPEATS
    repeats_warned: int | None = DEFAULT_REPEATS_WARNED
    max_concurrency: int = DEFAULT_CONCURRENCY
    output_retries: int = DEFAULT_OUTPUT_RETRIES
    last_word: bool = False

    def __post_init__(self) -> None:
        if self.output_retries < 0:
            raise ValueError(f"Limits.output_retries must be 0 or more, not {self.output_retries}")
        for name in {field.name for field in fields(self)} - {"output_retries", "last_word"}:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"Limits.{name} must be over 0, not {value}")


def limit_reached(
    messages: Sequence[Message], limits: Limits, final_tool: str | None = None
) -> str | None:
    """Name the limit that keeps the model from being asked, or None.

    Calls of the `final_tool` are answers: they count as tries, not as tool calls.
    """
    since = since_user(messages)
    if not since:
        return None
    answers = [message for message in since if isinstance(message, AssistantMessage)]
    calls = _calls(since, final_tool)
    if len(answers) >= limits.turns:
        return "turns"
    if limits.tool_calls is not None and len(calls) > limits.tool_calls:
        return "tool_calls"
    if limits.total_tokens is not None and _tokens(answers) >= limits.total_tokens:
        return "total_tokens"
    if limits.repeats is not None and len(calls) >= limits.repeats:
        (_, most) = Counter(map(_same, calls)).most_common(1)[0]
        if most >= limits.repeats:
            return "repeats"
    if failed_answers(since, final_tool) > limits.output_retries:
        return "output_retries"
    return None


def failed_answers(messages: Sequence[Message], final_tool: str | None) -> int:
    """Count the answers since the user spoke that did not fit and were sent back."""
    return sum(
        any(call.name == final_tool for call in message.tool_calls)
        if isinstance(message, AssistantMessage)
        else isinstance(message, UserMessage)  # there is only feedback
        for message in since_user(messages)
    )


def had_last_word(
    messages: Sequence[Message], limits: Limits, final_tool: str | None = None
) -> bool:
    """Whether a limit was reached before the last answer already, which was the last word."""
    since = since_user(messages)
    for index in range(len(since) - 1, -1, -1):
        if isinstance(since[index], AssistantMessage):
            return limit_reached(since[:index], limits, final_tool) is not None
    return False


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a call may run.

    One with a `refusal` may not: those words are its result. A `warning` is added to its result.
    """

    refusal: str | None = None
    warning: str | None = None


MAY_RUN = Verdict()


def judge(
    messages: Sequence[Message], limits: Limits, final_tool: str | None = None
) -> dict[str, Verdict]:
    """Say of each call of the last assistant message whether it may run, by call id.

    The `final_tool` may always: it gives the answer that the limits want.
    """
    since = since_user(messages)
    at = max(i for i, message in enumerate(since) if isinstance(message, AssistantMessage))
    answer = since[at]
    assert isinstance(answer, AssistantMessage)
    judged = _Judged(since[:at], limits, answer, final_tool)
    return {call.id: judged.verdict(call) for call in answer.tool_calls}


class _Judged:
    """The calls since the user spoke, counted up to the one that is judged."""

    def __init__(
        self,
        before: Sequence[Message],
        limits: Limits,
        answer: AssistantMessage,
        final_tool: str | None,
    ) -> None:
        calls = _calls(before, final_tool)
        self._limits = limits
        self._final_tool = final_tool
        self._limit = limit_reached(before, limits, final_tool)
        self._reason = answer.finish_reason
        self._ended = _ended_tools(before)
        self._number = len(calls)
        # Writing out arguments anew is the cost here; fewer calls than this cannot repeat enough.
        least = min(limits.repeats or math.inf, limits.repeats_warned or math.inf)
        self._counts = (
            Counter(map(_same, calls)) if len(calls) + len(answer.tool_calls) >= least else None
        )

    def verdict(self, call: ToolCall) -> Verdict:
        """Count a call, and say whether it may run."""
        if call.name == self._final_tool:
            return Verdict(self._cut_off(call))
        self._number += 1
        repetitions = self._count(call)
        refusal, warning = self._refusal(call, repetitions), self._warning(call, repetitions)
        return Verdict(refusal, warning) if refusal or warning else MAY_RUN

    def _count(self, call: ToolCall) -> int:
        if self._counts is None:
            return 1
        same = _same(call)
        self._counts[same] += 1
        return self._counts[same]

    def _warning(self, call: ToolCall, repetitions: int) -> str | None:
        warned = self._limits.repeats_warned
        if warned is None or repetitions < warned:
            return None
        return f"(This was call {repetitions} of {call.name} with the same arguments.)"

    def _refusal(self, call: ToolCall, repetitions: int) -> str | None:
        limits = self._limits
        if self._limit:
            return _not_run(f"the limit of {self._limit} is reached")
        if cut_off := self._cut_off(call):
            return cut_off
        if call.name in self._ended:
            return f"Not run: {call.name} has failed for good; do without it."
        if limits.tool_calls is not None and self._number > limits.tool_calls:
            return _not_run(f"{limits.tool_calls} tool calls were the limit")
        if limits.repeats is not None and repetitions >= limits.repeats:
            return _not_run(f"this is call {repetitions} of {call.name} with the same arguments")
        return None

    def _cut_off(self, call: ToolCall) -> str | None:
        if self._reason not in _CUT_REASONS or _is_object(call.arguments):
            return None
        return (
            f"Not run: the answer was ended ({self._reason}) before the arguments of "
            f"{call.name} were complete."
        )


def since_user(messages: Sequence[Message]) -> Sequence[Message]:
    """Give the messages after the last one that a user spoke."""
    for index in range(len(messages) - 1, -1, -1):
        message = messages[index]
        if isinstance(message, UserMessage) and not message.feedback:
            return messages[index + 1 :]
    return messages


def canonical_arguments(arguments: str) -> str:
    """Write arguments so that equal values give equal text; text that is no JSON stays."""
    try:
        return json.dumps(json.loads(arguments or "{}"), sort_keys=True, separators=(",", ":"))
    except (ValueError, RecursionError):
        return arguments


def _calls(messages: Sequence[Message], final_tool: str | None = None) -> list[ToolCall]:
    answers = (message for message in messages if isinstance(message, AssistantMessage))
    calls = (call for answer in answers for call in answer.tool_calls)
    return [call for call in calls if call.name != final_tool]


def _same(call: ToolCall) -> tuple[str, str]:
    return call.name, canonical_arguments(call.arguments)


def _tokens(answers: Sequence[AssistantMessage]) -> int:
    return sum((answer.usage.total_tokens or 0) for answer in answers if answer.usage)


def _ended_tools(messages: Sequence[Message]) -> set[str]:
    ended = {m.tool_call_id for m in messages if isinstance(m, ToolMessage) and m.ends_tool}
    return {call.name for call in _calls(messages) if call.id in ended} if ended else set()


def _is_object(arguments: str) -> bool:
    try:
        return isinstance(json.loads(arguments), dict)
    except (ValueError, RecursionError):
        return False


def _not_run(reason: str) -> str:
    return f"Not run: {reason}. Answer with what you have."
