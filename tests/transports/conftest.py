"""Fixtures of the tests of transports."""

import pytest

from transports.fetching import Fetch

SETTINGS = (
    *("pathors_api_key", "pathors_project_id", "pathors_base_url", "request_method"),
    *("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ssl_cert_file", "ssl_cert_dir"),
)


@pytest.fixture(params=["blocking", "asyncio", "trio", "aiohttp"])
def fetch(request: pytest.FixtureRequest) -> Fetch:
    """Fetch by each transport over HTTP."""
    return Fetch(request.param)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
