"""Failed requests: the status and JSON body that a client gets, and the line in the log."""

import math
import re
import traceback
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus

from pathors_agent.errors import ProviderError, SessionConflict, StoreError, TransportError
from pathors_agent.telemetry.events import warn
from pathors_agent.wire.completion_bytes import error_body

_TYPES = {
    HTTPStatus.UNAUTHORIZED: "authentication_error",
    HTTPStatus.NOT_FOUND: "not_found_error",
    HTTPStatus.CONFLICT: "conflict_error",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
    HTTPStatus.BAD_GATEWAY: "model_error",
    HTTPStatus.GATEWAY_TIMEOUT: "model_error",
    HTTPStatus.SERVICE_UNAVAILABLE: "unavailable_error",
}
_SERVER_ERRORS = 500

# OpenAI's clients retry 408, 409, 429 and 5xx, unless an answer has this header.
DO_NOT_RETRY = {"x-should-retry": "false"}

# Enough for a person; thousands of bad messages must not become thousands of lines.
MAX_DETAILS = 20
MAX_DETAIL_CHARACTERS = 300
# The place of a field precedes the first colon of a detail, such as `messages[2].tool_call_id`. A place
# in a JSON Schema follows its field, as in `tools[0].function.parameters/properties/a`.
_PLACE = re.compile(
    r"([A-Za-z_][\w-]*(?:\[\d+\])*(?:\.[A-Za-z_][\w-]*(?:\[\d+\])*)*)(?:/\S*)?: ", re.ASCII
)


