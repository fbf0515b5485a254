"""The UI message stream of Vercel's AI SDK (`useChat`, version 5 and later)."""

import json
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from pathors_agent.agents.approvals import Decision
from pathors_agent.agents.stream import AsyncRunStream
from pathors_agent.core.conversation import Conversation
from pathors_agent.core.run import Status
from pathors_agent.errors import ConversationError
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
    add,
    answer_of,
    decision,
    denials,
    error_text,
    file_part,
    frames,
    joined_parts,
    parsed_arguments,
    progress_value,
    read_content,
    refused,
    shown_content,
    unanswerable,
)
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

_DONE = b"data: [DONE]\n\n"
_METADATA = "pathors_agent"  # the key of this library in a part's providers
_USER_PART = "data-user-message"  # a user's message inside a run: feedback, or `stream.say`
_FINISH_REASONS = {
    "length": "length",
    "content_filter": "content-filter",
    "refusal": "content-filter",
}


# - the stream


async def ui_message_stream(stream: AsyncRunStream[Any]) -> AsyncGenerator[bytes, None]:
    """Yield a run as server-sent events of the AI SDK's UI message stream.

    Enters the stream, reads it to its end, and leaves it. Calls that wait for an approval become
    approval requests; calls of tools without a function stay without an output, for the client. An
    error becomes an `error` event, with a text for clients. Send `UI_MESSAGE_HEADERS` with the
    stream.
    """
    yield frames({"type": "start"})
    parts = _Parts(stream)
    try:
        async with stream:
            if denied := frames(*parts.denied()):
                yield denied
            async for batch in stream.batches():
                items = batch if isinstance(batch, list) else [batch]
                if data := frames(*parts.events(items)):
                    yield data
        yield frames(*parts.end())
    except Exception as error:  # noqa: BLE001  (the status is sent: the client reads the last event)
        failed = {"type": "error", "errorText": error_text(error)}
        yield frames(*parts.close(), failed)
    yield _DONE


class _Parts:
    """The parts of one UI message while it arrives."""

    def __init__(self, stream: AsyncRunStream[Any]) -> None:
        self._stream = stream
        self._is_in_step = False
        self._open: tuple[str, str] | None = None  # the kind and the id of the growing part
        self._count = 0
        self._started: dict[int, str] = {}  # the ids of the calls that arrive, by their index
        self._known = set(stream.conversation.call_ids)
        self._has_text = False  # the answer that arrives has text
        self._is_answered = False  # the step's answer is complete, and another step follows

    def denied(self) -> Iterator[dict[str, object]]:
        """Yield the denials of the request."""
        for message in denials(self._stream):
            yield {"type": "tool-output-denied", "toolCallId": message.tool_call_id}

    def events(self, items: Iterable[Delta | Message]) -> Iterator[dict[str, object]]:
        """Yield the events of deltas and messages that arrived together."""
        for item in items:
            yield from self._item(item)

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
                yield from _result(item)
            case ToolProgressDelta(call=call, value=value):
                output, is_json = progress_value(value)
                if is_json:
                    fields = {"toolCallId": call.id, "output": output, "preliminary": True}
                    yield {"type": "tool-output-available", **fields}
            case UserMessage():
                data = {"content": shown_content(item.content), "feedback": item.feedback}
                yield {"type": _USER_PART, "data": data}
            case SystemMessage():
                pass

    def _begin(self) -> Iterator[dict[str, object]]:
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
            yield from self._begin()
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

    def _call_delta(self, delta: ToolCallDelta) -> Iterator[dict[str, object]]:
        """Yield the next piece of a call's arguments, if the call has its id and its name."""
        name = self._started.get(delta.index)
        if name is None:
            # An id that is already in the history is replaced when the answer is complete.
            if not delta.id or not delta.name or not delta.arguments or delta.id in self._known:
                return
            yield from self._begin()
            name = self._started[delta.index] = delta.id
            self._known.add(name)
            yield {"type": "tool-input-start", "toolCallId": name, "toolName": delta.name}
            piece = "".join(delta.call.parts)
        else:
            piece = delta.arguments
        if piece:
            yield {"type": "tool-input-delta", "toolCallId": name, "inputTextDelta": piece}

    def _answer(self, message: AssistantMessage) -> Iterator[dict[str, object]]:
        """Yield the rest of an answer: its text if none was streamed, and its whole calls."""
        if message.text and not self._has_text:
            yield from self._text("text", message.text)
        yield from self._end_part()
        for call in message.tool_calls:
            yield from self._begin()
            yield _whole_call(call)
        self._known.update(call.id for call in message.tool_calls)
        self._started.clear()
        self._is_answered = True

    def close(self) -> Iterator[dict[str, object]]:
        """Yield the ends of the open parts."""
        yield from self._end_part()
        yield from self._end_step()

    def end(self) -> Iterator[dict[str, object]]:
        """Yield the approval requests, and the end of the message."""
        result = self._stream.result
        if error := unanswerable(self._stream):
            yield from self.close()
            yield {"type": "error", "errorText": error}
            return
        for approval in result.approvals:
            yield {
                "type": "tool-approval-request",
                "approvalId": approval.digest,
                "toolCallId": approval.call.id,
            }
        yield from self.close()
        if result.cancelled:
            yield {"type": "abort", "reason": "the run was cancelled"}
            return
        match result.status:
            case Status.FINISHED:
                reason = _FINISH_REASONS.get(result.ended_by or "", "stop")
            case Status.SUSPENDED:
                reason = "tool-calls"
            case _:
                reason = "other"
        yield {"type": "finish", "finishReason": reason}


