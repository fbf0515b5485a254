"""Repeat a run from its log, and find the first difference."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from pathors_agent.agents.agent import Agent, AsyncAgent
from pathors_agent.agents.result import RunResult
from pathors_agent.core.conversation import Conversation, Role
from pathors_agent.errors import Difference, ReplayDifference, TransportError
from pathors_agent.history.loading import load_stored
from pathors_agent.messages import (
    AssistantMessage,
    JSONValue,
    Message,
    ToolMessage,
    UserMessage,
    write_message,
)
from pathors_agent.testing.expectations import transcript
from pathors_agent.testing.script import Entry, raw
from pathors_agent.testing.scripted_transport import AsyncPlayerTransport, Player, PlayerTransport
from pathors_agent.testing.tape import differences
from pathors_agent.transports.base import AsyncTransport, Transport
from pathors_agent.wire.completion_bytes import plain_body
from pathors_agent.wire.profiles import DEFAULT_PROFILE, EndpointProfile

Log = str | bytes | RunResult[Any] | Conversation | Iterable[Message]
"""A run's messages, or the text that `dump_messages` made of them."""


# The session of a log that names none, for endpoints that keep the history.
_NO_SESSION = "replayed"


class _LogEnds(TransportError):
    """The log holds no answer to this request."""

    def __init__(self) -> None:
        super().__init__("the log ends here", retryable=False)


def replay(
    log: Log,
    make: Callable[[Transport], Agent[Any]],
    *,
    requests: Sequence[bytes] = (),
    profile: EndpointProfile = DEFAULT_PROFILE,
    context: object = None,
) -> list[bytes]:
    """Repeat a run: its answers come from the log, its tools and requests run again.

    `make` returns the agent for a transport. Each request must equal, byte for byte, the request that
    the agent builds from the log's messages, or the one in `requests` if the requests were kept.
    Raises `ReplayDifference` with the first difference. Client tools, and calls that waited for
    approval, get their results from the log. Returns the requests.
    """
    replaying = _Replay(log, requests, profile)
    for history in replaying.histories():
        probe = _Model(_no_answer, profile)
        with suppress(_LogEnds):
            make(probe).run(conversation=history, context=context)
        replaying.expect(history, probe)
    while replaying.goes_on():
        model = _Model(replaying.answer, profile)
        with suppress(_LogEnds):
            make(model).run(conversation=replaying.conversation, context=context)
    return replaying.finish()


async def replay_async(
    log: Log,
    make: Callable[[AsyncTransport], AsyncAgent[Any]],
    *,
    requests: Sequence[bytes] = (),
    profile: EndpointProfile = DEFAULT_PROFILE,
    context: object = None,
) -> list[bytes]:
    """As `replay`, with an `AsyncAgent`."""
    replaying = _Replay(log, requests, profile)
    for history in replaying.histories():
        probe = _AsyncModel(_no_answer, profile)
        with suppress(_LogEnds):
            await make(probe).run(conversation=history, context=context)
        replaying.expect(history, probe)
    while replaying.goes_on():
        model = _AsyncModel(replaying.answer, profile)
        with suppress(_LogEnds):
            await make(model).run(conversation=replaying.conversation, context=context)
    return replaying.finish()


