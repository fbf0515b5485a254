"""The deltas that a stream yields, and the tool calls that they belong to while these arrive."""

import msgspec

from pathors_agent.messages import JSONValue, ToolCall
from pathors_agent.wire.partial_json import PartialJSON

# OpenAI allows 64; the bound is for names that come in pieces.
MAX_NAME_CHARACTERS = 1024


class BoundPassed(ValueError):
    """An answer exceeds one of the reader's bounds, which the text names."""


class TextDelta(msgspec.Struct, frozen=True, gc=False):
    """A piece of the answer's text."""

    text: str

    def __repr__(self) -> str:
        return f"TextDelta(<{len(self.text)} chars>)"


class ReasoningDelta(msgspec.Struct, frozen=True, gc=False):
    """A piece of the model's reasoning, if the provider shows it."""

    text: str

    def __repr__(self) -> str:
        return f"ReasoningDelta(<{len(self.text)} chars>)"


class ToolCallDelta(msgspec.Struct, frozen=True, gc=False):
    """The next piece of a tool call's arguments, and the call as far as it is known."""

    arguments: str
    call: "CallBuilder"

    @property
    def index(self) -> int:
        """The position of the call in the message."""
        return self.call.position

    @property
    def id(self) -> str:
        """The call's id; may be empty, and may change, until the message is complete."""
        return self.call.id

    @property
    def name(self) -> str:
        """The tool's name, as far as it has arrived."""
        return self.call.name

    @property
    def partial(self) -> JSONValue:
        """The arguments so far as a value, for display only: parsed lazily, in linear time.

        Contains unfinished strings as far as they go, and no unfinished numbers. None until a value
        begins. The containers continue to grow: copy what you keep.
        """
        return self.call.partial

    def __repr__(self) -> str:
        return (
            f"ToolCallDelta(index={self.index}, id={self.id!r}, name={self.name!r}, "
            f"arguments=<{len(self.arguments)} chars>)"
        )


class ToolProgressDelta(msgspec.Struct, frozen=True):
    """A value that a tool reports while it runs: a generator yields it before its result."""

    call: ToolCall
    value: object

    def __repr__(self) -> str:
        return f"ToolProgressDelta(call={self.call!r}, value=<{type(self.value).__name__}>)"


Delta = TextDelta | ReasoningDelta | ToolCallDelta | ToolProgressDelta
"""What a stream yields beside messages; never part of the history."""


class CallBuilder:
    """One tool call while its pieces arrive."""

    __slots__ = ("_counted", "_parsed", "_parser", "_size", "id", "name", "parts", "position")

    def __init__(self, position: int) -> None:
        self.position = position
        self.id = ""
        self.name = ""
        self.parts: list[str] = []
        self._parser: PartialJSON | None = None
        self._parsed = 0
        self._size = 0
        self._counted = 0

    def size(self) -> int:
        """Return the number of characters of the arguments, in time linear in the new pieces."""
        self._size += sum(map(len, self.parts[self._counted :]))
        self._counted = len(self.parts)
        return self._size

    def add(self, name: str, arguments: str) -> None:
        """Append a piece of the arguments, and of the name unless it repeats the name."""
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
