"""What the agents for blocking and for async code share: their settings.

The first run imports the modules that perform runs: they and asyncio would add a third to the time
in which a program imports this module and constructs an agent. Each run looks them up as modules,
which takes a third of the time of an import of names.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypedDict

from pathors_agent.agents.answers import answer_type
from pathors_agent.agents.approvals import Approval, Approvals
from pathors_agent.agents.budgets import Budget
from pathors_agent.agents.mistakes import missing, refuse_settings
from pathors_agent.core.conversation import Conversation
from pathors_agent.core.limits import Limits
from pathors_agent.errors import refuse_other
from pathors_agent.history.trim import AsyncHistory
from pathors_agent.tools.registry import AsyncToolChoice, Tools, choice_of, chosen, registry_of
from pathors_agent.transports.base import AsyncTransport, Transport
from pathors_agent.wire.chat_completions import ModelOptions, RequestTemplate

if TYPE_CHECKING:
    from pathors_agent.agents.hooks import Hooks


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
RUN_ARGUMENTS = ("tools", *RunSettings.__annotations__)


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
        self._hooks: Hooks | None = None
        if hooks != ():
            import pathors_agent.agents.hooks as methods

            self._hooks = methods.Hooks.of(hooks, is_async=is_async)
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
        refuse_other("approvals", conversation, Conversation)
        tools = chosen(self._choice, context) if self._choice else self.tools
        return Approvals(conversation, tools, context).open()


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
