"""Read the answers of the session API: sessions, pages of sessions, and errors."""

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
"""A JSON object."""

# The largest page of a search: 200 sessions of 300 KB each, months of conversation.
MAX_ANSWER_BYTES = 64 * 1024 * 1024

_OK = 200
_QUOTED_CHARACTERS = 200
# In seconds since 1970 it is the year 5138, in milliseconds 1973; services use both units.
_LEAST_MILLISECONDS = 100_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSession:
    """A session that was just created; `project_id` is None if the server does not name it."""

    id: str
    project_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRecord:
    """A stored session.

    `messages` are the messages that can be read; `data` is the server's whole object, including
    other fields. Times are UTC, or None if they are missing or unreadable.
    """

    id: str
    variables: Object = field(default_factory=dict, repr=False)
    messages: tuple[Message, ...] = field(default=(), repr=False)
    created_at: datetime | None = None
    updated_at: datetime | None = None
    data: Object = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionEntry:
    """One entry in the list of a project's sessions; fields that the server omits are None.

    `ended_at` is None while the session is open.
    """

    id: str
    provider: str | None = None
    message_count: int | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    title: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class SessionPage(Generic[ItemT]):
    """One page of a list of sessions; `total` is the length of the whole list, None if unknown."""

    items: tuple[ItemT, ...]
    total: int | None = None


# - whole answers -


def read_object(body: bytes) -> Object:
    """Return the JSON object of a successful answer. Raises `TransportError` if there is none."""
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
    """Read the answer to the creation of a session."""
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
    objects = [value[name] for name in ("state", "data") if isinstance(value.get(name), dict)]
    data = _object(objects[0] if objects else _first(value, "data", "state"), f"{where}data")
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
    provider, title = value.get("provider"), value.get("title")
    return SessionEntry(
        id=_id(value, where),
        provider=provider if isinstance(provider, str) else None,
        message_count=_count(_first(value, "messageCount", "message_count")),
        started_at=_time(value, "startTime", "start_time"),
        ended_at=_time(value, "endTime", "end_time"),
        title=title if isinstance(title, str) else None,
    )


def _message(value: JSONValue) -> Message | None:
    """Read a message in our server's form or in OpenAI's; return None if it has neither."""
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
    """Read a time: ISO 8601, or a number of seconds or milliseconds since 1970."""
    found = _first(value, *names)
    try:
        if isinstance(found, str):
            time = datetime.fromisoformat(found.strip())
            return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
        if isinstance(found, int | float) and not isinstance(found, bool):
            return datetime.fromtimestamp(
                found / (1000 if found >= _LEAST_MILLISECONDS else 1), UTC
            )
    except (ValueError, OverflowError, OSError):  # not a time, or outside the range of datetime
        pass
    return None


def _first(value: Object, *names: str) -> JSONValue:
    """Return the first of these fields that is present and not null."""
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
    """Return the error for a body that is not JSON; only a body like a proxy's page is quoted."""
    if body.lstrip()[:1] not in (b"{", b"["):
        return decode_error(_OK, body, place=" with a body that is not JSON")
    start = body[:_QUOTED_CHARACTERS].decode(errors="replace")
    return MalformedResponse("the provider's answer is not complete JSON", data=start)
