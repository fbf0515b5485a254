"""Find what a function takes: what a model may send for it, and what we add. Pure.

Arguments are read in pydantic's strict mode for JSON: "5" is no integer and "yes" no boolean,
while texts become dates, times, decimals, UUIDs and enum members, and 5 is a float. Dataclasses
and typed dicts follow; a pydantic model keeps its own config. `Field(strict=False)` relaxes one
parameter.
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import NoneType, SimpleNamespace, UnionType
from typing import (
    Annotated,
    Any,
    Generic,
    NotRequired,
    Protocol,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from pydantic import Field, PydanticUserError
from pydantic.fields import FieldInfo
from pydantic_core import SchemaError, from_json, to_json
from typing_extensions import TypeVar

from pathors_agent.errors import ToolDefinitionError
from pathors_agent.messages import ToolCall
from pathors_agent.schema.arguments import cut
from pathors_agent.schema.types import TypedObject, read_whole, typed_object

MAX_REASON = 200

_NO_TYPE = "has an annotation that is no type"

ContextT_co = TypeVar("ContextT_co", covariant=True, default=Any)


class ToolLog(Protocol):
    """Where a tool tells what it does: an event's name, and fields. Loggers of structlog fit."""

    def debug(self, event: str, /, **fields: Any) -> Any:
        """Tell what only its author wants to know."""

    def info(self, event: str, /, **fields: Any) -> Any:
        """Tell what happened."""

    def warning(self, event: str, /, **fields: Any) -> Any:
        """Tell what somebody should look at."""

    def error(self, event: str, /, **fields: Any) -> Any:
        """Tell what went wrong."""


class _NoLog:
    """A log that nobody reads."""

    def debug(self, event: str, /, **fields: Any) -> None:
        pass

    info = warning = error = debug


NO_LOG: ToolLog = _NoLog()


@dataclass(frozen=True, slots=True)
class ToolContext(Generic[ContextT_co]):
    """What a tool learns about its call, beside the arguments.

    A parameter annotated with it is hidden from the model and filled in. `context` is what the
    caller gave to the run; `key` is equal whenever the same call is run again, and differs
    between calls: give it to what must not happen twice. `deadline` is the value of
    `time.monotonic()` at which the call's time is over, None where it has no end. `log` takes
    events with fields, which go where the library's go, with the tool's name and the call's id.
    """

    context: ContextT_co = field(repr=False)
    session_id: str | None
    call: ToolCall
    key: str
    deadline: float | None = None
    log: ToolLog = field(default=NO_LOG, repr=False, compare=False)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        raise TypeError(
            "a ToolContext cannot be sent by a model: annotate a parameter with it alone"
        )


@dataclass(frozen=True, slots=True)
class Signature:
    """What a function takes: `schema` and `read` for the model's part.

    `context_parameter` is the name of the parameter that takes a `ToolContext`; `is_method` says
    that there is a `self` that only a bound method brings.
    """

    schema: dict[str, Any]
    read: Callable[[str], dict[str, Any]]
    context_parameter: str | None
    is_method: bool


def read_signature(
    function: Callable[..., Any], *, tool: str, descriptions: Mapping[str, str]
) -> Signature:
    """Read a function's signature, or raise `ToolDefinitionError` for what no model can send."""
    is_method, parameters = _split_self(_parameters(function, tool))
    hints = {p.name: _hint(p, _namespace(function), tool) for p in parameters}
    context_parameter = _context_parameter(hints, tool)
    for parameter in parameters:
        _check_default(parameter, hints[parameter.name], tool)
    fields = {
        p.name: _field(p, hints[p.name], descriptions.get(p.name), tool)
        for p in parameters
        if p.name != context_parameter
    }
    schema, read = _describe(fields, tool)
    return Signature(schema, read, context_parameter, is_method)


def find_context_parameter(function: Callable[..., Any], *, tool: str) -> str | None:
    """Find the parameter that takes a `ToolContext` in a function whose schema was given."""
    try:
        parameters = inspect.signature(function).parameters.values()
        bound = _bound_keywords(function)
    except (TypeError, ValueError):  # a builtin without a signature
        return None
    namespace = _namespace(function)
    hints = {p.name: _hint(p, namespace, tool) for p in parameters if p.name not in bound}
    return _context_parameter(hints, tool)


def _parameters(function: Callable[..., Any], tool: str) -> list[inspect.Parameter]:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError) as error:
        raise refused(tool, "", "has no signature to read", error) from error
    bound = _bound_keywords(function)
    parameters = [parameter for parameter in parameters if parameter.name not in bound]
    for parameter in parameters:
        if problem := _KINDS.get(parameter.kind):
            raise refused(tool, _at(parameter.name), problem)
    return parameters


def _bound_keywords(function: Callable[..., Any]) -> frozenset[str]:
    """Name what a partial fills in, which no model may see or change."""
    if isinstance(function, functools.partial):
        return frozenset(function.keywords)
    return frozenset()


_KINDS: dict[Any, str] = {
    inspect.Parameter.POSITIONAL_ONLY: "is positional-only, arguments come by name",
    inspect.Parameter.VAR_POSITIONAL: "is *args, arguments come by name",
    inspect.Parameter.VAR_KEYWORD: "is **kwargs, name each parameter",
}


