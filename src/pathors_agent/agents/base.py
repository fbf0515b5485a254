"""What the agents for blocking and for async code share: their settings, and how runs begin.

The first run imports the modules that perform runs: they and asyncio would add a third to the time
in which a program imports this module and constructs an agent. Each run looks them up as modules,
which takes a third of the time of an import of names.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from random import Random
from typing import TYPE_CHECKING, Any, TypedDict

from pathors_agent.agents.answers import ArrivingAnswer, answer_type, name_taken
from pathors_agent.agents.approvals import Approval, Approvals, Decision
from pathors_agent.agents.budgets import Budget, charged_budgets
from pathors_agent.agents.mistakes import missing, refuse_settings
from pathors_agent.core.conversation import Conversation
from pathors_agent.core.limits import Limits
from pathors_agent.core.run import Run
from pathors_agent.history.loading import GivenConversation, Prompt, conversation_of, user_message
from pathors_agent.history.trim import AsyncHistory
from pathors_agent.tools.registry import (
    AsyncToolChoice,
    Tools,
    choice_of,
    chosen,
    registry_of,
)
from pathors_agent.transports.base import AsyncTransport, Transport
from pathors_agent.wire.chat_completions import ModelOptions, RequestTemplate

if TYPE_CHECKING:
    from pathors_agent.agents.control import RunControl
    from pathors_agent.agents.hooks import Hooks
    from pathors_agent.agents.setup import RunSetup
    from pathors_agent.agents.stream import Baseline


class RunSettings(TypedDict, total=False):
    """Settings that override the agent's for one run.

    Only the `options` that are set override the agent's. A `budget` applies in addition to the
    agent's.
    """

    model: str | None
    limits: Limits | None
    options: ModelOptions | None
    budget: Budget | None


class AgentSettings(RunSettings, total=False):
    """The settings that both agents share."""

    name: str | None


ARGUMENTS = (
    *("output", "tools", "instructions", "history", "hooks"),
    *AgentSettings.__annotations__,
)
_RUN_ARGUMENTS = ("tools", *RunSettings.__annotations__)


class AgentBase:
    """The parts that both agents share."""

    def __init__(
        self,
        transport: Transport | AsyncTransport,
        *,
        output: object = None,
        tools: Tools | AsyncToolChoice = (),
        history: AsyncHistory | None = None,
        hooks: Iterable[object] = (),
        is_async: bool = True,
        name: str | None = None,
        model: str | None = None,
        instructions: str | Callable[[Any], Any] | None = None,
        limits: Limits | None = None,
        options: ModelOptions | None = None,
        budget: Budget | None = None,
    ) -> None:
        self.budget = budget
        self._given: tuple[object, ...] = (transport, tools)
        self.name = name
        self._server_address = transport.server_address
        self._choice = choice_of(tools)
        self.tools = registry_of(() if callable(tools) else tools)
        self.limits = limits or Limits()
        self._known_quirks: set[str] = set()
        self._history = history
        self._hooks = _methods_of(hooks, is_async=is_async)
        self._instruct = instructions if callable(instructions) else None
        self._plain = RequestTemplate(
            model=model,
            instructions=None if callable(instructions) else instructions,
            tools=self.tools.definitions(),
            options=options or ModelOptions(),
            profile=transport.profile,
        )
        self._answers = answer_type(output, transport.profile.structured, self.tools)
        self._template = self._asked(self._plain)

    def _asked(self, template: RequestTemplate) -> RequestTemplate:
        """Return the template of requests for answers of the agent's type."""
        return self._answers.asked_by(template) if self._answers else template

    if not TYPE_CHECKING:  # a type checker that saw __getattr__ would accept any name

        def __getattr__(self, name: str) -> object:
            raise missing(self, name)

    def approvals(self, conversation: Conversation, *, context: object = None) -> list[Approval]:
        """Return the calls of a stored conversation that wait for a person's approval.

        If `tools` is a function, it is called with the context.
        """
        tools = chosen(self._choice, context) if self._choice else self.tools
        return Approvals(conversation, tools, context).open()


