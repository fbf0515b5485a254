"""How much a key may ask for in a minute."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from live_server import live, project
from pathors_agent import Usage
from pathors_agent.server import ServerSettings
from pathors_agent.server.turns.admission import Rates
from pathors_agent.testing import answer


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.time = 1_000_000.0

    def __call__(self) -> float:
        return self.time


def test_minute_rate_lets_a_burst_in_and_then_one_after_another() -> None:
    clock = Clock()
    rates = Rates(3, clock)

    for _ in range(3):
        assert rates.wait("key") == 0
        rates.take("key", 1)
    assert rates.wait("key") == pytest.approx(20)
    assert rates.wait("other") == 0

    clock.time += 20
    assert rates.wait("key") == 0
    rates.take("key", 1)
    assert rates.wait("key") == pytest.approx(20)


def test_costs_over_the_rate_make_a_key_wait_longer() -> None:
    clock = Clock()
    rates = Rates(600, clock)

    rates.take("key", 1_800)  # three minutes' worth

    assert rates.wait("key") == pytest.approx(120.1)


@given(per_minute=st.integers(1, 50), pauses=st.lists(st.floats(0, 90), min_size=1, max_size=60))
def test_no_minute_takes_more_than_twice_the_rate(per_minute: int, pauses: list[float]) -> None:
    clock = Clock()
    rates = Rates(per_minute, clock)
    taken: list[float] = []
    for pause in pauses:
        clock.time += pause
        wait = rates.wait("key")
        if wait == 0:
            rates.take("key", 1)
            taken.append(clock.time)
        else:
            assert wait <= 60 / per_minute + 1e-3  # one becomes free in this time
    for begin in taken:
        assert sum(begin <= at < begin + 60 for at in taken) <= 2 * per_minute


def test_key_that_used_its_requests_gets_retry_after() -> None:
    settings = ServerSettings(requests_per_minute=2)
    with live(project("one", "two"), settings=settings) as server:
        statuses = [server.complete("Hi").status_code for _ in range(2)]
        refused = server.complete("Hi")
        listed = server.client.get("/sessions")

    assert statuses == [200, 200]
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert 1 <= int(refused.headers["retry-after"]) <= 30
    assert listed.status_code == 200


@pytest.mark.parametrize("usage", [Usage(total_tokens=120), None], ids=["told", "estimated"])
def test_key_that_used_its_tokens_gets_retry_after(usage: Usage | None) -> None:
    settings = ServerSettings(tokens_per_minute=100)
    text = "word " * 100  # 125 tokens by estimate
    with live(project(answer(text, usage=usage)), settings=settings) as server:
        first = server.complete("Hi")
        refused = server.complete("Hi")

    assert first.status_code == 200
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert 1 <= int(refused.headers["retry-after"]) <= 60


@pytest.mark.parametrize("name", ["requests_per_minute", "tokens_per_minute"])
def test_rate_of_nothing_is_refused(name: str) -> None:
    nothing: dict[str, Any] = {name: 0}
    with pytest.raises(ValueError, match=name):
        ServerSettings(**nothing)
