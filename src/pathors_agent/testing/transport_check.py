"""Test a transport of your own against a real loopback server, rule by rule."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)

from anyio import to_thread

from pathors_agent.agents.ask import close_pieces
from pathors_agent.testing.loopback_server import LoopbackServer, refused_port
from pathors_agent.testing.transport_rules import MOST_KEPT, REFUSED, Mine, Outcome, Rule, rules
from pathors_agent.testing.usage import check_made, maker_of
from pathors_agent.transports.base import AsyncResponse, AsyncTransport, Transport

# Seconds for what takes milliseconds on an idle machine; only broken rules wait so long.
PATIENCE = 5.0


def check_transport(
    make: Callable[[str], Transport], *, sessions: bool = False, patience: float = PATIENCE
) -> None:
    """Check a transport for blocking code; raise AssertionError naming the first broken rule.

    `make` takes the base URL of a small server on the loopback interface and returns a transport
    that posts to it, on any path. A transport that is a context manager is closed after each rule.
    With `sessions`, the session id must go out and come back as `X-Session-ID`. `patience` is how
    many seconds the server waits for what should come at once. A transport may send a request again
    after an error status, and if no answer began; never otherwise.
    """
    maker = maker_of(make, function="check_transport", wanted="a transport", example=_EXAMPLE)

    def made(base_url: str) -> Transport:
        transport: Transport = maker(base_url)
        check_made(transport, Transport, function="check_transport", other="check_async_transport")
        return transport

    for rule in rules(sessions=sessions):
        with LoopbackServer(rule.conduct, patience=patience) as server:
            rule.judge(_try(made(server.base_url), rule, server), server)
    with (
        refused_port() as base_url,
        LoopbackServer(REFUSED.conduct, patience=0) as unused,
    ):
        REFUSED.judge(_try(made(base_url), REFUSED, unused), unused)


async def check_async_transport(
    make: Callable[[str], AsyncTransport], *, sessions: bool = False, patience: float = PATIENCE
) -> None:
    """Check a transport for asyncio and trio, as `check_transport` does."""
    maker = maker_of(make, function="check_async_transport", wanted="a transport", example=_EXAMPLE)

    def made(base_url: str) -> AsyncTransport:
        transport: AsyncTransport = maker(base_url)
        check_made(
            transport, AsyncTransport, function="check_async_transport", other="check_transport"
        )
        return transport

    for rule in rules(sessions=sessions):
        with LoopbackServer(rule.conduct, patience=patience) as server:
            rule.judge(await _try_async(made(server.base_url), rule, server), server)
    with (
        refused_port() as base_url,
        LoopbackServer(REFUSED.conduct, patience=0) as unused,
    ):
        REFUSED.judge(await _try_async(made(base_url), REFUSED, unused), unused)


_EXAMPLE = "lambda base_url: MyTransport(base_url)"


def _try(transport: Transport, rule: Rule, server: LoopbackServer) -> Outcome:
    outcome = Outcome()
    with _closing(transport):
        for _ in range(rule.times):
            outcome = _send(transport, rule, server)
            if outcome.error is not None:
                break
        if rule.reads == "first":
            server.wait_for_finish()
        outcome.still_open = server.open_connections(at_most=MOST_KEPT)
    if isinstance(transport, AbstractContextManager):
        outcome.open_after_close = server.open_connections(at_most=0)
    return outcome


def _send(transport: Transport, rule: Rule, server: LoopbackServer) -> Outcome:
    outcome = Outcome()
    try:
        with transport.send(rule.request) as response:
            outcome.note(response)
            if rule.reads == "fails":
                raise Mine
            for piece in response.pieces if rule.reads != "none" else ():
                outcome.keep(piece, server)
                if rule.reads == "first":
                    break
    except Exception as error:  # noqa: BLE001  (whatever it raises, the rule judges it)
        outcome.error = error
    return outcome


async def _try_async(transport: AsyncTransport, rule: Rule, server: LoopbackServer) -> Outcome:
    outcome = Outcome()
    async with _closing_async(transport):
        for _ in range(rule.times):
            outcome = await _send_async(transport, rule, server)
            if outcome.error is not None:
                break
        if rule.reads == "first":
            await to_thread.run_sync(server.wait_for_finish)
        outcome.still_open = await _open_connections(server, MOST_KEPT)
    if isinstance(transport, AbstractAsyncContextManager):
        outcome.open_after_close = await _open_connections(server, 0)
    return outcome


async def _open_connections(server: LoopbackServer, at_most: int) -> int:
    return await to_thread.run_sync(lambda: server.open_connections(at_most=at_most))


async def _send_async(transport: AsyncTransport, rule: Rule, server: LoopbackServer) -> Outcome:
    outcome = Outcome()
    try:
        async with transport.send(rule.request) as response:
            outcome.note(response)
            if rule.reads == "fails":
                raise Mine
            if rule.reads == "none":
                return outcome
            await _read_async(response, rule, server, outcome)
    except Exception as error:  # noqa: BLE001  (whatever it raises, the rule judges it)
        outcome.error = error
    return outcome


async def _read_async(
    response: AsyncResponse, rule: Rule, server: LoopbackServer, outcome: Outcome
) -> None:
    pieces = aiter(response.pieces)
    try:
        async for piece in pieces:
            outcome.keep(piece, server)
            if rule.reads == "first":
                break
    finally:
        await close_pieces(pieces)


@contextmanager
def _closing(transport: Transport) -> Iterator[None]:
    if isinstance(transport, AbstractContextManager):
        with transport:
            yield
    else:
        yield


@asynccontextmanager
async def _closing_async(transport: AsyncTransport) -> AsyncIterator[None]:
    if isinstance(transport, AbstractAsyncContextManager):
        async with transport:
            yield
    else:
        yield
