"""Tools and prompts of agents."""

from pathors_agent.messages import JSONValue, UserMessage
from pathors_agent.tools.tool import Tool, tool

GO = UserMessage(content="Go.")


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool
async def double(a: int) -> int:
    """Double a number."""
    return 2 * a


ADD = ("add", {"a": 1, "b": 2})
DOUBLE = ("double", {"a": 3})
APPROVE = Tool(name="approve", description="Ask a person.")
CLIENT_CALL: tuple[str, dict[str, JSONValue]] = ("approve", {})
