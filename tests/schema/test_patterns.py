"""Patterns mean what ECMA-262 says, and are searched for in linear time."""

import pytest

from pathors_agent.schema.bounds import InvalidSchema
from pathors_agent.schema.references import compile_pattern


@pytest.mark.parametrize(
    ("pattern", "found", "not_found"),
    [
        ("b", "abc", "acd"),
        ("^b", "bc", "ab"),
        ("^a$", "a", "a\n"),
        (r"^\d$", "7", "٣"),
        (r"^\D$", "٣", "7"),
        (r"^\w+$", "a_1", "é"),
        (r"^\W$", "é", "a"),
        (r"^\s$", "\ufeff", "a"),
        (r"^\S$", "a", "\ufeff"),
        (r"^[\d-]+$", "1-2", "a"),
        (r"^[^\d]$", "a", "1"),
        (r"^[\w.-]+@[\w-]+$", "a.b@c-d", "a b@c"),
        (r"^\\d$", r"\d", "7"),
        (r"^\p{Lu}$", "É", "é"),
        (r"^\u00e9$", "é", "e"),
        (r"^a\/b$", "a/b", "a-b"),
        ("^[[]$", "[", "]"),
        ("^[a&&b]+$", "a&b", "c"),
        ("^[a-c~~d]$", "~", "e"),
        ("^.{2,3}$", "ab", "abcd"),
        (r"^[\s\S]+$", "a\n\U0001f600", ""),
    ],
)
def test_pattern_has_the_meaning_of_ecma_262(pattern: str, found: str, not_found: str) -> None:
    compiled = compile_pattern(pattern)

    assert compiled.found_in(found)
    assert not compiled.found_in(not_found)


@pytest.mark.parametrize(
    "pattern", ["(?=a)b", "(?!a)b", "(?<=a)b", r"(a)\1", "([", "a{2", r"\cA", "(" * 300 + ")" * 300]
)
def test_pattern_that_the_engine_cannot_search_for_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidSchema, match="cannot be searched for"):
        compile_pattern(pattern)


@pytest.mark.parametrize(
    "pattern",
    ["a{100000}", "a{" + "9" * 5_000 + "}", "((a{50}){50}){50}", r"\p{L}{1000}", "a" * 30_000],
)
def test_pattern_that_becomes_too_large_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidSchema, match="too many repetitions"):
        compile_pattern(pattern)


@pytest.mark.parametrize(
    "pattern",
    ["^.{1,4000}$", r"^[\p{L}\p{M}' -]{1,100}$", r"^(?:\d{1,3}\.){3}\d{1,3}$", "^[a-f0-9]{64}$"],
)
def test_usual_repetitions_are_compiled(pattern: str) -> None:
    assert compile_pattern(pattern).weight > 0


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "pattern", ["^(a+)+$", "^(a|a)*$", "^(a|aa)+$", "^(a?){50}a{50}$", "(.*a){20}b"]
)
def test_long_text_is_searched_in_linear_time(pattern: str) -> None:
    assert not compile_pattern(pattern).found_in("a" * 200_000 + "!")
