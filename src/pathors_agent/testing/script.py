"""The entries of a script: the answers of a scripted model, as wire bytes."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import NoneType
from typing import Literal, Self

from pathors_agent.errors import refuse_other
from pathors_agent.messages import AssistantMessage, JSONValue, ToolCall, Usage
from pathors_agent.wire.completion_bytes import error_body, plain_body, stream_events

OK = 200
CHUNK_SIZE = 8
INVALID_REQUEST = "invalid_request_error"
# Longer texts of one character, and longer lists of equal items, are written as products.
LONG_TEXT = 40
MANY = 4

Call = tuple[str, Mapping[str, JSONValue] | str]
"""A tool's name and its arguments; a string of arguments is sent unchanged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Where and how a body stops before its end; `said` is the error that the server sends."""

    after: int
    unit: Literal["events", "bytes"]
    kind: Literal["broken", "ended", "failed"]
    said: str = ""


OVERLOADED = "the model is overloaded"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Reply:
    """One answer of a script; build it with `answer`, `calls`, `raw` or `http_error`."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    stop: Stop | None = None

    def broken_after(self, *, events: int | None = None, bytes: int | None = None) -> Self:  # noqa: A002  (the unit)
        """Break the connection there: reading further raises a TransportError."""
        return replace(self, stop=_stop(events, bytes, "broken"))

    def ended_after(self, *, events: int | None = None, bytes: int | None = None) -> Self:  # noqa: A002  (the unit)
        """End the body there as if it were complete."""
        return replace(self, stop=_stop(events, bytes, "ended"))

    def failed_after(self, message: str = OVERLOADED, *, events: int) -> Self:
        """Send an error instead of the rest, as servers do after they began to stream."""
        return replace(self, stop=Stop(after=events, unit="events", kind="failed", said=message))

    def events(self, asked: "Asked") -> list[bytes]:
        """Return the whole body, one event per item."""
        raise NotImplementedError

    def content_type(self, asked: "Asked") -> str:
        """Name the body's type."""
        raise NotImplementedError

    def __repr__(self) -> str:
        """Return the code that builds it."""
        stop = self.stop
        if stop is None:
            return self._made_by()
        if stop.kind == "failed":
            said = "" if stop.said == OVERLOADED else f"{stop.said!r}, "
            return f"{self._made_by()}.failed_after({said}events={stop.after})"
        return f"{self._made_by()}.{stop.kind}_after({stop.unit}={stop.after})"

    def _made_by(self) -> str:
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The facts about a request that its reply depends on."""

    number: int
    first_call: int
    model: str
    stream: bool
    include_usage: bool


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Answer(Reply):
    """A completion, streamed or plain as the request asks."""

    text: str | None
    calls: tuple[Call, ...]
    ids: tuple[str, ...] = ()
    finish_reason: str | None
    reasoning: str | None
    usage: Usage | None
    chunk_size: int

    def events(self, asked: Asked) -> list[bytes]:
        """Return the completion's events, or its single plain body."""
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
                # Not validated: some servers send empty ids.
                ToolCall.model_construct(id=call_id, name=name, arguments=_text(given))
                for call_id, (name, given) in zip(self._ids(asked), self.calls, strict=True)
            ),
            reasoning=self.reasoning,
            finish_reason=self.finish_reason,
            usage=self.usage,
            model=asked.model,
            id=f"chatcmpl-{asked.number}",
        )

    def _ids(self, asked: Asked) -> Sequence[str]:
        counted = [f"call_{asked.first_call + place}" for place in range(len(self.calls))]
        return self.ids or counted

    def _made_by(self) -> str:
        plain = answer(self.text, calls=self.calls)
        if self.calls and self.text is None and replace(self, stop=None) == plain:
            return f"calls({_listed_code(self.calls, star=True)})"
        said = {
            "calls": self.calls and f"[{_listed_code(self.calls)}]",
            "ids": self.ids and f"[{_listed_code(self.ids)}]",
            "finish_reason": self.finish_reason != plain.finish_reason and repr(self.finish_reason),
            "reasoning": self.reasoning is not None and repr(self.reasoning),
            "usage": self.usage is not None and repr(self.usage),
            "chunk_size": self.chunk_size != CHUNK_SIZE and repr(self.chunk_size),
            "headers": self.headers and repr(dict(self.headers)),
        }
        given = [f"{name}={code}" for name, code in said.items() if code]
        return f"answer({', '.join([text_code(self.text), *given])})"

    def _split(self, text: str) -> list[str]:
        size = self.chunk_size
        return [text[start : start + size] for start in range(0, len(text), size)]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Raw(Reply):
    """A body as bytes."""

    body: bytes

    def events(self, asked: Asked) -> list[bytes]:
        """Return the body, split after each blank line."""
        *whole, rest = self.body.split(b"\n\n")
        return [event + b"\n\n" for event in whole] + ([rest] if rest else [])

    def content_type(self, asked: Asked) -> str:
        """Guess the type: a body that starts like JSON is JSON, and any other a stream."""
        is_json = self.body.lstrip()[:1] in {b"{", b"["}
        return "application/json" if is_json else "text/event-stream; charset=utf-8"

    def _made_by(self) -> str:
        if code := self._error_code():
            return code
        headers = f", headers={dict(self.headers)!r}" if self.headers else ""
        status = f", status={self.status}" if self.status != OK else ""
        return f"raw({self.body!r}{status}{headers})"

    def _error_code(self) -> str:
        """Return the call of `http_error` that builds it, or an empty text."""
        try:
            error = json.loads(self.body)["error"]
            given = {name: error[name] for name in ("type", "code")}
            wait = self.headers.get("retry-after")
            made = http_error(
                self.status, error["message"], **given, retry_after=float(wait) if wait else None
            )
        except (ValueError, TypeError, LookupError):
            return ""
        if made != replace(self, stop=None):
            return ""
        said = {"type": given["type"] != INVALID_REQUEST, "code": given["code"] is not None}
        named = [f"{name}={given[name]!r}" for name, shown in said.items() if shown]
        named += [f"retry_after={wait}"] if wait else []
        return f"http_error({', '.join([str(self.status), repr(error['message']), *named])})"


