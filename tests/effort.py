"""How hard property tests try: a little in `make test`, five times as much in `make test-all`."""

import os

THOROUGH = os.environ.get("EFFORT") == "thorough"


def examples(count: int) -> int:
    """Return how many examples a property test draws, of the `count` that a thorough run draws."""
    return count if THOROUGH else max(5, count // 5)
