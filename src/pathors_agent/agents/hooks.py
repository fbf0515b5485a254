"""Hooks: objects of the caller that wrap each model call and each tool call of a run.

A hook can read a call, change its arguments or its result, replace it by not calling `next`, or end
the run. The first hook of an agent is the outermost one.

The hooks of an `AsyncAgent` are coroutines. Those of an `Agent` are plain functions, which cannot
yield deltas. So while a stream is read, such a hook runs in a thread of its own, and its `next`
waits until the reader's thread has made the call.
"""

import inspect
import threading
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field, replace
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

from pathors_agent.agents.control import RunControl
from pathors_agent.agents.perform.tasks import STOP_SECONDS
from pathors_agent.agents.perform.threads import start_call
from pathors_agent.concurrency.event_loops import RunCancelled
from pathors_agent.errors import LimitReached
from pathors_agent.messages import AssistantMessage, JSONValue, Message, ToolCall, ToolMessage
from pathors_agent.tools.registry import not_awaited
from pathors_agent.tools.signature import ToolContext
from pathors_agent.wire.chat_completions import ModelOptions, RequestTemplate

ValueT = TypeVar("ValueT")
ResultT = TypeVar("ResultT")

Arguments = Mapping[str, Any]
"""The arguments of a tool call by their names."""


@dataclass(frozen=True, slots=True)
class ModelContext:
    """The facts about a model call that its request does not have.

    `key` is equal on every replay of the history. `context` is the value that the caller passed to
    the run. `last_word` is True for the call without tools that a limit allows. `conversation_id` is
    the id of the conversation, and `session_id` that of the endpoint's session, if it keeps one.
    """

    key: str
    context: Any = field(repr=False)
    conversation_id: str | None = None
    session_id: str | None = None
    last_word: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRequest:
    """The request of a model call. Change it with `dataclasses.replace`.

    `messages` are the messages that `history=` has selected; the conversation is not changed.
    `tools` are OpenAI's tool definitions. With `streamed=False` the reader of the stream gets no
    deltas while the answer arrives. It gets the deltas of the answer that the hook returns.
    """

    messages: Sequence[Message] = field(repr=False)
    model: str | None = None
    instructions: str | None = field(default=None, repr=False)
    tools: Sequence[JSONValue] = field(default=(), repr=False)
    options: ModelOptions = field(default_factory=ModelOptions)
    streamed: bool = True

    @classmethod
    def of(cls, template: RequestTemplate, messages: Sequence[Message]) -> "ModelRequest":
        """Build the request of a template for these messages."""
        fields = {name: getattr(template, name) for name in _TEMPLATE_FIELDS}
        return cls(messages=tuple(messages), **fields)

    def applied_to(self, template: RequestTemplate) -> RequestTemplate:
        """Return the template with the changes of this request."""
        fields = {name: getattr(self, name) for name in _TEMPLATE_FIELDS}
        changed = {n: value for n, value in fields.items() if value is not getattr(template, n)}
        return replace(template, **changed) if changed else template


_TEMPLATE_FIELDS = ("model", "instructions", "tools", "options")

NextModel = Callable[[ModelRequest], AssistantMessage]
"""Calls the model through the remaining hooks, and returns its answer."""
NextTool = Callable[[Arguments], ToolMessage]
"""Runs the tool through the remaining hooks, and returns its result."""
AsyncNextModel = Callable[[ModelRequest], Awaitable[AssistantMessage]]
"""An async `NextModel`."""
AsyncNextTool = Callable[[Arguments], Awaitable[ToolMessage]]
"""An async `NextTool`."""


class ModelHook(Protocol):
    """A hook of an `Agent` around its model calls."""

    def around_model(
        self,
        call: ModelContext,
        request: ModelRequest,
        next: NextModel,  # noqa: A002
        /,
    ) -> AssistantMessage:
        """Return the answer; `next(request)` calls the model."""


class ToolHook(Protocol):
    """A hook of an `Agent` around its tool calls."""

    def around_tool(
        self,
        call: ToolCall,
        arguments: dict[str, Any],
        context: ToolContext[Any],
        next: NextTool,  # noqa: A002
        /,
    ) -> object:
        """Return the result; `next(arguments)` runs the tool."""


