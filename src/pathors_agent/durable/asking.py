"""Ask the model once and read its answer whole: in a durable run nobody sees it arrive."""

from time import monotonic

from pathors_agent.agents.ask import Bindings, ModelCall, close_pieces
from pathors_agent.agents.control import RunControl
from pathors_agent.core.run import CallModel, Run
from pathors_agent.errors import TransportError
from pathors_agent.messages import AssistantMessage
from pathors_agent.transports.base import AsyncResponse, AsyncTransport


async def ask(
    run: Run, effect: CallModel, transport: AsyncTransport, bindings: Bindings, control: RunControl
) -> AssistantMessage:
    """Give the model's answer; raise as the drivers do."""
    with ModelCall(run, effect.key, bindings, control) as call:
        try:
            request = await call.request_async(effect)
            async with call.sending_async(transport, request) as response:
                await call.check_async(response)
                await _read(call, response)
        except TransportError as error:
            call.break_off(error)
        for _ in call.stream.close():
            pass
        return call.finish()


async def _read(call: ModelCall, response: AsyncResponse) -> None:
    pieces = aiter(response.pieces)
    try:
        async for data in pieces:
            call.first = call.first or monotonic()
            for _ in call.stream.feed(data):
                pass
            if call.stream.ended:
                return
    finally:
        await close_pieces(pieces)
