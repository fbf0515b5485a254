"""Perform the effects of a run: a short loop for blocking code, and one for async code."""

from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing
from time import monotonic

from pathors_agent.agents.ask import Bindings, ModelCall
from pathors_agent.agents.control import RunControl, Said
from pathors_agent.agents.perform.batches import batch_items, call_alone, side_by_side
from pathors_agent.agents.perform.calls import perform
from pathors_agent.agents.perform.threads import ToolThread
from pathors_agent.core.run import CallModel, CallTool, GiveFeedback, Run
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
                        message = yield from _ask(call, effect, transport)
                    case CallTool():
                        message = yield from perform(run, effect, bindings, thread, control)
                    case GiveFeedback() | Said():
                        message = effect.message
                yield control.record(message)


async def drive_async(  # noqa: C901, PLR0912, PLR0915  (a generator inside would slow down each delta)
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
                        async with call.open_async(effect, transport) as pieces:
                            del effects, effect  # a stream is open for long
                            async for data in pieces:
                                if call.first is None:
                                    call.first = monotonic()
                                for delta in call.stream.feed(data):
                                    yield delta
                                del data
                                if call.stream.ended:
                                    break
                        for delta in call.stream.close():
                            yield delta
                        answer = call.finish()
                    yield control.record(answer)
                case CallTool():
                    calls = (effect for effect in effects if isinstance(effect, CallTool))
                    for batch in side_by_side(calls, bindings.tools):
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
    call: ModelCall, effect: CallModel, transport: Transport
) -> Generator[Delta, None, AssistantMessage]:
    with call:
        with call.open(effect, transport) as pieces:
            for data in pieces:
                if call.first is None:
                    call.first = monotonic()
                yield from call.stream.feed(data)
                if call.stream.ended:
                    break
        yield from call.stream.close()
        return call.finish()
