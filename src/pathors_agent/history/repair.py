"""Repair histories that `Conversation` refuses. Pure.

Results are put behind their calls. Doubles, and results of no call, are left out. A call without a
result is closed when another message follows; the calls at the end stay open, so that a run goes on
with them. Arguments that are not a JSON object become `{}`, as the writer of requests sends them.
"""

from collections import deque
from collections.abc import Container, Iterator, Mapping
from itertools import pairwise
from typing import NamedTuple

from pathors_agent.core.batch import quoted
from pathors_agent.core.conversation import Conversation, inner_conversation
from pathors_agent.errors import ConversationError
from pathors_agent.json_text import is_json_object
from pathors_agent.messages import AssistantMessage, Message, ToolCall, ToolMessage, unused_call_id

_NO_RESULT = "its result is missing from the history"
_NOT_RUN = "Not run: the arguments of the call were not a JSON object."


_Placed = tuple[int, Message]
"""A message, and its index in the source."""


class _Slot(NamedTuple):
    """The place of a call: the position of its message, and its place among the message's calls."""

    position: int
    place: int


class HistoryRepair:
    """Collects the messages of a source, and changes them to a legal history."""

    def __init__(self) -> None:
        self._placed: list[_Placed] = []
        self._changes: list[tuple[int, str]] = []
        self._broken: set[str] = set()  # the ids of calls whose arguments were replaced

    @property
    def report(self) -> list[str]:
        """The changes, in the order of the source."""
        return [text for _, text in sorted(self._changes, key=lambda change: change[0])]

    def note(self, index: int, text: str, path: str = "") -> None:
        """Report a change of a message, or of the part of it at `path`."""
        self._changes.append((index, f"messages[{index}]{path}: {text}"))

    def add(self, index: int, message: Message) -> None:
        """Add the next message of the source."""
        if isinstance(message, AssistantMessage) and message.tool_calls:
            calls = tuple(
                self._with_object(index, place, call)
                for place, call in enumerate(message.tool_calls)
            )
            if calls != message.tool_calls:
                message = message.model_copy(update={"tool_calls": calls})
        elif isinstance(message, ToolMessage) and message.outcome == "suspended":
            message = self._with_run(index, message)
        self._placed.append((index, message))

    def messages(self) -> list[Message]:
        """Return the messages as a legal history, changed only where needed."""
        messages = [message for _, message in self._placed]
        try:
            conversation = Conversation(messages)
        except ConversationError:
            self._placed = list(self._without_repeats())
            conversation = self._in_order(self._results())
            messages = list(conversation.messages)
        if self._broken.isdisjoint(call.id for call in conversation.open_calls):
            return messages
        last = next(i for i, message in reversed(self._placed) if not _is_result(message))
        self._close(conversation, last, only=self._broken)
        return list(conversation.messages)

    def _with_object(self, index: int, place: int, call: ToolCall) -> ToolCall:
        if not call.arguments.strip() or is_json_object(call.arguments):
            return call
        path = f".tool_calls[{place}].arguments"
        self.note(index, "are not a JSON object; replaced by {}", path)
        self._broken.add(call.id)
        return call.model_copy(update={"arguments": "{}"})

    def _with_run(self, index: int, message: ToolMessage) -> ToolMessage:
        try:
            inner_conversation(message)
        except ConversationError:
            self.note(
                index, "is suspended without the messages of its agent; now unknown", ".outcome"
            )
            return message.model_copy(update={"outcome": "unknown"})
        return message

    # - repeated calls

    def _without_repeats(self) -> Iterator[_Placed]:
        """Yield the messages, without calls that repeat one of the same message, or open ones."""
        waiting: dict[str, _Placed] = {}  # by call id
        last = {
            message.tool_call_id: index
            for index, message in self._placed
            if isinstance(message, ToolMessage)
        }
        for placed in self._placed:
            index, message = placed
            if isinstance(message, ToolMessage):
                waiting.pop(message.tool_call_id, None)
                if message.outcome == "suspended" and last[message.tool_call_id] != index:
                    self.note(index, "its call has a later result; left out")
                    continue
            if not isinstance(message, AssistantMessage) or not message.tool_calls:
                yield placed
                continue
            kept = self._without_equal_calls(index, message)
            earlier = waiting.get(message.tool_calls[0].id)
            if earlier is not None and earlier[1] == kept:
                self.note(index, f"repeats the open calls of messages[{earlier[0]}]; left out")
                continue
            waiting |= {call.id: (index, kept) for call in message.tool_calls}
            yield index, kept

    def _without_equal_calls(self, index: int, message: AssistantMessage) -> AssistantMessage:
        known: dict[str, ToolCall] = {}
        calls = []
        for place, call in enumerate(message.tool_calls):
            if known.get(call.id) == call:
                self.note(index, "repeats another call; left out", f".tool_calls[{place}]")
            else:
                known.setdefault(call.id, call)
                calls.append(call)
        if len(calls) == len(message.tool_calls):
            return message
        return message.model_copy(update={"tool_calls": tuple(calls)})

    # - results

    def _results(self) -> dict[_Slot, int]:
        """Return the position of each call's result, and report the results that are left out.

        A result belongs to the last call before it that has its id and no result yet. A result
        before all such calls belongs to the first call after it that has none.
        """
        results: dict[_Slot, int] = {}
        free: dict[str, deque[_Slot]] = {}  # the calls without a result, by id
        early: list[tuple[int, int, str]] = []
        for position, (index, message) in enumerate(self._placed):
            for place, call in reversed(list(enumerate(_calls(message)))):
                free.setdefault(call.id, deque()).append(_Slot(position, place))
            if not isinstance(message, ToolMessage):
                continue
            call_id = message.tool_call_id
            slots = free.get(call_id)
            if slots:
                results[slots.pop()] = position
            elif slots is None:
                early.append((position, index, call_id))
            else:
                self.note(index, f"a second result of call {quoted(call_id)}; left out")
        for position, index, call_id in early:
            if slots := free.get(call_id):
                results[slots.popleft()] = position
            else:
                self.note(index, f"a result of no open call ({quoted(call_id)}); left out")
        return results

    def _in_order(self, results: Mapping[_Slot, int]) -> Conversation:
        """Build the conversation: results behind their calls, and earlier open calls closed."""
        conversation = Conversation()
        taken = {call.id for _, message in self._placed for call in _calls(message)}
        last = -1
        others = [i for i, (_, message) in enumerate(self._placed) if not _is_result(message)]
        for position, after in pairwise([*others, len(self._placed)]):
            index, message = self._placed[position]
            self._close(conversation, last)
            last = index
            message = self._with_distinct_ids(index, message, conversation.turns, taken)
            conversation.append(message)
            behind = range(position, after)
            for place, call in enumerate(_calls(message)):
                found = results.get(_Slot(position, place))
                if found is not None:
                    conversation.append(self._result(found, call, is_moved=found not in behind))
        return conversation

    def _with_distinct_ids(
        self, index: int, message: Message, turn: int, taken: set[str]
    ) -> Message:
        calls: dict[str, ToolCall] = {}
        for place, call in enumerate(_calls(message)):
            call_id = call.id
            if call_id in calls:
                call_id = unused_call_id(turn, place, taken)
                taken.add(call_id)
                path = f".tool_calls[{place}].id"
                self.note(index, f"{quoted(call.id)} occurs twice; now {call_id!r}", path)
            calls[call_id] = call.model_copy(update={"id": call_id})
        if tuple(calls.values()) == _calls(message):
            return message
        return message.model_copy(update={"tool_calls": tuple(calls.values())})

    def _result(self, found: int, call: ToolCall, *, is_moved: bool) -> ToolMessage:
        """Return the result at a position, as the result of a call."""
        index, message = self._placed[found]
        assert isinstance(message, ToolMessage)  # `_results` has found it
        if is_moved:
            self.note(index, f"moved to its call {quoted(call.id)}")
        if message.tool_call_id == call.id:
            return message
        self.note(index, f"now names the call {call.id!r}", ".tool_call_id")
        return message.model_copy(update={"tool_call_id": call.id})

    def _close(
        self, conversation: Conversation, index: int, only: Container[str] | None = None
    ) -> None:
        """Close the open calls of the message at an index, or those of them with some ids."""
        is_open = {call.id for call in conversation.open_calls}
        for place, call in enumerate(conversation.calls):
            if call.id not in is_open or (only is not None and call.id not in only):
                continue
            self.note(index, "has no result; added one", f".tool_calls[{place}]")
            if call.id in self._broken:
                result = ToolMessage(tool_call_id=call.id, content=_NOT_RUN, outcome="not_run")
                conversation.append(result)
        if only is None:
            conversation.close_open_calls(_NO_RESULT)


def _calls(message: Message) -> tuple[ToolCall, ...]:
    return message.tool_calls if isinstance(message, AssistantMessage) else ()


def _is_result(message: Message) -> bool:
    return isinstance(message, ToolMessage)
