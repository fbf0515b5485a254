"""Gather the pieces of one answer into one `AssistantMessage`.

Servers deviate from OpenAI's documentation. The rules here decide which call a piece belongs to and
whether a value is set, appended or merged by its `index`. Each deviation is recorded as a `Quirk`.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import msgspec

from pathors_agent.json_text import whole_characters, write_json
from pathors_agent.messages import AssistantMessage, JSONValue, ToolCall, Usage, unused_call_id
from pathors_agent.wire.deltas import (
    BoundPassed,
    CallBuilder,
    Delta,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
)
from pathors_agent.wire.partial_json import PartialJSON

# An answer with more calls or choices is a fault of the server.
MAX_CALLS = 128
MAX_CHOICES = 128
# Arguments that begin with more blank pieces count as begun, so that the check is not quadratic.
_LEADING_BLANKS = 8

# What a piece takes beside its characters: a short string and its place in a list.
PART_BYTES = 64
# A dict with a few fields, here and again in the message; a list with the index of its items.
_DICT_BYTES = 512
_LIST_BYTES = 320

# Unknown strings that name something: chunks may repeat them, and the last value counts.
SET_FIELDS = frozenset(
    {
        *("channel", "encoding", "format", "id", "media_type", "mime_type", "model", "name"),
        *("object", "provider", "role", "status", "type"),
    }
)
# Unknown strings that are known to arrive in pieces, so that two equal pieces are joined too.
JOINED_FIELDS = frozenset(
    {
        *("arguments", "content", "data", "reasoning", "reasoning_text", "summary", "text"),
        *("thinking", "transcript"),
    }
)
# Lists whose items come in pieces without an `index`, one after another: those of LiteLLM for
# Anthropic, and of OpenRouter.
CONTINUED_LISTS = frozenset({"reasoning_details", "thinking_blocks"})
# These fields end such an item.
_LAST_FIELDS = ("data", "signature")


class Quirk(msgspec.Struct, frozen=True, gc=False):
    """A deviation of the server that the reader tolerated; `kind` is a stable name."""

    kind: str
    detail: str = ""


_NO_CALLS: Mapping[int, CallBuilder] = MappingProxyType({})


class MessageBuilder:
    """One choice of an answer while its pieces arrive.

    `turn` derives the ids of calls that arrive without an id or with a duplicate id. They are equal
    on every replay, and consist of nine letters and digits, which every server accepts.
    """

    __slots__ = (
        "_call_extras",
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
        # Allocated lazily: empty containers would take 400 bytes of each open stream.
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
        """The first half of a surrogate pair, until its second half arrives."""
        self._call_extras: dict[int, Fields] | None = None  # by the position of the call
        self._legacy: CallBuilder | None = None
        self.gathered = 0
        """An estimate of the bytes held, without arguments and texts from `_counted` on."""
        self._counted = 0

    def size(self) -> int:
        """Return an estimate of the bytes held, in time linear in the new pieces."""
        self.gathered += sum(map(len, self.text[self._counted :]))
        self._counted = len(self.text)
        parts = len(self.text) + len(self.reasoning or ()) + len(self.refusal or ())
        parts += sum(len(call.parts) for call in self.calls)
        return self.gathered + sum(call.size() for call in self.calls) + parts * PART_BYTES

    def largest_call(self) -> int:
        """Return the number of characters of the longest arguments."""
        return max((call.size() for call in self.calls), default=0)

    def note(self, kind: str, detail: str = "") -> None:
        """Record a quirk, once per kind."""
        if self.quirks is None:
            self.quirks = {}
        self.quirks.setdefault(kind, Quirk(kind, detail))

    # - text and unknown fields

    def add_text(self, text: str, deltas: list[Delta]) -> None:
        """Append text; hold back the first half of a surrogate pair until the second arrives."""
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
        """Keep an unknown field; merge it with the values of earlier chunks unless it is whole."""
        if self.extra is None:
            self.extra = Fields()
        if whole:
            self.gathered += len(write_json(value))
            self.extra[name] = value
        else:
            self.gathered += self.extra.add(name, value)

    # - calls

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
        """Add a piece of a tool call to the call it belongs to, or open a new call."""
        call = self._call_of_piece(index, id, name, arguments)
        if not call.id:
            call.id = id
        if call.name and name and name != call.name:
            self.note("split_name", "a function name came in pieces")
        if extra:
            self._call_extras = self._call_extras or {}
            fields = self._call_extras.setdefault(call.position, Fields())
            self.gathered += fields.add_all(extra)
        call.add(name, arguments)
        deltas.append(ToolCallDelta(arguments, call))

    def add_legacy_call(self, name: str, arguments: str, deltas: list[Delta]) -> None:
        """Add a piece of `function_call`, the predecessor of `tool_calls`.

        Servers that send both say the same call twice.
        """
        if self.calls and self._legacy is None:
            self.note("function_call", "function_call beside tool_calls was left out")
            return
        self.note("function_call", "function_call was read as a tool call")
        call = self._legacy or self._open(None)
        self._legacy = call
        call.add(name, arguments)
        deltas.append(ToolCallDelta(arguments, call))

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
            if known is not None:  # the server returns to an earlier call
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

    # - the message

    def finish(self, deltas: list[Delta]) -> None:
        """Flush the pending half of a surrogate pair."""
        self.half = ""
        self.text.append("\ufffd")
        deltas.append(TextDelta("\ufffd"))

    def message(self) -> AssistantMessage:
        """Return the message so far."""
        return AssistantMessage(
            content=_joined(self.text) if self.text else None,
            tool_calls=self._tool_calls() if self.calls else (),
            reasoning=_joined(self.reasoning) if self.reasoning else None,
            refusal=_joined(self.refusal) if self.refusal else None,
            finish_reason=self.finish_reason and whole_characters(self.finish_reason),
            usage=self.usage,
            model=self.model and whole_characters(self.model),
            id=self.id and whole_characters(self.id),
            extra=self.extra.merged(self.note) if self.extra else {},
        )

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
            extra = (self._call_extras or {}).get(call.position)
            calls.append(
                ToolCall(
                    id=call_id,
                    name=whole_characters(call.name),
                    arguments=whole_characters("".join(call.parts)),
                    extra=extra.merged(self.note) if extra else {},
                )
            )
        return tuple(calls)


def _joined(pieces: list[str]) -> str | None:
    """Return a text of pieces, or None if it is empty."""
    return whole_characters("".join(pieces)) or None


def _begins_call(call: CallBuilder, id: str, name: str, arguments: str) -> bool:  # noqa: A002
    """Return True if a piece begins another call at the index of `call`.

    Servers that use one index for all calls send the id and the name of a call with its first
    piece. A name without an id may be the next piece of a split name, or a repetition of the name.
    """
    if not name or not call.name:
        return False
    if id and id == call.id:
        return False
    has_arguments = any(part.strip() for part in call.parts[:_LEADING_BLANKS])
    # No name goes on after the arguments have begun, and a whole object ends them.
    is_over = has_arguments and (name != call.name or call.is_whole)
    if id and call.id:
        return is_over or not has_arguments
    if not arguments.lstrip().startswith("{"):
        return False
    return is_over or (name != call.name and _is_whole_object(arguments))


def _is_whole_object(text: str) -> bool:
    parser = PartialJSON()
    parser.feed(text)
    return parser.is_whole_object


# - Unknown fields. Pieces of a string stay a list until the end, so that the time is linear.

Note = Callable[[str, str], None]
"""Records the kind and the detail of a quirk."""


class Fields(dict[str, "Node"]):
    """The unknown fields of an object while their pieces arrive."""

    def add_all(self, values: Mapping[str, JSONValue]) -> int:
        """Merge the fields of one chunk; return an estimate of the additional bytes held."""
        return sum([self.add(name, value) for name, value in values.items()])

    def add(self, name: str, value: JSONValue) -> int:
        """Merge one chunk's value of a field; return an estimate of the additional bytes held.

        Strings are joined, lists extended and objects merged; any other value replaces the last.
        """
        kept = self.get(name)
        size = 0 if name in self else len(name) + PART_BYTES
        match value:
            case None:
                self.setdefault(name, None)
            case str() if name not in SET_FIELDS:
                if not isinstance(kept, _Text):
                    kept = self[name] = _Text()
                kept.parts.append(value)
                size += len(value) + PART_BYTES
            case str():
                self[name] = value
                size += len(value)
            case list():
                if not isinstance(kept, _List):
                    kept = self[name] = _List(goes_on=name in CONTINUED_LISTS)
                    size += _LIST_BYTES
                size += sum(map(kept.add, value))
            case dict():
                if not isinstance(kept, Fields):
                    kept = self[name] = Fields()
                    size += _DICT_BYTES
                size += kept.add_all(value)
            case bool() | int() | float():
                self[name] = value
        return size

    def merged(self, note: Note) -> dict[str, JSONValue]:
        """Return the fields as JSON values; report guesses to `note`."""
        values = {name: _merged(name, node, note) for name, node in self.items()}
        merged: dict[str, JSONValue] = msgspec.json.decode(write_json(values))
        return merged


class _Text:
    """A string in pieces."""

    __slots__ = ("parts",)

    def __init__(self) -> None:
        self.parts: list[str] = []

    def merged(self, name: str, note: Note, *, is_indexed: bool) -> str:
        parts = list(filter(None, self.parts))
        if len(parts) < 2 or name in JOINED_FIELDS:
            return "".join(parts)
        if all(part == parts[0] for part in parts):
            note("repeated_field", f"{name!r} came several times with one value, and was kept once")
            return parts[0]
        if not is_indexed:
            note("field_in_pieces", f"{name!r} came with several values, which were joined")
        return "".join(parts)


class _List:
    """A list that grows from chunk to chunk; items with an `index` are merged by it.

    Items with the same index are different items if their `type` or `id` differ. With `goes_on`, an
    item without an index goes on with the last one, until a signature or data has ended that.
    """

    __slots__ = ("_by_key", "_goes_on", "_latest", "items")

    def __init__(self, *, goes_on: bool = False) -> None:
        self.items: list[Node] = []
        self._goes_on = goes_on
        self._by_key: dict[tuple[object, ...], Fields] = {}
        self._latest: dict[int, Fields] = {}

    def add(self, item: JSONValue) -> int:
        """Add an item; return an estimate of the additional bytes held."""
        if not isinstance(item, dict) or type(index := item.get("index")) is not int:
            return self._add_unnumbered(item)
        key = (index, _word(item.get("type")), _word(item.get("id")))
        entry = self._by_key.get(key)
        size = 0
        if entry is None:
            entry = self._latest.get(index)
            if entry is None or not _is_same(entry, key):
                entry = Fields()
                self.items.append(entry)
                size = _DICT_BYTES
            self._by_key[key] = entry
            size += _DICT_BYTES
        self._latest[index] = entry
        return size + entry.add_all(item)

    def _add_unnumbered(self, item: JSONValue) -> int:
        if not self._goes_on or not isinstance(item, dict):
            self.items.append(item)
            return len(write_json(item)) + _DICT_BYTES
        last = self.items[-1] if self.items else None
        key = (None, _word(item.get("type")), _word(item.get("id")))
        is_over = isinstance(last, Fields) and any(last.get(name) for name in _LAST_FIELDS)
        if isinstance(last, Fields) and not is_over and "data" not in item and _is_same(last, key):
            return last.add_all(item)
        self.items.append(entry := Fields())
        return _DICT_BYTES + entry.add_all(item)


Node = JSONValue | _Text | _List | Fields
"""A value while its pieces arrive."""


def _merged(name: str, node: Node, note: Note, *, is_indexed: bool = False) -> JSONValue:
    match node:
        case _Text():
            return node.merged(name, note, is_indexed=is_indexed)
        case _List():
            return [_merged(name, item, note, is_indexed=True) for item in node.items]
        case Fields():
            return {k: _merged(k, v, note, is_indexed=is_indexed) for k, v in node.items()}
        case _:
            return node


def _word(value: JSONValue) -> str | None:
    return value if isinstance(value, str) else None


def _is_same(entry: Fields, key: tuple[object, ...]) -> bool:
    """Return False if the type or the id of an entry and of a piece differ."""
    known = zip((entry.get("type"), entry.get("id")), key[1:], strict=True)
    return all(mine is None or other is None or mine == other for mine, other in known)
