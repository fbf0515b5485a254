"""Adapt pydantic's validation to the JSON Schema that it generates for a type. Pure.

The two differ in places: the schema shows an enum member inside `Literal` as its value, but the
validator accepts only the member; a discriminator with a default is optional in the schema and required
by the validator; the schema omits an `AliasPath`. `agreed` rewrites the core schema from which pydantic
builds both.

Decisions of an author are kept: the config and validators of a model, and the `format` of a string,
which is only an annotation in JSON Schema.
"""

import re
from collections.abc import Callable, Iterator
from enum import Enum, Flag
from json import dumps
from typing import Any, Final

from pydantic_core import (
    PydanticCustomError,
    PydanticKnownError,
    SchemaValidator,
    core_schema,
    to_json,
    to_jsonable_python,
)

Node = dict[str, Any]
"""A core schema, or a field of one; see `pydantic_core.core_schema`."""

# Keys of a node whose values contain no schemas.
_LEAVES: Final = frozenset(
    {"metadata", "serialization", "default", "default_factory", "expected", "members", "config"}
    | {"cls", "function", "custom_error_context", "validation_alias", "discriminator", "ref"}
)
# Keys whose values map names of the author to schemas: a field may be called `default`.
_NAMED: Final = frozenset({"fields", "choices"})

# The texts of JSON's integers and numbers, and the texts that are read as decimals.
WHOLE_TEXT: Final = "^-?(0|[1-9][0-9]*)$"
NUMBER_TEXT: Final = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$"
DECIMAL_TEXT: Final = r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?$"


def agreed(schema: Any) -> Any:
    """Return a core schema that accepts exactly the values that its JSON Schema allows.

    Returns the same object if nothing changes.
    """
    rewriting = _Rewriting(schema)
    made = rewriting.node(schema, by_name=False)
    rewriting.require_discriminators()
    return made if rewriting.has_changed else schema


