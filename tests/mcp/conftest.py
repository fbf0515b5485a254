"""Fixtures of the tests of MCP."""

import logging
from collections.abc import Callable, Iterator

import pytest

from mcp_connections import HTTPServerProcess, over_stdio
from pathors_agent import MCPTools


@pytest.fixture(scope="module")
def shared_server() -> Iterator[HTTPServerProcess]:
    """One server for the tests that leave it alive."""
    server = HTTPServerProcess("http")
    yield server
    server.kill()


@pytest.fixture
def start_server() -> Iterator[Callable[[str], HTTPServerProcess]]:
    servers: list[HTTPServerProcess] = []

    def start(kind: str) -> HTTPServerProcess:
        servers.append(HTTPServerProcess(kind))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


@pytest.fixture
def over_http(shared_server: HTTPServerProcess) -> Callable[..., MCPTools]:
    return lambda **options: MCPTools.http(shared_server.url, **options)


@pytest.fixture(params=["stdio", "http"])
def connect(request: pytest.FixtureRequest) -> Callable[..., MCPTools]:
    """Name a server in each way."""
    if request.param == "stdio":
        return over_stdio
    return request.getfixturevalue("over_http")  # type: ignore[no-any-return]  # as above


@pytest.fixture
def events(caplog: pytest.LogCaptureFixture) -> Callable[[str], list[dict[str, object]]]:
    """Return the fields of the events of a name."""
    caplog.set_level(logging.INFO, logger="pathors_agent")

    def named(event: str) -> list[dict[str, object]]:
        return [vars(r)["fields"] for r in caplog.records if getattr(r, "event", "") == event]

    return named
