"""The list of sessions on the chat page."""

from typing import TYPE_CHECKING

import pytest

from browser import NewTab
from chat_page import ASK_PERSON, add, opened, pay, project
from live_server import live
from pathors_agent.testing import calls

if TYPE_CHECKING:
    pass


pytestmark = pytest.mark.slow


def test_earlier_session_is_taken_up_with_its_tools(new_tab: NewTab) -> None:
    script = [calls(("add", {"a": 1, "b": 2})), "It is 3.", "Other.", "Yes, still 3."]
    with live(project(*script, tools=[add]), ui=True) as server:
        server.complete("What is 1 + 2?", session="sums")
        chat = opened(new_tab, server)
        chat.say("Something else")
        chat.sees("Other.")
        chat.waits_until_answered()

        chat.page.get_by_role("button", name="sums").click()
        chat.sees("It is 3.")

        assert chat.texts() == ["What is 1 + 2?", "It is 3."]
        assert chat.card("add").locator("pre").all_text_contents() == ['{"a": 1, "b": 2}', "3"]
        chat.say("Sure?")
        chat.sees("Yes, still 3.")
        chat.waits_until_answered()
        assert len(server.stored("sums")) == 6


def test_open_calls_of_an_earlier_session_are_answered(new_tab: NewTab) -> None:
    both = calls(("pay", {"amount": 5}), ("ask_person", {"question": "Why?"}))
    with live(project(both, "All done.", tools=[pay]), ui=True) as server:
        server.complete("Both", session="open", tools=ASK_PERSON)
        chat = opened(new_tab, server)

        chat.page.get_by_role("button", name="open").click()
        chat.button("Approve").click()
        chat.page.get_by_label("What does ask_person give?").fill("Because")
        chat.button("Give the result").click()
        chat.sees("All done.")


def test_sessions_are_found_by_their_text_and_page_by_page(new_tab: NewTab) -> None:
    with live(project(*["Hello."] * 22), ui=True) as server:
        for number in range(22):
            server.complete(f"Number {number}", session=f"s{number}")
        chat = opened(new_tab, server)
        lines = chat.page.locator("#sessions > li")

        assert lines.count() == 20
        chat.button("Show older ones").click()
        lines.nth(21).wait_for()
        chat.page.get_by_label("Search sessions").fill("Number 21")
        chat.page.get_by_text("1 session", exact=True).wait_for()
        assert lines.count() == 1
        chat.page.get_by_label("Search sessions").fill("nothing like it")
        chat.page.get_by_text("Nothing found").wait_for()


def test_session_is_ended_after_a_confirmation(new_tab: NewTab) -> None:
    with live(project("Hello."), ui=True) as server:
        chat = opened(new_tab, server)
        chat.say("Hi")
        chat.sees("Hello.")
        chat.waits_until_answered()
        session = chat.session_id()

        chat.button("End session").click()
        chat.button("Keep it").click()
        assert len(server.stored(session)) == 2
        chat.button("End session").click()
        chat.page.get_by_role("dialog").get_by_role("button", name="End session").click()
        chat.page.get_by_text("New session", exact=True).last.wait_for()

        assert server.client.get(f"/sessions/{session}").status_code == 404
        assert chat.texts() == []


def test_new_session_begins_anew(new_tab: NewTab) -> None:
    with live(project("Hello.", "Anew."), ui=True) as server:
        chat = opened(new_tab, server)
        chat.say("Hi")
        chat.sees("Hello.")
        chat.waits_until_answered()
        first = chat.session_id()

        chat.button("New session").click()
        chat.say("Hi again")
        chat.sees("Anew.")
        chat.waits_until_answered()

        assert chat.session_id() != first
        assert len(server.stored(chat.session_id())) == 2
