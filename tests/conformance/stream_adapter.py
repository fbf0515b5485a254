"""Give `ResponseStream` the shapes that the recorded cases expect of a client."""

from collections.abc import Iterable, Mapping

from pathors_agent.messages import AssistantMessage
from pathors_agent.wire.provider_errors import decode_error
from pathors_agent.wire.response_stream import ResponseStream

WireMessage = dict[str, object]

GOOD_STATUSES = range(200, 300)


def message_of_stream(pieces: Iterable[bytes]) -> WireMessage:
    """Read the body of an answer, cut anywhere."""
    stream = ResponseStream()
    for piece in pieces:
        stream.feed(piece)
    message = as_wire(stream.finish())
    return {**message, "choices": {i: as_wire(m) for i, m in stream.choices.items()}}


def message_of_response(status: int, headers: Mapping[str, str], body: bytes) -> WireMessage:
    """Read an answer that came in one piece."""
    if status not in GOOD_STATUSES:
        raise decode_error(status, body)
    return message_of_stream([body])


def as_wire(message: AssistantMessage) -> WireMessage:
    """Write a message with the names of OpenAI's answers."""
    return {
        "role": "assistant",
        "content": message.content,
        "tool_calls": [
            {
                **call.extra,
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ],
        "finish_reason": message.finish_reason,
        "reasoning": message.reasoning,
        "refusal": message.refusal,
        "usage": None if message.usage is None else message.usage.model_dump(),
    }
