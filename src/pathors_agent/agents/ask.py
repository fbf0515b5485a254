"""Ask the model: build and send a request, read its answer, and report how the call ended."""

from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, contextmanager
from functools import partial
from time import monotonic
from typing import Self

import anyio

from pathors_agent.agents.budgets import Charge
from pathors_agent.agents.control import RunControl
from pathors_agent.agents.hooks import (
    AsyncNextModel,
    ModelContext,
    ModelRequest,
    NextModel,
    async_model_layer,
    drained,
    layered,
    model_layer,
    with_hooks,
)
from pathors_agent.agents.setup import RunSetup
from pathors_agent.concurrency.event_loops import RunCancelled
from pathors_agent.core.limits import total_tokens
from pathors_agent.core.run import CallModel, Run
from pathors_agent.errors import (
    IncompleteResponse,
    LimitReached,
    ProviderError,
    TransportError,
    error_text,
)
from pathors_agent.history.trim import checked, estimate_tokens
from pathors_agent.messages import AssistantMessage, Message, Usage
from pathors_agent.telemetry.runs import ModelOperation
from pathors_agent.transports.base import (
    GOOD_STATUSES,
    AsyncResponse,
    AsyncTransport,
    Request,
    Response,
    Transport,
    close_pieces,
    read_body,
    read_body_async,
)
from pathors_agent.transports.retry import refusal
from pathors_agent.wire.completion_bytes import plain_body
from pathors_agent.wire.deltas import Delta
from pathors_agent.wire.message_builder import Quirk
from pathors_agent.wire.provider_errors import MAX_ERROR_BODY_BYTES
from pathors_agent.wire.response_stream import ResponseStream


