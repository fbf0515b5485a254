"""An agent that answers."""

from pathors_agent import Agent
from pathors_agent.offline import OfflineTransport

agent = Agent(OfflineTransport())
result = agent.run("Hello!")

print(result.output)  # -> I am a stand-in that works by rules, ... was given no tools.