class Problem(Exception):
    """An answer with an error status.

    `details` name each bad field. `message` repeats the first of them, because most SDKs show only
    the message, and `param` is its field.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        details: Sequence[str] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.details = [cut(detail) for detail in details[:MAX_DETAILS]]
        self.message = _with_first(message, self.details, len(details) - 1)
        super().__init__(self.message)
        self.status = status
        self.code = code
        self.param = param or _place(self.details)
        self.headers = dict(headers or {})

    @property
    def body(self) -> bytes:
        """The JSON body."""
        other = "server_error" if self.status >= _SERVER_ERRORS else "invalid_request_error"
        return error_body(
            self.message,
            type=_TYPES.get(HTTPStatus(self.status), other),
            code=self.code,
            param=self.param,
            details=self.details,
        )


def _with_first(message: str, details: Sequence[str], others: int) -> str:
    if not details:
        return message
    more = f" (and {others} more)" if others else ""
    return f"{message}: {details[0]}{more}"


def _place(details: Sequence[str]) -> str | None:
    found = _PLACE.match(details[0]) if details else None
    return found[1] if found else None


def cut(text: str) -> str:
    """Cut a detail to a length that a person can read."""
    return text if len(text) <= MAX_DETAIL_CHARACTERS else text[:MAX_DETAIL_CHARACTERS] + "..."


def bad_request(message: str, *details: str, param: str | None = None) -> Problem:
    """Return the answer to a body, header or query that is not valid."""
    return Problem(HTTPStatus.BAD_REQUEST, message, details=details, param=param)


def unauthorized() -> Problem:
    """Return the same answer for every invalid key, so that a client cannot probe for keys."""
    headers = {"WWW-Authenticate": "Bearer"}
    return Problem(HTTPStatus.UNAUTHORIZED, "Invalid authentication", headers=headers)


def busy(message: str, seconds: float) -> Problem:
    """Return the answer to a client that may try again after some seconds."""
    headers = {"Retry-After": str(max(1, round(seconds)))}
    return Problem(HTTPStatus.TOO_MANY_REQUESTS, message, code="too_many_turns", headers=headers)


def rate_exceeded(message: str, seconds: float) -> Problem:
    """Return the answer to a key that used up its rate; more is left in `seconds`."""
    headers = {"Retry-After": str(math.ceil(seconds))}
    return Problem(
        HTTPStatus.TOO_MANY_REQUESTS, message, code="rate_limit_exceeded", headers=headers
    )


def unavailable(message: str) -> Problem:
    """Return the answer of a server that stops, or whose database cannot be reached."""
    headers = {"Retry-After": "1"}
    return Problem(HTTPStatus.SERVICE_UNAVAILABLE, message, headers=headers)


def of_model(error: TransportError, *, names_model: bool = False) -> Problem:
    """Return the answer to a client whose model did not answer.

    A refusal that the client's request caused keeps its status and words. With `names_model`, the
    request chose the model, which may not exist. The client reads only the kind of an error between
    server and model.
    """
    if error.timed_out:
        return Problem(
            HTTPStatus.GATEWAY_TIMEOUT, "The model did not answer in time", code="model_timeout"
        )
    if not isinstance(error, ProviderError):
        return Problem(
            HTTPStatus.BAD_GATEWAY, "The model gave no whole answer", code="model_failed"
        )
    if _is_quota_spent(error):
        return Problem(
            HTTPStatus.TOO_MANY_REQUESTS,
            "The quota of the model is spent; a retry does not help",
            code="insufficient_quota",
            headers=DO_NOT_RETRY,
        )
    if error.status == HTTPStatus.TOO_MANY_REQUESTS:
        return busy("The model is asked too often", error.retry_after or 1)
    is_no_model = names_model and _is_no_model(error)
    if (status := error.status if is_no_model else _client_fault(error)) is not None:
        words = (
            _SECRETS.sub("[...]", error.said) or f"The model refused the request (status {status})"
        )
        param = error.param if error.param and _PARAM.fullmatch(error.param) else None
        code = _word(error.code)
        if is_no_model:
            code, param = code or "model_not_found", param or "model"
        return Problem(status, words, code=code, param=param)
    message = f"The model answered with an error (status {error.status})"
    return Problem(HTTPStatus.BAD_GATEWAY, message, code=_word(error.code) or "model_failed")


# The statuses of a model for a request that is too long, out of range or not readable.
_CLIENT_FAULTS = frozenset({400, 413, 422})
# Texts about an empty account, from providers that have no code for it.
_SPENT = re.compile(
    r"insufficient[ _](?:balance|credit|quota|funds)|credit balance is too low", re.I
)
# Some providers refuse the server's own key with a 400.
_KEY_REFUSED = re.compile(r"api[ _-]?key|credential|unauthori[sz]ed|authentication", re.I)
_PARAM = re.compile(r"[\w.\[\]-]{1,100}")

# Parts of a refusal that a client must not read: addresses, and texts that look like keys.
_SECRETS = re.compile(
    r"""
    [a-z][a-z0-9+.-]*://\S+                                  # URLs
    | \b[\w.+-]+@[\w-]+(?:\.[\w-]+)+                         # mail addresses, user@host
    | \b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b                   # IPv4
    | \[?(?:[0-9a-f]{0,4}:){3,7}[0-9a-f]{0,4}\]?(?::\d+)?     # IPv6
    | \b(?=[0-9.-]*[a-z])[a-z0-9-]+(?:\.[a-z0-9-]+)*:\d{2,5}\b(?:/\S*)?          # host:port
    | \b(?:[a-z0-9-]+\.)+(?:com|net|org|io|ai|dev|app|cloud|local|internal|lan|corp|svc|home)\b\S*
    | \b(?:bearer|basic)\s+\S+
    | \b(?:key|secret|password|token)\s*[:=]\s*\S+
    | \b(?:sk|pk|rk|dk|gsk|hf|xai|pplx|nvapi|ghp|glpat)[-_][\w*.-]{6,}
    | \b(?:aiza|ya29|akia)[\w*.-]{6,}
    | \b(?=[\w-]*\d)(?=[\w-]*(?-i:[A-Z]))(?=[\w-]*(?-i:[a-z]))[\w-]{20,}            # random letters
    | \b[0-9a-f]{24,}\b
    """,
    re.IGNORECASE | re.VERBOSE,
)


def _is_no_model(error: ProviderError) -> bool:
    """Return whether an endpoint does not know the model; other 404s are of a wrong address."""
    is_told = "model" in f"{error.said} {error.code} {error.param}".lower()
    return error.status == HTTPStatus.NOT_FOUND and is_told


def _client_fault(error: ProviderError) -> int | None:
    """Return the status of a refusal that the client's request caused, or None."""
    status = error.status
    if status == HTTPStatus.OK:  # an error inside an answer
        is_refusal = error.type == "invalid_request_error"
        code = error.code or ""
        status = int(code) if code.isdecimal() and len(code) == 3 else 400 * is_refusal
    is_of_key = error.param is None and _KEY_REFUSED.search(f"{error.said} {error.code}")
    if status not in _CLIENT_FAULTS or is_of_key:
        return None
    return status


