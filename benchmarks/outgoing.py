"""T13: what a request with a long history costs before its first byte leaves.

The clock runs from the call of the public function to the moment when the request, ready to be
written, reaches the transport of the HTTP library; no answer is read within it. The history was
sent before, as in any conversation, but for its last message, which is new in every request.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from time import process_time
from typing import Any

import httpx2

from benchmarks import corpora
from benchmarks.peers import MODEL, openai_client
from benchmarks.replay import BASE_URL, Replay, replaying_client
from benchmarks.results import Measured, Row, Settings
from benchmarks.rounds import Clocked, Contender, measure
from pathors_agent import (
    AssistantMessage,
    AsyncAgent,
    AsyncHTTPTransport,
    Conversation,
    Request,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from pathors_agent.messages import Message
from pathors_agent.wire.chat_completions import RequestTemplate

NAME = "outgoing"

AGENT = "AsyncAgent.run"
TRANSPORT = "RequestTemplate.encode, AsyncHTTPTransport.send"
CREATE = "openai create"
PROMPT = "And what came of it?"
ANSWER = corpora.reads(corpora.openai_text(1), None)
# One takes 100 microseconds, most of it with cold caches after the collection before a run.
REQUESTS_A_RUN = 20

Messages = list[dict[str, Any]]
Sent = Clocked[Messages]
"""The messages of the last request, and the CPU seconds of all."""


def run(settings: Settings) -> Measured:
    measured = Measured()
    with asyncio.Runner() as runner:
        try:
            measured.rows += _beside_openai(settings, runner)
        except ImportError as error:
            measured.skipped.append(f"{CREATE} with 101 messages: {error}")
        measured.rows += _growth(settings, runner)
    return measured


def _beside_openai(settings: Settings, runner: asyncio.Runner) -> list[Row]:
    history = list(_history(100))
    create = Create(history)
    senders = {AGENT: AgentRun(history), TRANSPORT: TransportSend(history), CREATE: create}
    timings = measure(
        "a request with 101 messages",
        _runs_of(runner, senders),
        rounds=settings.rounds,
        check=lambda got: got == create.messages,
    )
    micro = {name: timings.median(name) / REQUESTS_A_RUN * 1e6 for name in senders}
    return [
        Row(
            "T13",
            f"openai create ({micro[CREATE]:.0f} us) / {name} ({micro[name]:.0f} us), 101 messages",
            timings.ratio(CREATE, name),
            200,
            at_least=True,
        )
        for name in (AGENT, TRANSPORT)
    ]


def _growth(settings: Settings, runner: asyncio.Runner) -> list[Row]:
    rows = []
    for kind in (AgentRun, TransportSend):
        senders = {str(n): kind(list(_history(n - 1))) for n in (1, 101, 401)}
        timings = measure(
            "requests with 1 to 401 messages",
            _runs_of(runner, senders),
            rounds=settings.rounds_of_fast,
            check=lambda got: got[-1]["content"] == PROMPT,
        )
        for length, target, goal in (("101", "-", None), ("401", "T13", 1.3)):
            what = f"{kind.name}: {length} messages / 1"
            rows.append(Row(target, what, timings.ratio(length, "1"), goal))
    return rows


def _runs_of(
    runner: asyncio.Runner, senders: Mapping[str, "Sender"]
) -> dict[str, Contender[Messages]]:
    return {name: partial(_run, runner, sender) for name, sender in senders.items()}


def _run(runner: asyncio.Runner, sender: "Sender") -> Sent:
    return runner.run(sender.send_several())


def _history(length: int) -> Iterator[Message]:
    """So many messages, the first a user's: questions, calls, results, answers in turn."""
    for i in range(length):
        text = f"Message {i}: the quick brown fox jumps over the lazy dog. " * 4
        call = ToolCall(id=f"call_{i:024d}", name="look_up", arguments=json.dumps({"at": text}))
        kinds: list[Message] = [
            UserMessage(content=text),
            AssistantMessage(content=None, tool_calls=(call,), finish_reason="tool_calls"),
            ToolMessage(tool_call_id=f"call_{i - 1:024d}", content=text),
            AssistantMessage(content=text, finish_reason="stop"),
        ]
        yield kinds[i % 4]


class Sender:
    """A way to send a history and a new prompt."""

    name: str

    def __init__(self, history: list[Message]) -> None:
        self.replay = Replay()
        self.replay.reads = ANSWER
        self.history = history

    def prepared(self) -> Callable[[], Awaitable[object]]:
        """Give what is to be clocked, with its input made ready."""
        raise NotImplementedError

    async def send_several(self) -> Sent:
        seconds = 0.0
        # All made ready first: a conversation of 400 messages, made in between, would leave nothing
        # of a request's code in the processor's caches, and one of 1 message all of it.
        for send in [self.prepared() for _ in range(REQUESTS_A_RUN)]:
            started = process_time()
            await send()
            seconds += self.replay.asked_at - started
        return Clocked(json.loads(self.replay.body)["messages"], seconds)

    def http_transport(self) -> AsyncHTTPTransport:
        client = replaying_client(httpx2, self.replay)
        return AsyncHTTPTransport(BASE_URL, api_key="none", client=client)


class AgentRun(Sender):
    """The whole way: a prompt, the conversation, the run, the request, httpx2."""

    name = AGENT

    def __init__(self, history: list[Message]) -> None:
        super().__init__(history)
        self._agent = AsyncAgent(self.http_transport(), model=MODEL)

    def prepared(self) -> Callable[[], Awaitable[object]]:
        conversation = Conversation(self.history)
        return lambda: self._agent.run(PROMPT, conversation=conversation)


class TransportSend(Sender):
    """What openai's `create` does: a request's messages, the request, httpx2."""

    name = TRANSPORT

    def __init__(self, history: list[Message]) -> None:
        super().__init__(history)
        self._transport = self.http_transport()
        self._template = RequestTemplate(model=MODEL)

    def prepared(self) -> Callable[[], Awaitable[object]]:
        messages = [*self.history, UserMessage(content=PROMPT)]
        return lambda: self._send(messages)

    async def _send(self, messages: list[Message]) -> None:
        request = Request(body=self._template.encode(messages))
        async with self._transport.send(request) as response:
            async for _ in response.pieces:
                pass


class Create(Sender):
    """openai's `create(stream=True)`."""

    name = CREATE

    def __init__(self, history: list[Message]) -> None:
        super().__init__(history)
        self._client = openai_client(self.replay)
        body = RequestTemplate().encode([*history, UserMessage(content=PROMPT)])
        self.messages: Messages = json.loads(body)["messages"]

    def prepared(self) -> Callable[[], Awaitable[object]]:
        return self._send

    async def _send(self) -> None:
        stream = await self._client.chat.completions.create(
            model=MODEL, messages=self.messages, stream=True, stream_options={"include_usage": True}
        )
        async for _ in stream:
            pass
