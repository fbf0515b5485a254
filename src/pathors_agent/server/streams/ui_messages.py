"""Read the requests of Vercel's AI SDK (`useChat`, version 5 and later)."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import ClassVar, Literal

from pydantic import Field, StrictBool, model_validator

from pathors_agent.agents.approvals import Decision
from pathors_agent.messages import (
    ContentPart,
    JSONValue,
    Message,
    Outcome,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from pathors_agent.server.streams.front_end import (
    MAX_FRONT_END_MESSAGES,
    Body,
    ClientTool,
    FrontEndRequest,
    answer_of,
    decision,
    file_part,
    frames,
    joined_parts,
    read_content,
    results_first,
)
from pathors_agent.server.streams.ui_stream import METADATA, RESULT_PART, USER_PART, UIMessageEvents
from pathors_agent.tools.tool import Tool


class _UIApproval(Body):
    """The request for an approval, and its answer."""

    id: str
    approved: StrictBool | None = None
    reason: str = ""


class _UIPart(Body):
    """One part of a UI message; its type and its state decide which fields it has."""

    type: str
    text: str = ""
    url: str = ""
    media_type: str = ""
    filename: str | None = None
    data: JSONValue = None
    tool_call_id: str = ""
    tool_name: str = ""
    state: str = ""
    input: JSONValue = None
    raw_input: JSONValue = None
    output: JSONValue = None
    error_text: str = ""
    preliminary: bool = False
    approval: _UIApproval | None = None
    call_provider_metadata: dict[str, JSONValue] = Field(default_factory=dict)

    @property
    def is_call(self) -> bool:
        """Whether the part is a tool call of the history whose arguments are complete."""
        named = self.type == "dynamic-tool" or self.type.startswith("tool-")
        return named and self.state != "input-streaming" and "inner" not in self._kept

    @property
    def waits(self) -> bool:
        """Whether the part is a call that waits for an approval, or for a run after its answer."""
        return self.is_call and self.state in ("approval-requested", "approval-responded")

    @property
    def is_open(self) -> bool:
        """Whether the part is a call without a result."""
        return self.is_call and (self.preliminary or not self.state.startswith("output-"))

    @property
    def _kept(self) -> Mapping[str, JSONValue]:
        ours = self.call_provider_metadata.get(METADATA)
        return ours if isinstance(ours, dict) else {}

    @property
    def call(self) -> ToolCall:
        """The tool call."""
        name = self.tool_name if self.type == "dynamic-tool" else self.type[len("tool-") :]
        extra = self._kept.get("extra")
        return ToolCall(
            id=self.tool_call_id,
            name=name,
            arguments=self._arguments(self._kept.get("arguments")),
            extra=extra if isinstance(extra, dict) else {},
        )

    def _arguments(self, kept: JSONValue) -> str:
        """Return the arguments as the model wrote them, if the client still has the same value.

        A client writes numbers in its own form, and an approval is bound to the model's text.
        """
        if self.input is None and isinstance(self.raw_input, str):
            return self.raw_input
        text = json.dumps({} if self.input is None else self.input, ensure_ascii=False)
        return kept if isinstance(kept, str) and _same_value(kept, text) else text

    @property
    def result(self) -> ToolMessage | None:
        """The result of the call, or None if it has no result yet."""
        outcome: Outcome = "value"
        match self.state:
            case "output-available" if not self.preliminary:
                content = read_content(self.output)
            case "output-error":
                content, outcome = self.error_text or "The call failed", "error"
            case "output-denied":
                reason = self.approval.reason if self.approval else ""
                content = f"Not run: a person said no{': ' + reason if reason else ''}."
                outcome = "not_run"
            case _:
                return None
        return ToolMessage(tool_call_id=self.tool_call_id, content=content, outcome=outcome)


def _same_value(first: str, second: str) -> bool:
    """Return True if two JSON texts have the same value in JavaScript, whose numbers are floats."""
    try:
        return bool(json.loads(first, parse_int=float) == json.loads(second, parse_int=float))
    except (ValueError, RecursionError):
        return False


class _UIMessage(Body):
    """A message of the history."""

    id: str = ""
    role: Literal["system", "user", "assistant"]
    parts: list[_UIPart]


class _UITool(Body):
    """A tool that the page runs."""

    function: ClientTool


class UIMessageRequest(FrontEndRequest):
    """The body of a request of `useChat`: the chat's id, and its messages.

    `conversation` and `decisions` are the arguments of `AsyncAgent.stream`. `tools` are those that
    the page runs, in the form of OpenAI; `useChat` sends them with its option `body`. A `message`
    stands for `messages` with only that message. As the type of a FastAPI argument, it refuses an
    invalid body with status 422.
    """

    name: ClassVar[str] = "ui-messages"
    title: ClassVar[str] = "useChat"
    headers: ClassVar[Mapping[str, str]] = {"x-vercel-ai-ui-message-stream": "v1"}
    repeats_decisions: ClassVar[bool] = True

    id: str = ""
    messages: list[_UIMessage] = Field(min_length=1, max_length=MAX_FRONT_END_MESSAGES)
    trigger: str | None = None
    message_id: str | None = None
    tools: list[_UITool] = Field(default_factory=list)

    @property
    def session_id(self) -> str:
        """The id of the chat; "" if the client names none."""
        return self.id

    @cached_property
    def sent_messages(self) -> Sequence[Message]:
        """The messages of the history, as the client sent them."""
        return results_first(each for message in self.messages for each in _read(message))

    @cached_property
    def decisions(self) -> list[Decision]:
        """The approvals and denials of the last answer, each for the call that a person saw.

        Messages of the user may follow it. An answer that is regenerated follows decisions that were
        sent already.
        """
        parts = next((m.parts for m in reversed(self.messages) if m.role == "assistant"), [])
        if self.rewinds and self.messages[-1].role != "assistant":
            parts = []
        results = [part.data for part in parts if part.type == RESULT_PART]
        answered = {data.get("toolCallId") for data in results if isinstance(data, dict)}
        given = {
            part.approval.id: decision(
                part.approval.id, approved=part.approval.approved, reason=part.approval.reason
            )
            for part in parts
            if part.state == "approval-responded" and part.tool_call_id not in answered
            if part.approval is not None and part.approval.approved is not None
        }
        return list(given.values())

    @cached_property
    def client_tools(self) -> list[Tool]:
        """The front end's tools, which have no function here: a call of one suspends the run."""
        return [each.function.read() for each in self.tools]

    @model_validator(mode="before")
    @classmethod
    def _read_one(cls, given: object) -> object:
        """Read a lone `message`. Nothing is known of those before it, so it rewinds nothing."""
        if not isinstance(given, dict) or "messages" in given or "message" not in given:
            return given
        return {**given, "messages": [given["message"]], "trigger": None, "messageId": None}

    @property
    def rewinds(self) -> bool:
        """Whether the client regenerates an answer, or edited its last message."""
        last = self.messages[-1]
        is_edit = last.role == "user" and bool(last.id) and last.id == self.message_id
        return self.trigger == "regenerate-message" or is_edit

    @property
    def replay(self) -> bytes:
        """The parts of the message that the run continues, for a client that reconnects."""
        last = self.messages[-1]
        if last.role != "assistant":
            return b""
        events = UIMessageEvents()
        named = {"messageId": last.id} if last.id else {}
        return frames({"type": "start", **named}, *events.of(_read(last)), *events.close())


