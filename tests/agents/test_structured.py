"""Answers of a type: asked for in three ways, checked, sent back, and read while they arrive."""

import json
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, field_validator
from typing_extensions import TypedDict

from pathors_agent.agents.agent import Agent, AsyncAgent
from pathors_agent.agents.answers import AnswerType, ArrivingAnswer
from pathors_agent.core.conversation import Conversation
from pathors_agent.core.limits import Limits
from pathors_agent.core.run import GiveFeedback, Run, Status
from pathors_agent.errors import RunNotFinished, ToolDefinitionError
from pathors_agent.history.loading import dump_messages, load_messages
from pathors_agent.messages import (
    AssistantMessage,
    JSONValue,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    Usage,
    UserMessage,
)
from pathors_agent.schema.arguments import ArgumentsRefused
from pathors_agent.testing import (
    AsyncScriptedTransport,
    Entry,
    ScriptedTransport,
    answer,
    calls,
    raw,
)
from pathors_agent.testing.script import Answer
from pathors_agent.tools.tool import Tool, tool
from pathors_agent.wire.chat_completions import ModelOptions
from pathors_agent.wire.message_builder import MessageBuilder
from pathors_agent.wire.profiles import PROFILES, EndpointProfile
from ways import Way

Mode = Literal["response_format", "tool", "prompt"]

TOOL = EndpointProfile(structured="tool")
FORMAT = EndpointProfile(structured="response_format")
PROMPT = EndpointProfile(structured="prompt")

GOOD = '{"city": "Oslo", "degrees": 3.5}'
COLD = '{"city": "Oslo", "degrees": -300}'


class Weather(BaseModel):
    """How the weather is."""

    city: str
    degrees: float = Field(ge=-273)


@dataclass
class Place:
    name: str
    founded: date | None = None


class Route(TypedDict):
    places: list[Place]
    toll: bool


class Tree(BaseModel):
    name: str
    children: list["Tree"] = []


@tool
def look(city: str) -> str:
    """Look out of the window."""
    return f"sunny in {city}"


def given_by(profile: EndpointProfile, text: str) -> Entry:
    """Answer in the way that a profile has answers given."""
    return calls(("final_answer", text)) if profile is TOOL else text


def raw_answer(delta: dict[str, object], finish_reason: str) -> Entry:
    """Stream one delta, then the end."""
    parts = [{"delta": delta, "finish_reason": None}, {"delta": {}, "finish_reason": finish_reason}]
    chunks = [{"id": "1", "model": "m", "choices": [part]} for part in parts]
    return raw(b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks))


EACH_MODE = pytest.mark.parametrize(
    "profile", [TOOL, FORMAT, PROMPT], ids=["tool", "format", "prompt"]
)


# - Asking


@EACH_MODE
def test_output_is_a_value_of_the_type(way: Way, profile: EndpointProfile) -> None:
    result = way.run(given_by(profile, GOOD), prompt="Oslo?", profile=profile, output=Weather)

    assert result.status is Status.FINISHED
    assert result.output == Weather(city="Oslo", degrees=3.5)
    assert result.output is result.output


SCHEMA = {
    "description": "How the weather is.",
    "type": "object",
    "properties": {"city": {"type": "string"}, "degrees": {"type": "number", "minimum": -273}},
    "required": ["city", "degrees"],
}


def test_final_tool_is_sent_and_required(way: Way) -> None:
    way.run(calls(("final_answer", GOOD)), prompt="?", profile=TOOL, output=Weather, tools=[look])

    [request] = way.requests
    assert [tool["function"]["name"] for tool in request["tools"]] == ["look", "final_answer"]
    assert request["tools"][1]["function"]["parameters"] == SCHEMA
    assert request["tool_choice"] == "required"
    assert "response_format" not in request


def test_endpoint_that_takes_no_required_calls_is_asked_for_none(way: Way) -> None:
    profile = EndpointProfile(requires_calls=False)

    way.run(calls(("final_answer", GOOD)), prompt="?", profile=profile, output=Weather)

    assert "tool_choice" not in way.requests[0]


