"""What a person does with a turn on the chat page: copy, edit, ask again; and what it shows of it."""

import re

import pytest

from browser import NewTab
from chat_page import Chat, HoldingTransport, add, opened, pay
from live_server import Live, live, project
from pathors_agent import Usage
from pathors_agent.server import Project
from pathors_agent.testing import AsyncScriptedTransport, answer, calls, http_error

pytestmark = pytest.mark.slow


def contents(server: Live, session: str) -> list[object]:
    return [message["content"] for message in server.stored(session)]


def edit(chat: Chat, text: str, new: str) -> None:
    """Replace a message of the user by another."""
    message = chat.conversation.locator("li.user").filter(has_text=text)
    message.get_by_role("button", name="Edit").click()
    box = message.get_by_role("textbox")
    assert box.input_value() == text
    box.fill(new)
    box.press("Enter")


def say_twice(chat: Chat) -> None:
    for text, told in (("One", "First."), ("Two", "Second.")):
        chat.say(text)
        chat.sees(told)
        chat.waits_until_answered()


# - copy -


def test_answer_is_copied_as_it_was_written(new_tab: NewTab) -> None:
    script = [answer("**Let me** see.", calls=[("add", {"a": 1, "b": 2})]), "It is *3*."]
    with live(project(*script, tools=[add]), ui=True) as server:
        chat = opened(new_tab, server, permissions=["clipboard-read", "clipboard-write"])

        chat.say("What is 1 + 2?")
        chat.button("Copy").click()
        chat.hears("Copied")

        copied = chat.page.evaluate("navigator.clipboard.readText()")
        assert copied == "**Let me** see.\n\nIt is *3*."


# - edit -


def test_edited_message_replaces_the_later_messages(new_tab: NewTab) -> None:
    model = AsyncScriptedTransport("First.", "Second.", "Other.")
    with live(Project(id="demo", transport=model), ui=True) as server:
        chat = opened(new_tab, server)
        say_twice(chat)
        session = chat.session_id()

        edit(chat, "Two", "Three")
        chat.sees("Other.")
        chat.waits_until_answered()

        assert chat.session_id() == session
        assert contents(server, session) == ["One", "First.", "Three", "Other."]
        assert chat.texts() == ["One", "First.", "Three", "Other."]


def test_edited_message_after_tool_calls_replaces_the_later_messages(new_tab: NewTab) -> None:
    sums = [calls(("add", {"a": 1, "b": 2})), "It is 3."]
    with live(project(*sums, "Second.", "Other.", tools=[add]), ui=True) as server:
        chat = opened(new_tab, server)
        chat.say("Sum")
        chat.sees("It is 3.")
        chat.waits_until_answered()
        chat.say("Two")
        chat.sees("Second.")
        chat.waits_until_answered()

        edit(chat, "Two", "Three")
        chat.sees("Other.")
        chat.waits_until_answered()

        stored = [message["role"] for message in server.stored(chat.session_id())]
        assert stored == ["user", "assistant", "tool", "assistant", "user", "assistant"]
        assert contents(server, chat.session_id())[4:] == ["Three", "Other."]


def test_edited_first_message_is_answered_in_the_same_session(new_tab: NewTab) -> None:
    with live(project("First.", "Second.", "Other."), ui=True) as server:
        server.client.post("/sessions", json={"session_id": "old", "variables": {"name": "Ana"}})
        chat = opened(new_tab, server)
        chat.open("old")
        chat.page.locator("#session-name", has_text="old").wait_for()
        say_twice(chat)

        edit(chat, "One", "Three")
        chat.sees("Other.")
        chat.waits_until_answered()

        assert chat.texts() == ["Three", "Other."]
        assert chat.session_id() == "old"
        assert contents(server, "old") == ["Three", "Other."]
        data = server.client.get("/sessions/old").json()["data"]
        assert data["variables"] == {"name": "Ana"}


def test_escape_ends_an_edit(new_tab: NewTab) -> None:
    with live(project("First.", "Second."), ui=True) as server:
        chat = opened(new_tab, server)
        say_twice(chat)

        message = chat.conversation.locator("li.user").first
        message.get_by_role("button", name="Edit").press("Enter")
        message.get_by_role("textbox").fill("Other")
        message.get_by_role("textbox").press("Escape")

        assert chat.texts() == ["One", "First.", "Two", "Second."]
        assert message.get_by_role("textbox").count() == 0
        assert chat.page.evaluate("document.activeElement.textContent") == "Edit"


def test_failed_edit_leaves_the_session_as_it_was(new_tab: NewTab) -> None:
    script = ["First.", "Second.", http_error(429, "slow down"), "Third."]
    with live(project(*script), ui=True) as server:
        chat = opened(new_tab, server, expected_errors=1)
        say_twice(chat)

        edit(chat, "Two", "Three")
        chat.button("Take back").click()
        chat.sees("Second.")
        in_box = chat.box.input_value()
        chat.box.press("Enter")
        chat.sees("Third.")
        chat.waits_until_answered()

        assert in_box == "Three"
        assert chat.texts() == ["One", "First.", "Two", "Second.", "Three", "Third."]
        assert contents(server, chat.session_id()) == chat.texts()


