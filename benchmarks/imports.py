"""T15 and T27: what importing costs, in a fresh process each time, with compiled files in place."""

import random
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from benchmarks.results import Measured, Row, Settings
from benchmarks.rounds import Timings, say

NAME = "imports"

ROOT = Path(__file__).parent.parent

ALONE = "import pathors_agent"
READY = "pathors_agent, with an HTTP transport made and a tool registered"
OPENAI = "import openai"

STATEMENTS = {
    ALONE: "import pathors_agent",
    READY: (
        "from pathors_agent import Agent, HTTPTransport, tool\n"
        "@tool\n"
        "def add(a: int, b: int) -> int:\n"
        "    'Add two numbers.'\n"
        "    return a + b\n"
        "Agent(HTTPTransport('http://127.0.0.1:9/v1', api_key='none'), tools=[add])\n"
    ),
    OPENAI: "import openai",
    "import langchain_openai": "import langchain_openai",
    "import pydantic_ai": "import pydantic_ai, pydantic_ai.models.openai",
    "import agents": "import agents",
}
NEEDED = {
    OPENAI: "openai",
    "import langchain_openai": "langchain_openai",
    "import pydantic_ai": "pydantic_ai",
    "import agents": "agents",
}

_CLOCKED = (
    "from time import process_time\nstarted = process_time()\n{}\nprint(process_time() - started)"
)


def run(settings: Settings) -> Measured:
    measured = Measured()
    absent = {name: module for name, module in NEEDED.items() if find_spec(module) is None}
    measured.skipped += [f"{name}: not installed" for name in absent]
    timings = _measure([name for name in STATEMENTS if name not in absent], settings.rounds_of_slow)
    if OPENAI in timings:
        measured.rows += [
            Row("T15", f"{ALONE} / {OPENAI}", timings.ratio(ALONE, OPENAI), 1 / 8),
            Row("T27", f"{READY} / {OPENAI}", timings.ratio(READY, OPENAI), 0.33),
        ]
    measured.rows += [
        Row("-", f"ms of CPU: {name}", [seconds * 1e3 for seconds in timings.seconds[name]])
        for name in timings.seconds
    ]
    return measured


def _measure(names: list[str], rounds: int) -> Timings:
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        _seconds_of(name)  # compiles what is not compiled yet
    for number in range(1, rounds + 1):
        say(f"imports: round {number} of {rounds}")
        for name in random.sample(names, len(names)):
            seconds[name].append(_seconds_of(name))
    say("")
    return Timings(seconds)


def _seconds_of(name: str) -> float:
    code = _CLOCKED.format(STATEMENTS[name])
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    return float(done.stdout)
