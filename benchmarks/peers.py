"""Other clients as contenders, each with its HTTP replayed below its own HTTP library.

A peer that is not installed, or no longer works as written here, is left out, with the reason.
"""

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any, ClassVar

from benchmarks.answers import Answer, Gathering, take
from benchmarks.replay import BASE_URL, Replay, replaying_client

MODEL = "gpt-4.1-mini"
_TEXT_DELTA = "response.output_text.delta"


class Peer(ABC):
    """A reader of streamed chat completions: another library, by its public API."""

    name: ClassVar[str]
    reads_calls: ClassVar[bool] = True

    @abstractmethod
    async def read(self, reads: Sequence[bytes]) -> Answer: ...


class OpenAICreate(Peer):
    """openai: `create(stream=True)`, chunks gathered by hand."""

    name = "openai create"

    def __init__(self) -> None:
        self._replay = Replay()
        self._client = openai_client(self._replay)

    async def read(self, reads: Sequence[bytes]) -> Answer:
        self._replay.reads = reads
        gathering = Gathering()
        stream = await self._client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "Hi"}], stream=True
        )
        async for chunk in stream:
            take_objects(chunk.choices, gathering)
        return gathering.answer()


class OpenAIStream(Peer):
    """openai: the `.stream()` helper, which gathers by itself."""

    name = "openai .stream()"

    def __init__(self) -> None:
        self._replay = Replay()
        self._client = openai_client(self._replay)

    async def read(self, reads: Sequence[bytes]) -> Answer:
        self._replay.reads = reads
        async with self._client.chat.completions.stream(
            model=MODEL, messages=[{"role": "user", "content": "Hi"}]
        ) as stream:
            async for _ in stream:
                pass
            message = (await stream.get_final_completion()).choices[0].message
        calls = ((c.function.name, c.function.arguments) for c in message.tool_calls or ())
        return Answer(message.content or "", tuple(calls))


class HttpxSSE(Peer):
    """httpx-sse and json.loads, chunks gathered by hand."""

    name = "httpx-sse + json"

    def __init__(self) -> None:
        self._connect = import_module("httpx_sse").aconnect_sse
        self._replay = Replay()
        self._client = replaying_client(import_module("httpx"), self._replay)

    async def read(self, reads: Sequence[bytes]) -> Answer:
        self._replay.reads = reads
        gathering = Gathering()
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "stream": True}
        async with self._connect(self._client, "POST", BASE_URL, json=body) as source:
            async for event in source.aiter_sse():
                if event.data != "[DONE]":
                    take(json.loads(event.data)["choices"], gathering)
        return gathering.answer()


class LangChain(Peer):
    """langchain-openai: `astream`, chunks gathered by hand (their own sum is slower)."""

    name = "langchain-openai"

    def __init__(self) -> None:
        self._replay = Replay()
        self._messages = [import_module("langchain_core.messages").HumanMessage("Hi")]
        self._model = import_module("langchain_openai").ChatOpenAI(
            model=MODEL,
            api_key="none",
            base_url=BASE_URL,
            http_async_client=replaying_client(openai_http(), self._replay),
            stream_usage=False,
            max_retries=0,
        )

    async def read(self, reads: Sequence[bytes]) -> Answer:
        self._replay.reads = reads
        gathering = Gathering()
        async for chunk in self._model.astream(self._messages):
            if chunk.content:
                gathering.text.append(chunk.content)
            for piece in chunk.tool_call_chunks:
                gathering.add_piece(piece["index"], piece["name"], piece["args"])
        return gathering.answer()


class PydanticAI(Peer):
    """pydantic-ai-slim: `direct.model_request_stream`, which gathers by itself."""

    name = "pydantic-ai"

    def __init__(self) -> None:
        models = import_module("pydantic_ai.models.openai")
        provider = import_module("pydantic_ai.providers.openai").OpenAIProvider
        self._replay = Replay()
        client = openai_client(self._replay)
        self._model = models.OpenAIChatModel(MODEL, provider=provider(openai_client=client))
        request = import_module("pydantic_ai.messages").ModelRequest
        self._messages = [request.user_text_prompt("Hi")]
        self._stream = import_module("pydantic_ai.direct").model_request_stream

    async def read(self, reads: Sequence[bytes]) -> Answer:
        self._replay.reads = reads
        async with self._stream(self._model, self._messages) as stream:
            async for _ in stream:
                pass
            parts = stream.get().parts
        text = "".join(p.content for p in parts if p.part_kind == "text")
        calls = ((p.tool_name, p.args) for p in parts if p.part_kind == "tool-call")
        return Answer(text, tuple(calls))


class OpenAIAgents(Peer):
    """openai-agents: `Runner.run_streamed`; text only, since it would run the calls."""

    name = "openai-agents"
    reads_calls = False

    def __init__(self) -> None:
        agents = import_module("agents")
        agents.set_tracing_disabled(True)
        self._replay = Replay()
        model = agents.OpenAIChatCompletionsModel(MODEL, openai_client(self._replay))
        self._agent = agents.Agent(name="agent", model=model)
        self._run = agents.Runner.run_streamed

    async def read(self, reads: Sequence[bytes]) -> Answer:
        self._replay.reads = reads
        result = self._run(self._agent, "Hi")
        text = [
            event.data.delta
            async for event in result.stream_events()
            if event.type == "raw_response_event" and event.data.type == _TEXT_DELTA
        ]
        return Answer("".join(text))


class LiteLLM(Peer):
    """litellm: `acompletion(stream=True)` on an openai client, chunks gathered by hand."""

    name = "litellm"

    def __init__(self) -> None:
        os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # the other one is on the network
        self._replay = Replay()
        self._client = openai_client(self._replay)
        self._complete = import_module("litellm").acompletion

    async def read(self, reads: Sequence[bytes]) -> Answer:
        self._replay.reads = reads
        gathering = Gathering()
        stream = await self._complete(
            model=f"openai/{MODEL}",
            messages=[{"role": "user", "content": "Hi"}],
            stream=True,
            client=self._client,
        )
        async for chunk in stream:
            take_objects(chunk.choices, gathering)
        return gathering.answer()


PEERS: tuple[type[Peer], ...] = (
    OpenAICreate,
    OpenAIStream,
    HttpxSSE,
    LangChain,
    PydanticAI,
    OpenAIAgents,
)


def openai_http() -> Any:
    """The HTTP library that the installed openai speaks with: httpx2 from 3.0 on."""
    base = import_module("openai._base_client")
    return import_module("httpx2" if hasattr(base, "httpx2") else "httpx")


def openai_client(replay: Replay) -> Any:
    return import_module("openai").AsyncOpenAI(
        api_key="none",
        base_url=BASE_URL,
        http_client=replaying_client(openai_http(), replay),
        max_retries=0,
    )


def take_objects(choices: Iterable[Any], gathering: Gathering) -> None:
    """Add the choices of a chunk that was decoded to objects like openai's."""
    for choice in choices:
        delta = choice.delta
        if delta.content:
            gathering.text.append(delta.content)
        for piece in delta.tool_calls or ():
            gathering.add_piece(piece.index, piece.function.name, piece.function.arguments)


def available(peers: Iterable[type[Peer]], skipped: list[str]) -> list[Peer]:
    """Make the peers that are installed; say of the others why they are left out."""
    made: list[Peer] = []
    for peer in peers:
        try:
            made.append(peer())
        except ImportError as error:
            skipped.append(f"{peer.name}: {error}")
    return made
