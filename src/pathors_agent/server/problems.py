"""What a client is told of a request that was not answered: a status and a JSON body."""

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus

from pathors_agent.errors import ProviderError, SessionConflict, StoreError, TransportError
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

# OpenAI's clients repeat 408, 409, 429 and 5xx by themselves, unless an answer has this header.
DO_NOT_RETRY = {"x-should-retry": "false"}

# A list that a person reads; a flood of bad messages must not become a flood of words.
MAX_DETAILS = 20
MAX_DETAIL_CHARACTERS = 300
# A field's place stands before the first colon of a detail, as `messages[2].tool_call_id`.
_PLACE = re.compile(r"([A-Za-z_][\w-]*(?:\[\d+\])*(?:\.[A-Za-z_][\w-]*(?:\[\d+\])*)*): ", re.ASCII)


class Problem(Exception):
    """A request that is not answered.

    `details` name each bad field. The first of them is repeated in `message`, the only part that
    most SDKs show, and its field is `param`.
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
    """Cut a detail to what a person reads."""
    return text if len(text) <= MAX_DETAIL_CHARACTERS else text[:MAX_DETAIL_CHARACTERS] + "..."


def bad_request(message: str, *details: str, param: str | None = None) -> Problem:
    """A body, header or query that does not fit."""
    return Problem(HTTPStatus.BAD_REQUEST, message, details=details, param=param)


def unauthorized() -> Problem:
    """The one answer to every key that does not fit, so that nothing can be found out."""
    headers = {"WWW-Authenticate": "Bearer"}
    return Problem(HTTPStatus.UNAUTHORIZED, "Invalid authentication", headers=headers)


def busy(message: str, seconds: float) -> Problem:
    """Too much at once: the client may come again."""
    headers = {"Retry-After": str(max(1, round(seconds)))}
    return Problem(HTTPStatus.TOO_MANY_REQUESTS, message, code="too_many_turns", headers=headers)


def unavailable(message: str) -> Problem:
    """The server cannot answer now: it is stopping, or its database is away."""
    headers = {"Retry-After": "1"}
    return Problem(HTTPStatus.SERVICE_UNAVAILABLE, message, headers=headers)


def of_model(error: TransportError) -> Problem:
    """The model behind gave no answer; its own words are not passed on, they may hold a key."""
    if error.timed_out:
        return Problem(
            HTTPStatus.GATEWAY_TIMEOUT, "The model did not answer in time", code="model_timeout"
        )
    if not isinstance(error, ProviderError):
        return Problem(
            HTTPStatus.BAD_GATEWAY, "The model gave no whole answer", code="model_failed"
        )
    if error.status == HTTPStatus.TOO_MANY_REQUESTS:
        return busy("The model is asked too often", error.retry_after or 1)
    message = f"The model answered with an error (status {error.status})"
    return Problem(HTTPStatus.BAD_GATEWAY, message, code=_word(error.code) or "model_failed")


def _word(code: str | None) -> str | None:
    """A provider's error code, if it is just a word."""
    is_word = code is not None and code.isascii() and code.replace("_", "").isalnum()
    return code if is_word and code is not None and len(code) <= 64 else None


def of_store(error: StoreError) -> Problem:
    """A session could not be read or written."""
    if isinstance(error, SessionConflict):
        return Problem(
            HTTPStatus.CONFLICT,
            "The session was changed or ended meanwhile; send the request again",
        )
    return unavailable("Sessions cannot be read or written now")
