"""A tool and a model whose runs are observed."""

from opentelemetry import trace

from pathors_agent import Usage, tool
from pathors_agent.testing import answer

USAGE = Usage(prompt_tokens=5, completion_tokens=2, total_tokens=7)
TURNS = (answer("Hm.", calls=[("look", {"at": "me"})], usage=USAGE), answer("Done.", usage=USAGE))


@tool
def look(at: str) -> str:
    """Look at something."""
    return f"{at} it is"


def within(at: str) -> str:
    """Work in a span of its own."""
    with trace.get_tracer("program").start_as_current_span("my work"):
        return at
