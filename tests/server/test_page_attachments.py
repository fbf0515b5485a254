"""Images and files into the chat page, and out of it."""

import base64
import json
from typing import Any

import pytest

from browser import NewTab
from chat_page import Chat, opened
from live_server import live, project
from pathors_agent import ContentPart, tool
from pathors_agent.server import Project, ServerSettings
from pathors_agent.testing import AsyncScriptedTransport, answer, calls, http_error, raw

pytestmark = pytest.mark.slow

# One red pixel.
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)
PNG_URL = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
PICTURE = {"name": "red.png", "mimeType": "image/png", "buffer": PNG}
NOTES = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"a < b"}


def attach(chat: Chat, *files: Any) -> None:
    with chat.page.expect_file_chooser() as chooser:
        chat.button("Attach images or files").click()
    chooser.value.set_files(list(files))


def names(chat: Chat) -> list[str]:
    return chat.page.locator("#attachments bdi").all_inner_texts()


# A file as a browser hands it over when it is dropped or pasted.
HAND_OVER = """([selector, kind, field, name, type, bytes, text]) => {
    const data = new DataTransfer();
    data.items.add(new File([Uint8Array.from(bytes)], name, { type }));
    if (text) data.setData("text/plain", text);
    const options = { bubbles: true, cancelable: true, [field]: data };
    const event = field === "dataTransfer" ? new DragEvent(kind, options) : new ClipboardEvent(kind, options);
    document.querySelector(selector).dispatchEvent(event);
    return event.defaultPrevented;
}"""


def test_image_and_text_file_are_sent_as_parts(new_tab: NewTab) -> None:
    with live(project("Red."), ui=True) as server:
        chat = opened(new_tab, server)

        attach(chat, PICTURE, NOTES)
        chat.page.locator("#attachments li").nth(1).wait_for()
        shown = names(chat)
        chat.say("What is it?")
        chat.sees("Red.")
        chat.waits_until_answered()

        assert shown == ["red.png", "notes.txt"]
        assert names(chat) == []
        assert server.stored(chat.session_id())[0]["content"] == [
            {"type": "text", "text": "What is it?"},
            {"type": "image_url", "image_url": {"url": PNG_URL}},
            {"type": "text", "text": '<file name="notes.txt">\na < b\n</file>'},
        ]
        for _ in range(2):
            said = chat.conversation.locator("li.user")
            said.get_by_role("img").wait_for()
            assert said.get_by_role("img").evaluate("e => [e.naturalWidth, e.src]") == [1, PNG_URL]
            assert said.locator("summary").inner_text() == "notes.txt"
            assert said.locator("pre").text_content() == "a < b"
            assert chat.texts() == ["What is it?", "Red."]
            chat.page.reload()
            chat.sees("Red.")


def test_file_alone_is_sent(new_tab: NewTab) -> None:
    with live(project("Read."), ui=True) as server:
        chat = opened(new_tab, server)

        attach(chat, {"name": "a.pdf", "mimeType": "application/pdf", "buffer": b"%PDF-1.7"})
        chat.page.locator("#attachments li").wait_for()
        chat.button("Send").click()
        chat.sees("Read.")
        chat.waits_until_answered()

        data = f"data:application/pdf;base64,{base64.b64encode(b'%PDF-1.7').decode()}"
        file = {"type": "file", "file": {"filename": "a.pdf", "file_data": data}}
        assert server.stored(chat.session_id())[0]["content"] == [file]
        assert chat.conversation.locator("li.user .chip").inner_text() == "a.pdf"


@pytest.mark.parametrize(
    ("selector", "kind", "field"),
    [("#scroller", "drop", "dataTransfer"), ("#prompt", "paste", "clipboardData")],
)
def test_file_is_dropped_or_pasted(new_tab: NewTab, selector: str, kind: str, field: str) -> None:
    with live(project(), ui=True) as server:
        chat = opened(new_tab, server)

        given = [selector, kind, field, "red.png", "image/png", list(PNG), ""]
        is_taken = chat.page.evaluate(HAND_OVER, given)
        chat.page.locator("#attachments img").wait_for()

        assert is_taken
        assert names(chat) == ["red.png"]


def test_pasted_text_with_a_picture_of_itself_stays_text(new_tab: NewTab) -> None:
    with live(project(), ui=True) as server:
        chat = opened(new_tab, server)

        given = ["#prompt", "paste", "clipboardData", "cells.png", "image/png", list(PNG), "1 2"]

        assert chat.page.evaluate(HAND_OVER, given) is False
        assert names(chat) == []


def test_attached_file_is_removed(new_tab: NewTab) -> None:
    with live(project("Hello."), ui=True) as server:
        chat = opened(new_tab, server)

        attach(chat, PICTURE)
        chat.button("Remove red.png").click()
        chat.say("Hi")
        chat.sees("Hello.")
        chat.waits_until_answered()

        assert server.stored(chat.session_id())[0]["content"] == "Hi"


def test_file_that_is_too_large_for_a_request_is_refused(new_tab: NewTab) -> None:
    settings = ServerSettings(max_body_bytes=200_000)
    with live(project(), settings=settings, ui=True) as server:
        chat = opened(new_tab, server)

        attach(chat, {"name": "big.txt", "mimeType": "text/plain", "buffer": b"a" * 140_000})
        problem = "big.txt is not attached: the files of a message may have 0.1 MB together."
        chat.page.get_by_role("alert").get_by_text(problem).wait_for()

        assert names(chat) == []


