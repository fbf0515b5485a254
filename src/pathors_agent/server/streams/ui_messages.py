"""The UI message stream of Vercel's AI SDK (`useChat`, version 5 and later)."""

import json
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal

from pydantic import Field, StrictBool, model_validator

from pathors_agent.agents.approvals import Decision
from pathors_agent.agents.stream import AsyncRunStream
from pathors_agent.json_text import call_arguments
from pathors_agent.messages import (
    AssistantMessage,
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
    Events,
    FrontEndRequest,
    RunEnd,
    answer_of,
    decision,
    file_part,
    frames,
    image_urls,
    is_one_of,
    joined_parts,
    media_type,
    progress_value,
    read_content,
    results_first,
    shown_content,
    written,
)
from pathors_agent.tools.tool import Tool
from pathors_agent.wire.deltas import (
    Delta,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    ToolProgressDelta,
)

UI_MESSAGE_HEADERS: Mapping[str, str] = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",
    "x-vercel-ai-ui-message-stream": "v1",
}
"""The headers of a response that carries a `ui_message_stream`."""

_METADATA = "pathors_agent"  # the key of this library in a part's providers
_USER_PART = "data-user-message"  # a user's message inside a run: feedback, or `stream.say`
_RESULT_PART = "data-tool-result"  # the result of a call that an earlier UI message shows


# - the stream


async def ui_message_stream(stream: AsyncRunStream[Any]) -> AsyncGenerator[bytes, None]:
    """Yield a run as server-sent events of the AI SDK's UI message stream.

    Enters the stream, reads it to its end, and leaves it. Calls that wait for an approval become
    approval requests; calls of tools without a function stay without an output, for the client. An
    error becomes an `error` event, with a text for clients. Send `UI_MESSAGE_HEADERS` with the
    stream.
    """
    conversation, begun = stream.conversation, stream.result.messages
    sent = [each for each in begun if isinstance(each, UserMessage)]
    events = UIMessageEvents(conversation.call_ids, sent=[*sent, *conversation.queued])
    async for data in written(stream, events):
        yield data


