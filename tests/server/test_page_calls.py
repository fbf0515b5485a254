"""Calls on the chat page that a person approves, or answers."""

import json
from typing import TYPE_CHECKING

import pytest

from browser import NewTab
from chat_page import ASK_PERSON, add, bring_tools, opened, pay
from live_server import live, project
from pathors_agent.testing import answer, calls

if TYPE_CHECKING:
    pass


pytestmark = pytest.mark.slow


def test_result_of_client_tool_is_sent(new_tab: NewTab) -> None:
    script = [calls(("ask_person", {"question": "Which day?"})), "Monday it is."]
    with live(project(*script), ui=True) as server:
        chat = opened(new_tab, server)
        bring_tools(chat, ASK_PERSON)

        chat.say("Plan it")
        chat.page.get_by_label("What does ask_person give?").fill("Monday")
        chat.button("Give the result").click()
        chat.sees("Monday it is.")
        chat.waits_until_answered()

        stored = server.stored(chat.session_id())
        assert (stored[2]["tool_call_id"], stored[2]["content"]) == ("call_1", "Monday")
        assert chat.card("ask_person").locator("pre").all_text_contents()[1:] == ["Monday"]


def test_approved_call_runs(new_tab: NewTab) -> None:
    with live(project(calls(("pay", {"amount": 5})), "Paid.", tools=[pay]), ui=True) as server:
        chat = opened(new_tab, server)

        chat.say("Pay 5")
        chat.button("Approve").click()
        chat.sees("Paid.")
        chat.waits_until_answered()

        assert chat.card("pay").locator("pre").all_text_contents() == [
            '{"amount": 5}',
            "Ana got 5.",
        ]


def test_approved_call_runs_with_changed_arguments(new_tab: NewTab) -> None:
    with live(project(calls(("pay", {"amount": 5})), "Paid.", tools=[pay]), ui=True) as server:
        chat = opened(new_tab, server)

        chat.say("Pay 5")
        chat.page.get_by_text("Change the arguments, or say why not").click()
        arguments = chat.page.get_by_label("Arguments to run it with")
        arguments.fill("[5]")
        chat.button("Approve").click()
        chat.page.get_by_text("Arguments must be a JSON object.").wait_for()
        arguments.fill('{"amount": 4, "to": "Bo"}')
        chat.button("Approve").click()
        chat.sees("Paid.")
        chat.waits_until_answered()

        assert "Bo got 4." in server.stored(chat.session_id())[2]["content"]


def test_denied_call_does_not_run(new_tab: NewTab) -> None:
    script = [calls(("pay", {"amount": 5})), "Then not."]
    with live(project(*script, tools=[pay]), ui=True) as server:
        chat = opened(new_tab, server)

        chat.say("Pay 5")
        chat.page.get_by_text("Change the arguments, or say why not").click()
        chat.page.get_by_label("Why not, for the assistant to read").fill('Too "much"')
        chat.button("Deny").click()
        chat.sees("Then not.")
        chat.waits_until_answered()

        stored = server.stored(chat.session_id())[2]["content"]
        assert stored == 'Not run: a person said no: Too "much".'
        assert chat.card("pay").locator(".state").inner_text() == "not run"


def test_all_open_calls_are_answered_before_any_is_sent(new_tab: NewTab) -> None:
    both = calls(("pay", {"amount": 5}), ("ask_person", {"question": "Why?"}))
    with live(project(both, "All done.", tools=[pay]), ui=True) as server:
        chat = opened(new_tab, server)
        bring_tools(chat, ASK_PERSON)

        chat.say("Both")
        chat.button("Approve").click()
        chat.page.get_by_label("What does ask_person give?").fill("Because")
        assert chat.button("Send").is_disabled()
        chat.button("Give the result").click()
        chat.sees("All done.")
        chat.waits_until_answered()

        results = {m["content"] for m in server.stored(chat.session_id()) if m["role"] == "tool"}
        assert results == {"Ana got 5.", "Because"}


def test_deep_arguments_are_shown_as_they_are(new_tab: NewTab) -> None:
    deep = '{"a":' + "[" * 30_000 + "]" * 30_000 + "}"
    with live(project(answer(calls=[("add", deep)]), "Done.", tools=[add]), ui=True) as server:
        chat = opened(new_tab, server)

        chat.say("Go")
        chat.sees("Done.")

        shown = chat.card("add").locator("pre").first.text_content() or ""
        assert len(shown) == 50_000
        assert shown == deep[:50_000]


def test_long_arguments_are_shown_on_demand(new_tab: NewTab) -> None:
    long = json.dumps({"to": "Ana" * 20_000, "amount": 5})
    with live(project(answer(calls=[("pay", long)]), tools=[pay]), ui=True) as server:
        chat = opened(new_tab, server)

        chat.say("Pay")
        shown = chat.card("pay").locator("pre")
        chat.button(f"Show all {len(indented(long)):,} characters").click()

        assert shown.text_content() == indented(long)
        assert chat.button("Approve").is_visible()


def indented(text: str) -> str:
    return json.dumps(json.loads(text), indent=2)
