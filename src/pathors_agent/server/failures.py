"""Log what failed, one warning for each failure: its cause, and never what users wrote.

The text of a bug's exception may hold anything, so only its class and its place are logged. The
words of a model's error are logged without keys and without pieces of the conversation.
"""

import re
import traceback
from collections.abc import Iterable

from pathors_agent.errors import ProviderError, StoreError, TransportError
from pathors_agent.server.problems import Problem, cut
from pathors_agent.telemetry.events import warn

# The innermost calls; the rest is the way through the server.
_FRAMES = 5

# Keys as providers make them, and the user and password of an address. Transports mask their own.
_SECRET = re.compile(
    r"(?i)\bbearer\s+\S+|\b(?:sk|dk|pk|rk|key|gsk|xai|hf|aiza)[-_]?[a-z0-9*][\w*.-]{7,}"
    r"|(?<=://)[^/\s@]+@"
)
_MASK = "***"

# Shorter pieces of a conversation are common words.
_QUOTED_CHARACTERS = 12


def log_bug(event: str, error: BaseException, **fields: object) -> None:
    """Log an exception that the server does not expect: its class and its place."""
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
    """Log why a turn failed; `status` is what the client gets, `contents` are not to be logged."""
    fields: dict[str, object] = {"project": project, "session": session, "status": int(status)}
    match error:
        case ProviderError():
            fields |= {"model_status": error.status, "code": _word(error.code)}
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


def _word(code: str | None) -> str | None:
    """Return a provider's error code, if it is one word."""
    return code if code is not None and re.fullmatch(r"[\w.-]{1,64}", code) else None


def without_contents(text: str, contents: Iterable[str]) -> str:
    """Mask pieces of a text, from one word's start to another's end, that stand in the contents."""
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
    """Return where the longest piece ends that begins here and stands in a content; 0 if none."""
    longest = 0
    for content in contents:
        end = start + _QUOTED_CHARACTERS
        while end <= len(text) and text[start:end] in content:
            longest = max(longest, end)
            end += 1
    return longest
