"""A project: the agent that is served under one address."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from types import NoneType
from typing import Literal

from pathors_agent.agents.agent import AsyncAgent
from pathors_agent.agents.budgets import Budget
from pathors_agent.agents.hooks import AsyncHook, Hooks
from pathors_agent.agents.mistakes import refuse_settings
from pathors_agent.core.limits import Limits
from pathors_agent.errors import refuse_other
from pathors_agent.history.trim import AsyncHistory
from pathors_agent.json_text import write_json
from pathors_agent.messages import JSONValue
from pathors_agent.server.http.completion import CompletionRequest
from pathors_agent.server.http.problems import bad_request
from pathors_agent.tools.registry import ToolRegistry, Tools, registry_of
from pathors_agent.transports.base import AsyncTransport
from pathors_agent.wire.chat_completions import ModelOptions

# The ids of projects are parts of addresses, and are stored in the database.
_ID = re.compile(r"[A-Za-z0-9._~-]{1,100}")
_VARIABLE = re.compile(r"\{\{\s*([^{}\s]+)\s*\}\}")

# Those that are checked as an agent's are.
_SETTINGS = ("model", "options", "limits", "history", "budget")

# Building an agent takes a twentieth of the time of a turn.
_KEPT_AGENTS = 16

# The name of the model in answers if neither the client nor the project names one.
DEFAULT_MODEL = "pathway-default"


@dataclass(frozen=True, slots=True)
class TurnContext:
    """The context of a project's tools, as `ToolContext.context`.

    `principal` is the id of the user that the app authenticated itself; None for a key.
    """

    project: str
    session_id: str
    variables: Mapping[str, JSONValue] = field(repr=False)
    principal: str | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class Project:
    """An agent under a name: a transport to its model, instructions, and tools that run here.

    - `instructions`: may hold `{{name}}` for each of a session's variables. Values are inserted as
      plain text, and an unknown name stays as it is.
    - `model`: the model to request; without it, the client's choice is passed on.
    - `tools`: they run on the server; a client can send other tools with a request, and runs them
      itself.
    - `limits`: of one turn. At a limit the model is asked for a last answer without tools.
    - `history`: selects the messages of a session to send, see `last_turns`.
    - `hooks`: wrap each model call and each call of the project's tools.
    - `budget`: the most that all turns of this process may spend; when it is used up, turns stop as
      at a limit.
    - `reasoning`: when clients get the model's reasoning, as `reasoning_content`: if they `asked`
      for it, `always` or `never`.
    - `on_disconnect`: what happens to the turn of a client that disconnects: `cancel` leaves the
      session unchanged, `finish` runs the turn to its end and stores it.
    """

    id: str
    transport: AsyncTransport = field(repr=False)
    instructions: str | None = field(default=None, repr=False)
    model: str | None = None
    tools: Tools = ()
    options: ModelOptions = field(default_factory=ModelOptions)
    limits: Limits = field(default_factory=lambda: Limits(last_word=True))
    history: AsyncHistory | None = None
    hooks: Sequence[AsyncHook] = ()
    budget: Budget | None = None
    reasoning: Literal["asked", "always", "never"] = "asked"
    on_disconnect: Literal["cancel", "finish"] = "cancel"

    def __post_init__(self) -> None:
        refuse_other("Project.id", self.id, str)
        refuse_other("Project.instructions", self.instructions, str, NoneType)
        settings = {name: getattr(self, name) for name in _SETTINGS}
        refuse_settings("Project", settings, _SETTINGS)
        if not _ID.fullmatch(self.id) or not self.id.strip("."):
            raise ValueError(
                f"the project id {self.id!r} must be 1 to 100 of the characters A-Z a-z 0-9 . _ ~ -"
            )
        refuse_other("transport=", self.transport, AsyncTransport)
        _ = self.own_tools  # raises if something is not a tool
        Hooks.of(self.hooks, is_async=True)
        if self.on_disconnect not in ("cancel", "finish"):
            raise ValueError('on_disconnect must be "cancel" or "finish"')
        if self.reasoning not in ("asked", "always", "never"):
            raise ValueError('reasoning must be "asked", "always" or "never"')

    @cached_property
    def own_tools(self) -> ToolRegistry:
        """The tools that run here."""
        return registry_of(self.tools)

    def agent(
        self, request: CompletionRequest, variables: Mapping[str, JSONValue]
    ) -> AsyncAgent[str]:
        """Return the agent that answers one request."""
        external, options = request.external_tools, request.model_options(self.options)
        for tool in external:
            if tool.name in self.own_tools:
                raise bad_request(
                    "A tool of the request has the name of one of the project's own",
                    f"tools: {tool.name} is a tool of the project; give yours another name",
                )
        model, instructions = self._model(request), self._instructions(variables)
        if external or options is not self.options:
            return self._made(model, instructions, options, external)
        return self._kept_agents(model, instructions)

    @cached_property
    def _kept_agents(self) -> Callable[[str | None, str | None], AsyncAgent[str]]:
        """Returns the agent for requests with neither tools nor options; the last ones are kept."""
        return lru_cache(_KEPT_AGENTS)(self._made)

    def _made(
        self,
        model: str | None,
        instructions: str | None,
        options: ModelOptions | None = None,
        external: ToolRegistry | None = None,
    ) -> AsyncAgent[str]:
        return AsyncAgent(
            self.transport,
            name=self.id,
            model=model,
            instructions=instructions,
            tools=self.own_tools + external if external else self.own_tools,
            options=self.options if options is None else options,
            limits=self.limits,
            history=self.history,
            hooks=self.hooks,
            budget=self.budget,
        )

    def shown_model(self, request: CompletionRequest) -> str:
        """Return the model's name for the client."""
        return self._model(request) or DEFAULT_MODEL

    def shows_reasoning(self, request: CompletionRequest) -> bool:
        """Return whether the answer to a request holds the model's reasoning."""
        is_asked = self.reasoning == "asked" and request.asks_for_reasoning
        return is_asked or self.reasoning == "always"

    def takes_model_of(self, request: CompletionRequest) -> bool:
        """Return whether the request chooses the model.

        The name that the list of models shows for a project without a model does not count.
        """
        return not self.model and request.model not in (None, "", DEFAULT_MODEL)

    def _model(self, request: CompletionRequest) -> str | None:
        return request.model if self.takes_model_of(request) else self.model

    def _instructions(self, variables: Mapping[str, JSONValue]) -> str | None:
        if self.instructions is None:
            return None
        return _VARIABLE.sub(lambda found: _inserted(found, variables), self.instructions)


def _inserted(found: "re.Match[str]", variables: Mapping[str, JSONValue]) -> str:
    """Return a variable's text; a value that is not a text is written as JSON."""
    name = found[1]
    if name not in variables:
        return found[0]
    value = variables[name]
    return value if isinstance(value, str) else write_json(value).decode()
