"""Answers in Markdown on the chat page, in a real browser."""

import json
from typing import TYPE_CHECKING

import anyio
import pytest

from browser import NewTab
from chat_page import HoldingTransport, opened, set_event
from live_server import live, on_loop, project
from pathors_agent import tool
from pathors_agent.server import Project, page
from pathors_agent.testing import answer, calls

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Request

pytestmark = pytest.mark.slow

ANSWER = """\
# Plan

1. Read
2. Write
   - well

| day | work |
|-----|-----:|
| Mon | 3 |

```py
print("<b>")
```

See [the guide](https://docs.example/guide?a=1#b), <https://docs.example/> or [mail](mailto:ana@docs.example).
![chart](https://docs.example/chart.png)
"""


def test_markdown_of_an_answer_is_rendered(new_tab: NewTab) -> None:
    with live(project(ANSWER), ui=True) as server:
        chat = opened(new_tab, server)

        chat.say("Plan it")
        rich = chat.answers.locator(".rich")
        rich.get_by_role("link", name="chart").wait_for()

        assert rich.get_by_role("heading", name="Plan", level=3).count() == 1
        assert rich.locator("ol > li").all_inner_texts() == ["Read", "Write\nwell"]
        assert rich.get_by_role("columnheader").all_inner_texts() == ["day", "work"]
        assert rich.get_by_role("cell", name="3").get_attribute("class") == "right"
        assert rich.locator("pre code").inner_text() == 'print("<b>")'
        assert rich.get_by_role("group", name="Code in py").count() == 1
        assert chat.answers.locator(".plain").inner_text() == ""


def test_links_show_where_they_lead_and_open_apart(new_tab: NewTab) -> None:
    with live(project(ANSWER), ui=True) as server:
        chat = opened(new_tab, server)

        chat.say("Plan it")
        links = chat.answers.get_by_role("link")
        links.nth(3).wait_for()

        read = "all => all.map(a => [a.innerText, a.getAttribute('href'), a.target, a.rel])"
        apart = ["_blank", "noopener noreferrer"]
        opens = "opens in a new tab"
        assert [[text.split(), *rest] for text, *rest in links.evaluate_all(read)] == [
            [
                f"the guide (docs.example) {opens}".split(),
                "https://docs.example/guide?a=1#b",
                *apart,
            ],
            [f"https://docs.example/ {opens}".split(), "https://docs.example/", *apart],
            [f"mail (ana@docs.example) {opens}".split(), "mailto:ana@docs.example", *apart],
            [f"chart (docs.example) {opens}".split(), "https://docs.example/chart.png", *apart],
        ]


def test_code_is_copied(new_tab: NewTab) -> None:
    with live(project(ANSWER), ui=True) as server:
        chat = opened(new_tab, server, permissions=["clipboard-read", "clipboard-write"])

        chat.say("Plan it")
        chat.button("Copy code").click()
        chat.hears("Copied")

        assert chat.page.evaluate("navigator.clipboard.readText()") == 'print("<b>")'


def test_code_is_copied_without_access_to_the_clipboard(new_tab: NewTab) -> None:
    with live(project(ANSWER), ui=True) as server:
        chat = opened(new_tab, server, permissions=["clipboard-read"])
        chat.page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject('no') }")

        chat.say("Plan it")
        chat.button("Copy code").click()
        chat.hears("Copied")

        assert chat.page.evaluate("navigator.clipboard.readText()") == 'print("<b>")'
        assert chat.page.evaluate("document.querySelectorAll('body > textarea').length") == 0


def test_whole_paragraphs_are_rendered_while_the_last_one_is_plain(new_tab: NewTab) -> None:
    text = "**One**\n\n```\n*two*\n\n"
    model = HoldingTransport(answer(text + "x" * 40, chunk_size=len(text)))
    with live(Project(id="demo", transport=model), ui=True) as server:
        chat = opened(new_tab, server)

        chat.say("Tell")
        chat.answers.locator("strong").wait_for()
        chat.answers.locator(".plain", has_text="x" * 20).wait_for()

        rich = chat.answers.locator(".rich").inner_text()
        plain = chat.answers.locator(".plain").text_content()
        chat.page.keyboard.press("Escape")
        chat.answers.locator("pre").wait_for()

        assert rich == "One"
        assert plain == f"```\n*two*\n\n{'x' * 20}"  # what came before the transport stopped
        assert chat.answers.locator(".plain").text_content() == ""


