"""Build a JSON Schema and its reader from Python types. Pure."""

from collections.abc import (
    Callable,
    Collection,
    Container,
    Generator,
    Iterable,
    Iterator,
    Reversible,
)
from types import UnionType
from typing import Annotated, Any, Final, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import AfterValidator, ConfigDict, TypeAdapter, with_config
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import SchemaValidator
from typing_extensions import TypedDict

from pathors_agent.schema.agreement import DECIMAL_TEXT, agreed

_CONFIG = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

# In the order in which a schema has them.
_KEYWORDS: Final = ("type", "properties", "required", "additionalProperties", "$defs")


class TypedObject(NamedTuple):
    """An object with typed members: the schema to send, and the reader of its JSON.

    `read` raises pydantic's `ValidationError`.
    """

    schema: dict[str, Any]
    read: Callable[[str], dict[str, Any]]


def typed_object(members: dict[str, Any]) -> TypedObject:
    """Build the schema and the reader of an object from the annotations of its members.

    Raises `NameError` for a name that is not defined, and pydantic's errors, `AttributeError`,
    `TypeError` or `ValueError` for a type that cannot be described.
    """
    # pydantic reads only this TypedDict before Python 3.12; mypy wants its fields written out.
    shape = TypedDict("shape", members)  # type: ignore[misc]
    adapter: TypeAdapter[Any] = TypeAdapter(with_config(_CONFIG)(shape))
    adapter.rebuild(raise_errors=True)  # reports unknown names now instead of at first use
    core = agreed(adapter.core_schema)
    validator = adapter.validator
    if core is not adapter.core_schema:
        # The prebuilt validators of models do not have the rewritten schema.
        validator = SchemaValidator(core, None, _use_prebuilt=False)
    generated = _GenerateSchema().generate(core, mode="validation")
    for definition in generated.get("$defs", {}).values():
        definition.pop("title", None)
    schema = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
    schema |= {key: generated[key] for key in _KEYWORDS if key in generated}
    return TypedObject(schema, validator.validate_json)


class _GenerateSchema(GenerateJsonSchema):
    """Generate schemas without titles that match what pydantic's reader accepts."""

    ignored_warning_kinds = {  # noqa: RUF012  (the base class declares it so)
        "skipped-choice",
        "non-serializable-default",
    }

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def is_subclass_schema(self, schema: Any) -> dict[str, Any]:
        """Refuse classes, which no JSON value can represent."""
        return self.handle_invalid_for_json_schema(schema, "a class")

    def decimal_schema(self, schema: Any) -> dict[str, Any]:
        """Return the schema of decimals, with the pattern of their texts."""
        shown = super().decimal_schema(schema)
        for member in shown.get("anyOf", ()):
            if member["type"] == "string":
                member.setdefault("pattern", DECIMAL_TEXT)
        return shown

    def dataclass_args_schema(self, schema: Any) -> dict[str, Any]:
        """Return the schema of a dataclass without fields that are not arguments."""
        shown = schema.copy()
        shown["fields"] = [field for field in schema["fields"] if field.get("init") is not False]
        return super().dataclass_args_schema(shown)

    def named_tuple_schema(self, schema: Any) -> dict[str, Any]:
        """Return the schema of a named tuple: the array or the object that it is read from."""
        array = super().named_tuple_schema(schema)
        names = [field["name"] for field in schema["fields"]]
        properties = dict(zip(names, array.get("prefixItems", ()), strict=True))
        required = names[: array.get("minItems", 0)]
        return {
            "anyOf": [
                array,
                {
                    "type": "object",
                    "properties": properties,
                    "required": required,
                    "additionalProperties": False,
                },
            ]
        }

    def dict_schema(self, schema: Any) -> dict[str, Any]:
        """Return the schema of a dict, which forbids keys that do not match the key pattern."""
        return _closed(super().dict_schema(schema))

    def ordered_dict_schema(self, schema: Any) -> dict[str, Any]:
        """Return the schema; like `dict_schema`."""
        return _closed(super().ordered_dict_schema(schema))

    def counter_schema(self, schema: Any) -> dict[str, Any]:
        """Return the schema; like `dict_schema`."""
        return _closed(super().counter_schema(schema))

    def frozendict_schema(self, schema: Any) -> dict[str, Any]:
        """Return the schema; like `dict_schema`."""
        return _closed(super().frozendict_schema(schema))


def _closed(shown: dict[str, Any]) -> dict[str, Any]:
    return shown | {"additionalProperties": False} if "patternProperties" in shown else shown


# - iterables -

# Subscripted with values; type checkers accept only literal types.
_ANNOTATED: Any = Annotated
_UNION: Any = Union

_LISTS: Final = frozenset({Iterable, Collection, Container, Reversible})
_GENERATORS: Final = frozenset({Iterator, Generator})


def read_whole(hint: Any) -> Any:
    """Return the annotation with iterables and iterators replaced, at any depth.

    An `Iterable` becomes a list, which can be iterated twice. An `Iterator` or a `Generator` becomes a
    generator of items that are all validated before the function runs.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _annotated(hint, *arguments)
    if _is_one_of(origin or hint, _LISTS):
        return list[_item(arguments)]  # type: ignore[misc]  # subscripted with a value
    if _is_one_of(origin or hint, _GENERATORS):
        return _ANNOTATED[list[_item(arguments)], AfterValidator(_generator)]  # type: ignore[misc]  # as above
    if origin is Literal or not arguments:
        return hint
    read = tuple(map(read_whole, arguments))
    if all(one is other for one, other in zip(read, arguments, strict=True)):
        return hint
    return _UNION[read] if origin in (Union, UnionType) else _with_arguments(hint, origin, read)


def _annotated(hint: Any, inner: Any, *metadata: Any) -> Any:
    read = read_whole(inner)
    if read is inner:
        return hint
    if _is_one_of(get_origin(inner) or inner, _GENERATORS):  # length limits apply to the list
        items, after = get_args(read)
        return _ANNOTATED[(items, *metadata, after)]
    return _ANNOTATED[(read, *metadata)]


def _is_one_of(kind: Any, kinds: frozenset[Any]) -> bool:
    return isinstance(kind, type) and kind in kinds


def _item(arguments: tuple[Any, ...]) -> Any:
    return read_whole(arguments[0]) if arguments else Any


def _with_arguments(hint: Any, origin: Any, arguments: tuple[Any, ...]) -> Any:
    copy = getattr(hint, "copy_with", None)  # of the aliases of `typing`
    return origin[arguments] if copy is None else copy(arguments)


def _generator(items: list[Any]) -> Generator[Any, None, None]:
    yield from items
