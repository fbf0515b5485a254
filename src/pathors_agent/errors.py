"""Every exception of the library, grouped by who must act.

::

    AgentError
        ConversationError         the caller: this message may not come next
        ToolDefinitionError       the tool's author: name, signature or schema unusable
        RunNotFinished            the caller: the run is suspended or stopped at a limit
        TransportError            nobody yet: no complete answer; the call is still owed
            ProviderError         the provider answered with an error
            MalformedResponse     the provider broke the format
            IncompleteResponse    the answer ended before it was finished
        StoreError                the operator: sessions cannot be kept
            SessionNotFound
            SessionConflict       another writer was first
        AuthenticationError       the caller: no key, or a wrong one
    ToolError                     raised inside a tool to tell the model something

Details are in attributes; the text is one sentence that says what, where and what to do.
"""

import copyreg
from typing import Any

from pathors_agent.messages import AssistantMessage, Message

# A page of text: enough to recognise a proxy's error page, small enough for a log line.
QUOTED_BODY_BYTES = 2048


# What was said, by the attributes that hold it: a pickled error goes into queues, logs and caches.
_CONTENTS: dict[str, object] = {"messages": (), "partial": None, "body": "", "data": ""}


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


class RunNotFinished(AgentError):
    """The run has no answer yet: it is suspended, or stopped at a limit.

    `status` says which; `messages` is the whole history, from which a run goes on.
    """

    def __init__(self, text: str, *, status: str, messages: tuple[Message, ...]) -> None:
        super().__init__(text)
        self.status = status
        self.messages = messages


class TransportError(AgentError):
    """No complete answer arrived; the model call is still owed.

    `messages` is the history so far, when the error came out of a run: a new run on it goes on
    where this one stopped. `retryable` is False where the same request would fail again;
    `timed_out` says that a limit of time was reached.
    """

    def __init__(self, text: str, *, retryable: bool = True, timed_out: bool = False) -> None:
        super().__init__(text)
        self.retryable = retryable
        self.timed_out = timed_out
        self.messages: tuple[Message, ...] = ()


class ProviderError(TransportError):
    """The provider answered with an error, by HTTP status or inside a stream.

    `status` is the HTTP status (200 for an error inside an answer), `code` and `type` are the
    provider's own words, `body` the first 2 KB as received, `retry_after` seconds, and `partial`
    what had arrived of the message.
    """

    def __init__(
        self,
        text: str,
        *,
        status: int,
        code: str | None = None,
        type: str | None = None,  # noqa: A002  (OpenAI's name for the field)
        body: str = "",
        retry_after: float | None = None,
        partial: AssistantMessage | None = None,
        retryable: bool = False,
    ) -> None:
        super().__init__(text, retryable=retryable)
        self.status = status
        self.code = code
        self.type = type
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


class AuthenticationError(AgentError):
    """There is no API key, or it is not accepted."""


class ToolError(Exception):
    """Raised inside a tool to tell the model, in its text, what went wrong.

    It becomes the call's result and never leaves the run. With `retryable=False` the tool is not
    run again until the user speaks.
    """

    retryable = True  # also where a subclass does not call `__init__`

    def __init__(self, text: str = "", *, retryable: bool = True) -> None:
        super().__init__(text)
        self.retryable = retryable
