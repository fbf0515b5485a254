"""Add the new messages of a request to its session, and read the decisions among them. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from pathors_agent.agents.agent import AsyncAgent
from pathors_agent.agents.approvals import Approval, Decision
from pathors_agent.core.batch import CallState
from pathors_agent.core.conversation import Conversation, Role
from pathors_agent.errors import ConversationError
from pathors_agent.json_text import read_json
from pathors_agent.messages import (
    AssistantMessage,
    Message,
    ToolCall,
    ToolMessage,
    UserMessage,
    write_message,
)
from pathors_agent.server.http.problems import Problem, bad_request
from pathors_agent.server.turns.compared import QUEUED, queued_messages
from pathors_agent.server.turns.join import Joined
from pathors_agent.server.turns.project import TurnContext
from pathors_agent.tools.registry import ToolRegistry


def add_new_messages(
    joined: Joined,
    interrupted: Sequence[Message],
    conversation: Conversation,
    agent: AsyncAgent[str],
    context: TurnContext,
    own_tools: ToolRegistry,
    *,
    decided: Sequence[Decision] = (),
    may_be_old: bool = False,
) -> list[Decision]:
    """Add a request's new messages; return their decisions about calls that wait for approval.

    With `may_be_old`, the request repeats earlier decisions. They are left out if the request has
    something new.

    `interrupted` are the calls of turns that were interrupted, with their results. If the client's
    history shows such a call, the call is not added again, and it gets the result that is known here.
    """
    own_names = [tool.name for tool in own_tools]
    for queued in queued_messages(joined.base):
        conversation.queue_message(queued)
    pending, shown = _without_shown(interrupted, joined.new)
    answered = _answered(conversation, own_names, pending) | shown.keys()
    _add_interrupted(conversation, pending, shown)
    own_calls = [call for call in conversation.open_calls if call.name in own_names]
    waiting = agent.approvals(conversation, context=context)
    # Agents that run as tools may have calls with equal ids: a digest is of one call.
    answered |= {approval.call.id for approval in waiting}
    decisions = _by_digest(
        _without_old(decided, waiting, joined.new) if may_be_old else decided, waiting
    )
    _add_sent_decisions(decisions, joined, waiting)
    for index, message in enumerate(joined.new, start=joined.start):
        if isinstance(message, ToolMessage) and message.tool_call_id in answered:
            continue
        if not isinstance(message, ToolMessage):
            _add_results(conversation, shown)
        if isinstance(message, UserMessage) and decisions:
            conversation.queue_message(message)  # it follows the results of the decided calls
            continue
        if isinstance(message, UserMessage):
            _close_open_calls(conversation, own_names)
        _add_interrupted(conversation, pending, shown)
        try:
            conversation.append(message)
        except ConversationError as error:
            raise _illegal(error, index) from None
    _add_results(conversation, shown)
    _refuse_open_calls(conversation, own_calls, [a for a in waiting if a.digest not in decisions])
    _add_interrupted(conversation, pending, shown)
    if conversation.next_role is Role.USER and not decisions:
        raise bad_request(
            "There is nothing to answer",
            "messages: must end with a message of the user, or a tool's result, that is new",
            param="messages",
        )
    return list(decisions.values())


def keep_queued(conversation: Conversation) -> None:
    """Store the user's messages that still wait, with an agent that is suspended again.

    The turn that answers the last open call appends them.
    """
    suspended = filter(None, map(conversation.suspended, conversation.open_calls))
    if conversation.queued and (holder := next(suspended, None)) is not None:
        queued = [write_message(message) for message in conversation.queued]
        extra = {**holder.extra, QUEUED: queued}
        conversation.append(holder.model_copy(update={"extra": extra}))


def _without_shown(
    interrupted: Sequence[Message], new: Iterable[Message]
) -> tuple[list[Message], dict[str, ToolMessage]]:
    """Return interrupted messages without those in a client's history, and the results of those.

    A front end keeps what it has read of an answer that its user stopped.
    """
    calls = {(c.id, c.name) for m in new if isinstance(m, AssistantMessage) for c in m.tool_calls}
    pending: list[Message] = []
    shown: dict[str, ToolMessage] = {}
    ids: set[str] = set()  # of the calls of the last answer, if the client shows it
    for message in interrupted:
        if isinstance(message, AssistantMessage):
            is_shown = all((call.id, call.name) in calls for call in message.tool_calls)
            ids = {call.id for call in message.tool_calls} if is_shown else set()
            pending += [] if is_shown else [message]
        elif isinstance(message, ToolMessage) and message.tool_call_id in ids:
            shown[message.tool_call_id] = message
        else:
            pending.append(message)
    return pending, shown


def _add_results(conversation: Conversation, results: dict[str, ToolMessage]) -> None:
    """Answer the open calls whose results are known, and remove these results."""
    for call in conversation.open_calls:
        if call.id in results:
            conversation.append(results.pop(call.id))


def _add_interrupted(
    conversation: Conversation, pending: list[Message], shown: Mapping[str, ToolMessage]
) -> None:
    """Add the messages of an interrupted turn while no other calls are open.

    Its answers come after those that the client shows.
    """
    while pending:
        message, open_ids = pending[0], {call.id for call in conversation.open_calls}
        if isinstance(message, ToolMessage):
            if message.tool_call_id in open_ids:  # or a rewind removed its call
                conversation.append(message)
        elif open_ids or shown:
            return
        else:
            conversation.append(message)
        del pending[0]


def _close_open_calls(conversation: Conversation, own_names: Sequence[str]) -> None:
    """Answer the calls that the user ignored."""
    for call in conversation.open_calls:
        is_own = call.name in own_names  # it waits for an approval, and has not begun
        state = CallState.NOT_BEGUN if is_own else CallState.HANDED_OUT
        conversation.note_call_state(call, state)
    conversation.close_open_calls()


def _refuse_open_calls(
    conversation: Conversation, own_calls: Iterable[ToolCall], undecided: Iterable[Approval]
) -> None:
    """Refuse a request that leaves open calls that cannot run.

    A call of the project's tools can run if the model made it in a turn of the session, and it waits
    for no decision. A client cannot add such a call by writing it into its history.
    """
    waiting = [approval.call for approval in undecided]
    runnable = {call.id for call in own_calls if call not in waiting}
    still_open = [call.id for call in conversation.open_calls if call.id not in runnable]
    if still_open:
        raise bad_request(
            "Some tool calls have no result",
            f"messages: no tool message for {', '.join(still_open)}",
            param="messages",
        )


def _answered(
    conversation: Conversation, own_names: Sequence[str], pending: Sequence[Message]
) -> set[str]:
    """Return the ids of the calls of the project's tools whose results the server has.

    They are calls that the interrupted turn carried out after a decision, and calls in the same
    answer as calls of the client's.
    """
    open_ids = {call.id for call in conversation.open_calls}
    own = {call.id for call in conversation.calls if call.name in own_names}
    return {result.tool_call_id for result in _leading_results(pending)} | (own - open_ids)


def _leading_results(messages: Sequence[Message]) -> Iterator[ToolMessage]:
    """Yield the results of calls that were open before an interrupted turn."""
    for message in messages:
        if not isinstance(message, ToolMessage):
            return
        yield message


def _illegal(error: ConversationError, index: int) -> Problem:
    field_name = ".tool_call_id" if error.event == "tool_result" else ""
    return bad_request(
        "The messages do not fit the session", f"messages[{index}]{field_name}: {error}"
    )


def _without_old(
    decided: Sequence[Decision], waiting: Iterable[Approval], new: Iterable[Message]
) -> Sequence[Decision]:
    """Return the decisions about calls that wait; all of them if the request has nothing else."""
    digests = {approval.digest for approval in waiting}
    fitting = [decision for decision in decided if decision.digest in digests]
    has_new = bool(fitting) or any(isinstance(message, UserMessage) for message in new)
    return fitting if has_new else decided


def _by_digest(decided: Iterable[Decision], waiting: Iterable[Approval]) -> dict[str, Decision]:
    """Return decisions by their digests; raise a 400 `Problem` for one without a call."""
    digests = {approval.digest for approval in waiting}
    for decision in decided:
        if decision.digest not in digests:
            raise bad_request(
                "The approval is for another call",
                f"no call waits for the approval {decision.digest}: it was answered, or has changed",
            )
    return {decision.digest: decision for decision in decided}


def _add_sent_decisions(
    decisions: dict[str, Decision], joined: Joined, waiting: Sequence[Approval]
) -> None:
    """Add the decisions that are tool messages.

    A client that lets its user go on answers the calls that wait in its own words. Such a result
    before a message of the user is no decision.
    """
    users = [i for i, message in enumerate(joined.new) if isinstance(message, UserMessage)]
    for index, message in enumerate(joined.new):
        if not isinstance(message, ToolMessage):
            continue
        asked = [each for each in waiting if each.call.id == message.tool_call_id]
        if not asked:
            continue
        said = read_json(message.text)
        if users and index < users[-1] and not isinstance(said, dict):
            continue
        digest = said.get("digest") if isinstance(said, dict) else None
        approval = next((each for each in asked if each.digest == digest), asked[0])
        place = joined.start + index
        decision = _decision(said, approval, f"messages[{place}]")
        if decisions.setdefault(approval.digest, decision) is not decision:
            raise _decided_twice(approval, place)


def _decided_twice(approval: Approval, index: int) -> Problem:
    return bad_request(
        "The messages do not fit the session",
        f"messages[{index}].tool_call_id: {approval.call.id} already has a decision",
    )


def _decision(said: object, approval: Approval, place: str) -> Decision:
    """Return a person's decision about a call that waits for it, from the JSON of its message."""
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
