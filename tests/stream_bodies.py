"""Bodies of streams, cut in each way, and what a reader yields of them."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import pytest
from hypothesis import strategies as st

from pathors_agent.errors import TransportError
from pathors_agent.json_text import whole_characters
from pathors_agent.messages import AssistantMessage
from pathors_agent.wire.deltas import Delta, ReasoningDelta, TextDelta, ToolCallDelta
from pathors_agent.wire.response_stream import ResponseStream

DONE = b"data: [DONE]\n\n"


def event(value: object) -> bytes:
    """Write a value as an event of a stream."""
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


def chunk(
    delta: Mapping[str, object], *, finish_reason: str | None = None, index: int = 0
) -> bytes:
    """Write a chunk of a stream with one choice."""
    choice = {"index": index, "delta": delta, "finish_reason": finish_reason}
    return event({"id": "chat-1", "model": "demo", "choices": [choice]})


def text(content: str) -> bytes:
    """Write a chunk with text."""
    return chunk({"content": content})


def call(index: int, arguments: str, *, id: str = "", name: str = "") -> bytes:  # noqa: A002
    """Write a chunk with a piece of a tool call."""
    function = {"name": name, "arguments": arguments}
    piece = {"index": index, "id": id, "type": "function", "function": function}
    return chunk({"tool_calls": [piece]})


def end(finish_reason: str = "stop") -> bytes:
    """Write the last chunk of a choice, and the end of the stream."""
    return chunk({}, finish_reason=finish_reason) + DONE


OPENING = chunk({"role": "assistant", "content": ""})
# The first three events are read for the answer's id; the fast lanes begin after them.
HEAD = OPENING * 3


def whole(body: bytes) -> list[bytes]:
    """Cut a body into one piece."""
    return [body]


def bytewise(body: bytes) -> list[bytes]:
    """Cut a body into single bytes."""
    return [body[i : i + 1] for i in range(len(body))]


def by_events(body: bytes) -> list[bytes]:
    """Cut a body into its events."""
    return re.findall(rb".*?\n\n|.+", body, re.DOTALL)


CUTS = pytest.mark.parametrize("cut", [whole, bytewise, by_events])
Cut = Callable[[bytes], list[bytes]]


def read(pieces: Iterable[bytes]) -> tuple[ResponseStream, list[Delta]]:
    """Feed every piece; return the stream, closed, and all its deltas."""
    stream = ResponseStream()
    return stream, feed(stream, pieces)


def feed(stream: ResponseStream, pieces: Iterable[bytes]) -> list[Delta]:
    """Feed all pieces to a stream and close it; return the deltas."""
    deltas: list[Delta] = []
    for piece in pieces:
        deltas += stream.feed(piece)
    return deltas + stream.close()


def message_of(body: bytes, cut: Cut = whole) -> AssistantMessage:
    """Read the message of a body."""
    return read(cut(body))[0].finish()


@dataclass(frozen=True)
class Outcome:
    """All that a caller sees of an answer; byte counts, which depend on the cut, left out."""

    message: AssistantMessage | None
    choices: Mapping[int, AssistantMessage]
    error: tuple[str, str] | None
    text: str
    reasoning: str
    arguments: Mapping[int, str]
    quirks: list[str]


def outcome(pieces: Iterable[bytes]) -> Outcome:
    """Read a body; return what came of it, without positions in errors."""
    stream, deltas = read(pieces)
    message, error = None, None
    try:
        message = stream.finish()
    except TransportError as raised:
        message = getattr(raised, "partial", None)
        error = (type(raised).__name__, re.sub(r"(first|after) \d+ bytes", "bytes", str(raised)))
    return Outcome(
        message=message,
        choices=stream.choices,
        error=error,
        text="".join(d.text for d in deltas if isinstance(d, TextDelta)),
        reasoning="".join(d.text for d in deltas if isinstance(d, ReasoningDelta)),
        arguments=joined_arguments(deltas),
        quirks=sorted(quirk.kind for quirk in stream.quirks),
    )


def joined_arguments(deltas: Iterable[Delta]) -> dict[int, str]:
    """Join the pieces of arguments, by the index of their call."""
    joined: dict[int, str] = {}
    for delta in deltas:
        if isinstance(delta, ToolCallDelta):
            joined[delta.index] = joined.get(delta.index, "") + delta.arguments
    return {index: whole_characters(arguments) for index, arguments in joined.items()}


def cut_at(body: bytes, places: Iterable[int]) -> list[bytes]:
    """Cut a body at these places."""
    marks = sorted({place % (len(body) + 1) for place in places})
    starts, ends = [0, *marks], [*marks, len(body)]
    return [body[start:stop] for start, stop in zip(starts, ends, strict=True)]


places = st.lists(st.integers(0, 10_000), max_size=12)
