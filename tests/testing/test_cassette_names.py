"""Two tests never share a cassette."""

import re

from hypothesis import example, given
from hypothesis import strategies as st

from pathors_agent.testing.pytest_plugin import file_name


@given(st.lists(st.text(min_size=1), min_size=2, max_size=2, unique=True))
@example(["a b", "a-b"])
@example(["A", "a"])
@example(["test_a", "test_a."])
@example(["\ud800", "\ud801"])
def test_names_of_cassettes_are_legal_and_never_the_same(tests: list[str]) -> None:
    first, second = map(file_name, tests)

    assert first.casefold() != second.casefold()
    assert re.fullmatch(r"[A-Za-z0-9_.-]{1,100}", first)