def _whole_call(call: ToolCall) -> dict[str, object]:
    """Return the event of a whole call.

    The client's history will contain the text of the arguments and the call's `extra`.
    """
    ours = {"arguments": call.arguments, **({"extra": call.extra} if call.extra else {})}
    fields = {
        "toolCallId": call.id,
        "toolName": call.name,
        "providerMetadata": {_METADATA: ours},
    }
    arguments = parsed_arguments(call)
    if arguments is None:
        error = "The arguments are not a JSON object"
        return {"type": "tool-input-error", **fields, "input": call.arguments, "errorText": error}
    return {"type": "tool-input-available", **fields, "input": arguments}


def _result(message: ToolMessage) -> Iterator[dict[str, object]]:
    named = {"toolCallId": message.tool_call_id}
    if message.outcome == "suspended":
        return
    if message.is_error:
        yield {"type": "tool-output-error", **named, "errorText": message.text}
    else:
        output = shown_content(message.content)
        yield {"type": "tool-output-available", **named, "output": output}


# - the request


class _Approval(Body):
    id: str
    approved: bool | None = None
    reason: str = ""


class _Part(Body):
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
    approval: _Approval | None = None
    call_provider_metadata: dict[str, JSONValue] = Field(default_factory=dict)

    @property
    def is_call(self) -> bool:
        """Whether the part is a tool call whose arguments are complete."""
        named = self.type == "dynamic-tool" or self.type.startswith("tool-")
        return named and self.state != "input-streaming"

    @property
    def call(self) -> ToolCall:
        """The tool call."""
        name = self.tool_name if self.type == "dynamic-tool" else self.type[len("tool-") :]
        ours = self.call_provider_metadata.get(_METADATA)
        kept = ours if isinstance(ours, dict) else {}
        extra = kept.get("extra")
        return ToolCall(
            id=self.tool_call_id,
            name=name,
            arguments=self._arguments(kept.get("arguments")),
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
    role: Literal["system", "user", "assistant"]
    parts: list[_Part]


class UIMessageRequest(Body):
    """The body of a request of `useChat`: the chat's id, and its messages.

    `conversation` and `decisions` are the arguments of `AsyncAgent.stream`. As the type of a
    FastAPI argument, it refuses an invalid body with status 422.
    """

    id: str = ""
    messages: list[_UIMessage] = Field(min_length=1, max_length=MAX_FRONT_END_MESSAGES)

    @cached_property
    def conversation(self) -> Conversation:
        """The client's history.

        Its last calls may be open. A user's message closes the calls that were open before it.
        """
        conversation = Conversation()
        for message in self.messages:
            for each in _read(message):
                add(conversation, each)
        return conversation

    @cached_property
    def decisions(self) -> list[Decision]:
        """The approvals and denials of the last message, each for the call that a person saw."""
        return [
            decision(given.id, approved=given.approved, reason=given.reason)
            for part in self.messages[-1].parts
            if (given := part.approval)
            and part.state == "approval-responded"
            and given.approved is not None
        ]

    @model_validator(mode="after")
    def _is_legal(self) -> Self:
        try:
            _ = self.conversation
        except (ConversationError, ValidationError) as error:
            raise refused(error) from None
        return self


def _read(message: _UIMessage) -> Iterator[Message]:
    match message.role:
        case "system":
            yield SystemMessage(content="".join(part.text for part in message.parts))
        case "user":
            yield UserMessage(content=joined_parts(list(_user_parts(message.parts))))
        case "assistant":
            yield from _answers(message.parts)


def _user_parts(parts: Iterable[_Part]) -> Iterator[ContentPart]:
    for part in parts:
        if part.type == "text":
            yield ContentPart(type="text", text=part.text)
        elif part.type == "file":
            yield file_part(part.url, part.media_type, part.filename)


def _answers(parts: list[_Part]) -> Iterator[Message]:
    """Yield the answers and results of one UI message, which has one answer for each step."""
    step: list[_Part] = []
    for part in parts:
        is_user = part.type == _USER_PART
        if is_user or part.type == "step-start":
            yield from _step(step)
            step = []
        if is_user and isinstance(part.data, dict):
            content = read_content(part.data.get("content"))
            yield UserMessage(content=content, feedback=part.data.get("feedback") is True)
        step.append(part)
    yield from _step(step)


def _step(parts: list[_Part]) -> Iterator[Message]:
    calls = [part for part in parts if part.is_call]
    answer = answer_of(
        [part.text for part in parts if part.type == "text"],
        [part.text for part in parts if part.type == "reasoning"],
        [part.call for part in calls],
    )
    if answer is not None:
        yield answer
    yield from (result for part in calls if (result := part.result) is not None)
