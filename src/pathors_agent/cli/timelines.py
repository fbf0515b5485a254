"""Draw what was called in a conversation into a file, one chart for each answer."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, Self

from pathors_agent.cli.output import write_note
from pathors_agent.views.timeline import Chart, TimedCall, page

# A title is a line.
_TITLE_CHARACTERS = 100


class TimelineFile:
    """A file with the charts of a conversation, written when the `with` block ends.

    Without a path it draws nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._charts: list[Chart] = []

    def add(self, prompt: str, calls: Sequence[TimedCall]) -> None:
        """Add what was called to answer a prompt."""
        title = " ".join(prompt.split())
        cut = title if len(title) <= _TITLE_CHARACTERS else f"{title[:_TITLE_CHARACTERS]}..."
        self._charts.append(Chart(cut, f"Answer {len(self._charts) + 1}", calls))

    def __enter__(self) -> Self:
        self._write()  # a file that cannot be written is told of now
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._write()
        if self._path is not None and kind is None:
            write_note(f"{self._path} shows what was called.")

    def _write(self) -> None:
        if self._path is not None:
            self._path.write_text(page(*self._charts), encoding="utf-8")


class ServerCalls:
    """The times of a server's own tools, as far as the server tells of them."""

    def __init__(self) -> None:
        self.times: list[TimedCall] = []
        self._begun: dict[str, tuple[str, float]] = {}

    def take(self, activity: Mapping[str, Any]) -> None:
        """Take what a server says: a call was begun, or gave its result."""
        match activity:
            case {"call": {"id": str() as id, "function": {"name": str() as name}}}:
                self._begun[id] = name, monotonic()
            case {"result": {"tool_call_id": str() as id} as result} if id in self._begun:
                name, start = self._begun.pop(id)
                outcome = str(result.get("outcome", "value"))
                self.times.append(TimedCall("tool", name, id, start, monotonic(), outcome))
            case _:
                pass
