"""What goes over the wire, byte by byte, and that it is encoded once."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathors_agent.messages import (
    AssistantMessage,
    JSONValue,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from pathors_agent.wire.chat_completions import ModelOptions, RequestTemplate, encode_message
from pathors_agent.wire.profiles import DEFAULT_PROFILE, EndpointProfile
from properties import strategies
from request_parts import ENCODED, LOOK, QUESTION, body, call, wire_call


@pytest.mark.parametrize(("message", "wire"), ENCODED.values(), ids=ENCODED)
def test_message_is_encoded_to_these_bytes(message: Message, wire: str) -> None:
    assert encode_message(message).decode() == wire


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [
        ("", "{}"),
        (" \n\t", "{}"),
        ("{}", "{}"),
        (' {"a": 1} ', ' {"a": 1} '),
        ('{"a": 1, "a": [1e300, {"b": null}]}', '{"a": 1, "a": [1e300, {"b": null}]}'),
        ('{"a": ', "{}"),
        ('{"a": 1} and more', "{}"),
        ('{"a": 1}{"a": 1}', "{}"),
        ("```json\n{}\n```", "{}"),
        ("null", "{}"),
        ("7", "{}"),
        ('"{}"', "{}"),
        ('[{"a": 1}]', "{}"),
        ("not JSON at all", "{}"),
        ("{'a': 1}", "{}"),
        ('{"a": NaN}', "{}"),
        ('{"a": -Infinity}', "{}"),
        ('{"a": 1e999}', "{}"),
        ('{"a": "line\nbreak"}', "{}"),
        ('{"a": "\\ud83d"}', "{}"),
        ('{"a": "\ud83d"}', '{"a": "\ufffd"}'),
        ("\ufeff{}", "{}"),
        ('{"a":' * 1000 + "1" + "}" * 1000, "{}"),
        ("[" * 100_000, "{}"),
    ],
)
def test_arguments_are_sent_back_as_written_or_as_an_empty_object(
    arguments: str, sent: str
) -> None:
    message = AssistantMessage(tool_calls=(call(arguments=arguments),))

    [wire] = json.loads(encode_message(message))["tool_calls"]

    assert wire["function"]["arguments"] == sent


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("get_weather-2", "get_weather-2"),
        ("functions.get weather", "functions_get_weather"),
        ("wetter für ü", "wetter_f_r__"),
        ("a\n", "a_"),
        ("🎈", "_"),
        ("", "unnamed"),
        ("x" * 65, "x" * 64),
        ("x" * 64, "x" * 64),
    ],
)
def test_illegal_function_names_are_mended(name: str, sent: str) -> None:
    message = AssistantMessage(tool_calls=(call(name=name),))

    [wire] = json.loads(encode_message(message))["tool_calls"]

    assert wire["function"]["name"] == sent
    assert message.tool_calls[0].name == name


def test_extra_of_a_call_is_sent_back_and_cannot_replace_the_call() -> None:
    extra: dict[str, JSONValue] = {
        "extra_content": {"google": {"thought_signature": "sig"}},
        "index": 0,
        "id": "forged",
        "type": "custom",
        "function": {"name": "forged"},
    }
    message = AssistantMessage(
        tool_calls=(ToolCall(id="a", name="look", arguments="{}", extra=extra),)
    )

    [wire] = json.loads(encode_message(message))["tool_calls"]

    assert wire == {
        "extra_content": {"google": {"thought_signature": "sig"}},
        "index": 0,
        "id": "a",
        "type": "function",
        "function": {"name": "look", "arguments": "{}"},
    }


def test_system_role_is_the_profiles() -> None:
    profile = EndpointProfile(system_role="developer")

    wire = encode_message(SystemMessage(content="Be brief."), profile)

    assert wire == b'{"role":"developer","content":"Be brief."}'


def test_null_content_can_be_left_out() -> None:
    profile = EndpointProfile(null_content=False)

    assert encode_message(AssistantMessage(tool_calls=(call(),)), profile).decode() == (
        f'{{"role":"assistant","tool_calls":[{wire_call()}]}}'
    )
    assert encode_message(AssistantMessage(), profile) == b'{"role":"assistant","content":""}'


def test_reasoning_is_sent_back_with_calls_in_the_field_of_the_profile() -> None:
    profile = EndpointProfile(reasoning_field="reasoning_content")
    called = AssistantMessage(reasoning="Hm.", tool_calls=(call(),))

    assert encode_message(called, profile).decode() == (
        f'{{"role":"assistant","content":null,"tool_calls":[{wire_call()}],'
        '"reasoning_content":"Hm."}'
    )
    answered = AssistantMessage(content="Hi.", reasoning="Hm.")
    assert encode_message(answered, profile) == b'{"role":"assistant","content":"Hi."}'
    silent = AssistantMessage(tool_calls=(call(),))
    assert b"reasoning_content" not in encode_message(silent, profile)


def test_extra_of_a_call_is_not_sent_if_the_profile_says_so() -> None:
    profile = EndpointProfile(echoes_call_fields=False)
    message = AssistantMessage(tool_calls=(call(signature="abc"),))

    assert encode_message(message, profile).decode() == (
        f'{{"role":"assistant","content":null,"tool_calls":[{wire_call()}]}}'
    )


@pytest.mark.parametrize(
    "call_id", ["a", "call_abcdefgh", "ABCDEFGH-", "abcdefghi\n", "ü" * 9, "1" * 99]
)
def test_ids_become_nine_letters_and_digits_the_same_in_call_and_result(call_id: str) -> None:
    profile = EndpointProfile(call_ids="nine")
    called = json.loads(encode_message(AssistantMessage(tool_calls=(call(call_id),)), profile))
    result = ToolMessage(tool_call_id=call_id, content="42")
    answered = json.loads(encode_message(result, profile))

    sent = called["tool_calls"][0]["id"]

    assert re.fullmatch("[A-Za-z0-9]{9}", sent)
    assert answered["tool_call_id"] == sent
    assert json.loads(encode_message(result))["tool_call_id"] == call_id


def test_ids_of_nine_letters_and_digits_stay() -> None:
    result = ToolMessage(tool_call_id="Ab0Cd1Ef2", content="42")

    wire = encode_message(result, EndpointProfile(call_ids="nine"))

    assert wire == b'{"role":"tool","tool_call_id":"Ab0Cd1Ef2","content":"42"}'


def test_different_ids_stay_different() -> None:
    profile = EndpointProfile(call_ids="nine")
    results = [ToolMessage(tool_call_id=f"call_{n}", content="") for n in range(2_000)]

    assert len({encode_message(result, profile) for result in results}) == 2_000


def test_echoed_fields_are_the_profiles() -> None:
    message = AssistantMessage(content="Hi.", extra={"b": None, "a": [1], "c": 2})

    wire = encode_message(message, EndpointProfile(echoed_fields=("a", "b", "z")))

    assert wire == b'{"role":"assistant","content":"Hi.","a":[1],"b":null}'


MESSAGES: list[Message] = [
    SystemMessage(content="s"),
    UserMessage(content="u"),
    AssistantMessage(content="a"),
    AssistantMessage(tool_calls=(call(),)),
    ToolMessage(tool_call_id="a", content="t"),
]


@pytest.mark.parametrize("original", MESSAGES, ids=lambda m: m.role)
def test_message_is_encoded_once_per_profile(original: Message) -> None:
    message = original.model_copy()
    first = encode_message(message)

    assert encode_message(message) is first
    assert encode_message(message, DEFAULT_PROFILE) is first
    assert encode_message(message, EndpointProfile()) is first  # equal, not the same
    other = encode_message(message, EndpointProfile(system_role="developer"))
    assert other is not first
    assert encode_message(message, EndpointProfile(system_role="developer")) is other
    assert encode_message(message) == first


def test_other_profile_gets_its_own_bytes_and_no_kept_ones() -> None:
    message = SystemMessage(content="s")
    developer = EndpointProfile(system_role="developer")

    for _ in range(2):
        assert encode_message(message) == b'{"role":"system","content":"s"}'
        assert encode_message(message, developer) == b'{"role":"developer","content":"s"}'


WIRE_QUESTION = '{"role":"user","content":"Hello?"}'


def test_smallest_request() -> None:
    assert RequestTemplate().encode([QUESTION]).decode() == (
        f'{{"messages":[{WIRE_QUESTION}],"stream":true,"stream_options":{{"include_usage":true}}}}'
    )


def test_request_with_everything() -> None:
    template = RequestTemplate(
        model="m-1",
        instructions="Be brief.",
        tools=[{"type": "function", "function": {"name": "look"}}],
        options=ModelOptions(
            temperature=0.0,
            top_p=0.5,
            max_tokens=100,
            seed=0,
            stop=["END", "\n"],
            tool_choice="auto",
            parallel_tool_calls=False,
            reasoning_effort="low",
            response_format={"type": "json_object"},
            extra={"user": "u-1", "logit_bias": None},
        ),
        profile=EndpointProfile(streams=False),
    )

    assert template.encode([QUESTION]).decode() == (
        f'{{"messages":[{{"role":"system","content":"Be brief."}},{WIRE_QUESTION}],'
        '"model":"m-1","tools":[{"type":"function","function":{"name":"look"}}],'
        '"temperature":0.0,"top_p":0.5,"max_tokens":100,"seed":0,"stop":["END","\\n"],'
        '"tool_choice":"auto","parallel_tool_calls":false,"reasoning_effort":"low",'
        '"response_format":{"type":"json_object"},"stream":false,"user":"u-1","logit_bias":null}'
    )


def test_instructions_precede_stored_system_messages() -> None:
    template = RequestTemplate(instructions="Be brief.")

    sent = body(template, [SystemMessage(content="s"), QUESTION])["messages"]

    assert [m["content"] for m in sent] == ["Be brief.", "s", "Hello?"]


def test_instructions_take_the_profiles_system_role() -> None:
    template = RequestTemplate(
        instructions="Be brief.", profile=EndpointProfile(system_role="developer")
    )

    assert body(template, [QUESTION])["messages"][0]["role"] == "developer"


def test_empty_instructions_are_sent_unchanged() -> None:
    assert body(RequestTemplate(instructions=""), [QUESTION])["messages"][0]["content"] == ""


def test_no_tools_no_tool_choice() -> None:
    options = ModelOptions(tool_choice="required", parallel_tool_calls=True)

    without = body(RequestTemplate(options=options), [QUESTION])
    with_tools = body(RequestTemplate(options=options, tools=[LOOK]), [QUESTION])

    assert without.keys().isdisjoint({"tools", "tool_choice", "parallel_tool_calls"})
    assert with_tools["tools"] == [LOOK]
    assert with_tools["tool_choice"] == "required"
    assert with_tools["parallel_tool_calls"] is True


def test_length_limit_is_sent_in_the_field_of_the_profile() -> None:
    profile = EndpointProfile(max_tokens_field="max_completion_tokens")

    sent = body(RequestTemplate(options=ModelOptions(max_tokens=5), profile=profile), [QUESTION])

    assert sent["max_completion_tokens"] == 5
    assert "max_tokens" not in sent


@pytest.mark.parametrize(
    ("stream", "include_usage", "expected"),
    [
        (True, True, {"stream": True, "stream_options": {"include_usage": True}}),
        (True, False, {"stream": True}),
        (False, True, {"stream": False}),
        (False, False, {"stream": False}),
    ],
)
def test_usage_is_asked_for_in_streams_only(
    stream: bool, include_usage: bool, expected: dict[str, object]
) -> None:
    profile = EndpointProfile(streams=stream, include_usage=include_usage)

    sent = body(RequestTemplate(profile=profile), [QUESTION])

    assert {k: v for k, v in sent.items() if k.startswith("stream")} == expected


def test_extra_wins_over_every_other_field() -> None:
    extra: Mapping[str, JSONValue] = {
        "temperature": 1,
        "model": "m-2",
        "stream_options": None,
        "tool_choice": "none",
        "new": {"a": 1},
    }
    template = RequestTemplate(model="m-1", options=ModelOptions(temperature=0.5, extra=extra))

    sent = body(template, [QUESTION])

    assert {k: sent[k] for k in extra} == extra


@pytest.mark.parametrize("name", ["sends", "structured", "result_media", "call_ids"])
@pytest.mark.parametrize("value", ["both", None, True])
def test_profile_with_another_value_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"EndpointProfile\.{name} must be one of '.*, not "):
        EndpointProfile(**{name: value})


def test_extra_without_a_stream_has_no_options_of_a_stream() -> None:
    unstreamed = body(RequestTemplate(options=ModelOptions(extra={"stream": False})), [QUESTION])
    kept: dict[str, JSONValue] = {"stream": False, "stream_options": {"include_usage": False}}

    assert unstreamed == {"messages": unstreamed["messages"], "stream": False}
    assert (
        kept.items() <= body(RequestTemplate(options=ModelOptions(extra=kept)), [QUESTION]).items()
    )


def test_none_leaves_a_field_out_and_zero_and_false_do_not() -> None:
    options = ModelOptions(temperature=0, seed=0, max_tokens=0, parallel_tool_calls=False, stop="")

    sent = body(RequestTemplate(options=options, tools=[LOOK]), [QUESTION])

    assert sent.keys() == {
        *("messages", "tools", "temperature", "max_tokens", "seed", "stop"),
        *("parallel_tool_calls", "stream", "stream_options"),
    }


def new_messages(history: Sequence[Message]) -> list[str]:
    template = RequestTemplate(instructions="I", profile=EndpointProfile(sends="new_messages"))
    return [m["content"] for m in body(template, history)["messages"]]


def test_only_new_messages_are_sent_to_an_endpoint_that_keeps_the_history() -> None:
    first: list[Message] = [SystemMessage(content="s"), UserMessage(content="u1")]
    answered: list[Message] = [*first, AssistantMessage(content="a1"), UserMessage(content="u2")]
    called: list[Message] = [
        *first,
        AssistantMessage(tool_calls=(call("a"), call("b"))),
        ToolMessage(tool_call_id="a", content="ta"),
        ToolMessage(tool_call_id="b", content="tb"),
    ]

    assert new_messages(first) == ["I", "s", "u1"]
    assert new_messages(answered) == ["u2"]
    assert new_messages([*answered, SystemMessage(content="s2")]) == ["u2", "s2"]
    assert new_messages(called) == ["ta", "tb"]
    assert new_messages([*called, AssistantMessage(content="a2")]) == []


def test_template_does_not_change_with_the_options_it_was_made_from() -> None:
    tools: list[JSONValue] = [LOOK]
    template = RequestTemplate(tools=tools)
    before = template.encode([QUESTION])

    tools.clear()

    assert template.encode([QUESTION]) == before


def carries_media(message: dict[str, Any]) -> bool:
    parts = message["content"] if isinstance(message["content"], list) else []
    return message["role"] == "user" and any(part["type"] != "text" for part in parts)


@given(st.lists(strategies.messages, max_size=4), st.none() | strategies.texts)
def test_request_is_json_and_holds_each_message(
    history: list[Message], instructions: str | None
) -> None:
    template = RequestTemplate(model="m", instructions=instructions, tools=[LOOK])

    sent = body(template, history)

    wired = [json.loads(encode_message(message)) for message in history]
    first = [] if instructions is None else [{"role": "system", "content": instructions}]
    in_order = iter(sent["messages"])
    assert all(message in in_order for message in first + wired)
    added = list(sent["messages"])
    for message in first + wired:
        added.remove(message)
    assert all(carries_media(message) for message in added)
    assert sent["tools"] == [LOOK]