class _Rewriting:
    """One traversal of a core schema, depth first, on copies."""

    def __init__(self, root: Node) -> None:
        self.has_changed = False
        self._originals = {node["ref"]: node for node in root.get("definitions", ())}
        self._definitions: dict[str, Node] = {}
        self._unions: list[Node] = []

    def node(self, node: Any, *, by_name: bool) -> Any:
        """Return the rewritten copy of a node, or of a list or tuple of nodes."""
        if isinstance(node, list | tuple):
            return type(node)(self.node(item, by_name=by_name) for item in node)
        if not isinstance(node, dict):
            return node
        config = node.get("config") or {}
        by_name = config.get("validate_by_alias", not by_name) is False
        made = {key: self._part(key, part, by_name=by_name) for key, part in node.items()}
        if "validation_alias" in made:
            self._shorten_alias(made, by_name=by_name)
        if config.get("validate_by_name") and not by_name:
            made["config"] = {**config, "validate_by_name": False}
            self.has_changed = True
        return self._replaced(made)

    def _part(self, key: str, part: Any, *, by_name: bool) -> Any:
        if key in _LEAVES:
            return part
        if key == "keys_schema":
            return self._keys(part, by_name=by_name)
        if key in _NAMED and isinstance(part, dict):
            return {name: self.node(inner, by_name=by_name) for name, inner in part.items()}
        return self.node(part, by_name=by_name)

    def _replaced(self, made: Node) -> Node:
        kind = made.get("type")
        if kind == "tagged-union":
            self._name_tags(made)
            self._unions.append(made)
        replace = _REPLACEMENTS.get(kind) if isinstance(kind, str) else None
        replaced = made if replace is None else replace(made)
        self.has_changed |= replaced is not made
        if "ref" in replaced:
            self._definitions[replaced["ref"]] = replaced
        return replaced

    def _shorten_alias(self, field: Node, *, by_name: bool) -> None:
        """Remove the aliases of a field that its schema does not show."""
        alias = field["validation_alias"]
        if isinstance(alias, str) and not by_name:
            return
        self.has_changed = True
        del field["validation_alias"]
        if not by_name:
            choices = alias if alias and isinstance(alias[0], list) else [alias]
            names = (path[0] for path in choices if len(path) == 1 and isinstance(path[0], str))
            if name := next(names, None):
                field["validation_alias"] = name

    def _keys(self, node: Node, *, by_name: bool) -> Any:
        kind = self._originals.get(node.get("schema_ref", ""), node)
        if kind.get("type") in _NEVER_KEYS:
            raise TypeError(
                "the keys of objects are strings in JSON, and cannot be read as this type"
            )
        replaced = _text_keys(kind)
        if replaced is None:
            return self.node(node, by_name=by_name)
        self.has_changed = True
        return replaced

    # - discriminators

    def _name_tags(self, union: Node) -> None:
        """Replace enum members as tags of a union by their values, which errors can show."""
        choices = union["choices"]
        if any(isinstance(tag, Enum) for tag in choices):
            union["choices"] = {
                tag.value if isinstance(tag, Enum) else tag: choice
                for tag, choice in choices.items()
            }
            self.has_changed = True

    def require_discriminators(self) -> None:
        """Require the discriminator of each union in all its members, under its alias."""
        for union in self._unions:
            discriminator = union["discriminator"]
            if callable(discriminator):
                continue
            paths = [discriminator] if isinstance(discriminator, str) else discriminator
            names = {path if isinstance(path, str) else path[0] for path in paths}
            shown: set[str] = set()
            for choice in union["choices"].values():
                shown |= self._require(names, choice)
            if len(shown) == 1 and shown != names:
                union["discriminator"] = shown.pop()
                self.has_changed = True

    def _require(self, names: set[str], node: Any) -> set[str]:
        """Require fields in a member of a union, and return their aliases."""
        if not isinstance(node, dict):  # a tag that refers to another tag
            return set()
        if node["type"] == "definition-ref":
            return self._require(names, self._definitions[node["schema_ref"]])
        if node["type"] == "tagged-union":
            return {s for c in node["choices"].values() for s in self._require(names, c)}
        if isinstance(node.get("schema"), dict):
            return self._require(names, node["schema"])
        fields = dict(_fields(node, names))
        for field in fields.values():
            self.has_changed |= _make_required(field)
        return {field.get("validation_alias", name) for name, field in fields.items()}


def _fields(node: Node, names: set[str]) -> Iterator[tuple[str, Node]]:
    fields = node.get("fields", {})
    named = fields.items() if isinstance(fields, dict) else ((f["name"], f) for f in fields)
    for name, field in named:
        if {name, field.get("validation_alias")} & names:
            yield name, field


def _make_required(field: Node) -> bool:
    inner = field["schema"]
    has_default = inner["type"] == "default"
    if has_default:
        field["schema"] = inner["schema"]
    if field["type"] == "typed-dict-field":
        has_default |= not field.get("required", True)
        field["required"] = True
    return bool(has_default)


# - one kind of node each -


def _literal(node: Node) -> Node:
    """Read the values that the schema shows; pydantic accepts True as 1."""
    if all(type(value) in (str, type(None)) for value in node["expected"]):
        return node
    return _plain(node, _Values(_literal_pairs(node), "literal_error"), _shown_as(node))


def _enum(node: Node) -> Node:
    """Read the values of the members as JSON: a tuple is an array, a date is a string."""
    if issubclass(node["cls"], Flag):
        return _flag(node)
    if all(type(member.value) is str for member in node["members"]):
        return node
    values = _Values(_enum_pairs(node), "enum", node.get("missing"))
    return _plain(node, values, _shown_as(node))


def _literal_pairs(node: Node) -> list[tuple[object, object]]:
    return [(_json(v.value if isinstance(v, Enum) else v), v) for v in node["expected"]]


def _enum_pairs(node: Node) -> list[tuple[object, object]]:
    return [(_json(member.value), member) for member in node["members"]]


def _json(value: object) -> object:
    shown: object = to_jsonable_python(value)
    return shown


