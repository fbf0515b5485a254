"""Test a tool of your own, rule by rule, with arguments made from its schema."""

import json
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from typing import Any

from pathors_agent.agents.hooks import Arguments
from pathors_agent.agents.perform.bound import call_tool
from pathors_agent.agents.perform.tool_thread import ToolThread
from pathors_agent.errors import ToolDefinitionError, ToolError, named_error
from pathors_agent.messages import ToolCall, ToolMessage
from pathors_agent.testing.arguments import (
    CannotDraw,
    Draws,
    FirstDraws,
    SeededDraws,
    fitting_arguments,
    mistaken_arguments,
)
from pathors_agent.testing.expectations import arguments_text
from pathors_agent.testing.usage import count_of, one_tool
from pathors_agent.tools.registry import BoundCall, ToolRegistry
from pathors_agent.tools.tool import Tool

EXAMPLES = 25
# The longest time for a tool without a `timeout`.
SECONDS = 10.0


def check_tool(
    tool: Tool | Callable[..., object],
    *,
    arguments: Iterable[Arguments] = (),
    examples: int = EXAMPLES,
    seed: int = 0,
    seconds: float = SECONDS,
    context: object = None,
) -> None:
    """Check a tool; raise `AssertionError` with the first broken rule and the arguments.

    The tool really runs, so connect it to a back end for tests. It runs `examples` times with
    arguments generated from its schema, the simplest first, and with those in `arguments`. The
    rules: its definition is valid, it and its parameters have descriptions, it accepts arguments
    that fit its schema and refuses others with a text, and it returns a value that can be sent or
    raises `ToolError`, each within its `timeout` or `seconds`. `context` is the value of
    `ToolContext.context`.
    """
    given = _given(arguments)
    count = count_of(examples, name="examples", least=0)
    registry = _registered(tool)
    [checked] = registry
    _require_description(checked)
    for values in _examples(checked, count, seed, given):
        if checked.function is not None:  # not a client tool
            _require_result(_bound(registry, checked, values, context), values, seconds)
    _require_refusals(registry, checked, count, seed)


def _given(arguments: Any) -> list[Arguments]:
    if isinstance(arguments, Mapping):
        raise TypeError("check_tool takes a list of arguments: write arguments=[{...}]")
    if not isinstance(arguments, Iterable):
        kind = type(arguments).__name__
        raise TypeError(
            f"check_tool takes a list of arguments, not a {kind}; with Hypothesis, write a test "
            "with @given(tool_arguments(tool))"
        )
    return list(arguments)


def _registered(tool: Tool | Callable[..., object]) -> ToolRegistry:
    try:
        return ToolRegistry([one_tool(tool, function="check_tool")])
    except ToolDefinitionError as error:
        raise AssertionError(f"a tool's definition must be valid: {error}") from error


def _require_description(tool: Tool) -> None:
    if not tool.description.strip():
        raise AssertionError(
            f"a tool must be described, so that the model knows when to call it; {tool.name} is "
            "not: add a docstring"
        )
    properties = tool.parameters.get("properties", {})
    bare = [name for name, rule in properties.items() if not _is_described(rule)]
    if bare:
        raise AssertionError(
            f"the parameters of a tool must be described; {tool.name} does not describe "
            f"{', '.join(bare)}: do so in the docstring, or with Field(description=...)"
        )


def _is_described(rule: Any) -> bool:
    """Return True if a parameter has a description or an enum."""
    return not isinstance(rule, Mapping) or any(
        name in rule for name in ("description", "title", "enum", "const", "$ref")
    )


def _examples(tool: Tool, count: int, seed: int, given: Sequence[Arguments]) -> Iterator[Arguments]:
    """Yield valid arguments: the caller's, then the simplest, then others."""
    yield from given
    seen: set[str] = set()
    sources: list[Draws] = [FirstDraws(), *[SeededDraws(seed)] * (count - 1)]
    for draws in sources:
        try:
            made = fitting_arguments(tool, draws)
        except CannotDraw as reason:
            if given:
                return
            raise AssertionError(
                f"arguments for {tool.name} could not be made from its schema: {reason}; pass "
                "some as check_tool(arguments=[...])"
            ) from None
        except Exception as error:  # a validator of the tool's author may raise anything
            raise AssertionError(
                f"a validator must raise ValueError for arguments that do not fit; one of {tool.name} "
                f"raised {named_error(error)}"
            ) from error
        text = json.dumps(made, sort_keys=True)
        if text not in seen:
            yield made
        seen.add(text)


