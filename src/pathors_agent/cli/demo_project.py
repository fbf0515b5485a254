"""The project that is served when none is given: three tools, and rules or a model file."""

from pathlib import Path

from pathors_agent.cli.demo_tools import INSTRUCTIONS, demo_tools
from pathors_agent.offline import AsyncOfflineTransport
from pathors_agent.server import Project
from pathors_agent.transports.base import AsyncTransport

PROJECT = "demo"

# Seconds between two words of an answer by rules: about as fast as people read.
PACE = 0.015


def demo_project(gguf: Path | None = None) -> Project:
    """Make the project, with the model of a file where one is given."""
    transport: AsyncTransport
    if gguf is None:
        transport = AsyncOfflineTransport(pace=PACE)
    else:
        from pathors_agent.transports.local import AsyncLocalTransport

        transport = AsyncLocalTransport(gguf)
    return Project(id=PROJECT, transport=transport, instructions=INSTRUCTIONS, tools=demo_tools())
