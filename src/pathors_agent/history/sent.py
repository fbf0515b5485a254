"""Choose what of a history is sent: functions from messages to messages. Pure.

They go into `Agent(history=...)` and change the request alone; the conversation keeps all. What
they leave out is whole turns, so that no call is sent without its result: a turn runs from a
user's message to the next one that follows an answer. System messages and the current turn are
always kept.
"""

import math
import weakref
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from pathors_agent.core.conversation import Conversation, Role, turn_starts
from pathors_agent.errors import ConversationError
from pathors_agent.messages import AssistantMessage, Content, Message, SystemMessage, Usage

History = Callable[[Sequence[Message]], Sequence[Message]]
"""Gives the messages that are sent in the place of a whole history."""

AsyncHistory = Callable[[Sequence[Message]], Sequence[Message] | Awaitable[Sequence[Message]]]
"""`History`, or an async function of that kind."""

Counter = Callable[[Message], int]
"""Counts the tokens of one message."""

ResultT = TypeVar("ResultT")

# OpenAI's rule of thumb is four characters of English; counted in bytes, the characters of other
# scripts cost more, as they do in truth.
BYTES_PER_TOKEN = 4
# The role, and what marks a message's beginning and end.
TOKENS_PER_MESSAGE = 4
# OpenAI's documentation counts 765 and 1,105 tokens for its examples of images in full detail.
TOKENS_PER_PART = 1_000


# Where the tokens are gathered that it takes to choose what is sent now.
_SPENT: ContextVar[list[Usage]] = ContextVar("_spent")


@contextmanager
def spending(spent: list[Usage]) -> Iterator[None]:
    """Gather in a list what the choice of a history takes, as far as `spend` is told."""
    token = _SPENT.set(spent)
    try:
        yield
    finally:
        _SPENT.reset(token)


def spend(usage: Usage) -> None:
    """Count tokens to the run whose history is chosen; without effect outside of one."""
    _SPENT.get([]).append(usage)


def last_turns(turns: int) -> History:
    """Send the last `turns` whole turns, the current one among them."""
    check_positive("turns", turns)

    def history(messages: Sequence[Message]) -> Sequence[Message]:
        starts = turn_starts(messages)
        return messages if len(starts) <= turns else from_turn(messages, starts[-turns])

    return history


def token_budget(tokens: int, *, count: Counter | None = None) -> History:
    """Send as many of the last whole turns as fit in `tokens`, the system messages counted in.

    `count` counts the tokens of a message, once for each; without one they are estimated
    (`estimate_tokens`). A current turn that is larger is sent nevertheless, alone. Leave room for
    the instructions, the tools and the answer: they are not counted.
    """
    check_positive("tokens", tokens)
    counted = once(count or estimate_tokens)

    def history(messages: Sequence[Message]) -> Sequence[Message]:
        place = first_fitting(messages, tokens, counted)
        return from_turn(messages, place) if place else messages

    return history


def estimate_tokens(message: Message) -> int:
    """Estimate a message's tokens: four bytes of UTF-8 each, and 4 for the message itself.

    Text, names and arguments of calls are counted; every image, audio clip or file as 1,000.
    """
    size = _content_bytes(message.content)
    if isinstance(message, AssistantMessage):
        size += sum(_bytes(call.name) + _bytes(call.arguments) for call in message.tool_calls)
    return TOKENS_PER_MESSAGE + math.ceil(size / BYTES_PER_TOKEN)


def from_turn(
    messages: Sequence[Message], cut: int, between: Sequence[Message] = ()
) -> list[Message]:
    """Give the messages from a place on, with the system messages before it in front."""
    system = [message for message in messages[:cut] if isinstance(message, SystemMessage)]
    return [*system, *between, *messages[cut:]]


def first_fitting(messages: Sequence[Message], tokens: int, count: Counter) -> int:
    """Find the place from which the last whole turns fit, with all system messages.

    The current turn always does; what came before all turns belongs to the first.
    """
    left = tokens - sum(count(m) for m in messages if isinstance(m, SystemMessage))
    place = end = len(messages)
    for start in reversed([0, *turn_starts(messages)[1:]]):
        turn = messages[start:end]
        left -= sum(count(m) for m in turn if not isinstance(m, SystemMessage))
        if left < 0 and place < len(messages):
            return place
        place = end = start
    return 0


def once(function: Callable[[Message], ResultT]) -> Callable[[Message], ResultT]:
    """Call a function once for each message, and keep what it gave for as long as that lives."""
    known: dict[int, tuple[weakref.ref[Message], ResultT]] = {}

    def known_or_called(message: Message) -> ResultT:
        key = id(message)
        if key not in known:
            # The reference forgets the result with the message: its id may be used again.
            forget = weakref.ref(message, lambda _: known.pop(key, None))
            known[key] = (forget, function(message))
        return known[key][1]

    return known_or_called


def checked(messages: Sequence[Message]) -> Sequence[Message]:
    """Give what a history function gave, or raise `ConversationError` if no model can answer it."""
    try:
        next_role = Conversation(messages).next_role
    except ConversationError as error:
        error.args = (f"what history= gave is no conversation: {error}",)
        raise
    if next_role is not Role.ASSISTANT:
        raise ConversationError(
            f"what history= gave ends at messages[{len(messages) - 1}], where the {next_role} "
            "must go on; keep what the model is to answer",
            next_role=next_role,
            index=len(messages) - 1,
        )
    return messages


def _content_bytes(content: Content | None) -> int:
    if content is None or isinstance(content, str):
        return _bytes(content or "")
    return sum(
        TOKENS_PER_PART * BYTES_PER_TOKEN if part.text is None else _bytes(part.text)
        for part in content
    )


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="replace"))


def check_positive(name: str, value: int) -> None:
    """Raise ValueError for a number under 1."""
    if value < 1:
        raise ValueError(f"{name} must be at least 1, not {value}")
