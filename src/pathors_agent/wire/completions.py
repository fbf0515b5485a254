"""Read a usual whole completion into a message: one choice, and nothing that needs attention.

As for the usual `Chunk`, a field that needs attention when it is there is declared as null, so
that decoding fails on any other value; what does not fit is read loosely.
"""

from sys import intern
from typing import Annotated, Any, Literal

import msgspec

from pathors_agent.wire.chunks import MAX_DEPTH, count_openers
from pathors_agent.wire.message_builder import Delta, MessageBuilder
from pathors_agent.wire.usage import merged_usage, read_usage

_Nothing = Annotated[list[None], msgspec.Meta(max_length=0)] | None


class WholeFunction(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """`message.tool_calls[].function`."""

    name: str = ""
    arguments: str = ""


class WholeCall(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """`message.tool_calls[]`."""

    function: WholeFunction
    id: str = ""
    type: str | None = None
    index: int | None = None


class WholeMessage(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """`choices[].message`."""

    role: str
    content: str | None = None
    tool_calls: list[WholeCall] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: None = None
    function_call: None = None
    audio: None = None
    annotations: _Nothing = None


class WholeChoice(msgspec.Struct, gc=False):
    """`choices[]`."""

    message: WholeMessage
    finish_reason: str
    index: Literal[0] = 0
    logprobs: None = None
    error: None = None
    usage: None = None


class Completion(msgspec.Struct, gc=False):
    """One `chat.completion`."""

    choices: Annotated[list[WholeChoice], msgspec.Meta(min_length=1, max_length=1)]
    id: str | None = None
    model: str | None = None
    usage: dict[str, Any] | None = None
    session_id: str | None = None
    x_groq: None = None
    usageMetadata: None = None  # noqa: N815  (Gemini's name)
    usage_metadata: None = None
    error: None = None
    tool_calls: None = None
    finish_reason: None = None


_COMPLETION = msgspec.json.Decoder(Completion)

# What decoders raise for bytes that are nothing usual: the second is no `DecodeError`.
UNUSUAL = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def read_usual_completion(body: bytes, builder: MessageBuilder, deltas: list[Delta]) -> bool:
    """Add a completion to the message where it is a usual one; say whether it is."""
    if count_openers(body) > MAX_DEPTH:
        return False
    try:
        completion = _COMPLETION.decode(body)
    except UNUSUAL:
        return False
    [choice] = completion.choices
    if choice.finish_reason == "error":
        return False
    builder.id, builder.model = completion.id or None, intern(completion.model or "") or None
    builder.session_id = completion.session_id or None
    builder.finish_reason = choice.finish_reason
    if completion.usage is not None:
        builder.usage = merged_usage(None, read_usage(completion.usage))
    message = choice.message
    if reasoning := message.reasoning_content or message.reasoning:
        builder.add_reasoning(reasoning, deltas)
    if message.content:
        builder.add_text(message.content, deltas)
    for place, call in enumerate(message.tool_calls or ()):
        name, arguments = call.function.name, call.function.arguments
        builder.add_piece(deltas, index=-1 - place, id=call.id, name=name, arguments=arguments)
    return True
