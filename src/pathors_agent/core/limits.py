"""Where a run stops by itself, and which calls may not run: read from the history alone.

Only the messages since the user last spoke count, so that a run taken up again in another process
stops at the same place.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Where a run stops by itself; each counts since the user last spoke, and None sets no limit.

    - `turns`: model calls.
    - `tool_calls`: tool calls; those of a batch that do not fit are answered "not run".
    - `total_tokens`: tokens as the provider counts them, checked before each model call. An
      answer without a total counts those of its prompt and completion that are known.
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


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a call may run.

    One with a `refusal` may not: those words are its result. A `warning` is added to its result.
    """

    refusal: str | None = None
    warning: str | None = None


MAY_RUN = Verdict()

_NO_VERDICTS: Mapping[str, Verdict] = MappingProxyType({})
_NO_NAMES: frozenset[str] = frozenset()


class Tally:
    """What the limits count in a history since the user last spoke: read once, as it grows.

    `place` is how much of the history was read. `limit_before` is the limit that was reached before
    the last answer was given, or None; `verdicts` has, by id, those of that answer's calls that may
    not run or are warned of.
    """

    __slots__ = (
        "_calls",
        "_counts",
        "_ended",
        "_final_tool",
        "_limits",
        "_most",
        "_names",
        "_tokens",
        "_turns",
        "_uncounted",
        "failed_answers",
        "limit_before",
        "place",
        "verdicts",
    )

    def __init__(self, limits: Limits, final_tool: str | None = None) -> None:
        self._limits = limits
        self._final_tool = final_tool
        self.place = 0
        self._start()

    def _start(self) -> None:
        self._turns = self._calls = self._tokens = self._most = 0
        self.failed_answers = 0
        """Answers that did not fit and were sent back."""
        self.limit_before: str | None = None
        # Every open stream has one of these: what most never need is not made yet.
        self.verdicts: Mapping[str, Verdict] = _NO_VERDICTS
        self._ended: frozenset[str] = _NO_NAMES
        self._names: dict[str, str] | None = None  # of the last answer's calls, by id
        # Writing out arguments anew is the cost here; it waits for calls enough to repeat.
        self._uncounted: list[ToolCall] | None = None
        self._counts: Counter[tuple[str, str]] | None = None

    def read(self, news: Sequence[Message]) -> None:
        """Go on with what came since.

        Results of a batch of calls are read when all are there: until then their places change.
        """
        self.place += len(news)
        spoken = _last_spoken(news)
        if spoken is not None:
            self._start()
            news = news[spoken + 1 :]
        for message in news:
            self._take(message)

    def _take(self, message: Message) -> None:
        match message:
            case AssistantMessage():
                self._take_answer(message)
            case ToolMessage() if message.ends_tool and self._names:
                self._ended |= {self._names[message.tool_call_id]}
            case UserMessage():  # feedback
                self.failed_answers += 1
            case _:
                pass

    @property
    def limit(self) -> str | None:
        """The limit that keeps the model from being asked, or None."""
        limits = self._limits
        if self._turns >= limits.turns:
            return "turns"
        if limits.tool_calls is not None and self._calls > limits.tool_calls:
            return "tool_calls"
        if limits.total_tokens is not None and self._tokens >= limits.total_tokens:
            return "total_tokens"
        if limits.repeats is not None and self._most >= limits.repeats:
            return "repeats"
        if self.failed_answers > limits.output_retries:
            return "output_retries"
        return None

    def _take_answer(self, answer: AssistantMessage) -> None:
        self.limit_before = self.limit
        self._prepare_counts(len(answer.tool_calls))
        # An answer that the model did not end itself: its last call may lack its end.
        reason = answer.finish_reason if answer.ended_by else None
        verdicts = {call.id: self._verdict(call, reason) for call in answer.tool_calls}
        self.verdicts = {i: verdict for i, verdict in verdicts.items() if verdict is not MAY_RUN}
        self._names = {call.id: call.name for call in answer.tool_calls}
        self._turns += 1
        self._tokens += _tokens(answer)
        self.failed_answers += any(call.name == self._final_tool for call in answer.tool_calls)

    def _prepare_counts(self, more: int) -> None:
        limits = self._limits
        least = min(limits.repeats or math.inf, limits.repeats_warned or math.inf)
        if self._counts is None and self._calls + more >= least:
            self._counts = Counter(map(_same, self._uncounted or ()))
            self._most = max(self._counts.values(), default=0)
            self._uncounted = None

    def _verdict(self, call: ToolCall, reason: str | None) -> Verdict:
        """Count a call, and say whether it may run.

        The final tool may always: it gives the answer that the limits want.
        """
        if call.name == self._final_tool:
            cut_off = _cut_off(call, reason)
            return Verdict(cut_off) if cut_off else MAY_RUN
        self._calls += 1
        repetitions = self._count(call)
        refusal = self._refusal(call, reason, repetitions)
        warning = self._warning(call, repetitions)
        return Verdict(refusal, warning) if refusal or warning else MAY_RUN

    def _count(self, call: ToolCall) -> int:
        if self._counts is None:
            self._uncounted = self._uncounted or []
            self._uncounted.append(call)
            return 1
        same = _same(call)
        self._counts[same] += 1
        self._most = max(self._most, self._counts[same])
        return self._counts[same]

    def _warning(self, call: ToolCall, repetitions: int) -> str | None:
        warned = self._limits.repeats_warned
        if warned is None or repetitions < warned:
            return None
        return f"(This was call {repetitions} of {call.name} with the same arguments.)"

    def _refusal(self, call: ToolCall, reason: str | None, repetitions: int) -> str | None:
        limits = self._limits
        if self.limit_before:
            return _not_run(f"the limit of {self.limit_before} is reached")
        if cut_off := _cut_off(call, reason):
            return cut_off
        if call.name in self._ended:
            return f"Not run: {call.name} has failed for good; do without it."
        if limits.tool_calls is not None and self._calls > limits.tool_calls:
            return _not_run(f"{limits.tool_calls} tool calls were the limit")
        if limits.repeats is not None and repetitions >= limits.repeats:
            return _not_run(f"this is call {repetitions} of {call.name} with the same arguments")
        return None


