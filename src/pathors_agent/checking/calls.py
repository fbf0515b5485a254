"""Probes of tools: calls, several at once, without arguments, and their results in the history."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from pathors_agent.checking.answers import HELLO
from pathors_agent.checking.probe import (
    EndpointAnswer,
    Observation,
    Probe,
    ProbeClient,
    fails,
    holds,
    not_needed,
    not_seen,
)
from pathors_agent.checking.report import ANY_PROFILE
from pathors_agent.json_text import is_json_object
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
from pathors_agent.wire.profiles import ECHOED_FIELDS


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

# Ids in OpenAI's form, and in the form that Mistral accepts.
_LONG_ID = "call_9pwXV4cQpGxbWkqJ0LZtYs7r"
_NINE = ("a1B2c3D4e", "f5G6h7J8k")


# - what a model calls -


def _calling(asking: ProbeClient, asked: UserMessage, *, streams: bool) -> EndpointAnswer:
    """Ask for a call; if the model makes none, force one."""
    given = partial(asking.ask, asked, tools=_DEFINITIONS, streams=streams)

    def ask() -> EndpointAnswer:
        answer = given()
        if answer.problem or answer.message.tool_calls:
            return answer
        told = given(options=ModelOptions(tool_choice="required"))
        return answer if told.problem else told

    answer = asking.once((asked, streams), ask)
    if not answer.problem and answer.message.tool_calls:
        asking.adopt(structured="tool")
    return answer


def _call(*, streams: bool) -> Callable[[ProbeClient], Observation]:
    def look(asking: ProbeClient) -> Observation:
        if streams and not asking.profile.streams:
            return not_needed("it does not stream")
        answer = _calling(asking, WEATHER, streams=streams)
        seen = streams and _broken_stream(asking, WEATHER, answer)
        seen = seen or _problem(answer) or _weather_problem(answer.message.tool_calls) or holds()
        return seen._replace(optional=not streams and asking.profile.streams)

    return look


def _broken_stream(
    asking: ProbeClient, asked: UserMessage, answer: EndpointAnswer
) -> Observation | None:
    """Return the problem of a stream, if a whole answer to the same question has valid calls."""
    if _is_sound(answer) or not _is_sound(_calling(asking, asked, streams=False)):
        return None
    if answer.problem:
        said = answer.problem
    elif answer.message.tool_calls:
        said = "the calls of a stream are broken"
    else:
        said = "a stream has no calls"
    asking.adopt(streams=False)
    return fails(f"{said}; a whole answer has sound ones", profile="streams=False")


def _is_sound(answer: EndpointAnswer) -> bool:
    """Return True if there are calls, each with a known name and a JSON object as arguments."""
    if answer.problem or not answer.message.tool_calls:
        return False
    return all(
        call.name in TOOLS and (not call.arguments.strip() or is_json_object(call.arguments))
        for call in answer.message.tool_calls
    )


def _asked_for(
    asking: ProbeClient, asked: UserMessage
) -> tuple[EndpointAnswer, Observation | None]:
    """Ask for calls in the form of the profile; return the answer and its problem."""
    answer = _calling(asking, asked, streams=asking.profile.streams)
    broken = _broken_stream(asking, asked, answer) if asking.profile.streams else None
    return answer, broken or _problem(answer)


def _problem(answer: EndpointAnswer) -> Observation | None:
    if answer.problem:
        return fails(answer.problem)
    if answer.message.tool_calls:
        return None
    is_named = any(name in answer.message.text for name in ("get_weather", "get_time"))
    return not_seen(f"the model called no tool{'; its text names one' if is_named else ''}")


def _weather_problem(calls: Sequence[ToolCall]) -> Observation | None:
    """Return the model's mistake in its calls, which is not the endpoint's fault."""
    for call in calls:
        bound = TOOLS.bind(call)
        if isinstance(bound, ToolMessage):
            return not_seen(f"the model's call was wrong: {bound.text}")
        if call.name != "get_weather":
            return not_seen("the model called another tool")
    return None


def _finish_reason(asking: ProbeClient) -> Observation:
    answer, seen = _asked_for(asking, WEATHER)
    if seen:
        return seen
    reason = answer.message.finish_reason
    return holds() if reason == "tool_calls" else fails(f"finish_reason was {reason!r}")


def _several(asking: ProbeClient) -> Observation:
    answer, seen = _asked_for(asking, _BOTH)
    seen = seen or _weather_problem(answer.message.tool_calls)
    if seen:
        return seen
    count = len(answer.message.tool_calls)
    if count > 1:
        return holds(f"{count} calls")
    return _lost_calls(asking) or not_seen("the model made one call")


def _lost_calls(asking: ProbeClient) -> Observation | None:
    """Return a problem if a stream has only one call, and a whole answer has several."""
    whole = _calling(asking, _BOTH, streams=False)
    if not asking.profile.streams or not _is_sound(whole) or len(whole.message.tool_calls) == 1:
        return None
    again = asking.ask(_BOTH, tools=_DEFINITIONS)
    if again.problem or len(again.message.tool_calls) > 1:
        return None
    asking.adopt(streams=False)
    count = len(whole.message.tool_calls)
    return fails(f"a stream has one call, a whole answer {count}", profile="streams=False")


def _own_index(asking: ProbeClient) -> Observation:
    """Check whether each call of a stream has an index; the reader does not need it."""
    if not asking.profile.streams:
        return not_needed("it does not stream")
    answer = _calling(asking, _BOTH, streams=True)
    if answer.problem or not answer.message.tool_calls:
        return not_needed("there are no calls in a stream")
    wrong = {quirk.kind: quirk.detail for quirk in answer.read.quirks}
    for kind in ("shared_index", "missing_index"):
        if kind in wrong:
            return fails(wrong[kind], profile=ANY_PROFILE)
    if len(answer.message.tool_calls) == 1:
        return not_needed("there is one call only")
    return holds()


def _empty_arguments(asking: ProbeClient) -> Observation:
    answer, seen = _asked_for(asking, _WHEN)
    if seen:
        return seen
    call = answer.message.tool_calls[0]
    if call.name != "get_time":
        return not_seen("the model called another tool")
    if call.arguments.strip() not in ("", "{}"):
        return not_seen("the model made up arguments")
    return holds("come as {}" if call.arguments.strip() else "come as an empty text; read as {}")


def _forced(asking: ProbeClient) -> Observation:
    remedy = "requires_calls=False"
    options = ModelOptions(tool_choice="required")
    answer = asking.ask(HELLO, tools=_DEFINITIONS, options=options)
    if answer.problem:
        return fails(answer.problem, profile=remedy)
    if not answer.message.tool_calls:
        if answer.message.finish_reason == "length":
            return not_needed(f"the answer was cut at {asking.tokens} tokens; {remedy} is safe")
        return fails("tool_choice was ignored: the model called no tool", profile=remedy)
    asking.adopt(requires_calls=True)
    return holds()


# - what a history may hold -


def _history(*ids: str, **fields: Any) -> list[Message]:
    """Return a history with one call for each id, which the model must answer next."""
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

# Calls whose arguments are not a JSON object are sent with `{}`.
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
_TEXTS = tuple(ContentPart(type="text", text=text) for text in ("21 degrees", "sunny"))
_PARTS: list[Message] = [*_ONE[:-1], ToolMessage(tool_call_id=_NINE[0], content=_TEXTS)]

# Settings that may help if the least profile is not enough, the most frequent first.
_ADDITIONS: tuple[dict[str, Any], ...] = (
    {"null_content": True},
    {"reasoning_field": "reasoning_content"},
    {"null_content": True, "reasoning_field": "reasoning_content"},
)


def _results(asking: ProbeClient) -> Observation:
    answer = asking.ask(*_ONE, tools=_DEFINITIONS)
    if not answer.problem:
        return holds()
    for addition in _ADDITIONS:
        if not asking.ask(*_ONE, tools=_DEFINITIONS, **addition).problem:
            asking.adopt(**addition)
            return fails(answer.problem, profile=_settings(addition))
    return fails(answer.problem)


def _several_results(asking: ProbeClient) -> Observation:
    answer = asking.ask(*_TWO, tools=_DEFINITIONS)
    return fails(answer.problem) if answer.problem else holds()


def _broken_arguments(asking: ProbeClient) -> Observation:
    """Send a history with broken arguments: as this library sends it, and then unchanged."""
    answer = asking.ask(*_BROKEN, tools=_DEFINITIONS)
    if answer.problem:
        return fails(answer.problem)
    for arguments in (_CUT.arguments, '["Oslo"]'):

        def restore(fields: dict[str, Any], arguments: str = arguments) -> None:
            fields["messages"][1]["tool_calls"][0]["function"]["arguments"] = arguments

        answer = asking.ask_changed(*_BROKEN, tools=_DEFINITIONS, change=restore)
        if answer.problem:
            said = f"it refuses arguments such as {arguments} ({answer.problem}); {{}} is sent"
            return fails(said, profile=ANY_PROFILE)
    return holds()


def _user_after_result(asking: ProbeClient) -> Observation:
    answer = asking.ask(*_ONE, HELLO, tools=_DEFINITIONS)
    if not answer.problem:
        return holds()
    if asking.ask(*_ONE, HELLO, tools=_DEFINITIONS, answers_results=True).problem:
        return fails(answer.problem)
    asking.adopt(answers_results=True)
    return fails(answer.problem, profile="answers_results=True")


def _parts_of_results(asking: ProbeClient) -> Observation:
    """Send a result of two texts as a list of parts."""
    answer = asking.ask(*_PARTS, tools=_DEFINITIONS, result_media="tool_message")
    if not answer.problem:
        asking.adopt(result_media="tool_message")
        return holds()
    if asking.ask(*_PARTS, tools=_DEFINITIONS).problem:
        return fails(answer.problem)
    return fails(answer.problem, profile=_settings_of("result_media"))


def _image_result(asking: ProbeClient) -> Observation:
    """Send an image in either place; more models read it in a user message."""
    if asking.profile.result_media == _LEAST["result_media"]:
        return fails("tool messages accept no lists of parts", profile=_settings_of("result_media"))
    places = ("user_message", "tool_message")
    problems = {
        media: asking.ask(*_IMAGE, tools=_DEFINITIONS, result_media=media).problem
        for media in places
    }
    taken = [media for media in places if not problems[media]]
    media = taken[0] if taken else "left_out"
    asking.adopt(result_media=media)
    if len(taken) == len(places):
        return holds("in a tool message, and in a user message")
    place, problem = next((place, said) for place, said in problems.items() if said)
    where = place.replace("_", " ")
    return fails(f"refused in a {where}: {problem}", profile=f"result_media={media!r}")


def _takes(messages: Sequence[Message], **added: Any) -> Callable[[ProbeClient], Observation]:
    """Return a probe that sends a history in a richer form than the minimal one."""
    without = _settings_of(*added)

    def look(asking: ProbeClient) -> Observation:
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
    "result_media": "left_out",
}


def _settings_of(*names: str) -> str:
    """Write the settings of the least profile."""
    return _settings({name: _LEAST[name] for name in names})


def _settings(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in settings.items())


PROBES = (
    Probe("tool call in a stream", _call(streams=True)),
    Probe("tool call in a whole answer", _call(streams=False)),
    Probe("finish_reason tool_calls", _finish_reason, optional=True),
    Probe("several calls in one answer", _several),
    Probe("an index for each call of a stream", _own_index),
    Probe("call without arguments", _empty_arguments),
    Probe("tool_choice required", _forced),
    Probe("tool result in the history", _results),
    Probe("results of several calls", _several_results),
    Probe("call with broken arguments in the history", _broken_arguments),
    Probe("user message after a tool result", _user_after_result),
    Probe("parts in a tool result", _parts_of_results),
    Probe("image in a tool result", _image_result),
    Probe("content null beside calls", _takes(_ONE, null_content=True)),
    Probe("call ids of any form", _takes(_history(_LONG_ID), call_ids="any")),
    Probe(
        "unknown fields of messages",
        _takes(_history(_NINE[0], extra=_MESSAGE_EXTRA), echoed_fields=ECHOED_FIELDS),
    ),
    Probe("unknown fields of calls", _takes(_ONE, echoes_call_fields=True)),
)
