"""The tool calls of one answer, while some of them have no result."""

from collections.abc import Sequence
from enum import StrEnum
from reprlib import Repr
from typing import Self

from msgspec import Struct
from msgspec.structs import replace

from pathors_agent.messages import Outcome, ToolCall, ToolMessage


class CallState(StrEnum):
    """The state of an open call.

    - NOT_BEGUN: a run recorded the call and did not begin it.
    - BEGUN: a run began it, and stopped before its result.
    - HANDED_OUT: a call of a client tool, which only the caller can run.
    - UNKNOWN: no run observed it: the history was loaded, or appended by hand.
    """

    NOT_BEGUN = "not_begun"
    BEGUN = "begun"
    HANDED_OUT = "handed_out"
    UNKNOWN = "unknown"


# The outcome of a call that is closed without a result, and the text that the model reads.
_CLOSED: dict[CallState, tuple[Outcome, str]] = {
    CallState.NOT_BEGUN: ("not_run", "Not run: {reason}."),
    CallState.BEGUN: (
        "cancelled",
        "Interrupted: {reason}. The call had begun, and it is not known how far it came.",
    ),
    CallState.HANDED_OUT: ("cancelled", "Not answered: {reason}."),
    CallState.UNKNOWN: (
        "unknown",
        "Outcome unknown: {reason}. It is not known whether the call was carried out."
        " Find out before you repeat it, or tell the user.",
    ),
}


# Enough ids to act on; an error about ten thousand calls must stay short.
LISTED_IDS = 10

_QUOTE = Repr()
_QUOTE.maxstring = 70  # the longest ids of providers have 64 characters
quoted = _QUOTE.repr


class Batch(Struct):
    """The calls of an answer, and the results so far; a suspended call has a result and is open."""

    calls: tuple[ToolCall, ...]
    places: dict[str, int]  # call id -> index in call order
    results: dict[int, ToolMessage] = {}  # by index
    suspended: dict[int, ToolMessage] = {}  # by index, of open calls
    states: dict[str, CallState] = {}  # by call id, if known

    @property
    def open_places(self) -> Sequence[tuple[int, ToolCall]]:
        """The calls without a result, each with its index."""
        results, places = self.results, enumerate(self.calls)
        return [place for place in places if place[0] not in results] if results else [*places]

    def results_in_call_order(self) -> list[ToolMessage]:
        """Return the results so far, including those of suspended calls."""
        results = {**self.results, **self.suspended} if self.suspended else self.results
        return [results[place] for place in sorted(results)]

    def state(self, call: ToolCall) -> CallState:
        """Return the state of an open call."""
        return self.states.get(call.id, CallState.UNKNOWN)

    def suspended_result(self, call: ToolCall) -> ToolMessage | None:
        """Return the result of an open call that is suspended, or None for any other call."""
        return self.suspended.get(self.places.get(call.id, -1))

    def open_ids(self) -> str:
        """Return the ids of the open calls as text, or the first of them."""
        calls = self.open_places
        ids = ", ".join(quoted(call.id) for _, call in calls[:LISTED_IDS])
        return f"{ids} and {len(calls) - LISTED_IDS} more" if len(calls) > LISTED_IDS else ids

    def problem(self, message: ToolMessage) -> str:
        """Return why a result does not fit; empty if it does."""
        place = self.places.get(message.tool_call_id)
        if place is None:
            return "names no call of the last assistant message"
        return "is a second result for its call" if place in self.results else ""

    def take(self, message: ToolMessage) -> None:
        """Record the result of an open call."""
        place = self.places[message.tool_call_id]
        if message.outcome == "suspended":
            self.suspended[place] = message
            return
        suspended = self.suspended.pop(place, None)
        if suspended is not None and not message.extra:
            message = message.model_copy(update={"extra": suspended.extra})
        self.results[place] = message

    def closing(self, call: ToolCall, reason: str) -> ToolMessage:
        """Return the result of an open call that is closed without one."""
        state = CallState.BEGUN if self.suspended_result(call) else self.state(call)
        outcome, text = _CLOSED[state]
        content = text.format(reason=reason)
        return ToolMessage(tool_call_id=call.id, content=content, outcome=outcome)

    def copy(self) -> Self:
        """Return a copy that takes results of its own."""
        return replace(
            self,
            results=dict(self.results),
            suspended=dict(self.suspended),
            states=dict(self.states),
        )
