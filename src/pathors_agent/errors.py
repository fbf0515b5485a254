"""Every exception that the library raises to its users, grouped by what can be done about it.

::

    AgentError
        ConversationError         fix the call: this message may not come next
        ToolDefinitionError       fix the tool: its name, signature or schema is unusable
            UnreadableDefinition  fix the definition: it has another form than OpenAI's
        RunNotFinished            read why: the run is suspended, at a limit, or was refused an answer
        ToolLoopError             use AsyncAgent: a blocking agent has no event loop
        StreamInUse               let one task or thread read a stream, and leave it
        TransportError            retry, or read why not: no complete answer arrived
            ProviderError         the provider answered with an error
            MalformedResponse     the provider broke the format
            IncompleteResponse    the answer ended before it was finished
        AuthenticationError       pass a key: there is none, or it is not accepted
        InvalidSetting            fix the setting: an address, key, proxy or timeout
        InvalidProjectFile        fix the file of projects
        CannotListen              choose another host or port for the server
        WrongEventLoop            use it on the event loop on which it was opened
        StoreError                check the database: sessions cannot be read or written
            SessionNotFound
            SessionConflict       another writer was first
            RunNotFound           no durable run has this id
            RunExists             another durable run has this id
        RunFailed                 resume the durable run: it stopped at an error
        ToolMissing               give the durable run its tool back
        BatchRefused              fix the input of the batch
    ToolError                     raised inside a tool to tell the model something
    AssertionError
        CassetteMiss              record the request: the cassette does not have it
        CassetteRefused           keep the secret out of the recording, which is not stored
        ReplayDifference          the run did not repeat what its log says

Details are in attributes; the text is one sentence that says what, where and what to do.
"""

import copyreg
from dataclasses import dataclass
from typing import Any

from pathors_agent.messages import AssistantMessage, Message

# A page of text: enough to recognise a proxy's error page, small enough for a log line.
QUOTED_BODY_BYTES = 2048


# What was said, by the attributes that hold it: a pickled error goes into queues, logs and caches.
_CONTENTS: dict[str, object] = {"messages": (), "partial": None, "body": "", "data": ""}


def error_text(error: BaseException) -> str:
    """Return an exception's text, or the name of its class if it has no text."""
    return str(error).strip() or type(error).__name__


def named_error(error: BaseException) -> str:
    """Return the name of an exception's class, and its text if it has one."""
    name, text = type(error).__name__, error_text(error)
    return name if text == name else f"{name}: {text}"


class AgentError(Exception):
    """Base of the library's errors; a pickled one leaves behind the messages that it holds."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are rebuilt by calling the class with `args`; ours have keyword-only
        # attributes, so they are rebuilt around `__init__`.
        empty = {name: value for name, value in _CONTENTS.items() if name in self.__dict__}
        # Documented for pickle, absent from typeshed.
        rebuild = copyreg.__newobj__  # type: ignore[attr-defined]
        return rebuild, (type(self), *self.args), self.__dict__ | empty


class ConversationError(AgentError):
    """This message may not come next, or these messages are no conversation.

    `next_role` and `event` are the row and column of the state table, `open_calls` the ids that
    still wait for a result, `index` the place of the message in a history that was refused whole.
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
    """A tool cannot be registered; `tool` names it and `path` points into its definition."""

    def __init__(self, text: str, *, tool: str, path: str = "") -> None:
        super().__init__(text)
        self.tool = tool
        self.path = path


class UnreadableDefinition(ToolDefinitionError):
    """A tool definition does not have OpenAI's form; `place` is where, as `.function.name`."""

    def __init__(self, place: str, problem: str) -> None:
        what = f"the definition's {place.lstrip('.')}" if place else "a definition"
        super().__init__(f"tools=: {what} {problem}", tool="", path=place)
        self.place = place
        self.problem = problem


class RunNotFinished(AgentError):
    """The run has no answer: it is suspended, stopped at a limit, or was refused one.

    `status` says which; `messages` is the whole history, from which a run goes on.
    """

    def __init__(self, text: str, *, status: str, messages: tuple[Message, ...]) -> None:
        super().__init__(text)
        self.status = status
        self.messages = messages


class ToolLoopError(AgentError):
    """A blocking agent has no event loop for its async tools: none starts, or it was closed.

    The tool call is still open.
    """


class StreamInUse(AgentError, RuntimeError):
    """Another task or thread reads this stream."""


class TransportError(AgentError):
    """No complete answer arrived; the model call is still owed.

    `messages` is the history so far, when the error came out of a run: a new run on it continues
    where this one stopped. `retryable` is False if the same request would fail again; `timed_out`
    is True if a timeout was reached. `attempts` is how often the request was sent. `was_idle` is
    True if a connection that had served another request closed before any byte of the answer.
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
    `said` (its message) are the provider's own words, `body` the first 2 KB as received,
    `retry_after` seconds, and `partial` what had arrived of the message.
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
    """The provider broke the format.

    `data` is the start of what could not be read, `offset` its first byte in the body, and
    `partial` what had arrived of the message before.
    """

    def __init__(
        self,
        text: str,
        *,
        data: str = "",
        offset: int = 0,
        partial: AssistantMessage | None = None,
    ) -> None:
        super().__init__(text, retryable=False)
        self.data = data
        self.offset = offset
        self.partial = partial


class IncompleteResponse(TransportError):
    """The answer ended without a finish_reason or `[DONE]`; `partial` is what had arrived."""

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
    """Another durable run has this id, or another answer came first."""


class RunFailed(AgentError):
    """A durable run stopped at an error; `resume` continues it from the same effect.

    `kind` is the name of the error's class, or `cancelled`; `retryable` is False if the same
    would fail again, `status` is the HTTP status of a provider's error. `messages` is the history.
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
    """A call names a tool that the durable agent no longer has; add the tool and resume the run."""


class BatchRefused(AgentError, ValueError):
    """A line of a batch's input is no conversation; nothing was started."""


class AuthenticationError(AgentError):
    """There is no API key, or it is not accepted."""


class InvalidSetting(AgentError, ValueError):
    """An address, key, header, proxy, certificate file or timeout that cannot be used."""


class InvalidProjectFile(AgentError, ValueError):
    """A file of projects cannot be used; the text names the file and the field."""


class WrongEventLoop(AgentError, RuntimeError):
    """An object that belongs to one event loop was used on another one."""


class CannotListen(AgentError):
    """The server cannot listen on this address."""


class ToolError(Exception):
    """Raised inside a tool to tell the model, in its text, what went wrong.

    It becomes the call's result and never leaves the run. With `retryable=False` the tool is not
    run again until the user speaks.
    """

    retryable = True  # also where a subclass does not call `__init__`

    def __init__(self, text: str = "", *, retryable: bool = True) -> None:
        super().__init__(text)
        self.retryable = retryable


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
    """A recording still holds a secret after it was scrubbed, and is not stored."""


class ReplayDifference(AssertionError):
    """A replayed run differs from its log.

    `request` is the number of the request that differs, or None if only a message differs;
    `difference` is the first place where they differ.
    """

    def __init__(self, text: str, *, request: int | None, difference: Difference) -> None:
        super().__init__(text)
        self.request = request
        self.difference = difference
