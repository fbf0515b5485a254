"""The chat page for everyone: keyboard, screen reader, phone, light and dark."""

import socket
from typing import TYPE_CHECKING

import pytest
from fastapi import FastAPI

from browser import NewTab
from chat_page import PHONE, Chat, add, opened, pay
from live_server import Live, live, on_loop, project, served
from pathors_agent.cli.demo_tools import demo_tools
from pathors_agent.server import create_app, make_key
from pathors_agent.stores import MemoryStore
from pathors_agent.testing import answer, calls, http_error

if TYPE_CHECKING:
    pass


pytestmark = pytest.mark.slow


def test_all_is_done_by_keyboard(new_tab: NewTab) -> None:
    with live(project(calls(("pay", {"amount": 5})), "Paid.", tools=[pay]), ui=True) as server:
        page = new_tab(server.url)
        page.goto(f"{server.url}/")
        chat, keys = Chat(page, server), page.keyboard

        keys.type(server.key)
        keys.press("Enter")
        chat.box.wait_for()
        keys.type("Pay 5")
        keys.press("Shift+Enter")
        keys.type("please")
        keys.press("Enter")
        chat.button("Approve").wait_for()
        names = []
        for _ in range(5):
            keys.press("Shift+Tab")
            names.append(page.evaluate("document.activeElement.textContent"))
            outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline == "solid"
        assert names[0] == "Regenerate"
        assert names[1:4] == ["Change the arguments, or say why not", "Deny", "Approve"]
        keys.press("Tab")
        keys.press("Enter")
        chat.sees("Paid.")

        assert chat.texts()[0] == "Pay 5\nplease"
        assert page.evaluate("document.activeElement.id") == "prompt"


def test_screen_reader_hears_each_answer_once(new_tab: NewTab) -> None:
    script = [calls(("add", {"a": 1, "b": 2})), answer("It is 3, I am sure.", chunk_size=1)]
    with live(project(*script, tools=[add]), ui=True) as server:
        chat = opened(new_tab, server)
        chat.say("What is 1 + 2?")
        chat.sees("It is 3, I am sure.")
        chat.waits_until_answered()

        log = chat.page.get_by_role("log", name="Announcements")
        assert log.get_attribute("aria-live") == "polite"
        assert log.locator("p").all_text_contents() == [
            "Calls the tool add",
            "add: done",
            "Assistant: It is 3, I am sure.",
        ]
        assert chat.page.locator("[aria-live]").count() == 1


def test_everything_has_a_name_and_a_landmark(new_tab: NewTab) -> None:
    with live(project(calls(("pay", {"amount": 5})), tools=[pay]), ui=True) as server:
        chat = opened(new_tab, server)
        chat.say("Pay")
        chat.button("Approve").wait_for()

        page = chat.page
        assert page.get_by_role("main").count() == 1
        assert page.get_by_role("navigation", name="Sessions").count() == 1
        assert page.get_by_role("group", name="Approve pay?").count() == 1
        nameless = page.evaluate(
            "[...document.querySelectorAll('button, input, textarea, summary')].filter(e =>"
            " !(e.ariaLabel || e.textContent.trim() || e.labels?.length)).map(e => e.outerHTML)"
        )
        assert nameless == []