class AsyncModelHook(Protocol):
    """A hook of an `AsyncAgent` around its model calls."""

    async def around_model(
        self,
        call: ModelContext,
        request: ModelRequest,
        next: AsyncNextModel,  # noqa: A002
        /,
    ) -> AssistantMessage:
        """Return the answer; `await next(request)` calls the model."""


class AsyncToolHook(Protocol):
    """A hook of an `AsyncAgent` around its tool calls."""

    async def around_tool(
        self,
        call: ToolCall,
        arguments: dict[str, Any],
        context: ToolContext[Any],
        next: AsyncNextTool,  # noqa: A002
        /,
    ) -> object:
        """Return the result; `await next(arguments)` runs the tool."""


Hook = ModelHook | ToolHook
"""A hook of an `Agent`: an object with `around_model`, `around_tool` or both."""

AsyncHook = AsyncModelHook | AsyncToolHook
"""A hook of an `AsyncAgent`: as `Hook`, with async methods."""

_METHODS = ("around_model", "around_tool")


@dataclass(frozen=True, slots=True)
class Hooks:
    """The methods of an agent's hooks, the outermost first."""

    model: tuple[Callable[..., Any], ...] = ()
    tool: tuple[Callable[..., Any], ...] = ()

    @classmethod
    def of(cls, hooks: Iterable[object], *, is_async: bool) -> "Hooks":
        """Return the methods of hooks; raise `TypeError` for an object that is not a hook."""
        if not isinstance(hooks, Iterable):
            raise TypeError(f"hooks= is a {type(hooks).__name__}; write hooks=[...]")
        given = tuple(hooks)
        for hook in given:
            _check(hook, is_async=is_async)
        model, tool = (
            tuple(getattr(hook, name) for hook in given if hasattr(hook, name)) for name in _METHODS
        )
        return cls(model, tool)


NO_HOOKS = Hooks()


def _check(hook: object, *, is_async: bool) -> None:
    name = type(hook).__name__
    methods = {method: getattr(hook, method) for method in _METHODS if hasattr(hook, method)}
    if not methods or isinstance(hook, type):
        found = f"the class {hook.__name__}" if isinstance(hook, type) else f"a {name}"
        hint = f"; pass {hook.__name__}()" if isinstance(hook, type) and methods else ""
        raise TypeError(
            f"hooks= contains {found}, and not an object with around_model or around_tool{hint}"
        )
    for method, function in methods.items():
        if not callable(function):
            raise TypeError(f"hooks=: {name}.{method} is not a method")
        if not is_async and inspect.iscoroutinefunction(function):
            raise TypeError(
                f"hooks=: {name}.{method} is async, which only AsyncAgent can await; write `def`"
            )


# - layers -


def layered(
    hooks: Iterable[Callable[..., Any]],
    wrap: Callable[[Callable[..., Any], Callable[[ValueT], ResultT]], Callable[[ValueT], ResultT]],
    call: Callable[[ValueT], ResultT],
) -> Callable[[ValueT], ResultT]:
    """Return a call inside its hooks; `wrap` returns the call of one hook around the next."""
    for hook in reversed(tuple(hooks)):
        call = wrap(hook, call)
    return call


def name_of(hook: Callable[..., Any]) -> str:
    """Return the name of a hook's method for errors."""
    return getattr(hook, "__qualname__", None) or type(hook).__name__


async def awaited(hook: Callable[..., Any], value: object) -> object:
    """Return what a hook of an async agent returned; raise `TypeError` if it is not async."""
    if not isinstance(value, Awaitable):
        raise TypeError(
            f"hooks=: {name_of(hook)} is not async; AsyncAgent awaits its hooks, write `async def`"
        )
    return await value


def as_answer(hook: Callable[..., Any], value: object) -> AssistantMessage:
    """Return what `around_model` returned; raise `TypeError` if it is not an answer."""
    if not isinstance(value, AssistantMessage):
        raise TypeError(
            f"hooks=: {name_of(hook)} returned a {type(value).__name__}, and not an "
            "AssistantMessage; return the answer of next(request), or one of your own"
        )
    return value


def model_layer(context: ModelContext, hook: Callable[..., Any], call: NextModel) -> NextModel:
    """Return `around_model` of one hook around a model call."""
    name = f"hooks=: {name_of(hook)}"
    return lambda request: as_answer(hook, not_awaited(name, hook(context, request, call)))


