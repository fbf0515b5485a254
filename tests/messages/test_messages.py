"""Messages are frozen values that never show what they hold."""

import copy
import json
import pickle
from collections.abc import Callable

import pytest
from hypothesis import given
from pydantic import TypeAdapter, ValidationError

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
    content_text,
)
from pathors_agent.wire.chat_completions import encode_message
from properties import strategies

CANARY = "hunter2-canary"

PICTURE = ContentPart.model_validate({"type": "image_url", "image_url": {"url": CANARY}})

# One message of each kind, with the canary in every field that may be private.
SECRETIVE: list[Message] = [
    SystemMessage(content=CANARY),
    SystemMessage(content=(ContentPart(type="text", text=CANARY), PICTURE)),
    UserMessage(content=CANARY, name="alice"),
    UserMessage(content=(PICTURE, ContentPart(type="text", text=CANARY))),
    AssistantMessage(
        content=CANARY,
        tool_calls=(
            ToolCall(id="a", name="look", arguments=CANARY, extra={CANARY: CANARY}),
            ToolCall(id="b", name="look", arguments=json.dumps({"password": CANARY})),
        ),
        reasoning=CANARY,
        refusal=CANARY,
        finish_reason="tool_calls",
        usage=Usage(prompt_tokens=7),
        model="m",
        id="chatcmpl-1",
        extra={CANARY: [CANARY]},
    ),
    ToolMessage(tool_call_id="a", content=CANARY, outcome="error"),
    ToolMessage(tool_call_id="a", content=(ContentPart(type="text", text=CANARY),)),
]


@pytest.mark.parametrize("message", SECRETIVE, ids=lambda m: m.role)
def test_repr_and_str_never_show_contents(message: Message) -> None:
    assert CANARY not in repr(message)
    assert CANARY not in str(message)
    assert CANARY not in repr([message])
    assert CANARY not in f"{message}"


def test_repr_says_how_much_a_message_holds() -> None:
    message = AssistantMessage(
        content="four",
        tool_calls=(ToolCall(id="c1", name="add", arguments='{"a": 1}', extra={"sig": "x"}),),
        usage=Usage(prompt_tokens=3, total_tokens=5),
        finish_reason="tool_calls",
    )

    assert repr(message) == (
        "AssistantMessage(content=<4 chars>, tool_calls=(ToolCall(id='c1', name='add', "
        "arguments=<8 chars>, extra=<1 fields>),), finish_reason='tool_calls', "
        "usage=Usage(prompt_tokens=3, total_tokens=5))"
    )


def test_repr_of_parts_names_types_only() -> None:
    message = UserMessage(content=(ContentPart(type="text", text="hello"), PICTURE))

    assert repr(message) == (
        "UserMessage(content=(ContentPart(type='text', text=<5 chars>), "
        "ContentPart(type='image_url', image_url='<dict>')))"
    )


REJECTED: list[Callable[[], object]] = [
    lambda: UserMessage.model_validate({"content": {"text": CANARY}}),
    lambda: UserMessage.model_validate({"content": 3, "name": {CANARY}}),
    lambda: UserMessage.model_validate({"content": [{"type": "text", "txt": CANARY}]}),
    lambda: UserMessage.model_validate({"content": [CANARY]}),
    lambda: UserMessage.model_validate({"content": "x", "other": CANARY}),
    lambda: SystemMessage.model_validate({"content": [{"type": "", "text": CANARY}]}),
    lambda: ToolMessage.model_validate({"tool_call_id": "", "content": CANARY}),
    lambda: ToolMessage.model_validate({"tool_call_id": "a", "content": "x", "outcome": CANARY}),
    lambda: AssistantMessage.model_validate({"tool_calls": [CANARY]}),
    lambda: AssistantMessage.model_validate({"extra": {"a": object(), "b": CANARY}}),
    lambda: AssistantMessage.model_validate({"usage": {"prompt_tokens": CANARY}}),
    lambda: ToolCall.model_validate({"id": "", "name": CANARY}),
    lambda: Usage.model_validate({"total_tokens": CANARY}),
]


