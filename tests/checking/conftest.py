"""What the tests of the check share."""

from collections.abc import Iterator

import pytest

import request_contract


@pytest.fixture(autouse=True)
def fitting_requests() -> Iterator[None]:
    """As for all tests, but for the images in tool messages that the check asks about."""
    yield
    problems = request_contract.taken_problems()
    assert [each for each in problems if '"image_url"' not in each or '"tool"' not in each] == []
