"""Request answers of a Python type, check them, and read them. Pure.

There are three ways, chosen by the abilities of the endpoint: the request's `response_format`, a final
tool whose call is the answer, and a prompt. The type is read as the parameters of tools are.
"""

from collections.abc import Sequence
from dataclasses import replace
from json import dumps
from typing import TYPE_CHECKING, Any, Generic, Literal

from pydantic import ValidationError
from typing_extensions import TypeVar

from pathors_agent.core.limits import is_object
from pathors_agent.errors import ToolDefinitionError
from pathors_agent.messages import (
    AssistantMessage,
    EndedBy,
    JSONValue,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from pathors_agent.schema.arguments import (
    MAX_TEXT,
    ArgumentsRefused,
    TypedArguments,
    parse_object,
    report,
    with_whole_numbers,
)
from pathors_agent.schema.bounds import InvalidSchema, cut
from pathors_agent.schema.strict import ArgumentsReader, StrictArguments, close_schema
from pathors_agent.tools.registry import ToolRegistry
from pathors_agent.tools.signature import Signature, read_signature, refused
from pathors_agent.wire.chat_completions import RequestTemplate
from pathors_agent.wire.message_builder import MessageBuilder
from pathors_agent.wire.partial_json import PartialJSON

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

OutputT = TypeVar("OutputT", default=str)

FINAL_TOOL = "final_answer"

ACCEPTED = "Accepted."

# The first line of a Markdown fence is shorter: no name of a language is as long.
_LONGEST_FENCE = 40
_FENCE = "```"


class AnswerType(Generic[OutputT]):
    """Answers of one type, requested in one way.

    A type whose JSON is no object is wrapped in an object with the single member `value`.
    """

    def __init__(self, output: object, way: Literal["response_format", "tool", "prompt"]) -> None:
        signature = _signature(output)
        self.way = way
        self.schema, self._is_wrapped = _unwrapped(signature.schema)
        reader = _AnswerReader(signature, self.schema, is_wrapped=self._is_wrapped)
        self._closed = _closed(self.schema) if way == "response_format" else None
        self._reader: ArgumentsReader = (
            reader if self._closed is None else StrictArguments(reader, self.schema)
        )

    @property
    def final_tool(self) -> str | None:
        """The name of the tool whose call is the answer, or None."""
        return FINAL_TOOL if self.way == "tool" else None

    # - requests -

    def asked_by(self, template: RequestTemplate) -> RequestTemplate:
        """Return the template of requests for such answers."""
        match self.way:
            case "tool":
                return replace(template, final_tool=self._definition())
            case "response_format":
                options = replace(template.options, response_format=self._response_format())
                return replace(template, options=options)
            case "prompt":
                words = f"{_ASKING}\n{dumps(self.schema, ensure_ascii=False)}"
                instructions = "\n\n".join(filter(None, [template.instructions, words]))
                return replace(template, instructions=instructions)

    def _definition(self) -> dict[str, Any]:
        function = {
            "name": FINAL_TOOL,
            "description": "Give your answer. Call it once, when you have all of it.",
            "parameters": self.schema,
        }
        return {"type": "function", "function": function}

    def _response_format(self) -> dict[str, JSONValue]:
        schema: dict[str, JSONValue] = {
            "name": FINAL_TOOL,
            "schema": self.schema if self._closed is None else self._closed,
            "strict": self._closed is not None,
        }
        return {"type": "json_schema", "json_schema": schema}

    # - checks -

    def answer(self, messages: Sequence[Message]) -> str | None:
        """Return the JSON text of the answer that a history ends with, or None."""
        if self.way == "tool":
            call = accepted_call(messages)
            return None if call is None else call.arguments
        last = _last_said(messages)
        if not isinstance(last, AssistantMessage) or last.tool_calls or self._refusal(last):
            return None
        return last.text

    def feedback(self, messages: Sequence[Message]) -> UserMessage | None:
        """Return what is wrong with the text answer that a history ends with, or None.

        Only a history that ends with a text answer has one.
        """
        last = _last_said(messages)
        if not isinstance(last, AssistantMessage) or last.tool_calls:
            return None
        text = self._refusal(last)
        return None if text is None else UserMessage(content=text, feedback=True)

    def ended_by(self, messages: Sequence[Message]) -> EndedBy | None:
        """Return what ended the last answer early, if it does not fit, or None.

        Asking again would not help: the model would refuse, or be cut off, once more.
        """
        answer = _last_answer(messages)
        if answer is None or answer.ended_by is None or self.answer(messages) is not None:
            return None
        cut = any(
            c.name == self.final_tool and not is_object(c.arguments) for c in answer.tool_calls
        )
        return answer.ended_by if cut or not answer.tool_calls else None

    def take(self, call: ToolCall) -> ToolMessage:
        """Return the result of a call of the final tool: accepted, or what is wrong."""
        try:
            self._reader.read(call.arguments)
        except ArgumentsRefused as refusal:
            text = cut(f"The arguments of {call.name} {refusal}", MAX_TEXT)
            return ToolMessage(tool_call_id=call.id, content=text, outcome="error")
        return ToolMessage(tool_call_id=call.id, content=ACCEPTED, ends_tool=True)

    # - values -

    def read(self, text: str) -> OutputT:
        """Read the JSON text of an answer, or raise `ArgumentsRefused`."""
        text = _unfenced(text) if self.way == "prompt" else text
        if self.way != "tool" and not text.strip():
            raise ArgumentsRefused("are empty. Send one JSON object.")
        value: OutputT = self._reader.read(text)["value"]
        return value

    def unwrapped(self, value: JSONValue) -> JSONValue:
        """Return the value so far, out of the object that wraps it."""
        if self._is_wrapped:
            return value.get("value") if isinstance(value, dict) else None
        return value

    def _refusal(self, message: AssistantMessage) -> str | None:
        if self.way == "tool":
            return f"Give your answer by a call of {FINAL_TOOL}, not as text."
        try:
            self.read(message.text)
        except ArgumentsRefused as refusal:
            text = cut(f"The contents of your answer {refusal}", MAX_TEXT)
            return f"{text}\nSend the whole answer again, as one JSON object and nothing else."
        return None


_ASKING = "Answer with one JSON object, and nothing else, that fits this JSON Schema:"


def answer_type(
    output: object, way: Literal["response_format", "tool", "prompt"], tools: ToolRegistry
) -> AnswerType[Any] | None:
    """Return the type of the answers, or None for text."""
    if output is None or output is str:
        return None
    if way == "tool" and FINAL_TOOL in tools:
        raise name_taken()
    return AnswerType(output, way)


def name_taken() -> ToolDefinitionError:
    """Build the error for a tool with the name of the final tool."""
    return refused(FINAL_TOOL, "name", "is the name of the tool that gives the answer")


class ArrivingAnswer:
    """The answer that is arriving, as a value: for display only."""

    def __init__(self, answers: AnswerType[Any]) -> None:
        self._answers = answers
        self.watch(MessageBuilder())

    def watch(self, builder: MessageBuilder) -> None:
        """Read another message from now on."""
        self._builder = builder
        self._parser = PartialJSON()
        self._parts_read = 0
        self._head: str | None = "" if self._answers.way == "prompt" else None

    @property
    def value(self) -> JSONValue:
        """The value so far, or None. Takes time linear in what is new."""
        if self._answers.way == "tool":
            calls = (call for call in self._builder.calls if call.name == FINAL_TOOL)
            return self._answers.unwrapped(next((call.partial for call in calls), None))
        parts = self._builder.text[self._parts_read :]
        self._parts_read += len(parts)
        for part in parts:
            self._parser.feed(self._without_fence(part))
        return self._answers.unwrapped(self._parser.value)

    def _without_fence(self, part: str) -> str:
        """Return the text without the first line of a fence."""
        if self._head is None:
            return part
        self._head = head = (self._head + part).lstrip()
        line, end, rest = head.partition("\n")
        is_fence = head.startswith("`") and len(line) < _LONGEST_FENCE
        if not head or (is_fence and not end):
            return ""
        self._head = None
        return rest if is_fence else head


def accepted_call(messages: Sequence[Message]) -> ToolCall | None:
    """Return the accepted call of the final tool in the last batch of a history, or None."""
    accepted: set[str] = set()
    for message in reversed(messages):
        match message:
            case ToolMessage():
                if message.ends_tool and not message.is_error:
                    accepted.add(message.tool_call_id)
            case AssistantMessage():
                calls = (c for c in message.tool_calls if c.name == FINAL_TOOL)
                return next((call for call in calls if call.id in accepted), None)
            case UserMessage():
                return None
            case SystemMessage():  # may come anywhere
                pass
    return None


def _last_said(messages: Sequence[Message]) -> Message | None:
    said = (m for m in reversed(messages) if not isinstance(m, SystemMessage))
    return next(said, None)


def _last_answer(messages: Sequence[Message]) -> AssistantMessage | None:
    """Return the last answer, unless a user spoke after it."""
    for message in reversed(messages):
        match message:
            case AssistantMessage():
                return message
            case UserMessage():
                return None
            case SystemMessage() | ToolMessage():
                pass
    return None


def _closed(schema: dict[str, Any]) -> dict[str, Any] | None:
    """Return the form of a schema that endpoints can enforce, or None if it has none."""
    try:
        return close_schema(schema)
    except InvalidSchema:
        return None


def _signature(output: object) -> Signature:
    def answer(value: Any) -> None: ...

    answer.__annotations__["value"] = output
    try:
        return read_signature(answer, tool=FINAL_TOOL, descriptions={})
    except ToolDefinitionError as error:
        reason = str(error).partition("value ")[2]
        raise TypeError(
            f"output is not a type that a model can answer with: it {reason}"
        ) from error


def _unwrapped(whole: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """Return the schema to send, and whether it wraps the value."""
    inner = whole["properties"]["value"]
    definitions = dict(whole.get("$defs", {}))
    reference = inner.get("$ref", "")
    name = reference.removeprefix("#/$defs/")
    schema = definitions.get(name, inner)
    if schema.get("type") != "object":
        return whole, True
    if f'"{reference}"' not in dumps([schema, definitions]):
        definitions.pop(name, None)
    return schema | ({"$defs": definitions} if definitions else {}), False


class _AnswerReader(TypedArguments):
    """Read the JSON text of an answer into `{"value": ...}`."""

    def __init__(self, signature: Signature, schema: dict[str, Any], *, is_wrapped: bool) -> None:
        super().__init__(signature.read, schema.get("properties", {}))
        self._is_wrapped = is_wrapped

    def read(self, text: str) -> dict[str, Any]:
        """Return the value, or raise `ArgumentsRefused`."""
        text = text if text.strip() else "{}"
        given = parse_object(text)
        try:
            return self._validate(text if self._is_wrapped else f'{{"value":{text}}}')
        except ValidationError as error:
            details = list(map(self._as_sent, error.errors(include_url=False)))
            if (whole := with_whole_numbers(text, details)) is not None:
                return self.read(whole)
            problems = [self._problem(detail, given) for detail in details]
            raise ArgumentsRefused(report(problems, "the schema")) from None
        except Exception as error:  # noqa: BLE001  (a validator of the type's author may raise anything)
            raise ArgumentsRefused(f"could not be checked ({type(error).__name__}).") from None

    def _as_sent(self, detail: "ErrorDetails") -> "ErrorDetails":
        """Return an error with its place in the model's text."""
        return detail if self._is_wrapped else {**detail, "loc": detail["loc"][1:]}


def _unfenced(text: str) -> str:
    """Return an answer without the Markdown fence around it, if there is one."""
    stripped = text.strip()
    line, _, rest = stripped.partition("\n")
    is_fenced = line in (_FENCE, _FENCE + "json") and rest.endswith(_FENCE)
    return rest.removesuffix(_FENCE) if is_fenced else text
