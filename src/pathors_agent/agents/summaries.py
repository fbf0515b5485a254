"""Send a summary, which a model writes, in the place of the turns that no longer fit."""

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import overload

from pathors_agent.agents.agent import Agent, AsyncAgent
from pathors_agent.agents.result import RunResult
from pathors_agent.core.conversation import turn_starts
from pathors_agent.history.trim import (
    Counter,
    History,
    check_positive,
    estimate_tokens,
    first_fitting,
    from_turn,
    once,
    spend,
)
from pathors_agent.json_text import write_json
from pathors_agent.messages import AssistantMessage, Message, SystemMessage, ToolMessage
from pathors_agent.schema.arguments import cut
from pathors_agent.wire.messages import dump_message

# As many conversations at once keep their summaries in this process; one has about 2 KB.
MAX_KEPT = 1_000
# About 500 tokens: longer messages are files and pages, whose beginnings say what they are.
MAX_MESSAGE_CHARACTERS = 2_000

ASKING = """\
Summarise the conversation below for whoever goes on with it: what is wanted, what was found out,
decided and done, with its names, numbers and identifiers, and what is still open. Write the
summary and nothing else."""
HEADING = "Summary of the conversation so far:"


@overload
def summarized(agent: Agent, *, tokens: int, count: Counter | None = None) -> History: ...
@overload
def summarized(
    agent: AsyncAgent, *, tokens: int, count: Counter | None = None
) -> Callable[[Sequence[Message]], Awaitable[Sequence[Message]]]: ...
def summarized(
    agent: Agent | AsyncAgent, *, tokens: int, count: Counter | None = None
) -> Callable[[Sequence[Message]], Sequence[Message] | Awaitable[Sequence[Message]]]:
    """Send a summary in the place of the first turns, once the history is over `tokens`.

    `agent`, which needs no tools, writes it; `AsyncAgent` takes one that an `AsyncAgent` writes.
    The last turns that fit in half of `tokens` stay as they are, the current one always, so that
    many requests pass before the next summary. Each is kept in memory, for the same history; its
    tokens are counted in the `usage` of the run that needed it.
    """
    summaries = _Summaries(tokens, count)

    def history(messages: Sequence[Message]) -> Sequence[Message]:
        assert isinstance(agent, Agent)
        if question := summaries.question(messages):
            summaries.keep(question, agent.run(question.prompt))
        return summaries.sent(messages)

    async def history_async(messages: Sequence[Message]) -> Sequence[Message]:
        assert isinstance(agent, AsyncAgent)
        if question := summaries.question(messages):
            summaries.keep(question, await agent.run(question.prompt))
        return summaries.sent(messages)

    return history if isinstance(agent, Agent) else history_async


@dataclass(frozen=True, slots=True)
class _Question:
    """What a model is to summarise: everything before a place, known by its digest."""

    digest: bytes
    prompt: str


class _Summaries:
    """The summaries of beginnings of histories, by what those hold."""

    def __init__(self, tokens: int, count: Counter | None) -> None:
        check_positive("tokens", tokens)
        self._tokens = tokens
        self._count = once(count or estimate_tokens)
        self._digest = once(_digest)
        self._kept: dict[bytes, SystemMessage] = {}
        self._lock = Lock()  # agents may run in several threads

    def question(self, messages: Sequence[Message]) -> _Question | None:
        """Say what is to be summarised before these messages are sent, or None."""
        if self._fits(self.sent(messages)):
            return None
        place = first_fitting(messages, self._tokens // 2, self._count)
        known, summary = self._known(messages)
        if place <= known:
            return None
        [*_, (_, digest)] = self._beginnings(messages, place)
        return _Question(digest, _prompt(summary, messages[known:place]))

    def keep(self, question: _Question, answer: RunResult) -> None:
        """Keep a summary, and forget the oldest of too many."""
        spend(answer.usage)
        summary = SystemMessage(content=f"{HEADING}\n{answer.output}")
        with self._lock:
            self._kept[question.digest] = summary
            while len(self._kept) > MAX_KEPT:
                del self._kept[next(iter(self._kept))]

    def sent(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Give the messages with what is known put in the place of their beginning."""
        if self._fits(messages):
            return messages
        place, summary = self._known(messages)
        return messages if summary is None else from_turn(messages, place, [summary])

    def _fits(self, messages: Sequence[Message]) -> bool:
        return first_fitting(messages, self._tokens, self._count) == 0

    def _known(self, messages: Sequence[Message]) -> tuple[int, SystemMessage | None]:
        """Find the longest beginning whose summary is known, and where it ends."""
        known: tuple[int, SystemMessage | None] = (0, None)
        for place, digest in self._beginnings(messages, len(messages)):
            if summary := self._kept.get(digest):
                known = place, summary
        return known

    def _beginnings(self, messages: Sequence[Message], end: int) -> list[tuple[int, bytes]]:
        """Give the places where turns begin, up to one, and digests of what is before them."""
        whole = hashlib.blake2b(digest_size=16)
        places = []
        before = 0
        for place in (start for start in turn_starts(messages) if start <= end):
            for message in messages[before:place]:
                whole.update(self._digest(message))
            places.append((place, whole.digest()))
            before = place
        return places


def _digest(message: Message) -> bytes:
    return hashlib.blake2b(write_json(dump_message(message)), digest_size=16).digest()


def _prompt(summary: SystemMessage | None, messages: Sequence[Message]) -> str:
    said = [line for message in messages for line in _lines(message)]
    before = [summary.text] if summary else []
    return "\n\n".join([ASKING, *before, "\n".join(["The conversation:", *said])])


def _lines(message: Message) -> list[str]:
    """Write a message down as it is read aloud; system messages are sent as they are."""
    text = cut(message.text, MAX_MESSAGE_CHARACTERS)
    match message:
        case SystemMessage():
            return []
        case ToolMessage():
            return [f"result: {text}"]
        case AssistantMessage():
            calls = (cut(c.arguments, MAX_MESSAGE_CHARACTERS) for c in message.tool_calls)
            names = (call.name for call in message.tool_calls)
            asked = [f"assistant calls {n}: {a}" for n, a in zip(names, calls, strict=True)]
            return ([f"assistant: {text}"] if text else []) + asked
        case _:
            return [f"user: {text}"]