class UIMessageEvents(Events):
    """Writes the parts of one UI message while it arrives.

    `sent` are the user's messages that came with decisions. The answer to them is a UI message of its
    own, and cannot change the parts of the calls that were decided: the AI SDK fails on an event
    about a call of another message.
    """

    last = b"data: [DONE]\n\n"

    def __init__(self, known: Iterable[str] = (), *, sent: Sequence[UserMessage] = ()) -> None:
        super().__init__(known)
        self._sent = sent
        self._elsewhere = frozenset(self._known if sent else ())  # calls of other UI messages
        self._is_in_step = False
        self._open: tuple[str, str] | None = None  # the kind and the id of the growing part
        self._count = 0
        self._has_text = False  # the answer that arrives has text
        self._is_answered = False  # the step's answer is complete, and another step follows

    def begin(self) -> dict[str, object]:
        """Return the first event."""
        return {"type": "start"}

    def denied(self, message: ToolMessage) -> dict[str, object]:
        """Return the event of a denial that came with the request."""
        if message.tool_call_id in self._elsewhere:
            return _result_part(message)
        return {"type": "tool-output-denied", "toolCallId": message.tool_call_id}

    def _item(self, item: Delta | Message) -> Iterator[dict[str, object]]:
        match item:
            case TextDelta(text=text):
                yield from self._text("text", text)
                self._has_text = True
            case ReasoningDelta(text=text):
                yield from self._text("reasoning", text)
            case ToolCallDelta():
                yield from self._call_delta(item)
            case AssistantMessage():
                yield from self._answer(item)
            case ToolMessage():
                if item.outcome != "suspended":
                    is_elsewhere = item.tool_call_id in self._elsewhere
                    yield (_result_part if is_elsewhere else _result)(item)
            case ToolProgressDelta():
                yield from self._progress(item)
            case UserMessage() if not is_one_of(item, self._sent):
                data = {"content": shown_content(item.content), "feedback": item.feedback}
                yield {"type": _USER_PART, "data": data}
            case UserMessage() | SystemMessage():
                pass

    def _progress(self, delta: ToolProgressDelta) -> Iterator[dict[str, object]]:
        output, is_json = progress_value(delta.value)
        call_id = delta.call.id
        if is_json and call_id not in self._elsewhere:
            fields = {"toolCallId": call_id, "output": output, "preliminary": True}
            yield {"type": "tool-output-available", **fields}

    def _begin_part(self) -> Iterator[dict[str, object]]:
        """End the growing part, and begin a step with the first event of an answer."""
        yield from self._end_part()
        if self._is_answered:
            yield from self._end_step()
        if not self._is_in_step:
            self._is_in_step = True
            yield {"type": "start-step"}

    def _text(self, kind: str, text: str) -> Iterator[dict[str, object]]:
        if not text:
            return
        if self._open is None or self._open[0] != kind:
            yield from self._begin_part()
            self._count += 1
            self._open = kind, f"{kind}-{self._count}"
            yield {"type": f"{kind}-start", "id": self._open[1]}
        yield {"type": f"{kind}-delta", "id": self._open[1], "delta": text}

    def _end_part(self) -> Iterator[dict[str, object]]:
        if self._open is not None:
            kind, name = self._open
            self._open = None
            yield {"type": f"{kind}-end", "id": name}

    def _end_step(self) -> Iterator[dict[str, object]]:
        self._is_answered = self._has_text = False
        if self._is_in_step:
            self._is_in_step = False
            yield {"type": "finish-step"}

    def _start_call(self, call_id: str, name: str) -> Iterator[dict[str, object]]:
        yield from self._begin_part()
        yield {"type": "tool-input-start", "toolCallId": call_id, "toolName": name}

    def _arguments(self, call_id: str, piece: str) -> dict[str, object]:
        return {"type": "tool-input-delta", "toolCallId": call_id, "inputTextDelta": piece}

    def _answer(self, message: AssistantMessage) -> Iterator[dict[str, object]]:
        """Yield the rest of an answer: its text if none was streamed, and its whole calls."""
        text = message.text or message.refusal
        if text and not self._has_text:
            yield from self._text("text", text)
        for url in image_urls(message):
            yield from self._begin_part()
            yield {"type": "file", "url": url, "mediaType": media_type(url)}
        yield from self._end_part()
        for call in message.tool_calls:
            yield from self._begin_part()
            yield _whole_call(call)
        self._known.update(call.id for call in message.tool_calls)
        self._started.clear()
        self._is_answered = True

    def end(self, end: RunEnd) -> Iterator[dict[str, object]]:
        """Yield the approval requests, and the end of the message."""
        if end.error:
            yield from self.error(end.error)
            return
        for approval in end.approvals:
            call = approval.call
            if call.id not in self._known - self._elsewhere:  # of an agent that runs as a tool
                yield from self._begin_part()
                yield _whole_call(call, inner=True)
            yield {
                "type": "tool-approval-request",
                "approvalId": approval.digest,
                "toolCallId": call.id,
            }
        yield from self.close()
        match end.reason:
            case "cancelled":
                yield {"type": "abort", "reason": "the run was cancelled"}
            case "limit_reached" | "no_answer":
                yield {"type": "finish", "finishReason": "other"}
            case reason:
                yield {"type": "finish", "finishReason": reason}

    def error(self, text: str) -> Iterator[dict[str, object]]:
        """Yield the end of the message, and an error."""
        yield from self.close()
        yield {"type": "error", "errorText": text}

    def close(self) -> Iterator[dict[str, object]]:
        """Yield the ends of the open parts."""
        yield from self._end_part()
        yield from self._end_step()


def _whole_call(call: ToolCall, *, inner: bool = False) -> dict[str, object]:
    """Return the event of a whole call.

    The client's history will contain the text of the arguments and the call's `extra`. An `inner`
    call is of an agent that runs as a tool, or of an earlier UI message. The history does not get it
    from this part.
    """
    ours: dict[str, object] = {"arguments": call.arguments}
    ours |= {"extra": call.extra} if call.extra else {}
    ours |= {"inner": True} if inner else {}
    fields = {"toolCallId": call.id, "toolName": call.name, "providerMetadata": {_METADATA: ours}}
    arguments = call_arguments(call)
    if arguments is None:
        error = "The arguments are not a JSON object"
        return {"type": "tool-input-error", **fields, "input": call.arguments, "errorText": error}
    return {"type": "tool-input-available", **fields, "input": arguments}


def _result(message: ToolMessage) -> dict[str, object]:
    named = {"toolCallId": message.tool_call_id}
    if message.is_error:
        return {"type": "tool-output-error", **named, "errorText": message.text}
    return {"type": "tool-output-available", **named, "output": shown_content(message.content)}


def _result_part(message: ToolMessage) -> dict[str, object]:
    """Return the event of a result that belongs to an earlier UI message."""
    content, outcome = shown_content(message.content), message.outcome
    data = {"toolCallId": message.tool_call_id, "content": content, "outcome": outcome}
    return {"type": _RESULT_PART, "data": data}


# - the request


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
        ours = self.call_provider_metadata.get(_METADATA)
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
        results = [part.data for part in parts if part.type == _RESULT_PART]
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
        is_data = part.type in (_USER_PART, _RESULT_PART)
        if is_data or part.type == "step-start":
            yield from _step(step)
            step = []
        if is_data and isinstance(part.data, dict):
            yield _data_message(part.type, part.data)
        step.append(part)
    yield from _step(step)


def _data_message(kind: str, data: Mapping[str, JSONValue]) -> Message:
    content = read_content(data.get("content"))
    if kind == _USER_PART:
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
