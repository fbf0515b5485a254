"""Open and close the resources of an agent, and bound the end of a process."""

import _thread
import os
import threading
from collections.abc import Callable
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    ExitStack,
    suppress,
)
from typing import Any, NoReturn, Self


class OneProcess:
    """An object with connections or threads: it can be neither pickled nor copied."""

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__} cannot be pickled or copied, because its connections belong to "
            "one process: create it where it is used"
        )


class Lifetime:
    """A `with` block that opens and closes those of `_given` that are context managers."""

    _given: tuple[object, ...]

    def __enter__(self) -> Self:
        with ExitStack() as exits:
            for given in self._given:
                if isinstance(given, AbstractContextManager):
                    exits.enter_context(given)
            self._exits = exits.pop_all()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._exits.__exit__(*raised)


class AsyncLifetime:
    """A `Lifetime` for `async with`."""

    _given: tuple[object, ...]

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as exits:
            for given in self._given:
                if isinstance(given, AbstractAsyncContextManager):
                    await exits.enter_async_context(given)
            self._exits = exits.pop_all()
        return self

    async def __aexit__(self, *raised: Any) -> None:
        await self._exits.__aexit__(*raised)


# Stores, transports and connections close within milliseconds, or hang.
CLOSE_SECONDS = 3.0

_DID_NOT_END = b"error: the process was ended, because a tool still ran in it\n"


def end_process_within(seconds: float) -> Callable[[], None]:
    """End this process with status 1 after `seconds`, unless the returned function is called.

    For programs that shut down: neither a thread nor an event loop that a tool blocks can be
    stopped, and Python waits for some threads before it exits. May be called in a signal handler.
    """
    has_ended = threading.Event()

    def watch() -> None:
        if not has_ended.wait(seconds):
            with suppress(OSError):
                os.write(2, _DID_NOT_END)  # `sys.stderr` may be locked by what hangs
            os._exit(1)

    # `threading` takes a lock that the interrupted code may hold.
    _thread.start_new_thread(watch, ())
    return has_ended.set
