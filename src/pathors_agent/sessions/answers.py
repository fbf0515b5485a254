"""Read what the session API answers: sessions, pages of them, and what is wrong with an answer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Generic, TypeVar

from pathors_agent.errors import (
    ConversationError,
    IncompleteResponse,
    MalformedResponse,
    TransportError,
)
from pathors_agent.history.reading import read_openai
from pathors_agent.messages import JSONValue, Message
from pathors_agent.wire.chunks import loads
from pathors_agent.wire.messages import read_message
from pathors_agent.wire.provider_errors import decode_error, find_error

ItemT = TypeVar("ItemT")

Object = Mapping[str, JSONValue]

# 200 sessions, the most a search gives, of 300 KB each: months of talk.
MAX_ANSWER_BYTES = 64 * 1024 * 1024

_OK = 200
_QUOTED_CHARACTERS = 200
# As seconds since 1970 it is the year 5138, as milliseconds 1973: services count either.
_LEAST_MILLISECONDS = 100_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSession:
    """A session that was just made; `project_id` is None where the server does not say."""

    id: str
    project_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRecord:
    """A session as the server keeps it.

    `messages` are those that can be read; `data` holds all as it came, other fields too. Times
    are UTC, None where there is none that can be read.
    """

    id: str
    variables: Object = field(default_factory=dict, repr=False)
    messages: tuple[Message, ...] = field(default=(), repr=False)
    created_at: datetime | None = None
    updated_at: datetime | None = None
    data: Object = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionEntry:
    """One line in the list of a project's sessions; what the server does not say is None.

    `ended_at` is None while the session goes on.
    """

    id: str
    provider: str | None = None
    message_count: int | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class SessionPage(Generic[ItemT]):
    """Some sessions of a longer list; `total` is how many there are in all, None if unknown."""

    items: tuple[ItemT, ...]
    total: int | None = None


# - whole answers -


def read_object(body: bytes) -> Object:
    """Read the JSON object of a good answer; raise the `TransportError` that it is otherwise."""
    if not body.strip():
        raise IncompleteResponse("the provider answered with an empty body")
    if len(body) > MAX_ANSWER_BYTES:
        raise MalformedResponse(f"the provider's answer takes more than {MAX_ANSWER_BYTES} bytes")
    try:
        value = loads(body)
    except ValueError:
        raise _unreadable(body) from None
    answer = _object(value, "")
    if error := find_error(answer, is_answer=True):
        raise error
    return answer


def read_new_session(answer: Object) -> NewSession:
    """Read the answer to the making of a session."""
    project = _first(answer, "pathwayId", "pathway_id", "projectId", "project_id")
    return NewSession(id=_id(answer, ""), project_id=project if isinstance(project, str) else None)


def read_session(answer: Object) -> SessionRecord:
    """Read the answer to a query for one session."""
    return _session(answer, "")


def read_found(answer: Object) -> SessionPage[SessionRecord]:
    """Read the answer to a search."""
    return _page(answer, "results", _session)


def read_listed(answer: Object) -> SessionPage[SessionEntry]:
    """Read one page of the list of sessions."""
    return _page(answer, "data", _entry)


def read_end(answer: Object) -> None:
    """Read the answer to the end of a session."""
    if _first(answer, "success") not in (None, True):
        raise _malformed("success", "true", answer["success"])


# - their parts -


def _page(answer: Object, name: str, read: Callable[[Object, str], ItemT]) -> SessionPage[ItemT]:
    values = answer.get(name)
    if not isinstance(values, list):
        raise _malformed(name, "a list", values)
    places = [f"{name}[{index}]" for index in range(len(values))]
    items = [read(_object(v, place), f"{place}.") for v, place in zip(values, places, strict=True)]
    pagination = answer.get("pagination")
    total = pagination.get("total") if isinstance(pagination, dict) else None
    return SessionPage(tuple(items), _count(total))


def _session(value: Object, where: str) -> SessionRecord:
    given = [value[name] for name in ("state", "data") if isinstance(value.get(name), dict)]
    data = _object(given[0] if given else _first(value, "data", "state"), f"{where}data")
    messages = _first(data, "messages")
    if not isinstance(messages, list | None):
        raise _malformed(f"{where}data.messages", "a list", messages)
    variables = _first(data, "variables")
    return SessionRecord(
        id=_id(value, where),
        variables={} if variables is None else _object(variables, f"{where}data.variables"),
        messages=tuple(filter(None, map(_message, messages or ()))),
        created_at=_time(value, "createdAt", "created_at"),
        updated_at=_time(value, "updatedAt", "updated_at"),
        data=data,
    )


def _entry(value: Object, where: str) -> SessionEntry:
    provider = value.get("provider")
    return SessionEntry(
        id=_id(value, where),
        provider=provider if isinstance(provider, str) else None,
        message_count=_count(_first(value, "messageCount", "message_count")),
        started_at=_time(value, "startTime", "start_time"),
        ended_at=_time(value, "endTime", "end_time"),
    )


def _message(value: JSONValue) -> Message | None:
    """Read a message as our server or another one writes it; return None if neither reads it."""
    if not isinstance(value, dict):
        return None
    try:
        return read_message(value)
    except ConversationError:
        messages = read_openai([value]).messages
        return messages[0] if messages else None


def _id(value: Object, where: str) -> str:
    found = _first(value, "sessionId", "session_id")
    if isinstance(found, str) and found:
        return found
    raise _malformed(f"{where}sessionId", "a text that is not empty", found)


def _count(value: JSONValue) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _time(value: Object, *names: str) -> datetime | None:
    """Read a time in ISO 8601, or a number of seconds or milliseconds since 1970."""
    given = _first(value, *names)
    try:
        if isinstance(given, str):
            time = datetime.fromisoformat(given.strip())
            return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
        if isinstance(given, int | float) and not isinstance(given, bool):
            return datetime.fromtimestamp(
                given / (1000 if given >= _LEAST_MILLISECONDS else 1), UTC
            )
    except (ValueError, OverflowError, OSError):  # no time, or none that a computer can hold
        pass
    return None


def _first(value: Object, *names: str) -> JSONValue:
    """Give the first of these fields that is there and not null."""
    return next((value[name] for name in names if value.get(name) is not None), None)


def _object(value: JSONValue, place: str) -> Object:
    if isinstance(value, dict):
        return value
    raise _malformed(place, "an object", value)


def _malformed(place: str, expected: str, found: JSONValue) -> MalformedResponse:
    kind = "missing" if found is None else _KINDS[type(found)]
    subject = f"{place} of the provider's answer" if place else "the provider's answer"
    return MalformedResponse(
        f"{subject} must be {expected}, and is {kind}", data=str(found)[:_QUOTED_CHARACTERS]
    )


_KINDS = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
_KINDS |= {int: "a number", float: "a number"}


def _unreadable(body: bytes) -> TransportError:
    """Tell of a body that is no JSON: a proxy's page is quoted, half a session is not."""
    if body.lstrip()[:1] not in (b"{", b"["):
        return decode_error(_OK, body, place=" with a body that is no JSON")
    start = body[:_QUOTED_CHARACTERS].decode(errors="replace")
    return MalformedResponse("the provider's answer is no whole JSON text", data=start)
