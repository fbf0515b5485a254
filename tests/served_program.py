"""The agent of `durable_program`, served, in a process that kills itself where a file says so.

`FOLDER` is where the tools write; `kill` in it names the place, and is taken away at once.
"""

import os
import signal
from pathlib import Path

from durable_program import make_agent

FOLDER = Path(os.environ["FOLDER"])


def passes(name: str) -> None:
    order = FOLDER / "kill"
    if order.exists() and order.read_text() == name:
        order.unlink()
        os.kill(os.getpid(), signal.SIGKILL)


agent = make_agent(FOLDER, passes)
transport = agent.transport
tools = list(agent.tools)
