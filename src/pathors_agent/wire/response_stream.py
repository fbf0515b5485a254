"""Read the bytes of an answer into deltas and, at its end, one `AssistantMessage`. Pure: no I/O.

`event_lanes` splits the bytes into events; here the events become deltas and the message.
"""

from collections.abc import Iterable
from sys import intern

from pathors_agent.errors import (
    QUOTED_BODY_BYTES,
    IncompleteResponse,
    MalformedResponse,
    ProviderError,
    TransportError,
)
from pathors_agent.json_text import write_json
from pathors_agent.messages import AssistantMessage, JSONValue
from pathors_agent.wire.chunks import (
    MAX_FRAMES,
    UNUSUAL,
    CallPiece,
    ChoiceDelta,
    EndChunk,
    TextFrame,
    decode_chunk,
    decode_end_chunk,
    decode_text,
    holds_message,
    loads,
    read_chunk,
    read_completion,
)
from pathors_agent.wire.deltas import BoundPassed, Delta, TextDelta, ToolCallDelta
from pathors_agent.wire.event_lanes import EventLanes, joined_events
from pathors_agent.wire.message_builder import MAX_CHOICES, PART_BYTES, MessageBuilder, Quirk
from pathors_agent.wire.provider_errors import decode_error, is_failure
from pathors_agent.wire.sse import BYTE_ORDER_MARK, MAX_EVENT_BYTES
from pathors_agent.wire.usage import merged_usage

# 32 MiB: a hundred times the longest answer of any model.
MAX_MESSAGE_BYTES = 32 * 1024 * 1024
# 4 MiB: a large file as one argument.
MAX_ARGUMENTS_BYTES = 4 * 1024 * 1024

# Sizes are checked again after this many more bytes, so that the check costs nothing.
_CHECK_STEP_BYTES = 64 * 1024
# The most bytes that a received byte adds to a message: a part of one character, written again.
_MOST_PER_BYTE = 2 * PART_BYTES
_QUOTED_CHARACTERS = 200
_OK = 200
_FIELDS = (BYTE_ORDER_MARK, b"data:", b"event:", b"id:", b"retry:", b":")
_NO_COMPLETION = " with a body that is no completion"
# Id and model are read from the first events that have them; Azure's first event has neither.
_HEAD_EVENTS = 3


