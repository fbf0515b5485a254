"""Every mutant of `make mutants` still applies, and names tests that there are."""

import ast
from functools import cache
from pathlib import Path

import pytest

from mutants.table import MUTANTS, TO_BREAK

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parent
SOURCE = TESTS.parent / "src" / "pathors_agent"


@cache
def text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


@cache
def functions_of(file: str) -> frozenset[str]:
    """Name the functions of a test file."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(
        node.name for node in ast.walk(ast.parse(text(TESTS / file))) if isinstance(node, functions)
    )


def is_there(test: str) -> bool:
    file, _, name = test.partition("::")
    return not name or name.partition("[")[0] in functions_of(file)


def is_python(source: str) -> bool:
    try:
        ast.parse(source)
    except SyntaxError:
        return False
    return True


def test_every_mutant_applies() -> None:
    assert [m.says for m in MUTANTS if text(SOURCE / m.file).count(m.old) != 1] == []


def test_every_mutant_is_python() -> None:
    broken = {m.says: text(SOURCE / m.file).replace(m.old, m.new) for m in MUTANTS}

    assert [says for says, source in broken.items() if not is_python(source)] == []
    assert len(broken) == len(MUTANTS)


def test_every_mutant_names_tests_that_there_are() -> None:
    named = [(m.says, test) for m in MUTANTS for test in m.tests]

    assert [pair for pair in named if not is_there(pair[1])] == []
    assert all(m.tests for m in MUTANTS)


def test_every_rule_and_promise_is_broken_by_a_mutant() -> None:
    assert {broken for mutant in MUTANTS for broken in mutant.breaks} == TO_BREAK
