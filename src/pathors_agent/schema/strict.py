"""Convert a schema to OpenAI's strict form, and read the arguments written in it. Pure.

In the strict (closed) form every object requires all of its properties and allows no others. An
optional property allows null instead; `StrictArguments` removes such a null. The rules are OpenAI's:
"Supported schemas" in its guide to structured outputs, and what its endpoint refuses in addition.
"""

from collections.abc import Iterator, Mapping
from itertools import combinations
from json import dumps, loads
from typing import Any, Protocol

from pathors_agent.schema.arguments import parse_object
from pathors_agent.schema.bounds import InvalidSchema, copied_schema, cut

Schema = Mapping[str, Any]

# OpenAI's limits of one schema. Its 5,000 properties are more than `bounds` allows.
MAX_LEVELS = 10
MAX_ENUM_VALUES = 1_000
MAX_NAME_CHARACTERS = 120_000
MANY_ENUM_VALUES = 250
MAX_MANY_ENUM_CHARACTERS = 15_000

MAX_DESCRIBED = 200

ONLY_VALUES = frozenset({"enum", "const"})

# Kept unchanged: the endpoint enforces them.
_ENFORCED = frozenset(
    {"enum", "const", "pattern", "format", "multipleOf", "minItems", "maxItems"}
    | {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
)
_FORMATS = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"}
)
_LOOKAROUNDS = ("(?=", "(?!", "(?<=", "(?<!")

# Not allowed in the closed form, but checked when a call is bound; the description mentions them.
_DESCRIBED = (
    *("default", "examples", "format", "pattern", "minLength", "maxLength", "uniqueItems"),
    *("minProperties", "maxProperties"),
)

_REFUSED = frozenset(
    {"allOf", "not", "if", "then", "else", "prefixItems", "additionalItems", "contains"}
    | {"minContains", "maxContains", "patternProperties", "propertyNames", "unevaluatedItems"}
    | {"unevaluatedProperties", "dependentRequired", "dependentSchemas", "dependencies"}
    | {"$dynamicRef", "$recursiveRef"}
)

# Each defines a value alone, without the others.
_ALTERNATIVES = ("$ref", "anyOf", "oneOf")
_SHAPES = frozenset({*_ALTERNATIVES, "type", "properties", "items", "enum", "const"})

_JSON_TYPES = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
    type(None): "null",
}
_NULL = {"type": "null"}


def close_schema(schema: Schema) -> dict[str, Any]:
    """Return the closed form of a schema; raise `InvalidSchema` with the path of an unsupported part."""
    return _Closing(loads(dumps(copied_schema(schema)))).whole()


