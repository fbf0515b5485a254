"""Resolve the references of a schema within the schema, and compile its patterns. Pure.

Nothing is ever fetched. What other programs wrote is made readable first.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic_core import SchemaError, SchemaValidator, core_schema

from pathors_agent.schema.bounds import DRAFT_7, DRAFT_2020_12, InvalidSchema, Object, quote

if TYPE_CHECKING:
    from referencing._core import Resolver

# Keywords whose value is a schema or a list of schemas, and keywords whose value maps names to them.
_HOLDERS = {
    *("not", "if", "then", "else", "allOf", "anyOf", "oneOf"),
    *("items", "contains", "additionalProperties", "propertyNames"),
}
_NAMED_HOLDERS = {"properties", "patternProperties", "definitions", "dependencies"}
_HOLDERS_OF = {
    DRAFT_7: _HOLDERS | _NAMED_HOLDERS | {"additionalItems"},
    DRAFT_2020_12: _HOLDERS
    | _NAMED_HOLDERS
    | {"$defs", "dependentSchemas", "prefixItems", "contentSchema"}
    | {"unevaluatedItems", "unevaluatedProperties"},
}
_BY_NAME = _NAMED_HOLDERS | {"$defs", "dependentSchemas"}

# Keywords whose schemas apply to the same value: a cycle of them never ends.
_SAME_VALUE = {"not", "if", "then", "else", "allOf", "anyOf", "oneOf"} | {
    *("dependentSchemas", "dependencies")
}
_REFERENCES = ("$ref", "$dynamicRef")

# Replaces the schema `false`, whose place jsonschema does not report. Not replaced where it forbids
# unknown names: a better error is possible there.
_NOTHING = {"enum": ()}
_FORBID_OTHERS = ("additionalProperties", "unevaluatedProperties")

# The cost of a search in addition to its pattern: at most 400 patterns per schema.
PATTERN_WEIGHT = 50

# Levels of schemas for one value; each takes up to 4 of the 1,000 frames of Python's stack.
MAX_CHAIN = 50

Path = tuple[str, ...]


def draft_of(schema: Any) -> str:
    """Return the draft of a schema, or raise `InvalidSchema` for other drafts than 2020-12 and 7.

    A schema without `$schema` is read as 2020-12, as OpenAI and MCP specify. So keywords beside a
    `$ref` apply to it, which draft 7 ignores.
    """
    named = schema.get("$schema", DRAFT_2020_12) if isinstance(schema, dict) else DRAFT_2020_12
    if _is_known_draft(named):
        return DRAFT_7 if _plain(named) == _plain(DRAFT_7) else DRAFT_2020_12
    raise InvalidSchema(
        f"is {quote(named)}; drafts 2020-12 and 7 can be checked here", path="$schema"
    )


def _plain(uri: str) -> str:
    return uri.removesuffix("#").removeprefix("https:").removeprefix("http:")


# - Patterns have the syntax of ECMA-262 and are searched for in linear time. The engine, pydantic's, has
#   no look-around and no back-references; patterns with them are refused.

# Compiled, a unit of weight takes up to 4 µs and 2 kB: all patterns of a schema 80 ms and 40 MB.
MAX_WEIGHT = 20_000

# A repeated group multiplies its whole content, a repeated character only itself.
_GROUP_REPEATS = re.compile(r"\)\{(?:\d*,)?(\d+)")
_OTHER_REPEATS = re.compile(r"(?<!\))\{(?:\d*,)?(\d+)")
# A class like \p{L} consists of hundreds of byte ranges.
_UNICODE_CLASS = re.compile(r"\\[pP]")
_UNICODE_WEIGHT = 60

# Classes are ASCII in ECMA-262 and Unicode in the engine. Inside [...] the engine reads [ as a nested
# set, and && -- ~~ as set operators; in ECMA-262 they are characters.
_TOKEN = re.compile(r"\\.|\[\^?|\]|&&|--|~~", re.DOTALL)
_CLASSES = {
    r"\d": "[0-9]",
    r"\D": "[^0-9]",
    r"\w": "[A-Za-z0-9_]",
    r"\W": "[^A-Za-z0-9_]",
    r"\s": r"[\s\uFEFF]",
    r"\S": r"[^\s\uFEFF]",
}


class Pattern(NamedTuple):
    """A compiled pattern; a search costs at most its weight per character."""

    weight: int
    validator: SchemaValidator

    def found_in(self, text: str) -> bool:
        """Return True if the pattern matches anywhere in a text."""
        return self.validator.isinstance_python(text)


def compile_pattern(pattern: str) -> Pattern:
    """Compile a pattern; raise `InvalidSchema` if no linear search is possible."""
    weight = _weight(pattern)
    if weight > MAX_WEIGHT:
        raise InvalidSchema("is a pattern with too many repetitions")
    own = _translated(pattern)
    schema = core_schema.str_schema(pattern=own, regex_engine="rust-regex")
    try:
        return Pattern(weight, SchemaValidator(schema))
    except SchemaError as error:
        reason = str(error).strip().rpartition("error: ")[2]
        raise InvalidSchema(f"is a pattern that cannot be searched for: {reason}") from None


def _weight(pattern: str) -> int:
    """Return an estimate of the size of the compiled pattern."""
    atoms = len(pattern) + sum(map(_number, _OTHER_REPEATS.findall(pattern)))
    groups = prod(max(1, _number(count)) for count in _GROUP_REPEATS.findall(pattern))
    return atoms * groups * (_UNICODE_WEIGHT if _UNICODE_CLASS.search(pattern) else 1)


def _number(digits: str) -> int:
    return int(digits) if len(digits) < 7 else MAX_WEIGHT


def _translated(pattern: str) -> str:
    inside = False

    def token(match: re.Match[str]) -> str:
        nonlocal inside
        found = match[0]
        if found[0] == "\\":
            return _CLASSES.get(found, found)
        if found == "]":
            inside = False
            return found
        if found[0] == "[" and not inside:
            inside = True
            return found
        return found if not inside else "".join("\\" + c if c != "^" else c for c in found)

    return _TOKEN.sub(token, pattern)


# - schemas that other programs wrote

# A server reads the tools of each request again, and most requests have the same ones.
MAX_KNOWN_PATTERNS = 256


def foreign_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema that another program wrote in a form that can be checked here.

    An unknown draft is read as the known one with the same tuples. Patterns that cannot be searched
    for, such as zod's for e-mail addresses, are left out: the other program checks its arguments
    itself, and model endpoints refuse most such patterns.
    """
    own = dict(schema)
    if any(_unsearchable(own)):
        own = deepcopy(own)
        for part in list(_unsearchable(own)):
            del part["pattern"]
    if not _is_known_draft(own.get("$schema")):
        own.pop("$schema", None)
        if any(isinstance(part.get("items"), list) for part in _schemas(own)):
            return {"$schema": DRAFT_7, **own}
    return own


