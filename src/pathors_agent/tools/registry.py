"""Keep an agent's tools under unique names, each checked, and bind a model's calls to them. Pure.

The tools of an agent are fixed, or chosen for each turn by a function of the run's context. A turn
is one model call and the tool calls of its answer: both use the same registry.
"""

import inspect
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from numbers import Integral, Real
from typing import Any, Concatenate, NamedTuple, cast

from msgspec import Struct
from typing_extensions import TypeVar

from pathors_agent.errors import UnreadableDefinition
from pathors_agent.messages import Message, ToolCall, ToolMessage
from pathors_agent.schema.arguments import MAX_TEXT, ArgumentsRefused, closest, listed
from pathors_agent.schema.bounds import cut, quote
from pathors_agent.schema.compiled import InvalidSchema
from pathors_agent.schema.references import foreign_schema
from pathors_agent.tools.interpreter import no_python, python_executable
from pathors_agent.tools.search import SEARCH_TOOL, ToolSearch, found_tools
from pathors_agent.tools.signature import ToolContext, refused
from pathors_agent.tools.tool import Tool, as_tool, check_name

GivenTool = Tool | Callable[..., object] | Mapping[str, object]
"""A tool, a decorated function, or a client tool's definition as in OpenAI's requests."""


class _Entry(NamedTuple):
    """A checked tool, and what binding a call to it needs."""

    tool: Tool
    read: Callable[[str], dict[str, Any]]
    context_parameter: str | None
    deferred: bool = False
    """Whether the model sees the tool only after it has searched for it."""


def _checked(tool: Tool) -> _Entry:
    check_name(tool.name)
    parameters: object = tool.parameters
    if not isinstance(parameters, Mapping) or parameters.get("type") != "object":
        raise refused(tool.name, "parameters/type", 'should be "object"')
    if tool.is_method and not hasattr(tool.function, "__self__"):
        raise refused(tool.name, "", "is a method; register it from an instance, as `thing.method`")
    properties = parameters.get("properties")
    if isinstance(properties, Mapping) and tool.context_parameter in properties:
        path = f"parameters/properties/{tool.context_parameter}"
        raise refused(tool.name, path, "is the name of the ToolContext, which no model can send")
    _check_options(tool)
    _check_process(tool)
    _check_results(tool)
    with _schema_errors(tool, "parameters"):
        _ = tool.arguments, tool.sent_parameters
        return _Entry(tool, tool.arguments.read, tool.context_parameter)


def _check_options(tool: Tool) -> None:
    """Raise for options of another type: every text is true, also "no"."""
    description: object = tool.description
    if not isinstance(description, str):
        raise refused(tool.name, "description", "should be a string")
    for name in ("sequential", "strict", "idempotent"):
        if not isinstance(getattr(tool, name), bool):
            raise refused(tool.name, name, "should be True or False")
    if not isinstance(tool.approve, bool) and not callable(tool.approve):
        raise refused(tool.name, "approve", "should be True, False or a function of the arguments")
    if inspect.iscoroutinefunction(tool.approve):
        raise refused(tool.name, "approve", "should be a sync function")


def _is_over_zero(value: object, kind: type) -> bool:
    """Return True for a number of a kind that is over 0; False for True."""
    return isinstance(value, kind) and not isinstance(value, bool) and cast(float, value) > 0


def _check_process(tool: Tool) -> None:
    """Raise unless the tool can run where its definition says."""
    run_in: str = tool.run_in
    if tool.timeout is not None and not _is_over_zero(tool.timeout, Real):
        raise refused(tool.name, "timeout", "should be a number over 0, or None")
    if run_in not in ("thread", "process"):
        raise refused(tool.name, "run_in", 'should be "thread" or "process"')
    if tool.memory is not None and run_in != "process":
        raise refused(tool.name, "memory", 'needs run_in="process"')
    if tool.memory is not None and not _is_over_zero(tool.memory, Integral):
        raise refused(tool.name, "memory", "should be a whole number over 0, or None")
    if run_in == "process" and (problem := _process_problem(tool.function)):
        raise refused(tool.name, "run_in", problem)


