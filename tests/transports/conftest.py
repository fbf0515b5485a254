"""Fixtures of the tests of transports."""

import pytest

from transports.fetching import Fetch


@pytest.fixture(params=["blocking", "asyncio", "trio", "aiohttp"])
def fetch(request: pytest.FixtureRequest) -> Fetch:
    return Fetch(request.param)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PATHORS_API_KEY", "PATHORS_PROJECT_ID", "PATHORS_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