def _last_spoken(messages: Sequence[Message]) -> int | None:
    """Find the place of the last message that a user spoke."""
    for place in range(len(messages) - 1, -1, -1):
        message = messages[place]
        if isinstance(message, UserMessage) and not message.feedback:
            return place
    return None


def canonical_arguments(arguments: str) -> str:
    """Write arguments so that equal values give equal text; text that is no JSON stays."""
    try:
        return json.dumps(json.loads(arguments or "{}"), sort_keys=True, separators=(",", ":"))
    except (ValueError, RecursionError):
        return arguments


def _tokens(answer: AssistantMessage) -> int:
    """Return the tokens of an answer; without a total, those of its parts that are known."""
    usage = answer.usage
    if usage is None:
        return 0
    return usage.total_tokens or (usage.prompt_tokens or 0) + (usage.completion_tokens or 0)


def _same(call: ToolCall) -> tuple[str, str]:
    return call.name, canonical_arguments(call.arguments)


def _cut_off(call: ToolCall, reason: str | None) -> str | None:
    if reason is None or is_object(call.arguments):
        return None
    return (
        f"Not run: the answer was ended ({reason}) before the arguments of "
        f"{call.name} were complete."
    )


def is_object(arguments: str) -> bool:
    """Return True if arguments are the whole JSON text of an object."""
    try:
        return isinstance(json.loads(arguments), dict)
    except (ValueError, RecursionError):
        return False


def _not_run(reason: str) -> str:
    return f"Not run: {reason}. Answer with what you have."
