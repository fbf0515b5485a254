"""Perform the effects of a run: a short loop for blocking code, and one for async code."""

from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing
from time import monotonic

from pathors_agent.agents.ask import Bindings, ModelCall, close_pieces
from pathors_agent.agents.control import RunControl, Said
from pathors_agent.agents.perform.batches import batch_items, call_alone, call_one, side_by_side
from pathors_agent.agents.perform.dispatch import ToolThread
from pathors_agent.core.run import CallModel, CallTool, GiveFeedback, Run
from pathors_agent.errors import TransportError
from pathors_agent.messages import AssistantMessage, Message, ToolMessage, UserMessage
from pathors_agent.transports.base import AsyncTransport, Transport
from pathors_agent.wire.deltas import Delta


def drive(
    run: Run, transport: Transport, bindings: Bindings, control: RunControl, thread: ToolThread
) -> Generator[Delta | Message, None, None]:
    """Perform the run's effects one after another; yield deltas and messages.

    Async tools run on `thread`.
    """
    run.notes_begun_calls = True
    with bindings.telemetry.of(run), control:
        control.finish_left()
        while effects := control.effects():
            for effect in effects:
                control.left()
                message: AssistantMessage | ToolMessage | UserMessage
                match effect:
                    case CallModel():
                        bindings.choose_tools(run)
                        call = ModelCall(run, effect.key, bindings, control)
                        message = yield from _ask(call, effect, transport, control)
                    case CallTool():
                        message = yield from call_one(run, effect, bindings, thread, control)
                    case GiveFeedback() | Said():
                        message = effect.message
                yield control.record(message)


async def drive_async(  # noqa: C901, PLR0912, PLR0915  (a generator within it would cost each delta a layer)
    run: Run, transport: AsyncTransport, bindings: Bindings, control: RunControl
) -> AsyncGenerator[Delta | Message, None]:
    """Perform the run's effects, a batch of tool calls at once; yield deltas and messages.

    Nothing is yielded inside a task group or cancel scope.
    """
    run.notes_begun_calls = True
    with bindings.telemetry.of(run), control:
        control.reading.begin_on_loop()
        await control.finish_left_async()
        while effects := control.effects():
            match effects[0]:
                case CallModel() as effect:
                    with control.interruptible():
                        await bindings.choose_tools_async(run)
                    with ModelCall(run, effect.key, bindings, control) as call:
                        try:
                            with control.interruptible():
                                request = await call.request_async(effect)
                            async with call.sending_async(transport, request) as response:
                                with control.interruptible():
                                    await call.check_async(response)
                                pieces = control.pieces(aiter(response.pieces))
                                # A stream is open for long.
                                del effects, effect, request, response
                                try:
                                    async for data in pieces:
                                        if call.first is None:
                                            call.first = monotonic()
                                        for delta in call.stream.feed(data):
                                            yield delta
                                        del data
                                        if call.stream.ended:
                                            break
                                finally:
                                    await close_pieces(pieces)
                        except TransportError as error:
                            call.break_off(error)
                        control.check()
                        for delta in call.stream.close():
                            yield delta
                        answer = call.finish()
                    yield control.record(answer)
                case CallTool():
                    for batch in side_by_side(effects, bindings.tools):
                        if (result := await call_alone(run, batch, bindings, control)) is not None:
                            yield result
                            continue
                        control.cancels_task = False
                        async with aclosing(batch_items(run, batch, bindings, control)) as items:
                            async for item in items:
                                yield item
                        control.cancels_task = True
                case GiveFeedback() | Said() as effect:
                    yield control.record(effect.message)


def _ask(
    call: ModelCall, effect: CallModel, transport: Transport, control: RunControl
) -> Generator[Delta, None, AssistantMessage]:
    with call:
        try:
            with call.sending(transport, call.request(effect)) as response:
                call.check(response)
                for data in response.pieces:
                    if call.first is None:
                        call.first = monotonic()
                    yield from call.stream.feed(data)
                    if call.stream.ended:
                        break
        except TransportError as error:
            call.break_off(error)
        control.check()
        yield from call.stream.close()
        return call.finish()
