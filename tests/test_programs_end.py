"""A tool that cannot be stopped keeps no program from ending."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from servers import PATIENCE_SECONDS

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).parent / "ending_program.py"


def started(way: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), way],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    "way",
    [
        "on_asyncio",
        "on_trio",
        "in_blocking_code",
        "deaf_in_blocking_code",
        "left_in_blocking_code",
        "left_by_an_agent_that_is_kept",
        "cut_off_by_a_deadline",
        "in_another_thread",
    ],
)
def test_program_ends_though_its_tool_hangs(way: str) -> None:
    with started(way) as process:
        try:
            output, errors = process.communicate(timeout=PATIENCE_SECONDS)
        finally:
            process.kill()

    assert (output, errors, process.returncode) == ("begun\nDone.\n", "", 0)


@pytest.mark.parametrize("way", ["interrupted", "interrupted_blocking_code"])
def test_ctrl_c_ends_a_program_whose_tool_hangs(way: str) -> None:
    with started(way) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=PATIENCE_SECONDS)
        finally:
            process.kill()

    assert errors.strip().endswith("KeyboardInterrupt")
    assert process.returncode == -signal.SIGINT
