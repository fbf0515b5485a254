"""Answer a request: read it, call the tools that its last prompt asks for, or word their results."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pathors_agent.messages import (
    AssistantMessage,
    JSONValue,
    Message,
    ToolCall,
    ToolMessage,
    Usage,
    UserMessage,
)
from pathors_agent.offline.planning import OfferedTool, Plan, PlannedCall, Planner, readable
from pathors_agent.wire.messages import RESULT_ORIGIN, read_client_messages

MODEL = "offline-rules"
_I_AM = "I am a stand-in that works by rules, no language model"

# Nothing on the wire marks an error: its wording does.
_FAILED = re.compile(
    r"(?:[A-Za-z]*(?:Error|Exception)|error|failed|cannot|could not|unknown|invalid)\b"
    r"|The arguments of |There is no tool |[^.]*\b(?:cannot|could not|not found)\b"
)
_ERROR_WORD = re.compile(r"^error:?\s*", re.IGNORECASE)
_LAST_NUMBER = re.compile(r"(-?\d+(?:\.\d+)?)(?:\s*[^\d\s]+)?$")


class InvalidRequest(Exception):
    """The body is not a chat-completions request; `details` name each bad field."""

    def __init__(self, details: list[str]) -> None:
        super().__init__("the request body is invalid")
        self.details = details


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """The fields of a request that the stand-in reads."""

    messages: Sequence[Message]
    tools: Sequence[OfferedTool]
    model: str
    stream: bool
    include_usage: bool
    is_parallel: bool

    @property
    def turn_start(self) -> int:
        """The index after the last user message, where this turn's calls begin."""
        places = [i for i, m in enumerate(self.messages, 1) if isinstance(m, UserMessage)]
        return places[-1] if places else len(self.messages)


def read_request(body: bytes) -> ChatRequest:
    """Read a request body; raise `InvalidRequest` if it has no valid messages."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise InvalidRequest(["body: Invalid JSON"]) from None
    if not isinstance(value, dict):
        raise InvalidRequest(["body: Input should be an object"])
    sent = value.get("messages")
    if not isinstance(sent, list) or not sent:
        raise InvalidRequest(["messages: a list with at least one message is required"])
    messages, problems = read_client_messages(sent)
    if problems:
        raise InvalidRequest(problems)
    options = value.get("stream_options") or {}
    return ChatRequest(
        messages=[message for message in messages if not _carries_result(message)],
        tools=_offered(value.get("tools") or (), value.get("tool_choice")),
        model=value.get("model") or MODEL,
        stream=bool(value.get("stream")),
        include_usage=bool(options.get("include_usage")),
        is_parallel=value.get("parallel_tool_calls") is not False,
    )


def _carries_result(message: Message) -> bool:
    """Return True if a user message holds the images of a tool's result instead of a prompt."""
    if not isinstance(message, UserMessage) or isinstance(message.content, str):
        return False
    return not message.text or message.text.startswith(RESULT_ORIGIN)


def _offered(tools: Sequence[Any], choice: JSONValue) -> list[OfferedTool]:
    """Return the tools that `tool_choice` allows; raise `InvalidRequest` for one without a name."""
    functions = []
    for index, tool in enumerate(tools):
        match tool:
            case {"function": {"name": str() as name} as function} if name:
                functions.append(function)
            case _:
                raise InvalidRequest([f"tools[{index}].function.name: Field required"])
    match choice:
        case "none":
            functions = []
        case {"function": {"name": only}}:
            functions = [function for function in functions if function["name"] == only]
        case _:
            pass
    return [
        OfferedTool(f["name"], (f.get("description") or "").strip(), f.get("parameters") or {})
        for f in functions
    ]


def respond(request: ChatRequest) -> AssistantMessage:
    """Call the tools that the last prompt asks for, or answer from their results."""
    history, turn = request.messages[: request.turn_start], request.messages[request.turn_start :]
    earlier, made = _results(history), _results(turn)
    numbers = [found[1] for _, text in earlier if (found := _LAST_NUMBER.search(text.strip(" .")))]
    planner = Planner(
        request.tools,
        previous=earlier[-1][0] if earlier else None,
        last_number=numbers[-1] if numbers else None,
    )
    prompts = [message for message in history if isinstance(message, UserMessage)]
    plan = planner.plan(prompts[-1].text if prompts else "")
    pending = [call for call in plan.calls if call not in [call for call, _ in made]]
    if pending:
        return _calls(request, pending if request.is_parallel else pending[:1])
    text = _sentences(request, plan, made)
    return _message(request, len(text.split()), content=text, finish_reason="stop")