def async_model_layer(
    context: ModelContext, hook: Callable[..., Any], call: AsyncNextModel
) -> AsyncNextModel:
    """Return `around_model` of one async hook around a model call."""

    async def layer(request: ModelRequest) -> AssistantMessage:
        return as_answer(hook, await awaited(hook, hook(context, request, call)))

    return layer


# - hooks of a blocking agent -

DeltaT = TypeVar("DeltaT")


def drained(call: Generator[Any, None, ResultT]) -> ResultT:
    """Run a call to its end, without its deltas, and return its result."""
    while True:
        try:
            next(call)
        except StopIteration as end:
            result: ResultT = end.value
            return result


class _Handover(Generic[ValueT, ResultT]):
    """Pass arguments of `next` from the hooks' thread to another thread, and answers back."""

    def __init__(self) -> None:
        self.queue: SimpleQueue[tuple[ValueT, Future[ResultT]] | None] = SimpleQueue()
        self._open: set[Future[ResultT]] = set()
        self._closed: BaseException | None = None
        self._lock = threading.Lock()

    def next(self, value: ValueT) -> ResultT:
        """Pass a value to the other thread, and wait for the answer.

        Raises the exception of `close` after it.
        """
        answer: Future[ResultT] = Future()
        with self._lock:
            if self._closed is not None:
                raise self._closed
            self._open.add(answer)
        self.queue.put((value, answer))
        try:
            return answer.result()
        finally:
            with self._lock:
                self._open.discard(answer)

    def wake(self) -> None:
        """Wake the thread that makes the calls."""
        self.queue.put(None)

    def close(self, error: BaseException) -> None:
        """End all waiting for answers: `next` raises the error."""
        with self._lock:
            self._closed = error
            left = [answer for answer in self._open if not answer.done()]
        for answer in left:
            answer.set_exception(error)


def with_hooks(
    hooks: Callable[[Callable[[ValueT], ResultT]], ResultT],
    call: Callable[[ValueT], Generator[DeltaT, None, ResultT]],
    control: RunControl,
    *,
    is_read: bool,
) -> Generator[DeltaT, None, ResultT]:
    """Run a call inside its hooks; yield its deltas if the stream is read."""
    if not is_read:
        return hooks(lambda value: drained(call(value)))
    return (yield from _in_thread(hooks, call, control))


def _in_thread(
    hooks: Callable[[Callable[[ValueT], ResultT]], ResultT],
    call: Callable[[ValueT], Generator[DeltaT, None, ResultT]],
    control: RunControl,
) -> Generator[DeltaT, None, ResultT]:
    """Run hooks in a thread; make the calls of their `next` here, and yield the deltas.

    If the run is cancelled, abandoned or out of time, a waiting `next` raises `RunCancelled`. Hooks
    that do not end within `STOP_SECONDS` are abandoned.
    """
    handover = _Handover[ValueT, ResultT]()
    outcome: Future[ResultT] = start_call(partial(hooks, handover.next))
    outcome.add_done_callback(lambda _: handover.wake())
    try:
        with control.cancellation.calls(handover.wake):
            yield from _serve(handover, outcome, call, control)
    except BaseException as error:
        handover.close(RunCancelled())
        wait([outcome], STOP_SECONDS)
        # A value that hooks return soon after a cancellation counts, as with tools.
        if not outcome.done() or not isinstance(error, RunCancelled | LimitReached):
            raise
    else:
        # Another thread of the hooks may call `next` too late.
        handover.close(RuntimeError("next() was called after its hook returned"))
    return outcome.result()


def _serve(
    handover: _Handover[ValueT, ResultT],
    outcome: Future[ResultT],
    call: Callable[[ValueT], Generator[DeltaT, None, ResultT]],
    control: RunControl,
) -> Generator[DeltaT, None, None]:
    """Run the calls that the hooks request, until the hooks have ended."""
    while not outcome.done():
        try:
            given = handover.queue.get(timeout=control.left())
        except Empty:
            continue  # `left` raises that the time is up
        if given is None:
            continue
        value, answer = given
        try:
            result = yield from call(value)
        except Exception as error:  # noqa: BLE001  (for the hook that called `next`)
            answer.set_exception(error)
        else:
            answer.set_result(result)
