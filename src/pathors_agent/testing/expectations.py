"""Check what a run did; a failure shows a short transcript."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from pathors_agent.agents.result import RunResult
from pathors_agent.core.conversation import Conversation
from pathors_agent.core.run import Status
from pathors_agent.errors import RunNotFinished
from pathors_agent.json_text import call_arguments, call_text
from pathors_agent.messages import (
    AssistantMessage,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from pathors_agent.testing.usage import messages_of

LINE_CHARACTERS = 100
MOST_LINES = 40


def transcript(messages: Iterable[Message]) -> str:
    """Write messages as lines, each cut where it is long."""
    history = list(messages)
    names = {call.id: call.name for message in history for call in _written_calls(message)}
    lines = [line for message in history for line in _lines(message, names)]
    if len(lines) > MOST_LINES:
        left_out = f"({len(lines) - MOST_LINES} lines)"
        lines[MOST_LINES // 2 : -MOST_LINES // 2] = [left_out]
    return "\n".join(lines) or "(nothing was said)"


def arguments_text(arguments: dict[str, object]) -> str:
    """Write arguments as Python would, with values as JSON if possible."""
    return ", ".join(f"{name}={_value_text(value)}" for name, value in arguments.items())


def _value_text(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        return repr(value)


def _lines(message: Message, names: dict[str, str]) -> list[str]:
    match message:
        case SystemMessage():
            return [_line("system", message.text)]
        case UserMessage():
            return [_line("feedback" if message.feedback else "user", message.text)]
        case ToolMessage():
            outcome = "" if message.outcome == "value" else f" ({message.outcome})"
            said = f"{names.get(message.tool_call_id, '?')} -> {message.text}{outcome}"
            return [_line("tool", said)]
        case AssistantMessage():
            return _answer_lines(message)


def _answer_lines(message: AssistantMessage) -> list[str]:
    lines = [_line("assistant", message.text)] if message.text or not message.tool_calls else []
    lines += [_line("assistant", "calls " + call_text(call)) for call in message.tool_calls]
    if message.finish_reason not in (None, "stop", "tool_calls"):
        lines.append(_line("", f"(ended: {message.finish_reason})"))
    return lines


def _line(who: str, said: str) -> str:
    text = " ".join(said.split())
    if len(text) > LINE_CHARACTERS:
        text = text[: LINE_CHARACTERS - 1] + "…"
    return f"{who:<10} {text}".rstrip()


def _written_calls(message: Message) -> Sequence[ToolCall]:
    return message.tool_calls if isinstance(message, AssistantMessage) else ()


Run = RunResult[Any] | Conversation | Iterable[Message]
"""The result of a run, a conversation, or its messages."""


@dataclass(frozen=True, slots=True)
class _MadeCall:
    """A call that was made: the place of its answer, and its own within it."""

    place: int
    call: ToolCall


_NOT_GIVEN: Any = object()


def expect(run: Run) -> "Expectation":
    """Return an expectation of a run: of its result, its conversation or its messages.

        expect(result).called("weather", city="Oslo").then_answered("It is 12 degrees.")

    Each step raises `AssertionError` with the run as a transcript, or returns the next expectation.
    """
    return Expectation(run)


class Expectation:
    """Checks of what a run did, each after a place in the run."""

    def __init__(self, run: Run) -> None:
        self._result = run if isinstance(run, RunResult) else None
        given = run.messages if isinstance(run, RunResult | Conversation) else run
        self._messages: Sequence[Message] = messages_of(given, function="expect")
        self._made = _calls(self._messages)
        self._seen = -1  # the place of the last named call among the calls

    def called(self, name: str, /, **arguments: object) -> Self:
        """Expect a call of the tool with at least these arguments, anywhere in the run.

        Accepts any object that is equal to the right value, such as `pytest.approx(...)`.
        """
        return self._called(name, arguments, 0, "")

    def then_called(self, name: str, /, **arguments: object) -> Self:
        """As `called`, after the last named call."""
        return self._called(name, arguments, self._seen + 1, " after that")

    def not_called(self, name: str, /) -> Self:
        """Expect no call of the tool."""
        return self.called_times(name, 0)

    def called_times(self, name: str, times: int, /) -> Self:
        """Expect this number of calls of the tool."""
        made = sum(each.call.name == name for each in self._made)
        return self._hold(made == times, f"expected {_times(times)} of {name}, not {made}")

    def with_result(self, content: object) -> Self:
        """Expect this result of the last named call: its text, or a value written as JSON."""
        return self._result_of("value", content)

    def with_error(self, containing: str = "") -> Self:
        """Expect the last named call to fail with an error that contains these words."""
        call, message = self._last_named()
        holds = message is not None and message.is_error and containing in message.text
        words = f" that contains {containing!r}" if containing else ""
        return self._hold(holds, f"expected {call_text(call)} to fail with an error{words}")

    def answered(self, value: object = _NOT_GIVEN, *, containing: str = "", like: str = "") -> Self:
        """Expect the run to end with an answer: this text or value, these words in it, or this pattern."""
        answer = self._answer()
        if value is not _NOT_GIVEN:
            return self._hold(answer == value, f"expected the answer {value!r}, not {answer!r}")
        text = answer if isinstance(answer, str) else repr(answer)
        self._hold(containing in text, f"expected an answer with {containing!r}, not {text!r}")
        found = re.search(like, text) is not None
        return self._hold(found, f"expected an answer like {like!r}, not {text!r}")

    def then_answered(
        self, value: object = _NOT_GIVEN, *, containing: str = "", like: str = ""
    ) -> Self:
        """As `answered`, after the last named call."""
        last = self._messages[-1] if self._messages else None
        is_after = self._seen < 0 or self._made[self._seen].place < len(self._messages) - 1
        holds = is_after and (isinstance(last, AssistantMessage) or self._result is not None)
        self._hold(holds, "expected an answer after that call")
        return self.answered(value, containing=containing, like=like)

    def finished(self) -> Self:
        """Expect the run to have finished."""
        return self._ended(Status.FINISHED, "")

    def stopped_at(self, limit: str) -> Self:
        """Expect the run to have stopped at this limit."""
        return self._ended(Status.LIMIT_REACHED, limit)

    def suspended_on(self, *names: str) -> Self:
        """Expect the run to wait for results or approvals of calls of these tools."""
        open_calls = Conversation(self._messages).open_calls if not self._result else ()
        waiting = sorted(c.name for c in (self._result.open_calls if self._result else open_calls))
        said = f"expected the run to wait for {_listed(names)}, not for {_listed(waiting)}"
        return self._hold(sorted(names) == waiting, said)

    # - how -

    def _called(self, name: str, arguments: dict[str, Any], start: int, when: str) -> Self:
        for place in range(start, len(self._made)):
            call = self._made[place].call
            if call.name == name and _fits(call, arguments):
                self._seen = place
                return self
        named = [made.call for made in self._made[start:] if made.call.name == name]
        wanted = f"{name}({arguments_text(arguments)})"
        if not named:
            others = dict.fromkeys(made.call.name for made in self._made[start:])
            said = f"; called were {_listed(list(others))}" if others else "; no tool was"
            return self._fail(f"expected a call {wanted}{when}{said}")
        nearest = max(named, key=lambda call: _equal(call, arguments))
        return self._fail(f"expected a call {wanted}{when}; the nearest is {call_text(nearest)}")

    def _result_of(self, outcome: str, content: object) -> Self:
        call, message = self._last_named()
        said = "nothing" if message is None else repr(message.text)
        holds = message is not None and message.outcome == outcome and _is(message.text, content)
        return self._hold(holds, f"expected {call_text(call)} to return {content!r}, not {said}")

    def _last_named(self) -> tuple[ToolCall, ToolMessage | None]:
        if self._seen < 0:
            raise TypeError("name a call first: expect(run).called(name).with_result(...)")
        place, call = self._made[self._seen].place, self._made[self._seen].call
        # After it: an earlier answer may have had a call of the same id.
        results = (m for m in self._messages[place:] if isinstance(m, ToolMessage))
        return call, next((m for m in results if m.tool_call_id == call.id), None)

    def _answer(self) -> object:
        if self._result is not None:
            try:
                return self._result.output
            except RunNotFinished as error:
                return self._fail(f"expected an answer: {error}")
        last = self._messages[-1] if self._messages else None
        if isinstance(last, AssistantMessage) and not last.tool_calls:
            return last.text
        return self._fail("expected an answer, and there is none")

    def _ended(self, status: Status, limit: str) -> Self:
        if self._result is None:
            raise TypeError("only a RunResult knows how a run ended; pass it to expect()")
        wanted = f"{status}{f' ({limit})' if limit else ''}"
        was = f"{self._result.status}{f' ({self._result.limit})' if self._result.limit else ''}"
        holds = self._result.status is status and (not limit or self._result.limit == limit)
        return self._hold(holds, f"expected the run to be {wanted}, and it is {was}")

    def _hold(self, holds: bool, sentence: str) -> Self:  # noqa: FBT001  (what is claimed)
        return self if holds else self._fail(sentence)

    def _fail(self, sentence: str) -> Self:
        status = f"\n{self._result.status}" if self._result else ""
        limit = f" ({self._result.limit})" if self._result and self._result.limit else ""
        shown = transcript(self._messages)
        raise AssertionError(f"{sentence}\nThe run:\n{shown}{status}{limit}")


def _calls(messages: Sequence[Message]) -> list[_MadeCall]:
    return [
        _MadeCall(place, call)
        for place, message in enumerate(messages)
        if isinstance(message, AssistantMessage)
        for call in message.tool_calls
    ]


def _fits(call: ToolCall, wanted: dict[str, Any]) -> bool:
    return _equal(call, wanted) == len(wanted)


def _equal(call: ToolCall, wanted: dict[str, Any]) -> int:
    given = call_arguments(call) or {}
    return sum(name in given and bool(given[name] == value) for name, value in wanted.items())


def _is(text: str, content: object) -> bool:
    if isinstance(content, str):
        return text == content
    try:
        return bool(json.loads(text) == content)
    except ValueError:
        return bool(text == content)


def _times(number: int) -> str:
    return {0: "no call", 1: "one call"}.get(number, f"{number} calls")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "nothing"
