"""Perform the effects of a run: a short loop for blocking code, and one for async code."""

import time
from collections.abc import AsyncGenerator, AsyncIterable, Generator, Iterable, Sequence
from dataclasses import dataclass

import anyio

from pathors_agent.chat_completions import RequestTemplate
from pathors_agent.dispatch import ToolThread, call_tool, call_tool_async
from pathors_agent.errors import IncompleteResponse, ProviderError, TransportError
from pathors_agent.message_builder import Delta
from pathors_agent.messages import AssistantMessage, Message, ToolMessage, Usage
from pathors_agent.provider_errors import MAX_ERROR_BODY_BYTES, decode_error
from pathors_agent.response_stream import ResponseStream
from pathors_agent.retry import retry_after
from pathors_agent.run import CallModel, CallTool, Run
from pathors_agent.telemetry import emit
from pathors_agent.tools import BoundCall, ToolRegistry
from pathors_agent.transport import AsyncResponse, AsyncTransport, Request, Response, Transport

# Anything else is an error to read, redirects included: a key must not follow them.
_GOOD_STATUSES = range(200, 300)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bindings:
    """What a run's effects are performed with: the tools, the request's form, the caller's value.

    `context` reaches the tools as `ToolContext.context`.
    """

    tools: ToolRegistry
    template: RequestTemplate
    context: object = None


def drive(
    run: Run, transport: Transport, bindings: Bindings
) -> Generator[Delta | Message, None, None]:
    """Perform the run's effects one after another; yield deltas and messages."""
    with ToolThread() as thread:
        while effects := run.effects():
            for effect in effects:
                message: AssistantMessage | ToolMessage
                match effect:
                    case CallModel():
                        message = yield from _ask(run, effect, transport, bindings)
                    case CallTool():
                        message = _call(run, effect, bindings, thread)
                yield run.record(message)


async def drive_async(
    run: Run, transport: AsyncTransport, bindings: Bindings
) -> AsyncGenerator[Delta | Message, None]:
    """Perform the run's effects, a batch of tool calls at once; yield deltas and messages.

    Nothing is yielded inside a task group or cancel scope.
    """
    while effects := run.effects():
        match effects[0]:
            case CallModel() as effect:
                answer = _Answer(run, effect)
                try:
                    async with transport.send(answer.request(bindings)) as response:
                        await answer.check_async(response)
                        async for data in response.pieces:
                            for delta in answer.stream.feed(data):
                                yield delta
                            if answer.stream.ended:
                                break
                except TransportError as error:
                    answer.break_off(error)
                for delta in answer.stream.close():
                    yield delta
                yield run.record(answer.finish())
            case CallTool():
                for message in await _call_batch(run, effects, bindings):
                    yield message


def _ask(
    run: Run, effect: CallModel, transport: Transport, bindings: Bindings
) -> Generator[Delta, None, AssistantMessage]:
    answer = _Answer(run, effect)
    try:
        with transport.send(answer.request(bindings)) as response:
            answer.check(response)
            for data in response.pieces:
                yield from answer.stream.feed(data)
                if answer.stream.ended:
                    break
    except TransportError as error:
        answer.break_off(error)
    yield from answer.stream.close()
    return answer.finish()


