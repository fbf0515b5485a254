"""Interrupt the main thread as Ctrl-C does, from a thread that does not know what it does just now."""

import signal
import threading
from types import FrameType

# A signal that comes between Python's look for signals and its wait is noticed after the wait only.
SECONDS_UNTIL_REPEATED = 1.0


class CtrlC:
    """Sends SIGINT to the thread that made it, again and again until it was noticed once."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._noticed = threading.Event()

    def __enter__(self) -> "CtrlC":
        self._before = signal.signal(signal.SIGINT, self._notice)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def press(self) -> None:
        """Send the signal; return once it was noticed."""
        while not self._noticed.is_set():
            signal.pthread_kill(self._thread, signal.SIGINT)
            self._noticed.wait(SECONDS_UNTIL_REPEATED)

    def _notice(self, _signal: int, _frame: FrameType | None) -> None:
        if not self._noticed.is_set():
            self._noticed.set()
            raise KeyboardInterrupt
