"""The site of the docs in a browser, the sites of several releases, and the check that `make docs` ends with.

The browser reads what `make docs` has built into `site/`; those tests are skipped where it has not.
"""

import functools
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
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
NEWEST = SITE / "latest"

PHONE = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve the files of a folder."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def built() -> Path:
    """Return the site that was built."""
    if not (NEWEST / "index.html").is_file():
        pytest.skip("there is no site: make docs")
    return NEWEST


@pytest.fixture(scope="module")
def host(built: Path) -> Iterator[str]:
    """Serve the sites of all releases."""
    with served(built.parent) as origin:
        yield origin


@pytest.fixture(scope="module")
def address(host: str) -> str:
    """Return the address of the newest release's site."""
    return f"{host}/latest"


def overflow(page: "Page") -> int:
    """Return by how many pixels the page is wider than its window."""
    width: int = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    return width


@pytest.mark.timeout(240)  # some fifty pages
def test_every_page_fits_a_phone_and_loads_nothing_from_elsewhere(
    built: Path, address: str, host: str, new_tab: NewTab
) -> None:
    page = new_tab(host, java_script_enabled=False, **PHONE)
    wide = {}

    for file in sorted(built.rglob("index.html")):
        path = file.parent.relative_to(built).as_posix()
        page.goto(f"{address}/{path}/")
        wide[path] = overflow(page)

    assert len(wide) > 40
    assert {path for path, pixels in wide.items() if pixels > 0} == set()


@pytest.mark.parametrize(
    ("words", "pages"),
    [
        ("take_lease", ["reference/api/stores"]),
        ("azure", ["howto/connect-a-model"]),
        ("image", ["howto/images-and-files", "reference/limits"]),
        ("fastapi", ["howto/embed-in-fastapi"]),
        ("cost", ["howto/limit-a-run", "howto/images-and-files"]),
        ("system prompt", ["howto/connect-a-model"]),
        ("ollama", ["howto/connect-a-model"]),
        ("postgres", ["howto/deploy", "howto/use-postgres"]),
    ],
)
def test_search_puts_the_page_on_a_subject_first(
    words: str, pages: list[str], address: str, host: str, new_tab: NewTab
) -> None:
    page = new_tab(host)
    page.goto(address)

    page.locator(".md-search__button").click()
    page.get_by_placeholder("Search").last.fill(words)

    first = page.locator("a[href*='?h=']").first
    first.wait_for()
    path = (first.get_attribute("href") or "").partition("/latest/")[2].partition("/?")[0]
    assert path in pages


@pytest.mark.parametrize(
    "words",
    ["azure", "image", "fastapi", "cost", "system prompt", "deploy", "login", "pydantic-ai"],
)
def test_title_of_a_page_or_section_has_the_words_that_newcomers_search_for(
    words: str, built: Path
) -> None:
    index = json.loads((built / "search.json").read_text())
    titles = [
        item["title"].lower() for item in index["items"] if "reference" not in item["location"]
    ]

    assert [title for title in titles if words in title]


def test_page_follows_the_colours_of_the_system(address: str, host: str, new_tab: NewTab) -> None:
    def background(scheme: str) -> str:
        page = new_tab(host, color_scheme=scheme)
        page.goto(address)
        color: str = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return color

    assert background("light") != background("dark")


def test_command_is_copied_without_its_prompt(address: str, host: str, new_tab: NewTab) -> None:
    page = new_tab(host)
    page.goto(f"{address}/tutorial/5-served/")

    block = page.locator(".language-console code").last

    assert block.inner_text().strip() == "pathors-agent serve --config projects.toml --ui"
    assert page.evaluate(
        "getComputedStyle(document.querySelector('.gp'), '::before').content"
    ).startswith('"$')


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_copy_button_is_seen(scheme: str, address: str, host: str, new_tab: NewTab) -> None:
    page = new_tab(host, color_scheme=scheme)
    page.goto(address)

    button = page.locator(".md-code__button").first
    button.wait_for()
    color = button.evaluate("button => getComputedStyle(button).color")

    alpha = re.fullmatch(r"rgba\(.+, ([\d.]+)\)", color)
    assert alpha is None or float(alpha[1]) > 0.5, color


def test_recorded_picture_is_dark_where_its_page_is(
    address: str, host: str, new_tab: NewTab
) -> None:
    def filter_of(scheme: str) -> str:
        page = new_tab(host, color_scheme=scheme)
        page.goto(address)
        value: str = page.locator("img[src$='timeline.png']").evaluate(
            "image => getComputedStyle(image).filter"
        )
        return value

    assert filter_of("light") == "none"
    assert "invert" in filter_of("dark")


