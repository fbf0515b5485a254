"""Messages in the API's form: what stores keep comes back equal, and clients can claim nothing."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathors_agent import (
    AssistantMessage,
    ConversationError,
    SystemMessage,
    ToolCall,
    ToolMessage,
    Usage,
    UserMessage,
)
from pathors_agent.messages import ContentPart, Message, write_message
from pathors_agent.wire.messages import read_client_messages, read_message, write_parts

TEXT = st.text(max_size=5)
PARTS = st.tuples(st.builds(ContentPart, type=st.just("text"), text=TEXT))
CALLS = st.builds(
    ToolCall,
    id=st.text(min_size=1, max_size=5),
    name=TEXT,
    arguments=TEXT,
    extra=st.dictionaries(st.sampled_from(["signature", "index"]), st.integers(), max_size=2),
)
MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.builds(SystemMessage, content=TEXT | PARTS, name=st.none() | TEXT),
    st.builds(UserMessage, content=TEXT | PARTS, name=st.none() | TEXT, feedback=st.booleans()),
    st.builds(
        AssistantMessage,
        content=st.none() | TEXT,
        tool_calls=st.lists(CALLS, max_size=2).map(tuple),
        reasoning=st.none() | TEXT,
        refusal=st.none() | TEXT,
        finish_reason=st.none() | TEXT,
        usage=st.none() | st.builds(Usage, prompt_tokens=st.none() | st.integers(0, 9)),
        model=st.none() | TEXT,
        id=st.none() | TEXT,
        extra=st.dictionaries(TEXT, st.integers(), max_size=2),
    ),
    st.builds(
        ToolMessage,
        tool_call_id=st.text(min_size=1, max_size=5),
        content=TEXT | PARTS,
        outcome=st.sampled_from(["value", "error", "timeout", "cancelled", "not_run", "unknown"]),
        ends_tool=st.booleans(),
    ),
)


@given(MESSAGES)
def test_written_value_is_read_equal(message: Message) -> None:
    assert read_message(write_message(message)) == message


def test_call_is_written_as_the_api_has_it() -> None:
    call = ToolCall(id="c1", name="add", arguments="{}", extra={"signature": "x"})

    assert write_message(AssistantMessage(content=None, tool_calls=(call,))) == {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "signature": "x",
                "id": "c1",
                "type": "function",
                "function": {"name": "add", "arguments": "{}"},
            }
        ],
    }


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (
            {
                "role": "tool",
                "tool_call_id": "c",
                "content": "x",
                "outcome": "error",
                "ends_tool": True,
            },
            ToolMessage(tool_call_id="c", content="x"),
        ),
        (
            {"role": "user", "content": "x", "feedback": True, "unknown": 1},
            UserMessage(content="x"),
        ),
        (
            {"role": "assistant", "content": "x", "usage": {"total_tokens": 1}, "extra": {"a": 1}},
            AssistantMessage(content="x"),
        ),
        ({"role": "developer", "content": None}, SystemMessage(content="")),
    ],
)
def test_client_can_claim_nothing_that_only_the_library_knows(
    sent: dict[str, Any], read: Message
) -> None:
    assert read_client_messages([sent]) == ([read], [])


def test_every_bad_message_is_named_and_the_good_ones_are_read() -> None:
    messages, problems = read_client_messages(
        [{"role": "user", "content": "x"}, {"role": "tool"}, 5, {"role": "user", "content": [{}]}]
    )

    assert messages == [UserMessage(content="x")]
    assert problems == [
        "messages[1].tool_call_id: is required",
        "messages[2]: must be an object with a role",
        "messages[3].content[0].type: is required",
    ]


def test_stored_message_that_is_damaged_is_an_error() -> None:
    with pytest.raises(ConversationError, match=r"message\.tool_call_id: is required"):
        read_message({"role": "tool", "content": "x"})


@given(
    st.lists(
        st.builds(
            ContentPart,
            type=st.sampled_from(["text", "image_url", "odd"]),
            text=TEXT,
            cache_control=st.none() | st.dictionaries(TEXT, TEXT, max_size=1),
        )
        | st.builds(ContentPart, type=st.just("text"), text=TEXT)
        | st.builds(ContentPart, type=st.just("file"))
    )
)
def test_parts_are_written_with_all_their_fields(parts: list[ContentPart]) -> None:
    assert write_parts(parts) == [
        part.model_dump(mode="json", exclude_defaults=True) for part in parts
    ]