class ResponseStream(EventLanes):
    """The reader of one answer: `feed` it the bytes, then call `finish` for the message.

    `feed` returns the deltas that the bytes complete, and never raises. `finish` raises what went
    wrong, after all earlier deltas were returned: `ProviderError` for the server's own error,
    `MalformedResponse` for a broken format or an exceeded bound, `IncompleteResponse` for an answer
    without a finish_reason or `[DONE]`. A body that is one plain JSON completion is read as well.

    The bounds limit the memory held: each piece of a message counts 64 bytes beside its text.

    `turn` is the number of this answer in its conversation; the ids of calls that arrive without
    one are derived from it.
    """

    __slots__ = (
        "_builder",
        "_closed",
        "_done",
        "_failure",
        "_frames_left",
        "_max_arguments",
        "_odd",
        "_others",
        "_turn",
    )

    def __init__(
        self,
        turn: int = 0,
        *,
        max_event_bytes: int = MAX_EVENT_BYTES,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        max_arguments_bytes: int = MAX_ARGUMENTS_BYTES,
    ) -> None:
        smaller = (
            max_message_bytes if max_message_bytes < max_arguments_bytes else max_arguments_bytes
        )
        super().__init__(max_event_bytes, max_message_bytes, smaller)
        self._turn = turn
        self._max_arguments = max_arguments_bytes
        self._builder = MessageBuilder(turn)
        self._others: dict[int, MessageBuilder] | None = None  # of further choices
        self._failure: TransportError | None = None
        self._frames_left = MAX_FRAMES
        # The first event that is no chunk, for the error of a stream without chunks; None after one.
        self._odd: bytes | None = b""
        self._done = False  # [DONE] was seen, or the closing brace of a plain completion
        self._closed = False

    @property
    def quirks(self) -> list[Quirk]:
        """The deviations of the server that were tolerated, each kind once."""
        return list((self._builder.quirks or {}).values())

    @property
    def choices(self) -> dict[int, AssistantMessage]:
        """The choices so far by index, for requests with `n` over 1."""
        builders = {0: self._builder, **(self._others or {})}
        return {index: builder.message() for index, builder in builders.items()}

    @property
    def is_complete(self) -> bool:
        """Whether the message is complete: it ended as it should, without an error."""
        ended_on_purpose = self._done or bool(self._builder.finish_reason)
        return ended_on_purpose and self._failure is None

    @property
    def builder(self) -> MessageBuilder:
        """The builder of the first choice."""
        return self._builder

    @property
    def partial(self) -> AssistantMessage:
        """The message so far."""
        return self._builder.message()

    def close(self) -> list[Delta]:
        """Read the end of the body; return the deltas that it completes."""
        if self._closed:
            return []
        self._closed = True
        deltas: list[Delta] = []
        if not self.ended:
            if self._is_stream:
                self._read_cut_off_event(deltas)
            elif self._is_stream is False:
                self._read_whole_body(deltas)
        if self._builder.half and self._failure is None:
            self._builder.finish(deltas)
        if self.received * _MOST_PER_BYTE > self._check_at:
            self._check_sizes()
        self._end()
        return deltas

    def finish(self) -> AssistantMessage:
        """Return the message, or raise the error that kept it from being complete."""
        if not self._closed:
            self.close()
        if self._failure is not None:
            raise self._failure
        if not self.is_complete:
            raise self._incomplete()
        message = self._builder.message()
        if not message.finish_reason:
            self._builder.note("no_finish_reason", "[DONE] came without a finish_reason")
        return message

    # - From events to the message

    def _read_texts(self, texts: Iterable[bytes], deltas: list[Delta]) -> None:
        """Read events of one `data` line each; drop what follows the end of the answer."""
        for text in texts:
            if self._expects_usual_chunk:
                self._read_usual_chunk(text, deltas)
            elif not self.ended:
                self._read_unusual(text, deltas)

    def _read_text(self, string: bytes, deltas: list[Delta]) -> bool:
        """Read the text in a known frame. Return False if it is not one JSON string."""
        try:
            content = decode_text(string)
        except UNUSUAL:
            return False
        if content:
            self._builder.text.append(content)
            deltas.append(TextDelta(content))
        return True

    def _read_usual_chunk(self, text: bytes, deltas: list[Delta]) -> None:
        """Read a chunk by its usual shape, or by the tolerant reader if it has another."""
        try:
            [choice] = decode_chunk(text).choices
        except UNUSUAL:
            self._read_unusual(text, deltas)
            return
        delta = choice.delta
        self._read_delta(delta, deltas)
        if self._frames_left and delta.content and not (delta.tool_calls or deltas[1:]):
            self._frames_left -= 1
            self._frame = TextFrame.of(text, delta.content) or self._frame

    def _read_delta(self, delta: ChoiceDelta, deltas: list[Delta]) -> None:
        builder = self._builder
        if reasoning := delta.reasoning_content or delta.reasoning:
            builder.add_reasoning(reasoning, deltas)
        if content := delta.content:
            builder.text.append(content)
            deltas.append(TextDelta(content))
        for piece in delta.tool_calls or ():
            function = piece.function
            call = builder.by_index.get(piece.index)
            if call is None or piece.id or function.name:
                self._read_piece(piece, deltas)
                if self.ended:
                    return
            else:
                if arguments := function.arguments:
                    call.parts.append(arguments)
                deltas.append(ToolCallDelta(arguments or "", call))

    def _read_unusual(self, text: bytes, deltas: list[Delta]) -> None:
        """Read an event of one `data` line that is no usual chunk, or may name the message."""
        try:
            chunk = decode_end_chunk(text)
        except UNUSUAL:
            chunk = None
        if chunk is None or self._builder.half or not self._read_end_chunk(chunk, deltas):
            self._read_event("message", text.decode(errors="replace"), deltas)

    def _read_end_chunk(self, chunk: EndChunk, deltas: list[Delta]) -> bool:
        """Read the first chunk or one of the last. Return False for one that reports a failure."""
        builder = self._builder
        choice = chunk.choices[0] if chunk.choices else None
        if choice is not None and is_failure(choice.finish_reason):
            return False
        self._events_read += 1
        self._odd = None
        builder.id = builder.id or chunk.id or None
        builder.model = builder.model or (intern(chunk.model) if chunk.model else None)
        if chunk.usage is not None:
            builder.usage = merged_usage(builder.usage, chunk.usage.usage())
        if choice is not None:
            self._read_delta(choice.delta, deltas)
            builder.finish_reason = choice.finish_reason or builder.finish_reason
        self._choose_lane()
        return True

    def _may_name_the_message(self) -> bool:
        """Return True if the next event may have the id and the model of the message."""
        is_named = self._builder.id is not None and self._builder.model is not None
        return not is_named and self._events_read < _HEAD_EVENTS

    def _read_piece(self, piece: CallPiece, deltas: list[Delta]) -> None:
        try:
            self._builder.add_piece(
                deltas,
                index=piece.index,
                id=piece.id or "",
                name=piece.function.name or "",
                arguments=piece.function.arguments or "",
            )
        except BoundPassed as error:
            self._fail_bound(str(error))

    def _read_event(self, event: str, data: str, deltas: list[Delta]) -> None:
        """Read any event, by the tolerant reader."""
        self._events_read += 1
        data = data.strip()
        if not data or event == "ping":
            return
        if data == "[DONE]":
            self._end_on_purpose()
        elif event == "error":
            body = data.encode(errors="replace")
            self._fail(decode_error(_OK, body, place=" with an error event"))
        elif data.startswith(":"):
            self._builder.note("comment_as_data", "a data line holds a comment")
        else:
            self._read_json(data, deltas)
        self._choose_lane()

    def _choose_lane(self) -> None:
        self._expects_usual_chunk = not (
            self.ended or self._builder.half or self._may_name_the_message()
        )
        self._in_fast_lane = self._is_between_events()

    def _read_json(self, data: str, deltas: list[Delta]) -> None:
        try:
            value = loads(data)
        except ValueError as error:
            if (events := joined_events(data)) is None:
                self._fail_malformed(f"an event is not JSON ({error})", data)
            for event in events or ():
                self._builder.note("joined_events", "no blank line stood between events")
                if not self.ended:
                    self._read_event("message", event, deltas)
            return
        if isinstance(value, list) and value:
            value = value[0]  # some gateways wrap their errors in a list
        if isinstance(value, dict):
            self._read_object(value, deltas)
        elif value is not None:
            self._fail_malformed("an event is not a JSON object", data)

    def _read_object(
        self, value: dict[str, JSONValue], deltas: list[Delta], *, is_completion: bool = False
    ) -> None:
        try:
            error = read_chunk(value, self._builder_of, deltas, is_completion=is_completion)
        except BoundPassed as bound:
            self._fail_bound(str(bound))
            return
        if error is not None:
            self._fail(error)
            return
        if isinstance(value.get("choices"), list):
            self._odd = None
        elif self._odd == b"":
            self._odd = write_json(value)[:QUOTED_BODY_BYTES]
        # Small items of unknown fields take many times the bytes that were received for them.
        if any(builder.gathered > self._max_message for builder in self._builders()):
            self._check_sizes()

    def _read_whole_body(self, deltas: list[Delta]) -> None:
        """Read a body that is one JSON text: a completion, or an error."""
        body = bytes(self._tail or b"")
        try:
            if read_completion(body, self._builder, deltas):
                self._done = True
                return
        except BoundPassed as bound:
            self._fail_bound(str(bound))
            return
        try:
            value = loads(body.decode(errors="replace"))
        except ValueError:
            self._fail(decode_error(_OK, body, place=_NO_COMPLETION))
            return
        if isinstance(value, list) and value:
            value = value[0]
        if isinstance(value, dict) and holds_message(value):
            self._read_object(value, deltas, is_completion=True)
            self._done = True
        else:
            self._fail(decode_error(_OK, body, place=_NO_COMPLETION))

    def _builder_of(self, index: int) -> MessageBuilder:
        if index == 0:
            return self._builder
        if self._others is None:
            self._others = {}
        if index not in self._others:
            if len(self._others) >= MAX_CHOICES:
                raise BoundPassed(f"more than {MAX_CHOICES} choices in one answer (MAX_CHOICES)")
            self._others[index] = MessageBuilder(self._turn)
        return self._others[index]

    def _builders(self) -> list[MessageBuilder]:
        return [self._builder, *(self._others or {}).values()]

    # - Ends

    def _end(self) -> None:
        self.ended = True
        self._expects_usual_chunk = False
        self._in_fast_lane = False

    def _end_on_purpose(self) -> None:
        if self._odd and self._is_empty:
            self._fail(decode_error(_OK, self._odd, place=_NO_COMPLETION))
        self._done = True
        self._end()

    @property
    def _is_empty(self) -> bool:
        """Whether nothing of a message arrived."""
        first = self._builder
        return not (first.text or first.reasoning or first.calls or first.usage)

    def _fail(self, error: TransportError) -> None:
        if isinstance(error, ProviderError | MalformedResponse):
            error.partial = self.partial
        self._failure = self._failure or error
        self._end()

    def _fail_malformed(self, text: str, data: str) -> None:
        quoted = data[:_QUOTED_CHARACTERS].encode("unicode_escape").decode()
        text = f"{text}, within the first {self.received} bytes of the body: {quoted}"
        self._fail(MalformedResponse(text, data=quoted, offset=self.received))

    def _fail_bound(self, text: str) -> None:
        text = f"{text}, within the first {self.received} bytes of the body"
        self._fail(MalformedResponse(text, offset=self.received))

    def _incomplete(self) -> TransportError:
        if not self.received:
            return IncompleteResponse("the provider answered with an empty body")
        if self._odd and self._is_empty:
            return decode_error(_OK, self._odd, place=_NO_COMPLETION)
        if not self._events_read and self._head.strip() and not _begins_event(self._head.lstrip()):
            return decode_error(_OK, self._head, place=_NO_COMPLETION)
        return IncompleteResponse(
            f"the answer ended after {self.received} bytes without a finish_reason or [DONE]; "
            "run the conversation again to repeat the request",
            partial=self.partial,
        )

    def _check_sizes(self) -> None:
        """Fail if the message exceeds a bound; postpone the next check by the room that is left."""
        builders = self._builders()
        size = sum(builder.size() for builder in builders)
        arguments = max(builder.largest_call() for builder in builders)
        if size > self._max_message:
            self._fail_bound(
                f"the message takes more than {self._max_message} bytes (max_message_bytes)"
            )
        elif arguments > self._max_arguments:
            self._fail_bound(
                f"the arguments of a call are over {self._max_arguments} bytes (max_arguments_bytes)"
            )
        room = min(self._max_message - size, self._max_arguments - arguments)
        self._check_at = self.received + max(room, _CHECK_STEP_BYTES)


def _begins_event(body: bytes) -> bool:
    """Return True if a body, perhaps cut off, begins with a field and not with a proxy's text."""
    return any(body.startswith(field) or field.startswith(body) for field in _FIELDS)
