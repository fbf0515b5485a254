"""Pages in a real browser: transcripts in notebooks of several makers, timelines on a phone."""

from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest

from browser import NewTab
from pathors_agent import AssistantMessage, Conversation, ToolCall, ToolMessage, UserMessage
from pathors_agent.telemetry.timeline import Chart, TimedCall, page

if TYPE_CHECKING:
    from playwright.sync_api import Page

LONG_WORD = "nowheretobreakthis" * 20
LONG_TEXT = "It is sunny in Oslo. " * 30

SAID = Conversation(
    [
        UserMessage(content=f"Weather? {LONG_WORD}"),
        AssistantMessage(
            content=LONG_TEXT,
            reasoning=LONG_TEXT,
            tool_calls=(ToolCall(id="c1", name="look", arguments='{"at": "me"}'),),
        ),
        ToolMessage(tool_call_id="c1", content="Too long.", outcome="timeout"),
        UserMessage(content="Again.", feedback=True),
        AssistantMessage(content="Sunny.", refusal="No."),
    ]
)

# What the hosts say of tables in outputs, as far as it can disturb.
HOSTS = {
    "bare": "",
    "jupyterlab": """
        .output table { table-layout: fixed; border-collapse: collapse; font-size: 12px }
        .output td, .output th, .output tr { vertical-align: middle; padding: .5em; max-width: none; text-align: right }
        .output tr:nth-child(odd) { background: #f5f5f5 } .output pre, .output code { white-space: pre-wrap }""",
    "jupyterlab 3": """
        .output table { table-layout: fixed; margin: 0 auto 1em; font-size: 12px; border: none }
        .output td, .output th { white-space: normal; padding: .5em; line-height: normal; text-align: right }""",
    "vscode": """
        .output table { border-collapse: collapse; table-layout: auto } .output th, .output td { padding: 5px 10px; border: 1px solid }
        .output th { text-align: left; font-weight: 600 } .output { font-size: 13px; overflow-x: auto }""",
    "classic": """
        .output table { table-layout: fixed; border-spacing: 0; font-size: 12px; color: black }
        .output th { font-weight: bold } .output td, .output th { padding: .5em; max-width: none; text-align: right }""",
    "large type": ".output { font: 24px/1.5 serif } .output th { font-weight: 900 }",
    "narrow columns": ".output th, .output td { min-width: 0; max-width: 4em }",
}

# How far each word of the first column goes into the second, and each text out of the page.
MEASURE = """
() => {
    const edge = (node, side) => {
        const range = document.createRange();
        range.selectNodeContents(node);
        return range.getBoundingClientRect()[side];
    };
    return [...document.querySelectorAll("tr")].map((row) => {
        const [role, text] = [row.querySelector("th"), row.querySelector("td")];
        return {
            overlap: edge(role, "right") - edge(text, "left"),
            beyond: edge(text, "right") - document.documentElement.clientWidth,
            cut: role.scrollWidth - role.clientWidth,
        };
    });
}
"""


class Sanitized(HTMLParser):
    """Writes HTML again, as JupyterLab does with what it does not trust: without some styles."""

    LOST = ("overflow-wrap", "opacity", "box-sizing")

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=False)
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        style = dict(attrs).get("style") or ""
        kept = ";".join(each for each in style.split(";") if not each.startswith(self.LOST))
        self.text += f'<{tag} style="{kept}">'

    def handle_endtag(self, tag: str) -> None:
        self.text += f"</{tag}>"

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_entityref(self, name: str) -> None:
        self.text += f"&{name};"


def opened(new_tab: NewTab, html: str, width: int) -> "Page":
    tab = new_tab("about:blank", viewport={"width": width, "height": 800})
    tab.set_content(html)
    return tab


@pytest.mark.parametrize("width", [360, 1000])
@pytest.mark.parametrize("is_trusted", [True, False], ids=["trusted", "sanitized"])
@pytest.mark.parametrize("host", HOSTS)
def test_roles_do_not_run_into_the_text(
    new_tab: NewTab, host: str, is_trusted: bool, width: int
) -> None:
    html = SAID._repr_html_()
    shown = html if is_trusted else Sanitized(html).text
    tab = opened(new_tab, f'<style>{HOSTS[host]}</style><div class="output">{shown}</div>', width)

    rows = tab.evaluate(MEASURE)

    assert len(rows) == 8
    assert [row for row in rows if max(row.values()) > 0] == []


# - timelines -

CALLS = [
    TimedCall("model", "gpt-4.1-mini-2025-04-14", "model/0", 0, 2.6, "value", 1.4, ((0.5, 1.1),)),
    TimedCall("tool", "look_up_the_weather_of_tomorrow" * 3, "tool/0/0", 2.6, 3.3, "value"),
    TimedCall("tool", "pay", "tool/0/1", 2.6, 5, "unknown", notes=("in doubt", "taken over")),
    TimedCall("tool", "nope", "tool/0/2", 2.7, 2.7, "not_run"),
    TimedCall("model", "gpt-4.1-mini-2025-04-14", "model/1", 5.1, 205.4, "value", 6.0),
    TimedCall("tool", "slow", "tool/1/0", 205.4, None, "running"),
]
PAGE = page(Chart("Weather in Oslo", "finished", CALLS), Chart(LONG_WORD, "finished", CALLS[:2]))

# What is outside of the page, what is narrower than to be seen, and what lies over another.
LOOK = """
() => {
    const boxes = (selector) => [...document.querySelectorAll(selector)].map((e) => {
        const range = document.createRange();
        range.selectNodeContents(e);
        const box = range.getBoundingClientRect();
        return { text: e.innerText, left: box.left, right: box.right, top: box.top, bottom: box.bottom };
    }).filter((box) => box.text);
    const overlaps = (a, b) =>
        a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1;
    const words = boxes("tbody th, tbody td:not(.lane)");
    const ticks = boxes(".ticks i");
    const over = (all) => all.flatMap((a, i) =>
        all.slice(i + 1).filter((b) => overlaps(a, b)).map((b) => [a.text, b.text]));
    const width = document.documentElement.clientWidth;
    return {
        scrolls: document.documentElement.scrollWidth - width,
        outside: [...words, ...ticks].filter((b) => b.left < 0 || b.right > width + 1).map((b) => b.text),
        over: [...over(words), ...over(ticks)],
        lane: Math.min(...[...document.querySelectorAll("td.lane")].map((e) => e.clientWidth)) / width,
    };
}
"""


@pytest.mark.parametrize("width", [320, 360, 390, 600, 768, 960, 961, 1200])
def test_timeline_reads_at_every_width(new_tab: NewTab, width: int) -> None:
    tab = opened(new_tab, PAGE, width)

    seen = tab.evaluate(LOOK)

    assert (seen["scrolls"], seen["outside"], seen["over"]) == (0, [], [])
    assert seen["lane"] > (0.9 if width <= 960 else 0.35)


def test_timeline_stays_a_table_for_screen_readers_on_a_phone(new_tab: NewTab) -> None:
    tab = opened(new_tab, PAGE, 360)

    assert tab.get_by_role("table").count() == 2
    assert tab.get_by_role("rowheader").count() == len(CALLS) + 2
    row = tab.get_by_role("row", name="pay")
    assert row.get_by_role("cell", name="unknown").count() == 1
