"""A test's recordings: exchanges in a readable JSON file, looked up by request."""

import base64
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any

from pathors_agent.errors import CassetteMiss, Difference, TransportError
from pathors_agent.messages import JSONValue
from pathors_agent.wire.profiles import DEFAULT_PROFILE, EndpointProfile, changed_settings

SHOWN_CHARACTERS = 100


class _Absent:
    """The lack of a value that the other side has."""


ABSENT = _Absent()


def differences(before: Any, now: Any, path: str = "") -> Iterator[Difference]:
    """Yield each path at which two values differ, in the order of the first value."""
    match before, now:
        case dict(), dict():
            for name in [*before, *(name for name in now if name not in before)]:
                place = f"{path}.{name}" if path else str(name)
                yield from differences(before.get(name, ABSENT), now.get(name, ABSENT), place)
        case list(), list():
            for index in range(max(len(before), len(now))):
                yield from differences(_item(before, index), _item(now, index), f"{path}[{index}]")
        case _:
            if type(before) is not type(now) or before != now:
                yield Difference(path, _shown(before, now), _shown(now, before))


def _item(values: list[Any], index: int) -> Any:
    return values[index] if index < len(values) else ABSENT


def _shown(value: Any, other: Any) -> str:
    """Return a value as text; of a long text, the part around the first difference."""
    if value is ABSENT:
        return "nothing"
    if isinstance(value, str) and isinstance(other, str):
        value = _around_difference(value, other)
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"