def _bound(
    registry: ToolRegistry, tool: Tool, values: Mapping[str, Any], context: object
) -> BoundCall:
    bound = registry.bind(_call(tool, json.dumps(dict(values))), context, key="check_tool")
    if isinstance(bound, BoundCall):
        return bound
    raise AssertionError(
        f"a tool must take arguments that fit its schema; {_shown(tool, values)}: {bound.text}"
    )


def _require_result(bound: BoundCall, values: Mapping[str, Any], seconds: float) -> None:
    tool, shown = bound.tool, _shown(bound.tool, values)
    limit = min(tool.timeout or seconds, seconds)
    raised: list[Exception] = []
    message = _run(bound, limit, raised)
    error = raised[0] if raised else None
    if message.outcome == "value" or isinstance(error, ToolError):
        return
    if message.outcome == "timeout":
        raise AssertionError(f"a tool must be done in time; {shown} was not after {limit:g} s")
    if error is not None:
        raise AssertionError(
            f"a tool must raise nothing but ToolError for arguments that fit; {shown} raised "
            f"{named_error(error)}"
        ) from error
    raise AssertionError(f"a tool must return a value that can be sent; {shown}: {message.text}")


def _run(bound: BoundCall, seconds: float, raised: list[Exception]) -> ToolMessage:
    """Run a call as agents do, in a thread that can be abandoned, and keep its exceptions."""
    assert bound.tool.function is not None  # or it had not been bound
    function = _watched(bound.tool.function, bound.tool, raised)
    watched = replace(bound.tool, function=function, timeout=seconds, run_in="thread", memory=None)
    with ToolThread() as thread:
        return call_tool(BoundCall(bound.call, watched, bound.kwargs), thread)


def _watched(
    function: Callable[..., Any], tool: Tool, raised: list[Exception]
) -> Callable[..., Any]:
    """Return the function, wrapped to record its exceptions."""

    @wraps(function)
    def run(**arguments: Any) -> Any:
        with _noting(raised):
            value = function(**arguments)
        return _awaited(value, raised) if isinstance(value, Awaitable) else value

    @wraps(function)
    async def run_async(**arguments: Any) -> Any:
        with _noting(raised):
            return await function(**arguments)

    @wraps(function)
    async def run_reporting(**arguments: Any) -> AsyncGenerator[Any, None]:
        with _noting(raised):
            async for value in function(**arguments):
                yield value

    @wraps(function)
    def run_steps(**arguments: Any) -> Generator[Any, None, Any]:
        with _noting(raised):
            return (yield from function(**arguments))

    if tool.reports:
        return run_reporting if tool.is_async else run_steps
    return run_async if tool.is_async else run


async def _awaited(value: Awaitable[Any], raised: list[Exception]) -> Any:
    with _noting(raised):
        return await value


@contextmanager
def _noting(raised: list[Exception]) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raised.append(error)
        raise


def _require_refusals(registry: ToolRegistry, tool: Tool, examples: int, seed: int) -> None:
    """Send arguments that do not fit; the tool's validators must refuse them with a text."""
    draws = SeededDraws(seed)
    for _ in range(examples):
        made = mistaken_arguments(tool.sent_parameters, draws)
        text = made if isinstance(made, str) else json.dumps(made)
        bound = registry.bind(_call(tool, text), key="check_tool")
        if isinstance(bound, ToolMessage) and "could not be checked" in bound.text:
            raise AssertionError(
                f"a tool must refuse arguments that do not fit in words; {tool.name}({text}): "
                f"{bound.text}"
            )


def _call(tool: Tool, arguments: str) -> ToolCall:
    return ToolCall(id="call_1", name=tool.name, arguments=arguments)


def _shown(tool: Tool, values: Mapping[str, Any]) -> str:
    return f"{tool.name}({arguments_text(dict(values))})"
