"""Probes of tools: calls, several at once, without arguments, and their results in the history."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from pathors_agent.checking.answers import HELLO
from pathors_agent.checking.asking import Answer, Asking
from pathors_agent.checking.probe import Probe, Seen, fails, holds, not_seen
from pathors_agent.messages import (
    AssistantMessage,
    ContentPart,
    Message,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from pathors_agent.tools.registry import ToolRegistry
from pathors_agent.tools.tool import tool
from pathors_agent.wire.chat_completions import ModelOptions


@tool
def get_weather(city: str) -> str:
    """Get the weather in a city."""
    return f"{city}: 21 degrees, sunny"


@tool
def get_time() -> str:
    """Get the time that it is now."""
    return "noon"


TOOLS = ToolRegistry([get_weather, get_time])
_DEFINITIONS = TOOLS.definitions()

WEATHER = UserMessage(content="What is the weather in Oslo? Use the tool get_weather.")
_BOTH = UserMessage(
    content="What is the weather in Oslo, and in Rome? Call get_weather for both in one answer."
)
_WHEN = UserMessage(content="What time is it? Use the tool get_time.")

# As OpenAI makes them, and of the form that Mistral takes.
_LONG_ID = "call_9pwXV4cQpGxbWkqJ0LZtYs7r"
_NINE = ("a1B2c3D4e", "f5G6h7J8k")


# - what a model calls -


def _calling(asking: Asking, asked: UserMessage, *, streams: bool) -> Answer:
    """Ask for a call; where the model makes none, tell it to."""
    given = partial(asking.ask, asked, tools=_DEFINITIONS, streams=streams)

    def ask() -> Answer:
        answer = given()
        if answer.problem or answer.message.tool_calls:
            return answer
        told = given(options=ModelOptions(tool_choice="required"))
        return answer if told.problem else told

    answer = asking.once((asked, streams), ask)
    if not answer.problem and answer.message.tool_calls:
        asking.adopt(structured="tool")
    return answer


def _call(*, streams: bool) -> Callable[[Asking], Seen]:
    def look(asking: Asking) -> Seen:
        if streams and not asking.profile.streams:
            return not_seen("it does not stream")
        answer = _calling(asking, WEATHER, streams=streams)
        seen = _problem(answer) or _weather_problem(answer.message.tool_calls)
        return seen or holds()

    return look


def _problem(answer: Answer) -> Seen | None:
    if answer.problem:
        return fails(answer.problem)
    if answer.message.tool_calls:
        return None
    return not_seen("the model called no tool")


def _weather_problem(calls: Sequence[ToolCall]) -> Seen | None:
    """Say what the model did wrong with its calls: nothing that the endpoint can be blamed for."""
    for call in calls:
        bound = TOOLS.bind(call)
        if isinstance(bound, ToolMessage):
            return not_seen(f"the model's call was wrong: {bound.text}")
        if call.name != "get_weather":
            return not_seen("the model called another tool")
    return None


def _finish_reason(asking: Asking) -> Seen:
    answer = _calling(asking, WEATHER, streams=asking.profile.streams)
    seen = _problem(answer)
    if seen:
        return seen
    reason = answer.message.finish_reason
    return holds() if reason == "tool_calls" else fails(f"finish_reason was {reason!r}")


def _several(asking: Asking) -> Seen:
    answer = _calling(asking, _BOTH, streams=asking.profile.streams)
    seen = _problem(answer) or _weather_problem(answer.message.tool_calls)
    if seen:
        return seen
    count = len(answer.message.tool_calls)
    return holds(f"{count} calls") if count > 1 else not_seen("the model made one call")


def _empty_arguments(asking: Asking) -> Seen:
    answer = _calling(asking, _WHEN, streams=asking.profile.streams)
    seen = _problem(answer)
    if seen:
        return seen
    call = answer.message.tool_calls[0]
    if call.name != "get_time":
        return not_seen("the model called another tool")
    if call.arguments.strip() not in ("", "{}"):
        return not_seen("the model made up arguments")
    return holds("come as {}" if call.arguments.strip() else "come as an empty text; read as {}")


def _forced(asking: Asking) -> Seen:
    remedy = "requires_calls=False"
    options = ModelOptions(tool_choice="required")
    answer = asking.ask(HELLO, tools=_DEFINITIONS, options=options)
    if answer.problem:
        return fails(answer.problem, profile=remedy)
    if not answer.message.tool_calls:
        return fails("tool_choice was taken, and the model called no tool", profile=remedy)
    asking.adopt(requires_calls=True)
    return holds()


# - what a history may hold -


def _history(*ids: str, **fields: Any) -> list[Message]:
    """Give a history of one call for each id, which waits for the model's answer."""
    cities = ("Oslo", "Rome")
    calls = [
        ToolCall(id=i, name="get_weather", arguments=f'{{"city":"{city}"}}', extra=_CALL_EXTRA)
        for i, city in zip(ids, cities, strict=False)
    ]
    said = AssistantMessage(tool_calls=tuple(calls), reasoning="A tool knows.", **fields)
    results = [ToolMessage(tool_call_id=i, content="21 degrees, sunny") for i in ids]
    return [_BOTH if len(ids) > 1 else WEATHER, said, *results]


