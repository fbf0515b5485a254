"""The whole agent in every way there is: four transports, each with and without retries."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from faults.case_server import CaseServer
from pathors_agent.agents.agent import Agent, AsyncAgent
from pathors_agent.core.conversation import Conversation
from pathors_agent.core.limits import Limits
from pathors_agent.errors import AgentError
from pathors_agent.messages import Message
from pathors_agent.tools.signature import ToolContext
from pathors_agent.tools.tool import tool
from pathors_agent.transports.aiohttp import AiohttpTransport
from pathors_agent.transports.base import AsyncTransport, Transport
from pathors_agent.transports.http import AsyncHTTPTransport, HTTPTransport, Timeouts
from pathors_agent.transports.retry import AsyncRetryingTransport, RetryingTransport

KEY = "sk_faults_0123456789"
ATTEMPTS = 4

_WAITS: ContextVar[list[float]] = ContextVar("waits")


@dataclass
class Seen:
    """What became of one run."""

    output: str | None
    error: AgentError | None
    seconds: float
    conversation: Conversation
    waits: list[float]
    tool_runs: list[str]
    requests: int = 0

    @property
    def history(self) -> tuple[Message, ...]:
        return self.conversation.messages

    @property
    def roles(self) -> list[str]:
        return [message.role for message in self.history]

    @property
    def raised(self) -> AgentError:
        assert self.error is not None, self.output
        return self.error


@dataclass(frozen=True)
class Client:
    """Runs agents by one transport; whatever is no error of the library's passes, and fails."""

    way: str
    retrying: bool

    @property
    def attempts(self) -> int:
        return ATTEMPTS if self.retrying else 1

    def run(self, server: CaseServer, case: str, **settings: Any) -> Seen:
        """Run an agent with the case as its prompt."""
        return self.run_all(server, [case], **settings)[0]

    def run_all(
        self,
        server: CaseServer,
        cases: Sequence[str],
        *,
        together: int = 1,
        url: str | None = None,
        timeouts: Timeouts | None = None,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.time,
    ) -> list[Seen]:
        """Run an agent for each case, so many at once."""
        transport: dict[str, Any] = {
            "base_url": url or server.url,
            "api_key": KEY,
            "timeouts": timeouts or Timeouts(),
        }
        if self.way == "blocking":
            seen = self._blocking(transport, cases, together, limits, clock)
        else:
            backend = "trio" if self.way == "trio" else "asyncio"
            seen = anyio.run(
                self._async, transport, cases, together, limits, clock, backend=backend
            )
        for case, one in zip(cases, seen, strict=True):
            one.requests = server.count[case]
        return seen

    def _blocking(
        self,
        settings: dict[str, Any],
        cases: Sequence[str],
        together: int,
        limits: Limits | None,
        clock: Callable[[], float],
    ) -> list[Seen]:
        plain = HTTPTransport(retries=0, **settings)
        transport: Transport = plain
        if self.retrying:
            transport = RetryingTransport(plain, attempts=ATTEMPTS, sleep=_sleep, clock=clock)
        with plain, ThreadPoolExecutor(together) as threads:
            agent = Agent(transport, tools=[look], limits=limits)
            return list(threads.map(lambda case: _seen(agent, case), cases))

    async def _async(
        self,
        settings: dict[str, Any],
        cases: Sequence[str],
        together: int,
        limits: Limits | None,
        clock: Callable[[], float],
    ) -> list[Seen]:
        make = AiohttpTransport if self.way == "aiohttp" else AsyncHTTPTransport
        seen: dict[str, Seen] = {}
        async with make(retries=0, **settings) as plain:
            transport: AsyncTransport = plain
            if self.retrying:
                transport = AsyncRetryingTransport(
                    plain, attempts=ATTEMPTS, sleep=_sleep_async, clock=clock
                )
            agent = AsyncAgent(transport, tools=[look_async], limits=limits)
            places = anyio.Semaphore(together)

            async def one(case: str) -> None:
                async with places:
                    seen[case] = await _seen_async(agent, case)

            async with anyio.create_task_group() as tasks:
                for case in cases:
                    tasks.start_soon(one, case)
        return [seen[case] for case in cases]


def _sleep(seconds: float) -> None:
    _WAITS.get().append(seconds)


async def _sleep_async(seconds: float) -> None:
    await checkpoint()
    _sleep(seconds)


@tool
def look(ctx: ToolContext[list[str]], city: str) -> str:
    """Say the weather of a city; the run's context counts the calls."""
    ctx.context.append(city)
    return "rain"


@tool(name="look")
async def look_async(ctx: ToolContext[list[str]], city: str) -> str:
    """As `look`."""
    return look(ctx, city)


def _seen(agent: Agent[str], case: str) -> Seen:
    """Run an agent; note what came of it."""
    seen = Seen(None, None, time.monotonic(), Conversation(), [], [])
    _WAITS.set(seen.waits)
    try:
        result = agent.run(case, conversation=seen.conversation, context=seen.tool_runs)
        seen.output = result.output
    except AgentError as error:
        seen.error = error
    seen.seconds = time.monotonic() - seen.seconds
    return seen


async def _seen_async(agent: AsyncAgent[str], case: str) -> Seen:
    seen = Seen(None, None, time.monotonic(), Conversation(), [], [])
    _WAITS.set(seen.waits)
    try:
        result = await agent.run(case, conversation=seen.conversation, context=seen.tool_runs)
        seen.output = result.output
    except AgentError as error:
        seen.error = error
    seen.seconds = time.monotonic() - seen.seconds
    return seen


CLIENTS = [
    Client(way, retrying)
    for way in ("blocking", "asyncio", "trio", "aiohttp")
    for retrying in (False, True)
]

with_each_client = pytest.mark.parametrize(
    "client", CLIENTS, ids=[f"{c.way}{'-retrying' * c.retrying}" for c in CLIENTS]
)