def _results(messages: Sequence[Message]) -> list[tuple[PlannedCall, str]]:
    """Return each finished call with the text of its result."""
    calls: dict[str, ToolCall] = {}
    results = []
    for message in messages:
        if isinstance(message, AssistantMessage):
            calls.update({call.id: call for call in message.tool_calls})
        elif isinstance(message, ToolMessage) and message.tool_call_id in calls:
            results.append((_planned(calls[message.tool_call_id]), message.text))
    return results


def _planned(call: ToolCall) -> PlannedCall:
    arguments = _decoded(call.arguments or "{}")
    return PlannedCall(call.name, arguments if isinstance(arguments, dict) else {})


def _calls(request: ChatRequest, calls: Sequence[PlannedCall]) -> AssistantMessage:
    answers = [message for message in request.messages if isinstance(message, AssistantMessage)]
    first = 1 + sum(len(answer.tool_calls) for answer in answers)
    made = tuple(
        ToolCall(
            id=f"call_{number}",
            name=call.name,
            arguments=json.dumps(call.arguments, ensure_ascii=False),
        )
        for number, call in enumerate(calls, first)
    )
    size = sum(len(call.arguments.split()) + 1 for call in made)
    return _message(request, size, content=None, tool_calls=made, finish_reason="tool_calls")


def _message(request: ChatRequest, size: int, **fields: object) -> AssistantMessage:
    """Return an answer whose usage counts words: rules have no tokens."""
    prompt = sum(len(message.text.split()) for message in request.messages)
    usage = Usage(prompt_tokens=prompt, completion_tokens=size, total_tokens=prompt + size)
    number = sum(isinstance(message, AssistantMessage) for message in request.messages) + 1
    return AssistantMessage.model_validate(
        {"id": f"chatcmpl-{number}", "model": request.model, "usage": usage, **fields}
    )


def _sentences(request: ChatRequest, plan: Plan, made: Sequence[tuple[PlannedCall, str]]) -> str:
    sentences = [_result_sentence(call, text.strip()) for call, text in made]
    if sentences:
        # Without calls in the plan the tools are not offered now: its problems say nothing.
        return " ".join(sentences + plan.problems if plan.calls else sentences)
    if not request.tools:
        return " ".join([*plan.problems, f"{_I_AM}, and was given no tools."])
    lines = [f"- {tool.name}: {_first_sentence(tool.description)}" for tool in request.tools]
    return " ".join([*plan.problems, "\n".join([f"{_I_AM}. I can use these tools:", *lines])])


def _result_sentence(call: PlannedCall, result: str) -> str:
    given = ", ".join(_spoken(json.dumps(value)) for value in call.arguments.values())
    named = f"{call.name} ({given})" if given else call.name
    value = _decoded(result)
    if _FAILED.match(result) or (isinstance(value, dict) and value.get("error")):
        return _ended(f"{named} failed: {_ERROR_WORD.sub('', _spoken(result))}")
    if not result:
        return f"{named} returned nothing."
    is_sentence = result[0].isupper() and " " in result and result[-1] in ".!?"
    if is_sentence or re.fullmatch(r"[^=\n]+ = [^=\n]+", result):
        return _ended(result)
    spoken = _spoken(result)
    is_text = spoken == result and " " in result
    return _ended(f"{named}: {result}" if is_text else f"{named} gives {spoken}")


def _spoken(result: str) -> str:
    """Return a JSON result as words, and any other text as it is."""
    match _decoded(result):
        case dict() as value:
            return ", ".join(f"{readable(k)} {_spoken(json.dumps(v))}" for k, v in value.items())
        case list() as value:
            return ", ".join(_spoken(json.dumps(item)) for item in value) or "nothing"
        case bool() as value:
            return "yes" if value else "no"
        case None:
            return "nothing"
        case str() as value:
            return value
        case _:
            return result


def _decoded(result: str) -> JSONValue:
    try:
        value: JSONValue = json.loads(result)
    except (ValueError, RecursionError):
        return result
    return value


def _first_sentence(description: str) -> str:
    return re.split(r"(?<=\.)\s", description or "no description", maxsplit=1)[0]


def _ended(sentence: str) -> str:
    return sentence if sentence.endswith((".", "!", "?")) else sentence + "."
