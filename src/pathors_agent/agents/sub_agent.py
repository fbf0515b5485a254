"""An agent as a tool of another agent.

The result of the tool keeps the inner run in `extra["run"]`. If the inner run waits for a person or
for the caller, its call stays open, with a message whose outcome is "suspended". That message has
the history from which the inner run continues.
"""

import math
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import anyio
from anyio.streams.memory import MemoryObjectSendStream

from pathors_agent.agents.approvals import Approval, Decision
from pathors_agent.agents.perform.tasks import STOP_SECONDS, left_alone
from pathors_agent.agents.perform.threads import ThreadTask
from pathors_agent.agents.result import RunResult
from pathors_agent.agents.stream import AsyncRunStream, RunStream
from pathors_agent.concurrency.event_loops import running_loop
from pathors_agent.core.conversation import Conversation, inner_conversation
from pathors_agent.core.limits import Limits, run_tokens
from pathors_agent.core.run import Status
from pathors_agent.errors import ToolError
from pathors_agent.history.loading import Prompt, stored_form
from pathors_agent.history.trim import spend
from pathors_agent.messages import AssistantMessage, JSONValue, ToolMessage, Usage
from pathors_agent.tools.results import RunInterrupted, RunValue
from pathors_agent.tools.signature import ToolContext

# A blocking agent that answers faster than its caller reads waits for the caller.
MAX_WAITING_ITEMS = 64


class Streaming(Protocol):
    """An agent of either kind, as `as_tool` needs it."""

    limits: Limits

    def stream(
        self,
        prompt: Prompt | None = None,
        *,
        conversation: Conversation | None = None,
        context: object = None,
        decisions: Iterable[Decision] = (),
        limits: Limits | None = None,
    ) -> RunStream[Any] | AsyncRunStream[Any]:
        """Run, and stream deltas and messages."""

    def approvals(self, conversation: Conversation, *, context: object = None) -> list[Approval]:
        """Return the calls of a conversation that wait for approval."""


@dataclass(frozen=True, eq=False)
class SubAgent:
    """The function of a tool that runs an agent: each call is a run of its own.

    The deltas and messages of the run are the tool's progress, and its answer is the result. Its
    tokens count to the outer run, and its tools get the context of the outer run. Cancelling the
    call cancels the run. The call may use at most `tokens`. With `suspended`, the function
    continues a suspended run, with the `decisions` about its calls.
    """

    agent: Streaming
    tokens: int | None = None
    suspended: ToolMessage | None = None
    decisions: Iterable[Decision] = ()

    def limited(self, tokens: int) -> "SubAgent":
        """Return the function for a call that may use at most this number of further tokens."""
        return replace(self, tokens=tokens)

    def approvals(self, suspended: ToolMessage, context: object) -> list[Approval]:
        """Return the calls of a suspended run that wait for approval."""
        return self.agent.approvals(inner_conversation(suspended), context=context)

    def resumed(self, suspended: ToolMessage, decisions: Iterable[Decision]) -> "SubAgent":
        """Return the function that goes on with a suspended run."""
        return replace(self, suspended=suspended, decisions=decisions)

    async def __call__(self, prompt: str, context: ToolContext) -> AsyncGenerator[object, None]:
        """Run the agent.

        Args:
            prompt: The task, with everything that is needed to do it.
            context: The context of the outer run.
        """
        before = self.suspended
        conversation = Conversation() if before is None else inner_conversation(before)
        conversation.id = context.key or None
        if before is not None:
            conversation.session_id = _run_of(before).get("session_id")
        stream = self.agent.stream(
            prompt if before is None else None,  # a suspended run has the prompt in its history
            conversation=conversation,
            context=context.context,
            decisions=self.decisions,
            limits=self._limits(),
        )
        async with aclosing(_run(stream, before)) as items:
            async for item in items:
                yield item

    def _limits(self) -> Limits | None:
        """Return the limits of the inner run: no more tokens than the outer run has left."""
        if self.tokens is None:
            return None
        if self.tokens <= 0:
            raise ToolError("Not run: the limit of total_tokens is reached.")
        own = self.agent.limits.total_tokens
        # The limit counts the tokens of the suspended part of the run again.
        left = self.tokens + (run_tokens(self.suspended) if self.suspended else 0)
        return replace(self.agent.limits, total_tokens=left if own is None else min(own, left))


