"""An answer to a client, and its bytes: one JSON completion, or the chunks of a stream."""

import re
from collections.abc import Iterator
from itertools import islice
from json.encoder import encode_basestring_ascii
from typing import Any

import msgspec

from pathors_agent.json_text import whole_characters, write_json
from pathors_agent.wire.completion_bytes import DONE, ChunkTemplate, answer_object, completion
from pathors_agent.wire.sse import encode_comment

# The finish reasons of the API; providers have other words for a normal end.
_FINISH_REASONS = ("stop", "length", "content_filter")


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """The fields that every chunk of an answer repeats; `created` is in Unix seconds."""

    id: str
    created: int
    model: str
    session_id: str

    def fields(self, kind: str) -> dict[str, object]:
        """Return the fields of a completion or a chunk of it; `kind` is the field `object`."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "session_id": self.session_id,
        }


class Activity(msgspec.Struct, frozen=True, omit_defaults=True):
    """An event about a tool. `text` and `reasoning` count the characters that precede it."""

    value: dict[str, Any]
    text: int = 0
    reasoning: int = 0


class TurnAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer, stored for repeats of its request.

    `activities` are the events about tools of a streamed answer, if the client asked for them.
    `rewound` is how many stored messages its turn replaced.
    """

    head: Head
    text: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    calls: list[dict[str, Any]] = []  # in the form of `write_call`
    function_call: dict[str, Any] | None = None
    finish_reason: str = "stop"
    usage: dict[str, Any] = {}
    activities: list[Activity] = []
    rewound: int = 0

    def __repr__(self) -> str:
        return f"Answer({self.head!r}, {self.finish_reason!r})"

    def dumped(self) -> str:
        """Return the answer as stored JSON."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def loaded(cls, text: str) -> "TurnAnswer":
        """Read an answer that `dumped` wrote."""
        return msgspec.json.decode(text, type=cls)

    def body(self) -> bytes:
        """Return the answer as one JSON completion."""
        message = answer_object(
            self.text,
            refusal=self.refusal,
            reasoning=self.reasoning,
            calls=self.calls,
            function_call=self.function_call,
        )
        return completion(
            self.head.fields("chat.completion"),
            message,
            finish_reason=self.finish_reason,
            usage=self.usage,
        )


def finish_reason(said: str | None) -> str:
    """Return the API's finish reason for a provider's."""
    return next((reason for reason in _FINISH_REASONS if reason == said), "stop")


class Position(msgspec.Struct, frozen=True):
    """How much of a streamed answer was sent: the id of its last event.

    It counts the characters of the text and of the reasoning, the events about tools, and the
    events after the text. The stored answer has all of them.
    """

    completion: str
    text: int = 0
    reasoning: int = 0
    activity: int = 0
    end: int = 0

    @classmethod
    def read(cls, event_id: str | None) -> "Position | None":
        """Return the position in an event's id; None for an id of another form."""
        match = _EVENT_ID.fullmatch(event_id or "")
        return match and cls(match[1], *map(int, match.groups()[1:]))


_EVENT_ID = re.compile(r"([\w-]{1,100}):(\d{1,12}):(\d{1,12}):(\d{1,12}):(\d{1,12})", re.ASCII)


class Chunks:
    """Writes the events of one streamed answer: each an id and a line of data, in ASCII.

    The text around a delta is the same in each chunk, and written once. With `after`, the events
    begin after that position.
    """

    def __init__(self, head: Head, *, include_usage: bool, after: Position | None = None) -> None:
        fields = head.fields("chat.completion.chunk")
        self._chunks = chunks = ChunkTemplate(fields, include_usage=include_usage, write=_json)
        self._before_text = f'data: {chunks.before}{{"content":'
        self._after_text = f"}}{chunks.after}\n\n"
        self._include_usage = include_usage
        at = after or Position(head.id)
        self._id = f"id: {head.id}:"
        self.text_sent, self.reasoning_sent = at.text, at.reasoning
        self.activities_sent, self._end_sent = at.activity, at.end
        self._number()

    def opening(self) -> bytes:
        """Return the first event, which holds the role."""
        return self._event(self._delta({"role": "assistant", "content": "", "refusal": None}))

    def text(self, text: str) -> bytes:
        """Return an event with a piece of the answer's text."""
        self.text_sent = sent = self.text_sent + len(text)
        quoted = encode_basestring_ascii(text if text.isascii() else whole_characters(text))
        return f"{self._id}{sent}{self._until_text}{quoted}{self._after_text}".encode()

    def reasoning(self, text: str) -> bytes:
        """Return an event with a piece of the model's reasoning."""
        self.reasoning_sent += len(text)
        self._number()
        return self._event(self._delta({"reasoning_content": text}))

    def activity(self, value: object) -> bytes:
        """Return an event about a tool of the project, with an empty delta."""
        self.activities_sent += 1
        self._number()
        chunk = f'{self._chunks.delta({})[:-1]},"tool_activity":{_json(value)}}}'
        return self._event(_line(chunk))

    def end(self, answer: TurnAnswer) -> Iterator[bytes]:
        """Yield the events after the text: refusal, calls, reason, counts, `[DONE]`."""
        for data in islice(self._ending(answer), self._end_sent, None):
            self._end_sent += 1
            self._number()
            yield self._event(data)

    def error(self, body: bytes, *, after: str | None = None) -> bytes:
        """Return an error as the last event; no `[DONE]` follows it.

        It has the id of the previous event, or the id `after`, because it adds nothing to the
        answer.
        """
        data = _line(_json(msgspec.json.decode(body)))
        return self._event(data) if after is None else f"id: {after}\n{data}".encode()

    def _ending(self, answer: TurnAnswer) -> Iterator[str]:
        if answer.refusal is not None:
            yield self._delta({"refusal": answer.refusal})
        for index, call in enumerate(answer.calls):
            yield self._delta({"tool_calls": [{"index": index, **call}]})
        if answer.function_call is not None:
            yield self._delta({"function_call": answer.function_call})
        yield _line(self._chunks.end(answer.finish_reason))
        if self._include_usage:
            yield _line(self._chunks.usage(answer.usage))
        yield DONE.decode()

    def _delta(self, delta: dict[str, object]) -> str:
        return _line(self._chunks.delta(delta))

    def _event(self, data: str) -> bytes:
        return f"{self._id}{self.text_sent}{self._counts}{data}".encode()

    def _number(self) -> None:
        """Write the counts that follow the count of the text in an id; they change less often."""
        self._counts = f":{self.reasoning_sent}:{self.activities_sent}:{self._end_sent}\n"
        self._until_text = self._counts + self._before_text


def _line(data: str) -> str:
    return f"data: {data}\n\n"


def _json(value: object) -> str:
    return ascii_json(write_json(value))


def ascii_json(data: bytes) -> str:
    """Write JSON bytes in ASCII, which every proxy and client decodes correctly."""
    if data.isascii():
        return data.decode()
    return "".join(c if c.isascii() else _quoted(c)[1:-1] for c in data.decode())


def _quoted(text: str) -> str:
    return encode_basestring_ascii(whole_characters(text))


# The key in the state of a request's scope that an answer of server-sent events sets.
SENDS_EVENTS = "pathors_agent.sends_events"


PING = encode_comment("ping")
