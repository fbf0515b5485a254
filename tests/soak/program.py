"""Run an agent many times in one way, with tools, cancels and errors; tell what this process holds.

    python program.py blocking|asyncio|trio|served RUNS

The last line is JSON: the samples that were taken, and how many runs there were of each kind.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio

from soak.ways import SEEN, soak_async, soak_blocking


@contextmanager
def model() -> Iterator[str]:
    """Run the model in another process; return its address."""
    command = [sys.executable, str(Path(__file__).with_name("model_server.py"))]
    # Debug mode is for this process: there it would tell how slow a busy machine is.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONASYNCIODEBUG"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    ) as process:
        assert process.stdin
        assert process.stdout
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        process.stdin.close()


def main() -> None:
    """Soak, and tell."""
    way, runs = sys.argv[1], int(sys.argv[2])
    with model() as url:
        if way == "blocking":
            samples = soak_blocking(url, runs)
        elif way == "served":
            from soak.served import soak_served

            samples = anyio.run(soak_served, url, runs)
        else:
            samples = anyio.run(soak_async, url, runs, backend=way)
    print(json.dumps({"samples": samples, "seen": SEEN}))


if __name__ == "__main__":
    main()
