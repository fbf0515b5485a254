"""Perform the effects of a run: a short loop for blocking code, and one for async code."""

from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing
from time import monotonic

from pathors_agent.calls.batches import batch_items, call_alone, call_one, side_by_side
from pathors_agent.calls.dispatch import ToolThread
from pathors_agent.conversation import Conversation
from pathors_agent.errors import ConversationError, TransportError
from pathors_agent.messages import AssistantMessage, Message, ToolMessage, UserMessage
from pathors_agent.model_call import Bindings, Clock, ModelCall, close_pieces
from pathors_agent.run import CallModel, CallTool, GiveFeedback, Run
from pathors_agent.transports.base import AsyncTransport, Transport
from pathors_agent.wire.message_builder import Delta


class Held:
    """Keeps a conversation to one run, as a context: two at once would run the same calls twice."""

    __slots__ = ("_id",)  # it stands beside each open stream

    def __init__(self, conversation: Conversation) -> None:
        self._id = id(conversation)

    def __enter__(self) -> None:
        if _HOLDERS.setdefault(self._id, self) is not self:
            raise ConversationError(
                "another run goes on with this conversation; wait for its end, or give each a copy"
            )

    def __exit__(self, *_: object) -> None:
        del _HOLDERS[self._id]


# By the id of the conversation. To set a key that is absent is one step, for threads too.
_HOLDERS: dict[int, Held] = {}


def drive(
    run: Run, transport: Transport, bindings: Bindings
) -> Generator[Delta | Message, None, None]:
    """Perform the run's effects one after another; yield deltas and messages."""
    with (
        Held(run.conversation),
        bindings.telemetry.of(run),
        Clock(run) as clock,
        ToolThread() as thread,
    ):
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
    with Held(run.conversation), bindings.telemetry.of(run), Clock(run) as clock:
        while effects := run.effects():
            match effects[0]:
                case CallModel() as effect:
                    await bindings.choose_tools_async(run)
                    with ModelCall(run, effect.key, bindings, clock) as call:
                        try:
                            request = await call.request_async(effect)
                            async with transport.send(request) as response:
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
            with transport.send(call.request(effect)) as response:
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
