"""Token counts are read under every name that providers have for them, and none is lost."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathors_agent.agents.agent import Agent
from pathors_agent.core.limits import Limits
from pathors_agent.messages import AssistantMessage, Usage
from pathors_agent.testing import ScriptedTransport, answer, raw
from pathors_agent.tools.tool import tool
from pathors_agent.wire.profiles import EndpointProfile
from pathors_agent.wire.response_stream import ResponseStream
from pathors_agent.wire.usage import merged_usage, read_usage

TOLD = {"prompt_tokens": 900, "completion_tokens": 100, "total_tokens": 1_000}


def counted(
    prompt: int | None = None,
    completion: int | None = None,
    total: int | None = None,
    *,
    cached: int | None = None,
    reasoning: int | None = None,
) -> Usage:
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=total,
        cached_tokens=cached,
        reasoning_tokens=reasoning,
    )


@pytest.mark.parametrize(
    ("usage", "wanted"),
    [
        pytest.param(
            {
                **TOLD,
                "prompt_tokens_details": {"cached_tokens": 64},
                "completion_tokens_details": {"reasoning_tokens": 7},
            },
            counted(900, 100, 1_000, cached=64, reasoning=7),
            id="OpenAI",
        ),
        pytest.param(
            {
                "input_tokens": 900,
                "output_tokens": 100,
                "total_tokens": 1_000,
                "input_tokens_details": {"cached_tokens": 64},
                "output_tokens_details": {"reasoning_tokens": 7},
            },
            counted(900, 100, 1_000, cached=64, reasoning=7),
            id="OpenAI responses",
        ),
        pytest.param(
            {**TOLD, "prompt_cache_hit_tokens": 64, "prompt_cache_miss_tokens": 836},
            counted(900, 100, 1_000, cached=64),
            id="DeepSeek",
        ),
        pytest.param(
            {**TOLD, "cached_tokens": 64}, counted(900, 100, 1_000, cached=64), id="Moonshot"
        ),
        pytest.param(
            {**TOLD, "num_cached_tokens": 64}, counted(900, 100, 1_000, cached=64), id="Mistral"
        ),
        pytest.param(
            {**TOLD, "prompt_token_details": {"cached_tokens": 64}},
            counted(900, 100, 1_000, cached=64),
            id="Mistral details",
        ),
        pytest.param(
            {**TOLD, "reasoning_tokens": 7}, counted(900, 100, 1_000, reasoning=7), id="Perplexity"
        ),
        pytest.param(
            {
                "input_tokens": 836,
                "output_tokens": 100,
                "cache_read_input_tokens": 60,
                "cache_creation_input_tokens": 4,
            },
            counted(900, 100, 1_000, cached=60),
            id="Anthropic counts cached tokens beside the others",
        ),
        pytest.param(
            {**TOLD, "cache_read_input_tokens": 64},
            counted(900, 100, 1_000, cached=64),
            id="Anthropic through a gateway",
        ),
        pytest.param(
            {
                "promptTokenCount": 900,
                "candidatesTokenCount": 93,
                "thoughtsTokenCount": 7,
                "cachedContentTokenCount": 64,
                "totalTokenCount": 1_000,
            },
            counted(900, 100, 1_000, cached=64, reasoning=7),
            id="Gemini",
        ),
        pytest.param(
            {"inputTokens": 900, "outputTokens": 100, "totalTokens": 1_000},
            counted(900, 100, 1_000),
            id="Bedrock",
        ),
        pytest.param(
            {"prompt_eval_count": 900, "eval_count": 100}, counted(900, 100, 1_000), id="Ollama"
        ),
        pytest.param(
            {"prompt_tokens": 900, "completion_tokens": 100},
            counted(900, 100, 1_000),
            id="no total",
        ),
        pytest.param(
            {**TOLD, "total_tokens": 0}, counted(900, 100, 1_000), id="a total that is zero"
        ),
        pytest.param(
            {**TOLD, "prompt_tokens_details": {"cached_tokens": 0}, "cached_tokens": 64},
            counted(900, 100, 1_000, cached=64),
            id="zero under one name and a count under another",
        ),
        pytest.param({"prompt_tokens": 9.0}, counted(9), id="a whole number with a point"),
        pytest.param(
            {"prompt_tokens": -1, "completion_tokens": True, "total_tokens": "9", "cost": 0.5},
            counted(),
            id="no counts",
        ),
        pytest.param(
            {"prompt_tokens_details": None, "completion_tokens_details": 3}, counted(), id="odd"
        ),
    ],
)
def test_counts_are_read_under_each_name(usage: dict[str, Any], wanted: Usage) -> None:
    assert read_usage(usage) == wanted


def event(**fields: object) -> bytes:
    return b"data: " + json.dumps({"id": "1", "model": "m", **fields}).encode() + b"\n\n"


def choice(delta: Mapping[str, object], reason: str | None = None, **more: object) -> list[object]:
    return [{"index": 0, "delta": delta, "finish_reason": reason, **more}]


# The first three events are read for the answer's id; the fast lanes begin after them.
HEAD = event(choices=choice({"content": "x"})) * 4
LAST = choice({}, "tool_calls")

ENDS = {
    "with the finish_reason": event(choices=LAST, usage=TOLD),
    "in a chunk of its own": event(choices=LAST) + event(choices=[], usage=TOLD),
    "in the choice": event(choices=choice({}, "tool_calls", usage=TOLD)),
    "in x_groq": event(choices=LAST, x_groq={"id": "r", "usage": TOLD}),
    "in usageMetadata": event(
        choices=LAST, usageMetadata={"promptTokenCount": 900, "candidatesTokenCount": 100}
    ),
    "before an empty one": event(choices=LAST, usage=TOLD) + event(choices=[], usage={}),
    "before one of zeros": event(choices=LAST, usage=TOLD)
    + event(choices=[], usage=dict.fromkeys(TOLD, 0)),
    "before one of nulls": event(choices=LAST, usage=TOLD)
    + event(choices=[], usage=dict.fromkeys(TOLD)),
    "before one of minus ones": event(choices=LAST, usage=TOLD)
    + event(choices=[], usage=dict.fromkeys(TOLD, -1)),
    "before a choice with zeros": event(choices=choice({}), usage=TOLD)
    + event(choices=choice({}, "tool_calls", usage=dict.fromkeys(TOLD, 0))),
    "in halves": event(choices=LAST, usage={"input_tokens": 900, "output_tokens": 1})
    + event(choices=[], usage={"output_tokens": 100}),
    "running": event(
        choices=choice({}), usage={**TOLD, "completion_tokens": 1, "total_tokens": 901}
    )
    + event(choices=LAST, usage=TOLD),
}


def pieces_of(body: bytes) -> list[list[bytes]]:
    return [[body], [part + b"\n\n" for part in body.split(b"\n\n")[:-1]]]


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_usage_of_a_stream_is_read_in_any_place_and_never_reduced(end: bytes) -> None:
    for pieces in pieces_of(HEAD + end):
        stream = ResponseStream()
        for piece in pieces:
            stream.feed(piece)

        assert stream.finish().usage == counted(900, 100, 1_000)


@pytest.mark.parametrize(
    "place",
    [
        {"usage": TOLD},
        {"x_groq": {"usage": TOLD}},
        {"usageMetadata": {"promptTokenCount": 900, "candidatesTokenCount": 100}},
        {"usage": {"input_tokens": 900, "output_tokens": 100}},
    ],
)
def test_usage_of_a_whole_answer_is_read_in_any_place(place: dict[str, object]) -> None:
    message = {"role": "assistant", "content": "Hi"}
    stream = ResponseStream()

    choices = [{"message": message, "finish_reason": "stop"}]
    stream.feed(json.dumps({"choices": choices, **place}).encode())

    assert stream.finish().usage == counted(900, 100, 1_000)


@tool
def now() -> str:
    """Return the time."""
    return "12:00"


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_limit_of_tokens_applies_to_usage_in_any_place(end: bytes) -> None:
    call = {"index": 0, "id": "a", "function": {"name": "now", "arguments": "{}"}}
    body = HEAD + event(choices=choice({"tool_calls": [call]})) + end + b"data: [DONE]\n\n"
    model = ScriptedTransport(then=raw(body))

    result = Agent(model, tools=[now], limits=Limits(total_tokens=2_000)).run("When?")

    assert (result.limit, len(model.requests)) == ("total_tokens", 2)


def test_limit_of_tokens_counts_the_parts_where_there_is_no_total() -> None:
    usage = Usage(completion_tokens=1_000)
    model = ScriptedTransport(then=answer(calls=[("now", {})], usage=usage))

    result = Agent(model, tools=[now], limits=Limits(total_tokens=2_000)).run("When?")

    assert (result.limit, len(model.requests)) == ("total_tokens", 2)


counts = st.none() | st.integers(0, 9)
_PROFILES = {stream: EndpointProfile(streams=stream) for stream in (False, True)}
usages = st.builds(counted, counts, counts, counts, cached=counts, reasoning=counts)


@given(st.lists(usages, min_size=1, max_size=4))
def test_merged_count_is_the_last_that_is_over_zero(told: list[Usage]) -> None:
    merged = told[0]
    for usage in told[1:]:
        merged = merged_usage(merged, usage)

    for name in ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens"):
        values = [getattr(usage, name) for usage in told]
        known = [value for value in values if value is not None]
        wanted = ([value for value in known if value] or known or [None])[-1]
        assert getattr(merged, name) == wanted


@given(usages, st.booleans())
def test_scripted_answer_sends_every_count(usage: Usage, stream: bool) -> None:
    with_total = read_usage(usage.model_dump()).total_tokens
    model = ScriptedTransport(answer("Hi", usage=usage), profile=_PROFILES[stream])

    said = Agent(model).run("Hello").messages[-1]
    assert isinstance(said, AssistantMessage)

    assert said.usage == usage.model_copy(update={"total_tokens": with_total})
