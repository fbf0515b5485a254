"""What can go wrong with a durable run."""

from pathors_agent.errors import AgentError, StoreError
from pathors_agent.messages import Message


class RunNotFound(StoreError):
    """No run has this id in this database."""


class RunExists(StoreError):
    """Another run has this id, or another answer came first."""


class RunFailed(AgentError):
    """The run stopped at an error; what it owed then, it still owes: `resume` goes on.

    `kind` is the name of the error's class, or `cancelled`; `retryable` says whether the same may
    work later, `status` is the HTTP status of a provider's error. `messages` is the history.
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
