"""A run that is killed anywhere comes to the end of the run that never was.

`PATHORS_EVERY_KILL=1` kills at every boundary, instead of each fifth.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).parent / "killing.py"
STRIDE = 1 if os.environ.get("PATHORS_EVERY_KILL") else 5

# What a call gives, by its effect; `write` is neither idempotent nor can it be reconciled.
WRITES = {"tool/0/0": "a", "tool/0/1": "b", "tool/2/0": "d"}
CHARGES = ["tool/1/0 1", "tool/1/1 2"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
def story(database: str, tmp_path: Path) -> dict[str, Any]:
    """Kill the run again and again; tell what came of it."""
    command = [sys.executable, str(PROGRAM), database, str(tmp_path), str(STRIDE)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def test_run_killed_anywhere_ends_as_the_run_that_never_was(story: dict[str, Any]) -> None:
    whole = story["whole"]
    assert [m["role"] for m in whole["messages"]] == [
        "user",
        *("assistant", "tool", "tool", "tool"),
        *("assistant", "tool", "tool"),
        *("assistant", "tool"),
        "assistant",
    ]
    assert len(whole["passed"]) > 50
    assert len(story["kills"]) >= len(whole["passed"]) // 5

    for kill in story["kills"]:
        where = f"boundary {kill['boundary']}: {whole['passed'][kill['boundary'] - 1]}"
        assert kill["signals"] == [9, 0], where

        # A write that had begun and has no result on record is in doubt, and nothing else is.
        in_doubt = [effect for effect in kill["begun"] if effect in WRITES]
        assert kill["in_doubt"] == in_doubt, where
        assert without_doubtful(kill["messages"]) == without(whole["messages"], in_doubt), where

        run = f"agent/run-{kill['boundary']}"
        for effect, line in WRITES.items():
            times = kill["lines"].count(f"{run}/{effect} {line}")
            assert times == 1 or (times == 0 and effect in in_doubt), where
        assert kill["ledger"] == [f"{run}/{charge}" for charge in CHARGES], where
        assert set(kill["put"]) == {f"{run}/tool/0/2 c"}, where
        assert len(kill["put"]) == 1 or "tool/0/2" not in kill["recorded"], where


def without(messages: list[dict[str, Any]], effects: list[str]) -> list[dict[str, Any]]:
    """Leave out the results of calls: they came in this order."""
    ids = ["tool/0/0", "tool/0/1", "tool/0/2", "tool/1/0", "tool/1/1", "tool/2/0"]
    left_out = {f"call_{ids.index(effect) + 1}" for effect in effects}
    return [m for m in messages if m.get("tool_call_id") not in left_out]


def without_doubtful(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [message for message in messages if message.get("outcome") != "unknown"]