class ModelCall:
    """One model call: the request, the answer's stream, and how the call ended.

    A context manager, which reports the end of the call to telemetry. Open the answer, feed its pieces
    to the `stream` until it has `ended`, close the stream and call `finish`. The drivers do so in their
    own loops: a generator between them and the stream would slow down each delta, and take memory as
    long as the stream is open.
    """

    __slots__ = (
        "_charge",
        "_control",
        "_conversation",
        "_key",
        "_masked",
        "_operation",
        "_setup",
        "first",
        "stream",
    )

    def __init__(self, run: Run, key: str, setup: RunSetup, control: RunControl) -> None:
        self._setup = setup
        self._charge: Charge | None = None  # until the request is made, if the run has budgets
        self._control = control
        self._conversation = run.conversation
        self._key = key
        self._masked: Callable[[str], str] = str
        self._operation: ModelOperation | None = None  # until there is something to send
        self.first: float | None = None
        """When the first piece of the answer arrived; set by the driver."""
        self.stream = ResponseStream(run.conversation.turns)
        control.reads(self.stream)
        if setup.arriving:
            setup.arriving.watch(self.stream.builder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        self._control.reads(None)
        if self._charge is not None:
            # Providers charge for answers that break off; what is known of them is the prompt.
            self._charge.settle(self._charge.estimated if self.first is not None else None)
        if self._operation is not None:
            self._operation.first = self.first
            self._operation.close(error)

    # - the answer -

    @contextmanager
    def open(
        self, effect: CallModel, transport: Transport, sent: ModelRequest | None = None
    ) -> Iterator[Iterable[bytes]]:
        """Send the request, and open the pieces of the answer; `sent` is the request of hooks."""
        try:
            messages = self._setup.select(effect) if sent is None else sent.messages
            request = self._request(effect, messages, sent)
            send = partial(transport.send, request)
            span = self._operation if self._operation and self._operation.span else None
            with send() if span is None else span.sending(send) as response:
                if not self.is_good(response):
                    raise refusal(response, read_body(response.pieces, MAX_ERROR_BODY_BYTES))
                yield response.pieces
        except TransportError as error:
            self.break_off(error)
        self._control.check()

    async def answer_async(
        self,
        effect: CallModel,
        transport: AsyncTransport,
        sent: ModelRequest | None = None,
        *,
        report: "ReportDeltas | None" = None,
    ) -> AssistantMessage:
        """Send the request, and return the whole answer; `report` gets its deltas as they come."""
        try:
            async with await self.send_async(effect, transport, sent) as response:
                if not self.is_good(response):
                    raise await self.refusal_async(response)
                pieces = self.pieces(response)
                del response  # a stream is open for long
                try:
                    async for data in pieces:
                        if self.first is None:
                            self.first = monotonic()
                        deltas = self.stream.feed(data)
                        if deltas and report is not None:
                            await report(deltas)
                        del data, deltas
                        if self.stream.ended:
                            break
                finally:
                    await close_pieces(pieces)
        except TransportError as error:
            self.break_off(error)
        deltas = self.stream.close()
        if deltas and report is not None:
            await report(deltas)
        return self.finish()

    async def send_async(
        self, effect: CallModel, transport: AsyncTransport, sent: ModelRequest | None = None
    ) -> AbstractAsyncContextManager[AsyncResponse]:
        """Build the request, and return the context manager that sends it."""
        messages = effect.messages if sent is None else sent.messages
        if sent is None and self._setup.history is not None:
            with self._control.interruptible():
                messages = await self._setup.select_async(effect)
        request = self._request(effect, messages, sent)
        operation = self._operation
        if operation is None or operation.span is None:
            return transport.send(request)
        return operation.sending_async(partial(transport.send, request))

    def pieces(self, response: AsyncResponse) -> AsyncIterator[bytes]:
        """Return the pieces of a good response; a cancellation interrupts the wait for each."""
        return self._control.pieces(aiter(response.pieces))

    async def refusal_async(self, response: AsyncResponse) -> ProviderError:
        """Return the error of a response that is not good."""
        with self._control.interruptible():
            return refusal(response, await read_body_async(response.pieces, MAX_ERROR_BODY_BYTES))

    def finish(self) -> AssistantMessage:
        """Return the answer; raise `TransportError` if it is incomplete."""
        self._control.check()
        try:
            message = self.stream.finish()
        except TransportError as error:
            raise self._ending(error) from None
        builder = self.stream.builder
        if builder.session_id:
            self._take_up_session(builder.session_id)
        if self._charge is not None:
            self._charge.settle(_used(message, self._charge.estimated))
        if self._operation is not None:
            self._operation.message = message
        if builder.quirks:
            self._notice_quirks(self.stream.quirks)
        return message

    # - the request -

    def _request(
        self, effect: CallModel, messages: Sequence[Message], sent: ModelRequest | None
    ) -> Request:
        setup, conversation = self._setup, self._conversation
        if sent is None:
            template = setup.offer_tools(effect.messages)
        else:
            messages = checked(messages, source="the request that a hook passed to next()")
            template = sent.applied_to(setup.template)
        profile = template.profile
        if profile.sends == "new_messages":
            self._refuse_fragment()
        if effect.last_word:
            template = template.without_calls
        elif conversation.turns_since_user:
            template = template.after_first
        if setup.budgets:
            estimated = _estimated(messages, template.options.max_tokens)
            self._charge = Charge(setup.budgets, template.model, estimated)
        self._operation = operation = setup.telemetry.begin_model(
            self._key, template, conversation, messages
        )
        session_id = conversation.session_id
        in_body = profile.session_in == "body"
        return Request(
            body=template.encode(messages, session_id=session_id if in_body else None),
            headers=operation.headers() if operation.span else {},
            session_id=None if in_body else session_id,
            seconds=self._control.left(),
            on_event=operation.note,
            cancellation=self._control.cancellation,
        )

    def _refuse_fragment(self) -> None:
        """Raise if the endpoint would get only the last messages of a history it cannot know."""
        turns = self._conversation.turns
        if turns and not self._conversation.session_id:
            raise TransportError(
                "only new messages are sent to this endpoint, but no session is known: the "
                f"history holds {turns} answers, and none named its session; pass session_id= to "
                'name it, or sends="history" to send the whole history',
                retryable=False,
            )

    # - the response -

    def is_good(self, response: Response | AsyncResponse) -> bool:
        """Return True for a good status, and keep the session that the response names."""
        self._masked = response.masked
        if self._operation is not None:
            self._operation.status = response.status
        if response.status not in GOOD_STATUSES:
            return False
        if response.session_id:
            self._take_up_session(response.session_id)
        return True

    def _take_up_session(self, session_id: str) -> None:
        """Keep the session that an answer names, if the endpoint keeps the history in it."""
        keeps_history = self._setup.template.profile.sends == "new_messages"
        if keeps_history and self._conversation.session_id is None:
            self._conversation.session_id = session_id

    def break_off(self, error: TransportError) -> None:
        """Raise what broke the answer off, unless all of it had arrived."""
        self._control.check()
        if self.stream.is_complete:
            return
        if not self.stream.received or isinstance(error, ProviderError):
            raise self._ending(error)
        broken = IncompleteResponse(error_text(error), partial=self.stream.partial)
        broken.timed_out = error.timed_out
        raise self._ending(broken) from error

    def _notice_quirks(self, quirks: Sequence[Quirk]) -> None:
        """Keep the quirks of this answer, and log each kind once for this agent's endpoint."""
        for quirk in quirks:
            if all(kept.kind != quirk.kind for kept in self._setup.quirks):
                self._setup.quirks += (quirk,)
            if quirk.kind not in self._setup.known_quirks:
                self._setup.known_quirks.add(quirk.kind)
                if self._operation is not None:
                    self._operation.note("provider_quirk", kind=quirk.kind, detail=quirk.detail)

    def _ending(self, error: TransportError) -> TransportError | LimitReached | RunCancelled:
        """Return what ends the run: a cancellation, a timeout, or the error with the history."""
        if self._control.cancellation.is_set:
            return RunCancelled()
        if self._control.is_over():
            return self._control.out_of_time()
        _mask(error, self._masked)
        error.messages = self._conversation.messages
        return error


# - one model call, inside its hooks -

ReportDeltas = Callable[[list[Delta]], Awaitable[None]]
"""An async function that takes the deltas of an answer while it arrives."""


def ask_in_hooks(
    run: Run, effect: CallModel, setup: RunSetup, control: RunControl, transport: Transport
) -> Generator[Delta, None, AssistantMessage]:
    """Call the model inside the hooks, from blocking code; yield deltas, and return the answer."""
    streamed: list[ModelCall] = []

    def call(sent: ModelRequest) -> Generator[Delta, None, AssistantMessage]:
        call = ModelCall(run, effect.key, setup, control)
        asked = ask(call, effect, transport, sent)
        if not sent.streamed:
            return drained(asked)
        streamed.append(call)
        return (yield from asked)

    messages = setup.select(effect)
    request = ModelRequest.of(setup.offer_tools(effect.messages), messages)
    layer = partial(model_layer, _context(run, effect, setup))

    def hooked(next_: NextModel) -> AssistantMessage:
        outermost: NextModel = layered(setup.hooks.model, layer, next_)
        with setup.attached():
            return outermost(request)

    message = yield from with_hooks(hooked, call, control, is_read=setup.streams)
    control.check()
    if not any(call.stream.received for call in streamed):
        yield from _deltas_of(message)
    return message


def ask(
    call: ModelCall, effect: CallModel, transport: Transport, sent: ModelRequest | None = None
) -> Generator[Delta, None, AssistantMessage]:
    """Call the model from blocking code; yield the deltas, and return the answer."""
    with call:
        with call.open(effect, transport, sent) as pieces:
            for data in pieces:
                if call.first is None:
                    call.first = monotonic()
                yield from call.stream.feed(data)
                if call.stream.ended:
                    break
        yield from call.stream.close()
        return call.finish()


async def ask_async(
    run: Run,
    effect: CallModel,
    setup: RunSetup,
    control: RunControl,
    transport: AsyncTransport,
    report: ReportDeltas | None = None,
) -> AssistantMessage:
    """Call the model from async code; `report` gets the deltas. Return the answer."""
    if not setup.hooks.model:
        with ModelCall(run, effect.key, setup, control) as call:
            return await call.answer_async(effect, transport, report=report)
    streamed: list[ModelCall] = []

    async def ask(sent: ModelRequest) -> AssistantMessage:
        with ModelCall(run, effect.key, setup, control) as call:
            if not sent.streamed:
                return await call.answer_async(effect, transport, sent)
            streamed.append(call)
            return await call.answer_async(effect, transport, sent, report=report)

    with anyio.move_on_after(control.left()) as in_time, control.cancels(in_time):
        messages = await setup.select_async(effect)
        request = ModelRequest.of(setup.offer_tools(effect.messages), messages)
        layer = partial(async_model_layer, _context(run, effect, setup))
        hooked: AsyncNextModel = layered(setup.hooks.model, layer, ask)
        with setup.attached():
            message = await hooked(request)
        if report is not None and not any(call.stream.received for call in streamed):
            await report(_deltas_of(message))
    control.check()
    if in_time.cancelled_caught:
        raise control.out_of_time()
    return message


def _deltas_of(message: AssistantMessage) -> list[Delta]:
    """Return the deltas of an answer that no endpoint has sent."""
    stream = ResponseStream(0)
    return [*stream.feed(plain_body(message)), *stream.close()]


def _estimated(messages: Sequence[Message], max_tokens: int | None) -> Usage:
    """Estimate the usage of a call: the last answer of a history knows the tokens up to it."""
    prompt = 0
    for message in reversed(messages):
        known = message.usage if isinstance(message, AssistantMessage) else None
        if known is not None and (total := total_tokens(known)):
            prompt += total
            break
        prompt += estimate_tokens(message)
    answer = max_tokens or 0
    return Usage(prompt_tokens=prompt, completion_tokens=answer, total_tokens=prompt + answer)


def _used(message: AssistantMessage, estimated: Usage) -> Usage:
    """Return the usage of an answer; estimate it if the provider has not counted."""
    if message.usage is not None and total_tokens(message.usage):
        return message.usage
    prompt, answer = estimated.prompt_tokens or 0, estimate_tokens(message)
    return Usage(prompt_tokens=prompt, completion_tokens=answer, total_tokens=prompt + answer)


def _context(run: Run, effect: CallModel, setup: RunSetup) -> ModelContext:
    return ModelContext(
        key=effect.key,
        context=setup.context,
        conversation_id=run.conversation.id,
        session_id=run.conversation.session_id,
        last_word=effect.last_word,
    )


# Attributes of an error that quote the provider, in addition to its text.
_QUOTES = ("body", "data", "code", "type", "param", "said")


def _mask(error: TransportError, masked: Callable[[str], str]) -> None:
    """Remove API keys from the texts of its provider that an error quotes."""
    error.args = tuple(masked(part) if isinstance(part, str) else part for part in error.args)
    for name in _QUOTES:
        if quoted := getattr(error, name, None):
            setattr(error, name, masked(quoted))
