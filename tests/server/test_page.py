"""The chat page in a real browser, against a real server: what a person sees and can do."""

import json
import socket
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import anyio
import httpx2
import pytest
from fastapi import FastAPI

from browser import NewTab
from live_server import Live, live, on_loop, served
from pathors_agent import AsyncResponse, Request, tool
from pathors_agent.cli.demo_tools import demo_tools
from pathors_agent.server import Project, ServerSettings, create_app, make_key
from pathors_agent.stores import MemoryStore
from pathors_agent.testing import AsyncScriptedTransport, answer, calls, http_error

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page, Route

pytestmark = pytest.mark.slow

PHONE = {"width": 360, "height": 740}

ASK_PERSON = [
    {
        "type": "function",
        "function": {
            "name": "ask_person",
            "parameters": {"type": "object", "properties": {"question": {"type": "string"}}},
        },
    }
]


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool(approve=True)
def pay(amount: int, to: str = "Ana") -> str:
    """Pay an amount."""
    return f"{to} got {amount}."


def project(*script: Any, **settings: Any) -> Project:
    return Project(id="demo", transport=AsyncScriptedTransport(*script), **settings)


class HoldingTransport(AsyncScriptedTransport):
    """Plays its script, but never ends the first answer; `cancelled` tells that it was given up."""

    cancelled = False

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncIterator[AsyncResponse]:
        async with super().send(request) as response:
            is_held = len(self.requests) == 1
            pieces = self._held(response.pieces) if is_held else response.pieces
            yield AsyncResponse(status=200, headers=response.headers, pieces=pieces)

    async def _held(self, pieces: AsyncIterable[bytes]) -> AsyncGenerator[bytes]:
        left = 3
        async for piece in pieces:
            yield piece
            left -= 1
            if not left:
                break
        try:
            await anyio.sleep_forever()
        finally:
            self.cancelled = True


class Chat:
    """The page as a person uses it."""

    def __init__(self, page: "Page", server: Live) -> None:
        self.page = page
        self.server = server
        self.box = page.get_by_role("textbox", name="Message", exact=True)
        self.conversation = page.get_by_role("list", name="Conversation")
        self.answers = self.conversation.locator(".assistant")
        self.alert = self.conversation.get_by_role("alert")

    def sign_in(self, key: str | None = None) -> "Chat":
        self.page.get_by_label("Project").fill(self.server.project)
        self.page.get_by_label("Key", exact=True).fill(key or self.server.key)
        self.button("Open").click()
        return self

    def say(self, text: str) -> None:
        self.box.fill(text)
        self.box.press("Enter")

    def button(self, name: str) -> "Locator":
        return self.page.get_by_role("button", name=name, exact=True)

    def card(self, name: str) -> "Locator":
        return self.conversation.locator("details.tool").filter(has_text=name).last

    def sees(self, text: str) -> None:
        self.conversation.get_by_text(text, exact=True).last.wait_for()

    def waits_until_answered(self) -> None:
        self.button("Send").wait_for()

    def texts(self) -> list[str]:
        return self.conversation.locator(".text").all_text_contents()

    def session_id(self) -> str:
        return self.page.locator("#session-name").inner_text()


def opened(new_tab: NewTab, server: Live, **options: Any) -> Chat:
    """Open the page and sign in."""
    page = new_tab(server.url, **options)
    page.goto(f"{server.url}/")
    chat = Chat(page, server).sign_in()
    chat.box.wait_for()
    return chat


def bring_tools(chat: Chat, tools: Any) -> None:
    chat.button("Your tools").click()
    chat.page.get_by_label("Your tools, a JSON list").fill(json.dumps(tools))
    chat.button("Keep").click()


# - how it is served -


def test_page_lets_nothing_in_from_elsewhere() -> None:
    with live(project(), ui=True) as server:
        answered = httpx2.get(f"{server.url}/", trust_env=False)

        policy = answered.headers["content-security-policy"].split("; ")
        assert "default-src 'none'" in policy
        assert "script-src 'self'" in policy
        assert "connect-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert answered.headers["x-content-type-options"] == "nosniff"
        assert answered.headers["referrer-policy"] == "no-referrer"
        assert answered.headers["content-type"] == "text/html; charset=utf-8"


