"""Imports point one way: towards the core, which touches neither network, clock nor threads."""

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "src" / "pathors_agent"

# A package imports from the lines above its own. A root module counts as a package, and every package
# must have a place here.
LAYERS = [
    "media lazy_names",
    "messages",
    "errors json_text",
    "core",
    "schema wire",
    "tools history",
    # - what follows may do I/O -
    "concurrency telemetry",
    "transports stores",
    "agents",
    "sessions mcp durable",
    "server",
    "testing offline checking",
    "__init__",  # the public names: what `from pathors_agent import ...` reads
    "cli",
    "__main__",
]
PURE_LAYERS = 6

MOST_PACKAGES_IN_A_CHAIN = 12
MOST_MODULES_IN_A_CHAIN = 20

NOT_IN_CORE = {
    *("anyio", "asyncio", "threading", "trio", "structlog", "logging", "tenacity"),
    *("httpx2", "sqlite3", "time", "random", "uuid", "os", "socket"),
}

PLACES = {name: layer for layer, names in enumerate(LAYERS) for name in names.split()}


def module_name(path: Path) -> str:
    """Name a file's module inside the package: `sse`, `stores.sql`, `stores`, `__init__`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    if parts[-1] == "__init__" and len(parts) > 1:
        parts = parts[:-1]
    return ".".join(parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def package(module: str) -> str:
    """Return the package of a module, which is a root module's own name."""
    return module.partition(".")[0]


@cache
def imported_by(module: str) -> tuple[str, ...]:
    """Name all that a module imports anywhere in it, by full names: lazily or for types, too."""
    tree = ast.parse(MODULES[module].read_text())
    return tuple(name for node in ast.walk(tree) for name in imported_names(node))


def imported_names(node: ast.AST) -> Iterator[str]:
    """Name what one statement imports; `from a import b` gives `a.b`."""
    match node:
        case ast.Import(names=names):
            yield from (alias.name for alias in names)
        case ast.ImportFrom(module=str() as source, names=names, level=0):
            yield from (f"{source}.{alias.name}" for alias in names)
        case ast.ImportFrom():
            pytest.fail("a relative import: write the module's full name")
        case _:
            pass


def own_modules(module: str) -> set[str]:
    """Name the package's modules that a module imports."""
    names = (name.partition(".") for name in imported_by(module))
    return {resolved(rest) for root, _, rest in names if root == "pathors_agent"} - {module}


def resolved(name: str) -> str:
    """Find the module that a dotted name points into: `sse.SSEParser` into `sse`."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name or "__init__"


def cycle(imports: Mapping[str, set[str]]) -> list[str]:
    """Find one cycle; empty when there is none."""
    finished: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in finished:
            return []
        for target in sorted(imports[module]):
            if found := visit(target, [*path, module]):
                return found
        finished.add(module)
        return []

    return next((found for module in imports if (found := visit(module, []))), [])


def package_imports() -> dict[str, set[str]]:
    """Return the packages that each package imports."""
    imports: dict[str, set[str]] = {package(module): set() for module in MODULES}
    for module in MODULES:
        imports[package(module)] |= {package(name) for name in own_modules(module)}
    return {name: others - {name} for name, others in imports.items()}


def longest_chain(imports: Mapping[str, set[str]]) -> list[str]:
    """Return the longest chain of imports; there must be no cycle."""

    @cache
    def chain(name: str) -> list[str]:
        return max(
            ([name, *chain(other)] for other in sorted(imports[name])), key=len, default=[name]
        )

    return max(map(chain, sorted(imports)), key=len)


@pytest.mark.parametrize("name", sorted({package(module) for module in MODULES}))
def test_package_imports_only_from_layers_above(name: str) -> None:
    against = {other for other in package_imports()[name] if PLACES[other] >= PLACES[name]}

    assert not against, f"{name} imports from its own layer or one below"


@pytest.mark.parametrize(
    "module", [name for name in MODULES if PLACES.get(package(name), 99) < PURE_LAYERS]
)
def test_pure_module_imports_nothing_impure(module: str) -> None:
    roots = {name.partition(".")[0] for name in imported_by(module)}

    assert not roots & NOT_IN_CORE


def test_core_imports_messages_and_errors_only() -> None:
    assert package_imports()["core"] - {"lazy_names"} == {"messages", "errors"}


def test_no_package_is_in_a_circle() -> None:
    assert cycle(package_imports()) == []


def test_chains_of_imports_are_short() -> None:
    modules = {module: own_modules(module) - {"__init__"} for module in MODULES}

    assert len(longest_chain(package_imports())) <= MOST_PACKAGES_IN_A_CHAIN
    assert len(longest_chain(modules)) <= MOST_MODULES_IN_A_CHAIN


def test_longest_chain_is_found() -> None:
    assert longest_chain({"a": {"b", "d"}, "b": {"c"}, "c": set(), "d": set()}) == ["a", "b", "c"]


def test_no_import_cycle() -> None:
    assert cycle({module: own_modules(module) for module in MODULES}) == []


def test_cycle_through_three_modules_is_found() -> None:
    assert cycle({"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": set()}) == ["a", "b", "c", "a"]


def test_diamond_is_no_cycle() -> None:
    assert cycle({"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": set()}) == []


def test_import_for_types_and_in_a_function_are_seen() -> None:
    tree = ast.parse("if TYPE_CHECKING:\n    import socket\ndef late():\n    from os import path\n")

    assert [name for node in ast.walk(tree) for name in imported_names(node)] == [
        "socket",
        "os.path",
    ]