def _around_difference(text: str, other: str) -> str:
    if len(text) <= SHOWN_CHARACTERS // 2:
        return text
    pairs = zip(text, other, strict=False)
    at = next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(text), len(other)))
    start = max(0, at - SHOWN_CHARACTERS // 4)
    end = at + SHOWN_CHARACTERS // 4
    return ("…" if start else "") + text[start:end] + ("…" if end < len(text) else "")


VERSION = 1
_ADVICE = "Record it again with pytest --record, or Tape(record=True)."
# Enough to find the nearest recording.
MOST_DIFFERENCES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedRequest:
    """A request as it is stored and compared: without headers and secrets."""

    method: str
    path: str
    body: JSONValue

    @property
    def key(self) -> str:
        """A text that is equal for equal requests."""
        return json.dumps([self.method, self.path, self.body], sort_keys=True)

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The TransportError that an exchange ended with."""

    text: str
    retryable: bool = True
    timed_out: bool = False

    def error(self) -> TransportError:
        """Return the recorded error as an exception."""
        return TransportError(self.text, retryable=self.retryable, timed_out=self.timed_out)


@dataclass(slots=True, kw_only=True)
class RecordedExchange:
    """One request, and the part of its answer that was read; all of it if `complete`."""

    request: AskedRequest
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    session_id: str | None = None
    pieces: list[bytes] = field(default_factory=list)
    complete: bool = False
    failure: Failure | None = None
    done: bool = False
    """Whether the recording is complete."""
    masked: Callable[[str], str] = field(default=str, repr=False, compare=False)
    """Removes the keys of the transport that was recorded from a text."""


class Tape:
    """The exchanges of one file, replayed in the order in which they were recorded.

    True for `record` replaces the file, False replays it, and None records only if the file does not
    exist yet. Replaying raises `CassetteMiss` for a request that was not recorded.
    """

    def __init__(self, path: str | os.PathLike[str], *, record: bool | None = None) -> None:
        self.path = Path(path)
        self.records = not self.path.exists() if record is None else record
        self.profile = DEFAULT_PROFILE
        self._lock = Lock()
        self._exchanges: list[RecordedExchange] = []
        self._played: set[int] = set()
        if not self.records and self.path.exists():
            self._read()

    def __repr__(self) -> str:
        doing = "records" if self.records else "replays"
        return f"Tape({str(self.path)!r}, {doing} {len(self._exchanges)} exchanges)"

    # - replaying -

    def find(self, request: AskedRequest) -> RecordedExchange:
        """Return the next recording of a request, or raise `CassetteMiss`."""
        key = request.key
        with self._lock:
            same = [i for i, each in enumerate(self._exchanges) if each.request.key == key]
            place = next((i for i in same if i not in self._played), None)
            if place is not None:
                self._played.add(place)
                return self._exchanges[place]
        if same:
            times = len(same)
            raise CassetteMiss(
                f"{self.path} has {times} recordings of this request, and it came {times + 1} "
                f"times: {request}. {_ADVICE}"
            )
        raise self._miss(request)

    def _miss(self, request: AskedRequest) -> CassetteMiss:
        if not self._exchanges:
            return CassetteMiss(f"there is no recording in {self.path}. {_ADVICE}")
        # The caller probably means a recording that was not played yet.
        places = [i for i in range(len(self._exchanges)) if i not in self._played]
        nearest = min(
            places or range(len(self._exchanges)), key=lambda i: self._distance(i, request)
        )
        difference = next(self._differences(nearest, request))
        return CassetteMiss(
            f"no recording in {self.path} is of {request}; the nearest, number "
            f"{nearest + 1} of {len(self._exchanges)}, differs first in {difference}. "
            f"{_ADVICE}",
            difference=difference,
        )

    def _differences(self, place: int, request: AskedRequest) -> Any:
        return differences(asdict(self._exchanges[place].request), asdict(request))

    def _distance(self, place: int, request: AskedRequest) -> int:
        return sum(1 for _ in islice(self._differences(place, request), MOST_DIFFERENCES))

    # - recording -

    def begin(self, request: AskedRequest) -> RecordedExchange:
        """Reserve a place for a recording; recordings are in the order of their requests."""
        exchange = RecordedExchange(request=request)
        with self._lock:
            self._exchanges.append(exchange)
        return exchange

    def drop(self, exchange: RecordedExchange) -> None:
        """Release the place of a recording that is not stored."""
        with self._lock:
            self._exchanges = [each for each in self._exchanges if each is not exchange]

    def end(self, exchange: RecordedExchange) -> None:
        """Mark a recording as complete, and write the file."""
        exchange.done = True
        with self._lock:
            self._write()

    def _write(self) -> None:
        document: dict[str, Any] = {"version": VERSION}
        if settings := changed_settings(self.profile):
            document["profile"] = settings
        document["exchanges"] = [_written(each) for each in self._exchanges if each.done]
        text = json.dumps(document, ensure_ascii=False, indent=2) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_name(f"{self.path.name}.{os.getpid()}.new")
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(self.path)

    def _read(self) -> None:
        try:
            document = json.loads(self.path.read_text(encoding="utf-8"))
            version = document.get("version")
            if version != VERSION:
                raise ValueError(f"its version is {version!r}; this library reads {VERSION}")
            stored: dict[str, Any] = document.get("profile", {})
            settings: dict[str, Any] = {
                k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()
            }
            self.profile = EndpointProfile(**settings)
            self._exchanges = [_exchange(each) for each in document["exchanges"]]
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise ValueError(f"{self.path} is not a cassette: {error}") from error


def _written(exchange: RecordedExchange) -> dict[str, Any]:
    request = asdict(exchange.request)
    failure = {} if exchange.failure is None else {"failure": asdict(exchange.failure)}
    if exchange.status is None:
        return {"request": request, **failure}
    response: dict[str, Any] = {"status": exchange.status, "headers": exchange.headers}
    if exchange.session_id is not None:
        response["session_id"] = exchange.session_id
    response["pieces"] = [_written_piece(piece) for piece in exchange.pieces]
    if not failure and not exchange.complete:
        response["read_on"] = False
    return {"request": request, "response": {**response, **failure}}


def _written_piece(piece: bytes) -> JSONValue:
    """Return a piece as text, or as base64 if it ends inside a character."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(piece).decode()}


def _exchange(value: dict[str, Any]) -> RecordedExchange:
    request = AskedRequest(**value["request"])
    if "response" not in value:
        return RecordedExchange(request=request, failure=Failure(**value["failure"]))
    response = value["response"]
    return RecordedExchange(
        request=request,
        status=response["status"],
        headers=response["headers"],
        session_id=response.get("session_id"),
        pieces=[
            piece.encode() if isinstance(piece, str) else base64.b64decode(piece["base64"])
            for piece in response["pieces"]
        ],
        complete=response.get("read_on", True) and "failure" not in response,
        failure=Failure(**response["failure"]) if "failure" in response else None,
    )
