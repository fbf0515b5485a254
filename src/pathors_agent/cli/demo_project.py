"""The project that is served when none is given: three tools, and answers by rules."""

from pathors_agent.cli.demo_tools import INSTRUCTIONS, demo_tools
from pathors_agent.offline import AsyncOfflineTransport
from pathors_agent.server import Project

PROJECT = "demo"

# Seconds between two words of an answer by rules: about as fast as people read.
PACE = 0.015


def demo_project() -> Project:
    """Return the project `demo`."""
    return Project(
        id=PROJECT,
        transport=AsyncOfflineTransport(pace=PACE),
        instructions=INSTRUCTIONS,
        tools=demo_tools(),
    )
