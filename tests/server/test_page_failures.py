"""The chat page when an answer is stopped, fails, or the key is not valid."""

import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import anyio
import pytest

from browser import NewTab
from chat_page import ASK_PERSON, Chat, HoldingTransport, add, bring_tools, opened
from live_server import live, on_loop, project
from pathors_agent import tool
from pathors_agent.server import Project, ServerSettings, make_key
from pathors_agent.testing import AsyncScriptedTransport, answer, calls, http_error

if TYPE_CHECKING:
    from playwright.sync_api import Route


pytestmark = pytest.mark.slow


def test_stopped_answer_leaves_the_session_as_it_was(new_tab: NewTab) -> None:
    model = HoldingTransport(answer("Once upon a time", chunk_size=4), "The end.")
    with live(Project(id="demo", transport=model), ui=True) as server:
        chat = opened(new_tab, server)

        chat.say("Tell me a story")
        chat.answers.get_by_text("Once").wait_for()
        chat.page.keyboard.press("Escape")
        chat.page.get_by_text("Stopped. This is not part of the session.").wait_for()
        text_in_box = chat.box.input_value()
        chat.box.press("Enter")
        chat.sees("The end.")
        chat.waits_until_answered()

        assert text_in_box == "Tell me a story"
        assert model.cancelled
        assert chat.texts() == ["Tell me a story", "The end."]
        stored = server.stored(chat.session_id())
        assert [m["content"] for m in stored] == ["Tell me a story", "The end."]


def test_escape_that_clears_the_search_stops_nothing(new_tab: NewTab) -> None:
    model = HoldingTransport(answer("Once upon a time", chunk_size=4))
    with live(Project(id="demo", transport=model), ui=True) as server:
        chat = opened(new_tab, server)
        chat.say("Tell me a story")
        chat.answers.get_by_text("Once").wait_for()
        search = chat.page.get_by_label("Search sessions")

        search.fill("cats")
        search.press("Escape")
        assert search.input_value() == ""
        assert chat.button("Stop the answer").is_visible()
        search.press("Escape")
        chat.hears("Stopped")


def test_stopped_answer_to_an_approval_asks_again_and_repeats_no_begun_call(
    new_tab: NewTab,
) -> None:
    started: list[int] = []

    @tool(approve=True)
    async def ship() -> AsyncIterator[str]:
        """Ship it."""
        started.append(1)
        yield "loading"
        yield "leaving"
        await anyio.sleep_forever()

    with live(project(calls(("ship", {})), "All shipped.", tools=[ship]), ui=True) as server:
        chat = opened(new_tab, server)

        chat.say("Ship it")
        chat.button("Approve").click()
        chat.card("ship").get_by_text("loading").wait_for()
        chat.button("Stop the answer").click()
        chat.button("Approve").wait_for()
        parts = chat.card("ship").locator(".part").count()
        chat.button("Approve").click()
        chat.sees("All shipped.")

        assert parts == 1  # the arguments
        assert started == [1]  # the model reads that the outcome of the begun call is unknown


def test_lost_answer_is_sent_again_and_doubles_nothing(new_tab: NewTab) -> None:
    model = AsyncScriptedTransport(calls(("add", {"a": 1, "b": 2})), "It is 3.")
    with live(Project(id="demo", transport=model, tools=[add]), ui=True) as server:
        chat = opened(new_tab, server)

        def lose(route: "Route") -> None:
            route.fetch()
            route.abort("connectionreset")

        chat.page.route("**/chat/completions", lose, times=1)
        chat.say("What is 1 + 2?")
        chat.alert.get_by_text("The connection to the server was lost").wait_for()
        chat.button("Send again").click()
        chat.card("add").get_by_text("done").wait_for()

        assert len(model.requests) == 2
        assert len(server.stored(chat.session_id())) == 4
        assert chat.texts() == ["What is 1 + 2?", "It is 3."]
        assert chat.card("add").locator("pre").all_text_contents() == ['{"a": 1, "b": 2}', "3"]


def test_busy_session_is_reported_and_the_message_is_sent_again(new_tab: NewTab) -> None:
    held = HoldingTransport(answer("Once upon a time", chunk_size=4), "Hello.")
    settings = ServerSettings(session_wait_seconds=0.05)
    with live(Project(id="demo", transport=held), settings=settings, ui=True) as server:
        server.client.post("/sessions", json={"session_id": "busy"})
        chat = opened(new_tab, server, expected_errors=1)
        chat.open("busy")
        chat.page.locator("#session-name", has_text="busy").wait_for()
        body = {"messages": [{"role": "user", "content": "Tell"}], "stream": True}
        other = server.client.stream(
            "POST", "/chat/completions", json=body, headers={"X-Session-ID": "busy"}
        )
        with other as answered:
            pieces = answered.iter_raw()
            next(pieces)
            chat.say("Hi")
            chat.alert.get_by_text("Another request of this session is still running").wait_for()
        while not held.cancelled:
            pass
        chat.button("Send again").click()
        chat.sees("Hello.")