def test_own_tool_choice_is_kept(way: Way) -> None:
    options = ModelOptions(tool_choice="auto")

    way.run(calls(("final_answer", GOOD)), prompt="?", output=Weather, options=options)

    assert way.requests[0]["tool_choice"] == "auto"


def test_response_format_is_sent_closed(way: Way) -> None:
    way.run(GOOD, prompt="?", profile=FORMAT, output=Weather)

    [request] = way.requests
    assert request["response_format"] == {
        "type": "json_schema",
        "json_schema": {
            "name": "final_answer",
            "schema": {**SCHEMA, "additionalProperties": False},
            "strict": True,
        },
    }
    assert "tools" not in request


def test_schema_that_cannot_be_closed_is_sent_as_it_is(way: Way) -> None:
    way.run('{"a": 1}', prompt="?", profile=FORMAT, output=dict[str, int])

    assert way.requests[0]["response_format"]["json_schema"] == {
        "name": "final_answer",
        "schema": {"type": "object", "additionalProperties": {"type": "integer"}},
        "strict": False,
    }


def test_prompt_adds_the_schema_to_the_instructions(way: Way) -> None:
    way.run(GOOD, prompt="?", profile=PROMPT, output=Weather, instructions="Be brief.")

    [request] = way.requests
    words, schema = request["messages"][0]["content"].rsplit("\n", 1)
    assert words == (
        "Be brief.\n\nAnswer with one JSON object, and nothing else, that fits this JSON Schema:"
    )
    assert json.loads(schema) == SCHEMA
    assert request.keys() <= {"messages", "stream", "stream_options"}


@pytest.mark.parametrize(
    ("name", "structured"),
    [("default", "tool"), ("openai", "response_format"), ("strict", "prompt")],
)
def test_profile_chooses_the_way(name: str, structured: str) -> None:
    assert PROFILES[name].structured == structured


# - Types


@pytest.mark.parametrize(
    ("output", "text", "value"),
    [
        (Place, '{"name": "Oslo", "founded": "1048-01-01"}', Place("Oslo", date(1048, 1, 1))),
        (
            Route,
            '{"places": [{"name": "A"}], "toll": true}',
            {"places": [Place("A")], "toll": True},
        ),
        (Weather | Place, '{"value": {"name": "Oslo"}}', Place("Oslo")),
        (list[int], '{"value": [1, 2]}', [1, 2]),
        (int | None, '{"value": null}', None),
        (Literal["yes", "no"], '{"value": "no"}', "no"),
        (dict[str, int], '{"a": 1}', {"a": 1}),
        (
            Tree,
            '{"name": "a", "children": [{"name": "b"}]}',
            Tree(name="a", children=[Tree(name="b")]),
        ),
    ],
    ids=str,
)
@EACH_MODE
def test_type_is_read(profile: EndpointProfile, output: Any, text: str, value: object) -> None:
    result = Way("blocking").run(
        given_by(profile, text), prompt="?", profile=profile, output=output
    )

    assert result.output == value


def test_type_inside_itself_keeps_its_definition() -> None:
    schema = AnswerType(Tree, "tool").schema

    assert schema["properties"]["children"]["items"] == {"$ref": "#/$defs/Tree"}
    assert schema["$defs"].keys() == {"Tree"}


def test_text_is_the_type_of_answers_without_one(way: Way) -> None:
    result = way.run("Sunny.", prompt="?", output=str)

    assert result.output == "Sunny."
    assert way.requests[0].keys() <= {"messages", "stream", "stream_options"}


def test_type_that_no_schema_describes_is_refused() -> None:
    with pytest.raises(TypeError, match="output is not a type that a model can answer with"):
        Agent(ScriptedTransport(), output=Agent)


def test_tool_with_the_final_tools_name_is_refused() -> None:
    with pytest.raises(ToolDefinitionError, match=r"final_answer.* gives the answer"):
        Agent(ScriptedTransport(), output=Weather, tools=[Tool(name="final_answer")])


# - What does not fit