def _process_problem(function: Callable[..., Any] | None) -> str | None:
    """Return why a function cannot run in a process, which imports it by module and name."""
    if function is None:
        return "has no function to run in a process"
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        return "should be a thread: a process cannot run an async function"
    if inspect.isgeneratorfunction(function):
        return "should be a thread: a process cannot report progress; return the last value only"
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if module == "__main__":
        # The process would have to run the whole script, and with it the agent, once more.
        return "needs a function of a module that can be imported, not of the script that runs"
    if not module or not name or getattr(sys.modules.get(module), name, None) is not function:
        return "needs a function at the top level of its module, under its own name"
    return no_python() if python_executable() is None else None


def _check_results(tool: Tool) -> None:
    if not _is_over_zero(tool.max_result_characters, Integral):
        raise refused(tool.name, "max_result_characters", "should be a number of 1 or more")
    with _schema_errors(tool, "returns"):
        _ = tool.result_validator


@contextmanager
def _schema_errors(tool: Tool, part: str) -> Iterator[None]:
    try:
        yield
    except InvalidSchema as error:
        path = "/".join(filter(None, [part, error.path]))
        raise refused(tool.name, path, str(error)) from error


def _prefixed(entry: _Entry, prefix: str) -> _Entry:
    name = prefix + entry.tool.name
    check_name(name)
    return entry._replace(tool=replace(entry.tool, name=name))


def _search(tools: list[Tool]) -> Tool:
    """Return the tool that searches these tools."""
    return Tool.from_function(
        ToolSearch(tools),
        name=SEARCH_TOOL,
        description=f"Search {len(tools)} more tools, which are not listed here. A tool that is "
        "found can be called from the next answer on.",
        idempotent=True,
    )


def _taken(tool: Tool, other: Tool) -> str:
    if tool is other:
        return f"is taken: {_origin(tool)} is given twice"
    return f"is taken: {_origin(tool)} and {_origin(other)} have it; prefix one"


def _origin(tool: Tool) -> str:
    """Return where a tool is defined, to distinguish two with one name."""
    made = tool.function or tool
    named = made if hasattr(made, "__qualname__") else type(made)
    return f"{named.__module__}.{named.__qualname__}"


class BoundCall(Struct, frozen=True):
    """A call with its tool and its valid arguments: `function(**kwargs)` runs it."""

    call: ToolCall
    tool: Tool
    kwargs: dict[str, Any]

    @property
    def function(self) -> Callable[..., Any]:
        """The function to run."""
        assert self.tool.function is not None  # `bind` binds no call of a client tool
        return self.tool.function

    @property
    def is_async(self) -> bool:
        """Whether the function is async."""
        return self.tool.is_async

    def __repr__(self) -> str:
        return (
            f"BoundCall(call={self.call!r}, tool={self.tool.name!r}, <{len(self.kwargs)} kwargs>)"
        )


