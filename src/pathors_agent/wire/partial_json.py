"""Parse a JSON text while it arrives, in time linear in its length.

For display only: the arguments of a tool come from one strict parse of the whole text.
"""

import re
from collections.abc import Callable
from typing import Any

from pathors_agent.messages import JSONValue

# Deeper than any known arguments; Python's own parser stops near 1,000.
MAX_DEPTH = 200

_SPACE = " \t\n\r"
_NOT_PLAIN = re.compile(r'["\\\x00-\x1f]')
_NOT_NUMBER = re.compile(r"[^-+.0-9a-zA-Z]")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_HEX = re.compile(r"[0-9a-fA-F]{4}")
_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_UNICODE_ESCAPE_LENGTH = 6  # \uXXXX
# By first letter. A number only ends at the next token; `true`, `false` and `null` end by themselves.
_WORDS: dict[str, tuple[str, JSONValue]] = {
    "t": ("true", True),
    "f": ("false", False),
    "n": ("null", None),
}
_LAST = -1

_State = Callable[["PartialJSON", str, int], int]


class PartialJSON:
    """A push parser: feed the text in pieces, and read `value` in between.

    `value` contains unfinished strings as far as they go, and omits unfinished numbers and literals,
    and members without a value. It does not change after invalid text. It is the growing value
    itself, not a copy.
    """

    __slots__ = (
        "_after",
        "_escape",
        "_high",
        "_key",
        "_pieces",
        "_root",
        "_stack",
        "_state",
        "_string",
        "_top",
        "_word",
        "_word_rest",
    )

    def __init__(self) -> None:
        self._root: list[JSONValue] = []  # contains the value once it has begun
        # The innermost open container, and the current place in it: a dict and a key, or a list and
        # `_LAST`. `_after` is the state after a value there.
        self._top: Any = self._root
        self._key: Any = _LAST
        self._after: _State = PartialJSON._after_end
        self._stack: list[
            tuple[Any, Any, _State]
        ] = []  # the same three values of the outer containers
        # `_in_string` or `_in_key`: the state after an escape sequence.
        self._string: _State = PartialJSON._in_string
        self._escape = ""  # an unfinished escape sequence
        self._high = ""  # the first half of a surrogate pair
        self._pieces: list[str] = []  # of an unfinished key or number
        self._word: JSONValue = None  # the value of the unfinished literal
        self._word_rest = ""  # its remaining letters
        self._state: _State = PartialJSON._before_value

    def feed(self, text: str) -> None:
        """Parse the next piece of the text."""
        at = 0
        end = len(text)
        while at < end:
            at = self._state(self, text, at)

    @property
    def value(self) -> JSONValue:
        """The value so far; None until it begins."""
        return self._root[0] if self._root else None

    @property
    def is_whole_object(self) -> bool:
        """Whether the text so far is one JSON object, perhaps with space around it."""
        return self._state is PartialJSON._after_end and isinstance(self.value, dict)

    # A state is a function of the text and a position that returns the next position. States are plain
    # functions: bound methods would form a cycle, which keeps the value until a garbage collection.
    # Characters are read one by one: for the one or two characters between values, that takes half
    # the time of a regular expression.

    def _before_value(self, text: str, at: int) -> int:
        match text[at]:
            case '"':
                self._put("")
                self._state = self._string = PartialJSON._in_string
            case " " | "\n" | "\t" | "\r":
                pass
            case "{":
                self._open({}, PartialJSON._before_first_key, PartialJSON._after_member)
            case "[":
                self._open([], PartialJSON._before_first_item, PartialJSON._after_item)
            case "t" | "f" | "n":
                self._word_rest, self._word = _WORDS[text[at]]
                self._state = PartialJSON._in_word
                return self._in_word(text, at)
            case _:
                self._state = PartialJSON._in_number
                return self._in_number(text, at)
        return at + 1

    def _before_first_item(self, text: str, at: int) -> int:
        if text[at] in _SPACE:
            return at + 1
        if text[at] == "]":
            return self._close(at)
        self._state = PartialJSON._before_value
        return at

    def _before_first_key(self, text: str, at: int) -> int:
        if text[at] == "}":
            return self._close(at)
        return self._before_key(text, at)

    def _before_key(self, text: str, at: int) -> int:
        if text[at] == '"':
            self._state = self._string = PartialJSON._in_key
        elif text[at] not in _SPACE:
            self._state = PartialJSON._after_error
        return at + 1

    def _before_colon(self, text: str, at: int) -> int:
        if text[at] == ":":
            self._state = PartialJSON._before_value
        elif text[at] not in _SPACE:
            self._state = PartialJSON._after_error
        return at + 1

    def _after_member(self, text: str, at: int) -> int:
        if text[at] == ",":
            self._state = PartialJSON._before_key
        elif text[at] == "}":
            return self._close(at)
        elif text[at] not in _SPACE:
            self._state = PartialJSON._after_error
        return at + 1

    def _after_item(self, text: str, at: int) -> int:
        if text[at] == ",":
            self._state = PartialJSON._before_value
        elif text[at] == "]":
            return self._close(at)
        elif text[at] not in _SPACE:
            self._state = PartialJSON._after_error
        return at + 1

    def _after_end(self, text: str, at: int) -> int:
        if text[at:].strip(_SPACE):
            self._state = PartialJSON._after_error
        return len(text)

    def _after_error(self, text: str, at: int) -> int:
        return len(text)

    # - Strings

    def _in_string(self, text: str, at: int) -> int:
        special = _NOT_PLAIN.search(text, at)
        stop = special.start() if special else len(text)
        if stop > at:
            # Without the reference in the container there is only one, so that CPython extends the
            # string in place: the time for a long string is linear, not quadratic.
            top, key = self._top, self._key
            string = top[key]
            top[key] = None
            string += text[at:stop]
            top[key] = string
        if special is None:
            return stop
        if text[stop] == '"':
            self._state = self._after
            return stop + 1
        return self._at_special(text, stop)

    def _in_key(self, text: str, at: int) -> int:
        special = _NOT_PLAIN.search(text, at)
        stop = special.start() if special else len(text)
        self._pieces.append(text[at:stop])
        if special is None:
            return stop
        if text[stop] == '"':
            self._key = "".join(self._pieces)
            self._pieces = []
            self._state = PartialJSON._before_colon
            return stop + 1
        return self._at_special(text, stop)

    def _at_special(self, text: str, at: int) -> int:
        """Read a backslash; a raw control character is invalid JSON."""
        if text[at] == "\\":
            self._escape = "\\"
            self._state = PartialJSON._in_escape
        else:
            self._state = PartialJSON._after_error
        return at + 1

    def _in_escape(self, text: str, at: int) -> int:
        self._escape += text[at]
        if self._escape[1] == "u":
            if len(self._escape) == _UNICODE_ESCAPE_LENGTH:
                self._end_unicode_escape(self._escape[2:])
        elif self._escape[1] in _ESCAPES:
            self._state = self._string
            self._grow(_ESCAPES[self._escape[1]])
        else:
            self._state = PartialJSON._after_error
        return at + 1

    def _end_unicode_escape(self, digits: str) -> None:
        if not _HEX.fullmatch(digits):
            self._state = PartialJSON._after_error
            return
        self._state = self._string
        unit = chr(int(digits, 16))
        if "\udc00" <= unit <= "\udfff" and self._high:
            pair = (self._high + unit).encode("utf-16", "surrogatepass").decode("utf-16")
            self._high = ""
            self._grow(pair)
        elif "\ud800" <= unit <= "\udbff":
            self._grow("")
            self._high = unit
            self._state = PartialJSON._after_high
        else:
            self._grow("\ufffd" if "\udc00" <= unit <= "\udfff" else unit)

    def _after_high(self, text: str, at: int) -> int:
        """Read the second half of a surrogate pair, or replace the first half."""
        if text[at] == "\\":
            return self._at_special(text, at)
        self._grow("")
        self._state = self._string
        return at

    def _grow(self, piece: str) -> None:
        """Append the characters of an escape sequence to the string or key."""
        if self._high:
            self._high = ""
            piece = "\ufffd" + piece
        if self._string is PartialJSON._in_key:
            self._pieces.append(piece)
            return
        string = self._top[self._key]
        self._top[self._key] = None  # see _in_string
        string += piece
        self._top[self._key] = string

    # - Literals and numbers

    def _in_word(self, text: str, at: int) -> int:
        rest = self._word_rest
        letters = text[at : at + len(rest)]
        if not rest.startswith(letters):
            self._state = PartialJSON._after_error
        elif letters == rest:
            self._put(self._word)
            self._state = self._after
        else:
            self._word_rest = rest[len(letters) :]
        return at + len(letters)

    def _in_number(self, text: str, at: int) -> int:
        end = _NOT_NUMBER.search(text, at)
        stop = end.start() if end else len(text)
        self._pieces.append(text[at:stop])
        if end:
            self._end_number("".join(self._pieces))
        return stop

    def _end_number(self, number: str) -> None:
        self._pieces = []
        try:
            self._put(_read_number(number))
        except ValueError:
            self._state = PartialJSON._after_error
        else:
            self._state = self._after

    # - Containers

    def _open(
        self, container: dict[str, JSONValue] | list[JSONValue], first: _State, after: _State
    ) -> None:
        if len(self._stack) >= MAX_DEPTH:
            self._state = PartialJSON._after_error
            return
        self._put(container)
        self._stack.append((self._top, self._key, self._after))
        self._top, self._key, self._after = container, _LAST, after
        self._state = first

    def _close(self, at: int) -> int:
        self._top, self._key, self._after = self._stack.pop()
        self._state = self._after
        return at + 1

    def _put(self, value: JSONValue) -> None:
        """Add a value at the current place."""
        if self._key is _LAST:
            self._top.append(value)
        else:
            self._top[self._key] = value


def _read_number(text: str) -> JSONValue:
    """Return the value of a number; raise `ValueError` for other texts."""
    number = _NUMBER.fullmatch(text)
    if number is None:
        raise ValueError("not JSON")
    # int() raises for numbers of thousands of digits, as Python's JSON parser does.
    return float(text) if number.lastindex else int(text)
