"""Ask a served agent, in a session that the server keeps."""

from pathors_agent import Agent, HTTPTransport

with HTTPTransport() as transport:
    agent = Agent(transport)
    first = agent.run("What is the weather in Oslo?", session_id="trip")
    second = agent.run("And in Rome?", session_id="trip")

print(first.output)  # -> weather (Oslo): sunny in Oslo.
print(second.output)  # -> weather (Rome): sunny in Rome.
