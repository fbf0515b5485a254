"""The page of durable runs in a real browser: what an operator sees and can do, also by keyboard."""

import re
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from browser import NewTab
from live_server import served
from pathors_agent.server.runs_app import create_runs_app
from pathors_agent.testing import calls, http_error
from stored_runs import work

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.slow

KEY = "a key of the operators"
MARKUP = "<img src=x onerror=alert(1)><script>alert(2)</script>"
HIDDEN = "safe\u202eevil\u200b"

OpenPage = Callable[..., "Page"]


@pytest.fixture
def database(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'runs.db'}"


@pytest.fixture
def opened(database: str, new_tab: NewTab) -> Iterator[OpenPage]:
    """Open the page in a new tab, served with a key or without one."""
    with ExitStack() as servers:

        def open_page(key: str | None = None, *, expected_errors: int = 0) -> "Page":
            app = create_runs_app(database, key=key)
            listener = servers.enter_context(socket.create_server(("127.0.0.1", 0)))
            servers.enter_context(served(app, listener))
            origin = f"http://127.0.0.1:{listener.getsockname()[1]}"
            page = new_tab(origin, expected_errors=expected_errors)
            page.goto(f"{origin}/")
            return page

        yield open_page


def statuses(page: "Page") -> dict[str, str]:
    rows = page.locator("#runs tr").all()
    texts = [row.locator("td").all_text_contents() for row in rows]
    return {cells[0]: cells[1] for cells in texts}


def test_runs_are_found_opened_and_approved_with_the_keyboard(
    database: str, opened: OpenPage
) -> None:
    work(database, calls(("pay", {"to": "Ana"})), http_error(400, "bad"), start=("waits", "fails"))
    page = opened()
    page.get_by_text("Runs 1 to 2 of 2").wait_for()
    assert statuses(page) == {"waits": "suspended", "fails": "failed"}

    page.keyboard.press("Tab")
    page.keyboard.type("suspended")
    for _ in range(5):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.get_by_text("Runs 1 to 1 of 1").wait_for()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "waits"
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Waiting calls").wait_for()
    assert page.evaluate("document.activeElement.id") == "run-title"

    while page.evaluate("document.activeElement.textContent") != "Approve":
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.locator("#announcements").get_by_text("The call is approved").wait_for(state="attached")
    page.locator("#run-body").get_by_text("queued", exact=True).wait_for()
    assert page.get_by_role("heading", name="Waiting calls").count() == 0

    work(database, "Ana has it.")
    page.get_by_role("button", name="Reload").press("Enter")
    page.get_by_text("Ana has it.").wait_for()
    page.get_by_text("paid Ana").wait_for()
    page.go_back()
    page.get_by_text("Runs 0 of 0").wait_for()  # the filter is kept


def test_calls_are_denied_and_answered_and_runs_resumed_and_cancelled(
    database: str, opened: OpenPage
) -> None:
    script = [
        calls(("pay", {"to": "Ana"})),
        calls(("ask_user", {})),
        http_error(400, "no such model"),
    ]
    work(database, *script, calls(("ask_user", {})), start=("denied", "asks", "fails", "stops"))
    page = opened()

    def go_to(run: str) -> None:
        page.goto(page.url.partition("#")[0] + f"#id={run}&agent=shop")
        page.get_by_role("heading", name=run, exact=True).wait_for()
        page.get_by_text("Messages", exact=True).wait_for()

    go_to("denied")
    page.get_by_label("Reason to deny, for the model").fill("too dear")
    page.get_by_role("button", name="Deny").click()
    page.locator("#run-body").get_by_text("queued", exact=True).wait_for()
    go_to("asks")
    page.get_by_label("Result, for the model").fill("blue")
    page.get_by_role("button", name="Answer").click()
    page.locator("#run-body").get_by_text("queued", exact=True).wait_for()
    go_to("fails")
    page.get_by_text("the provider answered 400: no such model").wait_for()
    page.get_by_role("button", name="Resume").click()
    page.locator("#run-body").get_by_text("queued", exact=True).wait_for()
    go_to("stops")
    page.get_by_role("button", name="Cancel the run").click()
    page.locator("#run-body").get_by_text("queued", exact=True).wait_for()

    work(database, *["done"] * 3)
    page.get_by_role("link", name="All runs").click()
    page.get_by_text("Runs 1 to 4 of 4").wait_for()
    assert statuses(page) == {
        "denied": "finished",
        "asks": "finished",
        "fails": "finished",
        "stops": "cancelled",
    }


def test_contents_are_text_and_hidden_characters_are_shown(database: str, opened: OpenPage) -> None:
    work(database, calls(("ask_user", {"text": HIDDEN}), (MARKUP, {})), start=(MARKUP,))
    page = opened()

    page.get_by_role("link", name=MARKUP).click()

    page.get_by_role("heading", name="Messages").wait_for()
    assert page.locator("#run img, #run script, #runs img").count() == 0
    shown = page.locator("#run").inner_text()
    assert MARKUP in shown
    assert "\u202e" not in shown
    assert re.search(r"safe\\u202eevil\\u200b", shown)


def test_key_is_asked_for_and_kept_in_the_tab_only(database: str, opened: OpenPage) -> None:
    work(database, "fine", start=("run",))
    page = opened(KEY, expected_errors=2)  # the two refused requests

    page.get_by_label("Key").fill("no")
    page.keyboard.press("Enter")
    page.get_by_text("This is not the key").wait_for()
    page.get_by_label("Key").fill(KEY)
    page.get_by_role("button", name="Open").click()

    page.get_by_text("Runs 1 to 1 of 1").wait_for()
    page.reload()
    page.get_by_text("Runs 1 to 1 of 1").wait_for()
    assert KEY not in page.content()
    assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]


def test_page_fits_a_phone(database: str, new_tab: NewTab) -> None:
    work(database, calls(("pay", {"to": "Ana" * 100})), start=("a-long-name" * 20,))
    app = create_runs_app(database)
    with socket.create_server(("127.0.0.1", 0)) as listener, served(app, listener):
        origin = f"http://127.0.0.1:{listener.getsockname()[1]}"
        page = new_tab(origin, viewport={"width": 360, "height": 740})
        page.goto(f"{origin}/")
        page.get_by_text("Runs 1 to 1 of 1").wait_for()
        width = "document.documentElement.scrollWidth - innerWidth"
        assert page.evaluate(width) <= 0
        page.get_by_role("link").first.click()
        page.get_by_role("heading", name="Messages").wait_for()
        assert page.evaluate(width) <= 0
