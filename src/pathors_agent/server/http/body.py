"""Read the body of a request: JSON within bounds, or the problem with it."""

import asyncio
import json
import math
from collections import Counter
from collections.abc import Callable
from http import HTTPStatus
from typing import NoReturn, TypeVar

import anyio
from anyio.lowlevel import RunVar
from starlette.requests import Request

from pathors_agent.json_text import is_deeper
from pathors_agent.messages import JSONValue
from pathors_agent.server.http.problems import Problem, bad_request, cut
from pathors_agent.server.settings import ServerSettings

# A body of this size is parsed within a few milliseconds; a larger one would block other requests.
SMALL_BODY_BYTES = 16 * 1024

ResultT = TypeVar("ResultT")

_JSON_TYPES = ("application/json", "text/json")


class OneAtATime:
    """Runs blocking functions in a thread, on each event loop one after another."""

    def __init__(self, name: str) -> None:
        self._limiter: RunVar[anyio.CapacityLimiter] = RunVar(name)

    async def run(self, function: Callable[[], ResultT]) -> ResultT:
        """Return what the function returns."""
        try:
            limiter = self._limiter.get()
        except LookupError:
            limiter = anyio.CapacityLimiter(1)
            self._limiter.set(limiter)
        return await anyio.to_thread.run_sync(function, limiter=limiter)


_PARSER = OneAtATime("parser")


async def read_object(request: Request, settings: ServerSettings) -> dict[str, JSONValue]:
    """Return the JSON object that a request holds."""
    body = await read_body(request, settings)
    return await parsed(len(body), lambda: parse_object(body, settings))


async def parsed(size: int, parse: Callable[[], ResultT]) -> ResultT:
    """Parse a body or a history of `size` bytes.

    A large body is parsed in a thread, one at a time, so that other requests are answered: a few
    megabytes can take seconds, and a hundred times their size in memory.
    """
    if size <= SMALL_BODY_BYTES:
        return parse()
    return await _PARSER.run(parse)


async def read_body(request: Request, settings: ServerSettings) -> bytes:
    """Return the body's bytes; raise a `Problem` if its type, encoding or size is refused."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in _JSON_TYPES and not kind.endswith("+json"):
        raise Problem(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "The request must have Content-Type application/json"
        )
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        raise Problem(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"The body must not be compressed, but Content-Encoding is {cut(encoding)}",
            param="Content-Encoding",
            headers={"Accept-Encoding": "identity"},
        )
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > settings.max_body_bytes:
        raise _too_large(settings, is_read=False)
    try:
        async with asyncio.timeout(settings.body_seconds):
            return await _gathered(request, settings)
    except TimeoutError:
        raise Problem(
            HTTPStatus.REQUEST_TIMEOUT,
            f"The body did not arrive within {settings.body_seconds:g} s",
            headers={"Connection": "close"},
        ) from None


async def _gathered(request: Request, settings: ServerSettings) -> bytes:
    pieces: list[bytes] = []
    size, is_read = 0, False
    while not is_read:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise bad_request("The connection was closed before the body's end")
        piece: bytes = message.get("body", b"")
        is_read = not message.get("more_body", False)
        pieces.append(piece)
        size += len(piece)
        if size > settings.max_body_bytes:
            raise _too_large(settings, is_read=is_read)
    return b"".join(pieces)


def _too_large(settings: ServerSettings, *, is_read: bool) -> Problem:
    return Problem(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"The body is larger than {settings.max_body_bytes} bytes",
        headers={} if is_read else {"Connection": "close"},
    )


def parse_object(body: bytes, settings: ServerSettings) -> dict[str, JSONValue]:
    """Parse a body strictly.

    UTF-8, one object, unique names, no NaN, and at most the limit's depth.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise bad_request(f"The body is not UTF-8 (byte {error.start})") from None
    try:
        value: JSONValue = _DECODER.decode(text.removeprefix("\ufeff"))
    except _Repeated as error:
        raise bad_request("The body has a field twice", f"{error}: occurs twice") from None
    except RecursionError:
        raise _too_deep(settings) from None
    except ValueError as error:
        raise bad_request(f"The body is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise bad_request("The body must be a JSON object")
    if is_deeper(value, text, settings.max_json_depth):
        raise _too_deep(settings)
    return value


def _too_deep(settings: ServerSettings) -> Problem:
    return bad_request(f"The body is nested deeper than {settings.max_json_depth} levels")


class _Repeated(ValueError):
    pass


def _unrepeated(pairs: list[tuple[str, JSONValue]]) -> dict[str, JSONValue]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise _Repeated(counts.most_common(1)[0][0])
    return fields


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):  # such as 1e999, which JSON could not represent
        raise ValueError("a number is too large")
    return number


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unrepeated, parse_float=_finite, parse_constant=_no_number
)