def _generator(node: Node) -> Node:
    """Read all items before the function runs instead of lazily."""
    made: Node = _list(node)
    return made | {key: node[key] for key in ("ref", "metadata") if key in node}


def _set(node: Node) -> Node:
    """Refuse duplicate items, which pydantic drops."""
    make = frozenset if node["type"] == "frozenset" else set

    def unique(items: list[Any]) -> Any:
        try:
            made = make(items)
        except TypeError:
            raise PydanticKnownError("set_item_not_hashable") from None
        if len(made) < len(items) and len(set(map(_key, items))) < len(items):
            raise PydanticCustomError("unique_items", "should not contain an item twice")
        return made

    after: Node = dict(core_schema.no_info_after_validator_function(unique, _list(node)))
    return _shown(after, node, _shown_as(node))


def _list(node: Node) -> Any:
    kept = ("items_schema", "min_length", "max_length", "fail_fast")
    return {"type": "list", **{key: node[key] for key in kept if key in node}}


def _decimal(node: Node) -> Node:
    """Read only the strings that the schema allows; Python also accepts "1_0" and " 1 "."""
    validate = _validator(node).validate_json

    def read(given: object) -> object:
        if isinstance(given, str) and not re.search(DECIMAL_TEXT, given):
            raise PydanticKnownError("decimal_parsing")
        return validate(to_json(given))

    return _plain(node, read, _shown_as(node))


_REPLACEMENTS: dict[str, Callable[[Node], Node]] = {
    "literal": _literal,
    "enum": _enum,
    "generator": _generator,
    "set": _set,
    "frozenset": _set,
    "decimal": _decimal,
}


def _plain(node: Node, read: Callable[[Any], object], show: Callable[..., Any]) -> Node:
    """Return a node that validates by a function."""
    return _shown(dict(core_schema.no_info_plain_validator_function(read)), node, show)


def _shown(made: Node, node: Node, show: Callable[..., Any]) -> Node:
    """Return a replacement of a node, with the function that generates its JSON Schema."""
    metadata = node.get("metadata") or {}
    functions = [show, *metadata.get("pydantic_js_functions", ())]
    made["metadata"] = {**metadata, "pydantic_js_functions": functions}
    return made | {key: node[key] for key in ("ref", "serialization") if key in node}


def _shown_as(node: Node) -> Callable[..., Any]:
    bare = {key: part for key, part in node.items() if key not in ("ref", "metadata")}
    return lambda _, handler: handler(bare)


# - the keys of objects -

# Types that are read from arrays, objects or null, and so never from the name of a member.
_NEVER_KEYS: Final = frozenset(
    {"list", "tuple", "set", "frozenset", "none", "model", "dataclass", "typed-dict", "named-tuple"}
)


def _text_keys(node: Node) -> Node | None:
    """Return a node that reads keys from strings, or None if the keys are strings."""
    match node.get("type"):
        case "int":
            return _number_keys(node, WHOLE_TEXT, int)
        case "float":
            return _number_keys(node, NUMBER_TEXT, float)
        case "bool":
            return _value_keys([("true", True), ("false", False)])
        case "enum" if not issubclass(node["cls"], Flag):
            return _value_keys(_enum_pairs(node))
        case "literal":
            return _value_keys(_literal_pairs(node))
        case _:
            return None


def _value_keys(pairs: list[tuple[object, object]]) -> Node | None:
    texts: list[tuple[object, object]] = [
        (shown if isinstance(shown, str) else dumps(shown), value) for shown, value in pairs
    ]
    if all(type(value) is str for _, value in pairs):
        return None
    shown = {"type": "string", "enum": [text for text, _ in texts]}
    return _plain({}, _Values(texts, "enum"), lambda _, __: dict(shown))


def _number_keys(node: Node, pattern: str, convert: Callable[[str], float]) -> Node:
    validate = _validator(node).validate_python

    def read(given: Any) -> object:
        if not re.search(pattern, given):
            raise PydanticCustomError("number_key", "should be a number written as a string")
        return validate(convert(given))

    return _plain({}, read, lambda _, __: {"type": "string", "pattern": pattern})


