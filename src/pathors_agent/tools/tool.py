"""Define tools. Pure.

A tool is a decorated function, or a name with a JSON Schema. Without a function it is a client
tool, which only the caller can run.
"""

import enum
import inspect
import re
import sys
import warnings
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, Literal, NamedTuple, TypedDict, TypeVar, Unpack, cast, get_origin, overload

from pathors_agent.errors import InvalidSetting, ToolDefinitionError
from pathors_agent.schema.arguments import CheckedArguments, SchemaValidator, TypedArguments
from pathors_agent.schema.compiled import compile_schema
from pathors_agent.schema.strict import ArgumentsReader, StrictArguments, close_schema
from pathors_agent.tools.docstring import read_docstring
from pathors_agent.tools.signature import (
    Signature,
    ToolContext,
    find_context_parameter,
    read_signature,
    refused,
)

FunctionT = TypeVar("FunctionT", bound=Callable[..., object])

# About 5,000 tokens, or ten pages of a book: models make little use of longer results.
MAX_RESULT_CHARACTERS = 20_000

# More attempts than this, or waits of more than an hour, belong in a queue.
MAX_ATTEMPTS = 100
MAX_RETRY_SECONDS = 3600.0

# OpenAI's rule for function names.
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


Reconcile = Callable[[ToolContext[Any], Mapping[str, Any]], object]
"""A function, sync or async, that finds out whether an interrupted call was carried out."""


@dataclass(frozen=True, slots=True)
class Happened:
    """Returned by a `reconcile` function for a call that was carried out; `value` is its result."""

    value: object


class _NotHappened(enum.Enum):
    NOT_HAPPENED = enum.auto()


NOT_HAPPENED = _NotHappened.NOT_HAPPENED
"""Returned by a `reconcile` function for a call that was not carried out: it runs again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Run a failed call of an idempotent tool again, up to `attempts` times in all.

    The first wait takes up to `backoff` seconds, each later one up to twice as long as the one
    before, and none more than `max_wait`. The waits are random, so that callers do not retry in
    step. `on` names the exceptions that are retried; a call that was not finished in time is
    retried as well. A `ToolError` is an answer to the model and is never retried.
    """

    attempts: int = 3
    backoff: float = 1.0
    max_wait: float = 30.0
    on: type[Exception] | tuple[type[Exception], ...] = Exception

    def __post_init__(self) -> None:
        if type(self.attempts) is not int or not 1 <= self.attempts <= MAX_ATTEMPTS:
            raise InvalidSetting(
                f"Retry: attempts must be an integer from 1 to {MAX_ATTEMPTS}, "
                f"not {self.attempts!r}."
            )
        for name in ("backoff", "max_wait"):
            seconds: object = getattr(self, name)
            is_right = isinstance(seconds, int | float) and 0 <= seconds <= MAX_RETRY_SECONDS
            if not is_right:  # NaN is refused, too
                raise InvalidSetting(
                    f"Retry: {name} must be 0 to {MAX_RETRY_SECONDS:g} seconds, not {seconds!r}."
                )
        kinds: tuple[object, ...] = self.on if isinstance(self.on, tuple) else (self.on,)
        if not all(isinstance(kind, type) and issubclass(kind, Exception) for kind in kinds):
            raise InvalidSetting(f"Retry: on must be classes of exceptions, not {self.on!r}.")


