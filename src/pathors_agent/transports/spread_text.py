"""Read and mask texts that a stream spreads over several events: deltas of one field. Pure.

Each line of a body that holds JSON, with or without `data:` before it, is an event. The strings that
stand at one path in all events are the pieces of one text.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

Path = tuple[str | int, ...]

_PREFIX = b"data:"


@dataclass(slots=True)
class _EventLine:
    """A line: where it stands in the body, and its JSON."""

    start: int
    end: int
    value: Any
    is_changed: bool = False


@dataclass(slots=True)
class _SpreadText:
    """The strings of one path: where each is kept, and its bytes."""

    places: list[tuple[_EventLine, Any, Any]] = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)


def spread_texts(body: bytes) -> Iterator[bytes]:
    """Yield each text of a body, joined over its events."""
    _, texts = _read(body)
    return (b"".join(text.pieces) for text in texts)


def masked_spread_texts(
    pieces: Sequence[bytes], mask: Callable[[bytes], bytes]
) -> list[bytes] | None:
    """Return the pieces of a body with what `mask` masks in joined texts, or None without changes.

    Only events that change are written anew; the pieces are cut at the same places of all others.
    """
    body = b"".join(pieces)
    events, texts = _read(body)
    for text in texts:
        _mask(text, mask)
    changed = [event for event in events if event.is_changed]
    if not changed:
        return None
    return list(_cut(pieces, body, changed))


def _read(body: bytes) -> tuple[list[_EventLine], list[_SpreadText]]:
    events, start = [], 0
    texts: dict[Path, _SpreadText] = {}
    for line in body.splitlines(keepends=True):
        begin = start + (len(_PREFIX) if line.startswith(_PREFIX) else 0)
        end = start + len(line.rstrip(b"\r\n"))
        start += len(line)
        try:
            value = json.loads(body[begin:end])
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict | list):
            event = _EventLine(begin, end, value)
            events.append(event)
            _gather(event, value, (), texts)
    return events, list(texts.values())


def _gather(event: _EventLine, value: Any, path: Path, texts: dict[Path, _SpreadText]) -> None:
    """Add the strings in a value to the texts of their paths."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        # A delta says by `index` to which item of a list it belongs.
        step = item["index"] if isinstance(value, list) and _has_index(item) else key
        if isinstance(item, str):
            text = texts.setdefault((*path, step), _SpreadText())
            text.places.append((event, value, key))
            text.pieces.append(item.encode(errors="surrogatepass"))
        elif isinstance(item, dict | list):
            _gather(event, item, (*path, step), texts)


def _has_index(item: Any) -> bool:
    return isinstance(item, dict) and isinstance(item.get("index"), int)


def _mask(text: _SpreadText, mask: Callable[[bytes], bytes]) -> None:
    whole = b"".join(text.pieces)
    masked = mask(whole)
    if masked == whole:
        return
    start = 0
    for (event, owner, key), piece in zip(text.places, text.pieces, strict=True):
        part = masked[start : start + len(piece)]
        start += len(piece)
        if part != piece:
            owner[key] = part.decode(errors="replace")
            event.is_changed = True


def _cut(pieces: Sequence[bytes], body: bytes, changed: Sequence[_EventLine]) -> Iterator[bytes]:
    """Write the changed events into the body, and cut it into the pieces again."""
    position = 0
    for piece in pieces:
        end = position + len(piece)
        written, at = b"", position
        for event in changed:
            if event.end <= position or event.start >= end:
                continue
            new = json.dumps(event.value, ensure_ascii=False, separators=(",", ":"))
            line = new.encode(errors="replace")
            first, last = event.start >= position, event.end <= end
            # A piece that ends inside of the event takes as much of the new one.
            line_start = 0 if first else min(position - event.start, len(line))
            line_end = len(line) if last else min(end - event.start, len(line))
            written += body[at : max(at, event.start)] + line[line_start:line_end]
            at = min(event.end, end)
        yield written + body[at:end]
        position = end
