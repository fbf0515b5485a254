"""Merge unknown fields of a message over the chunks that bring them.

A field keeps what its pieces hold until the message is made: strings as lists of pieces, so that a
long one costs time linear in its length.
"""

from collections.abc import Callable, Mapping

import msgspec

from pathors_agent.json_text import write_json
from pathors_agent.messages import JSONValue

# What a held piece takes beside its characters: a short string and its place in a list.
PART_BYTES = 64
# A dict with a few fields, here and again in the message; a list with what finds its items.
_DICT_BYTES = 512
_LIST_BYTES = 320

# Strings that name something: each chunk may repeat them, and the last one counts.
SET_FIELDS = frozenset(
    {
        "channel",
        "encoding",
        "format",
        "id",
        "media_type",
        "mime_type",
        "model",
        "name",
        "object",
        "provider",
        "role",
        "status",
        "type",
    }
)
# Strings that are known to come in pieces, so that two equal pieces are still two.
JOINED_FIELDS = frozenset(
    {
        "arguments",
        "content",
        "data",
        "reasoning",
        "summary",
        "text",
        "thinking",
        "transcript",
    }
)

Note = Callable[[str, str], None]
"""Takes the kind and the detail of a quirk."""


class _Text:
    """A string in pieces."""

    __slots__ = ("parts",)

    def __init__(self) -> None:
        self.parts: list[str] = []

    def settled(self, name: str, note: Note, *, is_indexed: bool) -> str:
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

    Items of one index are told apart by their `type` and `id`, where both items have them.
    """

    __slots__ = ("_by_key", "_latest", "items")

    def __init__(self) -> None:
        self.items: list[Node] = []
        self._by_key: dict[tuple[object, ...], Fields] = {}
        self._latest: dict[int, Fields] = {}

    def add(self, item: JSONValue) -> int:
        """Add an item; return about how many bytes are held for it."""
        if not isinstance(item, dict) or type(index := item.get("index")) is not int:
            self.items.append(item)
            return len(write_json(item)) + _DICT_BYTES
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


class Fields(dict[str, "Node"]):
    """The fields of an object while their pieces arrive."""

    def add_all(self, values: Mapping[str, JSONValue]) -> int:
        """Merge the values that one chunk has; return about how many bytes more are held."""
        return sum([self.add(name, value) for name, value in values.items()])

    def add(self, name: str, value: JSONValue) -> int:
        """Merge one chunk's value of a field; return about how many bytes more are held.

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
                    kept = self[name] = _List()
                    size += _LIST_BYTES
                size += sum(map(kept.add, value))
            case dict():
                if not isinstance(kept, Fields):
                    kept = self[name] = Fields()
                    size += _DICT_BYTES
                size += kept.add_all(value)
            case _:
                self[name] = value
        return size

    def settled(self, note: Note) -> dict[str, JSONValue]:
        """Return the fields as JSON values; `note` takes what had to be guessed."""
        values = {name: _settled(name, node, note) for name, node in self.items()}
        settled: dict[str, JSONValue] = msgspec.json.decode(write_json(values))
        return settled


Node = JSONValue | _Text | _List | Fields
"""A value while its pieces arrive."""


def _settled(name: str, node: Node, note: Note, *, is_indexed: bool = False) -> JSONValue:
    match node:
        case _Text():
            return node.settled(name, note, is_indexed=is_indexed)
        case _List():
            return [_settled(name, item, note, is_indexed=True) for item in node.items]
        case Fields():
            return {k: _settled(k, v, note, is_indexed=is_indexed) for k, v in node.items()}
        case _:
            return node


def _word(value: JSONValue) -> str | None:
    return value if isinstance(value, str) else None


def _is_same(entry: Fields, key: tuple[object, ...]) -> bool:
    """Return False if the type or the id of an entry and of a piece differ."""
    known = zip((entry.get("type"), entry.get("id")), key[1:], strict=True)
    return all(mine is None or other is None or mine == other for mine, other in known)