@pytest.mark.parametrize("make", REJECTED)
def test_validation_errors_never_show_contents(make: Callable[[], object]) -> None:
    with pytest.raises(ValidationError) as caught:
        make()

    assert CANARY not in str(caught.value)
    assert CANARY not in repr(caught.value)


@pytest.mark.parametrize("message", SECRETIVE, ids=lambda m: m.role)
def test_messages_are_frozen(message: Message) -> None:
    before = message.model_dump()

    for name in ("content", "role", "wire", "new"):
        with pytest.raises(AttributeError) as caught:
            setattr(message, name, CANARY)
        assert CANARY not in str(caught.value)
    with pytest.raises((ValidationError, AttributeError)):
        del message.content

    assert message.model_dump() == before


def test_calls_parts_and_usage_are_frozen() -> None:
    call = ToolCall(id="a", name="f")

    for value, name in ((call, "arguments"), (PICTURE, "image_url"), (Usage(), "total_tokens")):
        with pytest.raises(AttributeError) as caught:
            setattr(value, name, CANARY)
        assert CANARY not in str(caught.value)


def test_lists_become_tuples() -> None:
    message = AssistantMessage.model_validate(
        {
            "content": [{"type": "text", "text": "hi"}],
            "tool_calls": [{"id": "a", "name": "f", "arguments": "{}"}],
        }
    )

    assert message.content == (ContentPart(type="text", text="hi"),)
    assert message.tool_calls == (ToolCall(id="a", name="f", arguments="{}"),)


def test_message_does_not_share_the_dict_it_was_made_from() -> None:
    extra: dict[str, JSONValue] = {"signature": "abc"}
    call = ToolCall(id="a", name="f", extra=extra)

    extra["signature"] = "changed"

    assert call.extra == {"signature": "abc"}


def test_unknown_fields_of_a_message_are_rejected() -> None:
    with pytest.raises(ValidationError):
        UserMessage.model_validate({"content": "x", "tool_calls": []})


def test_unknown_fields_of_a_part_are_kept() -> None:
    part = ContentPart.model_validate(
        {"type": "file", "file": {"file_id": "f-1"}, "cache": None, "text": None}
    )

    assert part.model_dump(exclude_none=False) == {
        "type": "file",
        "text": None,
        "file": {"file_id": "f-1"},
        "cache": None,
    }


@pytest.mark.parametrize("value", [{1, 2}, object(), b"\xff", float("nan"), float("inf")])
def test_part_fields_that_no_json_can_hold_are_rejected(value: object) -> None:
    with pytest.raises(ValidationError):
        ContentPart.model_validate({"type": "file", "file": value})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [-float("inf")], {"a": object()}])
def test_extra_that_no_json_can_hold_is_rejected(value: object) -> None:
    with pytest.raises(ValidationError):
        AssistantMessage.model_validate({"extra": {"x": value}})
    with pytest.raises(ValidationError):
        ToolCall.model_validate({"id": "a", "name": "f", "extra": {"x": value}})


def test_text_part_without_text_is_rejected() -> None:
    with pytest.raises(ValidationError, match="\n  a part of type 'text' needs its field 'text' "):
        ContentPart(type="text")


