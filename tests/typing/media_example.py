"""What type checkers see of prompts with images, audio and files."""

from pathlib import Path
from typing import assert_type

from pathors_agent import Agent, ContentPart
from pathors_agent.testing import ScriptedTransport

agent = Agent(ScriptedTransport("It is a cat."))
picture = ContentPart.image(b"...", detail="low")
assert_type(picture, ContentPart)
agent.run(["What is this?", picture, ContentPart.audio(Path("a.wav")), ContentPart.file("file-1")])
agent.run(["What is this?", 5])  # type: ignore[list-item]
ContentPart.image(5)  # type: ignore[arg-type]
ContentPart.image(b"...", detail="huge")  # type: ignore[arg-type]
