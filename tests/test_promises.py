"""The reliability page names tests that there are, and a test for each promise."""

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "explanation" / "reliability.md").read_text(encoding="utf-8")

PROMISES = 12
RULES = 11

TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def section(title: str) -> str:
    """Return the text below a heading, as far as the next one."""
    return PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]


def numbered(text: str) -> dict[int, str]:
    """Return the items of a numbered list by their numbers."""
    pieces = re.split(r"^(\d+)\. ", text, flags=re.MULTILINE)[1:]
    return {int(pieces[at]): pieces[at + 1] for at in range(0, len(pieces), 2)}


@cache
def functions_of(file: str) -> frozenset[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, kinds))


def test_every_promise_names_a_test() -> None:
    promises = numbered(section("Twelve promises"))

    assert list(promises) == list(range(1, PROMISES + 1))
    assert [n for n, text in promises.items() if not TEST.search(text)] == []


def test_every_test_that_is_named_is_there() -> None:
    named = TEST.findall(PAGE)

    assert [f for f, _ in named if not (ROOT / f).exists()] == []
    assert [(f, name) for f, name in named if name and name not in functions_of(f)] == []


def test_every_broken_rule_of_streams_is_reported() -> None:
    assert list(numbered(section("The rules of streams"))) == list(range(1, RULES + 1))
