"""The stand-in model: answers a request by rules. There is no language model in it."""

import json
import re
from collections.abc import Sequence

from pathors_agent.messages import AssistantMessage, JSONValue, ToolCall, Usage
from pathors_agent.offline.arithmetic import last_number
from pathors_agent.offline.plan import Plan, PlannedCall, Planner
from pathors_agent.offline.request import Call, ChatRequest, Function, WireMessage
from pathors_agent.offline.words import readable

MODEL = "offline-rules"

# Nothing on the wire marks an error: a result is taken for one by the way it is put.
_FAILED = re.compile(
    r"(?:[A-Za-z]*(?:Error|Exception)|error|failed|cannot|could not|unknown|invalid)\b"
    r"|The arguments of |There is no tool |[^.]*\b(?:cannot|could not|not found)\b"
)
_EQUATION = re.compile(r"[^=\n]+ = [^=\n]+")
_ERROR_WORD = re.compile(r"^error:?\s*", re.IGNORECASE)

Result = tuple[PlannedCall, str]
"""A call and the text that came of it."""


def respond(request: ChatRequest) -> AssistantMessage:
    """Call the tools that the last prompt asks for, or answer from their results."""
    plan = _plan(request)
    made = _results(request.messages[request.turn_start :])
    owed = _owed(plan, [call for call, _ in made])
    if owed and request.callable_tools():
        return _calls(request, owed if request.parallel_tool_calls is not False else owed[:1])
    return _answer(request, _sentences(request, plan, made))


def _plan(request: ChatRequest) -> Plan:
    """Plan the last user message against the history before it, so that a turn keeps its plan."""
    history = request.messages[: request.turn_start]
    prompts = [message for message in history if message.role == "user"]
    results = _results(history)
    numbers = [number for _, text in results if (number := last_number(text))]
    planner = Planner(
        request.callable_tools(),
        previous=results[-1][0] if results else None,
        last_number=numbers[-1] if numbers else None,
    )
    return planner.plan(prompts[-1].text if prompts else "")


def _results(messages: Sequence[WireMessage]) -> list[Result]:
    """Pair each call with its result, in the order of the results."""
    calls: dict[str, Call] = {}
    results = []
    for message in messages:
        calls.update({call.id: call for call in message.tool_calls or ()})
        if message.role == "tool" and message.tool_call_id in calls:
            results.append((_called(calls[message.tool_call_id]), message.text))
    return results


def _called(call: Call) -> PlannedCall:
    try:
        arguments = json.loads(call.function.arguments or "{}")
    except ValueError:
        arguments = {}
    return PlannedCall(call.function.name, arguments if isinstance(arguments, dict) else {})


def _owed(plan: Plan, made: list[PlannedCall]) -> list[PlannedCall]:
    return [call for call in plan.calls if call not in made]


def _calls(request: ChatRequest, calls: list[PlannedCall]) -> AssistantMessage:
    first = 1 + sum(len(message.tool_calls or ()) for message in request.messages)
    made = tuple(
        ToolCall(id=f"call_{number}", name=call.name, arguments=_json(call.arguments))
        for number, call in enumerate(calls, first)
    )
    words = sum(len(call.arguments.split()) + 1 for call in made)
    return _message(request, words, content=None, tool_calls=made, finish_reason="tool_calls")


def _answer(request: ChatRequest, text: str) -> AssistantMessage:
    return _message(request, len(text.split()), content=text, finish_reason="stop")


def _message(request: ChatRequest, words: int, **fields: object) -> AssistantMessage:
    """Make the message, its usage counted in words: rules have no tokens."""
    prompt = sum(len(message.text.split()) for message in request.messages)
    usage = Usage(prompt_tokens=prompt, completion_tokens=words, total_tokens=prompt + words)
    number = sum(message.role == "assistant" for message in request.messages) + 1
    return AssistantMessage.model_validate(
        {"id": f"chatcmpl-{number}", "model": request.model or MODEL, "usage": usage, **fields}
    )


def _sentences(request: ChatRequest, plan: Plan, made: list[Result]) -> str:
    sentences = [_result_sentence(call, text) for call, text in made]
    if sentences:
        # A plan without calls is not what led to these results: the tools are not offered now.
        return " ".join(sentences + plan.problems if plan.calls else sentences)
    return " ".join([*plan.problems, _abilities(request.callable_tools())])


def _result_sentence(call: PlannedCall, text: str) -> str:
    """Say what came of a call; a result that is a sentence is said as it is."""
    result = text.strip()
    if _failed(result):
        return _ended(f"{_named(call)} failed: {_ERROR_WORD.sub('', _spoken(result))}")
    if not result:
        return f"{_named(call)} gave nothing."
    if _is_sentence(result) or _EQUATION.fullmatch(result):
        return _ended(result)
    spoken = _spoken(result)
    is_text = spoken == result and " " in result
    return _ended(f"{_named(call)}: {result}" if is_text else f"{_named(call)} gives {spoken}")


def _is_sentence(text: str) -> bool:
    return text[0].isupper() and " " in text and text[-1] in ".!?"


def _failed(result: str) -> bool:
    value = _decoded(result)
    return _FAILED.match(result) is not None or (
        isinstance(value, dict) and bool(value.get("error"))
    )


def _named(call: PlannedCall) -> str:
    given = ", ".join(_spoken(_json(value)) for value in call.arguments.values())
    return f"{call.name} ({given})" if given else call.name


def _spoken(result: str) -> str:
    """Write a JSON result as words; any other text stays as it is."""
    return _words(_decoded(result))


def _decoded(result: str) -> JSONValue:
    try:
        value: JSONValue = json.loads(result)
    except ValueError:
        return result
    return value if isinstance(value, str | dict | list | bool) or value is None else result


def _words(value: JSONValue) -> str:
    match value:
        case dict():
            return ", ".join(f"{readable(key)} {_words(item)}" for key, item in value.items())
        case list():
            return ", ".join(map(_words, value)) or "nothing"
        case bool():
            return "yes" if value else "no"
        case None:
            return "nothing"
        case _:
            return str(value)


def _abilities(tools: list[Function]) -> str:
    """Say what can be asked: nothing but the tools."""
    if not tools:
        return "I am a stand-in that works by rules, no language model, and was given no tools."
    lines = [f"- {tool.name}: {_first_sentence(tool.description)}" for tool in tools]
    opening = "I am a stand-in that works by rules, no language model. I can use these tools:"
    return "\n".join([opening, *lines])


def _first_sentence(description: str | None) -> str:
    return re.split(r"(?<=\.)\s", (description or "no description").strip(), maxsplit=1)[0]


def _ended(sentence: str) -> str:
    return sentence if sentence.endswith((".", "!", "?")) else sentence + "."


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
