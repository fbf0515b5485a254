"""litellm, which wants an openai of its own: the same bouts in an environment of its own.

Its proxy serves streams beside a bare relay and our server.
"""

import json
import random
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import asdict, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.peers import LiteLLM, available
from benchmarks.results import Cost, Measured, Row, Settings
from benchmarks.rounds import Timings

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
    measured = Measured(
        [Row(**row) for row in found["rows"]],
        [Cost(**cost) for cost in found["costs"]],
        skipped=found["skipped"],
        versions=found["versions"],
    )
    measured += _proxy(settings)
    return measured


PROXY = "litellm's proxy"


def _proxy(settings: Settings) -> Measured:
    """Measure the CPU of a streamed completion through the proxy, a bare relay and our server."""
    from benchmarks import server

    if absent := [name for name in server.NEEDED if find_spec(name) is None]:
        return Measured(skipped=[f"{PROXY}: {', '.join(absent)} is not installed"])
    count, chunks = (2, 10) if settings.quick else (server.STREAMS, server.CHUNKS)
    relay, ours = "relay, aiohttp", "aiohttp"
    seconds: dict[str, list[float]] = {PROXY: [], relay: [], ours: []}
    with ExitStack() as stack:
        upstream = stack.enter_context(server.process("benchmarks.loopback_server"))
        folder = stack.enter_context(TemporaryDirectory())
        url = f"http://127.0.0.1:{upstream.port}/v1"
        contenders = {
            PROXY: server.process("benchmarks.litellm_proxy", url, python=str(PYTHON)),
            relay: server.serving(relay, url),
            ours: server.serving(ours, url, f"sqlite:///{folder}/streams.db"),
        }
        started = {name: stack.enter_context(each) for name, each in contenders.items()}
        for number in range(settings.rounds_of_slow + 1):
            for name in random.sample(list(started), len(started)):
                spent = server.cpu_of_streams(started[name], count, chunks)
                if number:  # the first warms up
                    seconds[name].append(spent)
    timings = Timings(seconds)
    return Measured(
        [
            Row("", f"CPU of {chunks} chunks: {PROXY} / bare relay", timings.ratio(PROXY, relay)),
            Row("", f"CPU of {chunks} chunks: {PROXY} / ours", timings.ratio(PROXY, ours)),
            Row("", f"ms of CPU for {chunks} chunks, {PROXY}", [s * 1e3 for s in seconds[PROXY]]),
        ]
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