def test_broken_answer_of_a_model_is_reported_in_words(new_tab: NewTab) -> None:
    script = [answer("Half of it is here", chunk_size=4).broken_after(events=3), "All of it."]
    with live(project(*script), ui=True) as server:
        chat = opened(new_tab, server)

        chat.say("Hi")
        chat.alert.get_by_text("The model gave no whole answer").wait_for()
        chat.button("Take back").click()
        assert chat.box.input_value() == "Hi"
        chat.box.press("Enter")
        chat.sees("All of it.")

        assert chat.texts() == ["Hi", "All of it."]


def test_busy_model_says_how_long_to_wait(new_tab: NewTab) -> None:
    script = [http_error(429, "slow down", retry_after=7), "Now."]
    with live(project(*script), ui=True) as server:
        chat = opened(new_tab, server, expected_errors=1)

        chat.say("Hi")
        chat.alert.get_by_text("The server asks to wait 7 s.").wait_for()
        chat.button("Send again").click()
        chat.sees("Now.")


def test_bad_tools_are_reported_with_their_details(new_tab: NewTab) -> None:
    with live(project(), ui=True) as server:
        chat = opened(new_tab, server, expected_errors=1)
        bring_tools(chat, [{"type": "function", "function": {"name": "a b"}}])

        chat.say("Hi")
        chat.alert.get_by_role("listitem").get_by_text("tools[0].function.name").wait_for()

        assert chat.box.input_value() == "Hi"


def test_wrong_key_is_asked_for_again(new_tab: NewTab) -> None:
    with live(project(), ui=True) as server:
        page = new_tab(server.url, expected_errors=1)
        page.goto(f"{server.url}/")
        chat = Chat(page, server).sign_in("sk_wrong")

        page.get_by_text("The server does not know this key.").wait_for()
        chat.sign_in()
        chat.box.wait_for()

        assert "sk_" not in page.url


def test_revoked_key_is_asked_for_and_the_text_kept(new_tab: NewTab) -> None:
    with live(project("Hello."), ui=True) as server:
        chat = opened(new_tab, server, expected_errors=1)
        old = on_loop(server.app, server.store.keys("demo"))[0]
        on_loop(server.app, server.store.revoke_key("demo", old.id))
        key, stored = make_key("demo")
        on_loop(server.app, server.store.add_key(stored))
        while server.client.get("/sessions").status_code != 401:
            pass  # a key may be remembered for a second

        chat.say("Hi")
        chat.page.get_by_text("The key is no longer valid").wait_for()
        chat.sign_in(key)
        chat.box.press("Enter")
        chat.sees("Hello.")


def test_reload_keeps_key_session_and_draft(new_tab: NewTab) -> None:
    with live(project("Hello.", "Again."), ui=True) as server:
        chat = opened(new_tab, server)
        chat.say("Hi")
        chat.sees("Hello.")
        chat.waits_until_answered()
        session = chat.session_id()

        chat.box.fill("Half a though")
        chat.page.reload()
        chat.sees("Hello.")

        assert chat.session_id() == session
        assert chat.box.input_value() == "Half a though"
        chat.say("Go on")
        chat.sees("Again.")
        chat.waits_until_answered()
        assert len(server.stored(session)) == 4


def test_second_tab_shares_the_key_and_starts_a_session_of_its_own(new_tab: NewTab) -> None:
    with live(project("Hello.", "There."), ui=True) as server:
        chat = opened(new_tab, server)
        chat.say("Hi")
        chat.sees("Hello.")
        chat.waits_until_answered()
        other = Chat(chat.page.context.new_page(), server)
        other.page.goto(f"{server.url}/")

        other.say("Who is there?")
        other.sees("There.")
        other.waits_until_answered()

        assert other.session_id() != chat.session_id()


def test_signing_in_and_out_reaches_every_tab(new_tab: NewTab) -> None:
    with live(project("Hello."), ui=True) as server:
        page = new_tab(server.url)
        page.goto(f"{server.url}/")
        chat, other = Chat(page, server), Chat(page.context.new_page(), server)
        other.page.goto(f"{server.url}/")
        other.page.get_by_label("Key", exact=True).wait_for()

        chat.sign_in()
        other.say("Hi")
        other.sees("Hello.")
        other.button("Sign out").click()
        page.get_by_label("Key", exact=True).wait_for()

        assert page.get_by_label("Key", exact=True).input_value() == ""
        assert page.evaluate("JSON.stringify([localStorage, sessionStorage])") == "[{},{}]"


def test_sign_in_form_says_where_keys_come_from(new_tab: NewTab) -> None:
    with live(project(), ui=True) as server:
        page = new_tab(server.url)
        page.goto(f"{server.url}/")
        key = page.get_by_label("Key", exact=True)

        key.wait_for()
        hint = "#" + (key.get_attribute("aria-describedby") or "").split()[0]

        assert "pathors-agent keys create --project NAME" in page.locator(hint).inner_text()
        assert page.locator("form#sign-in-form input").count() == 1