def test_text_before_a_tool_call_is_rendered_while_the_tool_runs(new_tab: NewTab) -> None:
    may_end = anyio.Event()

    @tool
    async def wait() -> str:
        """Wait."""
        await may_end.wait()
        return "over"

    script = [answer("I **wait**.", calls=[("wait", {})]), "*Over.*"]
    with live(project(*script, tools=[wait]), ui=True) as server:
        chat = opened(new_tab, server)

        chat.say("Wait")
        chat.answers.locator("strong").wait_for()
        on_loop(server.app, set_event(may_end))
        chat.answers.locator("em").wait_for()

        assert chat.texts()[1:] == ["I wait.", "Over."]


def test_earlier_answers_are_rendered_together(new_tab: NewTab) -> None:
    with live(project("*a*", "*b*", "*c*"), ui=True) as server:
        for text in "abc":
            server.complete(text, session="letters")
        chat = opened(new_tab, server)
        asked: list[str] = []
        chat.page.on("request", lambda request: asked.append(request.url))

        chat.open("letters")
        chat.answers.locator("em", has_text="c").wait_for()

        # The first text is on its way when the others are shown.
        assert sum(url.endswith("/markdown") for url in asked) == 2
        assert chat.answers.locator("em").all_inner_texts() == ["a", "b", "c"]


def test_answers_are_plain_where_no_renderer_is_installed(
    new_tab: NewTab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "is_markdown_installed", lambda: False)
    with live(project("*a*\n\nb", calls(("no", {})), "*c*"), ui=True) as server:
        chat = opened(new_tab, server)

        chat.say("Hi")
        chat.sees("*a* b")
        chat.waits_until_answered()

        assert chat.texts()[1:] == ["*a*\n\nb"]


def test_paragraph_that_is_too_long_to_render_is_plain(new_tab: NewTab) -> None:
    with live(project("**b**\n\n" + "*a* " * 20_000), ui=True) as server:
        chat = opened(new_tab, server)

        chat.say("Hi")
        chat.waits_until_answered()
        chat.answers.locator("strong").wait_for()

        assert chat.texts()[1] == "b" + "*a* " * 20_000


def test_long_answer_is_rendered_in_sections(new_tab: NewTab) -> None:
    count = 6_000
    long = "\n\n".join(f"**{number}** is a number" for number in range(count))
    with live(project(answer(long, chunk_size=1_000)), ui=True) as server:
        chat = opened(new_tab, server)
        sizes: list[int] = []

        def note(request: "Request") -> None:
            if request.url.endswith("/markdown"):
                sizes.append(len(json.loads(request.post_data or "")["texts"][0]))

        chat.page.on("request", note)
        for _ in range(2):  # as it arrives, and from the session
            chat.say("Count") if not sizes else chat.page.reload()
            chat.answers.locator("strong", has_text=str(count - 1)).wait_for()
            chat.waits_until_answered()
            texts = chat.answers.locator("strong").all_text_contents()
            assert texts == [str(number) for number in range(count)]
        assert max(sizes) <= 20_000
        assert len(long) > 120_000


def test_long_plain_text_is_laid_out_in_pieces(new_tab: NewTab) -> None:
    lines = "".join(f"line {number}\n" for number in range(20_000))
    with live(project(answer(lines, chunk_size=1_000)), ui=True) as server:
        chat = opened(new_tab, server)

        chat.say("Count")
        chat.answers.get_by_text("line 19999").wait_for()
        chat.waits_until_answered()

        boxes = chat.answers.locator(".plain > p")
        assert max(map(len, boxes.all_text_contents())) < 5_100  # with one more piece
        assert chat.texts()[1] == lines
        assert edges(boxes.nth(1))[0] == edges(boxes.nth(0))[1]  # no empty line


def edges(box: "Locator") -> tuple[float, float]:
    """Return the top and the bottom of a box."""
    place = box.bounding_box()
    assert place is not None
    return place["y"], place["y"] + place["height"]
