"""Hostile texts on the chat page, in a real browser."""

from typing import TYPE_CHECKING

import pytest

from browser import NewTab
from chat_page import ASK_PERSON, PHONE, opened
from live_server import live, project
from pathors_agent.testing import answer

if TYPE_CHECKING:
    pass


pytestmark = pytest.mark.slow


HOSTILE = "\n".join(
    [
        "<script>window.ran = 1</script>",
        "<img src=x onerror='window.ran = 2'>",
        '"><svg onload=window.ran=3>',
        "<iframe srcdoc='<script>parent.ran = 4</script>'></iframe>",
        "[click](javascript:window.ran=5) ![x](https://evil.example/pixel.png)",
        "<a href='https://evil.example/'>x</a> <style>*{display:none}</style>",
        "<link rel=stylesheet href=https://evil.example/x.css> <base href=https://evil.example/>",
        "]]> --> </p></li></main> &lt;b&gt; ${window.ran=6} {{window.ran=7}}",
        "\u202eevil\u202c \u2066isolated\u2069 \u200f",
        "W" * 20_000,
    ]
)

# All but the image, which becomes a link, and the entities.
AS_WRITTEN = [line for line in HOSTILE.split("\n") if "pixel" not in line and "&lt;" not in line]


@pytest.mark.parametrize("viewport", [PHONE, {"width": 1280, "height": 800}])
def test_hostile_texts_are_shown_as_they_are_and_run_nothing(
    new_tab: NewTab, viewport: dict[str, int]
) -> None:
    script = [answer(HOSTILE, calls=[("ask_person", {"question": HOSTILE})]), HOSTILE]
    session = "<img/src=x/onerror=window.ran=8>"
    with live(project(*script, "Hello."), ui=True) as server:
        chat = opened(new_tab, server, viewport=viewport)
        server.complete(HOSTILE, session=session, tools=ASK_PERSON)
        chat.page.reload()
        if viewport is PHONE:
            chat.button("Show the list of sessions").click()
        chat.open(session)
        chat.page.get_by_label("What does ask_person give?").fill(HOSTILE)
        chat.button("Give the result").click()
        chat.answers.nth(1).locator(".text").wait_for()
        chat.waits_until_answered()
        chat.page.reload()
        chat.answers.first.locator(".text").nth(1).wait_for()

        chat.answers.locator("a").nth(1).wait_for()
        said, *answers = chat.texts()
        assert said == HOSTILE
        for shown in answers:
            assert [line for line in AS_WRITTEN if line not in shown] == []
        assert chat.page.evaluate("window.ran") is None
        assert chat.conversation.locator("img, script, iframe, style, link, svg").count() == 0
        links = chat.conversation.locator("a").evaluate_all("all => all.map(a => a.outerHTML)")
        assert (
            links
            == [
                '<a href="https://evil.example/pixel.png" target="_blank" rel="noopener noreferrer"'
                ' title="https://evil.example/pixel.png"><bdi>x</bdi><span class="place">'
                ' (<bdi>evil.example</bdi>)</span><span class="unseen"> opens in a new tab</span></a>'
            ]
            * 2
        )
        assert chat.page.evaluate("document.documentElement.scrollWidth") == viewport["width"]
        too_wide = "(e => e.scrollWidth - e.clientWidth)(document.getElementById('scroller'))"
        assert chat.page.evaluate(too_wide) == 0
        shown = chat.card("ask_person").locator("pre").first.text_content() or ""
        assert "\\u202eevil\\u202c" in shown
        assert "\u202e" not in shown