def feedback(result: Any) -> list[str]:
    return [
        m.text
        for m in result.messages
        if (isinstance(m, UserMessage) and m.feedback)
        or (isinstance(m, ToolMessage) and m.is_error)
    ]


TOO_COLD = "- /degrees: should be greater than or equal to -273, got the number -300"


def test_invalid_final_call_is_an_error_the_model_reads(way: Way) -> None:
    result = way.run(
        calls(("final_answer", COLD)), calls(("final_answer", GOOD)), prompt="?", output=Weather
    )

    assert result.output.degrees == 3.5
    assert feedback(result) == [f"The arguments of final_answer do not fit the schema:\n{TOO_COLD}"]
    assert [m.role for m in result.messages] == ["user", "assistant", "tool", "assistant", "tool"]


def test_text_in_the_place_of_a_final_call_is_sent_back(way: Way) -> None:
    result = way.run("Sunny.", calls(("final_answer", GOOD)), prompt="?", output=Weather)

    assert result.output.degrees == 3.5
    assert feedback(result) == ["Give your answer by a call of final_answer, not as text."]


AGAIN = "\nSend the whole answer again, as one JSON object and nothing else."


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (COLD, f"do not fit the schema:\n{TOO_COLD}"),
        ("[1]", "should be one JSON object, not the array [1]."),
        ("", "are empty. Send one JSON object."),
        (
            "Here!",
            "are not JSON: expected value at character 1, near `Here!`. Send one JSON object.",
        ),
        (
            '{"city": "Oslo"}',
            "do not fit the schema:\n- /degrees: is missing, should be a number",
        ),
        (
            '{"city": "Oslo", "city": "Rome", "degrees": 1}',
            'hold the name "city" twice in one object.',
        ),
    ],
)
@pytest.mark.parametrize("profile", [FORMAT, PROMPT], ids=["format", "prompt"])
def test_invalid_text_is_sent_back(
    way: Way, profile: EndpointProfile, text: str, words: str
) -> None:
    result = way.run(answer(text), GOOD, prompt="?", profile=profile, output=Weather)

    assert result.output == Weather(city="Oslo", degrees=3.5)
    assert feedback(result) == [f"The contents of your answer {words}{AGAIN}"]
    assert way.requests[1]["messages"][-1] == {"role": "user", "content": feedback(result)[0]}


def test_place_of_a_wrapped_value_is_the_one_sent() -> None:
    with pytest.raises(ArgumentsRefused, match=r"- /value/0: should be a valid integer"):
        AnswerType(list[int], "response_format").read('{"value": ["one"]}')


def test_member_of_the_wrappers_name_does_not_mislead() -> None:
    class Box(BaseModel):
        value: Place
        size: int

    with pytest.raises(ArgumentsRefused, match=r"- /size: is missing, should be an integer"):
        AnswerType(Box, "tool").read('{"value": {"name": "Oslo"}}')


def test_validator_that_breaks_is_no_answer() -> None:
    class Odd(BaseModel):
        a: int

        @field_validator("a")
        @classmethod
        def _break(cls, value: int) -> int:
            raise RuntimeError("no")

    with pytest.raises(ArgumentsRefused, match=r"could not be checked \(RuntimeError\)"):
        AnswerType(Odd, "tool").read('{"a": 1}')


@EACH_MODE
@pytest.mark.parametrize("retries", [0, 1, 2])
def test_model_is_asked_again_as_often_as_the_limit_says(
    way: Way, profile: EndpointProfile, retries: int
) -> None:
    result = way.run(
        *[given_by(profile, COLD)] * (retries + 1),
        prompt="?",
        profile=profile,
        output=Weather,
        limits=Limits(output_retries=retries),
    )

    assert (result.status, result.limit) == (Status.LIMIT_REACHED, "output_retries")
    assert len(way.requests) == retries + 1
    with pytest.raises(RunNotFinished, match=r"no answer was .* within limits\.output_retries"):
        _ = result.output