def _is_quota_spent(error: ProviderError) -> bool:
    is_named = "insufficient_quota" in (error.code, error.type)
    return (
        is_named or error.status == HTTPStatus.PAYMENT_REQUIRED or bool(_SPENT.search(error.said))
    )


def _word(code: str | None) -> str | None:
    """Return a provider's error code if it is a word."""
    is_word = code is not None and code.isascii() and code.replace("_", "").isalnum()
    is_number = code is not None and code.isdecimal()
    return code if is_word and not is_number and code is not None and len(code) <= 64 else None


def of_store(error: StoreError) -> Problem:
    """Return the answer to a request whose session could not be read or written."""
    if isinstance(error, SessionConflict):
        return Problem(
            HTTPStatus.CONFLICT,
            "The session was changed or ended meanwhile; send the request again",
        )
    return unavailable("Sessions cannot be read or written now")


# - log what failed, one warning for each failure: its cause, and never what users wrote -


# The innermost calls; the others lead through the server.
_FRAMES = 5

# Keys in the forms of providers, and the user and password of an address. Transports mask their
# own.
_SECRET = re.compile(
    r"(?i)\bbearer\s+\S+|\b(?:sk|dk|pk|rk|key|gsk|xai|hf|aiza)[-_]?[a-z0-9*][\w*.-]{7,}"
    r"|(?<=://)[^/\s@]+@"
)
_MASK = "***"

# Shorter pieces of a conversation are common words.
_QUOTED_CHARACTERS = 12


def log_bug(event: str, error: BaseException, **fields: object) -> None:
    """Log the class and the place of an unexpected exception."""
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    where = " < ".join(
        f"{frame.name} ({frame.filename}:{frame.lineno})" for frame in reversed(frames)
    )
    warn(event, error=type(error).__name__, where=where, **fields)


def log_store_error(error: StoreError) -> None:
    """Log that the store failed outside a turn."""
    warn("store_failed", error=type(error).__name__, cause=cut(str(error)))


def log_failed_turn(
    error: BaseException, *, project: str, session: str, status: int, contents: Iterable[str] = ()
) -> None:
    """Log why a turn failed; `status` is the client's status, and `contents` must not be logged."""
    fields: dict[str, object] = {"project": project, "session": session, "status": int(status)}
    match error:
        case ProviderError():
            fields |= {"model_status": error.status, "code": _code(error.code)}
        case Problem():
            fields["code"] = error.code
        case TransportError() | StoreError():
            pass
        case _:
            log_bug("turn_failed", error, **fields)
            return
    cause = cut(without_contents(_SECRET.sub(_MASK, str(error)), contents))
    known = {name: value for name, value in fields.items() if value is not None}
    warn("turn_failed", **known, error=type(error).__name__, cause=cause)


def _code(code: str | None) -> str | None:
    """Return a provider's error code, if it is one word."""
    return code if code is not None and re.fullmatch(r"[\w.-]{1,64}", code) else None


def without_contents(text: str, contents: Iterable[str]) -> str:
    """Mask the pieces of whole words of a text that also occur in the contents."""
    held = [content for content in contents if len(content) >= _QUOTED_CHARACTERS]
    kept: list[str] = []
    place = 0
    for word in re.finditer(r"\w+", text) if held else ():
        start = word.start()
        if start >= place and (end := _quoted_end(text, start, held)):
            kept += [text[place:start], _MASK]
            place = end
    return "".join(kept) + text[place:]


def _quoted_end(text: str, start: int, contents: Iterable[str]) -> int:
    """Return the end of the longest piece that begins here and occurs in a content, or 0."""
    longest = 0
    for content in contents:
        end = start + _QUOTED_CHARACTERS
        while end <= len(text) and text[start:end] in content:
            longest = max(longest, end)
            end += 1
    return longest
