"""Tools that run in processes of their own, which find them here by name."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from pathors_agent.errors import ToolError
from pathors_agent.tools.signature import ToolContext


def double(number: int) -> int:
    return number * 2


def where() -> dict[str, int]:
    return {"process": os.getpid(), "parent": os.getppid(), "group": os.getpgrp()}


def write_pid(path: str) -> None:
    Path(path).write_text(str(os.getpid()))


def hang(path: str) -> NoReturn:
    write_pid(path)
    while True:
        time.sleep(60)


def hang_without_the_lock(path: str) -> None:
    """Keep the interpreter's lock, so that no other thread of the process runs."""
    write_pid(path)
    re.match(r"(a+)+$", "a" * 100 + "b")


def ignore_sigterm(path: str) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    hang(path)


def start_another(path: str) -> NoReturn:
    """Hang beside a process of our own, and write that one's id."""
    code = f"import process_tools; process_tools.hang({path!r})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", code], env=environment):
        while True:
            time.sleep(60)


def leave_a_fork() -> int:
    """Return while a copy of the process goes on."""
    if pid := os.fork():
        return pid
    while True:
        time.sleep(60)


def leave_another() -> int:
    """Return while a process of our own goes on."""
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid


def raise_value_error() -> NoReturn:
    raise ValueError("no such day")


def raise_tool_error(retryable: bool) -> NoReturn:
    raise ToolError("Ask for a day.", retryable=retryable)


def raise_without_text() -> NoReturn:
    raise KeyError


class NeedsTwo(Exception):
    """Pickled, but never unpickled."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def raise_unpicklable() -> NoReturn:
    raise NeedsTwo(1, 2)


def exit_at_once(code: int) -> NoReturn:
    os._exit(code)


def exit_politely(code: int) -> NoReturn:
    sys.exit(code)


def kill_itself(number: int) -> None:
    os.kill(os.getpid(), number)


def recurse() -> int:
    return recurse() + 1


def take(count: int) -> int:
    return len(bytearray(count))


def give(count: int) -> bytes:
    return bytes(count)


def give_unpicklable() -> Callable[[], None]:
    return lambda: None


class Odd:
    """Pickled as a call that fails."""

    def __reduce__(self) -> Any:
        return int, ("no number",)


def give_odd() -> Odd:
    return Odd()


def give_beside_a_thread() -> str:
    threading.Thread(target=time.sleep, args=(600,)).start()
    return "given"


def talk() -> str:
    print("said to stdout")
    print("said to stderr", file=sys.stderr)
    return sys.stdin.read()


def tell_context(context: ToolContext[Any]) -> list[Any]:
    context.log.info("told")
    assert context.deadline is not None
    left = context.deadline - time.monotonic()
    return [context.context, context.session_id, context.call.id, context.key, left]


def at_exit(path: str) -> str:
    import atexit

    atexit.register(write_pid, path)
    return "done"


async def wait() -> None:
    pass


async def wait_in_parts() -> AsyncIterator[int]:
    yield 1


class Methods:
    @staticmethod
    def static() -> None:
        pass

    def bound(self) -> None:
        pass


def nested() -> Callable[[], None]:
    def inner() -> None:
        pass

    return inner


unnamed = lambda: None  # noqa: E731  (a function without a name)


def wait_inside(number: int) -> Any:
    async def wait() -> int:
        return number

    return wait()


def count_in_steps(up_to: int) -> Iterator[int]:
    """Count in steps."""
    yield from range(up_to)
