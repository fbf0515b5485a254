"""Models that answer with values of types, in each mode."""

import json
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from pathors_agent.messages import ToolMessage, UserMessage
from pathors_agent.testing import Entry, calls
from pathors_agent.tools.tool import tool
from pathors_agent.wire.profiles import EndpointProfile

Mode = Literal["response_format", "tool", "prompt"]

TOOL = EndpointProfile(structured="tool")
FORMAT = EndpointProfile(structured="response_format")
PROMPT = EndpointProfile(structured="prompt")

GOOD = '{"city": "Oslo", "degrees": 3.5}'
COLD = '{"city": "Oslo", "degrees": -300}'


class Weather(BaseModel):
    """How the weather is."""

    city: str
    degrees: float = Field(ge=-273)


@tool
def look(city: str) -> str:
    """Look out of the window."""
    return f"sunny in {city}"


class City(BaseModel):
    name: str
    people: int = 0


@dataclass
class River:
    length: float


def sent_schema(request: dict[str, Any], profile: EndpointProfile) -> dict[str, Any]:
    """Return the schema that a request asks for."""
    match profile.structured:
        case "tool":
            found = request["tools"][0]["function"]["parameters"]
        case "response_format":
            found = request["response_format"]["json_schema"]["schema"]
        case "prompt":
            found = json.loads(request["messages"][0]["content"].splitlines()[-1])
    schema: dict[str, Any] = found
    return schema


def entry(profile: EndpointProfile, text: str) -> Entry:
    """Answer with a value, as the profile asks for it."""
    return calls(("final_answer", text)) if profile.structured == "tool" else text


def given_by(profile: EndpointProfile, text: str) -> Entry:
    """Answer in the way that a profile has answers given."""
    return calls(("final_answer", text)) if profile is TOOL else text


EACH_MODE = pytest.mark.parametrize(
    "profile", [TOOL, FORMAT, PROMPT], ids=["tool", "format", "prompt"]
)


def feedback(result: Any) -> list[str]:
    """Return the texts that say what was wrong with an answer."""
    return [
        m.text
        for m in result.messages
        if (isinstance(m, UserMessage) and m.feedback)
        or (isinstance(m, ToolMessage) and m.is_error)
    ]


SCRIPTS: dict[Mode, list[str]] = {
    "tool": ["look", "text", "bad", "good"],
    "response_format": ["look", "bad", "text", "good"],
    "prompt": ["text", "look", "bad", "fenced"],
}


def script(mode: Mode) -> list[Entry]:
    """Return the answers of a model in a mode."""
    entries: dict[str, Entry] = {
        "look": calls(("look", {"city": "Oslo"})),
        "text": "Sunny.",
        "fenced": f"```\n{GOOD}\n```",
        "bad": calls(("final_answer", COLD)) if mode == "tool" else COLD,
        "good": calls(("final_answer", GOOD)) if mode == "tool" else GOOD,
    }
    return [entries[name] for name in SCRIPTS[mode]]
