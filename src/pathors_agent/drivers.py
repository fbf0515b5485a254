"""Perform the effects of a run: a short loop for blocking code, and one for async code."""

from collections.abc import AsyncGenerator, Generator, Iterator, Sequence

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from pathors_agent.dispatch import ToolThread, call_tool, call_tool_async
from pathors_agent.errors import TransportError
from pathors_agent.message_builder import Delta
from pathors_agent.messages import (
    AssistantMessage,
    Content,
    ContentPart,
    Message,
    ToolMessage,
    UserMessage,
)
from pathors_agent.model_call import Bindings, Clock, ModelCall
from pathors_agent.run import CallModel, CallTool, Effect, GiveFeedback, Run
from pathors_agent.tools import BoundCall, ToolRegistry
from pathors_agent.transport import AsyncTransport, Transport


def drive(
    run: Run, transport: Transport, bindings: Bindings
) -> Generator[Delta | Message, None, None]:
    """Perform the run's effects one after another; yield deltas and messages."""
    with Clock(run) as clock, ToolThread() as thread:
        while effects := run.effects():
            for effect in effects:
                clock.left()
                message: AssistantMessage | ToolMessage | UserMessage
                match effect:
                    case CallModel():
                        bindings.choose_tools(run)
                        call = ModelCall(run, effect, bindings, clock)
                        message = yield from _ask(call, transport)
                    case CallTool():
                        message = _call(run, effect, bindings, thread)
                    case GiveFeedback():
                        message = effect.message
                yield run.record(message)


async def drive_async(  # noqa: C901, PLR0912  (a generator within it would cost each delta a layer)
    run: Run, transport: AsyncTransport, bindings: Bindings
) -> AsyncGenerator[Delta | Message, None]:
    """Perform the run's effects, a batch of tool calls at once; yield deltas and messages.

    Nothing is yielded inside a task group or cancel scope.
    """
    with Clock(run) as clock:
        while effects := run.effects():
            match effects[0]:
                case CallModel() as effect:
                    await bindings.choose_tools_async(run)
                    call = ModelCall(run, effect, bindings, clock)
                    try:
                        async with transport.send(await call.request_async()) as response:
                            await call.check_async(response)
                            async for data in response.pieces:
                                for delta in call.stream.feed(data):
                                    yield delta
                                if call.stream.ended:
                                    break
                    except TransportError as error:
                        call.break_off(error)
                    for delta in call.stream.close():
                        yield delta
                    yield run.record(call.finish())
                case CallTool():
                    for batch in _side_by_side(effects, bindings.tools):
                        for message in await _call_batch(run, batch, bindings, clock):
                            yield message
                case GiveFeedback() as effect:
                    yield run.record(effect.message)


def _ask(call: ModelCall, transport: Transport) -> Generator[Delta, None, AssistantMessage]:
    try:
        with transport.send(call.request()) as response:
            call.check(response)
            for data in response.pieces:
                yield from call.stream.feed(data)
                if call.stream.ended:
                    break
    except TransportError as error:
        call.break_off(error)
    yield from call.stream.close()
    return call.finish()


def _bind(run: Run, effect: CallTool, bindings: Bindings) -> BoundCall | ToolMessage:
    if refusal := effect.verdict.refusal:
        return ToolMessage(tool_call_id=effect.call.id, content=refusal, outcome="not_run")
    answers = bindings.answers
    if answers and effect.call.name == answers.final_tool:
        return answers.take(effect.call)
    conversation = run.conversation
    return bindings.tools.bind(
        bindings.approvals.as_approved(effect.call),
        bindings.context,
        session_id=conversation.session_id,
        key=f"{conversation.id}/{effect.key}",
    )


def _call(run: Run, effect: CallTool, bindings: Bindings, thread: ToolThread) -> ToolMessage:
    bound = _bind(run, effect, bindings)
    if not isinstance(bound, BoundCall):
        return bound
    return _with_notes(call_tool(bound, thread, seconds=run.limits.tool_seconds), effect, bindings)


async def _call_async(run: Run, effect: CallTool, bindings: Bindings) -> ToolMessage:
    bound = _bind(run, effect, bindings)
    if not isinstance(bound, BoundCall):
        return bound
    return _with_notes(
        await call_tool_async(bound, seconds=run.limits.tool_seconds), effect, bindings
    )


def _with_notes(message: ToolMessage, effect: CallTool, bindings: Bindings) -> ToolMessage:
    """Add to a result what the model is to be told of how the call was run."""
    notes = [effect.verdict.warning, bindings.approvals.note(effect.call)]
    said = "\n".join(filter(None, notes))
    if not said:
        return message
    if isinstance(message.content, str):
        content: Content = f"{message.content}\n{said}"
    else:
        content = (*message.content, ContentPart(type="text", text=said))
    return message.model_copy(update={"content": content})


def _side_by_side(effects: Sequence[Effect], tools: ToolRegistry) -> Iterator[list[CallTool]]:
    """Split calls, in order, into batches that may run at once; a sequential tool runs alone."""
    batch: list[CallTool] = []
    for effect in effects:
        assert isinstance(effect, CallTool)
        name = effect.call.name
        if name in tools and tools[name].sequential:
            yield from filter(None, [batch, [effect]])
            batch = []
        else:
            batch.append(effect)
    yield from filter(None, [batch])


async def _call_batch(
    run: Run, effects: Sequence[CallTool], bindings: Bindings, clock: Clock
) -> list[ToolMessage]:
    """Run calls side by side; record each result the moment it is there; give them in order."""
    results: dict[str, ToolMessage | None] = {}  # None: begun
    interrupts: list[BaseException] = []
    places = anyio.Semaphore(run.limits.max_concurrency)

    async def call(effect: CallTool) -> None:
        try:
            async with places:
                results[effect.call.id] = None
                message = await _call_async(run, effect, bindings)
                # No checkpoint may come between a result and its record: what was done is known.
                run.record(message)
                results[effect.call.id] = message
        except anyio.get_cancelled_exc_class():
            raise
        # What is no tool's failure (KeyboardInterrupt, SystemExit) is carried out of the group
        # by hand: a group would wrap it, and in a task of its own it stops asyncio's loop.
        except BaseException as error:  # noqa: BLE001
            interrupts.append(error)
            tasks.cancel_scope.cancel()

    # A single call gets its group too: a group waits for a worker thread also where asyncio
    # cancels the task itself, as `asyncio.timeout` does.
    with anyio.move_on_after(clock.left()) as in_time:
        async with anyio.create_task_group() as tasks:
            for effect in effects:
                tasks.start_soon(call, effect)
    if interrupts:
        raise interrupts[0]
    if in_time.cancelled_caught:
        return _stopped(run, effects, results)
    done = [message for e in effects if (message := results.get(e.call.id)) is not None]
    if len(done) < len(effects):
        # asyncio's groups drop a cancellation that a tool let through, meant for another task.
        raise anyio.get_cancelled_exc_class()
    # On trio a group whose tasks all came to their ends does not tell that it was cancelled.
    await checkpoint_if_cancelled()
    return done


def _stopped(
    run: Run, effects: Sequence[CallTool], results: dict[str, ToolMessage | None]
) -> list[ToolMessage]:
    """Give the results of a batch whose time was up; calls that had begun are not to run again."""
    messages = []
    for call_id in (effect.call.id for effect in effects if effect.call.id in results):
        message = results[call_id]
        if message is None:
            text = "Stopped: the time for this run is over; how far it came is not known."
            message = ToolMessage(tool_call_id=call_id, content=text, outcome="timeout")
            run.record(message)
        messages.append(message)
    return messages
