"""litellm, which wants an openai of its own: the same bouts in an environment of its own."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

from benchmarks.peers import LiteLLM, available
from benchmarks.results import Cost, Measured, Row, Settings

NAME = "litellm"

ROOT = Path(__file__).parent.parent
PYTHON = ROOT / ".venvs" / "bench-litellm" / "bin" / "python"


def run(settings: Settings) -> Measured:
    """Measure in the other environment, where there is one."""
    if not PYTHON.exists():
        return Measured(skipped=["litellm: its environment is absent; `make bench` makes it"])
    command = [str(PYTHON), "-m", "benchmarks.litellm_peer", *(["--quick"] * settings.quick)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        return Measured(skipped=[f"litellm: its process ended with code {done.returncode}"])
    found = json.loads(done.stdout.splitlines()[-1])
    return Measured(
        [Row(**row) for row in found["rows"]],
        [Cost(**cost) for cost in found["costs"]],
        found["skipped"],
        found["versions"],
    )


def main() -> None:
    """Measure in this environment; print what was found as one line of JSON."""
    from benchmarks import stream_path

    settings = Settings.of(quick="--quick" in sys.argv)
    settings = replace(settings, rounds=settings.rounds_of_slow)
    measured = Measured()
    peers = available([LiteLLM], measured.skipped)
    if peers:
        measured.versions = {
            "litellm": version("litellm"),
            "openai, under litellm": version("openai"),
        }
    bodies = stream_path.bodies(settings)
    for stream, size in (("text", "1 event"), ("text", "16 KB"), ("8 calls", "1 event")):
        case = stream_path.Case(stream, size, bodies[stream])
        measured += stream_path.beside_peers(settings, case, peers)
    measured.costs = [cost for cost in measured.costs if cost.contender == LiteLLM.name]
    print(json.dumps(asdict(measured)))


if __name__ == "__main__":
    main()