def test_phone_shows_the_whole_name_beside_the_version(
    address: str, host: str, new_tab: NewTab
) -> None:
    page = new_tab(host, **PHONE)
    page.goto(address)
    page.locator(".md-version").wait_for()

    name = page.locator(".md-header__topic .md-ellipsis").first

    assert name.inner_text() == "pathors-agent"
    assert name.evaluate("name => name.scrollWidth <= name.clientWidth")


@pytest.mark.parametrize(
    "drawing", sorted((ROOT / "docs" / "images").glob("*.svg")), ids=lambda path: path.name
)
def test_drawing_follows_the_colours_of_its_page(
    drawing: Path, address: str, host: str, new_tab: NewTab
) -> None:
    def texts(scheme: str) -> str:
        page = new_tab(host, color_scheme=scheme)
        page.goto(f"{address}/images/{drawing.name}")
        color: str = page.evaluate(
            "getComputedStyle(document.querySelector('text[font-weight], text.note, text')).fill"
        )
        return color

    assert texts("light") != texts("dark")


def checkout(folder: Path, version: str) -> Path:
    """Write what the programs in `.ci` need of a checkout of a release."""
    shutil.copytree(ROOT / ".ci", folder / ".ci", ignore=shutil.ignore_patterns("__pycache__"))
    package = folder / "src" / "pathors_agent"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text(f'__version__ = "{version}"\n')
    return folder


def add_release(version: str, built: Path, site: Path, work: Path) -> None:
    program = checkout(work / version, version) / ".ci" / "versions.py"
    subprocess.run([sys.executable, str(program), str(built), str(site)], check=True)


@pytest.fixture
def releases(built: Path, tmp_path: Path) -> Iterator[str]:
    """Serve two releases of the site that was built, the second with a folder more.

    Tests name it before `new_tab`: a tab that is still loading is closed before the server.
    """
    site, newer = tmp_path / "site", tmp_path / "newer"
    shutil.copytree(built, newer)
    shutil.copytree(built / "howto", newer / "new")
    add_release("0.9.3", built, site, tmp_path)
    add_release("0.10.0", newer, site, tmp_path)
    with served(site) as host:
        yield host


def test_chooser_leads_to_the_same_page_of_another_release(releases: str, new_tab: NewTab) -> None:
    page = new_tab(releases)
    page.goto(f"{releases}/")
    page.wait_for_url(f"{releases}/latest/")
    page.goto(f"{releases}/latest/howto/deploy/")

    chooser = page.locator(".md-version")
    assert chooser.locator("button").inner_text() == "0.10.0latest"
    chooser.hover()
    chooser.get_by_role("link", name="0.9.3").click()

    page.wait_for_url(f"{releases}/0.9/howto/deploy/")
    assert page.locator(".md-version button").inner_text() == "0.9.3"


def test_older_release_links_to_the_newest(releases: str, new_tab: NewTab) -> None:
    page = new_tab(releases)

    page.goto(f"{releases}/latest/howto/deploy/")
    page.locator(".md-version").wait_for()
    assert not page.get_by_text("an older release").is_visible()

    page.goto(f"{releases}/0.9/howto/deploy/")
    page.get_by_role("link", name="Read those of the newest.").click()

    page.wait_for_url(f"{releases}/latest/")


def test_page_that_is_new_in_a_release_leads_to_the_start_of_an_older_one(
    releases: str, new_tab: NewTab
) -> None:
    page = new_tab(releases)
    page.goto(f"{releases}/0.10/new/deploy/")

    page.locator(".md-version").hover()
    page.get_by_role("link", name="0.9.3").click()

    page.wait_for_url(f"{releases}/0.9/")


def small_site(folder: Path, text: str = "") -> Path:
    folder.mkdir()
    (folder / "index.html").write_text(f"<p>{text}")
    (folder / "llms.txt").write_text("- [Start](./)\n")
    return folder


