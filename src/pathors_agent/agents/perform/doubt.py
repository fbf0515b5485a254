"""Calls in doubt: begun by a process that died, with no result on record."""

import enum
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pathors_agent.core.run import CallTool, Run
from pathors_agent.messages import ToolMessage
from pathors_agent.tools.registry import BoundCall
from pathors_agent.tools.results import result_message
from pathors_agent.tools.signature import ToolContext


@dataclass(frozen=True, slots=True)
class Happened:
    """What a `reconcile` function gives for a call that was carried out, with its result."""

    value: object


class _NotHappened(enum.Enum):
    NOT_HAPPENED = enum.auto()


NOT_HAPPENED = _NotHappened.NOT_HAPPENED
"""What a `reconcile` function gives for a call that was not carried out: it runs again."""


async def settle(
    run: Run, effect: CallTool, bound: BoundCall, context: object
) -> ToolMessage | None:
    """Give the result of a call in doubt, or None where it may run again.

    `context` is the caller's value, as the tool's own `ToolContext` has it.
    """
    if bound.tool.idempotent:
        return None
    if bound.tool.reconcile is None:
        return _unknown(bound)
    session_id, key = run.conversation.session_id, run.call_key(effect)
    own: ToolContext[Any] = ToolContext(context, session_id, bound.call, key)
    try:
        found = bound.tool.reconcile(own, _arguments(bound))
        if inspect.isawaitable(found):
            found = await found
        if found is NOT_HAPPENED:
            return None
        if isinstance(found, Happened):
            return result_message(bound, found.value)
    except Exception:  # noqa: BLE001  (the author's function: what it cannot say stays unknown)
        return _unknown(bound)
    return _unknown(bound)


def _arguments(bound: BoundCall) -> Mapping[str, Any]:
    hidden = bound.tool.context_parameter
    return {name: value for name, value in bound.kwargs.items() if name != hidden}


def _unknown(bound: BoundCall) -> ToolMessage:
    return unknown_result(bound.call.id, bound.tool.name)


def unknown_result(call_id: str, tool: str) -> ToolMessage:
    """Return the result of a call that began and was never heard of again."""
    text = (
        f"Outcome unknown: the program stopped while {tool} ran, and it is not known"
        " whether it was carried out. It was not run again. Do not repeat it before you have"
        " found out, or tell the user."
    )
    return ToolMessage(tool_call_id=call_id, content=text, outcome="unknown")
