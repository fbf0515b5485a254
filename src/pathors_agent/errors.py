"""Every public exception of the library, with what to do about it.

::

    AgentError
        ConversationError         fix the call: this message may not come next
        ToolDefinitionError       fix the tool: its name, signature or schema is unusable
            UnreadableDefinition  fix the definition: it does not have OpenAI's form
        RunNotFinished            read `status`: suspended, stopped at a limit, or refused
        ToolLoopError             use AsyncAgent: a blocking agent has no event loop
        StreamInUse               read a stream in one task or thread only
        TransportError            retry if `retryable`: no complete answer arrived
            ProviderError         the provider answered with an error
            MalformedResponse     the provider broke the format
            IncompleteResponse    the answer ended before it was finished
        AuthenticationError       pass a valid API key
        InvalidSetting            fix the setting: an address, key, proxy or timeout
        InvalidProjectFile        fix the projects file
        CannotListen              choose another host or port for the server
        WrongEventLoop            use the object on the event loop that opened it
        StoreError                check the database: sessions cannot be read or written
            SessionNotFound
            SessionConflict       another writer changed the session first
            RunNotFound           no durable run has this id
            RunExists             another durable run has this id
        RunFailed                 resume the durable run: it stopped at an error
        ToolMissing               add the tool again, and resume the durable run
        BatchRefused              fix the input of the batch
    ToolError                     raise it inside a tool to report an error to the model
    LimitReached                  raise it inside a hook to end the run
    AssertionError
        CassetteMiss              record the request: the cassette does not contain it
        CassetteRefused           keep the secret out of the recording
        ReplayDifference          compare: the run differs from its log

The text says what happened, where, and what to do; attributes hold the details.
"""

import copyreg
from dataclasses import dataclass
from typing import Any

from pathors_agent.messages import AssistantMessage, Message

# Enough to recognise a proxy's error page, and small enough for a log line.
QUOTED_BODY_BYTES = 2048


# Attributes with message contents. They are not pickled: pickled errors go to queues, logs and caches.
_CONTENTS: dict[str, object] = {"messages": (), "partial": None, "body": "", "data": ""}


def error_text(error: BaseException) -> str:
    """Return an exception's text, or the name of its class if it has no text."""
    try:
        return str(error).strip() or type(error).__name__
    except Exception as second:  # noqa: BLE001  (an exception's own __str__ may raise)
        return f"(its text could not be read: {type(second).__name__})"


def named_error(error: BaseException) -> str:
    """Return the name of an exception's class, and its text if it has one."""
    name, text = type(error).__name__, error_text(error)
    return name if text == name else f"{name}: {text}"


def refuse_other(owner: str, value: object, *kinds: type[object]) -> None:
    """Raise TypeError for a value that is of none of these kinds; `owner` takes it."""
    if not isinstance(value, kinds):
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise TypeError(f"{owner} takes {wanted}, not {type(value).__name__}")


class AgentError(Exception):
    """Base class of the library's errors. Pickling leaves out the messages that an error holds."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are rebuilt by calling the class with `args`; ours have keyword-only
        # attributes, so they are rebuilt around `__init__`.
        empty = {name: value for name, value in _CONTENTS.items() if name in self.__dict__}
        # Documented for pickle, absent from typeshed.
        rebuild = copyreg.__newobj__  # type: ignore[attr-defined]
        return rebuild, (type(self), *self.args), self.__dict__ | empty


class ConversationError(AgentError):
    """This message may not come next, or these messages are not a legal conversation.

    `next_role` and `event` are the row and column of the state table, `open_calls` the ids of the
    calls without a result, and `index` the position of the message in a refused history.
    """

    def __init__(
        self,
        text: str,
        *,
        next_role: str | None = None,
        event: str | None = None,
        open_calls: tuple[str, ...] = (),
        index: int | None = None,
    ) -> None:
        super().__init__(text)
        self.next_role = next_role
        self.event = event
        self.open_calls = open_calls
        self.index = index


class ToolDefinitionError(AgentError):
    """A tool cannot be registered; `tool` is its name, and `path` points into its definition."""

    def __init__(self, text: str, *, tool: str, path: str = "") -> None:
        super().__init__(text)
        self.tool = tool
        self.path = path


class UnreadableDefinition(ToolDefinitionError):
    """A tool definition does not have OpenAI's form; `place` is a path such as `.function.name`."""

    def __init__(self, place: str, problem: str) -> None:
        what = f"the definition's {place.lstrip('.')}" if place else "a definition"
        super().__init__(f"tools=: {what} {problem}", tool="", path=place)
        self.place = place
        self.problem = problem


class RunNotFinished(AgentError):
    """The run has no answer: it is suspended, stopped at a limit, or was refused.

    `status` is the run's status; `messages` is the whole history, from which a run can continue.
    """

    def __init__(self, text: str, *, status: str, messages: tuple[Message, ...]) -> None:
        super().__init__(text)
        self.status = status
        self.messages = messages


class ToolLoopError(AgentError):
    """A blocking agent has no event loop for its async tools: it did not start, or was closed.

    The tool call is still open.
    """


class StreamInUse(AgentError, RuntimeError):
    """Another task or thread reads this stream."""


