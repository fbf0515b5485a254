"""Limits of a run: when it stops by itself, and which calls may not run.

They are derived from the messages since the user last spoke, so that a run stops at the same place if
another process goes on with it.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any

from pathors_agent.messages import (
    AssistantMessage,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    Usage,
    UserMessage,
)

# A question that needs more model calls than this is a loop in almost every agent.
DEFAULT_TURNS = 25
# Two equal calls may be a retry, three are a pattern, and six are a loop.
DEFAULT_REPEATS_WARNED = 3
DEFAULT_REPEATS = 6

# Most back ends handle no more calls at once.
DEFAULT_CONCURRENCY = 32

# The text of the error repeats what the tool expects: a model that does not see it by then will not.
DEFAULT_CALL_RETRIES = 4

# Models rarely fix an answer on the third retry.
DEFAULT_OUTPUT_RETRIES = 2

# Proxies and people give up sooner. A tool that needs longer sets its own `timeout`.
DEFAULT_TOOL_SECONDS = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of a run. Each counts since the user last spoke; None means no limit.

    - `turns`: model calls.
    - `tool_calls`: tool calls; the calls of a batch beyond the limit are answered "not run".
    - `total_tokens`: tokens as counted by the provider, checked before each model call. An answer
      without a total counts the known tokens of its prompt and completion. The tokens of agents that
      are tools count as well.
    - `seconds`: duration of one run. A tool call may take the time that is left, except for sync
      tools without a `timeout` of a blocking `Agent`.
    - `tool_seconds`: duration of one tool call, if the tool has no `timeout`. It does not stop a
      sync tool of a blocking `Agent`; only the tool's own `timeout` does.
    - `repeats`: calls of one tool with the same arguments; the call that reaches the limit is not
      run. From `repeats_warned` on, the results tell the model that it repeats itself.
    - `call_retries`: retries of one tool after an answer that called it with invalid arguments. Then
      its calls are not run. A valid call starts the count again.
    - `max_concurrency`: tool calls of one answer that run at the same time (`AsyncAgent`).
    - `output_retries`: retries for an answer of the requested type.
    - `last_word`: at a limit, ask the model once more, without tools, for an answer.
    """

    turns: int = DEFAULT_TURNS
    tool_calls: int | None = None
    total_tokens: int | None = None
    seconds: float | None = None
    tool_seconds: float | None = DEFAULT_TOOL_SECONDS
    repeats: int | None = DEFAULT_REPEATS
    repeats_warned: int | None = DEFAULT_REPEATS_WARNED
    call_retries: int | None = DEFAULT_CALL_RETRIES
    max_concurrency: int = DEFAULT_CONCURRENCY
    output_retries: int = DEFAULT_OUTPUT_RETRIES
    last_word: bool = False

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self) if field.name != "last_word"):
            value: Any = getattr(self, name)
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, int | float)
            ):
                raise ValueError(f"Limits.{name} must be a number, not {value!r}")
            if name in ("call_retries", "output_retries"):
                if value is not None and not value >= 0:
                    raise ValueError(f"Limits.{name} must be 0 or more, not {value}")
            elif value is not None and not value > 0:
                raise ValueError(f"Limits.{name} must be over 0, not {value}")


@dataclass(frozen=True, slots=True)
class CallVerdict:
    """Whether a call may run.

    A call with a `refusal` does not run: the text is its result. A `warning` is added to its result.
    """

    refusal: str | None = None
    warning: str | None = None


MAY_RUN = CallVerdict()

_NO_VERDICTS: Mapping[str, CallVerdict] = MappingProxyType({})
_NO_NAMES: frozenset[str] = frozenset()
_NEVER = (0, 0)


