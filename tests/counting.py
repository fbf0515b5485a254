"""Work counted instead of timed, so that a busy machine changes nothing.

`work_of` runs a function and counts the lines that Python executes and the bytes that it
allocates. Code that copies or scans what came before shows in one of the two: a loop in Python as
lines, a copy in C as bytes.
"""

import gc
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

# A linear function does four times the work on four times the input, a quadratic one sixteen times.
TIMES = 4
LINEAR_MOST = 8


@dataclass
class Work:
    """Lines executed, and bytes allocated, freed or not."""

    lines: int = 0
    allocated: int = 0


def work_of(function: Callable[[], object], *, allocations: bool = True) -> Work:
    """Run a function and count its work in this thread."""
    work = Work()
    last = 0

    def count(_frame: FrameType, event: str, _: object) -> Any:
        nonlocal last
        if event == "line":  # also at each turn of a loop on one line
            work.lines += 1
        if allocations:
            now, peak = tracemalloc.get_traced_memory()
            work.allocated += max(0, peak - last)
            last = now
            tracemalloc.reset_peak()
        return count

    before = sys.gettrace()
    gc.collect()
    if allocations:
        tracemalloc.start()
    sys.settrace(count)
    try:
        function()
    finally:
        sys.settrace(before)
        tracemalloc.stop()
    return work


def check_linear(
    shape: Callable[[int], Callable[[], object]], size: int, *, allocations: bool = True
) -> None:
    """Fail if four times the size takes more than eight times the work."""
    shape(size)()  # fills caches
    small = work_of(shape(size), allocations=allocations)
    large = work_of(shape(TIMES * size), allocations=allocations)
    assert large.lines < LINEAR_MOST * small.lines, (small, large)
    assert large.allocated <= LINEAR_MOST * small.allocated, (small, large)
