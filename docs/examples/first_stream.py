"""An answer that is shown while it arrives."""

from pathors_agent import Agent, TextDelta, ToolMessage, tool
from pathors_agent.offline import OfflineTransport


@tool
def weather(city: str) -> str:
    """Look up the weather in a city."""
    return f"sunny in {city}"


agent = Agent(OfflineTransport(pace=0.01), tools=[weather])

with agent.stream("What is the weather in Rome?") as stream:
    for item in stream:
        match item:
            case TextDelta():
                print(item.text, end="", flush=True)
            case ToolMessage():
                print("The tool says:", item.text)

# -> The tool says: sunny in Rome
# -> weather (Rome): sunny in Rome.

print("\nThe answer:", stream.result.output)
# -> The answer: weather (Rome): sunny in Rome.