def test_eleventh_file_is_refused(new_tab: NewTab) -> None:
    with live(project(), ui=True) as server:
        chat = opened(new_tab, server)

        attach(chat, *[{**NOTES, "name": f"{number}.txt"} for number in range(11)])
        chat.page.get_by_text("a message takes 10 files at most").wait_for()

        assert names(chat) == [f"{number}.txt" for number in range(10)]


def test_files_of_a_failed_message_are_attached_again(new_tab: NewTab) -> None:
    with live(project(http_error(429, "slow down"), "Red."), ui=True) as server:
        chat = opened(new_tab, server, expected_errors=1)
        attach(chat, PICTURE)
        chat.page.locator("#attachments li").wait_for()

        chat.say("What is it?")
        chat.button("Take back").click()
        assert chat.box.input_value() == "What is it?"
        assert chat.page.locator("#attachments img").get_attribute("src") == PNG_URL
        chat.box.press("Enter")
        chat.sees("Red.")
        chat.waits_until_answered()

        content = server.stored(chat.session_id())[0]["content"]
        assert [part["type"] for part in content] == ["text", "image_url"]


def test_edited_message_keeps_its_files(new_tab: NewTab) -> None:
    with live(project("Hello.", "Red.", "Really red."), ui=True) as server:
        chat = opened(new_tab, server)
        chat.say("Hi")
        chat.sees("Hello.")
        chat.waits_until_answered()
        attach(chat, PICTURE, NOTES)
        chat.page.locator("#attachments li").nth(1).wait_for()
        chat.say("What is it?")
        chat.sees("Red.")
        chat.waits_until_answered()

        chat.button("Edit").last.click()
        chat.page.get_by_label("Your message; what follows it is replaced").fill("Are you sure?")
        chat.page.keyboard.press("Enter")
        chat.sees("Really red.")
        chat.waits_until_answered()

        stored = server.stored(chat.session_id())
        assert [part["type"] for part in stored[2]["content"]] == ["text", "image_url", "text"]
        assert stored[2]["content"][0]["text"] == "Are you sure?"
        assert len(stored) == 4


def test_images_of_results_are_shown(new_tab: NewTab) -> None:
    @tool
    def draw() -> list[ContentPart]:
        """Draw."""
        return [ContentPart(type="text", text="Here."), ContentPart.image(PNG)]

    with live(project(calls(("draw", {})), "Done.", tools=[draw]), ui=True) as server:
        chat = opened(new_tab, server)

        chat.say("Draw")
        chat.sees("Done.")
        chat.waits_until_answered()

        for _ in range(2):
            card = chat.card("draw")
            assert card.locator("img").get_attribute("src") == PNG_URL
            chat.page.reload()
            chat.sees("Done.")


@pytest.mark.parametrize("field", ["content", "images"])
def test_images_of_an_answer_are_shown(new_tab: NewTab, field: str) -> None:
    image = {"type": "image_url", "image_url": {"url": PNG_URL}}
    text: Any = [{"type": "text", "text": "Red."}, image] if field == "content" else "Red."
    broken: list[Any] = [None, 1, {"type": "file"}, {"type": "image_url", "image_url": 1}]
    others = {"images": [image, *broken]} if field == "images" else {}
    choice = {"index": 0, "delta": {"role": "assistant", "content": text, **others}}
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    events = [
        {**chunk, "choices": [{**choice, "finish_reason": None}]},
        {**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    ]
    lines = [f"data: {json.dumps(event)}\n\n" for event in events]
    with live(project(raw("".join([*lines, "data: [DONE]\n\n"]).encode())), ui=True) as server:
        chat = opened(new_tab, server)

        chat.say("Draw")
        chat.sees("Red.")
        chat.waits_until_answered()

        for _ in range(2):
            assert chat.answers.locator("img").get_attribute("src") == PNG_URL
            chat.page.reload()
            chat.sees("Red.")


def test_image_from_elsewhere_is_not_loaded(new_tab: NewTab) -> None:
    with live(project(answer("Seen.")), ui=True) as server:
        url = "https://evil.example/pixel.png"
        part = {"type": "image_url", "image_url": {"url": url}}
        server.complete({"role": "user", "content": [part]}, session="elsewhere")
        chat = opened(new_tab, server)

        chat.open("elsewhere")
        chat.sees("Seen.")

        assert chat.conversation.locator("img").count() == 0
        assert chat.conversation.locator(".chip pre").text_content() == url


def test_message_is_sent_once_while_its_file_is_read(new_tab: NewTab) -> None:
    slow = """(() => {
        const read = FileReader.prototype.readAsDataURL;
        FileReader.prototype.readAsDataURL = function (file) { window.go = () => read.call(this, file); };
    })()"""
    model = AsyncScriptedTransport("Red.")
    with live(Project(id="demo", transport=model), ui=True) as server:
        chat = opened(new_tab, server)
        chat.page.evaluate(slow)
        attach(chat, PICTURE)
        chat.page.wait_for_function("() => window.go")

        chat.say("What is it?")
        chat.say("And now?")
        chat.page.evaluate("go()")
        chat.sees("Red.")
        chat.waits_until_answered()

        assert chat.box.input_value() == "And now?"
        [said, _] = server.stored(chat.session_id())
        assert [part["type"] for part in said["content"]] == ["text", "image_url"]


def test_name_of_a_file_shows_the_characters_that_would_turn_it(new_tab: NewTab) -> None:
    with live(project(), ui=True) as server:
        chat = opened(new_tab, server)

        attach(chat, {**NOTES, "name": "\u202egpj.exe"})
        chat.hears("Attached \\u202egpj.exe")

        assert names(chat) == ["\\u202egpj.exe"]