def _check_default(parameter: inspect.Parameter, hint: Any, tool: str) -> None:
    """Refuse defaults that a plain call of the function would not have."""
    if isinstance(parameter.default, FieldInfo):
        problem = "has Field(...) as its default; write it into Annotated[...]"
        raise refused(tool, _at(parameter.name), problem)
    for field_info in getattr(hint, "__metadata__", ()):
        if isinstance(field_info, FieldInfo) and not field_info.is_required():
            problem = "has a default inside Annotated[...]; write it behind the parameter"
            raise refused(tool, _at(parameter.name), problem)


def _split_self(parameters: list[inspect.Parameter]) -> tuple[bool, list[inspect.Parameter]]:
    """Leave out the `self` of a function that was decorated inside its class."""
    match parameters:
        case [inspect.Parameter(name="self" | "cls"), *others]:
            return True, others
        case _:
            return False, parameters


def _namespace(function: Callable[..., Any]) -> dict[str, Any]:
    """The globals of the module in which the annotations were written."""
    inner: Any = inspect.unwrap(function)
    while isinstance(inner, functools.partial):
        inner = inspect.unwrap(inner.func)
    inner = inner if hasattr(inner, "__globals__") else getattr(inner, "__call__", inner)  # noqa: B004  (wanted: the method of a callable object)
    return getattr(getattr(inner, "__func__", inner), "__globals__", {})


def _hint(parameter: inspect.Parameter, namespace: dict[str, Any], tool: str) -> Any:
    if parameter.annotation is inspect.Parameter.empty:
        return Any
    holder = SimpleNamespace(__annotations__={"hint": parameter.annotation})
    try:
        return get_type_hints(holder, globalns=namespace, include_extras=True)["hint"]
    except (NameError, AttributeError, SyntaxError, TypeError) as error:
        raise refused(tool, _at(parameter.name), _NO_TYPE, error) from error


def _context_parameter(hints: Mapping[str, Any], tool: str) -> str | None:
    names = [name for name, hint in hints.items() if _is_context(hint)]
    if len(names) > 1:
        raise refused(tool, _at(names[1]), "is a second ToolContext, one is enough")
    return names[0] if names else None


def _is_context(hint: Any) -> bool:
    origin = get_origin(hint)
    if origin is Annotated:
        return _is_context(get_args(hint)[0])
    if origin in (Union, UnionType):
        return [_is_context(a) for a in get_args(hint) if a is not NoneType] == [True]
    return (origin or hint) is ToolContext


# Used on types that are values here; type checkers see only types that are written out.
_ANNOTATED: Any = Annotated
_NOT_REQUIRED: Any = NotRequired


def _field(parameter: inspect.Parameter, hint: Any, description: str | None, tool: str) -> Any:
    """The typed-dict field of a parameter; what its own `Annotated` says wins."""
    has_default = parameter.default is not inspect.Parameter.empty
    ours = Field(
        description=description,
        json_schema_extra=_shown_default(parameter.default) if has_default else None,
    )
    hint = read_whole(hint)
    metadata = getattr(hint, "__metadata__", ())
    inner: Any = get_args(hint)[0] if metadata else hint
    try:
        annotated = _ANNOTATED[(inner, ours, *metadata)]
    except (AttributeError, TypeError) as error:  # a value is no type
        raise refused(tool, _at(parameter.name), _NO_TYPE, error) from error
    return _NOT_REQUIRED[annotated] if has_default else annotated


def _shown_default(default: Any) -> dict[str, Any] | None:
    """The `default` of a schema; None for a value that JSON cannot show."""
    try:
        return {
            "default": from_json(to_json(default, inf_nan_mode="constants"), allow_inf_nan=False)
        }
    except (ValueError, TypeError):
        return None


# What pydantic raises for types, and for constraints, that it cannot build.
_UNDESCRIBED = (PydanticUserError, SchemaError, AttributeError, TypeError, ValueError)


def _describe(fields: dict[str, Any], tool: str) -> TypedObject:
    try:
        return typed_object(fields)
    except NameError as error:
        raise refused(
            tool, _at(_culprit(fields)), "has an unknown name inside its type", error
        ) from error
    except _UNDESCRIBED as error:
        problem = "has a type that no JSON Schema describes"
        raise refused(tool, _at(_culprit(fields)), problem, error) from error


def _culprit(fields: dict[str, Any]) -> str:
    """The first parameter that cannot be described on its own."""
    return next(_refused_alone(fields), "")


def _refused_alone(fields: dict[str, Any]) -> Iterator[str]:
    for name, hint in fields.items():
        try:
            typed_object({name: hint})
        except (*_UNDESCRIBED, NameError):
            yield name


def _at(parameter: str) -> str:
    return f"parameters/properties/{parameter}" if parameter else "parameters"


def refused(
    tool: str, path: str, problem: str, error: Exception | None = None
) -> ToolDefinitionError:
    """Make the error that names the tool and the place in its definition."""
    # pydantic ends its texts with a link, and spreads them over lines.
    said = " ".join(str(error or "").partition("\nFor further")[0].split())
    reason = f" ({cut(said, MAX_REASON)})" if said else ""
    where = f"{path} " if path else ""
    return ToolDefinitionError(f"tool {tool!r}: {where}{problem}{reason}", tool=tool, path=path)
