"""Write the UI message stream of Vercel's AI SDK (`useChat`, version 5 and later)."""

from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from typing import Any

from pathors_agent.agents.stream import AsyncRunStream
from pathors_agent.json_text import call_arguments
from pathors_agent.messages import (
    AssistantMessage,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from pathors_agent.server.streams.front_end import (
    Events,
    RunEnd,
    image_urls,
    is_one_of,
    media_type,
    progress_value,
    shown_content,
    written,
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

METADATA = "pathors_agent"  # the key of this library in a part's providers
USER_PART = "data-user-message"  # a user's message inside a run: feedback, or `stream.say`
RESULT_PART = "data-tool-result"  # the result of a call that an earlier UI message shows


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
                yield {"type": USER_PART, "data": data}
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
    fields = {"toolCallId": call.id, "toolName": call.name, "providerMetadata": {METADATA: ours}}
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
    return {"type": RESULT_PART, "data": data}
