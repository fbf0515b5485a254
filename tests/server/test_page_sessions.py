"""The list of sessions on the chat page."""

from typing import TYPE_CHECKING

import pytest

from browser import NewTab
from chat_page import ASK_PERSON, Chat, add, opened, pay
from live_server import live, project
from pathors_agent.testing import calls

if TYPE_CHECKING:
    from playwright.sync_api import Route


pytestmark = pytest.mark.slow


def test_earlier_session_is_taken_up_with_its_tools(new_tab: NewTab) -> None:
    script = [calls(("add", {"a": 1, "b": 2})), "It is 3.", "Other.", "Yes, still 3."]
    with live(project(*script, tools=[add]), ui=True) as server:
        server.complete("What is 1 + 2?", session="sums")
        chat = opened(new_tab, server)
        chat.say("Something else")
        chat.sees("Other.")
        chat.waits_until_answered()

        chat.open("sums")
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

        chat.open("open")
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

        chat.button("Delete").click()
        chat.button("Keep it").click()
        assert len(server.stored(session)) == 2
        chat.button("Delete").click()
        chat.page.get_by_role("dialog").get_by_role("button", name="Delete session").click()
        chat.page.locator("#session-name", has_text="New session").wait_for()

        assert server.client.get(f"/sessions/{session}").status_code == 404
        assert chat.texts() == []


def test_new_session_begins_empty(new_tab: NewTab) -> None:
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


def titles(chat: Chat) -> list[str]:
    return chat.page.locator(".session-title").all_inner_texts()


def test_session_is_named_by_its_first_words_until_it_is_renamed(new_tab: NewTab) -> None:
    with live(project("Hello."), ui=True) as server:
        chat = opened(new_tab, server)
        chat.say("Plan <b>my</b>\nweek")
        chat.sees("Hello.")
        heading = chat.page.get_by_role("heading", level=1)
        chat.page.get_by_role("heading", name="Plan <b>my</b> week").wait_for()
        assert titles(chat) == ["Plan <b>my</b> week"]

        chat.button("Rename").click()
        field = chat.page.get_by_label("Title")
        assert field.input_value() == "Plan <b>my</b> week"
        field.fill("Week")
        field.press("Enter")
        chat.page.get_by_role("heading", name="Week", exact=True).wait_for()
        assert titles(chat) == ["Week"]
        assert chat.page.title() == "Week · demo"

        chat.page.reload()
        chat.sees("Hello.")
        assert heading.inner_text() == "Week"


def test_title_stays_when_the_first_answer_is_asked_for_again(new_tab: NewTab) -> None:
    with live(project("Hello.", "Good day."), ui=True) as server:
        server.complete("Hi", session="first")
        server.client.patch("/sessions/first", json={"title": "Greetings"})
        chat = opened(new_tab, server)
        chat.open("first")
        chat.sees("Hello.")

        chat.button("Regenerate").click()
        chat.sees("Good day.")
        chat.waits_until_answered()

        assert chat.session_id() == "first"
        assert titles(chat) == ["Greetings"]


def test_deleted_sessions_are_not_listed(new_tab: NewTab) -> None:
    with live(project(*["Hello."] * 22), ui=True) as server:
        for number in range(22):
            server.complete(f"Number {number}", session=f"s{number}")
        for number in range(1, 22):  # more than a page of the list
            body = {"session_id": f"s{number}"}
            server.client.request("DELETE", "/sessions", json=body)
        chat = opened(new_tab, server)

        chat.page.get_by_text("1 session", exact=True).wait_for()

        assert titles(chat) == ["Number 0"]


def test_session_that_arrives_late_does_not_replace_a_newer_one(new_tab: NewTab) -> None:
    with live(project("Old.", "New."), ui=True) as server:
        server.complete("Hi", session="old")
        chat = opened(new_tab, server)
        held: list[Route] = []

        def hold(route: "Route") -> None:
            held.append(route)

        chat.page.route("**/sessions/old", hold)

        with chat.page.expect_request("**/sessions/old"):
            chat.open("old")
        chat.button("New session").click()
        chat.say("Hello")
        chat.sees("New.")
        chat.waits_until_answered()
        with chat.page.expect_response("**/sessions/old"):
            held[0].continue_()
        chat.button("Copy").click()
        chat.hears("Copied")

        assert chat.texts() == ["Hello", "New."]


def test_list_stays_as_long_as_it_was_when_a_turn_ends(new_tab: NewTab) -> None:
    with live(project(*["Hello."] * 43), ui=True) as server:
        for number in range(42):
            server.complete("Hi", session=f"s{number}")
        chat = opened(new_tab, server)
        lines = chat.page.locator("#sessions > li")

        chat.button("Show older ones").click()
        lines.nth(39).wait_for()
        chat.say("Hello")
        chat.page.get_by_text("43 sessions").wait_for()
        assert lines.count() == 40
        chat.button("Show older ones").click()
        lines.nth(42).wait_for()
        assert not chat.button("Show older ones").is_visible()


def test_session_is_listed_once_when_a_new_one_moves_it(new_tab: NewTab) -> None:
    with live(project(*["Hello."] * 22), ui=True) as server:
        for number in range(21):
            server.complete("Hi", session=f"s{number}")
        chat = opened(new_tab, server)
        server.complete("Hi", session="new")

        chat.button("Show older ones").click()
        chat.page.get_by_text("22 sessions").wait_for()

        ids = chat.page.locator("#sessions button").evaluate_all(
            "all => all.map(b => b.dataset.session)"
        )
        assert ids == [f"s{number}" for number in range(20, -1, -1)]
