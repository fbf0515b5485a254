"""One transport over several event loops: after one another, side by side, with a given client."""

import asyncio
import gc
import threading
from typing import Any

import aiohttp
import anyio
import httpx2
import pytest

from pathors_agent.agents.agent import AsyncAgent
from pathors_agent.errors import TransportError
from pathors_agent.transports.aiohttp import AiohttpTransport
from pathors_agent.transports.http import AsyncHTTPTransport, HTTPTransport
from servers import ScriptedServer, Step, answer
from transports.fetching import REQUEST, StartServer

COMPLETION = b'{"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]}'
HI: list[Step] = [answer(COMPLETION)]
Make = type[AsyncHTTPTransport] | type[AiohttpTransport]

of_both_kinds = pytest.mark.parametrize("make", [AsyncHTTPTransport, AiohttpTransport])


async def ask(agent: AsyncAgent[str]) -> str:
    return (await agent.run("Hello")).output


async def ask_inside_with(agent: AsyncAgent[str]) -> str:
    async with agent:
        return await ask(agent)


@of_both_kinds
def test_each_loop_gets_its_own_client(scripted_server: StartServer, make: Make) -> None:
    server = scripted_server(*[HI] * 4)
    agent = AsyncAgent(make(server.url))

    assert [asyncio.run(ask(agent)) for _ in range(4)] == ["Hi"] * 4
    assert server.connections == 4


@pytest.mark.parametrize(
    ("make", "backend"),
    [(AsyncHTTPTransport, "asyncio"), (AsyncHTTPTransport, "trio"), (AiohttpTransport, "asyncio")],
)
def test_clients_are_closed_with_their_loop(
    scripted_server: StartServer, make: Make, backend: str
) -> None:
    server = scripted_server(HI, HI)
    agent = AsyncAgent(make(server.url))

    for _ in range(2):
        assert anyio.run(ask, agent, backend=backend) == "Hi"
        server.wait_until_clients_left()


def test_asyncio_and_trio_take_turns(scripted_server: StartServer) -> None:
    agent = AsyncAgent(AsyncHTTPTransport(scripted_server(*[HI] * 4).url))

    for backend in ("asyncio", "trio", "asyncio", "trio"):
        assert anyio.run(ask, agent, backend=backend) == "Hi"


@of_both_kinds
def test_loops_in_threads_side_by_side(scripted_server: StartServer, make: Make) -> None:
    agent = AsyncAgent(make(scripted_server(*[HI] * 3).url))
    outputs: list[str] = []
    threads = [
        threading.Thread(target=lambda: outputs.append(asyncio.run(ask(agent)))) for _ in range(3)
    ]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert outputs == ["Hi"] * 3


@of_both_kinds
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the loop was not shut down
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_loop_that_was_only_closed_is_forgotten(scripted_server: StartServer, make: Make) -> None:
    agent = AsyncAgent(make(scripted_server(HI, HI).url))

    for _ in range(2):
        loop = asyncio.new_event_loop()
        assert loop.run_until_complete(ask(agent)) == "Hi"
        loop.close()

    del agent
    gc.collect()


@of_both_kinds
def test_closed_transport_raises_that_it_is_closed_in_another_loop(
    scripted_server: StartServer, make: Make
) -> None:
    agent = AsyncAgent(make(scripted_server(HI).url))
    asyncio.run(ask_inside_with(agent))

    with pytest.raises(TransportError, match="was closed; create another") as caught:
        asyncio.run(ask(agent))

    assert not caught.value.retryable
    assert len(caught.value.messages) == 1


async def use_given(server: ScriptedServer, make: Make) -> Any:
    kind: Any = httpx2.AsyncClient if make is AsyncHTTPTransport else aiohttp.ClientSession
    client = kind()
    agent = AsyncAgent(make(server.url, client=client))
    assert await ask(agent) == "Hi"
    return agent, client


@of_both_kinds
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the client was not closed in its loop
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_error_for_a_client_of_another_loop_names_it(
    scripted_server: StartServer, make: Make
) -> None:
    agent, client = asyncio.run(use_given(scripted_server(HI, HI), make))

    with pytest.raises(TransportError, match=r"client=.*another event loop.*leave out"):
        asyncio.run(ask(agent))

    del agent, client
    gc.collect()


def test_callers_client_without_connections_works_on_every_loop() -> None:
    mock = httpx2.MockTransport(lambda request: httpx2.Response(200, content=COMPLETION))
    agent = AsyncAgent(
        AsyncHTTPTransport("http://model.test/v1", client=httpx2.AsyncClient(transport=mock))
    )

    assert [asyncio.run(ask(agent)) for _ in range(3)] == ["Hi"] * 3


def test_closed_client_is_no_bare_error(scripted_server: StartServer) -> None:
    client = httpx2.Client()
    client.close()
    transport = HTTPTransport(scripted_server().url, client=client)

    with pytest.raises(TransportError, match="closed"), transport.send(REQUEST):
        pass


def test_broken_connections_of_one_loop_do_not_reach_another(scripted_server: StartServer) -> None:
    steps: list[list[Step]] = [HI, [answer(COMPLETION, Connection="close")], HI]
    agent = AsyncAgent(AsyncHTTPTransport(scripted_server(*steps).url, retries=0))

    assert [asyncio.run(ask(agent)) for _ in range(3)] == ["Hi"] * 3