class ToolOptions(TypedDict, total=False):
    """The options of a tool beside its function; `Tool` explains each."""

    name: str | None
    description: str | None
    timeout: float | None
    sequential: bool
    run_in: Literal["thread", "process"]
    memory: int | None
    approve: bool | Callable[[Mapping[str, Any]], bool]
    strict: bool
    returns: Mapping[str, Any] | None
    max_result_characters: int
    idempotent: bool
    reconcile: Reconcile | None
    retries: Retry | None


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A function that a model may call: a name, a description and the JSON Schema of its parameters.

    `function` (sync or async) gets the arguments as keywords; without one the tool is a client
    tool. A generator reports progress: its last value, or what a sync one returns, is the result. A
    definition is checked when it is registered.

    - `timeout`: seconds that one call may take; None means `Limits.tool_seconds`. An async function
      is cancelled. A thread cannot be stopped: it is abandoned, and while four abandoned calls of
      one tool still run, further calls are refused.
    - `sequential`: no other call of the answer runs at the same time.
    - `run_in`: where a sync function runs. A "process" is killed at its `timeout` (which includes
      its start), or when it takes more than `memory` bytes of address space (on Linux). The
      function must be at the top level of a module, its arguments and value must be picklable, and
      it gets none of the caller's context variables.
    - `approve`: require a person's approval: True for every call, or a predicate on the arguments.
    - `strict`: send the closed form of the schema, for endpoints that enforce it.
    - `returns`: a JSON Schema that the value must fit.
    - `max_result_characters`: a longer result is cut, and ends with a note about it.
    - `idempotent`: in a durable run or a server's turn, a call that a crash interrupted runs again,
      with the same `ToolContext.key`. Other tools are not run again.
    - `reconcile`: for tools that are not idempotent, a function of the `ToolContext` and the
      arguments that finds out whether an interrupted call was carried out. It returns
      `Happened(value)` or `NOT_HAPPENED`.
    - `retries`: the retry policy of an idempotent tool, before the model sees an error. `timeout`
      bounds each attempt.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(
        default_factory=lambda: {"type": "object", "properties": {}}, hash=False, repr=False
    )
    function: Callable[..., Any] | None = None
    timeout: float | None = None
    sequential: bool = False
    run_in: Literal["thread", "process"] = "thread"
    memory: int | None = None
    approve: bool | Callable[[Mapping[str, Any]], bool] = False
    strict: bool = False
    returns: Mapping[str, Any] | None = field(default=None, hash=False, repr=False)
    max_result_characters: int = MAX_RESULT_CHARACTERS
    idempotent: bool = False
    reconcile: Reconcile | None = field(default=None, repr=False)
    retries: Retry | None = None
    _signature: Signature | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("function", "reconcile"):
            value: object = getattr(self, name)
            if value is not None and not callable(value):
                raise refused(self.name, "", f"{name}= must be a function, not {value!r}")
        if self.retries is None:
            return
        if not isinstance(self.retries, Retry):
            raise refused(self.name, "", f"retries= must be a Retry, not {self.retries!r}")
        if not self.idempotent or self.function is None:
            raise refused(
                self.name,
                "",
                "retries= runs the tool again, which only a tool with a function and "
                "idempotent=True allows",
            )

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what pickles and copies hold: not the readers that are built from the fields."""
        if self._signature is not None and self.function is not None:
            return partial(Tool.from_function, self.function, **self.options), ()
        fields: dict[str, Any] = {
            "parameters": self.parameters,
            "function": self.function,
            **self.options,
        }
        return partial(Tool, **fields), ()

    @classmethod
    def from_function(cls, function: Callable[..., Any], **options: Unpack[ToolOptions]) -> "Tool":
        """Build a tool from a function's name, signature and docstring."""
        rest: dict[str, Any] = dict(options)
        if unknown := rest.keys() - ToolOptions.__annotations__.keys():
            known = ", ".join(sorted(ToolOptions.__annotations__))
            raise TypeError(f"a tool has no option {min(unknown)}=; its options are {known}")
        name, description = rest.pop("name", None), rest.pop("description", None)
        if problem := _no_function(function):
            raise refused(_name_of(function) if name is None else name, "", problem)
        name = _own_name(function) if name is None else name
        check_name(name)
        if sys.flags.optimize >= _WITHOUT_DOCSTRINGS and description is None:
            warnings.warn(_NO_DOCSTRINGS.format(name), RuntimeWarning, stacklevel=4)
        docstring = read_docstring(function)
        signature = read_signature(function, tool=name, descriptions=docstring.parameters)
        return cls(
            name=name,
            description=docstring.description if description is None else description,
            parameters=signature.schema,
            function=function,
            _signature=signature,
            **rest,
        )

    @cached_property
    def is_async(self) -> bool:
        """Whether the function is known to be async before it is called.

        A sync function may still return an awaitable: it runs in a thread, then its value is
        awaited.
        """
        known = any(map(inspect.iscoroutinefunction, self._functions))
        yields = any(map(inspect.isasyncgenfunction, self._functions))
        return yields or known or any(map(_returns_awaitable, self._functions))

    @cached_property
    def reports(self) -> bool:
        """Whether the function is a generator, sync or async: its last value is its result."""
        known = (inspect.isgeneratorfunction, inspect.isasyncgenfunction)
        return any(is_known(function) for is_known in known for function in self._functions)

    @property
    def _functions(self) -> tuple[object, object]:
        """The function, and the `__call__` of a callable object."""
        return self.function, getattr(self.function, "__call__", None)  # noqa: B004  (its method)

    @cached_property
    def arguments(self) -> ArgumentsReader:
        """The reader of this tool's arguments."""
        reader: ArgumentsReader
        if self._signature is not None:
            reader = TypedArguments(self._signature.read, self._signature.schema["properties"])
        else:
            reader = CheckedArguments(compile_schema(self.parameters))
        return StrictArguments(reader, self.parameters) if self.strict else reader

    @cached_property
    def sent_parameters(self) -> Mapping[str, Any]:
        """The schema in requests: for a strict tool, the closed form."""
        return close_schema(self.parameters) if self.strict else self.parameters

    @cached_property
    def result_validator(self) -> SchemaValidator | None:
        """The validator of this tool's values, or None without `returns`."""
        return None if self.returns is None else compile_schema(self.returns)

    @cached_property
    def context_parameter(self) -> str | None:
        """The name of the parameter that takes the `ToolContext`, or None."""
        if self._signature is not None:
            return self._signature.context_parameter
        if self.function is None:
            return None
        return find_context_parameter(self.function, tool=self.name)

    @property
    def options(self) -> ToolOptions:
        """The options of the tool beside its function."""
        names = ToolOptions.__annotations__
        return cast(ToolOptions, {name: getattr(self, name) for name in names})

    @property
    def is_method(self) -> bool:
        """Whether the function was decorated as a method: it needs a bound `self` to be called."""
        return self._signature is not None and self._signature.is_method

    @property
    def definition(self) -> dict[str, Any]:
        """The tool as in OpenAI's requests."""
        described = {"description": self.description} if self.description else {}
        function: dict[str, Any] = {"name": self.name, **described}
        if self.strict:
            function["strict"] = True
        function["parameters"] = self.sent_parameters
        return {"type": "function", "function": function}


