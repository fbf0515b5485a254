"""Read a function's signature: the arguments that a model may send. Pure.

Arguments are read in pydantic's strict mode for JSON: "5" is no integer and "yes" no boolean,
while texts become dates, times, decimals, UUIDs and enum members, and 5 is a float. The same holds
inside dataclasses and typed dicts; a pydantic model keeps its own config. `Field(strict=False)`
relaxes one parameter.
"""

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import NoneType, SimpleNamespace, UnionType
from typing import (
    Annotated,
    Any,
    Generic,
    NamedTuple,
    NotRequired,
    Optional,
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
from pathors_agent.schema.bounds import cut
from pathors_agent.schema.types import TypedObject, read_whole, typed_object

MAX_REASON = 200

_NO_TYPE = "has an annotation that is no type"

ContextT_co = TypeVar("ContextT_co", covariant=True, default=Any)


class ToolLog(Protocol):
    """A logger of events with fields, such as structlog's."""

    def debug(self, event: str, /, **fields: Any) -> Any:
        """Log an event at level DEBUG."""

    def info(self, event: str, /, **fields: Any) -> Any:
        """Log an event at level INFO."""

    def warning(self, event: str, /, **fields: Any) -> Any:
        """Log an event at level WARNING."""

    def error(self, event: str, /, **fields: Any) -> Any:
        """Log an event at level ERROR."""


class _NoLog:
    """A log that drops its events."""

    def debug(self, event: str, /, **fields: Any) -> None:
        pass

    info = warning = error = debug


NO_LOG: ToolLog = _NoLog()


@dataclass(frozen=True, slots=True)
class ToolContext(Generic[ContextT_co]):
    """The facts about a call, for its tool.

    A parameter annotated with it is hidden from the model and filled in. `context` is the value
    that the caller passed to the run. `key` is an idempotency key: it is equal whenever the same
    call runs again, and differs between calls. `deadline` is the value of `time.monotonic()` at
    which the call times out, or None. `log` sends events to the library's log, with the tool's name
    and the call's id.
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
    """A function's parameters: the `schema` of the model's arguments, and `read`, which parses them.

    `context_parameter` is the name of the parameter that takes a `ToolContext`. `is_method` is True
    for a function with a `self`, which must be bound to an instance first.
    """

    schema: dict[str, Any]
    read: Callable[[str], dict[str, Any]]
    context_parameter: str | None
    is_method: bool


def read_signature(
    function: Callable[..., Any], *, tool: str, descriptions: Mapping[str, str]
) -> Signature:
    """Read a function's signature; raise `ToolDefinitionError` for a type that no model can send."""
    is_method, parameters = _split_self(function, _parameters(function, tool))
    scope = _scope(function, parameters)
    hints = {p.name: _hint(p, scope, tool) for p in parameters}
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
    """Return the parameter that takes a `ToolContext`, for a function with a schema of its own."""
    try:
        bound = _bound_keywords(function)
        signature = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a builtin without a signature
        return None
    parameters = [parameter for parameter in signature if parameter.name not in bound]
    scope = _scope(function, parameters)
    # The other annotations are not needed, and may name what only a type checker imports.
    named = [p for p in parameters if "ToolContext" in str(p.annotation)]
    return _context_parameter({p.name: _hint(p, scope, tool) for p in named}, tool)


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
    """Return the names that a partial fills in, which no model may see or change."""
    if isinstance(function, functools.partial):
        return frozenset(function.keywords)
    return frozenset()


_KINDS: dict[Any, str] = {
    inspect.Parameter.POSITIONAL_ONLY: "is positional-only, arguments come by name",
    inspect.Parameter.VAR_POSITIONAL: "is *args, arguments come by name",
    inspect.Parameter.VAR_KEYWORD: "is **kwargs, name each parameter",
}


def _check_default(parameter: inspect.Parameter, hint: Any, tool: str) -> None:
    """Raise for a default that a plain call of the function would not use."""
    if isinstance(parameter.default, FieldInfo):
        problem = "has Field(...) as its default; write it into Annotated[...]"
        raise refused(tool, _at(parameter.name), problem)
    for field_info in getattr(hint, "__metadata__", ()):
        if isinstance(field_info, FieldInfo) and not field_info.is_required():
            problem = "has a default inside Annotated[...]; write it behind the parameter"
            raise refused(tool, _at(parameter.name), problem)


def _split_self(
    function: Callable[..., Any], parameters: list[inspect.Parameter]
) -> tuple[bool, list[inspect.Parameter]]:
    """Return whether a function was decorated inside its class, and its parameters without `self`."""
    place = getattr(function, "__qualname__", "").rpartition("<locals>.")[2]
    match parameters:
        case [inspect.Parameter(name="self" | "cls"), *others] if "." in place:
            return True, others
        case _:
            return False, parameters


class _Scope(NamedTuple):
    """The names that annotations written as text may use: of the module, and of inner scopes."""

    module: dict[str, Any]
    inner: dict[str, Any]


def _scope(function: Callable[..., Any], parameters: Iterable[inspect.Parameter]) -> _Scope:
    inner: Any = inspect.unwrap(function)
    while isinstance(inner, functools.partial):
        inner = inspect.unwrap(inner.func)
    inner = inner if hasattr(inner, "__globals__") else getattr(inner, "__call__", inner)  # noqa: B004  (wanted: the method of a callable object)
    inner = getattr(inner, "__func__", inner)
    module = getattr(inner, "__globals__", {})
    is_text = any(isinstance(p.annotation, str) or "ForwardRef(" in repr(p) for p in parameters)
    return _Scope(module, _enclosing_names(inner, module) if is_text else {})


def _enclosing_names(function: Any, module: dict[str, Any]) -> dict[str, Any]:
    """Return the names of the functions and classes around a function; inner scopes take precedence.

    The names of an outer function that is still running are read from the stack. If it has returned,
    only the names that the inner function uses are known.
    """
    parts = getattr(function, "__qualname__", "").split(".")
    around = [".".join(parts[:end]) for end in range(1, len(parts)) if parts[end - 1] != "<locals>"]
    found: dict[str, Mapping[str, Any]] = {}
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_globals is module and frame.f_code.co_qualname in around:
            found.setdefault(frame.f_code.co_qualname, dict(frame.f_locals))
        frame = frame.f_back
    names: dict[str, Any] = {}
    for path in around:
        scope = {**_names_at(path, module), **found.get(path, {})}
        names |= {**_type_parameters(scope.get("__type_params__")), **scope}
    names |= _type_parameters(getattr(function, "__type_params__", None))
    code = getattr(function, "__code__", None)
    free = code.co_freevars if code else ()
    for name, cell in zip(free, getattr(function, "__closure__", None) or (), strict=True):
        with suppress(ValueError):  # not set yet
            names[name] = cell.cell_contents
    return names


def _type_parameters(parameters: Any) -> dict[str, Any]:
    """Return the type parameters of a class or function (Python 3.12 and later) by name."""
    return {each.__name__: each for each in parameters} if isinstance(parameters, tuple) else {}


def _names_at(path: str, module: dict[str, Any]) -> Mapping[str, Any]:
    """Return the names of a class, or the type parameters of a function, by its path."""
    found: Any = module.get(path.partition(".")[0])
    for name in path.split(".")[1:]:
        found = getattr(found, name, None)
    if isinstance(found, type):
        return vars(found)
    return {"__type_params__": getattr(found, "__type_params__", None)}


def _hint(parameter: inspect.Parameter, scope: _Scope, tool: str) -> Any:
    if parameter.annotation is inspect.Parameter.empty:
        return Any
    holder = SimpleNamespace(__annotations__={"hint": parameter.annotation})
    try:
        return get_type_hints(holder, scope.module, scope.inner, include_extras=True)["hint"]
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
    """Return the typed-dict field of a parameter; its own `Annotated` takes precedence."""
    has_default = parameter.default is not inspect.Parameter.empty
    hint = read_whole(hint)
    metadata = getattr(hint, "__metadata__", ())
    inner: Any = get_args(hint)[0] if metadata else hint
    ours = Field(
        description=next(filter(None, map(_documentation, metadata)), description),
        json_schema_extra=_shown_default(parameter.default) if has_default else None,
    )
    try:
        if parameter.default is None and inner not in (Any, object):  # models send the default
            if not all(isinstance(item, str | FieldInfo) for item in metadata):
                # Validators and encodings are for values, and would not know None.
                inner, metadata = hint, ()
            inner = Optional[inner]  # noqa: UP045  (a forward reference has no "|")
        annotated = _ANNOTATED[(inner, ours, *metadata)]
    except (AttributeError, TypeError) as error:  # a value is no type
        raise refused(tool, _at(parameter.name), _NO_TYPE, error) from error
    return _NOT_REQUIRED[annotated] if has_default else annotated


def _documentation(metadata: object) -> str | None:
    """Return a description inside `Annotated`: a string, of `Field`, or the `Doc` of PEP 727."""
    if isinstance(metadata, FieldInfo):
        return metadata.description
    found = getattr(metadata, "documentation", metadata)
    return found if isinstance(found, str) else None


def _shown_default(default: Any) -> dict[str, Any] | None:
    """Return the `default` of a schema, or None for a value that JSON cannot hold."""
    try:
        return {
            "default": from_json(to_json(default, inf_nan_mode="constants"), allow_inf_nan=False)
        }
    except (ValueError, TypeError):
        return None


# What pydantic raises for types and constraints that it cannot build.
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
    """Return the first parameter that cannot be described on its own."""
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
    """Build the error that names the tool and the place in its definition."""
    # pydantic's texts have several lines and end with a link.
    said = " ".join(str(error or "").partition("\nFor further")[0].split())
    reason = f" ({cut(said, MAX_REASON)})" if said else ""
    where = f"{path} " if path else ""
    return ToolDefinitionError(f"tool {tool!r}: {where}{problem}{reason}", tool=tool, path=path)
