"""Agents that drivers run: their tools, models, and what they record."""

from collections.abc import Callable

from pathors_agent.core.conversation import Conversation
from pathors_agent.history.loading import dump_messages, load_messages
from pathors_agent.messages import Message, ToolMessage, UserMessage
from pathors_agent.testing import Reply, calls
from pathors_agent.tools.tool import Tool, tool
from pathors_agent.wire.deltas import Delta

GO = UserMessage(content="Go.")


def local(name: str, function: Callable[[], object]) -> Tool:
    """Build a tool without parameters."""
    parameters = {"type": "object", "properties": {}}
    return Tool(name=name, parameters=parameters, function=function)


def calling(*names: str) -> Reply:
    """Call tools without arguments."""
    return calls(*((name, {}) for name in names))


def said(messages: tuple[Message, ...]) -> list[str]:
    """Return the texts of messages."""
    return [message.text for message in messages]


def results(conversation: Conversation) -> dict[str, str]:
    """Return the texts of all results, by the ids of their calls."""
    return {m.tool_call_id: m.text for m in conversation.messages if isinstance(m, ToolMessage)}


def open_names(conversation: Conversation) -> list[str]:
    """Return the names of the open calls."""
    return [call.name for call in conversation.open_calls]


def stored(conversation: Conversation) -> Conversation:
    """Take a conversation through its stored form, as another process would find it."""
    return Conversation(load_messages(dump_messages(conversation.messages)))


def shape(item: Delta | Message) -> str:
    """Return the role of a message, or the type of a delta."""
    return getattr(item, "role", type(item).__name__)


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


HELLO = b'data: {"id": "1", "choices": [{"index": 0, "delta": {"content": "Hello"}}]}\n\n'
FINISHED = b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"