NO = "I cannot help with that."
CUT = '{"city": "Os'
ENDINGS = [
    pytest.param(
        raw_answer({"refusal": NO}, "stop"), "refusal", f"the model refused: {NO}", id="refusal"
    ),
    pytest.param(
        raw_answer({"content": NO}, "refusal"),
        "refusal",
        f"the model refused: {NO}",
        id="refusal told by the finish_reason",
    ),
    pytest.param(
        raw_answer({"content": CUT}, "length"),
        "length",
        r"length limit (finish_reason 'length'); raise ModelOptions.max_tokens",
        id="length",
    ),
    pytest.param(
        raw_answer({"content": CUT}, "MAX_TOKENS"),
        "length",
        "length limit (finish_reason 'MAX_TOKENS')",
        id="length in other words",
    ),
    pytest.param(
        raw_answer({"content": None}, "length"),
        "length",
        "length limit (finish_reason 'length')",
        id="nothing but reasoning",
    ),
    pytest.param(
        raw_answer({"content": ""}, "content_filter"),
        "content_filter",
        "a content filter of the provider ended the answer (finish_reason 'content_filter')",
        id="filter",
    ),
]


@EACH_MODE
@pytest.mark.parametrize(("ending", "ended_by", "why"), ENDINGS)
def test_answer_that_cannot_come_is_named_and_not_asked_for_again(
    way: Way, profile: EndpointProfile, ending: Entry, ended_by: str, why: str
) -> None:
    result = way.run(ending, prompt="?", profile=profile, output=Weather)

    assert (result.status, result.limit, result.ended_by) == (Status.NO_ANSWER, None, ended_by)
    assert len(way.requests) == 1
    with pytest.raises(RunNotFinished) as unfinished:
        _ = result.output
    assert why in str(unfinished.value)
    assert unfinished.value.status == "no_answer"


@pytest.mark.parametrize("reason", ["length", "content_filter"])
def test_final_call_that_was_cut_off_is_not_asked_for_again(way: Way, reason: str) -> None:
    cut = answer(calls=[("look", {"city": "Oslo"}), ("final_answer", CUT)], finish_reason=reason)

    result = way.run(cut, prompt="?", output=Weather, tools=[look])

    assert (result.status, result.ended_by) == (Status.NO_ANSWER, reason)
    assert len(way.requests) == 1
    assert [m.outcome for m in result.messages if isinstance(m, ToolMessage)] == [
        "value",
        "not_run",
    ]


def test_tool_call_that_was_cut_off_is_told_to_the_model(way: Way) -> None:
    cut = answer(calls=[("look", '{"city": "Os')], finish_reason="length")

    result = way.run(cut, calls(("final_answer", GOOD)), prompt="?", output=Weather, tools=[look])

    assert (result.status, result.ended_by) == (Status.FINISHED, None)
    assert result.output.city == "Oslo"


@EACH_MODE
def test_whole_answer_counts_whatever_ended_it(way: Way, profile: EndpointProfile) -> None:
    entry = given_by(profile, GOOD)
    assert isinstance(entry, str | Answer)
    given = answer(entry) if isinstance(entry, str) else entry

    result = way.run(
        replace(given, finish_reason="length"), prompt="?", profile=profile, output=Weather
    )

    assert (result.status, result.ended_by) == (Status.FINISHED, None)
    assert result.output.city == "Oslo"


@EACH_MODE
def test_user_may_go_on_after_an_answer_that_could_not_come(
    way: Way, profile: EndpointProfile
) -> None:
    refused = way.run(
        raw_answer({"refusal": NO}, "stop"), prompt="?", profile=profile, output=Weather
    )
    stored = Conversation(load_messages(dump_messages(refused.conversation.messages)))
    way.requests.clear()

    again = way.run(conversation=stored, profile=profile, output=Weather)
    result = way.run(
        given_by(profile, GOOD),
        prompt="Please.",
        conversation=stored,
        profile=profile,
        output=Weather,
    )

    assert (again.status, again.ended_by) == (Status.NO_ANSWER, "refusal")
    assert len(way.requests) == 1
    assert result.output.city == "Oslo"


