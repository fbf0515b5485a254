"""Requests by the published contract, and the time to write them."""

import gc
import json
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from counting import work_of
from pathors_agent.messages import (
    AssistantMessage,
    JSONValue,
    Message,
    SystemMessage,
    ToolMessage,
    UserMessage,
)
from pathors_agent.wire.chat_completions import ModelOptions, RequestTemplate, encode_message
from pathors_agent.wire.profiles import DEFAULT_PROFILE, PROFILES, EndpointProfile
from pathors_agent.wire.profiles import PROFILES as NAMED_PROFILES
from properties import strategies
from request_parts import AUDIO, ENCODED, FILE, LOOK, QUESTION, body, call, wire_call

# - the published contract -


@pytest.fixture(scope="module")
def contract(conformance_data: Path) -> Draft202012Validator:
    document = json.loads((conformance_data / "openai_contract" / "chat.schema.json").read_text())
    return Draft202012Validator(
        {"$ref": "#/$defs/CreateChatCompletionRequest", "$defs": document["$defs"]}
    )


def assert_fits(contract: Draft202012Validator, request: object) -> None:
    problems = [f"{error.json_path}: {error.message}" for error in contract.iter_errors(request)]
    assert problems == []


CONTRACT_PROFILES = [
    *PROFILES.values(),
    EndpointProfile(system_role="developer", max_tokens_field="max_completion_tokens"),
    EndpointProfile(reasoning_field="reasoning_content", echoed_fields=("annotations",)),
    EndpointProfile(streams=False, call_ids="nine"),
]
OPTIONS = [
    ModelOptions(),
    ModelOptions(
        temperature=0.2,
        top_p=1,
        max_tokens=10,
        seed=1,
        stop="END",
        tool_choice={"type": "function", "function": {"name": "look"}},
        parallel_tool_calls=True,
        reasoning_effort="high",
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True},
        },
    ),
    ModelOptions(stop=["a", "b"], tool_choice="none", response_format={"type": "text"}),
]


@pytest.mark.parametrize("profile", CONTRACT_PROFILES)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("tools", [[], [LOOK]], ids=["no tools", "tools"])
def test_request_fits_the_published_contract(
    contract: Draft202012Validator,
    profile: EndpointProfile,
    options: ModelOptions,
    tools: list[JSONValue],
) -> None:
    template = RequestTemplate(
        model="m", instructions="Be brief.", tools=tools, options=options, profile=profile
    )

    assert_fits(contract, body(template, [message for message, _ in ENCODED.values()]))


TEXT_CONTENTS = strategies.texts | st.lists(strategies.text_parts, max_size=3).map(tuple)
USER_CONTENTS = strategies.texts | st.lists(
    strategies.text_parts | strategies.image_parts | st.sampled_from([AUDIO, FILE]), max_size=3
).map(tuple)
# What an endpoint's contract allows to be said: text parts, and more from users only.
SAYABLE: st.SearchStrategy[Message] = st.one_of(
    st.builds(SystemMessage, content=TEXT_CONTENTS, name=strategies.optional_texts),
    st.builds(UserMessage, content=USER_CONTENTS, name=strategies.optional_texts),
    st.builds(
        AssistantMessage,
        content=st.none() | TEXT_CONTENTS,
        tool_calls=st.just(()) | strategies.call_batches,
        reasoning=strategies.optional_texts,
        refusal=strategies.optional_texts,
    ),
    st.builds(
        ToolMessage,
        tool_call_id=strategies.ids,
        content=TEXT_CONTENTS,
        outcome=st.sampled_from(["value", "error", "timeout"]),
    ),
)


@given(
    history=st.lists(SAYABLE, min_size=1, max_size=4), profile=st.sampled_from(CONTRACT_PROFILES)
)
def test_every_history_fits_the_published_contract(
    contract: Draft202012Validator, history: list[Message], profile: EndpointProfile
) -> None:
    template = RequestTemplate(model="m", tools=[LOOK], profile=profile)

    assert_fits(contract, body(template, history))


# - growth -


def test_long_history_is_encoded_once_not_at_every_request() -> None:
    history: list[Message] = [
        AssistantMessage(
            content="Let me see." * 10, tool_calls=(call(arguments=json.dumps({"at": "x" * 200})),)
        )
        for _ in range(200)
    ]
    template = RequestTemplate(model="m")

    first = work_of(lambda: template.encode(history))
    again = work_of(lambda: template.encode(history))

    assert again.lines < first.lines / 3


def test_strict_endpoint_gets_no_field_that_is_null_or_unknown() -> None:
    asked = AssistantMessage(
        tool_calls=(call("call_abc", signature="x"),), extra={"reasoning_details": [1]}
    )

    sent = body(RequestTemplate(profile=NAMED_PROFILES["strict"]), [QUESTION, asked])

    assert sent == {
        "messages": [
            {"role": "user", "content": "Hello?"},
            {"role": "assistant", "tool_calls": [json.loads(wire_call("call_abc"))]},
        ],
        "stream": True,
    }


def fresh(messages: Sequence[Message]) -> list[Message]:
    """Copy messages without the bytes that are kept on them."""
    return [message.model_copy() for message in messages]


def said(count: int, size: int = 1) -> list[Message]:
    return [UserMessage(content=f"{i}" * size) for i in range(count)]


# Lengths about those at which a history is joined, and joined again.
histories = st.integers(0, 70)
steps = st.lists(
    st.tuples(
        st.sampled_from(["grow", "go back", "change", "leave out", "other profile"]),
        st.integers(0, 70),
    ),
    max_size=6,
)


@given(histories, steps)
def test_history_is_sent_the_same_whatever_was_sent_before(
    length: int, then: list[tuple[str, int]]
) -> None:
    profiles = [DEFAULT_PROFILE, EndpointProfile(call_ids="nine")]
    messages = said(length)

    for step, number in [("send", 0), *then]:
        match step:
            case "grow":
                messages = [*messages, *said(number)]
            case "go back":
                messages = [*messages[:number], UserMessage(content="Or else?")]
            case "change":
                messages[number : number + 1] = [UserMessage(content="another")]
            case "leave out":
                messages = messages[number:]
            case "other profile":
                profiles.reverse()
            case _:
                pass
        template = RequestTemplate(profile=profiles[0])
        assert template.encode(messages) == template.encode(fresh(messages))
        assert template.encode(tuple(messages)) == template.encode(fresh(messages))


def test_two_conversations_that_share_a_message_are_distinguished() -> None:
    shared = UserMessage(content="And then?")
    one = [*said(60), shared, QUESTION]
    other = [*said(59), UserMessage(content="x"), shared, QUESTION]

    for _ in range(2):
        assert body(RequestTemplate(), one)["messages"][59]["content"] == "59"
        assert body(RequestTemplate(), other)["messages"][59]["content"] == "x"


def test_growing_history_is_kept_twice_at_most() -> None:
    messages = said(300, size=5_000)
    template = RequestTemplate()
    size = len(template.encode(fresh(messages)))
    gc.collect()
    tracemalloc.start()

    for sent in range(1, len(messages) + 1):
        template.encode(messages[:sent])
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()

    assert kept < 2.2 * size


def test_half_a_character_is_sent_as_a_replacement() -> None:
    assert encode_message(UserMessage(content="a\ud83d")) == (
        '{"role":"user","content":"a\ufffd"}'.encode()
    )


def test_options_that_would_replace_the_conversation_are_refused() -> None:
    with pytest.raises(ValueError, match="extra\\['messages'\\]"):
        ModelOptions(extra={"messages": []})