class _Closing:
    """One traversal of a schema and the definitions that it uses."""

    def __init__(self, root: Schema) -> None:
        self._root = root
        self._alternatives = Alternatives(root)
        self._definitions: dict[str, Any] = {}
        self._enum_values = self._characters = 0

    def whole(self) -> dict[str, Any]:
        closed = self._closed(self._root, "")
        definitions = {"$defs": self._definitions} if self._definitions else {}
        self._check_size()
        if _levels(closed, self._definitions, {}) > MAX_LEVELS:
            raise InvalidSchema(f"nests objects in more than {MAX_LEVELS} levels{_STRICT}")
        return closed | definitions

    def _closed(self, schema: Any, path: str, *notes: str) -> dict[str, Any]:
        if not isinstance(schema, Mapping):
            raise InvalidSchema(f"must define a value{_STRICT}", path=path)
        for keyword in schema:
            if keyword in _REFUSED:
                raise InvalidSchema(f"is not supported{_STRICT}", path=_at(path, keyword))
        description = _description(schema, notes)
        shape = self._shape(schema, path)
        if description and "$ref" in shape:  # a `$ref` allows no siblings
            shape = {"anyOf": [shape]}
        return description | shape

    def _shape(self, schema: Schema, path: str) -> dict[str, Any]:
        for keyword in _ALTERNATIVES:
            if keyword in schema:
                _check_alone(schema, keyword, path)
                break
        else:
            return self._typed(schema, path)
        if keyword == "$ref":
            return self._reference(schema["$ref"], _at(path, "$ref"))
        if keyword == "oneOf" and "discriminator" not in schema:
            raise InvalidSchema(f"must be anyOf{_STRICT}", path=_at(path, "oneOf"))
        if not self._alternatives.are_distinguishable(schema):
            problem = f"has two objects with the same properties and no const to distinguish them{_STRICT}"
            raise InvalidSchema(problem, path=_at(path, keyword))
        members = [*enumerate(schema[keyword])]
        if _are_named_tuple(schema[keyword]):
            del members[0]  # the array, which has no closed form
        return {"anyOf": [self._closed(m, _at(path, keyword, str(i))) for i, m in members]}

    def _reference(self, reference: str, path: str) -> dict[str, Any]:
        if reference == "#":
            return {"$ref": "#"}
        definition = self._alternatives.definition(reference)
        if not self._alternatives.of({"$ref": reference}):
            raise InvalidSchema(f"must be # or refer to one of the $defs{_STRICT}", path=path)
        name = reference.rpartition("/")[2]
        if name not in self._definitions:
            self._definitions[name] = {}  # a definition may refer to itself
            self._characters += len(name)
            self._definitions[name] = self._closed(definition, reference.removeprefix("#/"))
        return {"$ref": f"#/$defs/{name}"}

    def _typed(self, schema: Schema, path: str) -> dict[str, Any]:
        kinds = kinds_of(schema)
        if not kinds:
            raise InvalidSchema(f"must have a type{_STRICT}", path=path)
        closed: dict[str, Any] = {"type": kinds[0] if len(kinds) == 1 else kinds}
        self._count_values(schema, path)
        closed |= {key: schema[key] for key in schema if _is_enforced(key, schema[key])}
        if "object" in kinds:
            closed |= self._object(schema, path)
        if "array" in kinds:
            closed["items"] = self._closed(schema.get("items"), _at(path, "items"))
        return closed

    def _object(self, schema: Schema, path: str) -> dict[str, Any]:
        if schema.get("additionalProperties", False) is not False:
            where = _at(path, "additionalProperties")
            raise InvalidSchema(f"must be false{_STRICT}", path=where)
        if "properties" not in schema:
            raise InvalidSchema(f"must have properties{_STRICT}", path=path)
        if set(schema.get("required", ())) - schema["properties"].keys():
            where = _at(path, "required")
            raise InvalidSchema(f"names an unknown property{_STRICT}", path=where)
        properties = {name: self._property(name, schema, path) for name in schema["properties"]}
        return {
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }

    def _property(self, name: str, schema: Schema, path: str) -> dict[str, Any]:
        self._characters += len(name)
        inner, where = schema["properties"][name], _at(path, "properties", name)
        if not self._alternatives.is_nulled(name, schema):
            return self._closed(inner, where)
        return _nullable(self._closed(inner, where, "null: left out"))

    def _count_values(self, schema: Schema, path: str) -> None:
        values = [*schema.get("enum", ()), *([schema["const"]] if "const" in schema else ())]
        characters = sum(len(value) for value in values if isinstance(value, str))
        if len(values) > MANY_ENUM_VALUES and characters > MAX_MANY_ENUM_CHARACTERS:
            problem = f"has more than {MAX_MANY_ENUM_CHARACTERS:,} characters"
            raise InvalidSchema(problem + _STRICT, path=_at(path, "enum"))
        self._enum_values += len(values)
        self._characters += characters

    def _check_size(self) -> None:
        for count, limit, what in (
            (self._enum_values, MAX_ENUM_VALUES, "values of enums"),
            (self._characters, MAX_NAME_CHARACTERS, "characters of names and values"),
        ):
            if count > limit:
                raise InvalidSchema(f"has more than {limit:,} {what}{_STRICT}")


_STRICT = " with strict=True"


def _at(path: str, *names: str) -> str:
    return "/".join(filter(None, (path, *names)))


def _check_alone(schema: Schema, keyword: str, path: str) -> None:
    for other in schema:
        if other in _SHAPES and other != keyword:
            problem = f"is not supported beside {keyword}{_STRICT}"
            raise InvalidSchema(problem, path=_at(path, other))


def _are_named_tuple(members: list[Any]) -> bool:
    """Return True for the two forms of a named tuple, of which a closed schema allows the object."""
    match members:
        case [{"prefixItems": [*items]}, {"properties": {**fields}}]:
            return list(fields.values()) == items
        case _:
            return False


