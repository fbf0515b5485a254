"""One model call: what to send, what an answer's status means, and how the call ended.

Both loops make their calls through it; the reading and waiting is theirs.
"""

import inspect
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Self

from pathors_agent.agents.answers import AnswerType, ArrivingAnswer, name_taken
from pathors_agent.agents.approvals import Approvals
from pathors_agent.agents.control import RunControl, TimeIsUp
from pathors_agent.agents.perform.journal import Journal
from pathors_agent.concurrency.cancellation import RunCancelled
from pathors_agent.core.run import CallModel, CallTool, Run
from pathors_agent.errors import IncompleteResponse, ProviderError, TransportError, error_text
from pathors_agent.history.trim import AsyncHistory, checked, spending
from pathors_agent.messages import AssistantMessage, Message, ToolMessage, Usage
from pathors_agent.telemetry.runs import ModelOperation, RunTelemetry
from pathors_agent.tools.registry import AsyncToolChoice, ToolRegistry, chosen, chosen_async
from pathors_agent.transports.base import (
    AsyncResponse,
    AsyncTransport,
    Request,
    Response,
    Transport,
)
from pathors_agent.transports.retry import retry_after
from pathors_agent.wire.chat_completions import RequestTemplate
from pathors_agent.wire.message_builder import Quirk
from pathors_agent.wire.provider_errors import MAX_ERROR_BODY_BYTES, decode_error
from pathors_agent.wire.response_stream import ResponseStream

# Anything else is an error to read, redirects included: a key must not follow them.
_GOOD_STATUSES = range(200, 300)


@dataclass(slots=True, kw_only=True)
class Bindings:
    """What a run's effects are performed with.

    `context` reaches the tools as `ToolContext.context`. `choice`, where there is one, gives the
    `tools` of each turn. `quirks` gathers what had to be read around in this run's answers, one of
    each kind; `known_quirks` are the kinds that were logged before. `answers` is the type asked
    for, `arriving` shows an answer while it comes, `history` chooses what of the history is sent,
    for the tokens in `spent`. `telemetry` follows the run; `journal` is told of the calls of tools
    in async code.
    """

    tools: ToolRegistry
    template: RequestTemplate
    approvals: Approvals
    context: object = None
    choice: AsyncToolChoice | None = None
    quirks: tuple[Quirk, ...] = ()
    known_quirks: set[str] = field(default_factory=set)
    answers: AnswerType[Any] | None = None
    arriving: ArrivingAnswer | None = None
    history: AsyncHistory | None = None
    spent: list[Usage] | None = None  # until something is chosen
    telemetry: RunTelemetry = field(default_factory=RunTelemetry)
    journal: Journal | None = None

    def choose_tools(self, run: Run) -> None:
        """Ask for the tools of the turn that comes, where there is a choice."""
        if self.choice is not None:
            self._take(chosen(self.choice, self.context), run)

    async def choose_tools_async(self, run: Run) -> None:
        """As `choose_tools`."""
        if self.choice is not None:
            self._take(await chosen_async(self.choice, self.context), run)

    def report_answered(self, effect: CallTool, message: ToolMessage) -> None:
        """Report a call that got its result without running its tool."""
        name = effect.call.name
        is_known = name in self.tools or bool(self.answers and name == self.answers.final_tool)
        self.telemetry.answered(effect.key, effect.call, message, is_known=is_known)

    def _take(self, tools: ToolRegistry, run: Run) -> None:
        if tools is not self.tools:
            if self.answers and self.answers.final_tool in tools:
                raise name_taken()
            self.template = replace(self.template, tools=tools.definitions())
        self.tools = self.approvals.tools = tools
        run.client_tools = tools.client_tools


