"""Gather the pieces of one answer into one `AssistantMessage`.

What servers really send is less tidy than OpenAI's documentation: the rules here say which call a
piece belongs to and what is set or appended. Whatever had to be mended is noted as a `Quirk`.
"""

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from pathors_agent.json_text import whole_characters, write_json
from pathors_agent.messages import AssistantMessage, JSONValue, ToolCall, Usage, unused_call_id
from pathors_agent.wire.field_pieces import PART_BYTES, Fields
from pathors_agent.wire.partial_json import PartialJSON

# One answer with more calls, or choices, than this is a flood, not a plan.
MAX_CALLS = 128
MAX_CHOICES = 128
# OpenAI allows 64; a name that comes in pieces must not grow for ever.
MAX_NAME_CHARACTERS = 1024
# Arguments that begin with more blank pieces than this count as begun, so that nothing is quadratic.
_LEADING_BLANKS = 8


class Quirk(msgspec.Struct, frozen=True, gc=False):
    """Something a server sent that had to be read around; `kind` is a stable word."""

    kind: str
    detail: str = ""


class TextDelta(msgspec.Struct, frozen=True, gc=False):
    """A piece of the answer's text."""

    text: str

    def __repr__(self) -> str:
        return f"TextDelta(<{len(self.text)} chars>)"


class ReasoningDelta(msgspec.Struct, frozen=True, gc=False):
    """A piece of the model's reasoning, where the provider shows it."""

    text: str

    def __repr__(self) -> str:
        return f"ReasoningDelta(<{len(self.text)} chars>)"


class ToolCallDelta(msgspec.Struct, frozen=True, gc=False):
    """The next piece of a tool call's arguments, and the call as far as it is known."""

    arguments: str
    call: "CallBuilder"

    @property
    def index(self) -> int:
        """The place of the call in the message."""
        return self.call.position

    @property
    def id(self) -> str:
        """The call's id; may be empty, and may change, until the message is complete."""
        return self.call.id

    @property
    def name(self) -> str:
        """The tool's name, as far as it has come."""
        return self.call.name

    @property
    def partial(self) -> JSONValue:
        """The arguments so far as a value, for display only: parsed when asked, in linear time.

        Strings that have not ended are given as far as they go; numbers that have not ended are
        left out. None while there is no value. The containers go on growing: copy what you keep.
        """
        return self.call.partial

    def __repr__(self) -> str:
        return (
            f"ToolCallDelta(index={self.index}, id={self.id!r}, name={self.name!r}, "
            f"arguments=<{len(self.arguments)} chars>)"
        )


class ToolProgressDelta(msgspec.Struct, frozen=True):
    """What a tool that is an async generator said before its last value, which is its result."""

    call: ToolCall
    value: object

    def __repr__(self) -> str:
        return f"ToolProgressDelta(call={self.call!r}, value=<{type(self.value).__name__}>)"


Delta = TextDelta | ReasoningDelta | ToolCallDelta | ToolProgressDelta
"""What a stream yields beside messages; never history."""


class BoundPassed(ValueError):
    """An answer holds more of something than it may; the text says what and which bound."""


class CallBuilder:
    """One tool call while its pieces arrive."""

    __slots__ = (
        "_counted",
        "_parsed",
        "_parser",
        "_size",
        "extra",
        "id",
        "name",
        "parts",
        "position",
    )

    def __init__(self, position: int) -> None:
        self.position = position
        self.id = ""
        self.name = ""
        self.parts: list[str] = []
        self.extra: Fields | None = None
        self._parser: PartialJSON | None = None
        self._parsed = 0
        self._size = 0
        self._counted = 0

    def size(self) -> int:
        """How many characters the arguments have, in time linear in what is new."""
        self._size += sum(map(len, self.parts[self._counted :]))
        self._counted = len(self.parts)
        return self._size

    def add(self, name: str, arguments: str) -> None:
        """Append a piece of the arguments, and of the name where it is not the name again."""
        if name and name != self.name:
            self.name += name
            if len(self.name) > MAX_NAME_CHARACTERS:
                raise BoundPassed(
                    f"the name of call {self.position} is longer than {MAX_NAME_CHARACTERS} "
                    "characters (MAX_NAME_CHARACTERS)"
                )
        if arguments:
            self.parts.append(arguments)

    @property
    def partial(self) -> JSONValue:
        """The arguments so far as a value."""
        return self._read().value

    @property
    def is_whole(self) -> bool:
        """Whether the arguments so far are one whole JSON object."""
        return self._read().is_whole_object

    def _read(self) -> PartialJSON:
        if self._parser is None:
            self._parser = PartialJSON()
        for part in self.parts[self._parsed :]:
            self._parser.feed(part)
        self._parsed = len(self.parts)
        return self._parser


