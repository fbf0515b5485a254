"""The value so far of a JSON text that is still arriving, in time linear in its length.

For display only: nothing here decides what a tool is given. Final arguments come from one strict
parse of the whole text.
"""

import json
import re
from collections.abc import Callable

from pathors_agent.messages import JSONValue

# Deeper than any arguments seen; Python's own parser stops near 1,000.
MAX_DEPTH = 200

_NOT_SPACE = re.compile(r"[^ \t\n\r]")
_PLAIN = re.compile(r'[^"\\\x00-\x1f]*')
_SCALAR = re.compile(r"[-+.0-9a-zA-Z]*")
_HEX = re.compile(r"[0-9a-fA-F]{4}")
_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_UNICODE_ESCAPE_LENGTH = 6  # \uXXXX
_WORDS = frozenset({"true", "false", "null"})  # unlike a number, a word says when it ends
_WORD_PIECES = 6  # one more piece than the longest word has characters


class PartialJSON:
    """A push parser: feed the text in pieces, read `value` in between.

    Strings that have not ended are given as far as they go; numbers and words that have not ended
    are left out, as are members without a value. After text that is no JSON, `value` stays as it
    was before it. `value` is the growing value itself, not a copy.
    """

    __slots__ = ("_escape", "_high", "_in_key", "_key", "_scalar", "_stack", "_state", "value")

    def __init__(self) -> None:
        self.value: JSONValue = None
        self._stack: list[dict[str, JSONValue] | list[JSONValue]] = []
        self._key = ""
        self._in_key = False
        self._escape = ""  # an escape sequence that has not ended
        self._high = ""  # the first half of a surrogate pair
        self._scalar: list[str] = []  # pieces of a number or word that has not ended
        self._state: Callable[[str, int], int] = self._before_value

    def feed(self, text: str) -> None:
        """Take the next piece of the text."""
        at = 0
        end = len(text)
        while at < end:
            at = self._state(text, at)

    @property
    def is_whole_object(self) -> bool:
        """Whether the text so far is one JSON object, with nothing but space around it."""
        return self._state == self._after_end and isinstance(self.value, dict)

    # Each state takes the text and a place in it, and gives the place it has read to.

    def _before_value(self, text: str, at: int) -> int:
        match = _NOT_SPACE.search(text, at)
        if match is None:
            return len(text)
        at = match.end()
        match match[0]:
            case '"':
                self._put("")
                self._state = self._in_string
            case "{":
                self._open({}, self._before_first_key)
            case "[":
                self._open([], self._before_first_item)
            case _:
                self._state = self._in_scalar
                return at - 1
        return at

    def _before_first_item(self, text: str, at: int) -> int:
        match = _NOT_SPACE.search(text, at)
        if match is None:
            return len(text)
        if match[0] == "]":
            self._close()
            return match.end()
        self._state = self._before_value
        return match.start()

    def _before_first_key(self, text: str, at: int) -> int:
        return self._key_or_end(text, at, may_end=True)

    def _before_key(self, text: str, at: int) -> int:
        return self._key_or_end(text, at, may_end=False)

    def _key_or_end(self, text: str, at: int, *, may_end: bool) -> int:
        match = _NOT_SPACE.search(text, at)
        if match is None:
            return len(text)
        if match[0] == '"':
            self._key = ""
            self._in_key = True
            self._state = self._in_string
        elif match[0] == "}" and may_end:
            self._close()
        else:
            self._state = self._after_error
        return match.end()

    def _before_colon(self, text: str, at: int) -> int:
        match = _NOT_SPACE.search(text, at)
        if match is None:
            return len(text)
        self._state = self._before_value if match[0] == ":" else self._after_error
        return match.end()

    def _after_value(self, text: str, at: int) -> int:
        match = _NOT_SPACE.search(text, at)
        if match is None:
            return len(text)
        in_object = isinstance(self._stack[-1], dict)
        if match[0] == ",":
            self._state = self._before_key if in_object else self._before_value
        elif match[0] == ("}" if in_object else "]"):
            self._close()
        else:
            self._state = self._after_error
        return match.end()

    def _after_end(self, text: str, at: int) -> int:
        if _NOT_SPACE.search(text, at):
            self._state = self._after_error
        return len(text)

    def _after_error(self, text: str, at: int) -> int:
        return len(text)

    def _in_string(self, text: str, at: int) -> int:
        if self._escape:
            return self._in_escape(text, at)
        match = _PLAIN.match(text, at)
        stop = match.end() if match else at
        if stop > at:
            self._grow(text[at:stop])
        if stop == len(text):
            return stop
        match text[stop]:
            case '"':
                self._end_string()
            case "\\":
                self._escape = "\\"
            case _:
                self._state = self._after_error  # a raw control character
        return stop + 1

    def _in_escape(self, text: str, at: int) -> int:
        self._escape += text[at]
        if self._escape[1] == "u":
            if len(self._escape) == _UNICODE_ESCAPE_LENGTH:
                self._end_unicode_escape(self._escape[2:])
        elif self._escape[1] in _ESCAPES:
            self._grow(_ESCAPES[self._escape[1]])
            self._escape = ""
        else:
            self._state = self._after_error
        return at + 1

    def _end_unicode_escape(self, digits: str) -> None:
        self._escape = ""
        if not _HEX.fullmatch(digits):
            self._state = self._after_error
            return
        unit = chr(int(digits, 16))
        if "\udc00" <= unit <= "\udfff" and self._high:
            pair = (self._high + unit).encode("utf-16", "surrogatepass").decode("utf-16")
            self._high = ""
            self._grow(pair)
        elif "\ud800" <= unit <= "\udbff":
            self._grow("")
            self._high = unit
        else:
            self._grow("\ufffd" if "\udc00" <= unit <= "\udfff" else unit)

    def _grow(self, piece: str) -> None:
        if self._high:
            self._high = ""
            piece = "\ufffd" + piece
        if self._in_key:
            self._key += piece
            return
        # Taking the string out of its place leaves one reference to it, and CPython then extends
        # it where it lies: a long string costs its length, not the square of it.
        if not self._stack:
            string = self.value
            self.value = None
        elif isinstance(top := self._stack[-1], dict):
            string = top[self._key]
            top[self._key] = None
        else:
            string = top[-1]
            top[-1] = None
        assert isinstance(string, str)
        string += piece
        self._replace(string)

    def _end_string(self) -> None:
        self._grow("")
        if self._in_key:
            self._in_key = False
            self._state = self._before_colon
        else:
            self._end_value()

    def _in_scalar(self, text: str, at: int) -> int:
        match = _SCALAR.match(text, at)
        stop = match.end() if match else at
        self._scalar.append(text[at:stop])
        if stop < len(text) or "".join(self._scalar[:_WORD_PIECES]) in _WORDS:
            self._end_scalar()
        return stop

    def _end_scalar(self) -> None:
        scalar = "".join(self._scalar)
        self._scalar = []
        try:
            value = json.loads(scalar, parse_constant=_refuse_constant)
        except ValueError:
            self._state = self._after_error
            return
        self._put(value)
        self._end_value()

    def _open(
        self,
        container: dict[str, JSONValue] | list[JSONValue],
        state: Callable[[str, int], int],
    ) -> None:
        if len(self._stack) >= MAX_DEPTH:
            self._state = self._after_error
            return
        self._put(container)
        self._stack.append(container)
        self._state = state

    def _close(self) -> None:
        self._stack.pop()
        self._end_value()

    def _end_value(self) -> None:
        self._state = self._after_value if self._stack else self._after_end

    def _put(self, value: JSONValue) -> None:
        """Add a value where the text has come to."""
        if self._stack and isinstance(top := self._stack[-1], list):
            top.append(value)
        else:
            self._replace(value)

    def _replace(self, value: JSONValue) -> None:
        """Set the value where the text has come to."""
        if not self._stack:
            self.value = value
        elif isinstance(top := self._stack[-1], dict):
            top[self._key] = value
        else:
            top[-1] = value


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is not JSON")
