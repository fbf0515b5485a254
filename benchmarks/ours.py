"""This library as a contender: its reader alone, and its public async API."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager

from benchmarks.answers import Answer
from pathors_agent import AssistantMessage, AsyncAgent, AsyncResponse, AsyncTransport, Request, Tool
from pathors_agent.wire.response_stream import ResponseStream

# Client tools: the run stops at the calls, as the peers' streams do.
_TOOLS = [Tool(name=name) for name in ("write_report", *(f"lookup_{i}" for i in range(8)))]


def read(reads: Sequence[bytes]) -> Answer:
    """Read with the reader alone."""
    stream = ResponseStream()
    for data in reads:
        stream.feed(data)
    return answer_of(stream.finish())


class PublicAPI:
    """`AsyncAgent.stream`, on a transport that hands out what was prepared."""

    name = "pathors_agent"

    def __init__(self) -> None:
        self._transport = ReplayingTransport()
        self._agent = AsyncAgent(self._transport, model="m", tools=_TOOLS)

    async def read(self, reads: Sequence[bytes]) -> Answer:
        self._transport.reads = reads
        async with self._agent.stream("Hi") as stream:
            async for _ in stream:
                pass
        message = stream.result.messages[-1]
        assert isinstance(message, AssistantMessage)
        return answer_of(message)


class ReplayingTransport(AsyncTransport):
    """A transport whose every answer is `reads`."""

    def __init__(self) -> None:
        self.reads: Sequence[bytes] = ()

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncGenerator[AsyncResponse]:
        yield AsyncResponse(status=200, pieces=self._pieces())

    async def _pieces(self) -> AsyncIterator[bytes]:
        for data in self.reads:
            yield data


def answer_of(message: AssistantMessage) -> Answer:
    return Answer(message.text, tuple((c.name, c.arguments) for c in message.tool_calls))
