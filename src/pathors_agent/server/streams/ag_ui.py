"""The events of AG-UI, the protocol of CopilotKit and other front ends for agents."""

from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from pathors_agent.agents.approvals import Approval, Decision
from pathors_agent.agents.stream import AsyncRunStream
from pathors_agent.messages import (
    AssistantMessage,
    Content,
    ContentPart,
    JSONValue,
    Message,
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
    is_one_of,
    joined_parts,
    progress_value,
    results_first,
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

_METADATA = "pathors_agent"  # the key of this library in an event's metadata
_DECISION_SCHEMA = {
    "type": "object",
    "properties": {
        "approved": {"type": "boolean"},
        "reason": {"type": "string"},
        "arguments": {"type": "object"},
    },
    "required": ["approved"],
}


# - the request


class _AGUIPart(Body):
    """A part of a message, which is kept whole."""

    model_config = ConfigDict(extra="allow")


class _AGUISource(_AGUIPart):
    """Where the data of an image, a clip or a file is."""

    type: str
    value: str
    mime_type: str = ""


class _AGUIContent(_AGUIPart):
    """A part of a user's message; clients before version 1 send `binary`."""

    type: str
    text: str = ""
    source: _AGUISource | None = None
    mime_type: str = ""
    data: str = ""
    url: str = ""
    filename: str | None = None

    def read(self) -> ContentPart:
        """Return the part in OpenAI's form."""
        if self.type == "text":
            return ContentPart(type="text", text=self.text)
        kind = self.source.mime_type if self.source else self.mime_type
        kind = kind or ("image/*" if self.type == "image" else "")
        if self.source is not None:
            is_data, value = self.source.type == "data", self.source.value
        else:
            is_data, value = bool(self.data), self.data or self.url
        url = f"data:{kind};base64,{value}" if is_data else value
        return file_part(url, kind, self.filename)


class _AGUIFunction(_AGUIPart):
    """The function of a call, and its arguments as JSON text."""

    name: str
    arguments: str = ""


class _AGUICall(_AGUIPart):
    """A tool call."""

    id: str
    function: _AGUIFunction
    metadata: dict[str, JSONValue] = Field(default_factory=dict)

    def read(self) -> ToolCall:
        """Return the call, with the `extra` that the stream sent."""
        ours = self.metadata.get(_METADATA)
        extra = ours.get("extra") if isinstance(ours, dict) else None
        return ToolCall(
            id=self.id,
            name=self.function.name,
            arguments=self.function.arguments,
            extra=extra if isinstance(extra, dict) else {},
        )


class _AGUIMessage(_AGUIPart):
    """A message of the history."""

    role: Literal["developer", "system", "user", "assistant", "tool", "reasoning", "activity"]
    content: str | list[_AGUIContent] | dict[str, JSONValue] | None = None
    tool_calls: list[_AGUICall] | None = None
    tool_call_id: str = ""
    error: str | None = None

    def sent(self) -> dict[str, JSONValue]:
        """Return the message as the client sent it."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)

    @property
    def text(self) -> str:
        """The text of the content."""
        content = self.read_content()
        if isinstance(content, str):
            return content
        return "".join(part.text or "" for part in content)

    def read_content(self) -> Content:
        """Return the content as OpenAI's parts, or as a text."""
        if isinstance(self.content, list):
            return joined_parts([part.read() for part in self.content])
        return self.content if isinstance(self.content, str) else ""


class _AGUIResume(Body):
    """The answer to an interrupt."""

    interrupt_id: str
    status: Literal["resolved", "cancelled"]
    payload: JSONValue = None

    def read(self) -> Decision:
        """Return the decision: a boolean, or an object with `approved`."""
        given = self.payload if isinstance(self.payload, dict) else {"approved": self.payload}
        reason = given.get("reason")
        return decision(
            self.interrupt_id,
            approved=self.status == "resolved" and given.get("approved") is True,
            reason=reason if isinstance(reason, str) else "",
            arguments=given.get("arguments"),
        )


class AGUIRequest(FrontEndRequest):
    """The body of a request of an AG-UI client (`RunAgentInput`).

    `conversation` and `decisions` are arguments of `AsyncAgent.stream`; `client_tools` are the
    tools that the front end runs. As the type of a FastAPI argument, it refuses an invalid body
    with status 422.
    """

    name: ClassVar[str] = "ag-ui"
    title: ClassVar[str] = "AG-UI"

    thread_id: str
    run_id: str
    messages: list[_AGUIMessage] = Field(max_length=MAX_FRONT_END_MESSAGES)
    tools: list[ClientTool] = Field(default_factory=list)
    resume: list[_AGUIResume] | None = None
    state: JSONValue = None
    context: list[dict[str, JSONValue]] = Field(default_factory=list)
    forwarded_props: JSONValue = None

    @property
    def session_id(self) -> str:
        """The id of the thread."""
        return self.thread_id

    @cached_property
    def sent_messages(self) -> Sequence[Message]:
        """The messages of the history, as the client sent them."""
        messages: list[Message] = []
        thoughts: list[str] = []
        for message in self.messages:
            if message.role == "reasoning":
                thoughts.append(message.text)
            elif (each := _read(message, thoughts)) is not None:
                messages.append(each)
                thoughts = []
        return results_first(messages)

    @cached_property
    def decisions(self) -> list[Decision]:
        """The answers to the interrupts of the previous run."""
        return [entry.read() for entry in self.resume or ()]

    @cached_property
    def client_tools(self) -> list[Tool]:
        """The front end's tools, which have no function here: a call of them suspends the run."""
        return [each.read() for each in self.tools]

    @property
    def rewinds(self) -> bool:
        """Whether `forwardedProps` asks for it; the protocol itself has no field for it."""
        given = self.forwarded_props
        return isinstance(given, dict) and given.get("rewind") is True

    @property
    def replay(self) -> bytes:
        """The client's messages, which replace those of a client that reconnects."""
        sent = [each.sent() for each in self.messages]
        started = AGUIEvents(self.thread_id, self.run_id).begin()
        return frames(started, {"type": "MESSAGES_SNAPSHOT", "messages": sent})


def _read(message: _AGUIMessage, thoughts: list[str]) -> Message | None:
    match message.role:
        case "system" | "developer":
            return SystemMessage(content=message.text)
        case "user":
            return UserMessage(content=message.read_content())
        case "assistant":
            calls = [call.read() for call in message.tool_calls or ()]
            return answer_of([message.text], thoughts, calls)
        case "tool":
            failed = message.error is not None
            return ToolMessage(
                tool_call_id=message.tool_call_id,
                content=(message.text or message.error or "") if failed else message.read_content(),
                outcome="error" if failed else "value",
            )
        case "reasoning" | "activity":
            return None


# - the stream


async def ag_ui_events(
    stream: AsyncRunStream[Any], request: AGUIRequest
) -> AsyncGenerator[bytes, None]:
    """Yield a run as server-sent events of AG-UI, whose media type is `text/event-stream`.

    Enters the stream, reads it to its end, and leaves it. Calls that wait for an approval end the
    run with interrupts; calls of the front end's tools end it without a result. An error becomes
    RUN_ERROR, with a text for clients.
    """
    events = AGUIEvents(
        request.thread_id, request.run_id, stream.conversation.call_ids, sent=request.sent_messages
    )
    async for data in written(stream, events):
        yield data


class AGUIEvents(Events):
    """Writes the events of one run; the client has shown the messages that it `sent`."""

    def __init__(
        self,
        thread_id: str,
        run_id: str,
        known: Iterable[str] = (),
        *,
        sent: Sequence[Message] = (),
    ) -> None:
        super().__init__(known)
        self._sent = sent
        self._ids = {"threadId": thread_id, "runId": run_id}
        self._count = 0
        self._answer = ""  # the id of the answer that arrives
        self._thought = ""  # the id of the reasoning that arrives
        self._is_open = False  # the answer's text grows
        self._has_text = False

    def _new_id(self) -> str:
        self._count += 1
        return f"{self._ids['runId']}-{self._count}"

    def begin(self) -> dict[str, object]:
        """Return the first event."""
        return {"type": "RUN_STARTED", **self._ids}

    def denied(self, message: ToolMessage) -> dict[str, object]:
        """Return the event of a denial that came with the request."""
        return self._result(message)

    def _result(self, message: ToolMessage) -> dict[str, object]:
        return {
            "type": "TOOL_CALL_RESULT",
            "messageId": self._new_id(),
            "toolCallId": message.tool_call_id,
            "content": message.text,
            "role": "tool",
        }

    def _item(self, item: Delta | Message) -> Iterator[dict[str, object]]:
        match item:
            case TextDelta(text=text):
                yield from self._text(text)
            case ReasoningDelta(text=text):
                yield from self._reasoning(text)
            case ToolCallDelta():
                yield from self._call_delta(item)
            case AssistantMessage():
                yield from self._whole(item)
            case ToolMessage() if item.outcome != "suspended":
                yield self._result(item)
            case ToolProgressDelta(call=call, value=value):
                shown, is_json = progress_value(value)
                if is_json:
                    progress = {"toolCallId": call.id, "value": shown}
                    yield {"type": "CUSTOM", "name": "tool_progress", "value": progress}
            case UserMessage():
                yield from self._user(item)
            case ToolMessage() | SystemMessage():
                pass

    def _user(self, message: UserMessage) -> Iterator[dict[str, object]]:
        """Yield a user's message inside the run that the client does not have.

        It is feedback, or comes from `stream.say`.
        """
        if is_one_of(message, self._sent):
            return
        text = message.text
        named = {"messageId": self._new_id()}
        yield {"type": "TEXT_MESSAGE_START", **named, "role": "user"}
        if text:
            yield {"type": "TEXT_MESSAGE_CONTENT", **named, "delta": text}
        yield {"type": "TEXT_MESSAGE_END", **named}

    def _text(self, text: str) -> Iterator[dict[str, object]]:
        if not text:
            return
        yield from self._end_reasoning()
        named = {"messageId": self._answer_id()}
        if not self._is_open:
            self._is_open = self._has_text = True
            yield {"type": "TEXT_MESSAGE_START", **named, "role": "assistant"}
        yield {"type": "TEXT_MESSAGE_CONTENT", **named, "delta": text}

    def _answer_id(self) -> str:
        self._answer = self._answer or self._new_id()
        return self._answer

    def _reasoning(self, text: str) -> Iterator[dict[str, object]]:
        if not text:
            return
        if not self._thought:
            yield from self._end_text()
            self._thought = self._new_id()
            named = {"messageId": self._thought}
            yield {"type": "REASONING_START", **named}
            yield {"type": "REASONING_MESSAGE_START", **named, "role": "reasoning"}
        yield {"type": "REASONING_MESSAGE_CONTENT", "messageId": self._thought, "delta": text}

    def _end_reasoning(self) -> Iterator[dict[str, object]]:
        if self._thought:
            named = {"messageId": self._thought}
            self._thought = ""
            yield {"type": "REASONING_MESSAGE_END", **named}
            yield {"type": "REASONING_END", **named}

    def _end_text(self) -> Iterator[dict[str, object]]:
        if self._is_open:
            self._is_open = False
            yield {"type": "TEXT_MESSAGE_END", "messageId": self._answer}

    def _start_call(self, call_id: str, name: str) -> Iterator[dict[str, object]]:
        yield from self._end_reasoning()
        yield from self._end_text()
        named = {"toolCallId": call_id, "toolCallName": name}
        yield {"type": "TOOL_CALL_START", **named, "parentMessageId": self._answer_id()}

    def _arguments(self, call_id: str, piece: str) -> dict[str, object]:
        return {"type": "TOOL_CALL_ARGS", "toolCallId": call_id, "delta": piece}

    def _whole(self, message: AssistantMessage) -> Iterator[dict[str, object]]:
        """Yield the rest of an answer: its text if none was streamed, and its whole calls."""
        if not self._has_text:
            yield from self._text(message.text or message.refusal or "")
        started = set(self._started.values())
        for call in message.tool_calls:
            if call.id not in started:
                yield from self._start_call(call.id, call.name)
                if call.arguments:
                    yield self._arguments(call.id, call.arguments)
            extra = {"metadata": {_METADATA: {"extra": call.extra}}} if call.extra else {}
            yield {"type": "TOOL_CALL_END", "toolCallId": call.id, **extra}
            self._started = {i: each for i, each in self._started.items() if each != call.id}
        self._known.update(call.id for call in message.tool_calls)
        yield from self.close()
        self._answer, self._has_text = "", False

    def end(self, end: RunEnd) -> Iterator[dict[str, object]]:
        """Yield the last event of the run, with its interrupts."""
        if end.error:
            yield from self.error(end.error)
            return
        yield from self.close()
        finished: dict[str, object] = {"type": "RUN_FINISHED", **self._ids}
        if end.reason == "cancelled":
            yield {**finished, "outcome": {"type": "cancelled"}}
        elif end.approvals:
            interrupts = [_interrupt(each) for each in end.approvals]
            yield {**finished, "outcome": {"type": "interrupt", "interrupts": interrupts}}
        elif end.open_calls:
            pending = list(end.open_calls)
            yield {**finished, "outcome": {"type": "success", "pendingToolCallIds": pending}}
        elif end.reason in ("limit_reached", "no_answer"):
            yield {**finished, "result": {"status": end.reason}}
        else:
            yield finished

    def error(self, text: str) -> Iterator[dict[str, object]]:
        """Yield the ends of the open messages and calls, and an error."""
        yield from self.close()
        yield {"type": "RUN_ERROR", "message": text}

    def close(self) -> Iterator[dict[str, object]]:
        """Yield the ends of the open messages and calls."""
        yield from self._end_reasoning()
        yield from self._end_text()
        for call_id in self._started.values():
            yield {"type": "TOOL_CALL_END", "toolCallId": call_id}
        self._started = {}


def _interrupt(approval: Approval) -> dict[str, object]:
    return {
        "id": approval.digest,
        "reason": "tool_call",
        "message": f"Approve the call of {approval.call.name}?",
        "toolCallId": approval.call.id,
        "responseSchema": _DECISION_SCHEMA,
    }