def prepare_run(
    agent: AgentBase,
    given: GivenConversation | None,
    *,
    session_id: str | None = None,
    context: object = None,
    tools: Tools | AsyncToolChoice | None = None,
    settings: RunSettings | None = None,
    streams: bool = True,
) -> "tuple[Run, Baseline, RunSetup]":
    """Return a run of the agent that continues a conversation, or begins a new one.

    `tools` and `settings` override the agent's. Without `streams`, nothing reads its deltas.
    Nothing is performed yet, and nothing is appended to the conversation.
    """
    from pathors_agent.agents import hooks, stream
    from pathors_agent.agents.setup import RunSetup
    from pathors_agent.telemetry import runs

    conversation = Conversation() if given is None else conversation_of(given)
    if session_id is not None:
        _refuse_other_session(conversation, session_id)
    answers = agent._answers.for_run() if agent._answers else None
    settings = settings or {}
    refuse_settings("a run", {"tools": tools, **settings}, _RUN_ARGUMENTS)
    budgets = charged_budgets(agent.budget, settings.get("budget"))
    choice, registry = agent._choice, agent.tools
    if tools is not None:
        choice, registry = choice_of(tools), registry_of(() if callable(tools) else tools)
        if answers and answers.final_tool in registry:
            raise name_taken()
    plain, template = agent._plain, agent._template
    if tools is not None or settings.get("model") or settings.get("options"):
        plain = replace(
            plain,
            model=settings.get("model") or plain.model,
            options=plain.options.updated(settings.get("options")),
            tools=registry.definitions(),
        )
        template = agent._asked(plain)
    setup = RunSetup(
        tools=registry,
        choice=choice,
        instruct=agent._instruct,
        approvals=Approvals(conversation, registry, context),
        plain=plain,
        template=template,
        context=context,
        known_quirks=agent._known_quirks,
        answers=answers,
        arriving=ArrivingAnswer(answers) if answers else None,
        history=agent._history,
        hooks=agent._hooks or hooks.NO_HOOKS,
        budgets=budgets,
        streams=streams,
        telemetry=runs.RunTelemetry(agent.name, model=template.model, server=agent._server_address),
    )
    run = Run(
        conversation,
        limits=settings.get("limits") or agent.limits,
        client_tools=registry.client_tools,
        is_held=setup.approvals.is_held,
        answers=answers,
    )
    return run, stream.Baseline(conversation), setup


# Ids must be unique, not secret: asking the operating system for each would take ten times as long.
_IDS = Random()  # noqa: S311
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_IDS.seed)

# The reason that the model reads of a call that was open when the user spoke again.
_WENT_ON = "the user went on"


def open_run(
    setup: "RunSetup",
    run: Run,
    control: "RunControl",
    prompt: Prompt | None,
    session_id: str | None,
    decisions: Iterable[Decision],
) -> None:
    """Append the decisions and the prompt to the history.

    A prompt closes the open calls, unless a decision approves one of them.
    """
    conversation = run.conversation
    message = None if prompt is None else user_message(prompt)
    control.take_conversation()
    try:
        setup.telemetry.add_denied(setup.approvals.decide(decisions))
        if message is not None and conversation.calls and not setup.approvals.has_approved:
            run.hand_out_client_calls()
            conversation.close_open_calls(_WENT_ON)
        conversation.append_queued()
        if message is not None:
            conversation.append(message)
    finally:
        control.release_conversation()
    conversation.session_id = conversation.session_id or session_id
    # Set before the first effect, so that code that stores the growing history can store it as well.
    conversation.id = conversation.id or session_id or f"{_IDS.getrandbits(128):032x}"


def dump_settings(settings: RunSettings) -> dict[str, Any]:
    """Return the settings of a run as JSON."""
    refuse_settings("a stored run", settings, ("model", "options", "limits"))
    fields: dict[str, Any] = {"model": settings.get("model")}
    if options := settings.get("options"):
        fields["options"] = asdict(options)
    if limits := settings.get("limits"):
        fields["limits"] = asdict(limits)
    return fields


def load_settings(fields: Mapping[str, Any]) -> RunSettings:
    """Read what `dump_settings` wrote."""
    settings: RunSettings = {"model": fields.get("model")}
    if options := fields.get("options"):
        settings["options"] = ModelOptions(**options)
    if limits := fields.get("limits"):
        settings["limits"] = Limits(**limits)
    return settings


def _methods_of(hooks: Iterable[object], *, is_async: bool) -> "Hooks | None":
    given = tuple(hooks)
    if not given:
        return None
    from pathors_agent.agents.hooks import Hooks

    return Hooks.of(given, is_async=is_async)


def _refuse_other_session(conversation: Conversation, session_id: str) -> None:
    if conversation.session_id not in (None, session_id):
        raise ValueError(
            f"the conversation belongs to session {conversation.session_id!r}, "
            f"not to session_id={session_id!r}; pass one of the two"
        )
