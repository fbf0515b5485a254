"""Structured answers while they arrive, their usage, and their closed form."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from pathors_agent.agents.agent import Agent, AsyncAgent
from pathors_agent.agents.answers import AnswerType, ArrivingAnswer
from pathors_agent.messages import JSONValue, Usage
from pathors_agent.testing import AsyncScriptedTransport, ScriptedTransport, answer
from pathors_agent.wire.message_builder import MessageBuilder
from pathors_agent.wire.profiles import EndpointProfile
from structured_answers import COLD, EACH_MODE, FORMAT, GOOD, Weather, given_by
from ways import Way

# - While it arrives


@EACH_MODE
def test_partial_values_grow_to_the_whole(profile: EndpointProfile) -> None:
    transport = ScriptedTransport(given_by(profile, GOOD), profile=profile)
    seen: list[JSONValue] = []

    with Agent(transport, output=Weather).stream("?") as stream:
        assert stream.partial is None
        seen.extend(json.loads(json.dumps(stream.partial)) for _ in stream)

    assert {} in seen
    assert {"city": "Oslo"} in seen
    assert seen[-1] == {"city": "Oslo", "degrees": 3.5}


@pytest.mark.anyio
async def test_partial_values_grow_async() -> None:
    agent = AsyncAgent(AsyncScriptedTransport(GOOD, profile=FORMAT), output=Weather)
    async with agent.stream("?") as stream:
        async for _ in stream:
            pass
        assert stream.partial == {"city": "Oslo", "degrees": 3.5}


def test_partial_value_restarts_with_each_answer() -> None:
    transport = ScriptedTransport(COLD, GOOD, profile=FORMAT)
    with Agent(transport, output=Weather).stream("?") as stream:
        for _ in stream:
            pass
        assert stream.partial == {"city": "Oslo", "degrees": 3.5}


def test_partial_value_is_unwrapped() -> None:
    arriving = ArrivingAnswer(AnswerType(list[int], "response_format"))
    builder = MessageBuilder()
    arriving.watch(builder)
    builder.add_text('{"value": [1, 2', [])

    assert arriving.value == [1]


@given(st.lists(st.integers(1, 12), max_size=8), st.sampled_from(["", " \n"]))
def test_fence_is_left_out_of_partial_values_wherever_it_is_cut(
    cuts: list[int], before: str
) -> None:
    arriving = ArrivingAnswer(AnswerType(Weather, "prompt"))
    builder = MessageBuilder()
    arriving.watch(builder)
    text = f"{before}```json\n{GOOD}\n```"
    for size in [*cuts, len(text)]:
        piece, text = text[:size], text[size:]
        builder.add_text(piece, [])
        assert arriving.value in (None, {}) or isinstance(arriving.value, dict)

    assert arriving.value == {"city": "Oslo", "degrees": 3.5}


def test_agent_without_a_type_has_no_partial_value() -> None:
    with Agent(ScriptedTransport(GOOD)).stream("?") as stream:
        for _ in stream:
            assert stream.partial is None


# - Usage


def used(total: int | None) -> Usage:
    return Usage(prompt_tokens=1, completion_tokens=2, total_tokens=total)


def test_usage_of_all_tries_is_summed(way: Way) -> None:
    script = [answer(COLD, usage=used(3)), answer(GOOD, usage=used(3))]

    usage = way.run(*script, prompt="?", profile=FORMAT, output=Weather).usage

    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (2, 4, 6)
    assert usage.cached_tokens is None


# - The closed form


def test_property_that_may_be_left_out_is_null_in_the_closed_form(way: Way) -> None:
    class Trip(BaseModel):
        place: str
        days: int = 7

    result = way.run('{"place": "Oslo", "days": null}', prompt="?", profile=FORMAT, output=Trip)

    schema = way.requests[0]["response_format"]["json_schema"]["schema"]
    assert schema["required"] == ["place", "days"]
    assert schema["properties"]["days"]["type"] == ["integer", "null"]
    assert result.output == Trip(place="Oslo", days=7)