class _Answer:
    """One model call on its way: what both loops do alike."""

    def __init__(self, run: Run, effect: CallModel) -> None:
        self._conversation = run.conversation
        self._effect = effect
        self._started = time.monotonic()
        self.stream = ResponseStream(run.conversation.turns)

    def request(self, bindings: Bindings) -> Request:
        body = bindings.template.encode(self._effect.messages)
        return Request(body=body, session_id=self._conversation.session_id)

    def check(self, response: Response) -> None:
        """Raise the error that an error status brings; keep the session of a good answer."""
        if not self._is_good(response):
            raise self._refusal(response, _cut(response.pieces))

    async def check_async(self, response: AsyncResponse) -> None:
        """As `check`."""
        if not self._is_good(response):
            raise self._refusal(response, await _cut_async(response.pieces))

    def _is_good(self, response: Response | AsyncResponse) -> bool:
        if response.status not in _GOOD_STATUSES:
            return False
        if self._conversation.session_id is None:
            self._conversation.session_id = response.session_id
        return True

    def _refusal(self, response: Response | AsyncResponse, body: bytes) -> ProviderError:
        wait = retry_after(response.headers, now=time.time()) or None
        return decode_error(response.status, body, retry_after=wait)

    def break_off(self, error: TransportError) -> None:
        """Raise what broke the answer off, unless all of it had arrived."""
        if self.stream.is_complete:
            return
        if not self.stream.received or isinstance(error, ProviderError):
            raise self._told(error)
        broken = IncompleteResponse(str(error), partial=self.stream.partial)
        raise self._told(broken) from error

    def finish(self) -> AssistantMessage:
        """Give the message, or raise what kept it from being complete."""
        try:
            message = self.stream.finish()
        except TransportError as error:
            raise self._told(error) from None
        usage = message.usage or Usage()
        emit(
            "model_called",
            key=self._effect.key,
            session_id=self._conversation.session_id,
            finish_reason=message.finish_reason,
            tool_calls=len(message.tool_calls),
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            quirks=[quirk.kind for quirk in self.stream.quirks],
            seconds=round(time.monotonic() - self._started, 6),
        )
        return message

    def _told(self, error: TransportError) -> TransportError:
        """Log the error, and give it the history from which a run goes on."""
        error.messages = self._conversation.messages
        emit("model_call_failed", key=self._effect.key, error=type(error).__name__)
        return error


def _cut(pieces: Iterable[bytes]) -> bytes:
    body = b""
    for data in pieces:
        body += data
        if len(body) > MAX_ERROR_BODY_BYTES:
            break
    return body[:MAX_ERROR_BODY_BYTES]


async def _cut_async(pieces: AsyncIterable[bytes]) -> bytes:
    body = b""
    async for data in pieces:
        body += data
        if len(body) > MAX_ERROR_BODY_BYTES:
            break
    return body[:MAX_ERROR_BODY_BYTES]


def _bind(run: Run, effect: CallTool, bindings: Bindings) -> BoundCall | ToolMessage:
    conversation = run.conversation
    return bindings.tools.bind(
        effect.call,
        bindings.context,
        session_id=conversation.session_id,
        key=f"{conversation.id}/{effect.key}",
    )


def _call(run: Run, effect: CallTool, bindings: Bindings, thread: ToolThread) -> ToolMessage:
    bound = _bind(run, effect, bindings)
    return call_tool(bound, thread) if isinstance(bound, BoundCall) else bound


async def _call_batch(
    run: Run, effects: Sequence[CallTool], bindings: Bindings
) -> list[ToolMessage]:
    """Run calls side by side; record each result the moment it is there; give them in order."""
    results: dict[str, ToolMessage] = {}

    async def call(effect: CallTool) -> None:
        bound = _bind(run, effect, bindings)
        message = await call_tool_async(bound) if isinstance(bound, BoundCall) else bound
        # No checkpoint may come between a result and its record: what was done is known.
        run.record(message)
        results[effect.call.id] = message

    # A single call gets its group too: a group waits for a worker thread also where asyncio
    # cancels the task itself, as `asyncio.timeout` does.
    try:
        async with anyio.create_task_group() as tasks:
            for effect in effects:
                tasks.start_soon(call, effect)
    except BaseExceptionGroup as group:
        # KeyboardInterrupt and its like are told as themselves, as from a single call.
        raise group.exceptions[0] from group
    if len(results) < len(effects):
        # asyncio's groups drop a cancellation that a tool let through, meant for another task.
        raise anyio.get_cancelled_exc_class()
    return [results[effect.call.id] for effect in effects]