def test_unchanged_file_is_not_sent_twice() -> None:
    with live(project(), ui=True) as server:
        url = f"{server.url}/static/main.js"
        first = httpx2.get(url, trust_env=False)
        again = httpx2.get(url, headers={"If-None-Match": first.headers["etag"]}, trust_env=False)

        assert first.headers["content-type"] == "text/javascript; charset=utf-8"
        assert (again.status_code, again.content) == (304, b"")


def test_page_is_absent_unless_asked_for() -> None:
    with live(project()) as server:
        assert httpx2.get(f"{server.url}/", trust_env=False).status_code == 404


def test_scripts_make_no_markup_of_texts() -> None:
    folder = files("pathors_agent.server") / "static"
    scripts = [file for file in folder.iterdir() if file.name.endswith(".js")]

    assert len(scripts) > 5
    for script in scripts:
        for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert way not in script.read_text(), script.name


# - a conversation -


def test_answer_and_tools_are_shown_as_they_come(new_tab: NewTab) -> None:
    script = [answer("Let me see.", calls=[("add", {"a": 1, "b": 2})]), "It is 3.\nReally."]
    with live(project(*script, tools=[add]), ui=True) as server:
        chat = opened(new_tab, server)

        chat.say("What is 1 + 2?")
        chat.sees("It is 3.\nReally.")
        chat.waits_until_answered()

        assert chat.texts() == ["What is 1 + 2?", "Let me see.", "It is 3.\nReally."]
        assert chat.card("add").locator("pre").all_text_contents() == ['{"a": 1, "b": 2}', "3"]
        assert chat.card("add").locator(".state").inner_text() == "done"
        order = chat.answers.locator(".body > *").evaluate_all("all => all.map(e => e.localName)")
        assert order == ["p", "details", "p"]


def test_tool_that_runs_shows_its_arguments_before_its_result(new_tab: NewTab) -> None:
    may_end = anyio.Event()

    @tool
    async def wait(hours: int) -> AsyncIterator[str]:
        """Wait."""
        yield "half way"
        yield "almost"
        await may_end.wait()
        yield "over"

    with live(project(calls(("wait", {"hours": 2})), "Over.", tools=[wait]), ui=True) as server:
        chat = opened(new_tab, server)

        chat.say("Wait")
        chat.card("wait").get_by_text("half way").wait_for()
        state = chat.card("wait").locator(".state").inner_text()
        shown = chat.card("wait").locator("pre").all_text_contents()
        on_loop(server.app, set_event(may_end))
        chat.sees("Over.")

        assert state == "running"
        assert shown[:2] == ['{"hours": 2}', "half way"]
        assert "over" in chat.card("wait").locator("pre").all_text_contents()


async def set_event(event: anyio.Event) -> None:
    event.set()


def test_second_message_goes_on_with_the_session(new_tab: NewTab) -> None:
    with live(project("Hello.", "Still here."), ui=True) as server:
        chat = opened(new_tab, server)

        chat.say("Hi")
        chat.sees("Hello.")
        chat.waits_until_answered()
        chat.say("And now?")
        chat.sees("Still here.")
        chat.waits_until_answered()

        stored = server.stored(chat.session_id())
        assert [m["content"] for m in stored] == ["Hi", "Hello.", "And now?", "Still here."]


def test_long_number_in_arguments_is_shown_digit_by_digit(new_tab: NewTab) -> None:
    given = '{"amount": 12345678901234567890, "to": "' + "a" * 60 + '"}'
    with live(project(calls(("pay", given)), tools=[pay]), ui=True) as server:
        chat = opened(new_tab, server)

        chat.say("Pay")
        chat.button("Approve").wait_for()

        shown = chat.card("pay").locator("pre").first.inner_text().split("\n")
        assert shown[:2] == ["{", '  "amount": 12345678901234567890,']


# - a person answers calls -


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


# - stop, errors, reload -


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