def _read(message: _UIMessage) -> Iterator[Message]:
    match message.role:
        case "system":
            yield SystemMessage(content="".join(part.text for part in message.parts))
        case "user":
            yield UserMessage(content=joined_parts(list(_user_parts(message.parts))))
        case "assistant":
            yield from _answers(message.parts)


def _user_parts(parts: Iterable[_UIPart]) -> Iterator[ContentPart]:
    for part in parts:
        if part.type == "text":
            yield ContentPart(type="text", text=part.text)
        elif part.type == "file":
            yield file_part(part.url, part.media_type, part.filename)


def _answers(parts: Sequence[_UIPart]) -> Iterator[Message]:
    """Yield the answers and results of one UI message, which has one answer for each step."""
    step: list[_UIPart] = []
    for part in _without_inner(parts):
        is_data = part.type in (USER_PART, RESULT_PART)
        if is_data or part.type == "step-start":
            yield from _step(step)
            step = []
        if is_data and isinstance(part.data, dict):
            yield _data_message(part.type, part.data)
        step.append(part)
    yield from _step(step)


def _data_message(kind: str, data: Mapping[str, JSONValue]) -> Message:
    content = read_content(data.get("content"))
    if kind == USER_PART:
        return UserMessage(content=content, feedback=data.get("feedback") is True)
    outcome = data.get("outcome")
    if outcome == "suspended":
        raise ValueError("the result of a call must not be suspended")
    named = {"tool_call_id": data.get("toolCallId"), "outcome": outcome}
    return ToolMessage.model_validate({**named, "content": content})


def _without_inner(parts: Sequence[_UIPart]) -> list[_UIPart]:
    """Return parts without the calls of agents that run as tools.

    Such calls wait for approval in a step behind the open call that runs the agent. They never get a
    result of their own. Their metadata marks them too, but a page may not keep the metadata.
    """
    kept: list[_UIPart] = []
    start = last_start = 0  # the places where the step, and the last step with an answer, begin
    has_open = has_open_before = False
    for part in parts:
        if part.type == "step-start":
            start, has_open_before = len(kept), has_open
        if part.waits and has_open_before:
            continue
        if part.is_call or part.type in ("text", "reasoning"):
            last_start = start
        has_open = has_open or part.is_open
        kept.append(part)
    return [part for i, part in enumerate(kept) if i >= last_start or not part.waits]


def _step(parts: list[_UIPart]) -> Iterator[Message]:
    calls = [part for part in parts if part.is_call]
    answer = answer_of(
        [part.text for part in parts if part.type == "text"],
        [part.text for part in parts if part.type == "reasoning"],
        [part.call for part in calls],
    )
    if answer is not None:
        yield answer
    yield from (result for part in calls if (result := part.result) is not None)
