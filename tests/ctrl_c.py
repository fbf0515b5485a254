"""Interrupt the main thread as Ctrl-C does, from a thread that does not know what it does just now."""

import signal
import threading
import time
from types import FrameType

# A signal that comes between Python's look for signals and its wait is noticed after the wait only.
SECONDS_UNTIL_REPEATED = 1.0


class CtrlC:
    """Sends SIGINT to the thread that made it, again and again until it was noticed once."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._noticed = threading.Event()
        self._pressing = threading.Lock()

    def __enter__(self) -> "CtrlC":
        self._before = signal.signal(signal.SIGINT, self._notice)
        return self

    def __exit__(self, *_: object) -> None:
        with self._pressing:  # no signal is sent from here on
            self._noticed.set()
        time.sleep(0)  # a signal that was just sent arrives with this system call
        signal.signal(signal.SIGINT, self._before)

    def press(self) -> None:
        """Send the signal; return once it was noticed."""
        while not self._noticed.wait(0):
            with self._pressing:
                if not self._noticed.is_set():
                    signal.pthread_kill(self._thread, signal.SIGINT)
            self._noticed.wait(SECONDS_UNTIL_REPEATED)

    def _notice(self, _signal: int, _frame: FrameType | None) -> None:
        if not self._noticed.is_set():
            self._noticed.set()
            raise KeyboardInterrupt