def _validator(node: Node) -> SchemaValidator:
    bare: Any = {key: part for key, part in node.items() if key not in ("ref", "metadata")}
    return SchemaValidator({"strict": True} | bare)


# - values by what they are in JSON -


class _Values:
    """A validator that maps a few JSON values to Python values."""

    def __init__(
        self,
        pairs: list[tuple[object, object]],
        error: Any,
        missing: Callable[[Any], object] | None = None,
    ) -> None:
        self._values = {_key(shown): value for shown, value in reversed(pairs)}
        self._error = error
        self._missing = missing
        self._words = " or ".join(_quoted(shown) for shown, _ in pairs)

    def __call__(self, given: Any) -> object:
        key = _key(given)
        if key in self._values:
            return self._values[key]
        found = None if self._missing is None else self._missing(given)
        if found is None:
            raise PydanticKnownError(self._error, {"expected": self._words})
        return found


def _quoted(shown: object) -> str:
    return repr(shown) if isinstance(shown, str) else dumps(shown, ensure_ascii=False)


def _key(value: Any) -> object:
    """Return a key that is equal for equal JSON values: for 1 and 1.0, not for 1 and true."""
    match value:
        case bool():
            return bool, value
        case list():
            return list, tuple(map(_key, value))
        case dict():
            return dict, frozenset((name, _key(item)) for name, item in value.items())
        case _:
            return value


# - flags -


def _flag(node: Node) -> Node:
    """Read the sums of a flag's members; pydantic shows the members and accepts any number."""
    flag = node["cls"]
    made = _plain(node, flag_reader(flag), lambda _, __: flag_schema(flag))

    def described(schema: Any, handler: Any) -> Any:
        shown = handler(schema)
        inner = handler.resolve_ref_schema(shown)
        said = (inner.get("description"), f"It is {flag_words(flag)}.")
        inner["description"] = " ".join(filter(None, said))
        return shown

    made["metadata"]["pydantic_js_functions"].append(described)
    return made


# With more bits, the schema of a flag lists its members and not their 2,048 sums.
MAX_FLAG_BITS: Final = 10


def flag_schema(flag: type[Flag]) -> dict[str, Any]:
    """Return the JSON Schema of the values of a flag: the sums of its members."""
    values = _flag_values(flag)
    step = values[1] - values[0] if len(values) > 1 else 1
    if values == list(range(values[0], values[-1] + 1, step)):
        stepped = {"multipleOf": step} if step > 1 else {}
        return {"type": "integer", "minimum": 0, "maximum": values[-1]} | stepped
    return {"type": "integer", "enum": values}


def _flag_values(flag: type[Flag]) -> list[int]:
    """Return the numbers that are valid for a flag: the sums of its bits."""
    bits = sorted(_bits(flag).values())
    if len(bits) > MAX_FLAG_BITS:
        return [0, *bits]
    return sorted(sum(b for i, b in enumerate(bits) if n >> i & 1) for n in range(1 << len(bits)))


def flag_words(flag: type[Flag]) -> str:
    """Return the valid numbers of a flag in words, with the names of its bits."""
    bits = _bits(flag)
    named = ", ".join(f"{bit} ({name})" for name, bit in bits.items())
    return f"a sum of {named}" if len(bits) <= MAX_FLAG_BITS else f"one of 0, {named}"


def _bits(flag: type[Flag]) -> dict[str, int]:
    members = {name: int(member.value) for name, member in flag.__members__.items()}
    return {name: value for name, value in members.items() if value > 0 and not value & value - 1}


def flag_reader(flag: type[Flag]) -> Callable[[Any], object]:
    """Return a function that reads a number as a flag; it raises pydantic's errors."""
    values = frozenset(_flag_values(flag))

    def read(given: Any) -> object:
        if isinstance(given, bool | list | dict) or given not in values:
            raise PydanticCustomError("flag", "should be {words}", {"words": flag_words(flag)})
        return flag(int(given))

    return read
