"""The records of a durable run as JSON: the input of a segment, each new message, and its end.

A segment is one workflow of the engine: from a prompt, a decision or an answer until the run ends
or is suspended.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any
from urllib.parse import quote

from pathors_agent.agents.approvals import Decision
from pathors_agent.errors import InvalidSetting
from pathors_agent.messages import JSONValue, Message, write_message
from pathors_agent.wire.messages import read_message

# A run's later segments are `ID#2`, `ID#3`, ...
SEPARATOR = "#"

# The workflows of an agent have this name and the agent's: other programs may use the database too.
WORKFLOW_PREFIX = "pathors_agent."

# PostgreSQL's indexes take 2,700 bytes. The id of a segment also contains the agent's name, with
# up to three bytes for each of its bytes.
MAX_ID_BYTES = 1_000
MAX_NAME_BYTES = 255

Fields = dict[str, Any]

Step = Mapping[str, Any]
"""A recorded step of a segment: its `function_id`, its `function_name` and its `output`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentInput:
    """The input of a segment: additions to a session's history, from which it continues.

    `keys` is the prefix of the keys of the run's tool calls. `endpoint_session` is the session id
    sent to the model's endpoint. `trace` holds the headers of the trace that requested the segment.
    """

    run: str
    session: str
    keys: str
    endpoint_session: str | None = None
    messages: tuple[Message, ...] = field(default=(), repr=False)
    decisions: tuple[Decision, ...] = ()
    trace: Mapping[str, str] = field(default_factory=dict)
    context: JSONValue = field(default=None, repr=False)
    """The `ToolContext.context` of the run's tools; None for the agent's own context."""
    settings: Fields = field(default_factory=dict)
    """The model, options and limits that override the agent's, as JSON."""
    closes: bool = False
    """Whether to answer the open calls as cancelled, and do nothing else."""

    @classmethod
    def first(
        cls, agent: str, run: str, session_id: str | None = None, **fields: Any
    ) -> "SegmentInput":
        """Return the input that starts a run. Without a session, the run has one of its own."""
        session = session_id or run
        keys = owned(agent, session)
        return cls(run=run, session=session, keys=keys, endpoint_session=session_id, **fields)

    def dump(self) -> Fields:
        """Return the input as JSON."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        decisions = [asdict(decision) for decision in self.decisions]
        return values | {"messages": dump(self.messages), "decisions": decisions}

    @classmethod
    def load(cls, stored: Mapping[str, Any]) -> "SegmentInput":
        """Read what `dump` wrote."""
        # The keys of runs of format 1 contain only the session, and stay the same.
        values = {"keys": stored["session"], **stored}
        decisions = tuple(Decision(**decision) for decision in stored["decisions"])
        return cls(**values | {"messages": load(stored["messages"]), "decisions": decisions})


def is_id(text: object, most: int = MAX_ID_BYTES) -> bool:
    """Return whether a text of at most so many bytes can be the id of a run or a session."""
    return (
        isinstance(text, str)
        and bool(text.strip())
        and text.isprintable()
        and len(text.encode()) <= most
    )


def check_id(text: str, what: str, most: int = MAX_ID_BYTES) -> None:
    """Raise `InvalidSetting` for a text that cannot be an id; `what` names it."""
    if not is_id(text, most):
        raise InvalidSetting(
            f"{what} must have 1 to {most} bytes of printable characters, and is {text!r:.80}"
        )


def check_run_id(text: str, what: str, most: int = MAX_ID_BYTES) -> None:
    """Raise `InvalidSetting` for a text that cannot be, or begin, the id of a run."""
    check_id(text, what, most)
    if SEPARATOR in text:
        raise InvalidSetting(f"{what} must not contain {SEPARATOR!r}, and is {text!r}")


def owned(agent: str, name: str) -> str:
    """Return a name that is unique to an agent, because two agents may use the same ids."""
    return f"{quote(agent, safe='')}/{name}"


def workflow_name(agent: str) -> str:
    """Return the name under which the engine stores an agent's runs."""
    return f"{WORKFLOW_PREFIX}{agent}"


def segment_id(agent: str, run: str, number: int) -> str:
    """Return the id of a segment of a run: the id of its workflow in the engine."""
    first = owned(agent, run)
    return first if number == 1 else f"{first}{SEPARATOR}{number}"


def segment_number(segment: str) -> int:
    """Return the position of a segment in its run, from 1."""
    return int(segment.partition(SEPARATOR)[2] or 1)


def run_of(segment: str) -> str:
    """Return the id of the run that a segment belongs to."""
    return segment.partition(SEPARATOR)[0].partition("/")[2]


def dump(messages: Iterable[Message]) -> list[dict[str, JSONValue]]:
    """Write messages as JSON."""
    return [write_message(message) for message in messages]


def load(messages: Iterable[Mapping[str, JSONValue]]) -> tuple[Message, ...]:
    """Read what `dump` wrote."""
    return tuple(map(read_message, messages))
