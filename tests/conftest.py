"""What every test gets: two async backends, no network, Hypothesis profiles, recorded data."""

import gc
import ipaddress
import logging
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

import request_contract
from effort import examples

pytest_plugins = ["servers", "postgres", "browser", "client_programs", "tracing", "ways"]

PROJECT = Path(__file__).parent.parent

settings.register_profile("default", deadline=None, max_examples=examples(100))
settings.register_profile("ci", settings.get_profile("default"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")

# Fixtures that start a program: each test that asks for one is slow.
PROGRAMS = {
    "chromium",
    "client_environments",
    "fakellm_process",
    "llmock_process",
    "postgres_server",
}

# Parameters that make one variant of a test slow, as in `@pytest.fixture(params=["sqlite", ...])`.
SLOW_PARAMETERS = {"postgres", "postgresql"}

# Each worker takes whole files, so one that begins late runs on alone at the end.
LONGEST = [
    "test_linear_time.py",
    "schema/test_validator.py",
    "properties/test_sub_agents_agree.py",
    "properties/test_drivers_agree.py",
]


SLOW_FILE = re.compile(r"^pytestmark = .*\bpytest\.mark\.slow\b", re.MULTILINE)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out files of slow tests where those are deselected: each worker would import them."""
    if config.option.markexpr == "not slow" and collection_path.suffix == ".py":
        return bool(SLOW_FILE.search(collection_path.read_text(encoding="utf-8"))) or None
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that use a program of their own as slow, and put the longest files first."""
    for item in items:
        if PROGRAMS & set(getattr(item, "fixturenames", ())) or has_slow_parameter(item):
            item.add_marker(pytest.mark.slow)
    slow_files = {item.path for item in items if item.get_closest_marker("slow")}
    order = {PROJECT / "tests" / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path, len(order) + (item.path not in slow_files)))


def has_slow_parameter(item: pytest.Item) -> bool:
    """Return whether a parameter of the test names something that only the slow suite starts."""
    call = getattr(item, "callspec", None)
    return call is not None and any(
        isinstance(value, str) and value in SLOW_PARAMETERS for value in call.params.values()
    )


class FailuresAtOnce:
    """Writes each failure as it happens: a run that is cut off has no summary."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Write the failure's name and text."""
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and terminal is not None:
            terminal.write_line(f"\nFAILED {report.nodeid} ({report.when})")
            terminal.write_line(report.longreprtext)


def pytest_configure(config: pytest.Config) -> None:
    """Write failures at once where CI runs the tests; workers leave that to their controller."""
    if os.environ.get("CI") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(FailuresAtOnce(config))


RUNNING: list[pytest.Item] = []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Note which test runs, for `refuse_processes`."""
    RUNNING.append(item)
    try:
        return (yield)
    finally:
        RUNNING.clear()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Write one line for each reason to skip, with the number of tests."""
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in skipped)
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"skipped {count}: {reason}")


def refuse_processes(event: str, arguments: tuple[object, ...]) -> None:
    """Raise if a test of the quick suite starts a process without saying so.

    Processes are what makes a suite slow, and fail on a busy machine.
    """
    if event in {"subprocess.Popen", "os.fork", "os.posix_spawn"}:
        if arguments and arguments[0] in ("file", "uname"):
            return  # `platform` runs them when a library asks for the system at its import
        for item in RUNNING:
            marks = {mark.name for mark in item.iter_markers()}
            if not marks & {"slow", "process"}:
                raise AssertionError(f"{item.nodeid} starts a process; mark it slow: {arguments}")


def pytest_collection_finish() -> None:
    """Let collections of garbage pass over what stays to the end: thousands of tests, and modules."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def no_tracer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away a tracer that a test, or a library in it, left behind for the whole process."""
    for name in ("trace", "metrics._internal"):
        if module := sys.modules.get(f"opentelemetry.{name}"):
            for provider in ("_TRACER_PROVIDER", "_METER_PROVIDER"):
                if hasattr(module, provider):
                    monkeypatch.setattr(module, provider, None)


@pytest.fixture(autouse=True)
def no_handlers() -> Iterator[None]:
    """Restore the loggers that a command, run in this process, sends to its own stderr."""
    loggers = [logging.getLogger(name) for name in ("pathors_agent", "uvicorn")]
    before = [(each, each.handlers[:], each.level, each.propagate) for each in loggers]
    yield
    for logger, handlers, level, propagate in before:
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.fixture(autouse=True)
def fitting_requests() -> Iterator[None]:
    """Fail a test during which a request was sent that does not fit OpenAI's published schema."""
    yield
    assert request_contract.taken_problems() == []


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run each async test on asyncio and on trio."""
    return str(request.param)


@pytest.fixture(scope="session")
def conformance_data() -> Path:
    """Return the folder of streams and cases recorded by others, or skip where it is absent."""
    folder = Path(os.environ.get("CONFORMANCE_DATA", PROJECT.parent / "shared"))
    if not (folder / "streams").is_dir():
        pytest.skip("recorded data is absent: set CONFORMANCE_DATA to its folder")
    return folder


def refuse_other_machines(event: str, arguments: tuple[object, ...]) -> None:
    """Raise where this process is about to talk to, or look up, another machine."""
    match event, arguments:
        case "socket.connect" | "socket.sendto", (_, (str() | bytes() as host, *_)):
            refuse_unless_this_machine(host)
        case "socket.getaddrinfo" | "socket.gethostbyname", (str() | bytes() as host, *_):
            refuse_unless_this_machine(host)
        case _:
            pass


def refuse_unless_this_machine(host: str | bytes) -> None:
    """Raise for a host that is not this one."""
    name = host.decode() if isinstance(host, bytes) else host
    if not is_this_machine(name):
        raise AssertionError(f"a test wants to reach {name}; tests stay on this machine")


def is_this_machine(host: str) -> bool:
    """Return True for loopback addresses and addresses to listen on."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host in {"", "localhost"}
    return address.is_loopback or address.is_unspecified


request_contract.watch()

# An audit hook sees every call of the socket module, whichever code makes it; no patched name does.
sys.addaudithook(refuse_other_machines)
sys.addaudithook(refuse_processes)
