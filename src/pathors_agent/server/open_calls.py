"""Show which calls of a stored session wait for a person's yes. Pure."""

from typing import Any

from pathors_agent.calls.approvals import Approvals
from pathors_agent.conversation import Conversation
from pathors_agent.stores.base import Session
from pathors_agent.tools.registry import ToolRegistry


def mark_waiting(data: dict[str, Any], session: Session, own_tools: ToolRegistry) -> dict[str, Any]:
    """Put its `approval` beside each open call that waits, as in the answer that made the call."""
    waiting = Approvals(Conversation(session.messages), own_tools).open()
    digests = {approval.call.id: approval.digest for approval in waiting}
    last: dict[str, Any] = next(
        (m for m in reversed(data["messages"]) if m["role"] == "assistant"), {}
    )
    for call in last.get("tool_calls", ()):
        if call["id"] in digests:
            call["approval"] = {"digest": digests[call["id"]]}
    return data
