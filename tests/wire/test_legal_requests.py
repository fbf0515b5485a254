"""Requests are legal for their endpoint, whatever a model, a tool or a user said before."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathors_agent.agents.agent import Agent
from pathors_agent.core.conversation import Conversation
from pathors_agent.history.loading import dump_messages, load_messages
from pathors_agent.messages import (
    AssistantMessage,
    ContentPart,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from pathors_agent.testing import ScriptedTransport, calls, check_history
from pathors_agent.testing.history_rules import check_request
from pathors_agent.tools.tool import tool
from pathors_agent.wire.chat_completions import ModelOptions, RequestTemplate
from pathors_agent.wire.profiles import PROFILES, EndpointProfile
from properties import strategies
from request_contract import problems_of, taken_problems


def part(kind: str, value: object) -> ContentPart:
    return ContentPart.model_validate({"type": kind, kind: value})


def text(words: str) -> ContentPart:
    return ContentPart(type="text", text=words)


PNG = part("image_url", {"url": "data:image/png;base64,AAAA"})
JPEG = part("image_url", {"url": "https://x.test/a.jpg", "detail": "low"})
SVG = part("image_url", {"url": "data:image/svg+xml;base64,AAAA"})
WAV = part("input_audio", {"data": "AAAA", "format": "wav"})
OGG = part("input_audio", {"data": "AAAA", "format": "ogg"})
FILE = part("file", {"file_id": "f-1"})

IN_RESULTS = EndpointProfile(result_media="tool_message")
LEFT_OUT = EndpointProfile(result_media="left_out")


def look(*ids: str) -> AssistantMessage:
    return AssistantMessage(tool_calls=tuple(ToolCall(id=i, name="look") for i in ids))


def result(call_id: str, *content: ContentPart) -> ToolMessage:
    return ToolMessage(tool_call_id=call_id, content=content)


def sent(messages: Sequence[Message], profile: EndpointProfile) -> list[dict[str, Any]]:
    """The roles and contents of a request."""
    body = json.loads(RequestTemplate(profile=profile).encode(messages))
    check_request(body, profile)
    return [{message["role"]: message["content"]} for message in body["messages"]]


def from_results(*parts: ContentPart) -> dict[str, Any]:
    return {"user": [part.model_dump(exclude_defaults=True) for part in parts]}


def origin(call_id: str) -> ContentPart:
    return text(f"From the result of tool call {call_id}:")


GO = UserMessage(content="Go.")


# - the media of results -


@pytest.mark.parametrize("profile", [PROFILES["default"], PROFILES["openai"]])
def test_media_of_a_result_are_in_a_user_message_after_it(profile: EndpointProfile) -> None:
    messages: list[Message] = [GO, look("a"), result("a", text("Seen:"), PNG, WAV, FILE)]

    assert sent(messages, profile)[2:] == [
        {
            "tool": "Seen:\n[image: in the next user message]\n[audio: in the next user message]\n"
            "[file: in the next user message]"
        },
        from_results(PNG, WAV, FILE),
    ]


def test_media_of_a_batch_follow_all_its_results() -> None:
    batch: list[Message] = [
        look("a", "b", "c"),
        result("a", PNG),
        result("b", text("12")),
        result("c", FILE, JPEG),
    ]
    answered: list[Message] = [AssistantMessage(content="I see."), UserMessage(content="Thanks.")]

    assert sent([GO, *batch, *answered], PROFILES["openai"])[2:] == [
        {"tool": "[image: in the next user message]"},
        {"tool": [{"type": "text", "text": "12"}]},
        {"tool": "[file: in the next user message]\n[image: in the next user message]"},
        from_results(origin("a"), PNG, origin("c"), FILE, JPEG),
        {"assistant": "I see."},
        {"user": "Thanks."},
    ]


def test_endpoint_that_takes_media_in_tool_messages_gets_it_there() -> None:
    dumped = [p.model_dump(exclude_defaults=True) for p in (text("Seen:"), PNG, OGG)]

    assert sent([GO, look("a"), result("a", text("Seen:"), PNG, OGG)], IN_RESULTS)[2:] == [
        {"tool": dumped}
    ]


def test_endpoint_for_text_gets_a_note() -> None:
    assert sent([GO, look("a"), result("a", PNG, FILE)], LEFT_OUT)[2:] == [
        {"tool": "[image: not sent]\n[file: not sent]"}
    ]


def test_types_of_media_that_openai_refuses_are_noted_only() -> None:
    broken = part("image_url", "https://x.test/a.png")

    assert sent([GO, look("a"), result("a", SVG, OGG, broken, PNG)], PROFILES["openai"])[2:] == [
        {
            "tool": "[image: not sent]\n[audio: not sent]\n[image: not sent]\n"
            "[image: in the next user message]"
        },
        from_results(PNG),
    ]


@pytest.mark.parametrize(
    ("content", "wire"),
    [
        ("12", "12"),
        ((), ""),
        ((text("1"), text("2")), [{"type": "text", "text": "1"}, {"type": "text", "text": "2"}]),
    ],
)
def test_result_of_text_is_sent_as_it_is(content: Any, wire: Any) -> None:
    message = ToolMessage(tool_call_id="a", content=content)

    assert sent([GO, look("a"), message], PROFILES["openai"])[2:] == [{"tool": wire}]


def test_call_id_in_the_user_message_is_the_one_that_is_sent() -> None:
    batch: list[Message] = [result("call_1", PNG), result("call_2", PNG)]
    profile = EndpointProfile(call_ids="nine")

    body = json.loads(
        RequestTemplate(profile=profile).encode([GO, look("call_1", "call_2"), *batch])
    )

    [_, _, tool_message, _, carrying] = body["messages"]
    assert carrying["content"][0]["text"].endswith(f" {tool_message['tool_call_id']}:")
    assert len(tool_message["tool_call_id"]) == 9


def test_new_messages_hold_the_media_of_new_results_only() -> None:
    profile = EndpointProfile(sends="new_messages")
    turn: list[Message] = [GO, look("a"), result("a", PNG)]

    assert sent(turn, profile) == [{"tool": "[image: in the next user message]"}, from_results(PNG)]
    assert sent([*turn, AssistantMessage(content="x"), GO], profile) == [{"user": "Go."}]


def test_media_is_no_part_of_the_record() -> None:
    @tool
    def screenshot() -> list[ContentPart]:
        """Take a picture of the screen."""
        return [text("Seen:"), PNG]

    model = ScriptedTransport(calls(("screenshot", {})), "I see.", "Bye.")
    conversation = Conversation()
    agent = Agent(model, tools=[screenshot])

    agent.run("Look.", conversation=conversation)
    agent.run("Bye.", conversation=conversation)

    assert [message.role for message in conversation.messages] == [
        *("user", "assistant", "tool", "assistant"),
        *("user", "assistant"),
    ]
    assert conversation.messages[2].content == (text("Seen:"), PNG)
    roles = [message["role"] for message in model.requests[-1]["messages"]]
    assert roles == ["user", "assistant", "tool", "user", "assistant", "user"]


# - order -


def test_answer_is_inserted_between_a_result_and_a_user_message_if_the_endpoint_needs_it() -> None:
    messages: list[Message] = [
        GO,
        look("a", "b"),
        result("a", text("1")),
        result("b", PNG),
        GO,
        look("c"),
    ]
    messages += [result("c", text("3")), AssistantMessage(content="Done."), GO]

    roles = [next(iter(message)) for message in sent(messages, PROFILES["mistral"])]

    assert roles == [
        *("user", "assistant", "tool", "tool", "assistant", "user", "assistant", "user"),
        *("assistant", "tool", "assistant", "user"),
    ]


def test_answer_is_inserted_between_two_user_messages_if_the_endpoint_needs_it() -> None:
    messages: list[Message] = [GO, GO, AssistantMessage(content="Done."), GO, GO]

    assert len(sent(messages, PROFILES["openai"])) == 5
    roles = [next(iter(message)) for message in sent(messages, PROFILES["mistral"])]
    assert roles == [*("user", "assistant", "user", "assistant"), *("user", "assistant", "user")]


def test_result_of_texts_is_a_string_where_media_are_left_out() -> None:
    messages: list[Message] = [GO, look("a"), result("a", text("21 degrees"), text("sunny"))]

    assert sent(messages, LEFT_OUT)[2:] == [{"tool": "21 degrees\nsunny"}]


# - parts and names where endpoints take none -


@pytest.mark.parametrize("kind", [SystemMessage, AssistantMessage])
def test_media_outside_of_user_messages_is_noted(kind: Any) -> None:
    [message] = sent([kind(content=(text("See:"), PNG, FILE))], PROFILES["openai"])

    assert list(message.values()) == ["See:\n[image: not sent]\n[file: not sent]"]


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("Ann", {"name": "Ann"}),
        ("Jürgen", {"name": "Jürgen"}),
        ("Ann Smith / <admin>", {"name": "Ann_Smith_admin_"}),
        ("x" * 65, {"name": "x" * 64}),
        ("", {}),
        (None, {}),
    ],
)
def test_names_of_speakers_are_mended(name: str | None, fields: dict[str, str]) -> None:
    body = json.loads(RequestTemplate().encode([UserMessage(content="Hi", name=name)]))

    assert body["messages"] == [{"role": "user", **fields, "content": "Hi"}]


# - every history, every profile -

MEDIA = st.sampled_from([PNG, JPEG, SVG, WAV, OGG, FILE]) | strategies.text_parts
CONTENTS = strategies.texts | st.lists(MEDIA, max_size=3).map(tuple)
USER_CONTENTS = strategies.texts | st.lists(
    strategies.text_parts | st.sampled_from([PNG, JPEG, WAV, FILE]), max_size=3
).map(tuple)


@st.composite
def histories(draw: st.DrawFn) -> list[Message]:
    """Legal histories of up to eight turns, with any arguments and any media in results."""
    conversation = Conversation()
    for turn in range(draw(st.integers(1, 8))):
        kind = draw(st.sampled_from(["user", "system", "answer", "calls", "calls"]))
        if kind == "user":
            conversation.append(UserMessage(content=draw(USER_CONTENTS)))
        elif kind == "system":
            conversation.append(SystemMessage(content=draw(CONTENTS)))
        elif kind == "answer":
            conversation.append(AssistantMessage(content=draw(st.none() | CONTENTS)))
        else:
            asked = draw(strategies.call_batches)
            asked = tuple(call.model_copy(update={"id": f"{call.id}-{turn}"}) for call in asked)
            conversation.append(AssistantMessage(tool_calls=asked))
            for call in draw(st.permutations(asked)):
                conversation.append(ToolMessage(tool_call_id=call.id, content=draw(CONTENTS)))
    return list(conversation.messages)


ALL_PROFILES = [*PROFILES.values(), IN_RESULTS, LEFT_OUT]


@given(histories(), st.sampled_from(ALL_PROFILES))
def test_every_history_makes_a_legal_request(
    history: list[Message], profile: EndpointProfile
) -> None:
    template = RequestTemplate(model="m", profile=profile)

    body = template.encode(history)

    check_request(json.loads(body), profile)
    if profile.result_media != "tool_message":
        assert problems_of(body) == []
    assert template.encode(load_messages(dump_messages(history))) == body


@given(histories(), st.sampled_from(ALL_PROFILES), st.data())
def test_bytes_of_a_history_do_not_depend_on_what_was_sent_before(
    history: list[Message], profile: EndpointProfile, data: st.DataObject
) -> None:
    template = RequestTemplate(profile=profile)
    fresh = load_messages(dump_messages(history))

    for end in sorted(data.draw(st.sets(st.integers(1, len(history))))):
        template.encode(history[:end])

    assert template.encode(history) == template.encode(fresh)


def test_long_history_of_pictures_is_sent_in_the_same_bytes() -> None:
    profile = PROFILES["openai"]
    template = RequestTemplate(profile=profile)
    history: list[Message] = [GO]
    # Bytes are joined at each 32nd message, so behind every message of such a batch in turn.
    for number in range(40):
        ids = [f"{letter}{number}" for letter in "abcd"]
        rest = (result(call_id, text("x")) for call_id in ids[1:])
        history += [look(*ids), result(ids[0], PNG), *rest]
    history.append(AssistantMessage(content="I see."))

    for end in range(1, len(history) + 1):
        sent = template.encode(history[:end])
        if end % 32 in (31, 0, 1):
            assert sent == template.encode(load_messages(dump_messages(history[:end])))

    check_request(json.loads(template.encode(history)), profile)
    check_history(history)


# - the rule itself -


def wire(*messages: dict[str, Any]) -> dict[str, Any]:
    return {"messages": list(messages)}


def asking(arguments: str = "{}", name: str = "look", call_id: str = "a") -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    call = {"id": call_id, "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


RESULT = {"role": "tool", "tool_call_id": "a", "content": "1"}
IMAGE = {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}}
USER = {"role": "user", "content": "Hi"}


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([asking("{"), RESULT], "arguments are not the text of a JSON object"),
        ([asking("[]"), RESULT], "arguments are not the text of a JSON object"),
        ([asking(name="a b"), RESULT], "name has characters"),
        ([asking(call_id=""), RESULT], r"tool_calls\[0\].id is empty"),
        ([asking(), {**RESULT, "content": [IMAGE]}], r"messages\[1\].content\[0\] is no text"),
        ([{"role": "system", "content": [IMAGE]}], r"messages\[0\].content\[0\] is no text"),
        ([{"role": "user", "content": []}], r"messages\[0\].content is \[\]"),
        ([{"role": "assistant", "content": None}], r"messages\[0\].content is None"),
        ([{"role": "robot", "content": ""}], r"messages\[0\].role is 'robot'"),
        ([RESULT], r"messages\[0\] is the result of no open call"),
        ([asking(), RESULT, RESULT], r"messages\[2\] is the result of no open call"),
        ([asking(), USER], r"messages\[1\] stands before the results of a"),
        ([asking()], "the results of a are missing"),
        ([asking(), RESULT, USER], r"messages\[2\] is a user message that follows a tool message"),
        ([USER, USER], r"messages\[1\] is a user message that follows a user message"),
    ],
)
def test_request_that_endpoints_refuse_is_named(
    messages: list[dict[str, Any]], problem: str
) -> None:
    with pytest.raises(AssertionError, match=f"must be legal, but .*{problem}"):
        check_request(wire(*messages), EndpointProfile(answers_results=True))


def test_legal_request_passes() -> None:
    check_request(wire(USER, asking(), RESULT, USER), PROFILES["openai"])
    check_request(wire(asking(), {**RESULT, "content": [IMAGE]}), IN_RESULTS)
    check_request(wire(RESULT), EndpointProfile(sends="new_messages"))


@pytest.mark.usefixtures("conformance_data")
def test_requests_of_the_suite_are_watched() -> None:
    odd = ModelOptions(extra={"n": "many"})

    Agent(ScriptedTransport("Hi."), options=odd).run("Hello")

    [problem] = taken_problems()
    assert "many" in problem


def test_contract_names_the_part_that_does_not_fit(conformance_data: Path) -> None:
    told = problems_of(json.dumps({"messages": [{"role": "tool", "content": [IMAGE]}]}))

    assert any("messages" in problem for problem in told)
