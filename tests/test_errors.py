"""Every exception for users is in `pathors_agent.errors` and on the errors page of the docs."""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pathors_agent import errors

PACKAGE = Path(__file__).parent.parent / "src" / "pathors_agent"
PAGE = Path(__file__).parent.parent / "docs" / "reference" / "errors.md"
# Packages whose `__all__` lists names for users.
PACKAGES = [
    *("", ".checking", ".server", ".stores", ".testing"),
    pytest.param(".durable", marks=pytest.mark.slow),  # DBOS starts a process when it is imported
]


def exceptions_in(module: object) -> dict[str, type[BaseException]]:
    """Return the exceptions that a module defines or imports, by name."""
    found = inspect.getmembers(module, inspect.isclass)
    return {name: kind for name, kind in found if issubclass(kind, BaseException)}


def own_exceptions() -> dict[str, type[BaseException]]:
    """Return the exceptions that `errors` defines."""
    return {
        name: kind
        for name, kind in exceptions_in(errors).items()
        if kind.__module__ == errors.__name__
    }


def bases_by_class() -> Iterator[tuple[str, str, set[str]]]:
    """Yield the module, name and base names of every class of the package."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
                yield path.relative_to(PACKAGE).as_posix(), node.name, bases


def public_exceptions_elsewhere() -> set[str]:
    """Return the public classes outside of `errors` that derive from one of its exceptions."""
    derived, before = {"AgentError"}, 0
    classes = list(bases_by_class())
    while len(derived) > before:
        before = len(derived)
        derived |= {name for _, name, bases in classes if bases & derived}
    return {
        f"{module}: {name}"
        for module, name, _ in classes
        if name in derived and not name.startswith("_") and module != "errors.py"
    }


def parents_in_tree(text: str) -> dict[str, str]:
    """Read a tree of names by their indentation: each name's parent."""
    parents: dict[str, str] = {}
    open_names: list[tuple[int, str]] = []
    for line in text.splitlines():
        name = line.split()[0]
        indent = len(line) - len(line.lstrip())
        open_names = [(i, n) for i, n in open_names if i < indent]
        parents[name] = open_names[-1][1] if open_names else ""
        open_names.append((indent, name))
    return parents


def test_every_public_exception_is_in_errors() -> None:
    assert public_exceptions_elsewhere() == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_exceptions_that_a_package_exports_are_in_errors(package: str) -> None:
    owner = importlib.import_module(f"pathors_agent{package}")
    values = [getattr(owner, name) for name in owner.__all__]
    exported = [v for v in values if isinstance(v, type) and issubclass(v, BaseException)]

    assert {value.__module__ for value in exported} <= {errors.__name__}


def tree_on_page() -> str:
    found = re.search(r"```text\n(.*?)\n```", PAGE.read_text(), re.DOTALL)
    assert found
    return found[1]


def test_page_and_module_show_one_tree() -> None:
    lines = [f"    {line}" for line in tree_on_page().splitlines()]

    assert errors.__doc__ is not None
    assert "\n".join(lines) in errors.__doc__


def test_tree_has_every_exception_below_its_base() -> None:
    parents = parents_in_tree(tree_on_page())
    bases = {name: kind.__bases__[0].__name__ for name, kind in own_exceptions().items()}

    roots = {"Exception": "", "AssertionError": "AssertionError"}
    wanted = {name: roots.get(base, base) for name, base in bases.items()}
    assert parents == {"AssertionError": "", **wanted}


@pytest.mark.parametrize("name", sorted(own_exceptions()))
def test_attributes_of_an_exception_are_on_the_page(name: str) -> None:
    init = inspect.signature(own_exceptions()[name].__init__)
    attributes = [p for p in init.parameters if p not in ("self", "text", "args", "kwargs")]
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith(f"| `{name}` |")]

    inherits = "__init__" not in vars(own_exceptions()[name])
    missing = [a for a in attributes if not inherits and f"`{a}`" not in "".join(rows)]
    assert missing == []