def _is_enforced(keyword: str, value: Any) -> bool:
    if keyword == "format":
        return value in _FORMATS
    if keyword == "pattern":
        return not any(part in value for part in _LOOKAROUNDS)
    return keyword in _ENFORCED


def _description(schema: Schema, notes: tuple[str, ...]) -> dict[str, str]:
    """Return the description, extended by the keywords that the closed form does not allow."""
    described = [
        f"{key}: {cut(dumps(schema[key], ensure_ascii=False), MAX_DESCRIBED)}"
        for key in _DESCRIBED
        if schema.get(key) is not None and not _is_enforced(key, schema[key])
    ]
    words = "; ".join([*described, *notes])
    parts = [schema.get("description", ""), f"({words})" if words else ""]
    text = " ".join(filter(None, parts))
    return {"description": text} if text else {}


def _nullable(closed: dict[str, Any]) -> dict[str, Any]:
    """Return a closed schema that allows null as well."""
    kind = closed.get("type")
    if (
        isinstance(kind, str)
        and kind not in ("object", "array")
        and not closed.keys() & ONLY_VALUES
    ):
        return closed | {"type": [kind, "null"]}
    if "anyOf" in closed:
        return closed | {"anyOf": [*closed["anyOf"], _NULL]}
    description = {key: closed[key] for key in closed if key == "description"}
    inner = {key: closed[key] for key in closed if key != "description"}
    return description | {"anyOf": [inner, _NULL]}


def _levels(closed: Schema, definitions: Schema, known: dict[str, int]) -> int:
    """Return the nesting depth of objects; recursion counts once."""
    if "$ref" in closed:
        return _levels_of_definition(closed["$ref"], definitions, known)
    inner = [*closed.get("anyOf", ()), *closed.get("properties", {}).values()]
    inner += [closed["items"]] if "items" in closed else []
    deepest = max((_levels(part, definitions, known) for part in inner), default=0)
    return deepest + ("properties" in closed)


def _levels_of_definition(reference: str, definitions: Schema, known: dict[str, int]) -> int:
    name = reference.removeprefix("#/$defs/")
    if name not in known and name in definitions:
        known[name] = 0
        known[name] = _levels(definitions[name], definitions, known)
    return known.get(name, 0)


# - arguments


def kinds_of(schema: Schema) -> list[str]:
    """Return the types that a schema names, or those of its values and keywords."""
    if "type" in schema:
        kind = schema["type"]
        return [kind] if isinstance(kind, str) else list(kind)
    if schema.keys() & ONLY_VALUES:
        return list(dict.fromkeys(_JSON_TYPES[type(value)] for value in _values(schema)))
    parts = {"properties": "object", "items": "array"}
    return [kind for part, kind in parts.items() if part in schema]


def _values(branch: Schema) -> list[Any]:
    values: list[Any] = branch.get("enum", [branch.get("const")])
    return values


