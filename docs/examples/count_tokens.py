"""Add up what a conversation cost, run by run."""

from pathors_agent import Agent, Usage
from pathors_agent.testing import ScriptedTransport, answer


def main() -> None:
    """Ask two questions, and print the tokens of each and of both."""
    used = Usage(prompt_tokens=7, completion_tokens=5, total_tokens=12)
    agent = Agent(ScriptedTransport(answer("Paris.", usage=used), answer("Rome.", usage=used)))

    first = agent.run("What is the capital of France?")
    second = agent.run("And of Italy?", conversation=first.conversation)

    print(first.usage.total_tokens)  # -> 12
    print((first.usage + second.usage).total_tokens)  # -> 24


if __name__ == "__main__":
    main()
