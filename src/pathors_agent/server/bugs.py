"""Log an exception that nobody foresaw: its kind and its place, never its text."""

import traceback

from pathors_agent.telemetry.events import emit

# The innermost calls; the rest is the way through the server.
_FRAMES = 5


def log_bug(event: str, error: BaseException, **fields: object) -> None:
    """Log where it came from: its text may hold what users wrote."""
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    where = " < ".join(
        f"{frame.name} ({frame.filename}:{frame.lineno})" for frame in reversed(frames)
    )
    emit(event, error=type(error).__name__, where=where, **fields)
