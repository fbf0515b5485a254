"""Hypothesis strategies for messages of every kind, with every field and part."""

import json

from hypothesis import strategies as st

from pathors_agent.messages import (
    AssistantMessage,
    ContentPart,
    JSONValue,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    Usage,
    UserMessage,
)

texts = st.text(max_size=20)
optional_texts = st.none() | texts
ids = st.text(min_size=1, max_size=12)
counts = st.none() | st.integers(min_value=-1, max_value=2**40)

json_values: st.SearchStrategy[JSONValue] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(min_value=-(2**70), max_value=2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
json_objects = st.dictionaries(texts, json_values, max_size=3)

text_parts = st.builds(ContentPart, type=st.just("text"), text=texts)
image_parts = st.builds(
    ContentPart,
    type=st.just("image_url"),
    image_url=st.fixed_dictionaries(
        {"url": st.just("data:image/png;base64,AAAA")},
        optional={"detail": st.sampled_from(["auto", "low", "high"])},
    ),
)
other_parts = st.builds(
    lambda kind, text, fields: ContentPart.model_validate({**fields, "type": kind, "text": text}),
    st.sampled_from(["input_audio", "file", "something new"]),
    optional_texts,
    json_objects,
)
contents = texts | st.lists(text_parts | image_parts | other_parts, max_size=3).map(tuple)

usages = st.builds(
    Usage,
    prompt_tokens=counts,
    completion_tokens=counts,
    total_tokens=counts,
    cached_tokens=counts,
    reasoning_tokens=counts,
)


def tool_calls(call_ids: st.SearchStrategy[str] = ids) -> st.SearchStrategy[ToolCall]:
    """Calls with any name, and with arguments that are JSON or the start of it."""
    arguments = json_objects.map(json.dumps)
    return st.builds(
        ToolCall,
        id=call_ids,
        name=texts,
        arguments=arguments | arguments.map(lambda text: text[:-1]) | texts,
        extra=json_objects,
    )


system_messages = st.builds(SystemMessage, content=contents, name=optional_texts)
user_messages = st.builds(UserMessage, content=contents, name=optional_texts)


def assistant_messages(
    calls: st.SearchStrategy[tuple[ToolCall, ...]],
) -> st.SearchStrategy[AssistantMessage]:
    """Assistant messages with these calls, every other field drawn."""
    return st.builds(
        AssistantMessage,
        content=st.none() | contents,
        tool_calls=calls,
        reasoning=optional_texts,
        refusal=optional_texts,
        finish_reason=st.sampled_from([None, "stop", "length", "tool_calls", "odd"]),
        usage=st.none() | usages,
        model=optional_texts,
        id=optional_texts,
        extra=json_objects,
    )


answers = assistant_messages(st.just(()))
call_batches = st.lists(tool_calls(), min_size=1, max_size=5, unique_by=lambda call: call.id).map(
    tuple
)
calling_messages = assistant_messages(call_batches)


def tool_messages(call_ids: st.SearchStrategy[str] = ids) -> st.SearchStrategy[ToolMessage]:
    """Results for these calls."""
    return st.builds(
        ToolMessage,
        tool_call_id=call_ids,
        content=contents,
        outcome=st.sampled_from(["value", "error", "timeout"]),
    )


messages: st.SearchStrategy[Message] = st.one_of(
    system_messages, user_messages, answers, calling_messages, tool_messages()
)
