"""A worker for tests: carries out the runs of a queue until it is told to stop, or killed.

Arguments: the database, a folder that the tools write to, how many seconds go by before and after
each write, and the seconds between two heartbeats.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path

from durable_program import make_agent
from pathors_agent.durable import DurableAgent, Heartbeat, worker

QUEUE = "queue"


def machine() -> str:
    """Return a machine of its own for each process, so that no worker can look for the process."""
    return f"machine of {os.getpid()}"


async def main(database: str, folder: Path, seconds: float, beat: float) -> None:
    worker.machine = machine
    agent = make_agent(folder, lambda _: None, seconds=seconds)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    heartbeat = Heartbeat(seconds=beat)
    async with DurableAgent(agent, database=database, queue=QUEUE, heartbeat=heartbeat) as durable:
        async with durable.working(concurrency=8, poll=0.1):
            print("ready", flush=True)
            await ended.wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])))