# The contrast of each visible text with what is behind it, by the formula of WCAG 2.
TOO_FAINT = """
() => {
  const parse = (text) => {
    const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number);
    return { r, g, b, a };
  };
  const part = (v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
  const light = ({ r, g, b }) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const found = parse(getComputedStyle(e).backgroundColor);
      if (found.a === 1) return found;
    }
    return null;
  };
  const faint = [];
  for (const e of document.querySelectorAll("body *")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!own && e.localName !== "textarea" && e.localName !== "input") continue;
    if (!e.checkVisibility({ visibilityProperty: true }) || e.closest(".unseen, .skip")) continue;
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) faint.push(`${e.localName}.${e.className} ${e.textContent.slice(0, 20)} ${ratio}`);
  }
  return faint;
}
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_contrast(new_tab: NewTab, scheme: str) -> None:
    script = [
        calls(("add", {"a": 1, "b": 2})),
        "It is 3.",
        answer("May I?", calls=[("pay", {"amount": 5})]),
        http_error(500, "down"),
    ]
    with live(project(*script, tools=[add, pay]), ui=True) as server:
        page = new_tab(server.url, color_scheme=scheme, expected_errors=1)
        page.goto(f"{server.url}/")
        assert page.evaluate(TOO_FAINT) == []
        chat = Chat(page, server).sign_in()
        chat.say("What is 1 + 2?")
        chat.sees("It is 3.")
        chat.waits_until_answered()
        chat.say("Pay")
        chat.page.get_by_text("Change the arguments, or say why not").click()
        assert page.evaluate(TOO_FAINT) == []
        chat.button("Deny").click()
        chat.button("Send again").wait_for()
        assert page.evaluate(TOO_FAINT) == []
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert paper == {"light": "rgb(250, 249, 246)", "dark": "rgb(22, 24, 26)"}[scheme]


def test_phone_shows_all_of_the_page(new_tab: NewTab) -> None:
    script = [calls(("add", {"a": 1, "b": 2})), "It is 3.", "Other."]
    with live(project(*script, tools=[add]), ui=True) as server:
        chat = opened(new_tab, server, viewport=PHONE, has_touch=True)
        chat.say("What is 1 + 2?")
        chat.sees("It is 3.")
        chat.waits_until_answered()

        assert not chat.page.get_by_label("Search sessions").is_visible()
        chat.button("Show the list of sessions").click()
        chat.button("New session").click()
        chat.say("Else")
        chat.sees("Other.")
        assert chat.page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
        assert chat.box.bounding_box()["x"] >= 0  # type: ignore[index]


def test_page_works_below_a_prefix(new_tab: NewTab) -> None:
    key, stored = make_key("demo")
    store = MemoryStore()
    inner = create_app([project("Hello.", tools=demo_tools())], store, ui=True)
    outer = FastAPI()
    outer.mount("/agents", inner)
    outer.state.runtime = inner.state.runtime
    with socket.create_server(("127.0.0.1", 0)) as listener, served(outer, listener):
        on_loop(outer, store.add_key(stored))
        server = Live(outer, store, listener.getsockname()[1], key)
        page = new_tab(server.url)
        page.goto(f"{server.url}/agents")
        chat = Chat(page, server).sign_in()

        chat.say("Hi")
        chat.sees("Hello.")
        server.client.close()


@pytest.mark.parametrize("mark", [{"isComposing": True}, {"keyCode": 229}], ids=["usual", "Safari"])
def test_enter_that_ends_a_composition_sends_nothing(
    new_tab: NewTab, mark: dict[str, object]
) -> None:
    press = """([box, mark]) => box.dispatchEvent(
        new KeyboardEvent("keydown", {key: "Enter", bubbles: true, cancelable: true, ...mark}))"""
    with live(project("Hello.", "Again."), ui=True) as server:
        chat = opened(new_tab, server)

        chat.box.fill("Konnichiwa")
        chat.page.evaluate(press, [chat.box.element_handle(), mark])
        assert chat.box.input_value() == "Konnichiwa"
        chat.box.press("Enter")
        chat.sees("Hello.")
        chat.waits_until_answered()

        chat.button("Edit").click()
        editor = chat.conversation.get_by_role("textbox")
        chat.page.evaluate(press, [editor.element_handle(), mark])
        assert editor.is_visible()
        editor.press("Enter")
        chat.sees("Again.")


def test_print_has_the_whole_conversation_and_no_controls(new_tab: NewTab) -> None:
    text = "\n\n".join(f"Paragraph {number}" for number in range(100))
    with live(project(text), ui=True) as server:
        chat = opened(new_tab, server)
        chat.say("Tell")
        chat.sees("Paragraph 99")
        chat.waits_until_answered()

        chat.page.emulate_media(media="print")
        height, shown = chat.page.evaluate(
            "[document.documentElement.scrollHeight, conversation.getBoundingClientRect().height]"
        )

        assert height >= shown > 3_000
        assert not chat.button("Send").is_visible()
        assert not chat.button("New session").is_visible()
        assert not chat.button("Copy").is_visible()
