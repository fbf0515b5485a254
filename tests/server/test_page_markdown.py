"""The chat page's own addresses: Markdown becomes harmless HTML, and a key names its project."""

import re
from html.parser import HTMLParser
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from live_server import Live, live
from pathors_agent.server import Project, page
from pathors_agent.server.page import MAX_MARKDOWN_CHARACTERS, render_markdown
from pathors_agent.testing import AsyncScriptedTransport

TAGS = {
    "article", "a", "blockquote", "br", "code", "em", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre",
    "s", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul",
}  # fmt: skip
LINK = {"target": "_blank", "rel": "noopener noreferrer"}
ATTRIBUTES = {"a": {"href", *LINK}, "ol": {"start"}, "code": {"class"}}


class Elements(HTMLParser):
    """Collects the elements of a text with their attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_comment(self, data: str) -> None:
        self.found.append(("comment", {}))

    def handle_decl(self, decl: str) -> None:
        self.found.append(("declaration", {}))


def assert_harmless(html: str) -> None:
    """Assert that HTML holds only the elements of texts, and links to web and mail addresses."""
    for tag, attributes in Elements(html).found:
        assert tag in TAGS, html
        allowed = {"align"} if tag in ("td", "th") else ATTRIBUTES.get(tag, set())
        assert attributes.keys() <= allowed, html
        if tag == "a":
            assert attributes.items() >= LINK.items(), html
            assert re.match("(https?|mailto):", attributes.get("href") or "https:"), html


# - what Markdown becomes -

RENDERED = {
    "# A\n## B\n###### C": "<h3>A</h3>\n<h4>B</h4>\n<h6>C</h6>\n",
    "- a\n- b": "<ul>\n<li>a</li>\n<li>b</li>\n</ul>\n",
    "3. a": '<ol start="3">\n<li>a</li>\n</ol>\n',
    "*a* **b** ~~c~~ `d`": "<p><em>a</em> <strong>b</strong> <s>c</s> <code>d</code></p>\n",
    "```py\nif a < b:\n```": '<pre><code class="language-py">if a &lt; b:\n</code></pre>\n',
    "> a": "<blockquote>\n<p>a</p>\n</blockquote>\n",
    "[a](https://b.example/?c=1&d=2)": (
        '<p><a href="https://b.example/?c=1&amp;d=2" target="_blank"'
        ' rel="noopener noreferrer">a</a></p>\n'
    ),
    "![a *b*](https://c.example/d.png)": (
        '<p><a href="https://c.example/d.png" target="_blank"'
        ' rel="noopener noreferrer">a b</a></p>\n'
    ),
    "![](https://c.example/d.png)": (
        '<p><a href="https://c.example/d.png" target="_blank"'
        ' rel="noopener noreferrer">https://c.example/d.png</a></p>\n'
    ),
    "1 < 2 && <b>3</b>": "<p>1 &lt; 2 &amp;&amp; &lt;b&gt;3&lt;/b&gt;</p>\n",
    "half a character: \ud83d": "<p>half a character: \ufffd</p>\n",
    "": "",
}


@pytest.mark.parametrize("text", RENDERED)
def test_markdown_becomes_html(text: str) -> None:
    assert render_markdown(text) == RENDERED[text]


def test_cells_of_a_table_are_aligned() -> None:
    html = render_markdown("| a | b |\n|:-:|--:|\n| 1 | 2 |")

    cells = [element for element in Elements(html).found if element[0] in ("th", "td")]
    assert cells == [
        ("th", {"align": "center"}),
        ("th", {"align": "right"}),
        ("td", {"align": "center"}),
        ("td", {"align": "right"}),
    ]


# - hostile texts -

MARKUP = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)>",
    "<svg><style><img src=x onerror=alert(1)></style></svg>",
    "<math><mtext></form><form><mglyph><style></math><img src onerror=alert(1)>",
    "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "<a href='javascript:alert(1)'>x</a>",
    "<style>*{display:none}</style>",
    "<base href=https://evil.example/>",
    "<meta http-equiv=refresh content='0;url=https://evil.example/'>",
    "<form action=https://evil.example/><input name=q><button>x</button></form>",
    "<!-- x --><!doctype html><?php x ?><![CDATA[x]]>",
    "</article><script>alert(1)</script>",
    "<details open ontoggle=alert(1)>",
    "<p id=send class=primary style='position:fixed;inset:0'>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'></noscript>",
    "<template><script>alert(1)</script></template>",
    "<ScRiPt\x0b>alert(1)</sCrIpT\t>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&#60;img src=x onerror=alert(1)&#62;",
]
ADDRESSES = [
    "javascript:alert(1)",
    "JaVaScRiPt:alert(1)",
    "java\tscript:alert(1)",
    "&#106;avascript:alert(1)",
    "javascript&colon;alert(1)",
    "\x01javascript:alert(1)",
    "vbscript:x",
    "data:text/html,<script>alert(1)</script>",
    "data:image/svg+xml;base64,PHN2Zy8+",
    "file:///etc/passwd",
    "blob:https://x/1",
    "view-source:https://x",
    "//evil.example/x",
    "/v1/projects",
    "?x",
    "#send",
    "https://x/\"onmouseover='alert(1)'",
    "https://x/' onclick='alert(1)",
    "https://x/><script>alert(1)</script>",
]
PLACES = [
    "{}",
    "# {}",
    "- {}",
    "> {}",
    "`{}`",
    "```{}\n{}\n```",
    "    {}",
    "| {} |\n|---|\n| {} |",
    "**{}**",
    "[{}](https://x.example)",
    "![{}](https://x.example/y.png)",
    '[x](https://x.example "{}")',
    "[x]: https://x.example '{}'\n\n[x]",
]
LINKS = ["[x]({})", "[x](<{}>)", "![x]({})", "<{}>", "[x]: {}\n\n[x]", "[![x]({})]({})"]


@pytest.mark.parametrize("markup", MARKUP)
def test_markup_of_a_text_is_no_markup(markup: str) -> None:
    for place in PLACES:
        assert_harmless(render_markdown(place.replace("{}", markup)))


@pytest.mark.parametrize("address", ADDRESSES)
def test_links_lead_to_web_and_mail_addresses_only(address: str) -> None:
    for link in LINKS:
        assert_harmless(render_markdown(link.replace("{}", address)))


@given(
    st.lists(
        st.sampled_from([*MARKUP, *ADDRESSES, *"[](){}<>!#*_`|:-\"'\\&\n \t", "](", "```"]),
        max_size=30,
    )
)
def test_any_mixture_of_hostile_texts_is_harmless(parts: list[str]) -> None:
    assert_harmless(render_markdown("".join(parts)))


def test_html_in_a_text_is_shown_as_it_is_written() -> None:
    html = render_markdown("<script>alert(1)</script>")

    assert html == "<p>&lt;script&gt;alert(1)&lt;/script&gt;</p>\n"


DEEP = [">" * 5_000, "- " * 5_000 + "a", "[" * 5_000, "*a **b " * 2_000, "1. " * 3_000 + "x"]


@pytest.mark.parametrize("text", DEEP, ids=lambda text: text[:3])
def test_deep_text_is_rendered_or_left_plain(text: str) -> None:
    assert_harmless(render_markdown(text))


# - the address -


@pytest.fixture(scope="module")
def server() -> Any:
    project = Project(id="demo", transport=AsyncScriptedTransport())
    with live(project, ui=True) as running:
        yield running


def rendered(server: Live, *texts: str, key: str | None = None) -> httpx2.Response:
    headers = {"Authorization": f"Bearer {key or server.key}"}
    return httpx2.post(
        f"{server.url}/page/demo/markdown",
        json={"texts": texts},
        headers=headers,
        trust_env=False,
        timeout=60,
    )


def test_each_text_becomes_an_article(server: Live) -> None:
    answered = rendered(server, "*a*", "", "</article><b>")

    assert answered.status_code == 200
    assert answered.text == (
        "<article><p><em>a</em></p>\n</article><article></article>"
        "<article><p>&lt;/article&gt;&lt;b&gt;</p>\n</article>"
    )
    assert answered.headers["content-type"] == "text/html; charset=utf-8"
    assert answered.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert answered.headers["x-content-type-options"] == "nosniff"
    assert answered.headers["cache-control"] == "no-store"


def test_only_a_key_of_the_project_renders(server: Live) -> None:
    assert rendered(server, "a", key="sk_wrong").status_code == 401


def test_more_characters_than_the_bound_are_refused(server: Live) -> None:
    half = "a" * (MAX_MARKDOWN_CHARACTERS // 2)

    assert rendered(server, half, half).status_code == 200
    assert rendered(server, half, half, "a").status_code == 413


@pytest.mark.parametrize("texts", ["a", [1], ["a"] * 101, None])
def test_anything_but_a_list_of_texts_is_refused(server: Live, texts: object) -> None:
    answered = httpx2.post(
        f"{server.url}/page/demo/markdown",
        json={"texts": texts},
        headers=server.headers,
        trust_env=False,
    )

    assert answered.status_code == 400
    assert answered.json()["error"]["details"]


def test_nothing_is_rendered_where_no_renderer_is_installed(
    server: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "is_markdown_installed", lambda: False)

    assert rendered(server, "*a*").status_code == 204


def test_key_names_its_project(server: Live) -> None:
    url = f"{server.url}/page/account"
    known = httpx2.get(url, headers=server.headers, trust_env=False)
    wrong = httpx2.get(url, headers={"Authorization": "Bearer sk_wrong"}, trust_env=False)

    assert known.json() == {"project": "demo", "maxBodyBytes": 8 * 1024 * 1024}
    assert wrong.status_code == 401
    assert wrong.json()["error"]["message"] == "Invalid authentication"


def test_key_of_a_project_that_is_not_served_is_unknown() -> None:
    other = Project(id="other", transport=AsyncScriptedTransport())
    with live(other, ui=True) as running:
        key = running.key
        store = running.store
    with live(
        Project(id="demo", transport=AsyncScriptedTransport()), ui=True, store=store, key=key
    ) as running:
        answered = httpx2.get(
            f"{running.url}/page/account", headers=running.headers, trust_env=False
        )

    assert answered.status_code == 401


def test_addresses_of_the_page_are_absent_without_it() -> None:
    with live(Project(id="demo", transport=AsyncScriptedTransport())) as running:
        answered = rendered(running, "a")

    assert answered.status_code == 404
