"""Read histories back from what segments recorded; there is no other copy of them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pathors_agent.core.conversation import Conversation
from pathors_agent.core.run import Run
from pathors_agent.durable.records import Order, load
from pathors_agent.messages import AssistantMessage, Message
from pathors_agent.wire.messages import read_message

BEGIN = "begin"
STARTED = "/started"

Step = Mapping[str, Any]
ReadSteps = Callable[[str], Sequence[Step]]


@dataclass(slots=True)
class Past:
    """What came before a segment.

    `begun` are the keys of calls that were begun and have no result; `known` are the names of
    tools that were there when they were called.
    """

    messages: list[Message] = field(default_factory=list)
    begun: set[str] = field(default_factory=set)
    known: set[str] = field(default_factory=set)
    endpoint_session: str | None = None

    def conversation(self, order: Order) -> Conversation:
        """Return the history as a conversation whose id is the prefix of its tool calls' keys."""
        session = self.endpoint_session or order.endpoint_session
        return Conversation(self.messages, session_id=session, id=order.keys)


def read_past(segment: str | None, read_steps: ReadSteps) -> Past:
    """Read all that a segment and those before it recorded; blocks."""
    chain: list[Sequence[Step]] = []
    while segment is not None:
        steps = read_steps(segment)
        begin = begin_of(steps)
        chain.append(steps)
        segment = begin["previous"] if begin else None
    past, run = Past(), Run(Conversation())
    for steps in reversed(chain):
        for step in steps:
            _take(step, past, run)
    past.messages = list(run.conversation.messages)
    return past


def begin_of(steps: Iterable[Step]) -> Mapping[str, Any] | None:
    """Give what a segment recorded first."""
    return next((s["output"] for s in steps if s["function_name"] == BEGIN), None)


def take(message: Message, run: Run) -> None:
    """Add a recorded message to a history, as it was added first."""
    if isinstance(message, AssistantMessage):
        run.record(message)
    else:
        run.conversation.append(message)


def _take(step: Step, past: Past, run: Run) -> None:
    for message in new_messages(step):
        take(message, run)
    name, output = step["function_name"], step["output"] or {}
    if name.endswith(STARTED):
        past.begun.add(name.removesuffix(STARTED))
    elif "message" in output:
        past.begun.discard(name)
    past.known |= set(output.get("known", ())) if isinstance(output, dict) else set()
    if isinstance(output, dict) and output.get("endpoint_session"):
        past.endpoint_session = output["endpoint_session"]


def new_messages(step: Step) -> tuple[Message, ...]:
    """Give the messages that a step added to the history."""
    output = step["output"]
    if not isinstance(output, Mapping) or step["function_name"].endswith(STARTED):
        return ()
    if step["function_name"] == BEGIN:
        return load(output["added"])
    return (read_message(output["message"]),) if "message" in output else ()
