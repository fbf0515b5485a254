"""Read the type of answers, or a function of answers, into a schema and a reader. Pure."""

import functools
import inspect
from collections.abc import Callable
from json import dumps
from typing import TYPE_CHECKING, Any, TypeGuard

from pydantic import ValidationError

from pathors_agent.errors import ToolDefinitionError
from pathors_agent.schema.arguments import (
    ArgumentsRefused,
    TypedArguments,
    parse_object,
    report,
    with_whole_numbers,
)
from pathors_agent.schema.bounds import InvalidSchema
from pathors_agent.schema.strict import close_schema
from pathors_agent.tools.signature import Signature, read_signature

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

# The tool whose call is an answer.
FINAL_TOOL = "final_answer"

_MODULES_OF_TYPES = frozenset({"builtins", "types", "typing", "typing_extensions"})


def closed(schema: dict[str, Any]) -> dict[str, Any] | None:
    """Return the form of a schema that endpoints can enforce, or None if it has none."""
    try:
        return close_schema(schema)
    except InvalidSchema:
        return None


def is_function(output: object) -> TypeGuard[Callable[..., Any]]:
    """Return True for a function of answers or a callable object, and False for a type."""
    if inspect.isroutine(output) or isinstance(output, functools.partial):
        return True
    # Types of `typing`, such as `Optional[int]`, can be called as well.
    is_typing = type(output).__module__ in _MODULES_OF_TYPES
    return callable(output) and not isinstance(output, type) and not is_typing


def signature_of(output: object) -> Signature:
    """Return the signature of an output function, or of a function whose parameter has the type."""
    if is_function(output):
        return _function_signature(output)

    def answer(value: Any) -> None: ...

    answer.__annotations__["value"] = output
    try:
        return read_signature(answer, tool=FINAL_TOOL, descriptions={})
    except ToolDefinitionError as error:
        reason = str(error).partition("value ")[2]
        raise TypeError(
            f"output is not a type that a model can answer with: it {reason}"
        ) from error


def _function_signature(function: Callable[..., Any]) -> Signature:
    is_partial = isinstance(function, functools.partial)
    default = "a partial function" if is_partial else f"a {type(function).__name__}"
    name = getattr(function, "__name__", default)
    try:
        signature = read_signature(function, tool=name, descriptions={})
    except ToolDefinitionError as error:
        raise TypeError(f"output={name} is not a function of a model's answer: {error}") from error
    parameters = inspect.signature(function).parameters
    names = list(signature.schema.get("properties", {}))
    is_typed = len(names) == 1 and parameters[names[0]].annotation is not inspect.Parameter.empty
    if not is_typed or signature.context_parameter or signature.is_method:
        raise TypeError(
            f"output={name} must take one argument, the answer, annotated with its type; it gets no "
            "ToolContext, and a method must be bound to its object"
        )
    return signature


def unwrapped(whole: dict[str, Any], member: str) -> tuple[dict[str, Any], bool]:
    """Return the schema to send, and whether it wraps the value."""
    inner = whole["properties"][member]
    definitions = dict(whole.get("$defs", {}))
    reference = inner.get("$ref", "")
    name = reference.removeprefix("#/$defs/")
    schema = definitions.get(name, inner)
    if schema.get("type") != "object":
        return whole, True
    if f'"{reference}"' not in dumps([schema, definitions]):
        definitions.pop(name, None)
    return schema | ({"$defs": definitions} if definitions else {}), False


class AnswerReader(TypedArguments):
    """Read the JSON text of an answer into an object with one member: the value.

    `wrapper` is the member's name, if the text has only the value.
    """

    def __init__(
        self, signature: Signature, schema: dict[str, Any], *, wrapper: str | None
    ) -> None:
        super().__init__(signature.read, schema.get("properties", {}))
        self._wrapper = wrapper

    def read(self, text: str) -> dict[str, Any]:
        """Return the value, or raise `ArgumentsRefused`."""
        text = text if text.strip() else "{}"
        given = parse_object(text)
        try:
            return self._validate(f'{{"{self._wrapper}":{text}}}' if self._wrapper else text)
        except ValidationError as error:
            details = list(map(self._as_sent, error.errors(include_url=False)))
            if (whole := with_whole_numbers(text, details)) is not None:
                return self.read(whole)
            problems = [self._problem(detail, given) for detail in details]
            raise ArgumentsRefused(report(problems, "the schema")) from None
        except Exception as error:  # noqa: BLE001  (a validator of the type's author may raise anything)
            raise ArgumentsRefused(f"could not be checked ({type(error).__name__}).") from None

    def _as_sent(self, detail: "ErrorDetails") -> "ErrorDetails":
        """Return an error with its place in the model's text."""
        return {**detail, "loc": detail["loc"][1:]} if self._wrapper else detail
