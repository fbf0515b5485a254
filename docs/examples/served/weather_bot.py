"""The tools of a weather bot."""

from pathors_agent import tool


@tool
def weather(city: str) -> str:
    """Look up the weather in a city."""
    return f"sunny in {city}"
