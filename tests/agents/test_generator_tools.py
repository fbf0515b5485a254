"""A sync generator reports while it runs, in a thread that stops at its next report."""

import threading
from collections.abc import Callable, Generator, Iterator
from functools import wraps
from itertools import count
from typing import Any

import pytest

from pathors_agent import Tool, ToolDefinitionError, ToolError, ToolMessage, ToolProgressDelta, tool
from pathors_agent.agents.perform.calls import MAX_WAITING_REPORTS
from pathors_agent.testing import calls, check_tool
from process_tools import count_in_steps
from servers import PATIENCE_SECONDS
from ways import WAYS, Way

ways = pytest.mark.parametrize("way", WAYS)


def reported(way: Way) -> list[object]:
    return [item.value for item in way.items if isinstance(item, ToolProgressDelta)]


def results(way: Way) -> list[str]:
    return [item.text for item in way.items if isinstance(item, ToolMessage)]


def yields_its_result() -> Iterator[int]:
    yield 1
    yield 2
    yield 3


def returns_its_result() -> Generator[int, None, str]:
    yield 1
    yield 2
    return "3"


def only_returns() -> Generator[int, None, str]:
    return "3"
    yield


def yields_nothing() -> Iterator[int]:
    yield from ()


class Steps:
    def __call__(self) -> Iterator[int]:
        yield from (1, 2, 3)


def fails() -> Iterator[int]:
    yield 1
    yield 2
    raise ToolError("no 3")


def stops_by_hand() -> Iterator[int]:
    yield 1
    yield 2
    next(iter(()))  # a StopIteration inside a generator is an error of the generator


KINDS: list[tuple[Callable[..., Any], list[int], str]] = [
    (yields_its_result, [1, 2], "3"),
    (returns_its_result, [1, 2], "3"),
    (only_returns, [], "3"),
    (yields_nothing, [], "done (no value)"),
    (Steps(), [1, 2], "3"),
    (fails, [1], "no 3"),
    (stops_by_hand, [1], "RuntimeError: generator raised StopIteration"),
]


@ways
@pytest.mark.parametrize(("function", "progress", "result"), KINDS, ids=[str(k) for k in range(7)])
def test_values_are_progress_and_the_last_is_the_result(
    way: str, function: Callable[..., Any], progress: list[int], result: str
) -> None:
    made = Tool.from_function(function, name="steps", description="Go in steps.")
    steps = Way(way)

    steps.stream(calls(("steps", {})), "Done.", prompt="Go.", tools=[made])

    assert reported(steps) == progress
    assert results(steps) == [result]


@ways
def test_two_generators_of_one_answer_both_report(way: str) -> None:
    steps = Way(way)
    made = [Tool.from_function(yields_its_result, name=name) for name in "ab"]

    steps.stream(calls(("a", {}), ("b", {})), "Done.", prompt="Go.", tools=made)

    assert sorted(reported(steps), key=str) == [1, 1, 2, 2]
    assert results(steps) == ["3", "3"]


@ways
def test_all_steps_run_in_one_thread(way: str) -> None:
    threads = set()

    @tool
    def steps() -> Iterator[int]:
        """Go in steps."""
        for number in range(50):
            threads.add(threading.get_ident())
            yield number

    Way(way).stream(calls(("steps", {})), "Done.", prompt="Go.", tools=[steps])

    assert len(threads) == 1


@ways
def test_wrapped_generator_has_its_last_value_as_result(way: str) -> None:
    @wraps(yields_nothing)
    def wrapped() -> object:
        return yields_its_result()

    del wrapped.__wrapped__  # as a plain decorator leaves it
    made = Tool.from_function(wrapped, name="steps")
    run = Way(way).run(calls(("steps", {})), "Done.", prompt="Go.", tools=[made])

    assert run.messages[2].text == "3"


@ways
def test_generator_waits_for_a_slow_reader(way: str) -> None:
    begun: list[int] = []

    @tool
    def steps() -> Iterator[int]:
        """Go in steps."""
        for number in range(10 * MAX_WAITING_REPORTS):
            begun.append(number)
            yield number

    ahead: list[int] = []
    steps_read = Way(way)
    steps_read.stream(
        calls(("steps", {})),
        "Done.",
        prompt="Go.",
        tools=[steps],
        act=lambda number, stream: ahead.append(len(begun) - len(reported(steps_read))),
    )

    assert len(begun) == 10 * MAX_WAITING_REPORTS
    # Those that wait, the one that is given, the one held back as a possible result, and one more.
    assert max(ahead) <= MAX_WAITING_REPORTS + 3


@ways
def test_stream_that_is_left_closes_the_generator(way: str) -> None:
    closed = threading.Event()

    @tool
    def steps() -> Iterator[int]:
        """Go in steps, without an end."""
        try:
            yield from count()
        finally:
            closed.set()

    left = Way(way)
    left.stream(
        calls(("steps", {})),
        prompt="Go.",
        tools=[steps],
        act=lambda number, stream: stream.cancel() if len(reported(left)) == 3 else None,
    )

    assert closed.wait(PATIENCE_SECONDS)
    assert len(reported(left)) >= 3


@ways
def test_generator_that_is_out_of_time_stops_at_its_next_report(way: str) -> None:
    begun, late, closed = threading.Event(), threading.Event(), threading.Event()

    @tool(timeout=0.05)
    def steps() -> Iterator[int]:
        """Go in steps."""
        begun.set()
        try:
            yield 1
            assert late.wait(PATIENCE_SECONDS)
            yield 2
            raise AssertionError("it went on")
        finally:
            closed.set()

    while not begun.is_set():  # on a busy machine its thread may start after the timeout
        result = Way(way).run(calls(("steps", {})), "Done.", prompt="Go.", tools=[steps])
    late.set()

    message = result.messages[2]
    assert isinstance(message, ToolMessage)
    assert (message.outcome, message.text[:12]) == ("timeout", "Not finished")
    assert closed.wait(PATIENCE_SECONDS)


def test_process_reports_no_progress() -> None:
    with pytest.raises(ToolDefinitionError, match=r"run_in should be a thread: .* cannot report"):
        Way("blocking").run("Hi.", tools=[tool(run_in="process")(count_in_steps)])


def test_generator_passes_the_check_of_tools() -> None:
    check_tool(tool(name="steps", description="Go in steps.")(returns_its_result))
