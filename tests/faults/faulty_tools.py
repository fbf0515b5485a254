"""Tools that go wrong, each in its way, wherever they run; the first thing they do is to count."""

import asyncio
import concurrent.futures
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import anyio

from pathors_agent.errors import ConversationError, ProviderError, ToolError, TransportError

GIGABYTE = 2**30

MAY_END = threading.Event()
"""Set by a test when it lets go of what hangs."""


def count(path: str) -> None:
    with Path(path).open("a") as file:
        file.write("run\n")


# - what is raised -


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("nothing to say")


class Wordless(Exception):
    def __str__(self) -> str:
        return 5  # type: ignore[return-value]  # noqa: PLE0307  (that is what is wrong with it)


class Endless(Exception):
    def __str__(self) -> str:
        return str(self)


class Half(Exception):
    def __str__(self) -> str:
        return "half of \ud83d"


class _Hidden(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]  # that, too
        raise RuntimeError("no name")


class Nameless(Exception, metaclass=_Hidden):
    pass


class OfMyOwn(ToolError):
    """Its author did not think of `super().__init__`."""

    def __init__(self, city: str) -> None:
        self.city = city

    def __str__(self) -> str:
        return f"There is no {self.city}."


class Outsider(BaseException):
    pass


def recurse() -> int:
    return recurse() + 1


RAISED: dict[str, Callable[[], BaseException]] = {
    "value": lambda: ValueError("no such day"),
    "key": lambda: KeyError("day"),
    "group": lambda: ExceptionGroup("two", [ValueError("a"), KeyError("b")]),
    "memory": MemoryError,
    "timeout": lambda: TimeoutError("the clock's own"),
    "end of an async iterator": StopAsyncIteration,
    "bytes": lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
    "transport": lambda: TransportError("not the model's"),
    "provider": lambda: ProviderError("not the model's", status=500),
    "conversation": lambda: ConversationError("not the run's"),
    "long": lambda: ValueError("x" * 1_000_000),
    "lines": lambda: ValueError('"}]\n\ndata: [DONE]\n\n'),
    "mute": Mute,
    "wordless": Wordless,
    "endless": Endless,
    "half": Half,
    "nameless": lambda: Nameless("its words"),
    "told": lambda: ToolError("Ask for a day."),
    "of my own": lambda: OfMyOwn("Atlantis"),
    "future": lambda: concurrent.futures.CancelledError("another's"),
    "cancelled": lambda: asyncio.CancelledError("another's"),
    "closed": GeneratorExit,
    # - what is no failure -
    "exit": lambda: SystemExit(3),
    "interrupt": KeyboardInterrupt,
    "outsider": Outsider,
}


def fail(path: str, how: str) -> NoReturn:
    count(path)
    raise RAISED[how]()


def fail_by_recursion(path: str) -> int:
    count(path)
    return recurse()


# - what ends the process -

ENDINGS: dict[str, Callable[[], object]] = {
    "exits at once": lambda: os._exit(3),
    "exits in good order": lambda: os._exit(0),
    "exits politely": lambda: sys.exit(4),
    "is killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "reads at address 0": lambda: ctypes.string_at(0),
}


def end(path: str, how: str) -> object:
    count(path)
    return ENDINGS[how]()


# - what hangs -


def hang(path: str) -> str:
    count(path)
    while not MAY_END.wait(60):
        pass
    return "too late"


async def wait(path: str) -> str:
    count(path)
    await anyio.sleep_forever()
    return "never"


async def ignore(path: str) -> str:
    count(path)
    # The shield holds against trio; asyncio's own cancel() passes through it.
    with anyio.CancelScope(shield=True):
        while not MAY_END.is_set():
            with suppress(asyncio.CancelledError):
                await anyio.sleep(0.01)
    return "too late"


def let_go() -> None:
    MAY_END.set()


def hang_and_ignore(path: str) -> NoReturn:
    """Ignore, in a process of its own, what can be ignored."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    count(path)
    while True:
        time.sleep(60)


# - what is too much -


def _inside_itself() -> object:
    value: list[Any] = []
    value.append(value)
    return value


def _deep() -> object:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    return value


GIVEN: dict[str, Callable[[], object]] = {
    "a gigabyte of bytes": lambda: bytes(GIGABYTE),
    "a gigabyte in a list": lambda: ["x" * 2**20] * 2**10,
    "a gigabyte of numbers": lambda: range(2**30),
    "itself": _inside_itself,
    "100,000 levels": _deep,
    "a number of 10,000 digits": lambda: 10**10_000,
}


def give(path: str, what: str) -> object:
    count(path)
    return GIVEN[what]()
