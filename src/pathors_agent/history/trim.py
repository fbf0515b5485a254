"""Trim the history in a request: functions from messages to messages. Pure.

Pass one as `Agent(history=...)`. It changes only the request; the conversation keeps all messages.
The functions here leave out whole turns, so that no call is sent without its result. A turn starts
with a user message that follows an answer. System messages and the current turn are always sent.
"""

import math
import weakref
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from pathors_agent.core.conversation import REPAIR_HINT, Conversation, Role, turn_starts
from pathors_agent.errors import ConversationError
from pathors_agent.messages import AssistantMessage, Content, Message, SystemMessage, Usage

History = Callable[[Sequence[Message]], Sequence[Message]]
"""Returns the messages to send instead of the whole history."""

AsyncHistory = Callable[[Sequence[Message]], Sequence[Message] | Awaitable[Sequence[Message]]]
"""A `History`, or an async function of the same kind."""

Counter = Callable[[Message], int]
"""Counts the tokens of one message."""

ResultT = TypeVar("ResultT")

# OpenAI's rule of thumb is four characters of English. In bytes, characters of other scripts count
# more, as they do in tokens.
BYTES_PER_TOKEN = 4
# The role, and the tokens that begin and end a message.
TOKENS_PER_MESSAGE = 4
# OpenAI's documentation counts 765 and 1,105 tokens for its examples of images in full detail.
TOKENS_PER_PART = 1_000


# The usages of model calls that the current history function makes.
_SPENT: ContextVar[list[Usage]] = ContextVar("_spent")


class HistoryTail:
    """A `History` that sends the system messages and the end of a history.

    `first` returns the index of the first message to send, or 0 to send all of them. It chooses the
    same message, or a later one, if there are more messages before those that it gets. A server calls
    it with the last turns of a stored session, and reads earlier ones only if it returns 0.
    """

    __slots__ = ("_first",)

    def __init__(self, first: Callable[[Sequence[Message]], int]) -> None:
        self._first = first

    def __call__(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Return the messages to send."""
        place = self._first(messages)
        return from_turn(messages, place) if place else messages

    def start(self, messages: Sequence[Message]) -> int:
        """Return where the turn of the first message to send starts in the end of a history.

        Return 0 if earlier messages may be sent as well. The messages may begin within a turn.
        """
        starts = turn_starts(messages)[1:]  # the first may be in the middle of a turn
        if not starts:
            return 0
        place = self._first(messages[starts[0] :])
        return max(start for start in starts if start <= starts[0] + place) if place else 0


@contextmanager
def spending(spent: list[Usage]) -> Iterator[None]:
    """Collect the usages reported to `spend` within a `with` block."""
    token = _SPENT.set(spent)
    try:
        yield
    finally:
        _SPENT.reset(token)


def spend(usage: Usage) -> None:
    """Add a usage to the run whose history is being trimmed; no effect outside of one."""
    _SPENT.get([]).append(usage)


def last_turns(turns: int) -> HistoryTail:
    """Return a `history=` that sends the last `turns` whole turns, including the current one."""
    check_positive("turns", turns)

    def first(messages: Sequence[Message]) -> int:
        starts = turn_starts(messages)
        return starts[-turns] if len(starts) > turns else 0

    return HistoryTail(first)


def token_budget(tokens: int, *, count: Counter | None = None) -> HistoryTail:
    """Return a `history=` that sends the last whole turns that fit in `tokens`.

    System messages are sent as well, and count.

    `count` returns the tokens of a message and is called once per message; by default they are
    estimated by `estimate_tokens`. If the current turn alone is larger, it is sent alone. Leave room
    for the instructions, the tools and the answer, which are not counted.
    """
    check_positive("tokens", tokens)
    counted = once(count or estimate_tokens)
    return HistoryTail(lambda messages: first_fitting(messages, tokens, counted))


def estimate_tokens(message: Message) -> int:
    """Estimate the tokens of a message: one per four bytes of UTF-8, and 4 for the message itself.

    Counts text, and the names and arguments of calls. Each image, audio clip or file counts 1,000.
    """
    size = _content_bytes(message.content)
    if isinstance(message, AssistantMessage):
        size += sum(_bytes(call.name) + _bytes(call.arguments) for call in message.tool_calls)
    return TOKENS_PER_MESSAGE + math.ceil(size / BYTES_PER_TOKEN)


def leading_system(messages: Sequence[Message]) -> int:
    """Return the number of system messages before any other."""
    others = (i for i, m in enumerate(messages) if not isinstance(m, SystemMessage))
    return next(others, len(messages))


def from_turn(
    messages: Sequence[Message], cut: int, between: Sequence[Message] = ()
) -> list[Message]:
    """Return the system messages before `cut`, then `between`, then the messages from `cut` on."""
    system = [message for message in messages[:cut] if isinstance(message, SystemMessage)]
    return [*system, *between, *messages[cut:]]


def first_fitting(messages: Sequence[Message], tokens: int, count: Counter) -> int:
    """Return the index of the first message to send so that the last whole turns fit.

    All system messages count. The current turn always fits; messages before the first turn belong
    to it.
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
    """Cache the results of a function for as long as its messages live."""
    known: dict[int, tuple[weakref.ref[Message], ResultT]] = {}

    def known_or_called(message: Message) -> ResultT:
        key = id(message)
        if key not in known:
            # The result is dropped with the message: the id may be reused.
            forget = weakref.ref(message, lambda _: known.pop(key, None))
            known[key] = (forget, function(message))
        return known[key][1]

    return known_or_called


def checked(messages: Sequence[Message], *, source: str) -> Sequence[Message]:
    """Return the messages of a request; raise `ConversationError` if they are illegal.

    `source` is the code that chose them, for the error.
    """
    given: object = messages
    if not isinstance(given, Iterable) or isinstance(given, str | bytes | Mapping):
        kind = type(given).__name__
        raise TypeError(f"the messages of {source} are a {kind}, and not a list of messages")
    messages = given if isinstance(given, list | tuple) else list(given)
    try:
        next_role = Conversation(messages).next_role
    except TypeError as error:  # an entry is not a message
        raise TypeError(f"the messages of {source}: {error}") from None
    except ConversationError as error:
        said = str(error).removesuffix(REPAIR_HINT)
        error.args = (f"the messages of {source} are not a legal history: {said}",)
        raise
    if next_role is not Role.ASSISTANT:
        end = f"end at messages[{len(messages) - 1}]" if messages else "are none"
        raise ConversationError(
            f"the messages of {source} {end}, so the {next_role} is next and not the "
            "assistant; keep the messages that the model is to answer",
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
    """Raise `ValueError` unless a value is a whole number from 1."""
    if type(value) is not int or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")