def _is_known_draft(named: object) -> bool:
    return isinstance(named, str) and _plain(named) in map(_plain, (DRAFT_2020_12, DRAFT_7))


def _unsearchable(root: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the schemas with a pattern that cannot be searched for, within the bound of a schema."""
    weight = 0
    for part in _schemas(root):
        pattern = part.get("pattern")
        if isinstance(pattern, str):
            weight += _weight(pattern) + PATTERN_WEIGHT
            if weight > MAX_WEIGHT:
                return
            if not _is_searchable(pattern):
                yield part


@lru_cache(maxsize=MAX_KNOWN_PATTERNS)
def _is_searchable(pattern: str) -> bool:
    try:
        compile_pattern(pattern)
    except InvalidSchema:
        return False
    return True


def _schemas(root: Any) -> Iterator[dict[str, Any]]:
    """Yield a schema that is not checked yet, and the schemas in it."""
    waiting, seen = [root], set[int]()
    while waiting:
        part = waiting.pop()
        if not isinstance(part, dict) or id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        for keyword, value in part.items():
            if keyword in _BY_NAME and isinstance(value, dict):
                waiting += value.values()
            elif keyword in _HOLDERS_OF[DRAFT_2020_12] or keyword == "additionalItems":
                waiting += value if isinstance(value, list) else [value]


# - linking


class _LocatedSchema(NamedTuple):
    schema: Object
    path: Path
    resolver: "Resolver[Any]"


def link(schema: Any, draft: str, check: Callable[[Any, Path], None]) -> int:
    """Link a copied schema in place: store the targets of its references and its compiled patterns.

    Calls `check` for each target of a reference that is not at the place of a schema. Returns the
    weight of all patterns. Raises `InvalidSchema`.
    """
    return _Linker(draft, check).link(schema) if isinstance(schema, Object) else 0


class _Linker:
    def __init__(self, draft: str, check: Callable[[Any, Path], None]) -> None:
        from referencing.jsonschema import DRAFT7, DRAFT202012

        self._draft, self._check = draft, check
        self._specification = DRAFT7 if draft == DRAFT_7 else DRAFT202012
        self._found: dict[int, _LocatedSchema] = {}
        self._dynamic_anchors: Counter[str] = Counter()
        self._same_value: dict[int, list[int]] = {}
        self._pattern_weight = 0

    def link(self, root: Object) -> int:
        self._find(_LocatedSchema(root, (), self._root_resolver(root)))
        linked = 0
        while linked < len(self._found):  # a reference may add schemas
            for found in list(self._found.values())[linked:]:
                self._link_references(found)
                self._compile_patterns(found)
                linked += 1
        self._refuse_circles()
        for found in self._found.values():  # jsonschema would interpret them again
            found.schema.pop("$schema", None)
            found.schema.pop("$id", None)
        return self._pattern_weight

    def _root_resolver(self, root: Object) -> "Resolver[Any]":
        from referencing import Registry

        resource = self._specification.create_resource(root)
        try:
            registry: Registry[Any] = Registry().with_resource(resource.id() or "", resource)
            return registry.crawl().resolver_with_root(resource)
        except ValueError as error:
            raise InvalidSchema(f"is not a URI: {error}", path="$id") from None

    def _find(self, first: _LocatedSchema) -> None:
        """Add a schema and all schemas in it."""
        waiting = [first]
        while waiting:
            found = waiting.pop()
            if id(found.schema) in self._found:
                continue
            self._found[id(found.schema)] = found
            self._refuse_other_draft(found)
            self._dynamic_anchors[str(found.schema.get("$dynamicAnchor"))] += 1
            children = list(self._children(found))
            self._same_value[id(found.schema)] = [
                id(child.schema) for child in children if child.path[len(found.path)] in _SAME_VALUE
            ]
            waiting.extend(reversed(children))

    def _refuse_other_draft(self, found: _LocatedSchema) -> None:
        if "$schema" in found.schema and draft_of(found.schema) != self._draft:
            raise InvalidSchema(
                "differs from the $schema of the root", path=_at(found.path, "$schema")
            )

    def _children(self, found: _LocatedSchema) -> Iterator[_LocatedSchema]:
        for path, inside in _inside(found.schema, _HOLDERS_OF[self._draft]):
            child = inside
            if inside is False and path[0] not in _FORBID_OTHERS:
                child = Object(_NOTHING)
                _replace(found.schema, path, child)
            if isinstance(child, Object):
                resource = self._specification.create_resource(child)
                resolver = found.resolver.in_subresource(resource)
                yield _LocatedSchema(child, (*found.path, *path), resolver)

    def _link_references(self, found: _LocatedSchema) -> None:
        names = [name for name in _REFERENCES if name in found.schema]
        found.schema.targets = {name: self._target(found, name) for name in names}
        self._same_value[id(found.schema)] += map(id, found.schema.targets.values())

    def _target(self, found: _LocatedSchema, keyword: str) -> Any:
        reference, path = found.schema[keyword], (*found.path, keyword)
        if keyword == "$dynamicRef" and self._is_ambiguous(reference):
            raise InvalidSchema(
                "is ambiguous: several schemas have this $dynamicAnchor", path=_at(path)
            )
        found_there = _looked_up(found.resolver, reference, path)
        target = found_there.contents
        if id(target) not in self._found:
            self._check(target, path)
            if isinstance(target, Object):
                self._find(_LocatedSchema(target, path, found_there.resolver))
        return target

    def _is_ambiguous(self, reference: str) -> bool:
        return self._dynamic_anchors[reference.rpartition("#")[2]] > 1

    def _compile_patterns(self, found: _LocatedSchema) -> None:
        places: dict[Path, str] = {}
        if isinstance(pattern := found.schema.get("pattern"), str):
            places["pattern",] = pattern
        for name in found.schema.get("patternProperties", ()):
            places["patternProperties", name] = name
        if places:
            found.schema.patterns = {
                text: self._compiled(text, _at(found.path, *place))
                for place, text in places.items()
            }

    def _compiled(self, text: str, path: str) -> Pattern:
        try:
            pattern = compile_pattern(text)
        except InvalidSchema as error:
            raise InvalidSchema(str(error), path=path) from None
        self._pattern_weight += pattern.weight + PATTERN_WEIGHT
        if self._pattern_weight > MAX_WEIGHT:
            raise InvalidSchema("exceeds the size of patterns that one schema may have", path=path)
        return pattern

    def _refuse_circles(self) -> None:
        lengths: dict[int, int] = {}
        try:
            for key in TopologicalSorter(self._same_value).static_order():
                steps = self._same_value.get(key, ())
                lengths[key] = 1 + max((lengths[step] for step in steps), default=0)
        except CycleError as error:
            circle = [self._found[key] for key in error.args[1] if key in self._found]
            path = min(_at(found.path) for found in circle)
            raise InvalidSchema("refers to itself endlessly", path=path) from None
        if max(lengths.values()) > MAX_CHAIN:
            raise InvalidSchema(f"applies more than {MAX_CHAIN} levels of schemas to one value")


def _replace(schema: Object, path: Path, value: Object) -> None:
    holder: Any = schema[path[0]] if len(path) > 1 else schema
    holder[int(path[-1]) if isinstance(holder, list) else path[-1]] = value


def _at(path: Path, *keys: str) -> str:
    return "/".join((*path, *keys))


def _looked_up(resolver: "Resolver[Any]", reference: str, path: Path) -> Any:
    from referencing.exceptions import Unresolvable

    try:
        return resolver.lookup(reference)
    # Invalid URIs, and pointers into values that are not containers, raise errors of Python.
    except (Unresolvable, ValueError, TypeError, LookupError):
        text = f"points to {quote(reference)}, which is not in this schema"
        raise InvalidSchema(text, path=_at(path)) from None


def _inside(schema: Mapping[str, Any], holders: set[str]) -> Iterator[tuple[Path, Any]]:
    """Yield the schemas directly inside a schema with their paths."""
    for keyword, value in schema.items():
        if keyword not in holders:
            continue
        if isinstance(value, list):
            yield from (((keyword, str(index)), item) for index, item in enumerate(value))
        elif keyword in _BY_NAME:
            yield from (((keyword, name), item) for name, item in value.items())
        else:
            yield (keyword,), value