def test_tries_of_both_kinds_are_counted_together(way: Way) -> None:
    wrong = calls(("final_answer", COLD))

    result = way.run("Sunny.", wrong, "Cold.", prompt="?", output=Weather)

    assert (result.limit, len(way.requests)) == ("output_retries", 3)


def test_tries_are_counted_anew_when_the_user_speaks(way: Way) -> None:
    limits = Limits(output_retries=1)
    first = way.run(COLD, COLD, prompt="?", profile=FORMAT, output=Weather, limits=limits)

    result = way.run(
        COLD,
        GOOD,
        prompt="Please.",
        conversation=first.conversation,
        profile=FORMAT,
        output=Weather,
        limits=limits,
    )

    assert result.output.city == "Oslo"


def test_negative_retries_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Limits\.output_retries must be 0 or more, not -1"):
        Limits(output_retries=-1)


def test_fence_of_a_prompted_answer_is_taken_off(way: Way) -> None:
    result = way.run(f"```json\n{GOOD}\n```\n", prompt="?", profile=PROMPT, output=Weather)

    assert result.output.city == "Oslo"


def test_fence_is_no_part_of_an_answer_by_response_format() -> None:
    with pytest.raises(ArgumentsRefused):
        AnswerType(Weather, "response_format").read(f"```json\n{GOOD}\n```")


# - The final tool among others


def test_tools_run_before_the_final_answer(way: Way) -> None:
    result = way.run(
        calls(("look", {"city": "Oslo"})),
        calls(("final_answer", GOOD)),
        prompt="?",
        output=Weather,
        tools=[look],
    )

    assert result.output.city == "Oslo"
    assert [m.text for m in result.messages if m.role == "tool"] == ["sunny in Oslo", "Accepted."]


def test_tools_beside_the_final_answer_run_too(way: Way) -> None:
    result = way.run(
        calls(("final_answer", GOOD), ("look", {"city": "Oslo"})),
        prompt="?",
        output=Weather,
        tools=[look],
    )

    assert result.output.city == "Oslo"
    assert [m.text for m in result.messages if m.role == "tool"] == ["Accepted.", "sunny in Oslo"]


def test_first_of_two_final_answers_that_fits_is_taken(way: Way) -> None:
    other = '{"city": "Rome", "degrees": 20}'

    result = way.run(
        calls(("final_answer", COLD), ("final_answer", GOOD), ("final_answer", other)),
        prompt="?",
        output=Weather,
    )

    assert result.output.city == "Oslo"


def test_final_answer_is_never_a_repetition(way: Way) -> None:
    result = way.run(
        *[calls(("final_answer", COLD))] * 3,
        calls(("final_answer", GOOD)),
        prompt="?",
        output=Weather,
        limits=Limits(repeats=2, repeats_warned=1, output_retries=3),
    )

    assert result.output.city == "Oslo"
    assert len(feedback(result)) == 3
    assert "same arguments" not in "".join(feedback(result))


def test_final_answer_is_taken_beyond_the_limit_of_tool_calls(way: Way) -> None:
    result = way.run(
        calls(("look", {"city": "Oslo"})),
        calls(("final_answer", COLD)),
        calls(("final_answer", GOOD)),
        prompt="?",
        output=Weather,
        tools=[look],
        limits=Limits(tool_calls=1),
    )

    assert result.output.city == "Oslo"


def test_last_word_is_a_call_of_the_final_tool(way: Way) -> None:
    result = way.run(
        calls(("look", {"city": "Oslo"})),
        calls(("final_answer", GOOD)),
        prompt="?",
        output=Weather,
        tools=[look],
        limits=Limits(turns=1, last_word=True),
    )

    assert result.output.city == "Oslo"
    named = {"type": "function", "function": {"name": "final_answer"}}
    assert [request["tool_choice"] for request in way.requests] == ["required", named]


