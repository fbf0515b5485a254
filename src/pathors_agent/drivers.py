"""Perform the effects of a run: a short loop for blocking code, and one for async code."""

from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing
from time import monotonic
from typing import Self

from pathors_agent.calls.batches import batch_items, call_alone, call_one, side_by_side
from pathors_agent.calls.dispatch import ToolThread
from pathors_agent.errors import ConversationError, TransportError
from pathors_agent.messages import AssistantMessage, Message, ToolMessage, UserMessage
from pathors_agent.model_call import Bindings, Clock, ModelCall, close_pieces
from pathors_agent.run import CallModel, CallTool, GiveFeedback, Run
from pathors_agent.transports.base import AsyncTransport, Transport
from pathors_agent.wire.message_builder import Delta


class Pass(Clock):
    """A clock whose run has the conversation to itself: two would run the same calls twice."""

    __slots__ = ()  # it stands beside each open stream

    def __enter__(self) -> Self:
        if _PASSES.setdefault(id(self._run.conversation), self) is not self:
            raise ConversationError(
                "another run goes on with this conversation; wait for its end, or give each a copy"
            )
        self._run.notes_begun_calls = True
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> bool:
        del _PASSES[id(self._run.conversation)]
        return super().__exit__(kind, *rest)


# By the id of the conversation. To set a key that is absent is one step, for threads too.
_PASSES: dict[int, Pass] = {}


def drive(
    run: Run, transport: Transport, bindings: Bindings, thread: ToolThread
) -> Generator[Delta | Message, None, None]:
    """Perform the run's effects one after another; yield deltas and messages.

    Async tools run on `thread`.
    """
    with bindings.telemetry.of(run), Pass(run) as clock:
        while effects := run.effects():
            for effect in effects:
                clock.left()
                message: AssistantMessage | ToolMessage | UserMessage
                match effect:
                    case CallModel():
                        bindings.choose_tools(run)
                        call = ModelCall(run, effect.key, bindings, clock)
                        message = yield from _ask(call, effect, transport)
                    case CallTool():
                        message = yield from call_one(run, effect, bindings, thread, clock)
                    case GiveFeedback():
                        message = effect.message
                yield run.record(message)


async def drive_async(  # noqa: C901, PLR0912, PLR0915  (a generator within it would cost each delta a layer)
    run: Run, transport: AsyncTransport, bindings: Bindings
) -> AsyncGenerator[Delta | Message, None]:
    """Perform the run's effects, a batch of tool calls at once; yield deltas and messages.

    Nothing is yielded inside a task group or cancel scope.
    """
    with bindings.telemetry.of(run), Pass(run) as clock:
        while effects := run.effects():
            match effects[0]:
                case CallModel() as effect:
                    await bindings.choose_tools_async(run)
                    with ModelCall(run, effect.key, bindings, clock) as call:
                        try:
                            request = await call.request_async(effect)
                            async with call.sending_async(transport, request) as response:
                                await call.check_async(response)
                                pieces = aiter(response.pieces)
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
                        for delta in call.stream.close():
                            yield delta
                        answer = call.finish()
                    yield run.record(answer)
                case CallTool():
                    for batch in side_by_side(effects, bindings.tools):
                        if (result := await call_alone(run, batch, bindings, clock)) is not None:
                            yield result
                            continue
                        async with aclosing(batch_items(run, batch, bindings, clock)) as items:
                            async for item in items:
                                yield item
                case GiveFeedback() as effect:
                    yield run.record(effect.message)


def _ask(
    call: ModelCall, effect: CallModel, transport: Transport
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
        yield from call.stream.close()
        return call.finish()
