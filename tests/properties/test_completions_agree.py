"""A usual completion says the same as one that is read field by field."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pathors_agent.errors import TransportError
from pathors_agent.messages import AssistantMessage
from pathors_agent.wire.message_builder import Delta
from pathors_agent.wire.response_stream import ResponseStream

texts = st.text(max_size=8) | st.sampled_from(["\ud83d", "\ude00", "a\ud83d\ude00", "error"])
counts = st.integers(0, 9)
odd = st.sampled_from([None, False, 0, 1, -1, 1.0, "", "x", [], {}, ["x"], {"a": 1}])


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


calls = st.fixed_dictionaries(
    {"function": some(name=texts, arguments=texts)},
    optional={"id": texts, "type": texts, "index": counts},
)
usages = some(
    prompt_tokens=counts,
    completion_tokens=counts,
    total_tokens=counts,
    prompt_tokens_details=some(cached_tokens=counts),
    completion_tokens_details=some(reasoning_tokens=counts),
)
messages = st.fixed_dictionaries(
    {"role": st.just("assistant")},
    optional={
        "content": texts,
        "tool_calls": st.lists(calls, max_size=3),
        "reasoning": texts,
        "reasoning_content": texts,
        "annotations": st.just([]),
    },
)
choices = st.fixed_dictionaries(
    {"message": messages, "finish_reason": texts}, optional={"index": st.just(0)}
)
completions = st.fixed_dictionaries(
    {"choices": st.lists(choices, min_size=1, max_size=1)},
    optional={"id": texts, "model": texts, "usage": usages},
)

UNUSUAL = ["error", "finish_reason", "tool_calls", "refusal", "function_call", "index", "delta"]


@st.composite
def spoiled(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a usual completion, and set one field somewhere in it to anything."""
    completion = draw(completions)
    place = draw(st.sampled_from(objects_in(completion)))
    place[draw(st.sampled_from([*place, *UNUSUAL]))] = draw(odd)
    return completion


def objects_in(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, list):
        return [found for item in value for found in objects_in(item)]
    if not isinstance(value, dict):
        return []
    return [value, *(found for item in value.values() for found in objects_in(item))]


def read(body: dict[str, Any]) -> tuple[AssistantMessage | None, list[str], list[str], str]:
    stream = ResponseStream(turn=3)
    message, failure = None, ""
    deltas: list[Delta] = stream.feed(json.dumps(body).encode()) + stream.close()
    try:
        message = stream.finish()
    except TransportError as error:
        failure = type(error).__name__
    said = [f"{delta!r}{getattr(delta, 'text', '')}" for delta in deltas]
    return message, said, [quirk.kind for quirk in stream.quirks], failure


@given(completions | spoiled())
def test_completion_is_read_alike_in_both_ways(completion: dict[str, Any]) -> None:
    # Nothing usual has two choices; the second says nothing.
    loosely = {**completion}
    if isinstance(completion.get("choices"), list):
        loosely["choices"] = [*completion["choices"], {"index": 1}]
    assert read(completion) == read(loosely)