Entry = str | Reply | BaseException
"""One entry of a script: an answer text, a reply, or an exception to raise."""


def answer(
    text: str | None = None,
    *,
    calls: Sequence[Call] = (),
    ids: Sequence[str] = (),
    finish_reason: str | None = None,
    reasoning: str | None = None,
    usage: Usage | None = None,
    chunk_size: int = CHUNK_SIZE,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Answer with a text, tool calls, or both.

    `ids` replace the ids of the calls, which otherwise count up; an id may be empty or repeated. Text,
    reasoning and arguments are sent in pieces of `chunk_size` characters. `usage` is sent even if the
    request does not ask for it; requested counts that are not set are -1. The default `finish_reason`
    is "tool_calls" for calls and "stop" for a text. To name a session, pass the header
    `x-session-id` in `headers`.
    """
    if chunk_size < 1:
        raise ValueError("chunk_size must be at least 1")
    for name, value in (
        ("text", text),
        ("reasoning=", reasoning),
        ("finish_reason=", finish_reason),
    ):
        refuse_other(f"answer: {name}", value, str, NoneType)
    _check_calls(calls)
    if ids and len(ids) != len(calls):
        raise ValueError(
            f"pass one id for each call: there are {len(ids)} ids for {len(calls)} calls"
        )
    return Answer(
        text=text,
        calls=tuple(calls),
        ids=tuple(ids),
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
    """Answer with exactly the bytes of `body`, a status and headers."""
    refuse_other("raw: body", body, bytes)
    refuse_other("status", status, int)
    return Raw(body=body, status=status, headers=headers or {})


def http_error(
    status: int,
    message: str,
    *,
    type: str = INVALID_REQUEST,  # noqa: A002  (OpenAI's name for the field)
    code: str | None = None,
    retry_after: float | None = None,
) -> Raw:
    """Answer with an error status, and the message in a JSON body.

    `type` and `code` are OpenAI's fields of the body. `retry_after` is sent as the header of that
    name, in seconds.
    """
    headers = {} if retry_after is None else {"retry-after": f"{retry_after:g}"}
    return raw(error_body(message, type=type, code=code), status=status, headers=headers)


def as_reply(entry: str | Reply) -> Reply:
    """Read a bare text as an answer."""
    return answer(entry) if isinstance(entry, str) else entry


def text_code(value: object) -> str:
    """Return a text as code; a long text of one character is a product."""
    if isinstance(value, str) and len(value) > LONG_TEXT and len(set(value)) == 1:
        return f"{value[0]!r} * {len(value)}"
    return repr(value)


def _listed_code(items: Sequence[object], *, star: bool = False) -> str:
    """Return items as code; many equal items are a product."""
    first = _item_code(items[0])
    if len(items) > MANY and all(item == items[0] for item in items):
        return f"*[{first}] * {len(items)}" if star else f"*([{first}] * {len(items)})"
    return ", ".join(map(_item_code, items))


def _item_code(item: object) -> str:
    match item:
        case (str(name), Mapping() as arguments):
            return f"({name!r}, {dict(arguments)!r})"
        case (str(name), str(arguments)):
            return f"({name!r}, {text_code(arguments)})"
        case _:
            return repr(item)


def _stop(events: int | None, size: int | None, kind: Literal["broken", "ended"]) -> Stop:
    match events, size:
        case int(), None:
            return Stop(after=events, unit="events", kind=kind)
        case None, int():
            return Stop(after=size, unit="bytes", kind=kind)
        case _:
            raise TypeError("pass either events= or bytes=")


def _check_calls(calls: Sequence[object]) -> None:
    for number, call in enumerate(calls):
        match call:
            case (str(), str() | Mapping()):
                pass
            case _:
                raise TypeError(
                    f"calls[{number}] is not a pair of a name and arguments; write "
                    'calls(("add", {"a": 1, "b": 2}))'
                )


def _text(arguments: Mapping[str, JSONValue] | str) -> str:
    if isinstance(arguments, str):
        return arguments
    return json.dumps(dict(arguments), ensure_ascii=False)
