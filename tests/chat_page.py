"""The chat page as a person uses it, for tests in a real browser against a real server."""

import json
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio

from browser import NewTab
from live_server import Live
from pathors_agent import AsyncResponse, Request, tool
from pathors_agent.testing import AsyncScriptedTransport

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

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

    def hears(self, text: str) -> None:
        """Wait until a screen reader is told a text; it stays, unlike what a button shows."""
        log = self.page.get_by_role("log", name="Announcements")
        log.get_by_text(text, exact=True).wait_for(state="attached")

    def waits_until_answered(self) -> None:
        self.button("Send").wait_for()

    def texts(self) -> list[str]:
        return self.conversation.locator(".text").all_text_contents()

    def open(self, session: str) -> None:
        """Choose a session in the list."""
        self.page.locator(f'[data-session="{session}"]').click()

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
    """Enter tools of the client on the page."""
    chat.button("Your tools").click()
    chat.page.get_by_label("Your tools, a JSON list").fill(json.dumps(tools))
    chat.button("Keep").click()


async def set_event(event: anyio.Event) -> None:
    event.set()