class ToolRegistry:
    """The tools of an agent, in order, under unique names, each checked."""

    def __init__(self, tools: Iterable[GivenTool] = ()) -> None:
        self._entries: dict[str, _Entry] = {}
        self._deferred: dict[str, None] = {}
        self._add(
            _checked(read_definition(given) if isinstance(given, Mapping) else as_tool(given))
            for given in tools
        )

    def _add(self, entries: Iterable[_Entry]) -> "ToolRegistry":
        for entry in entries:
            name = entry.tool.name
            if name in self._entries:
                raise refused(name, "name", _taken(self[name], entry.tool))
            self._entries[name] = entry
            if entry.deferred:
                self._deferred[name] = None
        if self._deferred:
            if SEARCH_TOOL in self._entries:
                problem = f"is taken by the search for tools: rename {_origin(self[SEARCH_TOOL])}"
                raise refused(SEARCH_TOOL, "name", problem)
            self._entries[SEARCH_TOOL] = _checked(_search([self[name] for name in self._deferred]))
        return self

    def searchable(self) -> "ToolRegistry":
        """Return the same tools behind a search tool: the model sees only the tools that it found.

        A request contains the search tool, and the tools that the history has found or called. Add
        tools that the model always sees: `ToolRegistry([pay]) + many.searchable()`.
        """
        return ToolRegistry()._add(entry._replace(deferred=True) for entry in self._given())

    def _given(self) -> Iterator[_Entry]:
        """Yield the entries except the search tool, which belongs to this registry alone."""
        for name, entry in self._entries.items():
            if not self._deferred or name != SEARCH_TOOL:
                yield entry

    def prefixed(self, prefix: str) -> "ToolRegistry":
        """Return the same tools, with a prefix before each name."""
        return ToolRegistry()._add(_prefixed(entry, prefix) for entry in self._given())

    def filtered(self, wanted: Callable[[Tool], bool]) -> "ToolRegistry":
        """Return the tools for which `wanted` returns True."""
        return ToolRegistry()._add(e for e in self._given() if wanted(e.tool))

    def __add__(self, other: "ToolRegistry") -> "ToolRegistry":
        """Return the tools of both registries; raise if they share a name."""
        if not isinstance(other, ToolRegistry):
            return NotImplemented
        return ToolRegistry()._add([*self._given(), *other._given()])

    @cached_property
    def client_tools(self) -> frozenset[str]:
        """The names of client tools, which only the caller can run."""
        return frozenset(tool.name for tool in self if tool.function is None)

    @cached_property
    def _definitions(self) -> list[dict[str, Any]]:
        return [tool.definition for tool in self]

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Tool]:
        return (entry.tool for entry in self._entries.values())

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __getitem__(self, name: str) -> Tool:
        return self._entries[name].tool

    def get(self, name: str) -> Tool | None:
        """Return the tool with a name, or None if there is none."""
        entry = self._entries.get(name)
        return None if entry is None else entry.tool

    def __repr__(self) -> str:
        return f"ToolRegistry({', '.join(self._entries)})"

    @property
    def has_deferred(self) -> bool:
        """Whether the model must find some of the tools before it can call them."""
        return bool(self._deferred)

    def definitions(self) -> list[dict[str, Any]]:
        """Return the tools' definitions, as in OpenAI's requests."""
        return list(self._definitions)

    def offered(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """Return the definitions for the next request: all, or those that a history has found.

        Found tools come last, in the order of the history, so that the tools before them stay equal
        from one request to the next.
        """
        if not self._deferred:
            return self._definitions
        found = found_tools(messages, self._deferred)
        seen = [name for name, entry in self._entries.items() if not entry.deferred]
        return [self[name].definition for name in [*seen, *found]]

    def bind(
        self,
        call: ToolCall,
        context: object = None,
        *,
        session_id: str | None = None,
        key: str = "",
    ) -> BoundCall | ToolMessage:
        """Find a call's tool and read its arguments; return an error message if either fails."""
        entry = self._entries.get(call.name)
        if entry is None:
            return _failed(call, self._unknown(call.name))
        tool, read, context_parameter, _ = entry
        if tool.function is None:
            return _failed(call, f"{tool.name} can only be run by the caller.")
        try:
            kwargs = read(call.arguments)
        except ArgumentsRefused as refusal:
            return _failed(call, f"The arguments of {tool.name} {refusal}")
        except Exception as error:  # noqa: BLE001  (validators of the tool's author may raise anything)
            kind = type(error).__name__
            return _failed(call, f"The arguments of {tool.name} could not be checked ({kind}).")
        if context_parameter is not None:
            kwargs[context_parameter] = ToolContext(context, session_id, call, key)
        return BoundCall(call, tool, kwargs)

    def _unknown(self, name: str) -> str:
        match = closest(name, self._entries)
        hint = f" Did you mean {quote(match)}?" if match else ""
        known = (
            f" The tools are: {listed(self._entries)}." if self._entries else " There are no tools."
        )
        return f"There is no tool {quote(name)}.{hint}{known}"


def _failed(call: ToolCall, text: str) -> ToolMessage:
    return ToolMessage(
        tool_call_id=call.id, content=cut(text, MAX_TEXT), outcome="error", invalid=True
    )


# - definitions of OpenAI's requests -


def read_definition(definition: object) -> Tool:
    """Read a client tool from `{"type": "function", "function": {...}}`."""
    function = _function(definition)
    name = _typed(function, "name", str, "must be a string")
    if name is None:
        raise UnreadableDefinition(".function.name", "must be a string")
    parameters = _typed(function, "parameters", Mapping, "must be an object, a JSON Schema")
    return Tool(
        name=name,
        description=_typed(function, "description", str, "must be a string") or "",
        parameters={"type": "object", "properties": {}} | foreign_schema(parameters or {}),
        strict=_typed(function, "strict", bool, "must be true or false") is True,
    )


def _function(definition: object) -> Mapping[str, Any]:
    if not isinstance(definition, Mapping):
        raise UnreadableDefinition("", "must be an object")
    if definition.get("type") != "function":
        raise UnreadableDefinition(".type", 'must be "function"')
    function = definition.get("function")
    if not isinstance(function, Mapping):
        raise UnreadableDefinition(".function", "must be an object")
    return function


def _typed(function: Mapping[str, Any], name: str, kind: type, problem: str) -> Any:
    value = function.get(name)
    if value is None or isinstance(value, kind):
        return value
    raise UnreadableDefinition(f".function.{name}", problem)


# - the tools of a turn -

Tools = ToolRegistry | Iterable[GivenTool]
"""A registry, or an iterable of decorated functions, `Tool`s and OpenAI's definitions."""

T = TypeVar("T")
ContextT = TypeVar("ContextT", default=Any)

ContextTool = (
    Callable[Concatenate[ToolContext[ContextT], ...], object]
    | Callable[Concatenate[Any, ToolContext[ContextT], ...], object]
    | Callable[Concatenate[Any, Any, ToolContext[ContextT], ...], object]
    | Callable[Concatenate[Any, Any, Any, ToolContext[ContextT], ...], object]
)
"""A tool whose `ToolContext` is one of its first four parameters, for type checkers."""

ContextTools = Tools | Iterable[ContextTool[ContextT] | GivenTool]
"""`Tools`, from which type checkers read the type of the run's context."""

ToolChoice = Callable[[ContextT], Tools]
"""A function from a run's context to the tools of the next turn."""

AsyncToolChoice = Callable[[ContextT], Tools | Awaitable[Tools]]
"""A `ToolChoice`, or an async function that does the same."""


def registry_of(tools: Tools) -> ToolRegistry:
    """Return the tools as a registry."""
    if not isinstance(tools, Iterable):
        raise TypeError(f"tools= takes a list of tools, not {type(tools).__name__}")
    return tools if isinstance(tools, ToolRegistry) else ToolRegistry(tools)


def choice_of(tools: Tools | AsyncToolChoice) -> AsyncToolChoice | None:
    """Return the function that chooses the tools, or None if they are fixed."""
    if isinstance(tools, ToolRegistry) or not callable(tools):
        return None
    return tools


def refuse_async(argument: str, value: object) -> None:
    """Raise TypeError if the value of an agent's argument is an async function."""
    if is_async(value):
        raise TypeError(f"{argument}= is an async function, which only AsyncAgent can await")


def not_awaited(source: str, value: T | Awaitable[T]) -> T:
    """Return what a function of a blocking agent returned; raise TypeError for an awaitable."""
    if isinstance(value, Awaitable):
        if inspect.iscoroutine(value):
            value.close()  # otherwise Python warns that it was never awaited
        raise TypeError(f"{source} returned an awaitable, which only AsyncAgent can await")
    return value


def is_async(function: Any) -> bool:
    """Return True for an async function, also in a `functools.partial` or a callable object."""
    inner = inspect.unwrap(getattr(function, "func", function))
    called = getattr(inner, "__call__", None)  # noqa: B004  (wanted: its method)
    return inspect.iscoroutinefunction(inner) or inspect.iscoroutinefunction(called)


def chosen(choice: AsyncToolChoice, context: object) -> ToolRegistry:
    """Return the tools of the next turn."""
    return registry_of(not_awaited("tools=", choice(context)))


async def chosen_async(choice: AsyncToolChoice, context: object) -> ToolRegistry:
    """Return the tools of the next turn; `choice` may be async."""
    given = choice(context)
    return registry_of(await given if isinstance(given, Awaitable) else given)
