"""Call a function with arguments that a small model fills in."""

from pathors_agent import Agent, EndpointProfile, HTTPTransport, ModelOptions


def weather(city: str) -> str:
    """Look up the weather in a city."""
    return f"sunny in {city}"


profile = EndpointProfile(structured="response_format")
with HTTPTransport("http://127.0.0.1:8080/v1", api_key="", profile=profile) as transport:
    agent = Agent(transport, output=weather, options=ModelOptions(temperature=0.0))
    print(agent.run("What is the weather in Oslo?").output)  # -> sunny in Oslo
