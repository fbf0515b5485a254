"""Show which calls of a stored session wait for a person's approval. Pure."""

import json
from dataclasses import replace

from pathors_agent.agents.approvals import Approvals
from pathors_agent.core.conversation import Conversation
from pathors_agent.messages import AssistantMessage, Message, ToolMessage
from pathors_agent.stores.base import Session
from pathors_agent.stores.texts import json_text, read_message_text
from pathors_agent.tools.registry import ToolRegistry


def read_tail(session: Session) -> list[Message]:
    """Return the session's last message that is no tool's result, and the results after it.

    Calls are open in this tail only, so that the rest of the session need not be parsed.
    """
    tail: list[Message] = []
    for text in reversed(session.message_texts):
        tail.append(read_message_text(text))
        if not isinstance(tail[-1], ToolMessage):
            break
    return tail[::-1]


def mark_waiting(session: Session, tail: list[Message], own_tools: ToolRegistry) -> Session:
    """Return the session with its `approval` beside each open call that waits.

    It is the same as in the answer that made the call.
    """
    if not tail or not isinstance(tail[0], AssistantMessage) or not tail[0].tool_calls:
        return session
    waiting = Approvals(Conversation(tail), own_tools).open()
    digests = {approval.call.id: approval.digest for approval in waiting}
    if not digests:
        return session
    texts = list(session.message_texts)
    message = json.loads(texts[-len(tail)])
    for call in message["tool_calls"]:
        if call["id"] in digests:
            call["approval"] = {"digest": digests[call["id"]]}
    texts[-len(tail)] = json_text(message)
    return replace(session, message_texts=tuple(texts))