# - regenerate -


@pytest.mark.parametrize("turns", [1, 2])
def test_answer_is_asked_for_again(new_tab: NewTab, turns: int) -> None:
    script = ["First.", "Second."][:turns]
    with live(project(*script, "Better."), ui=True) as server:
        chat = opened(new_tab, server)
        for text, told in list(zip(("One", "Two"), script, strict=False)):
            chat.say(text)
            chat.sees(told)
            chat.waits_until_answered()

        chat.button("Regenerate").click()
        chat.sees("Better.")
        chat.waits_until_answered()

        expected = {1: ["One", "Better."], 2: ["One", "First.", "Two", "Better."]}[turns]
        assert chat.texts() == expected
        assert contents(server, chat.session_id()) == expected
        assert chat.button("Regenerate").count() == 1


def test_call_that_waits_is_asked_for_again(new_tab: NewTab) -> None:
    both = [calls(("pay", {"amount": 5})), "I would rather not."]
    with live(project("Hello.", *both, tools=[pay]), ui=True) as server:
        chat = opened(new_tab, server)
        chat.say("Hi")
        chat.sees("Hello.")
        chat.waits_until_answered()
        chat.say("Pay")
        chat.button("Approve").wait_for()

        chat.button("Regenerate").click()
        chat.sees("I would rather not.")
        chat.waits_until_answered()

        assert chat.button("Send").is_enabled()
        assert contents(server, chat.session_id())[2:] == ["Pay", "I would rather not."]


# - what is shown of a turn -


def test_reasoning_is_collapsed(new_tab: NewTab) -> None:
    script = [answer("It is 3.", reasoning="1 + 2\nis <b>3</b>")]
    with live(project(*script), ui=True) as server:
        chat = opened(new_tab, server)

        chat.say("What is 1 + 2?")
        chat.sees("It is 3.")
        chat.waits_until_answered()
        for _ in range(2):
            thoughts = chat.answers.get_by_text("1 + 2 is <b>3</b>")
            assert not thoughts.is_visible()
            chat.answers.get_by_text("Reasoning", exact=True).click()
            assert thoughts.inner_text() == "1 + 2\nis <b>3</b>"
            assert chat.texts() == ["What is 1 + 2?", "It is 3."]
            chat.page.reload()
            chat.sees("It is 3.")


def test_tokens_and_seconds_of_a_turn_are_shown(new_tab: NewTab) -> None:
    used = Usage(prompt_tokens=1_200, completion_tokens=34, total_tokens=1_234)
    script = [answer("Hello.", usage=used)]
    with live(project(*script), ui=True) as server:
        chat = opened(new_tab, server)

        chat.say("Hi")
        chat.waits_until_answered()
        spent = chat.answers.locator(".spent").inner_text()
        chat.page.reload()
        chat.sees("Hello.")

        assert re.fullmatch(r"1,234 tokens · \d+\.\d s", spent)
        assert chat.answers.locator(".spent").inner_text() == "1,234 tokens"


def test_nothing_can_be_done_with_a_turn_while_another_runs(new_tab: NewTab) -> None:
    model = HoldingTransport(answer("Once upon a time", chunk_size=4), "The end.")
    with live(Project(id="demo", transport=model), ui=True) as server:
        chat = opened(new_tab, server)
        chat.say("Tell me a story")
        chat.answers.get_by_text("Once").wait_for()

        assert not chat.button("Edit").is_visible()
        chat.button("Stop the answer").click()
        chat.box.press("Enter")
        chat.sees("The end.")
        chat.waits_until_answered()
        assert chat.button("Edit").is_visible()


@pytest.mark.parametrize("way", ["Regenerate", "Edit"])
def test_turns_of_another_tab_are_shown_before_they_are_replaced(new_tab: NewTab, way: str) -> None:
    with live(project("First.", "Second.", "Better."), ui=True) as server:
        chat = opened(new_tab, server)
        chat.say("One")
        chat.sees("First.")
        chat.waits_until_answered()
        session = chat.session_id()
        server.complete("Two", session=session)

        if way == "Edit":
            edit(chat, "One", "Three")
        else:
            chat.button("Regenerate").click()
        chat.alert.get_by_text("The session went on elsewhere").wait_for()
        assert chat.texts() == ["One", "First.", "Two", "Second."]
        assert contents(server, session) == chat.texts()
        chat.button("Regenerate").click()
        chat.sees("Better.")
        chat.waits_until_answered()

        assert contents(server, session) == ["One", "First.", "Two", "Better."]