class TransportError(AgentError):
    """No complete answer arrived; the model call is still pending.

    `messages` is the history so far if a run raised the error: a new run on it continues where
    this one stopped. `retryable` is False if the same request would fail again; `timed_out` is
    True if a timeout was reached. `attempts` is how often the request was sent. `was_idle` is True
    if a reused connection was closed before any byte of the answer.
    """

    def __init__(self, text: str, *, retryable: bool = True, timed_out: bool = False) -> None:
        super().__init__(text)
        self.retryable = retryable
        self.timed_out = timed_out
        self.attempts = 1
        self.was_idle = False
        self.messages: tuple[Message, ...] = ()


class ProviderError(TransportError):
    """The provider answered with an error, by HTTP status or inside a stream.

    `status` is the HTTP status (200 for an error inside an answer). `code`, `type`, `param` and
    `said` (the message) are the provider's fields, `body` is the first 2 KB of the answer,
    `retry_after` is in seconds, and `partial` is the part of the message that had arrived.
    """

    def __init__(
        self,
        text: str,
        *,
        status: int,
        code: str | None = None,
        type: str | None = None,  # noqa: A002  (OpenAI's name for the field)
        param: str | None = None,
        said: str = "",
        body: str = "",
        retry_after: float | None = None,
        partial: AssistantMessage | None = None,
        retryable: bool = False,
    ) -> None:
        super().__init__(text, retryable=retryable)
        self.status = status
        self.code = code
        self.type = type
        self.param = param
        self.said = said
        self.body = body
        self.retry_after = retry_after
        self.partial = partial


class MalformedResponse(TransportError):
    """The provider's answer has a wrong format.

    `data` is the start of the unreadable part, `offset` its first byte in the body, and `partial`
    the part of the message that had arrived before.
    """

    def __init__(
        self, text: str, *, data: str = "", offset: int = 0, partial: AssistantMessage | None = None
    ) -> None:
        super().__init__(text, retryable=False)
        self.data = data
        self.offset = offset
        self.partial = partial


class IncompleteResponse(TransportError):
    """The answer ended without a finish_reason or `[DONE]`; `partial` is the part that arrived."""

    def __init__(self, text: str, *, partial: AssistantMessage | None = None) -> None:
        super().__init__(text)
        self.partial = partial


class StoreError(AgentError):
    """Sessions cannot be read or written."""


class SessionNotFound(StoreError):
    """No session has this id in this project."""


class SessionConflict(StoreError):
    """Another writer changed the session first."""


class RunNotFound(StoreError):
    """No durable run has this id in this database."""


class RunExists(StoreError):
    """Another durable run has this id, or another answer was recorded first."""


class RunFailed(AgentError):
    """A durable run stopped at an error; `resume` continues it from the same effect.

    `kind` is the name of the error's class, or `cancelled`; `retryable` is False if the same effect
    would fail again; `status` is the HTTP status of a provider's error; `messages` is the history.
    """

    def __init__(
        self,
        text: str,
        *,
        kind: str,
        retryable: bool = True,
        status: int | None = None,
        messages: tuple[Message, ...] = (),
    ) -> None:
        super().__init__(text)
        self.kind = kind
        self.retryable = retryable
        self.status = status
        self.messages = messages


class ToolMissing(AgentError):
    """A call names a tool that the durable agent does not have; add the tool and resume the run."""


class BatchRefused(AgentError, ValueError):
    """A line of a batch's input is not a conversation; no run was started."""


class AuthenticationError(AgentError):
    """The API key is missing or not accepted."""


class InvalidSetting(AgentError, ValueError):
    """An address, key, header, proxy, certificate file or timeout cannot be used."""


class InvalidProjectFile(AgentError, ValueError):
    """A projects file cannot be used; the text names the file and the field."""


class WrongEventLoop(AgentError, RuntimeError):
    """An object that belongs to one event loop was used on another event loop."""


class CannotListen(AgentError):
    """The server cannot listen on this address."""


class ToolError(Exception):
    """Raised inside a tool to report an error to the model.

    Its text becomes the result of the call, and the exception never leaves the run. With
    `retryable=False` the tool is not run again before the next message of the user.
    """

    retryable = True  # also where a subclass does not call `__init__`

    def __init__(self, text: str = "", *, retryable: bool = True) -> None:
        super().__init__(text)
        self.retryable = retryable


class LimitReached(Exception):
    """Raised inside a hook to end the run, as a limit does.

    The run's `status` is LIMIT_REACHED, and its `limit` is the text that is passed. The exception
    never leaves the run; calls that have no result yet are still open.
    """

    def __init__(self, limit: str) -> None:
        super().__init__(limit)
        self.limit = limit
        self.timed_out = limit in ("seconds", "budget.seconds")


@dataclass(frozen=True, slots=True)
class Difference:
    """The first place where two JSON values differ: its path, and the text of each value there."""

    path: str
    before: str
    now: str

    def __str__(self) -> str:
        return f"{self.path or 'the whole'}: {self.before} before, {self.now} now"


class CassetteMiss(AssertionError):
    """A cassette has no recording of this request.

    `difference` is the first place where the nearest recording differs, or None without one.
    """

    def __init__(self, text: str, *, difference: Difference | None = None) -> None:
        super().__init__(text)
        self.difference = difference


class CassetteRefused(AssertionError):
    """A recording still contains a secret after it was scrubbed, and is not stored."""


class ReplayDifference(AssertionError):
    """A replayed run differs from its log.

    `request` is the number of the request that differs, or None if only a message differs;
    `difference` is the first place where they differ.
    """

    def __init__(self, text: str, *, request: int | None, difference: Difference) -> None:
        super().__init__(text)
        self.request = request
        self.difference = difference
