"""Settle the calls in doubt after a crash: run them again, or find out what they did.

A call is in doubt if a process began it and died before its result was recorded.
"""

import inspect
from typing import Any

from pathors_agent.core.run import CallTool, Run
from pathors_agent.messages import ToolMessage
from pathors_agent.tools.registry import BoundCall
from pathors_agent.tools.results import result_message
from pathors_agent.tools.signature import ToolContext
from pathors_agent.tools.tool import NOT_HAPPENED, Happened


async def settle(
    run: Run, effect: CallTool, bound: BoundCall, context: object
) -> ToolMessage | None:
    """Return the result of a call in doubt, or None if it may run again.

    `context` is the caller's value, which the tool gets as `ToolContext.context`.
    """
    if bound.tool.idempotent:
        return None
    unknown = unknown_result(bound.call.id, bound.tool.name)
    if bound.tool.reconcile is None:
        return unknown
    session_id, key = run.conversation.session_id, run.call_key(effect)
    tool_context: ToolContext[Any] = ToolContext(context, session_id, bound.call, key)
    hidden = bound.tool.context_parameter
    arguments = {name: value for name, value in bound.kwargs.items() if name != hidden}
    try:
        found = bound.tool.reconcile(tool_context, arguments)
        if inspect.isawaitable(found):
            found = await found
        if found is NOT_HAPPENED:
            return None
        if isinstance(found, Happened):
            return result_message(bound, found.value)
    except (Exception, SystemExit, KeyboardInterrupt):  # noqa: BLE001  (of the author's function)
        return unknown
    return unknown


def unknown_result(call_id: str, tool: str) -> ToolMessage:
    """Return the result of a call that began and whose end is unknown."""
    text = (
        f"Outcome unknown: the program stopped while {tool} ran, and it is not known"
        " whether it was carried out. It was not run again. Do not repeat it before you have"
        " found out, or tell the user."
    )
    return ToolMessage(tool_call_id=call_id, content=text, outcome="unknown")
