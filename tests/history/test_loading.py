"""Histories of other libraries, in the shapes that they document; and their unsupported parts."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from pathors_agent.agents.agent import Agent
from pathors_agent.core.conversation import Conversation
from pathors_agent.errors import ConversationError
from pathors_agent.history.loading import (
    HistoryFormat,
    added_messages,
    dump_messages,
    load_messages,
)
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
from pathors_agent.testing import ScriptedTransport

CANARY = "hunter2-canary"


def load(form: HistoryFormat, *values: Any) -> list[Message]:
    return load_messages(values, format=form)


def left_out(form: HistoryFormat, *values: Any) -> list[str]:
    told: list[str] = []
    load_messages(values, format=form, left_out=told)
    return told


# - OpenAI -

CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}
SAID: list[dict[str, Any]] = [
    {"role": "developer", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Hi"}], "name": "Ann"},
    {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning_content": "Hm."},
    {"role": "tool", "tool_call_id": "c1", "content": "3"},
    {"role": "assistant", "content": "It is 3.", "refusal": None, "audio": {"id": "a1"}},
]
READ: list[Message] = [
    SystemMessage(content="Be brief."),
    UserMessage(content=(ContentPart(type="text", text="Hi"),), name="Ann"),
    AssistantMessage(
        tool_calls=(ToolCall(id="c1", name="add", arguments='{"a":1}'),), reasoning="Hm."
    ),
    ToolMessage(tool_call_id="c1", content="3"),
    AssistantMessage(content="It is 3.", extra={"audio": {"id": "a1"}}),
]


@pytest.mark.parametrize(
    "source", [SAID, tuple(SAID), json.dumps(SAID), json.dumps(SAID).encode(), {"messages": SAID}]
)
def test_openai_messages_are_loaded(source: Any) -> None:
    messages = load_messages(source, format="openai")

    assert messages == READ
    assert Conversation(messages).next_role == "user"


def test_own_messages_may_be_mixed_with_openai_messages() -> None:
    assert load("openai", READ[0], SAID[1], *READ[2:]) == READ


BESIDE = {
    "id": "msg_1",
    "type": "message",
    "object": "chat.completion.message",
    "index": 0,
    "weight": 1,
    "created": 1_700_000_000,
    "created_at": "2024-02-29T00:00:00Z",
    "timestamp": 1.5,
    "cache_control": {"type": "ephemeral"},
    "tool_calls": [],
    "refusal": None,
    "function_call": None,
    "audio": {},
}


@pytest.mark.parametrize("name", BESIDE)
@pytest.mark.parametrize("place", [0, 1, 3], ids=["developer", "user", "tool"])
def test_fields_that_say_nothing_to_a_model_are_passed_over(place: int, name: str) -> None:
    values = [dict(value) for value in SAID]
    values[place][name] = BESIDE[name]

    assert load("openai", *values) == READ


@pytest.mark.parametrize("name", ["name", "tool_name", "status"])
def test_result_may_have_the_name_of_its_tool(name: str) -> None:
    values = [*SAID[:3], {**SAID[3], name: "add"}, *SAID[4:]]

    assert load("openai", *values) == READ


@pytest.mark.parametrize("field", [{"is_error": True}, {"status": "error"}])
def test_result_that_is_called_an_error_is_one(field: dict[str, Any]) -> None:
    [message] = load("openai", {"role": "tool", "tool_call_id": "c1", "content": "no", **field})

    assert message == ToolMessage(tool_call_id="c1", content="no", outcome="error")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (12, "12"),
        (-1.5, "-1.5"),
        (0, "0"),
        (False, "false"),
        (None, ""),
        ({"a": ["ü"]}, '{"a":["ü"]}'),
        ([1, 2], "[1,2]"),
        (["a", "b"], '["a","b"]'),
        ([{"a": 1}], '[{"a":1}]'),
        ("12", "12"),
    ],
)
def test_result_that_is_a_value_is_loaded_as_json(content: Any, text: str) -> None:
    openai = load("openai", {"role": "tool", "tool_call_id": "c1", "content": content})
    pydantic_ai = load(
        "pydantic-ai", request(part_kind="tool-return", tool_call_id="c1", content=content or text)
    )

    assert openai == pydantic_ai == [ToolMessage(tool_call_id="c1", content=text)]


@pytest.mark.parametrize("content", [12, -1.5, 0, False, {"a": ["ü"]}])
def test_result_of_langchain_that_is_a_value_is_loaded_as_json(content: Any) -> None:
    [message] = load(
        "langchain", {"type": "tool", "data": {"content": content, "tool_call_id": "c"}}
    )

    assert json.loads(message.text) == content


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"a": 1, "b": [None]}, '{"a":1,"b":[null]}'),
        ({}, "{}"),
        ([1], "[1]"),
        (None, ""),
        ('{"a": 1}', '{"a": 1}'),
        ("{oops", "{oops"),
    ],
)
def test_arguments_that_are_an_object_are_loaded_as_json(arguments: Any, text: str) -> None:
    function = {"name": "add", "arguments": arguments}
    call = {"id": "c1", "type": "function", "function": function}

    [message] = load("openai", {"role": "assistant", "content": None, "tool_calls": [call]})

    assert message == AssistantMessage(tool_calls=(ToolCall(id="c1", name="add", arguments=text),))


def test_call_that_was_gathered_from_a_stream_is_loaded_without_its_index() -> None:
    call = {"index": 0, **CALL, "custom": None}

    [message] = load("openai", {"role": "assistant", "content": None, "tool_calls": [call]})

    assert isinstance(message, AssistantMessage)
    assert message.tool_calls[0].extra == {}


@pytest.mark.parametrize("kind", ["input_text", "output_text"])
def test_text_part_of_the_responses_api_is_a_text_part(kind: str) -> None:
    parts = [{"type": kind, "text": "Hi.", "annotations": []}]

    [message] = load("openai", {"role": "user", "content": parts})

    assert message == UserMessage(content=(ContentPart(type="text", text="Hi."),))


def test_agent_continues_a_history_of_dicts() -> None:
    called = {**CALL, "function": {"name": "add", "arguments": {"a": 1}}}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "1+2?", "id": "m1", "name": ""},
        {"role": "assistant", "content": "", "tool_calls": [called], "id": "m2"},
        {"role": "tool", "tool_call_id": "c1", "name": "add", "content": 3, "id": "m3"},
    ]
    model = ScriptedTransport("It is 3.")

    assert Agent(model).run(conversation=messages).output == "It is 3."
    assert model.requests[0]["messages"] == [
        {"role": "user", "content": "1+2?"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "3"},
    ]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"role": "user", "content": 5}, ".content: must be a string, null, or a list"),
        ({"role": "robot", "content": "x"}, ".role: must be one of system"),
        ({"content": "x"}, ".role: must be one of system"),
        ({"role": "tool", "content": "x"}, ".tool_call_id: is required"),
        ({"role": "user", "content": "x", "mood": "good"}, ".mood: is not supported"),
        (
            {"role": "assistant", "content": "x", "function_call": {"name": "f"}},
            ".function_call: a call without an id is not supported",
        ),
        ({"type": "function_call", "name": "f"}, ": an item of the Responses API"),
        (
            {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "f"}]},
            ": a part 'tool_use' is of another API",
        ),
        (
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c"}]},
            ": a part 'tool_result' is of another API",
        ),
    ],
)
def test_unsupported_parts_of_an_openai_history_are_named(value: Any, problem: str) -> None:
    [told] = left_out("openai", {"role": "user", "content": "x"}, value)

    assert told.startswith(f"messages[1]{problem}")
    with pytest.raises(ConversationError, match="cannot load parts of this openai history"):
        load("openai", value)


# - LangChain -


def test_langchain_messages_are_loaded() -> None:
    answer = {
        "content": [
            {"type": "reasoning", "reasoning": "Hm."},
            {"type": "text", "text": "Wait."},
            {"type": "tool_use", "id": "c1", "name": "add", "input": {"a": 1}},
        ],
        "tool_calls": [{"name": "add", "args": {"a": 1}, "id": "c1", "type": "tool_call"}],
        "response_metadata": {"finish_reason": "tool_calls", "model_name": "gpt"},
        "usage_metadata": {
            "input_tokens": 5,
            "output_tokens": 7,
            "total_tokens": 12,
            "input_token_details": {"cache_read": 2},
            "output_token_details": {"reasoning": 3},
        },
        "id": "run-1",
        "name": "helper",
    }

    messages = load(
        "langchain",
        {"type": "system", "data": {"content": "Be brief."}},
        {"type": "human", "data": {"content": "Hi", "name": "Ann"}},
        {"type": "ai", "data": answer},
        {"type": "tool", "data": {"content": "no", "tool_call_id": "c1", "status": "error"}},
        {"lc": 1, "type": "constructor", "kwargs": {"type": "ai", "content": "It is 3."}},
    )

    assert messages == [
        SystemMessage(content="Be brief."),
        UserMessage(content="Hi", name="Ann"),
        AssistantMessage(
            content="Wait.",
            reasoning="Hm.",
            tool_calls=(ToolCall(id="c1", name="add", arguments='{"a":1}'),),
            finish_reason="tool_calls",
            model="gpt",
            usage=Usage(
                prompt_tokens=5,
                completion_tokens=7,
                total_tokens=12,
                cached_tokens=2,
                reasoning_tokens=3,
            ),
            id="run-1",
            extra={"name": "helper"},
        ),
        ToolMessage(tool_call_id="c1", content="no", outcome="error"),
        AssistantMessage(content="It is 3."),
    ]


def test_calls_that_langchain_keeps_in_the_form_of_openai_are_loaded() -> None:
    older = {"content": "", "additional_kwargs": {"tool_calls": [CALL]}}

    assert load("langchain", {"type": "ai", "data": older}) == [
        AssistantMessage(tool_calls=(ToolCall(id="c1", name="add", arguments='{"a":1}'),))
    ]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("SystemMessageChunk", SystemMessage(content="x")),
        ("HumanMessageChunk", UserMessage(content="x")),
        ("AIMessageChunk", AssistantMessage(content="x")),
        ("ToolMessageChunk", ToolMessage(tool_call_id="c", content="x")),
    ],
)
def test_chunks_of_langchain_are_loaded_as_messages(kind: str, message: Message) -> None:
    fields = {"content": "x", "tool_call_id": "c", "example": False}

    assert load("langchain", {"type": kind, "data": fields}) == [message]


@pytest.mark.parametrize(
    ("block", "part"),
    [
        ("word", {"type": "text", "text": "word"}),
        (
            {"type": "image", "url": "https://x.test/a.png"},
            {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}},
        ),
        (
            {"type": "image", "source_type": "base64", "data": "aGk=", "mime_type": "image/png"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}},
        ),
        (
            {"type": "audio", "base64": "aGk=", "mime_type": "audio/mpeg"},
            {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "mp3"}},
        ),
        (
            {"type": "file", "base64": "aGk=", "mime_type": "text/plain"},
            {"type": "file", "file": {"file_data": "data:text/plain;base64,aGk="}},
        ),
        ({"type": "file", "file_id": "f1"}, {"type": "file", "file": {"file_id": "f1"}}),
        ({"type": "file", "file": {"file_id": "f1"}}, {"type": "file", "file": {"file_id": "f1"}}),
    ],
)
def test_langchain_blocks_become_parts_of_openai(block: Any, part: dict[str, Any]) -> None:
    image = {"type": "image_url", "image_url": {"url": "https://x.test/z.png"}}

    [message] = load("langchain", {"type": "human", "data": {"content": [block, image]}})

    assert message.content == (ContentPart.model_validate(part), ContentPart.model_validate(image))


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"type": "chat", "data": {"content": "x"}}, ": a message of type 'chat' is not supported"),
        ({"content": "x"}, ": a message of type None is not supported"),
        (
            {"type": "tool", "data": {"content": "3", "tool_call_id": "c", "artifact": [1]}},
            ".artifact: is not sent to models",
        ),
        (
            {"type": "human", "data": {"content": [{"type": "video", "url": "x"}]}},
            ".content[0]: a part of type 'video' is not supported",
        ),
        (
            {"type": "human", "data": {"content": [{"type": "text", "text": 5}]}},
            ".content[0]: is not a content part",
        ),
        (
            {"type": "ai", "data": {"content": [{"type": "thinking", "signature": "s"}]}},
            ".content[0].signature: is not supported",
        ),
        (
            {"type": "ai", "data": {"tool_calls": [{"name": "f", "args": {}, "id": None}]}},
            ": String should have at least 1 character (id)",
        ),
        (
            {"type": "ai", "data": {"additional_kwargs": {"function_call": {"name": "f"}}}},
            ".additional_kwargs.function_call: a call without an id is not supported",
        ),
    ],
)
def test_unsupported_parts_of_a_langchain_history_are_named(value: Any, problem: str) -> None:
    [told] = left_out("langchain", value)

    assert told.startswith(f"messages[0]{problem}")


# - pydantic-ai -


def test_pydantic_ai_messages_are_loaded() -> None:
    asked = [
        {"part_kind": "system-prompt", "content": "Be brief."},
        {
            "part_kind": "user-prompt",
            "content": [
                "What is this?",
                {"kind": "text-content", "content": "And why?"},
                {"kind": "image-url", "url": "https://x.test/a.png"},
                {"kind": "binary", "media_type": "image/png", "data": "-_8="},
            ],
        },
    ]
    said = [
        {"part_kind": "thinking", "content": "Hm."},
        {"part_kind": "text", "content": "Wait."},
        {"part_kind": "tool-call", "tool_name": "look", "args": {"at": 1}, "tool_call_id": "c1"},
        {"part_kind": "tool-call", "tool_name": "look", "args": None, "tool_call_id": "c2"},
    ]
    results = [
        {"part_kind": "tool-return", "content": {"seen": 1}, "tool_call_id": "c1"},
        {
            "part_kind": "retry-prompt",
            "content": "again",
            "tool_call_id": "c2",
            "tool_name": "look",
        },
        {"part_kind": "retry-prompt", "content": "Say it as JSON."},
    ]

    messages = load(
        "pydantic-ai",
        {"kind": "request", "parts": asked},
        {
            "kind": "response",
            "parts": said,
            "finish_reason": "tool_call",
            "model_name": "gpt",
            "provider_response_id": "r1",
            "usage": {"input_tokens": 5, "output_tokens": 7},
        },
        {"kind": "request", "parts": results},
        {"kind": "response", "parts": [{"part_kind": "text", "content": "A cat."}]},
    )

    image = {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}}
    inline = {"type": "image_url", "image_url": {"url": "data:image/png;base64,+/8="}}
    assert messages == [
        SystemMessage(content="Be brief."),
        UserMessage(
            content=(
                ContentPart(type="text", text="What is this?"),
                ContentPart(type="text", text="And why?"),
                ContentPart.model_validate(image),
                ContentPart.model_validate(inline),
            )
        ),
        AssistantMessage(
            content="Wait.",
            reasoning="Hm.",
            tool_calls=(
                ToolCall(id="c1", name="look", arguments='{"at":1}'),
                ToolCall(id="c2", name="look", arguments="{}"),
            ),
            finish_reason="tool_calls",
            model="gpt",
            id="r1",
            usage=Usage(prompt_tokens=5, completion_tokens=7, total_tokens=12),
        ),
        ToolMessage(tool_call_id="c1", content='{"seen":1}'),
        ToolMessage(tool_call_id="c2", content="again", outcome="error"),
        UserMessage(content="Say it as JSON.", feedback=True),
        AssistantMessage(content="A cat."),
    ]
    assert Conversation(messages).next_role == "user"


def test_older_names_of_counts_and_marks_for_caches_are_read() -> None:
    asked = ["Hi", {"kind": "cache-point"}]
    told = {"request_tokens": 5, "response_tokens": 7}
    answer = {"kind": "response", "parts": [{"part_kind": "text", "content": "Yes."}]}

    messages = load(
        "pydantic-ai", request(part_kind="user-prompt", content=asked), {**answer, "usage": told}
    )

    assert messages == [
        UserMessage(content=(ContentPart(type="text", text="Hi"),)),
        AssistantMessage(
            content="Yes.", usage=Usage(prompt_tokens=5, completion_tokens=7, total_tokens=12)
        ),
    ]


def request(**part: Any) -> dict[str, Any]:
    return {"kind": "request", "parts": [part]}


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"kind": "event"}, ": a message of kind 'event' is not supported"),
        (
            {"kind": "request", "instructions": "Help.", "parts": []},
            ".instructions: is not part of a history; pass it as Agent(instructions=...)",
        ),
        (
            request(part_kind="compaction"),
            ".parts[0]: a part of kind 'compaction' is not supported",
        ),
        (
            request(part_kind="user-prompt", content=[{"kind": "video-url", "url": "x"}]),
            ".parts[0].content[0]: a part of kind 'video-url' is not supported",
        ),
        (
            request(part_kind="tool-return", content="x", tool_call_id="c", metadata={"a": 1}),
            ".parts[0].metadata: is not sent to models",
        ),
        (
            {"kind": "response", "parts": [{"part_kind": "file"}]},
            ".parts[0]: a part of kind 'file' is not supported",
        ),
        (
            {"kind": "response", "parts": [{"part_kind": "thinking", "signature": "s"}]},
            ".parts[0].signature: is not supported",
        ),
    ],
)
def test_unsupported_parts_of_a_pydantic_ai_history_are_named(value: Any, problem: str) -> None:
    [told] = left_out("pydantic-ai", value)

    assert told.startswith(f"messages[0]{problem}")


# - all of them -

FORMATS: tuple[HistoryFormat, ...] = ("openai", "langchain", "pydantic-ai")
of_each_format = pytest.mark.parametrize("form", FORMATS)


@of_each_format
@pytest.mark.parametrize(
    "source", ["{", "5", "null", '"text"', '{"version":1}', b"\xff", {"messages": "x"}, 5]
)
def test_value_that_is_not_a_list_of_messages_is_refused(form: HistoryFormat, source: Any) -> None:
    with pytest.raises(ConversationError, match="a history must be"):
        load_messages(source, format=form)


@of_each_format
@pytest.mark.parametrize("value", [5, "text", None, SimpleNamespace(role="user"), object()])
def test_value_that_is_not_a_message_is_refused(form: HistoryFormat, value: Any) -> None:
    with pytest.raises(ConversationError, match=r"messages\[0\]: a \w+ is not a message"):
        load(form, value)


@of_each_format
def test_contents_are_not_quoted(form: HistoryFormat) -> None:
    values = [
        {"role": "user", "content": [{"text": CANARY}], CANARY[:0] + "x": CANARY},
        {"type": "human", "data": {"content": [{"type": "text", "text": [CANARY]}]}},
        request(part_kind="user-prompt", content=[{"kind": "binary", "data": CANARY}]),
    ]

    assert CANARY not in " ".join(left_out(form, *values))


def test_many_problems_are_counted() -> None:
    with pytest.raises(
        ConversationError, match=r"messages\[9\].*; and 2 more \(pass left_out"
    ) as told:
        load("langchain", *[{"type": "chat"}] * 12)

    assert "messages[10]" not in str(told.value)
    assert len(left_out("langchain", *[{"type": "chat"}] * 12)) == 12


def test_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match="the formats are openai, langchain, pydantic-ai"):
        load_messages([], format="letters")  # type: ignore[call-overload]


def test_stored_history_is_a_text() -> None:
    with pytest.raises(TypeError, match="pass format="):
        load_messages([])

    assert load_messages(dump_messages(READ)) == READ


@pytest.mark.parametrize("times", [1, 3])
def test_messages_added_after_a_call_that_was_suspended_are_all_found(times: int) -> None:
    inner: list[JSONValue] = [{"role": "user", "content": "x"}]
    run: JSONValue = {"version": 1, "messages": inner}
    suspended = ToolMessage(
        tool_call_id="c", content="waits", outcome="suspended", extra={"run": run}
    )
    called = AssistantMessage(tool_calls=(ToolCall(id="c", name="f", arguments="{}"),))
    done = ToolMessage(tool_call_id="c", content="done", extra={"run": run})
    base: list[Message] = [UserMessage(content="Hi"), called, *[suspended] * times]
    conversation = Conversation(base)
    conversation.append(done)
    [found] = added_messages(base, conversation.messages)
    assert found.text == "done"

    base += [done, AssistantMessage(content="Well.")]
    conversation = Conversation(base)
    new: list[Message] = [UserMessage(content="Thanks"), AssistantMessage(content="Welcome.")]
    for message in new:
        conversation.append(message)
    assert added_messages(base, conversation.messages) == new