class Alternatives:
    """The alternatives of each part of a schema, with references and unions resolved."""

    def __init__(self, root: Schema) -> None:
        self._root = root
        self._found: dict[int, list[Schema]] = {}

    def of(self, schema: Any) -> list[Schema]:
        """Return the alternatives of a part."""
        return list(self._branches(schema, set()))

    def kept(self, schema: Any) -> list[Schema]:
        """Return the alternatives of a part, cached; the part must belong to the schema."""
        if id(schema) not in self._found:
            self._found[id(schema)] = self.of(schema)
        return self._found[id(schema)]

    def _branches(self, schema: Any, seen: set[str]) -> Iterator[Schema]:
        if not isinstance(schema, Mapping):
            return
        reference = schema.get("$ref")
        members = schema.get("anyOf", schema.get("oneOf"))
        if reference in seen:
            return
        if reference is not None:
            seen.add(reference)  # its alternatives are listed already
            yield from self._branches(self.definition(reference), seen)
        elif members is None:
            yield schema
        else:
            for member in members:
                yield from self._branches(member, seen)

    def definition(self, reference: str) -> Any:
        """Return the target of a reference to the root or its definitions, or None."""
        if reference == "#":
            return self._root
        for place in ("$defs", "definitions"):
            name = reference.removeprefix(f"#/{place}/")
            if name != reference and name in self._root.get(place, {}):
                return self._root[place][name]
        return None

    def is_nulled(self, name: str, schema: Schema) -> bool:
        """Return True if a property allows null only in the closed form, because it is optional.

        An optional property with a single value is required instead.
        """
        if name in schema.get("required", ()):
            return False
        inner = schema["properties"][name]
        only = self._only_values(inner)
        return (only is None or len(only) > 1) and not any(map(_takes_null, self.kept(inner)))

    def are_distinguishable(self, union: Schema) -> bool:
        """Return True if the names or values of an object identify its member of a union.

        OpenAI refuses other unions, and their nulls would be ambiguous.
        """
        groups: dict[frozenset[str], list[Schema]] = {}
        for branch in self.kept(union):
            if "object" in kinds_of(branch):
                groups.setdefault(frozenset(branch.get("properties", {})), []).append(branch)
        pairs = (pair for group in groups.values() for pair in combinations(group, 2))
        return all(self._differ(one, other) for one, other in pairs)

    def _differ(self, one: Schema, other: Schema) -> bool:
        for name in one.get("properties", {}):
            a, b = self._closed_values(name, one), self._closed_values(name, other)
            if a is not None and b is not None and a.isdisjoint(b):
                return True
        return False

    def object_of(self, value: Schema, schema: Any) -> Schema:
        """Return the alternative of a part that a value in the closed form belongs to."""
        objects = [branch for branch in self.kept(schema) if "properties" in branch]
        if len(objects) == 1:
            return objects[0]
        return next((branch for branch in objects if self._is_named_by(value, branch)), {})

    def _is_named_by(self, value: Schema, branch: Schema) -> bool:
        if value.keys() != branch["properties"].keys():
            return False
        allowed = ((name, self._closed_values(name, branch)) for name in value)
        return all(texts is None or dumps(value[name]) in texts for name, texts in allowed)

    def _closed_values(self, name: str, schema: Schema) -> set[str] | None:
        """Return the JSON texts of a property's allowed values, or None if they are not enumerated."""
        if self.is_nulled(name, schema):
            return None
        return self._only_values(schema["properties"][name])

    def _only_values(self, schema: Any) -> set[str] | None:
        found: set[str] = set()
        for branch in self.kept(schema):
            if not branch.keys() & ONLY_VALUES:
                return None
            found.update(map(dumps, _values(branch)))
        return found


def _takes_null(branch: Schema) -> bool:
    return "null" in kinds_of(branch) and None in _values(branch)


class ArgumentsReader(Protocol):
    """A reader of the arguments of a call."""

    def read(self, text: str) -> dict[str, Any]:
        """Return the arguments, or raise `ArgumentsRefused`."""


class StrictArguments:
    """Read arguments in the closed form: a null may stand for an omitted property."""

    def __init__(self, reader: ArgumentsReader, schema: Schema) -> None:
        self._reader = reader
        self._schema = loads(dumps(copied_schema(schema)))
        self._alternatives = Alternatives(self._schema)

    def read(self, text: str) -> dict[str, Any]:
        """Return the arguments, or raise `ArgumentsRefused`."""
        if "null" not in text:
            return self._reader.read(text)
        arguments = self._shortened(parse_object(text), self._schema)
        return self._reader.read(dumps(arguments, ensure_ascii=False))

    def _shortened(self, value: Any, schema: Any) -> Any:
        """Return the value without the nulls that only the closed form allows."""
        if isinstance(value, dict):
            return self._shortened_object(value, self._alternatives.object_of(value, schema))
        if isinstance(value, list):
            arrays = (b for b in self._alternatives.kept(schema) if "items" in b)
            items = next(arrays, {}).get("items")
            return [self._shortened(item, items) for item in value]
        return value

    def _shortened_object(self, value: dict[str, Any], schema: Schema) -> dict[str, Any]:
        properties = schema.get("properties", {})
        return {
            name: self._shortened(item, properties.get(name))
            for name, item in value.items()
            if item is not None
            or name not in properties
            or not self._alternatives.is_nulled(name, schema)
        }
