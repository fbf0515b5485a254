"""Look at open answers now and then, with one timer of asyncio's loop for all of them."""

import asyncio
from time import monotonic
from typing import Protocol

# A read may wait so long for a connection that broke unnoticed; limits of time are kept exactly.
LOOK_SECONDS = 1.0


class Watched(Protocol):
    """What is looked at."""

    def look(self, now: float) -> float:
        """Act where something is wrong; say when to look again at the latest."""


class Watch:
    """Looks at those that were begun until they are ended."""

    def __init__(self) -> None:
        self._watched: set[Watched] = set()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, watched: Watched) -> None:
        """Look now, and from now on; also where the next look must be sooner than was said."""
        self._watched.add(watched)
        self._come_by(watched.look(monotonic()))

    def end(self, watched: Watched) -> None:
        """Look no more."""
        self._watched.discard(watched)

    def _come_by(self, when: float) -> None:
        when = min(when, monotonic() + LOOK_SECONDS)
        if self._timer is None or when < self._timer.when():
            if self._timer:
                self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_at(when, self._look)

    def _look(self) -> None:
        self._timer = None
        now = monotonic()
        if whens := [watched.look(now) for watched in self._watched]:
            self._come_by(min(whens))
