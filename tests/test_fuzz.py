"""A coverage-guided fuzzer finds no bytes that make the reader crash, hang or depend on cuts."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
QUIRKS = HERE / "conformance" / "quirks"
# About ten seconds: enough to notice that something broke; bugs are hunted by hand, for longer.
RUNS = 20_000


@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this Python"
)
def test_fuzzer_finds_nothing_in_a_short_run(tmp_path: Path) -> None:
    for case in sorted(QUIRKS.iterdir()):
        (tmp_path / case.name).write_bytes(b"\x10" + (case / "body.sse").read_bytes())
    command = [
        *(sys.executable, str(HERE / "fuzz_stream.py")),
        *(f"-runs={RUNS}", "-seed=1", "-max_len=3000", "-max_total_time=40"),
        str(tmp_path),
    ]

    # Measured coverage and a fuzzer's own would each see the other's work.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE")}

    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )

    assert done.returncode == 0, done.stderr[-3000:]