@pytest.mark.parametrize(
    ("status", "body", "headers", "text"),
    [
        (503, '{"error": "asleep"}', {"Retry-After": "7"}, "asleep"),
        (502, '{"error": {"code": 502}}', {}, "The server answered with status 502"),
        (429, '{"error": {"message": ["no"], "details": "x"}}', {}, "The server answered with status 429"),
        (500, '{"error": null}', {}, "The server answered with status 500"),
        (504, "<h1>Gateway Time-out</h1>", {}, "The server answered with status 504"),
    ],
)  # fmt: skip
def test_error_of_a_proxy_is_reported_in_words(
    new_tab: NewTab, status: int, body: str, headers: dict[str, str], text: str
) -> None:
    with live(project("Hello."), ui=True) as server:
        chat = opened(new_tab, server, expected_errors=1)

        def refuse(route: "Route") -> None:
            route.fulfill(status=status, body=body, headers=headers)

        chat.page.route("**/chat/completions", refuse, times=1)
        chat.say("Hi")
        chat.alert.get_by_text(text, exact=True).wait_for()
        waits = chat.alert.get_by_text("The server asks to wait 7 s.").count()
        chat.button("Send again").click()
        chat.sees("Hello.")

        assert waits == len(headers)


def test_time_to_wait_may_be_a_date(new_tab: NewTab) -> None:
    with live(project("Hello."), ui=True) as server:
        chat = opened(new_tab, server, expected_errors=1)

        def refuse(route: "Route") -> None:
            route.fulfill(status=503, headers={"Retry-After": "Fri, 31 Dec 2100 23:59:59 GMT"})

        chat.page.route("**/chat/completions", refuse, times=1)
        chat.say("Hi")
        chat.alert.get_by_text(re.compile(r"The server asks to wait \d{9,} s\.")).wait_for()
        chat.button("Send again").click()
        chat.sees("Hello.")


def test_key_is_not_asked_for_again_when_the_server_is_away(new_tab: NewTab) -> None:
    with live(project("Hello."), ui=True) as server:
        chat = opened(new_tab, server, expected_errors=1)

        def refuse(route: "Route") -> None:
            route.fulfill(status=503)

        chat.page.route("**/page/account", refuse, times=1)
        chat.page.reload()
        chat.page.get_by_text("The server answered with status 503.").wait_for()
        chat.button("Open").click()
        chat.say("Hi")
        chat.sees("Hello.")


def test_unsent_message_is_put_back_when_another_session_is_opened(new_tab: NewTab) -> None:
    script = answer("Once upon a time", chunk_size=4), "The end."
    with live(Project(id="demo", transport=HoldingTransport(*script)), ui=True) as server:
        chat = opened(new_tab, server, expected_errors=1)

        chat.say("Tell me a story")
        chat.answers.get_by_text("Once").wait_for()
        chat.button("New session").click()
        begun = chat.box.input_value()
        chat.box.press("Enter")
        chat.sees("The end.")
        chat.waits_until_answered()
        told = chat.session_id()
        chat.button("New session").click()

        def refuse(route: "Route") -> None:
            route.fulfill(status=503)

        chat.page.route("**/chat/completions", refuse, times=1)
        chat.say("Another one")
        chat.button("Send again").wait_for()
        chat.open(told)
        chat.sees("The end.")
        failed = chat.box.input_value()
        chat.button("Sign out").click()
        chat.sign_in()
        chat.box.wait_for()

        assert (begun, failed) == ("Tell me a story", "Another one")
        assert chat.box.input_value() == ""


def test_message_whose_answer_was_lost_is_not_put_back_if_it_is_stored(new_tab: NewTab) -> None:
    with live(project("Hello.", "Stored."), ui=True) as server:
        chat = opened(new_tab, server)
        chat.say("Hi")
        chat.sees("Hello.")
        chat.waits_until_answered()

        def lose(route: "Route") -> None:
            route.fetch()
            route.abort("connectionreset")

        chat.page.route("**/chat/completions", lose, times=1)
        chat.say("Go on")
        chat.button("Show the session as it is stored").click()
        chat.sees("Stored.")
        shown = chat.box.input_value()
        chat.page.reload()
        chat.sees("Stored.")

        assert (shown, chat.box.input_value()) == ("", "")


def test_page_works_where_storage_is_forbidden(new_tab: NewTab) -> None:
    forbid = """for (const name of ["localStorage", "sessionStorage"])
        Object.defineProperty(window, name, {get() { throw new DOMException("no", "SecurityError"); }});"""
    script = calls(("ask_person", {"question": "Why?"}))
    with live(project("Hello.", script), ui=True) as server:
        page = new_tab(server.url)
        page.add_init_script(forbid)
        page.goto(f"{server.url}/")
        chat = Chat(page, server).sign_in()

        chat.say("Hi")
        chat.sees("Hello.")
        page.locator("#sessions [aria-current]").wait_for()
        bring_tools(chat, ASK_PERSON)
        chat.say("Ask me")

        page.get_by_label("What does ask_person give?").wait_for()