def test_last_word_has_the_final_tool_alone_where_calls_cannot_be_required(way: Way) -> None:
    way.run(
        calls(("look", {"city": "Oslo"})),
        calls(("final_answer", GOOD)),
        prompt="?",
        profile=EndpointProfile(requires_calls=False),
        output=Weather,
        tools=[look],
        limits=Limits(turns=1, last_word=True),
    )

    names = [[tool["function"]["name"] for tool in r["tools"]] for r in way.requests]
    assert names == [["look", "final_answer"], ["final_answer"]]


def test_cut_off_final_answer_says_so(way: Way) -> None:
    cut_off = answer(calls=[("final_answer", '{"city": "Os')], finish_reason="length")

    result = way.run(cut_off, calls(("final_answer", GOOD)), prompt="?", output=Weather)

    assert feedback(result) == [
        "Not run: the answer was ended (length) before the arguments of final_answer were complete."
    ]


def test_conversation_goes_on_after_a_final_answer(way: Way) -> None:
    first = way.run(calls(("final_answer", GOOD)), prompt="?", output=Weather)

    second = way.run(
        calls(("final_answer", '{"city": "Rome", "degrees": 20}')),
        prompt="And Rome?",
        conversation=first.conversation,
        output=Weather,
    )

    assert second.output.city == "Rome"
    assert first.output.city == "Oslo"


def test_turn_ends_with_an_accepted_answer() -> None:
    result = Way("blocking").run(calls(("final_answer", GOOD)), prompt="?", output=Weather)
    result.conversation.append(UserMessage(content="And Rome?"))

    assert [m.text for m in result.conversation.trimmed(turns=1).messages] == ["And Rome?"]


# - Resumption


SCRIPTS: dict[Mode, list[str]] = {
    "tool": ["look", "text", "bad", "good"],
    "response_format": ["look", "bad", "text", "good"],
    "prompt": ["text", "look", "bad", "fenced"],
}


def script(mode: Mode) -> list[Entry]:
    entries: dict[str, Entry] = {
        "look": calls(("look", {"city": "Oslo"})),
        "text": "Sunny.",
        "fenced": f"```\n{GOOD}\n```",
        "bad": calls(("final_answer", COLD)) if mode == "tool" else COLD,
        "good": calls(("final_answer", GOOD)) if mode == "tool" else GOOD,
    }
    return [entries[name] for name in SCRIPTS[mode]]


@pytest.mark.parametrize("mode", SCRIPTS)
def test_any_prefix_taken_up_again_ends_the_same(way: Way, mode: Mode) -> None:
    settings: dict[str, Any] = {
        "profile": EndpointProfile(structured=mode),
        "output": Weather,
        "tools": [look],
    }
    whole = way.run(*script(mode), prompt="?", **settings)

    for length in range(1, len(whole.messages) + 1):
        stored = dump_messages(whole.messages[:length])
        conversation = Conversation(load_messages(stored))
        taken = conversation.turns
        result = way.run(*script(mode)[taken:], conversation=conversation, **settings)
        assert shape(conversation.messages) == shape(whole.messages)
        assert result.output == whole.output


def shape(messages: tuple[Message, ...]) -> list[tuple[str, str]]:
    return [(message.role, message.text) for message in messages]


def test_feedback_is_pending_until_it_is_recorded() -> None:
    conversation = Conversation([UserMessage(content="?"), AssistantMessage(content="Sunny.")])
    run = Run(conversation, answers=AnswerType(Weather, "tool"))

    [effect] = run.effects()

    assert isinstance(effect, GiveFeedback)
    assert effect.key == "feedback/1"
    assert run.effects() == [effect]
    assert run.status is Status.RUNNING
    run.record(effect.message)
    assert conversation.messages[-1] == UserMessage(
        content="Give your answer by a call of final_answer, not as text.", feedback=True
    )


def test_system_message_behind_an_answer_changes_nothing() -> None:
    call = ToolCall(id="1", name="final_answer", arguments=GOOD)
    accepted = ToolMessage(tool_call_id="1", content="Accepted.", ends_tool=True)
    history: list[Message] = [
        UserMessage(content="?"),
        AssistantMessage(tool_calls=(call,)),
        accepted,
    ]
    run = Run(
        Conversation([*history, SystemMessage(content="Be kind.")]),
        answers=AnswerType(Weather, "tool"),
    )

    assert (run.status, run.answer) == (Status.FINISHED, GOOD)


