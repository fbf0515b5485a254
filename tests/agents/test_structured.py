"""Answers of a type: asked for in three ways, checked, sent back, and read while they arrive."""

import json
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, Literal

import pytest
from pydantic import BaseModel, field_validator
from typing_extensions import TypedDict

from pathors_agent.agents.agent import Agent
from pathors_agent.agents.answers import AnswerType
from pathors_agent.core.conversation import Conversation
from pathors_agent.core.limits import Limits
from pathors_agent.core.run import Status
from pathors_agent.errors import RunNotFinished, ToolDefinitionError
from pathors_agent.history.loading import dump_messages, load_messages
from pathors_agent.messages import ToolMessage
from pathors_agent.schema.arguments import ArgumentsRefused
from pathors_agent.testing import Entry, ScriptedTransport, answer, calls, raw
from pathors_agent.testing.script import Answer
from pathors_agent.tools.tool import Tool
from pathors_agent.wire.chat_completions import ModelOptions
from pathors_agent.wire.profiles import PROFILES, EndpointProfile
from structured_answers import (
    COLD,
    EACH_MODE,
    FORMAT,
    GOOD,
    PROMPT,
    TOOL,
    Weather,
    feedback,
    given_by,
    look,
)
from ways import Way


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


def raw_answer(delta: dict[str, object], finish_reason: str) -> Entry:
    """Stream one delta, then the end."""
    parts = [{"delta": delta, "finish_reason": None}, {"delta": {}, "finish_reason": finish_reason}]
    chunks = [{"id": "1", "model": "m", "choices": [part]} for part in parts]
    return raw(b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks))


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
        ('{"city": "Oslo"}', "do not fit the schema:\n- /degrees: is missing, should be a number"),
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
def test_refused_or_cut_answer_is_named_and_not_requested_again(
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


def test_model_reads_that_a_tool_call_was_cut_off(way: Way) -> None:
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
def test_user_may_continue_after_an_answer_that_failed(way: Way, profile: EndpointProfile) -> None:
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


def test_user_message_restarts_the_count_of_tries(way: Way) -> None:
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
