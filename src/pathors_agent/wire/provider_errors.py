"""Read the error of a provider in any form: JSON of five kinds, HTML, text, or an empty body."""

import json
from collections.abc import Mapping

from pathors_agent.errors import QUOTED_BODY_BYTES, ProviderError
from pathors_agent.json_text import read_json
from pathors_agent.messages import JSONValue

# Far more than any provider's error; the rest is not read.
MAX_ERROR_BODY_BYTES = 64 * 1024

# Timeout, conflict, rate limit, by RFC 9110 and the providers' documentation; 5xx as well.
_RETRYABLE_STATUSES = frozenset({408, 409, 429})
_SERVER_ERRORS = range(500, 600)

# Gateways wrap the errors of other gateways; the deepest known nesting is three.
_WRAPPINGS = 8

# One paragraph; the attribute `body` has the rest.
_SAID_CHARACTERS = 500

_OK = 200

# The finish_reasons of answers that failed at the provider, in lower case: OpenRouter's, GLM's,
# DeepSeek's, vLLM's, Gemini's (also with a prefix of its gateways) and Bedrock's.
_FAILED = frozenset(
    {
        "error",
        "network_error",
        "insufficient_system_resource",
        "abort",
        "malformed_function_call",
        "function_call_filter",
        "unexpected_tool_call",
        "too_many_tool_calls",
        "malformed_response",
        "malformed_tool_use",
        "malformed_model_output",
    }
)

_WHAT_TO_DO = {
    401: "; check the key (api_key=, PATHORS_API_KEY)",
    403: "; check what the key may do (api_key=, model=)",
    404: "; check the address and the model (base_url=, model=)",
    429: "; wait before the next request, or raise the limit at the provider",
}


def is_retryable(status: int) -> bool:
    """Return True if the same request may succeed after an answer with this status."""
    return status in _RETRYABLE_STATUSES or status in _SERVER_ERRORS


def is_failure(finish_reason: JSONValue) -> bool:
    """Return True if a finish_reason tells that the answer failed at the provider."""
    if not isinstance(finish_reason, str):
        return False
    return finish_reason.partition(":")[0].lower() in _FAILED


def decode_error(
    status: int,
    body: bytes,
    *,
    retry_after: float | None = None,
    place: str = "",
    attempts: int = 1,
) -> ProviderError:
    """Return the error of an answer with an error status, or of a body that is not an answer."""
    quoted = body[:QUOTED_BODY_BYTES].decode(errors="replace")
    value = read_json(body)
    words, code, kind = _words(value)
    said = _one_line(words or quoted) or "with an empty body"
    sent = f"; the request was sent {attempts} times" if attempts > 1 else ""
    error = ProviderError(
        f"the provider answered {status}{place}: {said}{_WHAT_TO_DO.get(status, '')}{sent}",
        status=status,
        code=code,
        type=kind,
        param=_param(value),
        said=_one_line(words),
        body=quoted,
        retry_after=retry_after,
        retryable=is_retryable(status),
    )
    error.attempts = attempts
    return error


def find_error(answer: Mapping[str, JSONValue], *, is_answer: bool) -> ProviderError | None:
    """Return the error inside an answer with status 200, or None.

    If `is_answer`, the object has choices as well: then only an explicit `error` or the finish_reason
    of a failure is an error.
    """
    groq = answer.get("x_groq")
    if isinstance(groq, dict) and groq.get("error"):
        answer = {**answer, "error": groq["error"]}
    if not _holds_error(answer, is_answer=is_answer):
        return None
    body = json.dumps(answer, default=str, ensure_ascii=False)[:QUOTED_BODY_BYTES]
    words, code, kind = _words(dict(answer))
    reason = answer.get("finish_reason")
    has_failed = not words and is_failure(reason)  # mostly for a moment
    words = f"the finish_reason is {reason}" if has_failed else words
    has_status = code is not None and code.isdecimal() and is_retryable(int(code))
    return ProviderError(
        f"the provider sent an error inside its answer: {_one_line(words or body)}",
        status=_OK,
        code=code,
        type=kind,
        param=_param(dict(answer)),
        said=_one_line(words),
        body=body,
        retryable=has_status or has_failed,
    )


def _holds_error(answer: Mapping[str, JSONValue], *, is_answer: bool) -> bool:
    if answer.get("error") not in (None, False, "", {}, []):
        return True
    if is_answer:
        return is_failure(answer.get("finish_reason"))
    if answer.get("object") == "error":
        return True
    return ("message" in answer and "code" in answer) or "detail" in answer


def _words(value: JSONValue, depth: int = 0) -> tuple[str, str | None, str | None]:
    """Return message, code and type of an error in any form; the message may be ""."""
    if isinstance(value, list) and value and depth < _WRAPPINGS:
        return _words(value[0], depth + 1)
    if isinstance(value, str):
        return value, None, None
    if not isinstance(value, dict):
        return "", None, None
    inner = value.get("error") or value.get("errors")
    if isinstance(inner, dict | str | list) and inner and depth < _WRAPPINGS:
        words, code, kind = _words(inner, depth + 1)
        return words or _message(value), code or _code(value), kind
    named = value.get("type")
    return _message(value), _code(value), named if isinstance(named, str) else None


def _message(value: Mapping[str, JSONValue]) -> str:
    for name in ("message", "detail", "msg", "error_description"):
        said = value.get(name)
        if isinstance(said, str) and said:
            return said
        if isinstance(said, list) and said:
            return "; ".join(filter(None, (_detail(item) for item in said)))
    return ""


def _detail(item: JSONValue) -> str:
    """Return one entry of FastAPI's validation errors as a path and a text."""
    if not isinstance(item, dict):
        return str(item) if isinstance(item, str) else ""
    place = item.get("loc")
    path = ".".join(str(part) for part in place) if isinstance(place, list) else ""
    said = item.get("msg") or item.get("message")
    return f"{path}: {said}" if path else str(said or "")


def _code(value: Mapping[str, JSONValue]) -> str | None:
    code = value.get("code")
    if code is None:
        code = value.get("status_code")
    return str(code) if isinstance(code, str | int) and not isinstance(code, bool) else None


def _param(value: JSONValue) -> str | None:
    """Return the field that an error refers to; gateways wrap errors in others."""
    found = None
    for _ in range(_WRAPPINGS):
        value = value[0] if isinstance(value, list) and value else value
        if not isinstance(value, dict):
            break
        param = value.get("param")
        found = param if isinstance(param, str) and param else found
        value = value.get("error")
    return found


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SAID_CHARACTERS else line[:_SAID_CHARACTERS] + "..."