class _Replay:
    """A log, and the part of it that was repeated."""

    def __init__(self, log: Log, requests: Sequence[bytes], profile: EndpointProfile) -> None:
        self.conversation = Conversation()
        if isinstance(log, RunResult):
            log = log.conversation
        if isinstance(log, Conversation):
            self.conversation = Conversation(session_id=log.session_id, id=log.id)
            log = log.messages
        self._log = load_stored(log) if isinstance(log, str | bytes) else list(log)
        if profile.sends == "new_messages" and self.conversation.session_id is None:
            self.conversation.session_id = _NO_SESSION  # a run of such an endpoint needs a session
        self._kept = list(requests)
        self._expected: dict[int, bytes] = {}
        self._requests: list[bytes] = []
        Conversation(self._log)  # raises if the log is not legal

    def histories(self) -> Iterator[Conversation]:
        """Return the prefixes of the log after which the model was called."""
        for place, message in enumerate(self._log if not self._kept else ()):
            history = Conversation(self._log[:place], session_id=self.conversation.session_id)
            if isinstance(message, AssistantMessage) and history.next_role is Role.ASSISTANT:
                yield history

    def expect(self, history: Conversation, probe: Player) -> None:
        """Keep the request that an agent builds from a part of the log."""
        if probe.sent:
            self._expected[len(history)] = probe.sent[0].body

    def goes_on(self) -> bool:
        """Replay the log's next prompt; return False if nothing is left to run."""
        before = len(self.conversation)
        self._take_results()
        self._check_messages(len(self.conversation))
        while self._next_is_said():
            self.conversation.append(self._log[len(self.conversation)])
        return before < len(self.conversation)

    def _take_results(self) -> None:
        """Record the results of calls that the caller ran, from the log."""
        logged = {m.tool_call_id: m for m in self._log if isinstance(m, ToolMessage)}
        for call in self.conversation.open_calls:
            if call.id in logged:
                self.conversation.append(logged[call.id])

    def _next_is_said(self) -> bool:
        """Return True if the log continues with a user or system message, or with a greeting."""
        place = len(self.conversation)
        if place >= len(self._log) or self.conversation.next_role is Role.TOOL:
            return False
        is_answer = self._log[place].role == "assistant"
        return not is_answer or self.conversation.next_role is Role.USER

    def answer(self, body: bytes) -> Entry:
        """Compare a request with the log, and return the log's answer to it."""
        place, number = len(self.conversation), len(self._requests)
        self._requests.append(body)
        expected = self._expected.get(place)
        if self._kept:
            expected = self._kept[number] if number < len(self._kept) else None
        if expected is not None and body != expected:
            raise self._differs(number + 1, expected, body)
        answer = self._log[place] if place < len(self._log) else None
        if not isinstance(answer, AssistantMessage):
            raise _LogEnds
        return raw(_completion(answer))

    def _differs(self, number: int, before: bytes, now: bytes) -> ReplayDifference:
        found = next(differences(json.loads(before), json.loads(now)), None)
        found = found or _of_bytes(before, now)
        shown = transcript(self.conversation.messages)
        return ReplayDifference(
            f"request {number} differs in {found}\nThe run so far:\n{shown}",
            request=number,
            difference=found,
        )

    def finish(self) -> list[bytes]:
        """Return the requests; raise `ReplayDifference` if the messages differ from the log."""
        self._check_messages(len(self._log))
        return self._requests

    def _check_messages(self, count: int) -> None:
        logged = list(map(_compared, self._log[:count]))
        # The run continues beyond a log that ends within a batch of calls.
        now = list(map(_compared, self.conversation.messages[: len(self._log)]))
        found = next(differences(logged, now), None)
        if found is not None:
            shown = transcript(self.conversation.messages)
            raise ReplayDifference(
                f"the messages differ: {found}\nThe run now:\n{shown}",
                request=None,
                difference=found,
            )


def _compared(message: Message) -> dict[str, JSONValue]:
    """Return the fields of a message that must be equal; answers come from the log."""
    if isinstance(message, AssistantMessage):
        return {"role": message.role, "tool_calls": [call.name for call in message.tool_calls]}
    if isinstance(message, UserMessage | ToolMessage):
        return write_message(message)
    return {"role": message.role, "content": message.text}


def _of_bytes(before: bytes, now: bytes) -> Difference:
    """Return the first difference of bodies that are equal as JSON, such as another order of keys."""
    pairs = zip(before, now, strict=False)
    at = next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(before), len(now)))
    near = slice(max(0, at - 20), at + 20)
    return Difference(f"byte {at}", repr(before[near]), repr(now[near]))


def _completion(message: AssistantMessage) -> bytes:
    """Return an answer as a completion, with the extra fields of the log."""
    body = json.loads(plain_body(message))
    [choice] = body["choices"]
    choice["message"] |= {k: v for k, v in message.extra.items() if k not in choice["message"]}
    for name in ("id", "model"):
        if getattr(message, name) is None:
            del body[name]
    return json.dumps(body if message.usage else {**body, "usage": None}).encode()


class _Decided(Player):
    """Answers each request as a function of its body decides."""

    def __init__(self, decide: Callable[[bytes], Entry], profile: EndpointProfile) -> None:
        super().__init__(cut=None, profile=profile)
        self._decide = decide

    def _entry(self, number: int, body: Mapping[str, Any]) -> Entry:
        return self._decide(self.sent[-1].body)


class _Model(_Decided, PlayerTransport):
    pass


class _AsyncModel(_Decided, AsyncPlayerTransport):
    pass


def _no_answer(_body: bytes) -> Entry:
    raise _LogEnds
