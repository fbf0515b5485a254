"""The site of the docs in a browser, and the check that `make docs` ends with.

The browser reads what `make docs` has built into `site/`; those tests are skipped where it has not.
"""

import functools
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from browser import NewTab, chromium, new_tab

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.slow

__all__ = ["chromium", "new_tab"]  # fixtures

ROOT = Path(__file__).parent.parent
SITE = ROOT / "site"

PHONE = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Serve the site that was built."""
    if not (SITE / "index.html").is_file():
        pytest.skip("there is no site: make docs")
    handler = functools.partial(_Quiet, directory=str(SITE))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def overflow(page: "Page") -> int:
    """Return by how many pixels the page is wider than its window."""
    width: int = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    return width


@pytest.mark.timeout(240)  # some fifty pages
def test_every_page_fits_a_phone_and_loads_nothing_from_elsewhere(
    address: str, new_tab: NewTab
) -> None:
    page = new_tab(address, java_script_enabled=False, **PHONE)
    wide = {}

    for file in sorted(SITE.rglob("index.html")):
        path = file.parent.relative_to(SITE).as_posix()
        page.goto(f"{address}/{path}/")
        wide[path] = overflow(page)

    assert len(wide) > 40
    assert {path for path, pixels in wide.items() if pixels > 0} == set()


def test_search_finds_a_page(address: str, new_tab: NewTab) -> None:
    page = new_tab(address)
    page.goto(address)

    page.locator(".md-search__button").click()
    page.get_by_placeholder("Search").last.fill("lease")

    page.get_by_text("take_lease").first.wait_for()


@pytest.mark.parametrize(
    "words",
    ["azure", "image", "fastapi", "cost", "system prompt", "deploy", "login", "pydantic-ai"],
)
@pytest.mark.usefixtures("address")  # that the site is there
def test_title_of_a_page_or_section_has_the_words_that_newcomers_search_for(words: str) -> None:
    index = json.loads((SITE / "search.json").read_text())
    titles = [
        item["title"].lower() for item in index["items"] if "reference" not in item["location"]
    ]

    assert [title for title in titles if words in title]


def test_page_follows_the_colours_of_the_system(address: str, new_tab: NewTab) -> None:
    def background(scheme: str) -> str:
        page = new_tab(address, color_scheme=scheme)
        page.goto(address)
        color: str = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return color

    assert background("light") != background("dark")


def test_command_is_copied_without_its_prompt(address: str, new_tab: NewTab) -> None:
    page = new_tab(address)
    page.goto(f"{address}/tutorial/5-served/")

    block = page.locator(".language-console code").last

    assert block.inner_text().strip() == "pathors-agent serve --config projects.toml --ui"
    assert page.evaluate(
        "getComputedStyle(document.querySelector('.gp'), '::before').content"
    ).startswith('"$')


@pytest.mark.parametrize(
    "drawing", sorted((ROOT / "docs" / "images").glob("*.svg")), ids=lambda path: path.name
)
def test_drawing_follows_the_colours_of_its_page(
    drawing: Path, address: str, new_tab: NewTab
) -> None:
    def texts(scheme: str) -> str:
        page = new_tab(address, color_scheme=scheme)
        page.goto(f"{address}/images/{drawing.name}")
        color: str = page.evaluate(
            "getComputedStyle(document.querySelector('text[font-weight], text.note, text')).fill"
        )
        return color

    assert texts("light") != texts("dark")


def make_llms(folder: Path) -> list[str]:
    program = str(ROOT / ".ci" / "make_llms.py")
    subprocess.run([sys.executable, program, str(folder)], check=True)
    return re.findall(r"^- \[.+?\]\((.+?)\)", (folder / "llms.txt").read_text(), re.MULTILINE)


def test_llms_text_lists_every_page_once(tmp_path: Path) -> None:
    docs = ROOT / "docs"
    files = {page.relative_to(docs).with_suffix("").as_posix() for page in docs.rglob("*.md")}
    pages = [f"{file}/".removesuffix("index/") or "./" for file in files - {"nav"}]

    listed = make_llms(tmp_path)

    assert sorted(listed) == sorted(pages)
    assert (tmp_path / "llms-full.txt").read_text().count("\n# ") >= len(pages)


def test_check_finds_a_dead_link_of_the_llms_text(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<p>")
    (tmp_path / "llms.txt").write_text("- [Start](./)\n- [Gone](howto/gone/)\n")

    assert check(tmp_path).stderr.strip() == "llms.txt links to howto/gone/"


def check(folder: Path) -> subprocess.CompletedProcess[str]:
    program = str(ROOT / ".ci" / "check_site.py")
    return subprocess.run(
        [sys.executable, program, str(folder)], capture_output=True, text=True, check=False
    )


def test_check_takes_a_good_site(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(
        '<link rel="stylesheet" href="site.css"><a id="top" href="#top"></a>'
        '<a href="https://example.com/">elsewhere</a>'
    )
    (tmp_path / "site.css").write_text("body { background: url(a.png) }")

    assert check(tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("html", "problem"),
    [
        ('<a href="gone.html">', "index.html links to gone.html"),
        ('<a href="#gone">', "index.html links to #gone"),
        ('<script src="https://cdn.example/a.js">', "index.html loads https://cdn.example/a.js"),
        ('<img src="//cdn.example/a.png">', "index.html loads //cdn.example/a.png"),
        (
            '<link rel="preconnect" href="https://fonts.example">',
            "index.html loads https://fonts.example",
        ),
    ],
)
def test_check_finds(html: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(html)

    checked = check(tmp_path)

    assert (checked.returncode, checked.stderr.strip()) == (1, problem)


def test_check_finds_a_style_sheet_with_a_font_from_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<p>")
    (tmp_path / "site.css").write_text('@import "https://fonts.example/a.css";')

    assert check(tmp_path).stderr.strip() == "site.css loads https://fonts.example/a.css"
