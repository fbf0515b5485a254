"""Stored histories come back equal, and damage is refused with its place."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathors_agent.core.conversation import Conversation, inner_conversation
from pathors_agent.errors import ConversationError
from pathors_agent.history.loading import dump_messages, load_message, load_messages
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
    write_message,
)
from pathors_agent.wire.chat_completions import encode_message
from pathors_agent.wire.profiles import EndpointProfile
from properties import strategies

CANARY = "hunter2-canary"

# Messages and the texts they are stored as, written by hand.
STORED: list[tuple[Message, str]] = [
    (SystemMessage(content="Be brief."), '{"role":"system","content":"Be brief."}'),
    (SystemMessage(content="s", name="n"), '{"role":"system","content":"s","name":"n"}'),
    (UserMessage(content="Grüß dich 🎈"), '{"role":"user","content":"Grüß dich 🎈"}'),
    (UserMessage(content=""), '{"role":"user","content":""}'),
    (UserMessage(content=()), '{"role":"user","content":[]}'),
    (UserMessage(content="x", name="alice"), '{"role":"user","content":"x","name":"alice"}'),
    (
        UserMessage(
            content=(
                ContentPart(type="text", text="What is this?"),
                ContentPart.model_validate(
                    {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}}
                ),
            )
        ),
        '{"role":"user","content":[{"type":"text","text":"What is this?"},'
        '{"type":"image_url","image_url":{"url":"https://x.test/a.png"}}]}',
    ),
    (AssistantMessage(), '{"role":"assistant","content":null}'),
    (AssistantMessage(content=""), '{"role":"assistant","content":""}'),
    (AssistantMessage(usage=Usage()), '{"role":"assistant","content":null,"usage":{}}'),
    (
        AssistantMessage(tool_calls=(ToolCall(id="a", name="f"),)),
        '{"role":"assistant","content":null,"tool_calls":['
        '{"id":"a","type":"function","function":{"name":"f","arguments":""}}]}',
    ),
    (
        AssistantMessage(
            content="Let me see.",
            tool_calls=(
                ToolCall(id="a", name="look", arguments='{"at": "'),
                ToolCall(id="b", name="add", arguments="{}", extra={"sig": [1, None, 0.5]}),
            ),
            reasoning="Hm.",
            refusal="No.",
            finish_reason="tool_calls",
            usage=Usage(prompt_tokens=1, completion_tokens=0, cached_tokens=-1),
            model="m-1",
            id="chatcmpl-1",
            extra={"annotations": []},
        ),
        '{"role":"assistant","content":"Let me see.","tool_calls":['
        '{"id":"a","type":"function","function":{"name":"look","arguments":"{\\"at\\": \\""}},'
        '{"sig":[1,null,0.5],"id":"b","type":"function",'
        '"function":{"name":"add","arguments":"{}"}}],'
        '"reasoning":"Hm.","refusal":"No.","finish_reason":"tool_calls",'
        '"usage":{"prompt_tokens":1,"completion_tokens":0,"cached_tokens":-1},'
        '"model":"m-1","id":"chatcmpl-1","extra":{"annotations":[]}}',
    ),
    (
        ToolMessage(tool_call_id="a", content="42"),
        '{"role":"tool","content":"42","tool_call_id":"a"}',
    ),
    (
        ToolMessage(tool_call_id="a", content="boom", outcome="error"),
        '{"role":"tool","content":"boom","tool_call_id":"a","outcome":"error"}',
    ),
]


@pytest.mark.parametrize(("message", "text"), STORED, ids=[text for _, text in STORED])
def test_message_is_stored_as_its_api_object_and_its_other_fields(
    message: Message, text: str
) -> None:
    assert dump_messages([message]) == f'{{"version":1,"messages":[{text}]}}'
    assert write_message(message) == json.loads(text)
    assert load_messages(f'{{"version": 1, "messages": [{text}]}}') == [message]
    assert load_message(json.loads(text)) == message


# Calls as earlier versions stored them, also in the run of a suspended agent.
FLAT_CALLS = """[{"id": "a", "name": "look", "arguments": "{\\"at\\": 1}"},
    {"id": "b", "name": "add", "extra": {"sig": [1, null]}}]"""
CALLING = AssistantMessage(
    tool_calls=(
        ToolCall(id="a", name="look", arguments='{"at": 1}'),
        ToolCall(id="b", name="add", extra={"sig": [1, None]}),
    )
)


def test_calls_in_the_form_of_earlier_versions_are_loaded_and_stored_anew() -> None:
    flat = f'{{"role": "assistant", "tool_calls": {FLAT_CALLS}}}'

    loaded = load_messages(f'{{"version": 1, "messages": [{flat}]}}')

    assert loaded == [CALLING]
    assert load_messages(f'{{"version": 1, "messages": [{flat}]}}', repair=True)[0][0] == CALLING
    assert json.loads(dump_messages(loaded))["messages"] == [write_message(CALLING)]


def test_run_of_a_suspended_agent_in_the_form_of_earlier_versions_goes_on() -> None:
    inner = f"""[{{"role": "user", "content": "Look."}},
        {{"role": "assistant", "tool_calls": {FLAT_CALLS}}}]"""
    stored = f"""{{"version": 1, "messages": [{{"role": "user", "content": "Go."}},
        {{"role": "assistant", "tool_calls": [{{"id": "c", "name": "agent"}}]}},
        {{"role": "tool", "tool_call_id": "c", "content": "Waits.", "outcome": "suspended",
          "extra": {{"run": {{"version": 1, "messages": {inner}}}}}}}]}}"""

    conversation = Conversation(load_messages(stored))
    conversation.append(ToolMessage(tool_call_id="a", content="1"))

    [call] = conversation.open_calls
    suspended = conversation.suspended(call)
    assert suspended is not None
    assert inner_conversation(suspended).open_calls == (CALLING.tool_calls[1],)
    assert "> call" in conversation.transcript()


COLLIDING = st.sampled_from(["id", "type", "function", "extra", "name", "sig"])


@given(st.dictionaries(COLLIDING, strategies.json_values))
def test_extra_of_a_call_is_loaded_equal_whatever_its_keys(extra: dict[str, JSONValue]) -> None:
    nested: dict[str, JSONValue] = {"extra": extra}
    for kept in (extra, nested):
        message = AssistantMessage(tool_calls=(ToolCall(id="a", name="f", extra=kept),))

        assert load_messages(dump_messages([message])) == [message]


def test_empty_history() -> None:
    assert dump_messages([]) == '{"version":1,"messages":[]}'
    assert load_messages(b'{"version":1,"messages":[]}') == []


def test_stored_history_may_be_bytes() -> None:
    stored = dump_messages([UserMessage(content="Grüß dich 🎈")]).encode()

    assert load_messages(stored) == [UserMessage(content="Grüß dich 🎈")]


@pytest.mark.parametrize("half", ["\ud800", "\ud800 \udfff", "\udc80\ud83d"])
def test_half_of_a_surrogate_pair_is_loaded_equal(half: str) -> None:
    call = ToolCall(id="1", name="look", arguments=f'{{"a": "{half}"}}', extra={"x": [half]})
    messages: list[Message] = [
        UserMessage(content=f"a{half}b é"),
        AssistantMessage(content=None, reasoning=half, tool_calls=(call,)),
        ToolMessage(tool_call_id="1", content=half, extra={"x": half}),
    ]

    stored = dump_messages(messages)

    assert load_messages(stored) == messages
    assert load_messages(stored.encode()) == messages


def test_only_messages_are_dumped() -> None:
    given: Any
    for given in ([{"role": "user", "content": "Hello."}], "Hello.", UserMessage(content="Hello.")):
        with pytest.raises(
            TypeError, match=r"messages\[0\] is of type .*, and no message; read the "
        ):
            dump_messages(given)


@given(st.lists(strategies.messages, max_size=5))
def test_stored_value_is_loaded_equal(messages: list[Message]) -> None:
    stored = dump_messages(messages)

    assert load_messages(stored) == messages
    assert load_messages(stored.encode()) == messages
    assert [load_message(write_message(message)) for message in messages] == messages
    assert dump_messages(load_messages(stored)) == stored


@given(strategies.messages)
def test_stored_message_is_json_for_strict_readers(message: Message) -> None:
    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is no JSON")

    json.loads(dump_messages([message]), parse_constant=refuse)


@given(strategies.messages)
def test_loaded_message_is_sent_with_the_same_bytes(message: Message) -> None:
    profile = EndpointProfile(reasoning_field="reasoning_content", echoed_fields=("", "a", "x"))

    [loaded] = load_messages(dump_messages([message]))

    assert encode_message(loaded, profile) == encode_message(message, profile)


def stored(*messages: object) -> str:
    return json.dumps({"version": 1, "messages": messages})


GOOD = {"role": "user", "content": "x"}

# Damage to the whole: text -> what the error says.
BROKEN: dict[str, tuple[str | bytes, str]] = {
    "nothing": ("", "must be JSON"),
    "no JSON": (CANARY, "must be JSON"),
    "cut off": (stored(GOOD)[:-3], "must be JSON"),
    "something after it": (stored(GOOD) + "x", "must be JSON"),
    "no text": (b"\xff\xfe\xfd" + CANARY.encode(), "must be JSON"),
    "deep nesting": ("[" * 100_000, "must be JSON"),
    "deep objects": ('{"a":' * 100_000, "must be JSON"),
    "endless digits": ('{"version":' + "9" * 5_000 + "}", "must be JSON"),
    "null": ("null", "must be {"),
    "a list": ("[]", "must be {"),
    "a text": (json.dumps(CANARY), "must be {"),
    "no messages": ('{"version": 1}', "must be {"),
    "messages are an object": ('{"version": 1, "messages": {}}', "must be {"),
    "messages are null": ('{"version": 1, "messages": null}', "must be {"),
    "no version": ('{"messages": []}', "of version None cannot be read"),
    "a later version": ('{"version": 2, "messages": []}', "of version 2 cannot be read"),
    "a version in words": ('{"version": "1", "messages": []}', "of version '1' cannot be read"),
    "version true": ('{"version": true, "messages": []}', "of version True cannot be read"),
    "an endless version": (
        json.dumps({"version": "x" * 100_000, "messages": []}),
        "cannot be read; this library reads version 1",
    ),
}


@pytest.mark.parametrize(("text", "says"), BROKEN.values(), ids=BROKEN)
def test_damaged_text_is_rejected(text: str | bytes, says: str) -> None:
    with pytest.raises(ConversationError) as caught:
        load_messages(text)

    assert says in str(caught.value)
    assert caught.value.index is None
    assert CANARY not in str(caught.value)
    assert len(str(caught.value)) < 300


def nested(depth: int) -> JSONValue:
    value: JSONValue = CANARY
    for _ in range(depth):
        value = [value]
    return value


# Damage to one message -> where the error says it is.
DAMAGED: dict[str, tuple[object, str]] = {
    "null": (None, "messages[2]: "),
    "a text": (CANARY, "messages[2]: "),
    "a list": ([GOOD], "messages[2]: "),
    "no role": ({"content": CANARY}, "messages[2]: "),
    "unknown role": ({"role": "robot", "content": CANARY}, "messages[2]: "),
    "role in capitals": ({"role": "User", "content": CANARY}, "messages[2]: "),
    "role of another type": ({"role": ["user"], "content": CANARY}, "messages[2]: "),
    "no content": ({"role": "user"}, "messages[2].user.content: "),
    "content null": ({"role": "user", "content": None}, "messages[2].user.content"),
    "content number": ({"role": "user", "content": 5}, "messages[2].user.content"),
    "content object": ({"role": "tool", "tool_call_id": "a", "content": {}}, "messages[2].tool."),
    "unknown field": ({**GOOD, "note": CANARY}, "messages[2].user.note: Extra inputs"),
    "field of another role": ({**GOOD, "tool_calls": []}, "messages[2].user.tool_calls: "),
    "part without type": (
        {"role": "user", "content": [{"text": CANARY}]},
        "messages[2].user.content.0.type: Field required",
    ),
    "text part without text": (
        {"role": "user", "content": [{"type": "text", "text": "ok"}, {"type": "text"}]},
        "messages[2].user.content.1: a part of type 'text' needs its field 'text'",
    ),
    "part is a text": ({"role": "user", "content": [CANARY]}, "messages[2].user.content.0: "),
    "call without id": (
        {"role": "assistant", "tool_calls": [{"id": "a", "name": "f"}, {"name": CANARY}]},
        "messages[2].assistant.tool_calls.1.id: Field required",
    ),
    "call with empty id": (
        {"role": "assistant", "tool_calls": [{"id": "", "name": CANARY}]},
        "messages[2].assistant.tool_calls.0.id: ",
    ),
    "arguments are an object": (
        {"role": "assistant", "tool_calls": [{"id": "a", "name": "f", "arguments": {"p": CANARY}}]},
        "messages[2].assistant.tool_calls.0.arguments: ",
    ),
    "calls are an object": (
        {"role": "assistant", "tool_calls": {"id": "a", "name": CANARY}},
        "messages[2].assistant.tool_calls: ",
    ),
    "usage in words": (
        {"role": "assistant", "usage": {"total_tokens": CANARY}},
        "messages[2].assistant.usage.total_tokens: ",
    ),
    "result without call id": (
        {"role": "tool", "content": CANARY},
        "messages[2].tool.tool_call_id",
    ),
    "not a number": (
        {"role": "assistant", "extra": {"x": float("nan")}},
        "messages[2].assistant.extra.x",
    ),
    "endless number": (
        {"role": "assistant", "extra": {"x": float("inf")}},
        "messages[2].assistant.extra.x",
    ),
    "deep extra": (
        {"role": "assistant", "extra": {"x": nested(400)}},
        "messages[2].assistant.extra.x",
    ),
    "deep part": (
        {"role": "user", "content": [{"type": "file", "file": nested(400)}]},
        "messages[2].user.content.0.file",
    ),
    "endless role": ({"role": "r" * 100_000, "content": CANARY}, "messages[2]: "),
    "endless field": ({**GOOD, "f" * 100_000: CANARY}, "messages[2].user.f"),
}


@pytest.mark.parametrize(("message", "where"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_message_is_rejected_with_its_index(message: object, where: str) -> None:
    text = stored(GOOD, {"role": "assistant", "content": "y"}, message, {"role": "worse"})

    with pytest.raises(ConversationError) as caught:
        load_messages(text)

    assert str(caught.value).startswith(where)
    assert caught.value.index == 2
    assert CANARY not in str(caught.value)
    assert len(str(caught.value)) < 500


@given(strategies.json_values)
def test_no_json_breaks_the_loader(value: JSONValue) -> None:
    for document in (value, {"version": value, "messages": []}, {"version": 1, "messages": value}):
        try:
            loaded = load_messages(json.dumps(document))
        except ConversationError:
            continue
        assert loaded == []


@given(strategies.messages, st.data())
def test_no_cut_or_flipped_byte_breaks_the_loader(message: Message, data: st.DataObject) -> None:
    text = dump_messages([message]).encode()
    place = data.draw(st.integers(0, len(text) - 1))
    damaged = [
        text[:place],
        text[:place] + bytes([data.draw(st.integers(0, 255))]) + text[place + 1 :],
    ]

    for attempt in damaged:
        try:
            loaded = load_messages(attempt)
        except ConversationError:
            continue
        assert load_messages(dump_messages(loaded)) == loaded


def test_nesting_that_loads_can_be_stored_and_sent() -> None:
    for depth in (100, 200, 240, 250, 255, 260, 400, 900):
        text = stored({"role": "user", "content": [{"type": "file", "file": nested(depth)}]})
        try:
            loaded = load_messages(text)
        except ConversationError:
            assert depth > 240
            continue
        assert load_messages(dump_messages(loaded)) == loaded
        assert encode_message(loaded[0])


def test_loading_says_nothing_of_legality() -> None:
    lonely = ToolMessage(tool_call_id="a", content="42")

    assert load_messages(dump_messages([lonely, lonely])) == [lonely, lonely]
