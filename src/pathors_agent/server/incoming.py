"""Add what a client says to its session's conversation, or tell why it may not say that. Pure."""

import json
from collections.abc import Sequence, Set
from typing import Any

from pathors_agent.agent import AsyncAgent
from pathors_agent.calls.approvals import Approval, Decision
from pathors_agent.conversation import Conversation, Role
from pathors_agent.errors import ConversationError
from pathors_agent.messages import Message, ToolMessage
from pathors_agent.server.problems import Problem, bad_request
from pathors_agent.server.project import TurnContext
from pathors_agent.server.view import news
from pathors_agent.tools.registry import ToolRegistry


def add_news(
    given: Sequence[Message],
    conversation: Conversation,
    agent: AsyncAgent[str],
    context: TurnContext,
    own_tools: ToolRegistry,
) -> list[Decision]:
    """Add those of a request's messages that are new; give what they decide about waiting calls."""
    own_names = [tool.name for tool in own_tools]
    new = news(conversation.messages, given, own_names)
    waiting = {a.call.id: a for a in agent.approvals(conversation, context=context)}
    decisions: dict[str, Decision] = {}
    for index, message in enumerate(new, start=len(given) - len(new)):
        if isinstance(message, ToolMessage) and message.tool_call_id in waiting:
            approval = waiting[message.tool_call_id]
            decision = _decision(message.text, approval, f"messages[{index}]")
            if decisions.setdefault(approval.call.id, decision) is not decision:
                raise _decided_twice(approval, index)
            continue
        try:
            conversation.append(message)
        except ConversationError as error:
            raise _illegal(error, index) from None
    _refuse_open_calls(conversation, waiting.keys() - decisions, own_names)
    if conversation.next_role is Role.USER and not decisions:
        raise bad_request(
            "There is nothing to answer",
            "messages: must end with a message of the user, or a tool's result, that is new",
            param="messages",
        )
    return list(decisions.values())


def _refuse_open_calls(
    conversation: Conversation, undecided: Set[str], own_names: Sequence[str]
) -> None:
    """Refuse where calls are open that only the client can answer."""
    still_open = [
        call.id
        for call in conversation.open_calls
        if call.id in undecided or call.name not in own_names
    ]
    if still_open:
        raise bad_request(
            "Some tool calls have no result",
            f"messages: no tool message for {', '.join(still_open)}",
            param="messages",
        )


def _illegal(error: ConversationError, index: int) -> Problem:
    field_name = ".tool_call_id" if error.event == "tool_result" else ""
    return bad_request(
        "The messages do not fit the session", f"messages[{index}]{field_name}: {error}"
    )


def _decided_twice(approval: Approval, index: int) -> Problem:
    return bad_request(
        "The messages do not fit the session",
        f"messages[{index}].tool_call_id: {approval.call.id} was decided about before",
    )


def _decision(text: str, approval: Approval, place: str) -> Decision:
    """Read a person's yes or no about a call that waits for it."""
    try:
        said: Any = json.loads(text)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict) or not isinstance(said.get("approved"), bool):
        raise bad_request(
            "The call waits for a person's approval",
            f'{place}.content: must be {{"approved": true or false, "digest": "..."}} as JSON text',
        )
    if said.get("digest") != approval.digest:
        raise bad_request(
            "The approval is for another call",
            f"{place}.content: digest must be {approval.digest}, that of the call as it is now",
        )
    if not said["approved"]:
        return approval.deny(str(said.get("reason") or ""))
    arguments = said.get("arguments")
    return approval.approve(arguments if isinstance(arguments, dict) else None)
