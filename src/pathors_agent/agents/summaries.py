"""Send a summary, written by a model, instead of the turns that no longer fit."""

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
from pathors_agent.messages import (
    AssistantMessage,
    Message,
    SystemMessage,
    ToolMessage,
    UserMessage,
    write_message,
)
from pathors_agent.schema.bounds import cut

# Summaries kept in this process, about 2 KB each.
MAX_KEPT = 1_000
# About 500 tokens: longer messages are files and pages, whose beginnings are enough.
MAX_MESSAGE_CHARACTERS = 2_000

ASKING = """\
Summarise the conversation below so that another assistant can continue it: the goal, what was found
out, decided and done, with names, numbers and identifiers, and what is still open. Write the summary
and nothing else."""
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
    """Return a `history=` that sends a summary of the first turns of a history over `tokens`.

    `agent` writes the summary and needs no tools; for an `AsyncAgent` it may be an `AsyncAgent`.
    The current turn and the last turns that fit into half of `tokens` are sent unchanged, so that
    many requests can follow before the next summary. Summaries are cached in memory by the history
    that they replace; their tokens count to the `usage` of the run that needed them.
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
    """A prompt that requests a summary of a prefix of a history, and the digest of the prefix."""

    digest: bytes
    prompt: str


class _Summaries:
    """The cached summaries, by the digest of the prefix that they replace."""

    def __init__(self, tokens: int, count: Counter | None) -> None:
        check_positive("tokens", tokens)
        self._tokens = tokens
        self._count = once(count or estimate_tokens)
        self._digest = once(_digest)
        self._kept: dict[bytes, SystemMessage] = {}
        self._lock = Lock()  # agents may run in several threads

    def question(self, messages: Sequence[Message]) -> _Question | None:
        """Return the summary to request before these messages are sent, or None."""
        if self._fits(self.sent(messages)):
            return None
        place = first_fitting(messages, self._tokens // 2, self._count)
        known, summary = self._known(messages)
        if place <= known:
            return None
        [*_, (_, digest)] = self._beginnings(messages, place)
        return _Question(digest, _prompt(summary, messages[known:place]))

    def keep(self, question: _Question, answer: RunResult) -> None:
        """Cache a summary, and evict the oldest one if there are too many."""
        spend(answer.usage)
        summary = SystemMessage(content=f"{HEADING}\n{answer.output}")
        with self._lock:
            self._kept[question.digest] = summary
            while len(self._kept) > MAX_KEPT:
                del self._kept[next(iter(self._kept))]

    def sent(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Return the messages to send, with the longest cached summary instead of its prefix."""
        if self._fits(messages):
            return messages
        place, summary = self._known(messages)
        return messages if summary is None else from_turn(messages, place, [summary])

    def _fits(self, messages: Sequence[Message]) -> bool:
        return first_fitting(messages, self._tokens, self._count) == 0

    def _known(self, messages: Sequence[Message]) -> tuple[int, SystemMessage | None]:
        """Return the longest prefix with a cached summary: its length and its summary."""
        known: tuple[int, SystemMessage | None] = (0, None)
        for place, digest in self._beginnings(messages, len(messages)):
            if summary := self._kept.get(digest):
                known = place, summary
        return known

    def _beginnings(self, messages: Sequence[Message], end: int) -> list[tuple[int, bytes]]:
        """Return where turns begin, up to `end`, and the digest of the messages before each."""
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
    return hashlib.blake2b(write_json(write_message(message)), digest_size=16).digest()


def _prompt(summary: SystemMessage | None, messages: Sequence[Message]) -> str:
    said = [line for message in messages for line in _lines(message)]
    before = [summary.text] if summary else []
    return "\n\n".join([ASKING, *before, "\n".join(["The conversation:", *said])])


def _lines(message: Message) -> list[str]:
    """Return a message as lines of a transcript; system messages are sent separately."""
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
        case UserMessage():
            return [f"user: {text}"]