class ModelCall:
    """One model call on its way: the request, the answer's stream, and how it ended.

    A context manager, so that its end is told whatever it is.
    """

    __slots__ = (
        "_bindings",
        "_control",
        "_conversation",
        "_key",
        "_masked",
        "_operation",
        "first",
        "stream",
    )

    def __init__(self, run: Run, key: str, bindings: Bindings, control: RunControl) -> None:
        self._bindings = bindings
        self._control = control
        self._conversation = run.conversation
        self._key = key
        self._masked: Callable[[str], str] = str
        self._operation: ModelOperation | None = None  # until there is something to send
        self.first: float | None = None
        """When the first of the answer came, for a driver to say."""
        self.stream = ResponseStream(run.conversation.turns)
        control.reads(self.stream)
        if bindings.arriving:
            bindings.arriving.watch(self.stream.builder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        self._control.reads(None)
        if self._operation is not None:
            self._operation.first = self.first
            self._operation.close(error)

    def request(self, effect: CallModel) -> Request:
        """The request, in the conversation's session."""
        choose = self._choice()
        if choose is None:
            return self._request(effect, effect.messages)
        with self._choosing():
            messages = choose(effect.messages)
        if isinstance(messages, Awaitable):
            if inspect.iscoroutine(messages):
                messages.close()  # or Python warns of it
            raise TypeError(
                "history= gave something to await, which only AsyncAgent does: "
                "pass a function that is not async"
            )
        return self._request(effect, messages)

    async def request_async(self, effect: CallModel) -> Request:
        """As `request`; `history` may be async."""
        choose = self._choice()
        if choose is None:
            return self._request(effect, effect.messages)
        with self._choosing():
            messages = choose(effect.messages)
            if isinstance(messages, Awaitable):
                messages = await messages
        return self._request(effect, messages)

    @contextmanager
    def _choosing(self) -> Iterator[None]:
        """Count what it takes to choose to this run, and its spans as this run's."""
        bindings = self._bindings
        bindings.spent = spent = bindings.spent or []
        with spending(spent), bindings.telemetry.current():
            yield

    def _choice(self) -> AsyncHistory | None:
        """What chooses the messages to send; an endpoint that keeps the history has all of it."""
        sends_all = self._bindings.template.profile.sends == "new_messages"
        return None if sends_all else self._bindings.history

    def _request(self, effect: CallModel, messages: Sequence[Message]) -> Request:
        if messages is not effect.messages:
            messages = checked(messages)
        template = self._bindings.template
        self._refuse_fragment(template)
        if effect.last_word:
            template = template.without_calls
        elif self._conversation.turns_since_user:
            template = template.after_first
        self._operation = operation = self._bindings.telemetry.begin_model(
            self._key, template, self._conversation, messages
        )
        session_id = self._conversation.session_id
        in_body = template.profile.session_in == "body"
        return Request(
            body=template.encode(messages, session_id=session_id if in_body else None),
            headers=operation.headers(),
            session_id=None if in_body else session_id,
            seconds=self._control.left(),
            on_event=operation.note,
            cancellation=self._control.cancellation,
        )

    def sending(self, transport: Transport, request: Request) -> AbstractContextManager[Response]:
        """Send the request in the context of the call's span."""
        open_ = partial(transport.send, request)
        return open_() if self._operation is None else self._operation.sending(open_)

    def sending_async(
        self, transport: AsyncTransport, request: Request
    ) -> AbstractAsyncContextManager[AsyncResponse]:
        """As `sending`."""
        open_ = partial(transport.send, request)
        return open_() if self._operation is None else self._operation.sending_async(open_)

    def _refuse_fragment(self, template: RequestTemplate) -> None:
        """Raise if the endpoint would get only the last messages of a history it cannot know."""
        turns = self._conversation.turns
        if template.profile.sends == "new_messages" and turns and not self._conversation.session_id:
            raise TransportError(
                "only new messages are sent to this endpoint, but no session is known: the "
                f"history holds {turns} answers, and none named its session; pass session_id= to "
                'name it, or sends="history" to send the whole history',
                retryable=False,
            )

    def _take_up_session(self, session_id: str | None) -> None:
        """Keep the session that an answer names, if the endpoint keeps the history in it."""
        keeps_history = self._bindings.template.profile.sends == "new_messages"
        if keeps_history and session_id and self._conversation.session_id is None:
            self._conversation.session_id = session_id

    def check(self, response: Response) -> None:
        """Raise the error that an error status brings; keep the session of a good answer."""
        if not self._is_good(response):
            raise self._refusal(response, _cut(response.pieces))

    async def check_async(self, response: AsyncResponse) -> None:
        """As `check`."""
        if not self._is_good(response):
            raise self._refusal(response, await _cut_async(response.pieces))

    def _is_good(self, response: Response | AsyncResponse) -> bool:
        self._masked = response.masked
        if self._operation is not None:
            self._operation.status = response.status
        if response.status not in _GOOD_STATUSES:
            return False
        self._take_up_session(response.session_id)
        return True

    def _refusal(self, response: Response | AsyncResponse, body: bytes) -> ProviderError:
        wait = retry_after(response.headers, now=time.time()) or None
        return decode_error(response.status, body, retry_after=wait, attempts=response.attempts)

    def break_off(self, error: TransportError) -> None:
        """Raise what broke the answer off, unless all of it had arrived."""
        self._control.check()
        if self.stream.is_complete:
            return
        if not self.stream.received or isinstance(error, ProviderError):
            raise self._told(error)
        broken = IncompleteResponse(error_text(error), partial=self.stream.partial)
        broken.timed_out = error.timed_out
        raise self._told(broken) from error

    def finish(self) -> AssistantMessage:
        """Give the message, or raise what kept it from being complete."""
        self._control.check()
        try:
            message = self.stream.finish()
        except TransportError as error:
            raise self._told(error) from None
        self._take_up_session(self.stream.builder.session_id)
        if self._operation is not None:
            self._operation.message = message
        if self.stream.quirks:
            self._notice_quirks()
        return message

    def _notice_quirks(self) -> None:
        """Keep what had to be read around, and log each kind once for this agent's endpoint."""
        for quirk in self.stream.quirks:
            if all(kept.kind != quirk.kind for kept in self._bindings.quirks):
                self._bindings.quirks += (quirk,)
            if quirk.kind not in self._bindings.known_quirks:
                self._bindings.known_quirks.add(quirk.kind)
                if self._operation is not None:
                    self._operation.note("provider_quirk", kind=quirk.kind, detail=quirk.detail)

    def _told(self, error: TransportError) -> TransportError | TimeIsUp | RunCancelled:
        """Give an error the history from which a run goes on."""
        if self._control.cancellation.is_set:
            return RunCancelled()
        if self._control.is_over():
            return TimeIsUp()
        _mask(error, self._masked)
        error.messages = self._conversation.messages
        return error


# Attributes of an error that quote the provider, beside its text.
_QUOTES = ("body", "data", "code", "type", "param", "said")


def _mask(error: TransportError, masked: Callable[[str], str]) -> None:
    """Remove keys from what an error quotes of its provider."""
    error.args = tuple(masked(said) if isinstance(said, str) else said for said in error.args)
    for name in _QUOTES:
        if said := getattr(error, name, None):
            setattr(error, name, masked(said))


def _cut(pieces: Iterable[bytes]) -> bytes:
    body = b""
    for data in pieces:
        body += data
        if len(body) > MAX_ERROR_BODY_BYTES:
            break
    return body[:MAX_ERROR_BODY_BYTES]


async def close_pieces(pieces: AsyncIterable[bytes]) -> None:
    """Close what gave an answer's pieces: an async generator that is left does not by itself."""
    close = getattr(pieces, "aclose", None)
    if close is not None:
        await close()


async def _cut_async(given: AsyncIterable[bytes]) -> bytes:
    pieces, body = aiter(given), b""
    try:
        async for data in pieces:
            body += data
            if len(body) > MAX_ERROR_BODY_BYTES:
                break
    finally:
        await close_pieces(pieces)
    return body[:MAX_ERROR_BODY_BYTES]