_NO_CALLS: Mapping[int, CallBuilder] = MappingProxyType({})


class MessageBuilder:
    """One choice of an answer while its pieces arrive.

    `turn` makes the ids of calls that came without one, or with one already taken: they are equal
    on every replay, and nine letters and digits, which every server takes.
    """

    __slots__ = (
        "_counted",
        "_legacy",
        "by_index",
        "calls",
        "extra",
        "finish_reason",
        "gathered",
        "half",
        "id",
        "model",
        "quirks",
        "reasoning",
        "refusal",
        "session_id",
        "text",
        "turn",
        "usage",
    )

    def __init__(self, turn: int = 0) -> None:
        self.turn = turn
        self.text: list[str] = []
        # Most stay empty in most answers, and would take 400 bytes of each open stream.
        self.reasoning: list[str] | None = None
        self.refusal: list[str] | None = None
        self.calls: tuple[CallBuilder, ...] = ()
        self.by_index = _NO_CALLS
        self.finish_reason: str | None = None
        self.usage: Usage | None = None
        self.id: str | None = None
        self.model: str | None = None
        self.session_id: str | None = None
        self.extra: Fields | None = None
        self.quirks: dict[str, Quirk] | None = None
        self.half = ""
        """The first half of a surrogate pair, while it waits for its second."""
        self._legacy: CallBuilder | None = None
        self.gathered = 0
        """About how many bytes are held, but for arguments and for texts from `_counted` on."""
        self._counted = 0

    def size(self) -> int:
        """About how many bytes were gathered, in time linear in what is new since it was asked."""
        self.gathered += sum(map(len, self.text[self._counted :]))
        self._counted = len(self.text)
        parts = len(self.text) + len(self.reasoning or ()) + len(self.refusal or ())
        parts += sum(len(call.parts) for call in self.calls)
        return self.gathered + sum(call.size() for call in self.calls) + parts * PART_BYTES

    def largest_call(self) -> int:
        """How many characters the longest arguments have."""
        return max((call.size() for call in self.calls), default=0)

    def note(self, kind: str, detail: str = "") -> None:
        """Remember that something had to be read around; once per kind."""
        if self.quirks is None:
            self.quirks = {}
        self.quirks.setdefault(kind, Quirk(kind, detail))

    def add_text(self, text: str, deltas: list[Delta]) -> None:
        """Append text; the first half of a surrogate pair waits for the second."""
        text = self.half + text
        self.half = ""
        if text and "\ud800" <= text[-1] <= "\udbff":
            self.half, text = text[-1], text[:-1]
            self.note("split_surrogate_pair", "a character came in two chunks")
        if text:
            text = whole_characters(text)
            self.text.append(text)
            deltas.append(TextDelta(text))

    def add_reasoning(self, text: str, deltas: list[Delta]) -> None:
        """Append reasoning."""
        self.gathered += len(text)
        if self.reasoning is None:
            self.reasoning = []
        self.reasoning.append(text)
        deltas.append(ReasoningDelta(whole_characters(text)))

    def add_refusal(self, text: str) -> None:
        """Append to the refusal."""
        self.gathered += len(text)
        if self.refusal is None:
            self.refusal = []
        self.refusal.append(text)

    def keep(self, name: str, value: JSONValue, *, whole: bool = False) -> None:
        """Keep an unknown field, merged with what earlier chunks brought of it unless it is whole."""
        if self.extra is None:
            self.extra = Fields()
        if whole:
            self.gathered += len(write_json(value))
            self.extra[name] = value
        else:
            self.gathered += self.extra.add(name, value)

    def add_piece(
        self,
        deltas: list[Delta],
        *,
        index: int | None,
        id: str = "",  # noqa: A002  (OpenAI's name for the field)
        name: str = "",
        arguments: str = "",
        extra: dict[str, JSONValue] | None = None,
    ) -> None:
        """Add a piece of a tool call to the call it belongs to, or open a new one."""
        call = self._call_of_piece(index, id, name, arguments)
        if not call.id:
            call.id = id
        if call.name and name and name != call.name:
            self.note("split_name", "a function name came in pieces")
        if extra:
            call.extra = call.extra or Fields()
            self.gathered += call.extra.add_all(extra)
        call.add(name, arguments)
        deltas.append(ToolCallDelta(arguments, call))

    def add_legacy_call(self, name: str, arguments: str, deltas: list[Delta]) -> None:
        """Add a piece of the `function_call` that came before `tool_calls`."""
        self.note("function_call", "function_call was read as a tool call")
        call = self._legacy or self._open(None)
        self._legacy = call
        call.add(name, arguments)
        deltas.append(ToolCallDelta(arguments, call))

    def finish(self, deltas: list[Delta]) -> None:
        """Give out what waited for a piece that did not come."""
        if self.half:
            self.half = ""
            self.text.append("\ufffd")
            deltas.append(TextDelta("\ufffd"))

    def message(self) -> AssistantMessage:
        """The message so far."""
        return AssistantMessage(
            content=whole_characters("".join(self.text)) or None,
            tool_calls=self._tool_calls(),
            reasoning=whole_characters("".join(self.reasoning or ())) or None,
            refusal=whole_characters("".join(self.refusal or ())) or None,
            finish_reason=self.finish_reason and whole_characters(self.finish_reason),
            usage=self.usage,
            model=self.model and whole_characters(self.model),
            id=self.id and whole_characters(self.id),
            extra=self.extra.settled(self.note) if self.extra else {},
        )

    def _call_of_piece(
        self,
        index: int | None,
        id: str,  # noqa: A002
        name: str,
        arguments: str,
    ) -> CallBuilder:
        if index is None:
            self.note("missing_index", "a piece of a tool call came without its index")
            return self._call_without_index(id, name)
        call = self.by_index.get(index)
        if call is None:
            return self._open(index)
        if id and call.id and id != call.id:
            known = next((other for other in self.calls if other.id == id), None)
            if known is not None:  # the server goes back to a call that it began before
                self.by_index = {**self.by_index, index: known}
                return known
        if _begins_call(call, id, name, arguments):
            self.note("shared_index", f"index {index} was used for several calls")
            return self._open(index)
        return call

    def _call_without_index(self, id: str, name: str) -> CallBuilder:  # noqa: A002
        if id:
            known = (call for call in self.calls if call.id == id)
            return next(known, None) or self._open(None)
        if not self.calls:
            return self._open(None)
        last = self.calls[-1]
        if name and (name != last.name or last.is_whole):
            return self._open(None)
        return last

    def _open(self, index: int | None) -> CallBuilder:
        if len(self.calls) >= MAX_CALLS:
            raise BoundPassed(f"more than {MAX_CALLS} tool calls in one answer (MAX_CALLS)")
        call = CallBuilder(len(self.calls))
        self.calls = (*self.calls, call)
        if index is not None:
            self.by_index = {**self.by_index, index: call}
        return call

    def _tool_calls(self) -> tuple[ToolCall, ...]:
        taken: set[str] = set()
        calls = []
        for call in self.calls:
            call_id = whole_characters(call.id)
            if not call_id or call_id in taken:
                kind = "shared_id" if call_id else "missing_id"
                call_id = unused_call_id(self.turn, call.position, taken)
                self.note(kind, f"call {call.position} was given the id {call_id}")
            taken.add(call_id)
            calls.append(
                ToolCall(
                    id=call_id,
                    name=whole_characters(call.name),
                    arguments=whole_characters("".join(call.parts)),
                    extra=call.extra.settled(self.note) if call.extra else {},
                )
            )
        return tuple(calls)


def _begins_call(call: CallBuilder, id: str, name: str, arguments: str) -> bool:  # noqa: A002
    """Return True if a piece begins another call at the index of `call`.

    Servers that use one index for all calls send the id and the name of a call with its first
    piece. A name without an id may be the next piece of a split name, or the same name again.
    """
    if not name or not call.name:
        return False
    has_arguments = any(part.strip() for part in call.parts[:_LEADING_BLANKS])
    if id and call.id:
        return id != call.id and (call.is_whole or not has_arguments)
    if not arguments.lstrip().startswith("{"):
        return False
    if has_arguments:
        return call.is_whole  # text after a whole object is no part of it
    return name != call.name and _is_whole_object(arguments)


def _is_whole_object(text: str) -> bool:
    parser = PartialJSON()
    parser.feed(text)
    return parser.is_whole_object