async def _run(
    stream: RunStream[Any] | AsyncRunStream[Any], before: ToolMessage | None
) -> AsyncGenerator[object, None]:
    """Yield the items of a run, and its `RunValue` last; `before` is its suspended part.

    Raises `RunInterrupted` if the run is cancelled.
    """
    try:
        if isinstance(stream, AsyncRunStream):
            async with stream:
                async for item in stream:
                    yield item
        else:
            async with aclosing(_items_in_thread(stream)) as items:
                async for each in items:
                    yield each
    except BaseException as error:
        if not isinstance(error, GeneratorExit | anyio.get_cancelled_exc_class()):
            raise
        raise RunInterrupted(value_of(stream.result, before)) from None
    finally:
        spend(stream.result.usage)
    value = value_of(stream.result, before)
    try:
        yield value
    except GeneratorExit:  # the call was cancelled while an earlier item was reported
        raise RunInterrupted(value) from None


async def _items_in_thread(stream: RunStream[Any]) -> AsyncGenerator[object, None]:
    """Yield the items of a blocking run, which a thread reads."""
    loop = running_loop()
    assert loop is not None  # a coroutine runs
    send, receive = anyio.create_memory_object_stream[object](math.inf)
    room = threading.Semaphore(MAX_WAITING_ITEMS)

    def read() -> None:
        try:
            with stream:
                for item in stream:
                    room.acquire()
                    loop.call_soon(partial(_put, send, item))
        finally:
            loop.call_soon(send.close)

    task = ThreadTask(read)
    task.start()
    try:
        with send, receive:
            async for item in receive:
                room.release()
                yield item
        await task.wait(None)
    finally:
        if not task.has_ended:
            stream.cancel()
            room.release(MAX_WAITING_ITEMS)
            await task.wait_shielded(STOP_SECONDS)
            if not task.has_ended:
                raise left_alone()
    task.result()


def _put(send: MemoryObjectSendStream[object], item: object) -> None:
    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):  # the reader has left
        send.send_nowait(item)


def value_of(result: RunResult[Any], before: ToolMessage | None = None) -> RunValue:
    """Return the answer of an agent's run, or the reason why it has none.

    `before` is the suspended part of the run.
    """
    used = [m.usage for m in result.messages if isinstance(m, AssistantMessage) and m.usage]
    if before is not None:
        used.append(Usage.model_validate(_run_of(before).get("usage") or {}))
    run: dict[str, JSONValue] = stored_form(result.conversation.messages)
    run["usage"] = dict(_known_counts([*used, *result.spent]))
    if result.session_id is not None:
        run["session_id"] = result.session_id
    match result.status:
        case Status.FINISHED:
            return RunValue(result.output, run)
        case Status.SUSPENDED:
            names = ", ".join(sorted({call.name for call in result.open_calls}))
            return RunValue(f"Suspended: {names} must be approved or answered.", run, "suspended")
        case Status.LIMIT_REACHED:
            text = f"The agent has no answer: it reached its limit of {result.limit}."
            return RunValue(text, run, "error")
        case Status.RUNNING:
            run["can_go_on"] = True
            return RunValue("Interrupted: it goes on with the run.", run, "suspended")
        case Status.NO_ANSWER:
            return RunValue("The agent has no answer.", run, "error")


def _known_counts(used: Iterable[Usage]) -> Counter[str]:
    """Sum the counts that are known; an answer without counts does not hide those of others."""
    counts: Counter[str] = Counter()
    for usage in used:
        counts.update(usage.model_dump(exclude_none=True))
    return counts


def _run_of(message: ToolMessage) -> Mapping[str, Any]:
    run = message.extra.get("run")
    return run if isinstance(run, dict) else {}
