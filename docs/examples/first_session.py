"""A conversation that goes on after the program has ended."""

from pathlib import Path

from pathors_agent import Agent, Conversation, dump_messages, load_messages, tool
from pathors_agent.offline import OfflineTransport

FILE = Path("trip.json")


@tool
def weather(city: str) -> str:
    """Look up the weather in a city."""
    return f"sunny in {city}"


def ask(question: str) -> str:
    """Go on with the conversation in the file, and store it again."""
    conversation = Conversation(load_messages(FILE.read_text()) if FILE.exists() else ())
    agent = Agent(OfflineTransport(), tools=[weather])
    result = agent.run(question, conversation=conversation)
    FILE.write_text(dump_messages(result.conversation.messages))
    return f"{result.output} ({len(result.conversation)} messages)"


print(ask("What is the weather in Oslo?"))  # -> weather (Oslo): sunny in Oslo. (4 messages)
print(ask("And in Rome?"))  # -> weather (Rome): sunny in Rome. (8 messages)