def test_session_in_use_is_told_and_the_message_sent_again(new_tab: NewTab) -> None:
    held = HoldingTransport(answer("Once upon a time", chunk_size=4), "Hello.")
    settings = ServerSettings(session_wait_seconds=0.05)
    with live(Project(id="demo", transport=held), settings=settings, ui=True) as server:
        server.client.post("/sessions", json={"session_id": "busy"})
        chat = opened(new_tab, server, expected_errors=1)
        chat.page.get_by_role("button", name="busy").click()
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


def test_model_that_breaks_off_is_told_in_words(new_tab: NewTab) -> None:
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


def test_bad_tools_are_told_with_their_details(new_tab: NewTab) -> None:
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

        page.get_by_text("This project does not know this key.").wait_for()
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
        chat.page.get_by_text("The key is not taken any longer").wait_for()
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


def test_other_tab_knows_no_key(new_tab: NewTab) -> None:
    with live(project(), ui=True) as server:
        chat = opened(new_tab, server)
        other = chat.page.context.new_page()
        other.goto(f"{server.url}/")

        other.get_by_label("Key", exact=True).wait_for()
        assert other.get_by_label("Key", exact=True).input_value() == ""


# - sessions -


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


# - hostile texts -

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
        chat.page.get_by_role("button", name=session).click()
        chat.page.get_by_label("What does ask_person give?").fill(HOSTILE)
        chat.button("Give the result").click()
        chat.answers.nth(1).locator(".text").wait_for()
        chat.waits_until_answered()
        chat.page.reload()
        chat.answers.first.locator(".text").nth(1).wait_for()

        assert chat.texts() == [HOSTILE, HOSTILE, HOSTILE]
        assert chat.page.evaluate("window.ran") is None
        assert chat.conversation.locator("a, img, script, iframe, style, link, svg").count() == 0
        assert chat.page.evaluate("document.documentElement.scrollWidth") == viewport["width"]
        too_wide = "(e => e.scrollWidth - e.clientWidth)(document.getElementById('scroller'))"
        assert chat.page.evaluate(too_wide) == 0
        shown = chat.card("ask_person").locator("pre").first.text_content() or ""
        assert "\\u202eevil\\u202c" in shown
        assert "\u202e" not in shown


# - for everyone -


def test_all_is_done_by_keyboard(new_tab: NewTab) -> None:
    with live(project(calls(("pay", {"amount": 5})), "Paid.", tools=[pay]), ui=True) as server:
        page = new_tab(server.url)
        page.goto(f"{server.url}/")
        chat, keys = Chat(page, server), page.keyboard

        keys.type("demo")
        keys.press("Tab")
        keys.type(server.key)
        keys.press("Enter")
        chat.box.wait_for()
        keys.type("Pay 5")
        keys.press("Shift+Enter")
        keys.type("please")
        keys.press("Enter")
        chat.button("Approve").wait_for()
        names = []
        for _ in range(4):
            keys.press("Shift+Tab")
            names.append(page.evaluate("document.activeElement.textContent"))
            outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline == "solid"
        assert names[:3] == ["Change the arguments, or say why not", "Deny", "Approve"]
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


# - the parts -


def test_events_are_read_by_the_standard(new_tab: NewTab) -> None:
    stream = (
        "\ufeff: ping\n\ndata: a é 漢\r\ndata:b\r\rid: 1\ndata:  c\n\n"
        "data\n\nevent: x\n\ndata: lost"
    )
    with live(project(), ui=True) as server:
        chat = opened(new_tab, server)
        for size in (1, 3, 7, 10_000):
            read = chat.page.evaluate(
                """async ([bytes, size]) => {
                    const { eventData } = await import("./static/event_stream.js");
                    const all = Uint8Array.from(bytes);
                    const body = new ReadableStream({ start(c) {
                        for (let i = 0; i < all.length; i += size) c.enqueue(all.slice(i, i + size));
                        c.close();
                    }});
                    return Array.fromAsync(eventData(body));
                }""",
                [list(stream.encode()), size],
            )

            assert read == ["a é 漢\nb", " c", ""]
