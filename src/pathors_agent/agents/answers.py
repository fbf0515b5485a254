"""Request answers of a Python type, check them, and read them. Pure.

There are three ways to request an answer: `response_format`, a final tool whose call is the answer,
and a prompt. The endpoint's abilities decide which way is used. The type is read in the same way as
the parameters of tools. Instead of a type, an agent may have a function that takes a value of a
type. It returns the answer, or raises an error whose text tells the model what is wrong. Only an
async function does I/O: the driver awaits `check` before it asks for effects.
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from copy import copy
from dataclasses import replace
from json import JSONDecoder, dumps
from typing import TYPE_CHECKING, Any, Generic, Literal

from typing_extensions import TypeVar

from pathors_agent.agents.answer_types import (
    FINAL_TOOL,
    AnswerReader,
    closed,
    is_function,
    signature_of,
    unwrapped,
)
from pathors_agent.core.limits import is_object
from pathors_agent.errors import ToolDefinitionError, ToolError
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
from pathors_agent.schema.arguments import MAX_TEXT, ArgumentsRefused
from pathors_agent.schema.bounds import cut
from pathors_agent.schema.strict import ArgumentsReader, StrictArguments
from pathors_agent.tools.registry import ToolRegistry, is_async
from pathors_agent.tools.signature import refused
from pathors_agent.wire.chat_completions import RequestTemplate
from pathors_agent.wire.message_builder import MessageBuilder
from pathors_agent.wire.partial_json import PartialJSON

if TYPE_CHECKING:
    pass

OutputT = TypeVar("OutputT", default=str)

ACCEPTED = "Accepted."


class AnswerType(Generic[OutputT]):
    """Answers of one type, requested in one way.

    A type whose JSON is not an object is wrapped in an object with a single member: `value`, or the
    name of the function's parameter.
    """

    def __init__(self, output: object, way: Literal["response_format", "tool", "prompt"]) -> None:
        self._function = output if is_function(output) else None
        signature = signature_of(output)
        self._member = next(iter(signature.schema["properties"]))
        self.way = way
        self.schema, self.is_wrapped = unwrapped(signature.schema, self._member)
        wrapper = None if self.is_wrapped else self._member
        reader = AnswerReader(signature, self.schema, wrapper=wrapper)
        self._closed = closed(self.schema) if way == "response_format" else None
        self._reader: ArgumentsReader = (
            reader if self._closed is None else StrictArguments(reader, self.schema)
        )
        # What the function returned or refused, by the answer's text: it is called once for each.
        self._known: dict[str, OutputT | ArgumentsRefused] = {}
        self.is_async = self._function is not None and is_async(self._function)

    def for_run(self) -> "AnswerType[OutputT]":
        """Return the type for one run: two runs share no values of the function."""
        if self._function is None:
            return self
        twin = copy(self)
        twin._known = {}
        return twin

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
        """Return the problem of the text answer that a history ends with, or None.

        Only a history that ends with a text answer has one.
        """
        last = _last_said(messages)
        if not isinstance(last, AssistantMessage) or last.tool_calls:
            return None
        text = self._refusal(last)
        return None if text is None else UserMessage(content=text, feedback=True)

    def ended_by(self, messages: Sequence[Message]) -> EndedBy | None:
        """Return what ended the last answer early, if it does not fit, or None.

        Another request would not help: the model would refuse, or be cut off, again.
        """
        answer = _last_answer(messages)
        if answer is None or answer.ended_by is None or self.answer(messages) is not None:
            return None
        cut = any(
            c.name == self.final_tool and not is_object(c.arguments) for c in answer.tool_calls
        )
        return answer.ended_by if cut or not answer.tool_calls else None

    def take(self, call: ToolCall) -> ToolMessage:
        """Return the result of a call of the final tool: accepted, or its problems."""
        try:
            self.read(call.arguments)
        except ArgumentsRefused as refusal:
            text = cut(f"The arguments of {call.name} {refusal}", MAX_TEXT)
            return ToolMessage(tool_call_id=call.id, content=text, outcome="error")
        return ToolMessage(tool_call_id=call.id, content=ACCEPTED, ends_tool=True)

    # - values -

    def read(self, text: str) -> OutputT:
        """Read the JSON text of an answer, or raise `ArgumentsRefused`.

        A prompted answer may have text around its JSON. An output function is called.
        """
        if self._function is None:
            value: OutputT = self._read(text)
            return value
        if text not in self._known and not self.is_async:
            try:
                self._known[text] = self._function(self._read(text))
            except _REFUSALS as error:
                self._known[text] = _refusal_of(error)
        known = self._known.get(text, _NOT_CHECKED)
        if isinstance(known, ArgumentsRefused):
            raise ArgumentsRefused(*known.args)
        return known

    async def check(self, messages: Sequence[Message]) -> None:
        """Await the async function for the answers that a history ends with."""
        for text in self.unchecked(messages):
            await self.check_text(text)

    async def check_text(self, text: str) -> str | None:
        """Await the async function for one answer; return why it is refused, or None."""
        assert self._function is not None  # `is_async` is True
        try:
            self._known[text] = await self._function(self._read(text))
        except _REFUSALS as error:
            refusal = _refusal_of(error)
            self._known[text] = refusal
            return str(refusal)
        return None

    def note_check(self, text: str, refusal: str | None) -> None:
        """Use the result of `check_text` in another process, without the value of the answer."""
        accepted: Any = None
        self._known.setdefault(text, accepted if refusal is None else ArgumentsRefused(refusal))

    def unchecked(self, messages: Sequence[Message]) -> list[str]:
        """Return the texts of the last answer that an async function must still check.

        A refused call of the final tool, and an answer that a user message follows, need no check.
        """
        last = _last_answer(messages) if self.is_async else None
        if last is None:
            return []
        if self.way == "tool":
            over = {m.tool_call_id for m in messages if isinstance(m, ToolMessage) and m.is_error}
            final = (c for c in last.tool_calls if c.name == FINAL_TOOL and c.id not in over)
            texts = [call.arguments for call in final]
        else:
            texts = [] if last.tool_calls else [last.text]
        return [text for text in dict.fromkeys(texts) if text not in self._known]

    def _read(self, text: str) -> Any:
        """Read the text into a value of the type, or raise `ArgumentsRefused`."""
        if self.way == "tool":
            return self._reader.read(text)[self._member]
        if not text.strip():
            raise ArgumentsRefused("are empty. Send one JSON object.")
        if self.way == "response_format":
            return self._reader.read(text)[self._member]
        try:
            return self._read_prompted(text)
        except ArgumentsRefused:
            if (part := _json_part(text)) is None:
                raise
        return self._read_prompted(part)

    def _read_prompted(self, text: str) -> Any:
        """Read a JSON text, even if the object that should wrap the value is missing."""
        try:
            return self._reader.read(text)[self._member]
        except ArgumentsRefused:
            if not self.is_wrapped or not _is_json(text):
                raise
            with suppress(ArgumentsRefused):
                return self._reader.read(f'{{"{self._member}":{text}}}')[self._member]
            raise

    def unwrapped(self, value: JSONValue) -> JSONValue:
        """Return the value so far, out of the object that wraps it."""
        if self.is_wrapped and isinstance(value, dict):
            return value.get(self._member)
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
        # The end of the text before the JSON of a prompted answer, where the JSON may have begun.
        self._before: str | None = "\n" if self._answers.way == "prompt" else None

    @property
    def value(self) -> JSONValue:
        """The value so far, or None. Takes time linear in the new text."""
        if self._answers.way == "tool":
            calls = (call for call in self._builder.calls if call.name == FINAL_TOOL)
            return self._answers.unwrapped(next((call.partial for call in calls), None))
        parts = self._builder.text[self._parts_read :]
        self._parts_read += len(parts)
        for part in parts:
            self._parser.feed(self._from_json_on(part))
        return self._answers.unwrapped(self._parser.value)

    def _from_json_on(self, part: str) -> str:
        """Return the text from the beginning of the JSON of a prompted answer."""
        if self._before is None:
            return part
        text = self._before + part
        start = _VALUE_START if self._answers.is_wrapped else _OBJECT_START
        if begun := start.search(text):
            self._before = None
            return text[begun.start() :]
        said = text.rstrip()
        is_at_line_start = "\n" in text[len(said) :]
        self._before = "{" if said.endswith("{") else "\n" if is_at_line_start else ""
        return ""


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


# What sends an answer back to the model.
_REFUSALS = (ArgumentsRefused, ValueError, ToolError)
# Before the driver has awaited an async function.
_NOT_CHECKED = ArgumentsRefused("have not been checked.")


def _refusal_of(error: Exception) -> ArgumentsRefused:
    is_known = isinstance(error, ArgumentsRefused)
    return ArgumentsRefused(*error.args) if is_known else ArgumentsRefused(f"are refused: {error}")


# - JSON with text around it -

# The beginning of an object or an array that is JSON; "{x}" or "[see below]" in a text is none.
_JSON_START = re.compile(r'\{\s*["}]|\[\s*(?:[\[{"\]]|-?[0-9]|true|false|null)')
# While an answer arrives: an object anywhere, or for other types an array at the beginning of a line.
_OBJECT_START = re.compile(r'\{\s*["}]')
_VALUE_START = re.compile(r'\{\s*["}]|\n[ \t]*\[')

_DECODER = JSONDecoder()


def _is_json(text: str) -> bool:
    try:
        _DECODER.decode(text)
    except (ValueError, RecursionError):
        return False
    return True


def _json_part(text: str) -> str | None:
    """Return the last object inside a text, or the last array if there is no object, or None.

    Models write examples before the answer, and notes such as "[1]" around it. If an object or an
    array in the text is broken or cut off, the answer is unknown, and there is no such part.
    """
    found_object, found_array, at = "", "", 0
    while begun := _JSON_START.search(text, at):
        try:
            _, at = _DECODER.raw_decode(text, begun.start())
        except (ValueError, RecursionError):
            if begun[0][-1].isalnum():  # "[1 of 2]" is text
                at = begun.end()
                continue
            return None
        if begun[0].startswith("{"):
            found_object = text[begun.start() : at]
        else:
            found_array = text[begun.start() : at]
    return found_object or found_array or None