@pytest.mark.parametrize(
    ("versions", "offered", "newest"),
    [
        (["0.1.0"], ["0.1.0"], "0.1"),
        (["0.1.0", "0.1.1"], ["0.1.1"], "0.1"),
        (["0.9.0", "0.10.0"], ["0.10.0", "0.9.0"], "0.10"),
        (["0.2.0", "0.1.4"], ["0.2.0", "0.1.4"], "0.2"),
        (["0.1.0", "0.2.0rc1"], ["0.2.0rc1", "0.1.0"], "0.1"),
        (["0.1.0", "0.2.0rc1", "0.2.0"], ["0.2.0", "0.1.0"], "0.2"),
        (["0.1.0rc1"], ["0.1.0rc1"], "0.1"),
    ],
    ids=" then ".join,
)
def test_latest_is_the_newest_release(
    versions: list[str], offered: list[str], newest: str, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    for version in versions:
        add_release(version, small_site(tmp_path / f"built-{version}", version), site, tmp_path)

    listed = json.loads((site / "versions.json").read_text())
    titles = {entry["version"]: entry["title"] for entry in listed}
    assert list(titles.values()) == offered
    assert [entry["version"] for entry in listed if entry["aliases"] == ["latest"]] == [newest]
    assert {name: (site / name / "index.html").read_text() for name in titles} == {
        name: f"<p>{title}" for name, title in titles.items()
    }
    assert (site / "latest" / "index.html").read_text() == f"<p>{titles[newest]}"
    assert check(site).returncode == 0


def test_site_of_one_release_is_replaced_by_the_sites_of_all(tmp_path: Path) -> None:
    site = small_site(tmp_path / "site")
    (site / "howto").mkdir()

    add_release("0.1.0", small_site(tmp_path / "built"), site, tmp_path)

    assert sorted(path.name for path in site.iterdir() if path.is_dir()) == ["0.1", "latest"]


def test_tag_publishes_the_docs_next_to_those_of_earlier_releases(tmp_path: Path) -> None:
    origin, work = tmp_path / "origin.git", tmp_path / "work"
    git(tmp_path, "init", "--quiet", "--bare", str(origin))
    git(tmp_path, "clone", "--quiet", str(origin), str(work))
    git(work, "config", "user.name", "A maintainer")
    git(work, "config", "user.email", "maintainer@example.com")

    publish(work, "0.1.0")
    publish(work, "0.2.0")

    files = git(origin, "ls-tree", "-r", "--name-only", "gh-pages").split()
    assert [file for file in files if file.endswith("/index.html")] == [
        "0.1/index.html",
        "0.2/index.html",
        "latest/index.html",
    ]
    assert git(origin, "show", "gh-pages:latest/index.html") == "<p>0.2.0\n"
    assert "<loc>https://docs.example/0.1/</loc>" in git(origin, "show", "gh-pages:0.1/sitemap.xml")
    assert git(origin, "log", "--format=%s", "gh-pages").splitlines() == [
        "Publish the docs of v0.2.0",
        "Publish the docs of v0.1.0",
    ]


def test_tag_of_another_version_publishes_nothing(tmp_path: Path) -> None:
    program = checkout(tmp_path, "0.1.0") / ".ci" / "publish_docs"

    done = subprocess.run([program, "v0.2.0"], capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert done.stderr == "The tag is v0.2.0, and the version of the source is 0.1.0.\n"


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "init.defaultBranch=main", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def publish(work: Path, version: str) -> None:
    """Commit a release whose site has one page, tag it, and publish its docs."""
    shutil.rmtree(work / ".ci", ignore_errors=True)
    checkout(work, version)
    (work / "Makefile").write_text(
        "docs:\n"
        "\tmkdir -p build/site\n"
        f"\techo '<p>{version}' > build/site/index.html\n"
        "\ttouch build/site/llms.txt\n"
        f"\t{sys.executable} .ci/versions.py build/site site $(SITE_URL)\n"
    )
    (work / ".gitignore").write_text("build/\nsite/\n")
    git(work, "add", "--all")
    git(work, "commit", "--quiet", "--message", f"Release {version}")
    command = [str(work / ".ci" / "publish_docs"), f"v{version}", "https://docs.example"]
    subprocess.run(command, check=True, capture_output=True)


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


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("llms.txt", "- [Start](./)\n- [Gone](howto/gone/)\n", "links to howto/gone/"),
        ("site.css", '@import "https://fonts.example/a.css";', "loads https://fonts.example/a.css"),
    ],
)
def test_check_finds_dead_links_and_files_from_elsewhere(
    tmp_path: Path, name: str, text: str, found: str
) -> None:
    (tmp_path / "index.html").write_text("<p>")
    (tmp_path / name).write_text(text)

    assert check(tmp_path).stderr.strip() == f"{name} {found}"


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        (
            [{"version": "0.1", "aliases": ["latest"]}, {"version": "0.2", "aliases": []}],
            "versions.json offers 0.2, which is not there",
        ),
        ([{"version": "0.1", "aliases": []}], "versions.json does not offer latest"),
    ],
)
def test_check_compares_the_chooser_with_the_releases(
    entries: list[dict[str, object]], problem: str, tmp_path: Path
) -> None:
    for name in ("0.1", "latest"):
        small_site(tmp_path / name)
    (tmp_path / "index.html").write_text("<p>")
    (tmp_path / "versions.json").write_text(json.dumps(entries))

    assert check(tmp_path).stderr.strip() == problem


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
