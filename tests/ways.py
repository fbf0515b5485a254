"""Run an agent in each way there is: blocking, on asyncio, on trio."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest

from pathors_agent.agents.agent import Agent, AsyncAgent
from pathors_agent.agents.approvals import Decision
from pathors_agent.agents.result import RunResult
from pathors_agent.agents.stream import AsyncRunStream, RunStream
from pathors_agent.core.conversation import Conversation
from pathors_agent.history.loading import Prompt
from pathors_agent.messages import Message
from pathors_agent.testing import AsyncScriptedTransport, Entry, ScriptedTransport
from pathors_agent.transports.base import Request
from pathors_agent.wire.deltas import Delta
from pathors_agent.wire.profiles import DEFAULT_PROFILE, EndpointProfile

WAYS = ("blocking", "asyncio", "trio")

Act = Callable[[int, RunStream[Any] | AsyncRunStream[Any]], None]
"""Called with the number of items that came and the stream, before each next item is read."""


@dataclass
class Way:
    """Runs agents on scripted models; what was yielded and sent is kept."""

    name: str
    items: list[Delta | Message] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    sent: list[Request] = field(default_factory=list)

    def run(
        self,
        *script: Entry,
        prompt: Prompt | None = None,
        conversation: Conversation | None = None,
        session_id: str | None = None,
        context: object = None,
        decisions: Sequence[Decision] = (),
        profile: EndpointProfile = DEFAULT_PROFILE,
        cut: int | None = None,
        **settings: Any,
    ) -> RunResult[Any]:
        """Run an agent with these settings through a script."""
        call: dict[str, Any] = {
            "conversation": conversation,
            "session_id": session_id,
            "context": context,
            "decisions": decisions,
        }
        transport = self._transport(script, profile, cut)
        if isinstance(transport, ScriptedTransport):
            return Agent(transport, **settings).run(prompt, **call)
        return self.on_loop(lambda: AsyncAgent(transport, **settings).run(prompt, **call))

    def stream(
        self,
        *script: Entry,
        prompt: Prompt | None = None,
        conversation: Conversation | None = None,
        stop_after: int | None = None,
        act: Act | None = None,
        cut: int | None = None,
        **settings: Any,
    ) -> RunResult[Any]:
        """As `run`, streamed into `items`; leave the stream by a `break` after so many items."""
        self._act = act or (lambda count, stream: None)
        transport = self._transport(script, DEFAULT_PROFILE, cut)
        if isinstance(transport, AsyncScriptedTransport):
            agent = AsyncAgent(transport, **settings)
            return self.on_loop(lambda: self._follow(agent, prompt, conversation, stop_after))
        with Agent(transport, **settings).stream(prompt, conversation=conversation) as stream:
            self._act(0, stream)
            for item in stream:
                self.items.append(item)
                self._act(len(self.items), stream)
                if len(self.items) == stop_after:
                    break
        return stream.result

    async def _follow(
        self,
        agent: AsyncAgent[Any],
        prompt: Prompt | None,
        conversation: Conversation | None,
        stop_after: int | None,
    ) -> RunResult[Any]:
        async with agent.stream(prompt, conversation=conversation) as stream:
            self._act(0, stream)
            async for item in stream:
                self.items.append(item)
                self._act(len(self.items), stream)
                if len(self.items) == stop_after:
                    break
        return stream.result

    def on_loop(self, function: Callable[[], Awaitable[RunResult[Any]]]) -> RunResult[Any]:
        """Run an async function on this way's event loop."""

        async def main() -> RunResult[Any]:
            return await function()

        return anyio.run(main, backend=self.name)

    def _transport(
        self, script: Sequence[Entry], profile: EndpointProfile, cut: int | None
    ) -> ScriptedTransport | AsyncScriptedTransport:
        kind = ScriptedTransport if self.name == "blocking" else AsyncScriptedTransport
        transport = kind(*script, profile=profile, cut=cut)
        self.requests, self.sent = transport.requests, transport.sent
        return transport


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    """Return each way to run an agent."""
    return Way(request.param)
