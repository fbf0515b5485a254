"""Run one tool call in a process of its own: the child's side.

The parent starts this file as a script, so the file imports only the standard library. It reads two
pickles from its standard input (a `ProcessRequest`, the arguments) and writes one to its standard
output: the value of the function, or the text of its error.
"""

import atexit
import contextlib
import io
import os
import pickle
import select
import signal
import sys
import threading
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from typing import Any, BinaryIO, Literal, NoReturn, TypedDict

# Far above what a model reads (20,000 characters), and small enough for the parent.
MAX_ANSWER_BYTES = 16 * 1024 * 1024
# The parent cuts them further.
MAX_ERROR_CHARACTERS = 10_000


class ProcessRequest(TypedDict):
    """How the child finds the function: its module, its name and the import path."""

    path: list[str]
    module: str
    name: str
    memory: int | None


ProcessAnswer = tuple[Literal["value"], Any] | tuple[Literal["error"], str, bool]
"""A value, or the text of an error and whether it is retryable."""


def main() -> None:
    """Read a call, run it and write its answer."""
    requests, answers = _take_pipes()
    try:
        request: ProcessRequest = pickle.load(requests)  # noqa: S301
        sys.path[:] = request["path"]
        arguments = requests.read(int.from_bytes(requests.read(8), "big"))
        _end_with_parent(requests.fileno())
        written = _written(_answer(request, arguments))
    except EOFError:  # the parent is gone
        return
    # Exit handlers run before the answer is written: the parent kills this process afterwards.
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    with open(answers, "wb") as file:  # noqa: PTH123  (a descriptor)
        file.write(written)
    os._exit(0)


def _take_pipes() -> tuple[BinaryIO, int]:
    """Hide the pipes from the tool: its stdin is empty, and its stdout goes to stderr."""
    requests, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    if hasattr(os, "register_at_fork"):  # the parent reads until all copies of the pipe are closed
        os.register_at_fork(after_in_child=partial(os.dup2, 0, answers))
    return open(requests, "rb"), answers  # noqa: PTH123


# - the end of the parent -


def _end_with_parent(pipe: int) -> None:
    """Kill the whole process group when the parent's end of the pipe is closed."""
    try:
        import fcntl

        # On Linux the kernel sends the signal, even while the tool holds the interpreter's lock.
        fcntl.fcntl(pipe, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(pipe, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)
    except (ImportError, AttributeError, OSError):  # not on Linux
        threading.Thread(target=_wait_for_end, args=(pipe,), daemon=True).start()
    else:
        if select.select([pipe], [], [], 0)[0]:  # closed before the kernel was asked
            _kill_group()


def _wait_for_end(pipe: int) -> None:
    os.read(pipe, 1)
    _kill_group()


def _kill_group() -> NoReturn:
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


# - the call -


def _answer(request: ProcessRequest, arguments: bytes) -> ProcessAnswer:
    try:
        function = getattr(import_module(request["module"]), request["name"])
        kwargs = pickle.loads(arguments)  # noqa: S301
        with _limited_memory(request["memory"]):
            return "value", _finished(function(**kwargs))
    except MemoryError as error:
        return _too_much(error, request["memory"])
    except Exception as error:  # noqa: BLE001  (as in `calls`)
        return _raised(error)


def _finished(value: Any) -> Any:
    """Return a function's value, awaited if it is an awaitable."""
    if not hasattr(type(value), "__await__"):
        return value
    import asyncio

    async def wait() -> Any:
        return await value

    return asyncio.run(wait())


@contextlib.contextmanager
def _limited_memory(memory: int | None) -> Iterator[None]:
    """Limit the process's address space inside the block."""
    if memory is None:
        yield
        return
    try:
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (memory, hard))
    except (ImportError, OSError, OverflowError, ValueError) as error:  # Windows, macOS, too high
        where = f"on this system ({sys.platform})"
        reason = f"memory={memory} of the tool cannot be enforced {where}: {error}"
        raise RuntimeError(f"{reason}. The tool was not run") from None
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the tool lowered the hard limit itself
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _too_much(error: MemoryError, memory: int | None) -> ProcessAnswer:
    if memory is None:
        return _raised(error)
    return "error", f"MemoryError: it may take {memory:,} bytes of memory, and wanted more.", True


def _raised(error: Exception) -> ProcessAnswer:
    kind = type(error).__name__
    said = text_of_error(error)
    module = sys.modules.get("pathors_agent.errors")
    if module is not None and isinstance(error, module.ToolError):
        return "error", (said if said.strip() else kind)[:MAX_ERROR_CHARACTERS], error.retryable
    text = f"{kind}: {said}" if said.strip() else kind
    return "error", text[:MAX_ERROR_CHARACTERS], True


def text_of_error(error: BaseException) -> str:
    """Return the text of an exception and of its notes; for a group, of its exceptions as well."""
    try:
        lines = [str(error), *map(str, getattr(error, "__notes__", ()))]
        inner = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
        texts = (f"- {type(each).__name__}: {text_of_error(each)}" for each in inner)
        lines += (text.removesuffix(": ") for text in texts)
    except Exception as second:  # noqa: BLE001  (an exception's own __str__ may raise)
        return f"(its text could not be read: {type(second).__name__})"
    return "\n".join(lines)


# - the answer -


class _TooLarge(Exception):
    pass


class _Bounded(io.BytesIO):
    """A buffer of at most `MAX_ANSWER_BYTES`."""

    def write(self, data: Any, /) -> int:
        if self.tell() + memoryview(data).nbytes > MAX_ANSWER_BYTES:
            raise _TooLarge
        return super().write(data)


def _written(answer: ProcessAnswer) -> bytes:
    file = _Bounded()
    try:
        pickle.dump(answer, file)
    except _TooLarge:
        text = f"Its result is larger than {MAX_ANSWER_BYTES:,} bytes; it should return less."
        return pickle.dumps(("error", text, True))
    except Exception as error:  # noqa: BLE001  (a value's own methods may raise anything)
        kind, problem = type(answer[1]).__name__, type(error).__name__
        text = f"It ran, but its result (a {kind}) cannot be sent from its process ({problem})."
        return pickle.dumps(("error", text, True))
    return file.getvalue()


if __name__ == "__main__":
    main()
