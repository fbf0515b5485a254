"""Calls that wait for a person's approval, and the decisions about them.

Nothing is stored. An approval is derived from the open call and its tool, and a digest binds it to
both. So a decision can come from another process on another day, and it can only approve the call
that the person saw.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from types import MappingProxyType
from typing import NamedTuple, Protocol, cast

from pathors_agent.core.conversation import Conversation, can_go_on
from pathors_agent.core.limits import canonical_arguments
from pathors_agent.errors import ConversationError, InvalidSetting, refuse_other
from pathors_agent.messages import JSONValue, ToolCall, ToolMessage
from pathors_agent.tools.registry import BoundCall, ToolRegistry
from pathors_agent.tools.tool import Tool

_DIGEST_BYTES = 16
_NONE: Mapping[str, str | None] = MappingProxyType({})
_NO_DECISIONS: Mapping[str, list["Decision"]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Decision:
    """A person's decision about one open call, built by an `Approval` or from stored fields.

    `digest` is that of the `Approval`. If the call is not `approved`, the model reads the `reason`.
    `arguments` is the JSON text that replaces the model's arguments.
    """

    digest: str
    approved: bool
    reason: str = field(default="", repr=False)
    arguments: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Approval:
    """An open call that waits for a person's approval.

    `digest` binds a decision to this call, its arguments and its tool.
    """

    call: ToolCall
    digest: str

    def approve(self, arguments: Mapping[str, JSONValue] | None = None) -> Decision:
        """Return the decision that lets the call run, with the model's or other `arguments`."""
        if arguments is None:
            return Decision(self.digest, approved=True)
        refuse_other("arguments=", arguments, Mapping)
        try:
            text = json.dumps(dict(arguments), ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidSetting(f"arguments= must be JSON: {error}") from None
        return Decision(self.digest, approved=True, arguments=text)

    def deny(self, reason: str = "") -> Decision:
        """Return the decision that the call does not run; the model reads the reason."""
        refuse_other("reason=", reason, str)
        return Decision(self.digest, approved=False, reason=reason)


def digests_of(
    calls: Iterable[ToolCall], approvals: Iterable[Approval]
) -> Iterator[tuple[ToolCall, str | None]]:
    """Yield each call with the digest of its approval, or None if it waits for none.

    Both must be in call order: calls of agents that run side by side may have equal ids.
    """
    waiting = [*approvals]
    for call in calls:
        place = next((i for i, each in enumerate(waiting) if each.call == call), None)
        yield call, None if place is None else waiting.pop(place).digest


class RunsAgent(Protocol):
    """The function of a tool that runs an agent."""

    def approvals(self, suspended: ToolMessage, context: object) -> list[Approval]:
        """Return the calls of a suspended run that wait for approval."""

    def resumed(
        self, suspended: ToolMessage, decisions: Sequence[Decision]
    ) -> Callable[..., object]:
        """Return the function that continues a suspended run."""


class _OpenRequest(NamedTuple):
    """An approval, the open call, and the digest within the agent that the call runs."""

    approval: Approval
    call: ToolCall
    inner: str | None = None


class Approvals:
    """The calls of a conversation that wait for approval, and the decisions so far.

    They include the calls of a suspended agent that a call runs. `context` is the run's context.
    """

    __slots__ = ("_approved", "_context", "_conversation", "_inner", "tools")

    def __init__(
        self, conversation: Conversation, tools: ToolRegistry, context: object = None
    ) -> None:
        self._conversation = conversation
        self._context = context
        self.tools = tools
        self._approved = _NONE  # call id -> arguments to run it with
        self._inner: Mapping[str, list[Decision]] = _NO_DECISIONS  # by the call that runs an agent

    def open(self) -> list[Approval]:
        """Return the calls that wait, in call order."""
        return [waiting.approval for waiting in self._waiting()]

    def _waiting(self) -> Iterator[_OpenRequest]:
        for call in self._conversation.open_calls:
            suspended = self._conversation.suspended(call)
            if suspended is None:
                if self.is_held(call):
                    yield _OpenRequest(Approval(call, digest(call, self.tools[call.name])), call)
            elif (agent := self._agent(call)) is not None and call.id not in self._inner:
                for inner in agent.approvals(suspended, self._context):
                    # Agents side by side may have equal calls with equal ids.
                    own = _joined(call.id, inner.digest)
                    yield _OpenRequest(Approval(inner.call, own), call, inner.digest)

    def _agent(self, call: ToolCall) -> RunsAgent | None:
        """Return the function of a call's tool, if it runs an agent."""
        tool = self.tools.get(call.name)
        is_agent = tool is not None and hasattr(tool.function, "resumed")
        return cast(RunsAgent, tool.function) if tool is not None and is_agent else None

    def decide(self, decisions: Iterable[Decision]) -> list[ToolMessage]:
        """Release approved calls, and answer denied ones; return those answers.

        Raises `ConversationError`, and changes nothing, if a decision fits no waiting call: the call
        was answered already, or the call or its tool has changed.
        """
        refuse_other("decisions=", decisions, Iterable)
        decisions = list(decisions)
        if not decisions:
            return []
        given: list[object] = [*decisions]
        for each in given:
            if not isinstance(each, Decision):
                raise TypeError(
                    f"decisions= contains a {type(each).__name__}; pass what approval.approve() or "
                    "approval.deny() returns"
                )
        open_ = {waiting.approval.digest: waiting for waiting in self._waiting()}
        decided: list[tuple[ToolCall, Decision]] = []
        inner: dict[str, list[Decision]] = {}
        for decision in decisions:
            waiting = open_.pop(decision.digest, None)
            if waiting is None:
                raise ConversationError(
                    f"no call waits for approval {decision.digest!r}: it was answered already, or "
                    "the call or its tool has changed",
                    open_calls=tuple(call.id for call in self._conversation.open_calls),
                )
            if waiting.inner is None:
                decided.append((waiting.call, decision))
            else:
                own = replace(decision, digest=waiting.inner)
                inner.setdefault(waiting.call.id, []).append(own)
        self._inner = {**self._inner, **inner} if inner else self._inner
        approved = {call.id: decision.arguments for call, decision in decided if decision.approved}
        self._approved = {**self._approved, **approved} if approved else self._approved
        denied = [_denial(call, each.reason) for call, each in decided if not each.approved]
        for message in denied:
            self._conversation.append(message)
        return denied

    @property
    def has_approved(self) -> bool:
        """Whether a call was approved, or a decision continues a suspended agent."""
        return bool(self._approved or self._inner)

    def is_held(self, call: ToolCall) -> bool:
        """Return True if a call waits for a decision.

        A call that cannot run, because its arguments do not fit, never waits: the model reads what
        is wrong, and no approval is requested.
        """
        suspended = self._conversation.suspended(call)
        if suspended is not None:
            return call.id not in self._inner and not can_go_on(suspended)
        tool = self.tools.get(call.name)
        if tool is None or call.id in self._approved:
            return False
        if not tool.approve or tool.function is None:  # a client tool is checked where it runs
            return tool.approve is True
        bound = self.tools.bind(call)
        if not isinstance(bound, BoundCall):
            return False
        if not callable(tool.approve):
            return True
        try:
            return bool(tool.approve(bound.kwargs))
        except Exception:  # noqa: BLE001  (the author's function; a person is the safe answer)
            return True

    def resumed(self, bound: BoundCall) -> BoundCall:
        """Return a call that continues its suspended agent; return any other call unchanged."""
        suspended = self._conversation.suspended(bound.call)
        if suspended is None or (agent := self._agent(bound.call)) is None:
            return bound
        decisions = self._inner.get(bound.call.id, [])
        self._inner = {i: each for i, each in self._inner.items() if i != bound.call.id}
        function = agent.resumed(suspended, decisions)
        return BoundCall(bound.call, replace(bound.tool, function=function), bound.kwargs)

    def as_approved(self, call: ToolCall) -> ToolCall:
        """Return the call with the arguments that were approved."""
        arguments = self._approved.get(call.id)
        return call if arguments is None else call.model_copy(update={"arguments": arguments})

    def note(self, call: ToolCall) -> str | None:
        """Return the note for the model if a person changed the call's arguments."""
        arguments = self._approved.get(call.id)
        return None if arguments is None else f"(A person changed the arguments to {arguments}.)"


def digest(call: ToolCall, tool: Tool) -> str:
    """Return the digest that binds a decision to a call and its tool."""
    seen = [call.id, tool.name, tool.parameters, canonical_arguments(call.arguments)]
    return _joined(json.dumps(seen, sort_keys=True, default=str))


def _joined(*texts: str) -> str:
    text = "\n".join(texts)
    return blake2b(text.encode(errors="replace"), digest_size=_DIGEST_BYTES).hexdigest()


def _denial(call: ToolCall, reason: str) -> ToolMessage:
    text = f"Not run: a person said no{': ' + reason if reason else ''}."
    return ToolMessage(tool_call_id=call.id, content=text, outcome="not_run")
