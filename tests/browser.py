"""A real browser for tests: Debian's Chromium, without a window, driven by playwright.

The fixtures: `chromium` is started once per test module; `new_tab` opens a tab in a profile of its
own, and in the end asserts that the page behaved: no error on its console, nothing forbidden by
its policy, no request to elsewhere.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page, Route

# Long enough for a busy machine; only a failing test ever waits for it.
PATIENCE_MS = 60_000

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

NewTab = Callable[..., "Page"]

# A broken rule of a Content-Security-Policy is an event on the page.
NOTE_VIOLATIONS = """
window.violations = [];
addEventListener("securitypolicyviolation", (e) => violations.push(`${e.violatedDirective} ${e.blockedURI}`));
"""


@pytest.fixture(scope="module")
def chromium() -> "Iterator[Browser]":
    """Start the browser, or skip where there is none."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not installed")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, headless=True, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def new_tab(chromium: "Browser") -> Iterator[NewTab]:
    """Return a function that opens an empty tab for the pages of one origin; it takes the options of a profile."""
    with ExitStack() as tabs:

        def open_tab(origin: str, *, expected_errors: int = 0, **profile: Any) -> "Page":
            context = chromium.new_context(reduced_motion="reduce", **profile)
            tabs.callback(context.close)
            context.set_default_timeout(PATIENCE_MS)
            context.add_init_script(NOTE_VIOLATIONS)
            page = context.new_page()
            tabs.callback(watch(page, origin, expected_errors))
            return page

        yield open_tab


def watch(page: "Page", origin: str, expected_errors: int) -> Callable[[], None]:
    """Watch over a tab; return what asserts at the end that it behaved.

    Each answer with an error status is an error on the console: so many are expected.
    """
    errors: list[str] = []
    elsewhere: list[str] = []

    def look(route: "Route") -> None:
        if route.request.url.startswith(f"{origin}/"):
            route.fallback()
        else:
            elsewhere.append(route.request.url)
            route.abort()

    page.route("**/*", look)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda said: errors.append(said.text) if is_error(said) else None)

    def behaved() -> None:
        violations = page.evaluate("window.violations")
        assert (violations, elsewhere) == ([], [])
        assert len(errors) == expected_errors, errors

    return behaved


def is_error(said: "ConsoleMessage") -> bool:
    """Return True if a page's line is an error of the page.

    A connection may break between two requests, or because the server of the page was stopped.
    """
    broken = ("ERR_CONNECTION_REFUSED", "ERR_CONNECTION_RESET", "ERR_SOCKET_NOT_CONNECTED")
    return said.type == "error" and not any(name in said.text for name in broken)