_CALL_EXTRA: dict[str, Any] = {"extra_content": {"signature": "none"}}
_MESSAGE_EXTRA: dict[str, Any] = {"reasoning_details": []}
_ONE = _history(_NINE[0])
_TWO = _history(*_NINE)

# The record of calls whose arguments are no JSON object: sent as `{}`.
_CUT = ToolCall(id=_NINE[0], name="get_weather", arguments='{"city":"Os')
_BROKEN: list[Message] = [
    WEATHER,
    AssistantMessage(tool_calls=(_CUT,), reasoning="A tool knows."),
    ToolMessage(tool_call_id=_NINE[0], content="The arguments are not JSON.", outcome="error"),
]

# A white square of 64 pixels: some models refuse the smallest images.
_PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAEAAAABAAQAAAACCEkxzAAAAEklEQVR42mP4DwUMo4xRBukMAOPT/hAC2mzjAAAAAElF"
    "TkSuQmCC"
)
_PICTURE = ContentPart.model_validate(
    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{_PNG}"}}
)
_IMAGE: list[Message] = [*_ONE[:-1], ToolMessage(tool_call_id=_NINE[0], content=(_PICTURE,))]

# What may help where the least is not enough, in the order of how often it does.
_ADDITIONS: tuple[dict[str, Any], ...] = (
    {"null_content": True},
    {"reasoning_field": "reasoning_content"},
    {"null_content": True, "reasoning_field": "reasoning_content"},
)


def _results(asking: Asking) -> Seen:
    answer = asking.ask(*_ONE, tools=_DEFINITIONS)
    if not answer.problem:
        return holds()
    for addition in _ADDITIONS:
        if not asking.ask(*_ONE, tools=_DEFINITIONS, **addition).problem:
            asking.adopt(**addition)
            return fails(answer.problem, profile=_settings(addition))
    return fails(answer.problem)


def _several_results(asking: Asking) -> Seen:
    answer = asking.ask(*_TWO, tools=_DEFINITIONS)
    return fails(answer.problem) if answer.problem else holds()


def _broken_arguments(asking: Asking) -> Seen:
    answer = asking.ask(*_BROKEN, tools=_DEFINITIONS)
    return fails(answer.problem) if answer.problem else holds()


def _user_after_result(asking: Asking) -> Seen:
    answer = asking.ask(*_ONE, HELLO, tools=_DEFINITIONS)
    if not answer.problem:
        return holds()
    if asking.ask(*_ONE, HELLO, tools=_DEFINITIONS, answers_results=True).problem:
        return fails(answer.problem)
    asking.adopt(answers_results=True)
    return fails(answer.problem, profile="answers_results=True")


def _image_result(asking: Asking) -> Seen:
    """Ask for the places of an image in the order of how many endpoints read it there."""
    refusals: list[str] = []
    for media in ("user_message", "tool_message"):
        answer = asking.ask(*_IMAGE, tools=_DEFINITIONS, result_media=media)
        if not answer.problem:
            asking.adopt(result_media=media)
            if not refusals:
                return holds("in a user message")
            return fails(refusals[0], profile=f"result_media={media!r}")
        refusals.append(answer.problem)
    return fails(refusals[0], profile="result_media='left_out'")


def _takes(messages: Sequence[Message], **added: Any) -> Callable[[Asking], Seen]:
    """Make a probe of a history that is sent in a richer form than the least."""
    without = _settings({name: _LEAST[name] for name in added})

    def look(asking: Asking) -> Seen:
        answer = asking.ask(*messages, tools=_DEFINITIONS, **added)
        if answer.problem:
            return fails(answer.problem, profile=without)
        asking.adopt(**added)
        return holds()

    return look


_LEAST = {
    "null_content": False,
    "call_ids": "nine",
    "echoed_fields": (),
    "echoes_call_fields": False,
}


def _settings(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in settings.items())


PROBES = (
    Probe("tool call in a stream", _call(streams=True)),
    Probe("tool call in a whole answer", _call(streams=False), optional=True),
    Probe("finish_reason tool_calls", _finish_reason, optional=True),
    Probe("several calls in one answer", _several, optional=True),
    Probe("call without arguments", _empty_arguments),
    Probe("tool_choice required", _forced),
    Probe("tool result in the history", _results),
    Probe("results of several calls", _several_results),
    Probe("call with broken arguments in the history", _broken_arguments),
    Probe("user message after a tool result", _user_after_result),
    Probe("image in a tool result", _image_result, optional=True),
    Probe("content null beside calls", _takes(_ONE, null_content=True)),
    Probe("call ids of any form", _takes(_history(_LONG_ID), call_ids="any")),
    Probe(
        "unknown fields of messages",
        _takes(_history(_NINE[0], extra=_MESSAGE_EXTRA), echoed_fields=("reasoning_details",)),
    ),
    Probe("unknown fields of calls", _takes(_ONE, echoes_call_fields=True)),
)
