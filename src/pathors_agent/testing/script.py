"""The entries of a script: what a scripted model answers to one request, as wire bytes."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Self

from pathors_agent.completion_bytes import error_body, plain_body, stream_events
from pathors_agent.messages import AssistantMessage, JSONValue, ToolCall, Usage

Call = tuple[str, Mapping[str, JSONValue] | str]
"""A tool's name and its arguments; arguments given as a string are sent as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Where a body stops before its end, and whether with an error or in silence."""

    after: int
    unit: Literal["events", "bytes"]
    broken: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer of a script; make it with `answer`, `calls`, `raw` or `http_error`."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    stop: Stop | None = None

    def broken_after(self, *, events: int | None = None, bytes: int | None = None) -> Self:  # noqa: A002  (the unit)
        """Break the connection there: reading on raises a TransportError."""
        return replace(self, stop=_stop(events, bytes, broken=True))

    def ended_after(self, *, events: int | None = None, bytes: int | None = None) -> Self:  # noqa: A002  (the unit)
        """End the body there as if it were complete."""
        return replace(self, stop=_stop(events, bytes, broken=False))

    def events(self, asked: "Asked") -> list[bytes]:
        """Give the whole body, one event per item."""
        raise NotImplementedError

    def content_type(self, asked: "Asked") -> str:
        """Name the body's type."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a reply needs to know of its request: which one it is, and what it asks for."""

    number: int
    first_call: int
    model: str
    stream: bool
    include_usage: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(Reply):
    """A completion, streamed or plain as the request asks."""

    text: str | None
    calls: tuple[Call, ...]
    finish_reason: str | None
    reasoning: str | None
    usage: Usage | None
    chunk_size: int

    def events(self, asked: Asked) -> list[bytes]:
        """Give the completion's events, or its one plain body."""
        message = self._message(asked)
        if not asked.stream:
            return [plain_body(message)]
        include_usage = asked.include_usage or self.usage is not None
        return stream_events(message, split=self._split, include_usage=include_usage)

    def content_type(self, asked: Asked) -> str:
        """Name the type of a stream or of a plain completion."""
        return "text/event-stream; charset=utf-8" if asked.stream else "application/json"

    def _message(self, asked: Asked) -> AssistantMessage:
        return AssistantMessage(
            content=self.text,
            tool_calls=tuple(
                ToolCall(id=f"call_{asked.first_call + place}", name=name, arguments=_text(given))
                for place, (name, given) in enumerate(self.calls)
            ),
            reasoning=self.reasoning,
            finish_reason=self.finish_reason,
            usage=self.usage,
            model=asked.model,
            id=f"chatcmpl-{asked.number}",
        )

    def _split(self, text: str) -> list[str]:
        size = self.chunk_size
        return [text[start : start + size] for start in range(0, len(text), size)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Raw(Reply):
    """A body given as bytes."""

    body: bytes

    def events(self, asked: Asked) -> list[bytes]:
        """Give the body, cut after each blank line."""
        *whole, rest = self.body.split(b"\n\n")
        return [event + b"\n\n" for event in whole] + ([rest] if rest else [])

    def content_type(self, asked: Asked) -> str:
        """Guess: a body that starts like JSON is JSON, everything else a stream."""
        is_json = self.body.lstrip()[:1] in {b"{", b"["}
        return "application/json" if is_json else "text/event-stream; charset=utf-8"


Entry = str | Reply | BaseException
"""One entry of a script: an answer text, a reply, or an exception to raise."""


def answer(
    text: str | None = None,
    *,
    calls: Sequence[Call] = (),
    finish_reason: str | None = None,
    reasoning: str | None = None,
    usage: Usage | None = None,
    chunk_size: int = 8,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Answer with a text, tool calls, or both.

    Text, reasoning and arguments are sent `chunk_size` characters at a time. `usage` is sent
    whether or not the request asks for it; counts that are asked for and not given are -1. A
    session id is given as the header `x-session-id`.
    """
    if chunk_size < 1:
        raise ValueError("chunk_size must be at least 1")
    return Answer(
        text=text,
        calls=tuple(calls),
        finish_reason=finish_reason or ("tool_calls" if calls else "stop"),
        reasoning=reasoning,
        usage=usage,
        chunk_size=chunk_size,
        headers=headers or {},
    )


def calls(*calls: Call) -> Answer:
    """Answer with tool calls, all in one message: `calls(("add", {"a": 1, "b": 2}))`."""
    return answer(calls=calls)


def raw(body: bytes, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Raw:
    """Answer with these very bytes."""
    return Raw(body=body, status=status, headers=headers or {})


def http_error(
    status: int,
    message: str,
    *,
    type: str = "invalid_request_error",  # noqa: A002  (OpenAI's name for the field)
    code: str | None = None,
    retry_after: float | None = None,
) -> Raw:
    """Answer with an error status, and the message in a JSON body."""
    headers = {} if retry_after is None else {"retry-after": f"{retry_after:g}"}
    return raw(error_body(message, type=type, code=code), status=status, headers=headers)


def as_reply(entry: str | Reply) -> Reply:
    """Read a bare text as an answer."""
    return answer(entry) if isinstance(entry, str) else entry


def _stop(events: int | None, size: int | None, *, broken: bool) -> Stop:
    match events, size:
        case int(), None:
            return Stop(after=events, unit="events", broken=broken)
        case None, int():
            return Stop(after=size, unit="bytes", broken=broken)
        case _:
            raise TypeError("give either events= or bytes=")


def _text(arguments: Mapping[str, JSONValue] | str) -> str:
    if isinstance(arguments, str):
        return arguments
    return json.dumps(dict(arguments), ensure_ascii=False, separators=(",", ":"))
