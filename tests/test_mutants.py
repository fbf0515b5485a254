"""Every mutant of `make mutants` still applies, and its tests exist."""

import ast

import pytest

from mutants import MUTANTS, TO_BREAK, Mutant

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.says)
def test_mutant_applies_and_its_tests_exist(mutant: Mutant) -> None:
    path, text = mutant.apply()

    ast.parse(text)
    assert path.read_text() != text
    assert mutant.test_ids


def test_every_rule_and_promise_is_broken_by_a_mutant() -> None:
    assert {name for mutant in MUTANTS for name in mutant.breaks.split(", ")} == TO_BREAK
