"""The chat page in a real browser: how it is served, a conversation, its parts."""

from collections.abc import AsyncIterator
from importlib.resources import files
from typing import TYPE_CHECKING

import anyio
import httpx2
import pytest

from browser import NewTab
from chat_page import add, opened, pay, set_event
from live_server import live, on_loop, project
from pathors_agent import tool
from pathors_agent.testing import answer, calls

if TYPE_CHECKING:
    pass


pytestmark = pytest.mark.slow


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


@pytest.mark.parametrize("known", ["{}", "W/{}", '"old", {}'], ids=["same", "weak", "list"])
def test_unchanged_file_is_not_sent_twice(known: str) -> None:
    with live(project(), ui=True) as server:
        url = f"{server.url}/static/main.js"
        first = httpx2.get(url, trust_env=False)
        header = {"If-None-Match": known.format(first.headers["etag"])}
        again = httpx2.get(url, headers=header, trust_env=False)

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


def test_answer_and_tools_are_shown_as_they_arrive(new_tab: NewTab) -> None:
    script = [answer("Let me see.", calls=[("add", {"a": 1, "b": 2})]), "It is 3.\nReally."]
    with live(project(*script, tools=[add]), ui=True) as server:
        chat = opened(new_tab, server)

        chat.say("What is 1 + 2?")
        chat.sees("It is 3.\nReally.")
        chat.waits_until_answered()

        assert chat.texts() == ["What is 1 + 2?", "Let me see.", "It is 3.\nReally."]
        assert chat.card("add").locator("pre").all_text_contents() == ['{"a": 1, "b": 2}', "3"]
        assert chat.card("add").locator(".state").inner_text() == "done"
        order = chat.answers.locator(".body > *").evaluate_all("all => all.map(e => e.className)")
        assert order == ["text", "tool", "text", "actions"]


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


def test_second_message_continues_the_session(new_tab: NewTab) -> None:
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
