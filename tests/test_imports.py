"""Imports point one way: towards the core, which touches neither network, clock nor threads."""

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "src" / "pathors_agent"

# A module imports from its own row and the rows above it. The place of `server.app` is that of
# `server`. Every module must have a place here.
ROWS = [
    "messages",
    "errors json_text",
    "history conversation transcript wire schema limits session_answers",
    "structured run tools",
    # - the core ends here -
    "cancellation event_loops",
    "transports telemetry lifetime stores timeline",
    "stream_reading run_control",
    "sessions model_call calls drivers mcp",
    "run_result run_stream agent durable summaries",
    "server testing offline checking",
    "__init__",  # the public names: what `from pathors_agent import ...` reads
    "demo demo_tools cli __main__",
]
CORE_ROWS = 4

NOT_IN_CORE = {
    *("anyio", "asyncio", "threading", "trio", "structlog", "logging", "tenacity"),
    *("httpx2", "sqlite3", "time", "random", "uuid", "os", "socket"),
}

PLACES = {name: row for row, names in enumerate(ROWS) for name in names.split()}


def module_name(path: Path) -> str:
    """Name a file's module inside the package: `sse`, `stores.sql`, `stores`, `__init__`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    if parts[-1] == "__init__" and len(parts) > 1:
        parts = parts[:-1]
    return ".".join(parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def place(module: str) -> int:
    """Give a module's row."""
    return PLACES[module.partition(".")[0]]


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


@pytest.mark.parametrize("module", MODULES)
def test_module_has_a_place(module: str) -> None:
    assert module.partition(".")[0] in PLACES, f"give {module} a place in ROWS"


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_towards_the_core(module: str) -> None:
    against = {name for name in own_modules(module) if place(name) > place(module)}

    assert not against, f"{module} imports from a row below its own"


@pytest.mark.parametrize(
    "module", [name for name in MODULES if PLACES.get(name.partition(".")[0], 99) < CORE_ROWS]
)
def test_core_module_imports_nothing_impure(module: str) -> None:
    roots = {name.partition(".")[0] for name in imported_by(module)}

    assert not roots & NOT_IN_CORE


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