class _Unresolved(NamedTuple):
    """The options of a decorated function whose annotations name a type that is not defined yet."""

    options: ToolOptions


@overload
def tool(function: FunctionT, /) -> FunctionT: ...
@overload
def tool(**options: Unpack[ToolOptions]) -> Callable[[FunctionT], FunctionT]: ...
def tool(
    function: Callable[..., object] | None = None, /, **options: Unpack[ToolOptions]
) -> Callable[..., object]:
    """Declare a function as a tool, and return the function unchanged.

    The docstring describes the tool and its parameters; the annotations define the schema. The
    `Tool` is kept in the function's `__tool__`; the options are those of `Tool`.
    """
    if function is None:
        return lambda function: _decorate(function, options)
    return _decorate(function, options)


def _decorate(function: FunctionT, options: ToolOptions) -> FunctionT:
    made: Tool | _Unresolved
    try:
        made = Tool.from_function(function, **options)
    except ToolDefinitionError as error:
        # The module may define the name further down; it is known at registration.
        if not isinstance(error.__cause__, NameError):
            raise
        made = _Unresolved(options)
    try:
        function.__tool__ = made  # type: ignore[attr-defined]  # functions take attributes
    except AttributeError:
        kind = type(function).__name__
        raise refused(
            _name_of(function), "", f"a {kind} cannot be decorated; use Tool.from_function"
        ) from None
    return function


def _no_function(item: object) -> str | None:
    if callable(item) and not isinstance(item, type | staticmethod | classmethod):
        return None
    return f"a {type(item).__name__} is no function; put @tool directly above `def`"


def _name_of(item: object) -> str:
    """Return the name of a function, of a partial's function, or of an object's class."""
    while isinstance(item, partial):
        item = item.func
    name: str = getattr(item, "__name__", type(item).__name__)
    return name


def _own_name(function: Callable[..., Any]) -> str:
    name = _name_of(function)
    if name == "<lambda>":
        raise refused(name, "name", "is missing: a lambda has none of its own; pass name=")
    return name


def _returns_awaitable(function: object) -> bool:
    """Return True if a sync function is annotated as returning an awaitable, such as a future."""
    annotations = (
        getattr(inspect.unwrap(function), "__annotations__", {}) if callable(function) else {}
    )
    hint = annotations.get("return")
    kind = get_origin(hint) or hint
    return isinstance(kind, type) and issubclass(kind, Awaitable)


# Python removes docstrings at this level of `-O`.
_WITHOUT_DOCSTRINGS = 2
_NO_DOCSTRINGS = (
    "tool {!r}: Python runs with -OO, which removes docstrings, so that the model sees no "
    "descriptions. Run it with -O, or pass description= and annotate the parameters with "
    "Field(description=...)."
)


def as_tool(item: object) -> Tool:
    """Return the `Tool` of a decorated function; raise `ToolDefinitionError` for anything else."""
    if isinstance(item, Tool):
        return item
    function: Any = getattr(item, "__func__", item)
    made = getattr(function, "__tool__", None)
    if isinstance(made, _Unresolved):
        made = function.__tool__ = Tool.from_function(function, **made.options)
    if made is None and isinstance(item, partial) and item.func is not item:
        made = as_tool(item.func)
        return Tool.from_function(item, **made.options)
    if not isinstance(made, Tool) or not callable(item):
        raise _undecorated(item)
    if made.function is item:
        return made
    if item is not function and not made.is_method:  # its first parameter is not named `self`
        return Tool.from_function(item, **made.options)
    # A bound method, or a wrapper that functools.wraps gave the attribute.
    return replace(made, function=item)


def _undecorated(item: object) -> ToolDefinitionError:
    name = _name_of(item)
    if name == "<lambda>":
        return refused(name, "", "is a lambda, which has no name; decorate it with tool(name=...)")
    if inspect.isroutine(item):
        return refused(name, "", "is a plain function; decorate it with @tool")
    kind = type(item).__name__
    if hasattr(item, "as_tool"):
        return refused(name, "", "is an agent; pass agent.as_tool(name, description)")
    hint = "; pass Tool.from_function(it)" if _no_function(item) is None else ""
    return refused(
        name, "", f"a {kind} is neither a Tool nor a function decorated with @tool{hint}"
    )


def check_name(name: str) -> None:
    """Raise `ToolDefinitionError` for a name that OpenAI's API does not accept."""
    given: object = name
    if not isinstance(given, str) or not _NAME.fullmatch(given):
        raise refused(name, "name", "should be 1 to 64 of the characters a-z A-Z 0-9 _ -")
