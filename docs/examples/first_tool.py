"""An agent with a tool."""

from pathors_agent import Agent, ToolError, tool
from pathors_agent.offline import OfflineTransport

DEGREES = {"Oslo": -3, "Rome": 14}


@tool
def weather(city: str) -> str:
    """Look up the weather in a city.

    Args:
        city: the city's name
    """
    if city not in DEGREES:
        raise ToolError(f"no weather station in {city}")
    return f"{DEGREES[city]} degrees"


agent = Agent(OfflineTransport(), tools=[weather])
result = agent.run("What is the weather in Oslo?")

print(result.output)  # -> weather (Oslo): -3 degrees.