def test_result_that_was_not_accepted_by_us_ends_nothing() -> None:
    call = ToolCall(id="1", name="final_answer", arguments=COLD)
    foreign = ToolMessage(tool_call_id="1", content="An error from elsewhere.")
    run = Run(
        Conversation([UserMessage(content="?"), AssistantMessage(tool_calls=(call,)), foreign]),
        answers=AnswerType(Weather, "tool"),
    )

    assert run.status is Status.RUNNING


# - While it arrives


@EACH_MODE
def test_partial_values_grow_to_the_whole(profile: EndpointProfile) -> None:
    transport = ScriptedTransport(given_by(profile, GOOD), profile=profile)
    seen: list[JSONValue] = []

    with Agent(transport, output=Weather).stream("?") as stream:
        assert stream.partial is None
        seen.extend(json.loads(json.dumps(stream.partial)) for _ in stream)

    assert {} in seen
    assert {"city": "Oslo"} in seen
    assert seen[-1] == {"city": "Oslo", "degrees": 3.5}


@pytest.mark.anyio
async def test_partial_values_grow_async() -> None:
    agent = AsyncAgent(AsyncScriptedTransport(GOOD, profile=FORMAT), output=Weather)
    async with agent.stream("?") as stream:
        async for _ in stream:
            pass
        assert stream.partial == {"city": "Oslo", "degrees": 3.5}


def test_partial_value_begins_anew_with_each_answer() -> None:
    transport = ScriptedTransport(COLD, GOOD, profile=FORMAT)
    with Agent(transport, output=Weather).stream("?") as stream:
        for _ in stream:
            pass
        assert stream.partial == {"city": "Oslo", "degrees": 3.5}


def test_partial_value_is_unwrapped() -> None:
    arriving = ArrivingAnswer(AnswerType(list[int], "response_format"))
    builder = MessageBuilder()
    arriving.watch(builder)
    builder.add_text('{"value": [1, 2', [])

    assert arriving.value == [1]


@given(st.lists(st.integers(1, 12), max_size=8), st.sampled_from(["", " \n"]))
def test_fence_is_left_out_of_partial_values_wherever_it_is_cut(
    cuts: list[int], before: str
) -> None:
    arriving = ArrivingAnswer(AnswerType(Weather, "prompt"))
    builder = MessageBuilder()
    arriving.watch(builder)
    text = f"{before}```json\n{GOOD}\n```"
    for size in [*cuts, len(text)]:
        piece, text = text[:size], text[size:]
        builder.add_text(piece, [])
        assert arriving.value in (None, {}) or isinstance(arriving.value, dict)

    assert arriving.value == {"city": "Oslo", "degrees": 3.5}


def test_agent_without_a_type_has_no_partial_value() -> None:
    with Agent(ScriptedTransport(GOOD)).stream("?") as stream:
        for _ in stream:
            assert stream.partial is None


# - Usage


def used(total: int | None) -> Usage:
    return Usage(prompt_tokens=1, completion_tokens=2, total_tokens=total)


def test_usage_of_all_tries_is_summed(way: Way) -> None:
    script = [answer(COLD, usage=used(3)), answer(GOOD, usage=used(3))]

    usage = way.run(*script, prompt="?", profile=FORMAT, output=Weather).usage

    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (2, 4, 6)
    assert usage.cached_tokens is None


# - The closed form


def test_property_that_may_be_left_out_is_null_in_the_closed_form(way: Way) -> None:
    class Trip(BaseModel):
        place: str
        days: int = 7

    result = way.run('{"place": "Oslo", "days": null}', prompt="?", profile=FORMAT, output=Trip)

    schema = way.requests[0]["response_format"]["json_schema"]["schema"]
    assert schema["required"] == ["place", "days"]
    assert schema["properties"]["days"]["type"] == ["integer", "null"]
    assert result.output == Trip(place="Oslo", days=7)
