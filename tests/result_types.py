"""Values that tools return."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import date
from enum import Enum
from typing import Any

import pandas
from hypothesis import strategies as st
from pydantic import BaseModel

from pathors_agent.messages import ContentPart, ToolCall, ToolMessage
from pathors_agent.tools.registry import BoundCall, ToolRegistry
from pathors_agent.tools.results import result_message
from pathors_agent.tools.tool import Tool


def result_of(value: object, **options: Any) -> ToolMessage:
    """Return the message for a value of a tool `look`."""
    registry = ToolRegistry([Tool(name="look", function=lambda: None, **options)])
    bound = registry.bind(ToolCall(id="call_1", name="look", arguments="{}"))
    assert isinstance(bound, BoundCall)
    return result_message(bound, value)


def text_part(text: str) -> ContentPart:
    """Return a text part."""
    return ContentPart(type="text", text=text)


class Place(BaseModel):
    city: str
    since: date


@dataclass
class Point:
    x: int
    y: float


class Color(Enum):
    RED = "red"


def image_part(url: str = "data:image/png;base64,AAAA") -> ContentPart:
    """Return an image part."""
    return ContentPart.model_validate({"type": "image_url", "image_url": {"url": url}})


IMAGE = image_part()
SALES = pandas.DataFrame({"city": ["Oslo", "Oslo", "Rome"], "sold": [1, 2, 4]})


class Socket:
    def __repr__(self) -> str:
        raise AssertionError("nobody asks")

    __str__ = __repr__


class Dumping(BaseModel):
    def model_dump(self, **options: Any) -> dict[str, Any]:
        raise OSError("private")


async def items() -> AsyncIterator[int]:
    yield 1


plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.text(st.characters(categories=["Cs", "L"])),
    st.binary(),
    st.decimals(allow_nan=False),
    st.datetimes(),
    st.timedeltas(),
    st.uuids(),
    st.builds(Socket),
    st.builds(object),
    st.just(len),
    st.just(Color.RED),
    st.builds(Dumping),
    st.builds(IMAGE.model_copy),
)
