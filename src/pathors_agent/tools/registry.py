"""Keep an agent's tools under unique names, each checked, and bind a model's calls to them. Pure."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

from msgspec import Struct

from pathors_agent.messages import ToolCall, ToolMessage
from pathors_agent.schema.arguments import MAX_TEXT, ArgumentsRefused, closest, cut, listed, quote
from pathors_agent.schema.compiled import InvalidSchema
from pathors_agent.tools.definition import read_definition
from pathors_agent.tools.placement import check_placement
from pathors_agent.tools.signature import ToolContext, refused
from pathors_agent.tools.tool import Tool, as_tool, check_name

GivenTool = Tool | Callable[..., object] | Mapping[str, object]
"""A tool, a decorated function, or the definition of a client tool as OpenAI's requests hold it."""


class _Entry(NamedTuple):
    """A tool whose definition was found good, and what a call of it needs."""

    tool: Tool
    read: Callable[[str], dict[str, Any]]
    context_parameter: str | None


def _tool(given: GivenTool) -> Tool:
    return read_definition(given) if isinstance(given, Mapping) else as_tool(given)


def _checked(tool: Tool) -> _Entry:
    check_name(tool.name)
    parameters: object = tool.parameters
    if not isinstance(parameters, Mapping) or parameters.get("type") != "object":
        raise refused(tool.name, "parameters/type", 'should be "object"')
    if tool.is_method and not hasattr(tool.function, "__self__"):
        raise refused(tool.name, "", "is a method; register it from an instance, as `thing.method`")
    check_placement(
        tool.name,
        function=tool.function,
        run_in=tool.run_in,
        timeout=tool.timeout,
        memory=tool.memory,
    )
    _check_results(tool)
    with _schema_errors(tool, "parameters"):
        _ = tool.arguments, tool.sent_parameters
        return _Entry(tool, tool.arguments.read, tool.context_parameter)


def _check_results(tool: Tool) -> None:
    characters: object = tool.max_result_characters
    if not isinstance(characters, int) or characters < 1:
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


def _origin(tool: Tool) -> str:
    """Say where a tool comes from, for who must tell two apart."""
    made = tool.function or tool
    named = made if hasattr(made, "__qualname__") else type(made)
    return f"{named.__module__}.{named.__qualname__}"


class BoundCall(Struct, frozen=True):
    """A call whose tool is found and whose arguments fit: `function(**kwargs)` runs it."""

    call: ToolCall
    tool: Tool
    kwargs: dict[str, Any]

    @property
    def function(self) -> Callable[..., Any]:
        """The function to run."""
        assert self.tool.function is not None  # `bind` gives no call of a client tool
        return self.tool.function

    @property
    def is_async(self) -> bool:
        """Whether the function is a coroutine function."""
        return self.tool.is_async

    def __repr__(self) -> str:
        return (
            f"BoundCall(call={self.call!r}, tool={self.tool.name!r}, <{len(self.kwargs)} kwargs>)"
        )


class ToolRegistry:
    """The tools of an agent, in order, under unique names, each checked."""

    def __init__(self, tools: Iterable[GivenTool] = ()) -> None:
        self._entries: dict[str, _Entry] = {}
        self._add(_checked(_tool(given)) for given in tools)

    def _add(self, entries: Iterable[_Entry]) -> "ToolRegistry":
        for entry in entries:
            name = entry.tool.name
            if name in self._entries:
                both = f"{_origin(self[name])} and {_origin(entry.tool)}"
                raise refused(name, "name", f"is taken: {both} have it; prefix one")
            self._entries[name] = entry
        return self

    def prefixed(self, prefix: str) -> "ToolRegistry":
        """The same tools, each under its name with a prefix."""
        return ToolRegistry()._add(_prefixed(entry, prefix) for entry in self._entries.values())

    def filtered(self, wanted: Callable[[Tool], bool]) -> "ToolRegistry":
        """Those of the tools that are wanted."""
        return ToolRegistry()._add(e for e in self._entries.values() if wanted(e.tool))

    def __add__(self, other: "ToolRegistry") -> "ToolRegistry":
        """The tools of both, whose names must differ."""
        if not isinstance(other, ToolRegistry):
            return NotImplemented
        return ToolRegistry()._add([*self._entries.values(), *other._entries.values()])

    @cached_property
    def client_tools(self) -> frozenset[str]:
        """The names of the tools that only the caller can run."""
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

    def __repr__(self) -> str:
        return f"ToolRegistry({', '.join(self._entries)})"

    def definitions(self) -> list[dict[str, Any]]:
        """The tools as OpenAI's requests hold them."""
        return list(self._definitions)

    def bind(
        self,
        call: ToolCall,
        context: object = None,
        *,
        session_id: str | None = None,
        key: str = "",
    ) -> BoundCall | ToolMessage:
        """Find a call's tool and read its arguments; what is wrong becomes the call's result."""
        entry = self._entries.get(call.name)
        if entry is None:
            return _failed(call, self._unknown(call.name))
        tool, read, context_parameter = entry
        if tool.function is None:
            return _failed(call, f"{tool.name} can only be run by the caller.")
        try:
            kwargs = read(call.arguments)
        except ArgumentsRefused as refusal:
            return _failed(call, f"The arguments of {tool.name} {refusal}")
        except Exception as error:  # noqa: BLE001  (a validator of the tool's author may raise anything)
            return _failed(call, _unchecked(tool.name, error))
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
    return ToolMessage(tool_call_id=call.id, content=cut(text, MAX_TEXT), outcome="error")


def _unchecked(tool: str, error: Exception) -> str:
    return f"The arguments of {tool} could not be checked ({type(error).__name__})."
