"""Thousands of runs with tools, cancels and errors leave nothing behind, and nothing is warned of.

`make soak` makes 10,000 runs in each way; here are a few (`SOAK_RUNS`).
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from soak.ways import KINDS, SAMPLES, TOGETHER, Sample

RUNS = int(os.environ.get("SOAK_RUNS", "90"))
MANY = 1_000
PROGRAM = Path(__file__).with_name("program.py")

# What begins with the first runs (pools, caches, threads) is there after the first samples.
WARM = 3
MOST = 1.05
# Idle threads are kept for the next tool: as many as there are tools at once (two in each of eight
# runs), and one for each of ten connections of a store. How many that were varies with the timing.
MOST_THREADS = 1 + 2 * TOGETHER + 10
# As with those ten connections: SQLite holds two files open for each, the database and its log.
MOST_STORE_FILES = 2 * 10

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(60 + RUNS // 5),
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="counts what Linux tells"),
]


def soak(way: str, **environment: str) -> list[Sample]:
    """Run the program in a process of its own; a warning there is an error, or said."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(PROGRAM), way, str(RUNS)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode or done.stderr:
        pytest.fail(f"exit status {done.returncode}\n{done.stderr[-4000:]}")
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["seen"].keys() == set(KINDS)
    assert sum(told["seen"].values()) == RUNS // SAMPLES * SAMPLES
    samples: list[Sample] = told["samples"]
    return samples


def check_flat(samples: list[Sample]) -> None:
    """Compare the last samples with the first ones."""
    for what in samples[0]:
        before = max(sample[what] for sample in samples[:WARM])
        after = min(sample[what] for sample in samples[-WARM:])
        bound = {"threads": MOST_THREADS, "files": before * MOST + MOST_STORE_FILES}.get(
            what, before * MOST
        )
        assert after <= bound, (what, [sample[what] for sample in samples])


@pytest.mark.parametrize("way", ["blocking", "asyncio", "trio", "served"])
def test_runs_leave_nothing_behind(way: str) -> None:
    check_flat(soak(way))


def test_runs_on_asyncio_are_warned_of_nothing_in_debug_mode() -> None:
    soak("asyncio", PYTHONASYNCIODEBUG="1")


@pytest.mark.skipif(RUNS < MANY, reason="make soak runs it")
@pytest.mark.parametrize("way", ["asyncio", "served"])
def test_many_runs_leave_nothing_behind_in_debug_mode(way: str) -> None:
    check_flat(soak(way, PYTHONASYNCIODEBUG="1"))