class Tally:
    """The counters of the limits since the user last spoke; each message is read once.

    `place` is the number of messages that were read. `limit_before` is the limit that was reached
    before the last answer, or None. `verdicts` holds, by call id, the verdicts of that answer's calls
    that are refused or warned about.
    """

    __slots__ = (
        "_calls",
        "_counts",
        "_ended",
        "_final_tool",
        "_invalid",
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
        """The number of answers that did not fit and were sent back."""
        self.limit_before: str | None = None
        # Every open stream has a tally: what few streams need is allocated lazily.
        self.verdicts: Mapping[str, CallVerdict] = _NO_VERDICTS
        self._ended: frozenset[str] = _NO_NAMES
        self._names: dict[str, str] | None = None  # of the last answer's calls, by id
        # The answers in a row with an invalid call of a tool, and the turn of the last, by name.
        self._invalid: dict[str, tuple[int, int]] | None = None
        # Canonical arguments are expensive: they wait until there are enough calls to repeat.
        self._uncounted: list[ToolCall] | None = None
        self._counts: Counter[tuple[str, str]] | None = None

    def read(self, history: Sequence[Message]) -> None:
        """Count the messages that were added to the history since the last call.

        The history has no results of an open batch: their order may still change.
        """
        start, self.place = self.place, len(history)
        for place in range(self.place - 1, start - 1, -1):
            message = history[place]
            if isinstance(message, UserMessage) and not message.feedback:
                if start:
                    self._start()
                start = place + 1
                break
        for place in range(start, self.place):
            match history[place]:
                case AssistantMessage() as answer:
                    self._count_answer(answer)
                case ToolMessage() as result:
                    self._count_result(result)
                case UserMessage():  # feedback
                    self.failed_answers += 1
                case SystemMessage():  # no limit counts it
                    pass

    @property
    def limit(self) -> str | None:
        """The limit that is reached, so that the model may not be called, or None."""
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

    @property
    def tokens_left(self) -> int | None:
        """How many tokens are left, or None without a limit."""
        total = self._limits.total_tokens
        return None if total is None else total - self._tokens

    def _count_answer(self, answer: AssistantMessage) -> None:
        self.limit_before = self.limit
        self._prepare_counts(len(answer.tool_calls))
        # The last call of an answer that was cut off may be incomplete.
        reason = answer.finish_reason if answer.tool_calls and answer.ended_by else None
        self._names = names = {}
        verdicts: dict[str, CallVerdict] = {}
        for call in answer.tool_calls:
            names[call.id] = call.name
            verdict = self._verdict(call, reason)
            if verdict is not MAY_RUN:
                verdicts[call.id] = verdict
        self.verdicts = verdicts
        self._turns += 1
        if answer.usage is not None:
            self._tokens += total_tokens(answer.usage)
        self.failed_answers += self._final_tool is not None and self._final_tool in names.values()

    def _count_result(self, result: ToolMessage) -> None:
        if result.extra:
            self._tokens += run_tokens(result)
        if not self._names:  # of the messages that the counts begin with
            return
        name = self._names[result.tool_call_id]
        if result.ends_tool:
            self._ended |= {name}
        if result.invalid:
            self._invalid = self._invalid or {}
            times, turn = self._invalid.get(name, _NEVER)
            if turn != self._turns:  # the model reads the results of one answer together
                self._invalid[name] = (times + 1, self._turns)
        elif self._invalid and result.outcome != "not_run":
            self._invalid.pop(name, None)

    def _prepare_counts(self, more: int) -> None:
        limits = self._limits
        least = min(limits.repeats or math.inf, limits.repeats_warned or math.inf)
        if self._counts is None and self._calls + more >= least:
            self._counts = Counter(map(_same, self._uncounted or ()))
            self._most = max(self._counts.values(), default=0)
            self._uncounted = None

    def _verdict(self, call: ToolCall, reason: str | None) -> CallVerdict:
        """Count a call, and decide whether it may run.

        A call of the final tool always may: it is the answer.
        """
        if call.name == self._final_tool:
            cut_off = None if reason is None else _cut_off(call, reason)
            return CallVerdict(cut_off) if cut_off else MAY_RUN
        self._calls += 1
        repetitions = self._count(call)
        refusal = self._refusal(call, reason, repetitions)
        warned, warning = self._limits.repeats_warned, None
        if warned is not None and repetitions >= warned:
            warning = f"(This was call {repetitions} of {call.name} with the same arguments.)"
        return CallVerdict(refusal, warning) if refusal or warning else MAY_RUN

    def _count(self, call: ToolCall) -> int:
        if self._counts is None:
            self._uncounted = self._uncounted or []
            self._uncounted.append(call)
            return 1
        same = _same(call)
        self._counts[same] += 1
        self._most = max(self._most, self._counts[same])
        return self._counts[same]

    def _refusal(self, call: ToolCall, reason: str | None, repetitions: int) -> str | None:
        limits = self._limits
        if self.limit_before:
            return _not_run(f"the limit of {self.limit_before} is reached")
        if reason is not None and (cut_off := _cut_off(call, reason)):
            return cut_off
        if call.name in self._ended:
            return f"Not run: {call.name} has failed for good; do without it."
        invalid = self._invalid.get(call.name, _NEVER)[0] if self._invalid else 0
        if limits.call_retries is not None and invalid > limits.call_retries:
            return _not_run(f"{invalid} answers in a row called {call.name} with invalid arguments")
        if limits.tool_calls is not None and self._calls > limits.tool_calls:
            return _not_run(f"{limits.tool_calls} tool calls were the limit")
        if limits.repeats is not None and repetitions >= limits.repeats:
            return _not_run(f"this is call {repetitions} of {call.name} with the same arguments")
        return None


def canonical_arguments(arguments: str) -> str:
    """Return arguments in a form in which equal values have equal texts.

    Text that is no JSON is returned unchanged.
    """
    try:
        return json.dumps(json.loads(arguments or "{}"), sort_keys=True, separators=(",", ":"))
    except (ValueError, RecursionError):
        return arguments


def total_tokens(usage: Usage) -> int:
    """Return the total of a usage, or the sum of the parts that are known."""
    return usage.total_tokens or (usage.prompt_tokens or 0) + (usage.completion_tokens or 0)


def run_tokens(message: ToolMessage) -> int:
    """Return the tokens of the run of an agent that a tool ran; 0 for any other tool."""
    run = message.extra.get("run")
    used = run.get("usage") if isinstance(run, dict) else None
    if not isinstance(used, dict):
        return 0
    counts = {name: count for name, count in used.items() if isinstance(count, int)}
    known = counts.get("prompt_tokens", 0) + counts.get("completion_tokens", 0)
    return counts.get("total_tokens", 0) or known


def _same(call: ToolCall) -> tuple[str, str]:
    return call.name, canonical_arguments(call.arguments)


def _cut_off(call: ToolCall, reason: str) -> str | None:
    if is_object(call.arguments):
        return None
    return (
        f"Not run: the answer was ended ({reason}) before the arguments of "
        f"{call.name} were complete."
    )


def is_object(arguments: str) -> bool:
    """Return True if arguments are the complete JSON text of an object."""
    try:
        return isinstance(json.loads(arguments), dict)
    except (ValueError, RecursionError):
        return False


def _not_run(reason: str) -> str:
    return f"Not run: {reason}. Answer with what you have."