@pytest.mark.parametrize("bad", [{"tool_call_id": "", "content": ""}, {"content": ""}])
def test_tool_message_without_a_call_id_is_rejected(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ToolMessage.model_validate(bad)


def test_usages_add_field_by_field_and_unknown_stays_unknown() -> None:
    first = Usage(prompt_tokens=10, completion_tokens=1, total_tokens=11, cached_tokens=0)
    second = Usage(prompt_tokens=20, completion_tokens=2, total_tokens=22, reasoning_tokens=4)

    assert first + second == Usage(
        prompt_tokens=30,
        completion_tokens=3,
        total_tokens=33,
        cached_tokens=None,
        reasoning_tokens=None,
    )
    assert first == Usage(prompt_tokens=10, completion_tokens=1, total_tokens=11, cached_tokens=0)


def test_usages_of_zero_add_to_zero_not_to_unknown() -> None:
    zero = Usage(prompt_tokens=0, completion_tokens=0)

    assert (zero + zero).prompt_tokens == 0
    assert (zero + zero).total_tokens is None


def test_text_joins_text_parts_and_leaves_others_out() -> None:
    captioned = ContentPart(type="image_url", text="a caption is no text part")
    parts = (ContentPart(type="text", text="a"), captioned, ContentPart(type="text", text="b"))

    assert UserMessage(content=parts).text == "ab"
    assert SystemMessage(content="s").text == "s"
    assert ToolMessage(tool_call_id="1", content=parts).text == "ab"
    assert AssistantMessage().text == ""
    assert AssistantMessage(content=()).text == ""
    assert content_text(None) == ""


@pytest.mark.parametrize(
    ("role", "kind"),
    [
        ("system", SystemMessage),
        ("user", UserMessage),
        ("assistant", AssistantMessage),
        ("tool", ToolMessage),
    ],
)
def test_role_selects_the_class_of_a_message(role: str, kind: type) -> None:
    call = {"tool_call_id": "a"} if role == "tool" else {}

    read: object = TypeAdapter(Message).validate_python({"role": role, "content": "x", **call})

    assert type(read) is kind


@pytest.mark.parametrize("role", ["developer", "robot", "", None, 3])
def test_other_roles_are_rejected(role: object) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Message).validate_python({"role": role, "content": "x"})


@given(strategies.messages)
def test_encoding_a_message_changes_no_equality_copy_or_pickle(message: Message) -> None:
    untouched = copy.deepcopy(message)
    pickled = pickle.dumps(message)

    wire = encode_message(message)

    assert message == untouched
    assert repr(message) == repr(untouched)
    assert message.model_dump() == untouched.model_dump()
    assert pickle.dumps(message) == pickled
    for twin in (copy.copy(message), copy.deepcopy(message), pickle.loads(pickled)):
        assert twin == message
        assert not hasattr(twin, "wire")
        assert encode_message(twin) == wire


def test_copy_with_other_content_is_encoded_afresh() -> None:
    message = UserMessage(content="old")
    assert encode_message(message) == b'{"role":"user","content":"old"}'

    changed = message.model_copy(update={"content": "new"})

    assert encode_message(changed) == b'{"role":"user","content":"new"}'
    assert encode_message(message) == b'{"role":"user","content":"old"}'


@pytest.mark.parametrize(
    ("reason", "ended_by"),
    [
        ("length", "length"),
        ("max_tokens", "length"),
        ("MAX_TOKENS", "length"),
        ("model_length", "length"),
        ("content_filter", "content_filter"),
        ("content-filter", "content_filter"),
        ("SAFETY", "content_filter"),
        ("content_filter: RECITATION", "content_filter"),
        ("ERROR_LIMIT", "length"),
        ("refusal", "refusal"),
        ("stop", None),
        ("tool_calls", None),
        ("end_turn", None),
        ("", None),
        (None, None),
    ],
)
def test_incomplete_answer_says_what_ended_it(reason: str | None, ended_by: str | None) -> None:
    assert AssistantMessage(content="Hi", finish_reason=reason).ended_by == ended_by


def test_refusal_ends_an_answer_that_says_nothing_else() -> None:
    call = ToolCall(id="a", name="look")
    refused = AssistantMessage(refusal="No.", finish_reason="stop")

    assert refused.ended_by == "refusal"
    assert refused.model_copy(update={"content": ""}).ended_by == "refusal"
    assert refused.model_copy(update={"content": "Yes."}).ended_by is None
    assert refused.model_copy(update={"tool_calls": (call,)}).ended_by is None
    assert refused.model_copy(update={"finish_reason": "length"}).ended_by == "length"
