"""Run a tool call in a process of its own, which can be killed: the parent's side."""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from pathors_agent.agents.perform import child
from pathors_agent.agents.perform.tasks import STOP_SECONDS, out_of_time
from pathors_agent.agents.perform.threads import ThreadTask
from pathors_agent.errors import ToolError
from pathors_agent.tools.interpreter import no_python, python_executable
from pathors_agent.tools.signature import NO_LOG, ToolContext
from pathors_agent.tools.tool import Tool


class ToolProcess:
    """One call in a process of its own.

    The process and its descendants are killed when the call times out, is stopped or has answered,
    and when this process ends for any reason. A `ToolContext` is sent to it if its values can be
    pickled; its log drops all events.
    """

    def __init__(self, tool: Tool, kwargs: dict[str, Any]) -> None:
        self._tool = tool
        self._kwargs = kwargs
        self._lock = threading.Lock()
        self._stopped = False
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, seconds: float | None) -> object:
        """Run the call for at most `seconds`; return its value or raise its error."""
        timed_out = threading.Event()

        def time_out() -> None:
            timed_out.set()
            self.stop()

        request = _request(self._tool, self._kwargs)
        with _timer(seconds, time_out):
            answer, status = self._exchange(request)
        if seconds is not None and timed_out.is_set():
            raise out_of_time(seconds, "its process was killed")
        return _value(self._tool, answer, status)

    def stop(self) -> None:
        """Kill the process, or prevent its start. May be called from any thread."""
        with self._lock:
            self._stopped = True
            if self._process is not None:
                _kill(self._process)

    def _exchange(self, request: bytes) -> tuple[bytes, int]:
        """Return the answer of the process, empty if it wrote none, and its exit status."""
        process = self._start()
        if process is None:
            return b"", -signal.SIGTERM
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # it has died; its status tells why
                process.stdin.write(request)
                process.stdin.flush()
            # The pipe stays open: its end tells the process that its parent has died.
            answer = process.stdout.read(child.MAX_ANSWER_BYTES)
        finally:
            status = self._end(process)
        return answer, status

    def _start(self) -> subprocess.Popen[bytes] | None:
        with self._lock:
            if self._stopped:
                return None
            python = python_executable()
            if python is None:
                raise ToolError(f"Not run: it {no_python()}.")
            self._process = subprocess.Popen(  # noqa: S603  (our own file)
                # -P: the package's folder must not shadow the standard library.
                [python, "-P", child.__file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,  # a group of its own, to be killed as one
            )
            return self._process

    def _end(self, process: subprocess.Popen[bytes]) -> int:
        with self._lock:  # after `wait`, another process may have its id
            _kill(process)
            status = process.wait()
            self._process = None
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        return status


async def run_in_process(process: ToolProcess, seconds: float | None) -> object:
    """Run a call from async code; a cancellation kills its process and waits for its end."""
    task = ThreadTask(partial(process.run, seconds))
    task.start()
    try:
        await task.wait(None)
    except BaseException:
        process.stop()
        await task.wait_shielded(STOP_SECONDS)
        raise
    return task.result()


@contextlib.contextmanager
def _timer(seconds: float | None, function: Callable[[], None]) -> Iterator[None]:
    """Call a function from another thread after `seconds`, unless the block ends earlier."""
    if seconds is None:
        yield
        return
    timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), function)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def _kill(process: subprocess.Popen[bytes]) -> None:
    if sys.platform == "win32":
        process.kill()
    else:
        # macOS raises PermissionError for a group that has died and was not waited for.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def _request(tool: Tool, kwargs: dict[str, Any]) -> bytes:
    function = tool.function
    assert function is not None
    head: child.ProcessRequest = {
        "path": sys.path,
        "module": function.__module__,
        "name": function.__qualname__,
        "memory": tool.memory,
    }
    try:
        arguments = pickle.dumps({name: _sent(value) for name, value in kwargs.items()})
    except Exception as error:
        kind = type(error).__name__
        raise ToolError(
            f"Not run: its arguments, or the run's context, cannot be sent to a process ({kind})."
        ) from error
    return pickle.dumps(head) + len(arguments).to_bytes(8, "big") + arguments


def _sent(value: object) -> object:
    return replace(value, log=NO_LOG) if isinstance(value, ToolContext) else value


def _value(tool: Tool, written: bytes, status: int) -> object:
    """Return the value of an answer, or raise its error."""
    if not written:
        raise ToolError(f"Its process {_ending(tool, status)} before it gave a result.")
    try:
        answer: child.ProcessAnswer = pickle.loads(written)  # noqa: S301  (from our own child)
    except Exception as error:
        raise ToolError(
            f"It ran, but its result cannot be read from its process ({type(error).__name__})."
        ) from error
    if answer[0] == "value":
        return answer[1]
    raise ToolError(answer[1], retryable=answer[2])


def _ending(tool: Tool, status: int) -> str:
    if status >= 0:
        ending = f"ended with exit code {status}"
    else:
        ending = f"was killed by {_signal_name(-status)}"
    if tool.memory is not None:
        ending += f" (it may take {tool.memory:,} bytes of memory)"
    return ending


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
