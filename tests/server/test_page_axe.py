"""What axe, a checker of accessibility from npm, finds on the chat page in all of its states."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from browser import NewTab
from chat_page import ASK_PERSON, PHONE, Chat, add, bring_tools, pay
from live_server import live, project
from pathors_agent import Usage
from pathors_agent.testing import answer, calls, http_error

pytestmark = pytest.mark.slow

INSTALL_SECONDS = 100.0

MARKDOWN = """\
# Plan

Read [the guide](https://docs.example/guide), ~~or~~ *and* **write** `code`.

1. one
   - two

> quoted

| a | b |
|---|--:|
| 1 | 2 |

```py
print(1)
```
"""
SPENT = Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3)
CALL = ("ask_person", {"question": "Why?"})
FILE: Any = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"a < b"}

# The name of each broken rule with the elements that break it; the parts that tests start are no page.
FOUND = """async () => {
    const { violations } = await axe.run(document, { resultTypes: ["violations"] });
    return violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html).join(" ")}`);
}"""


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install axe from npm, or skip where that is not possible."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    folder = tmp_path_factory.mktemp("axe")
    options = ["--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=0"]
    try:
        subprocess.run(
            [npm, "install", "--prefix", str(folder), *options, "axe-core@^4.10"],
            check=True,
            capture_output=True,
            timeout=INSTALL_SECONDS,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        pytest.skip("axe-core cannot be installed from npm")
    return folder / "node_modules" / "axe-core" / "axe.min.js"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [PHONE, {"width": 1280, "height": 800}], ids=["phone", "wide"])
def test_axe_finds_nothing(
    new_tab: NewTab, axe: Path, scheme: str, viewport: dict[str, int]
) -> None:
    script = [
        answer(MARKDOWN, reasoning="I think.", usage=SPENT),
        calls(("add", {"a": 1, "b": 2})),
        "It is 3.",
        answer("May I?", calls=[("pay", {"amount": 5}), CALL]),
        http_error(500, "down"),
    ]
    with live(project(*script, tools=[add, pay]), ui=True) as server:
        page = new_tab(server.url, color_scheme=scheme, viewport=viewport, expected_errors=2)
        page.add_init_script(path=axe)
        page.goto(f"{server.url}/")
        visit = Visit(Chat(page, server))
        found: dict[str, object] = {}
        for enter in visit.states():
            enter()
            found[enter.__name__] = page.evaluate(FOUND)

        assert found == {state: [] for state in found}


class Visit:
    """Brings the page into its states, one after another."""

    def __init__(self, chat: Chat) -> None:
        self.chat = chat
        self.page = chat.page

    def states(self) -> list[Callable[[], None]]:
        return [
            self.key,
            self.wrong_key,
            self.welcome,
            self.markdown,
            self.attachments,
            self.own_tools,
            self.approval,
            self.error,
            self.editor,
            self.rename,
            self.delete,
            self.sidebar,
        ]

    def key(self) -> None:
        self.page.get_by_label("Key", exact=True).wait_for()

    def wrong_key(self) -> None:
        self.chat.sign_in("sk_wrong")
        self.page.get_by_text("does not know this key").wait_for()

    def welcome(self) -> None:
        self.chat.sign_in()
        self.chat.box.wait_for()

    def markdown(self) -> None:
        self.chat.say("Plan it")
        self.chat.answers.locator("table").wait_for()
        self.chat.waits_until_answered()
        self.chat.answers.get_by_text("Reasoning").click()

    def attachments(self) -> None:
        self.page.locator("#chooser").set_input_files([FILE])
        self.page.locator("#attachments li").wait_for()

    def own_tools(self) -> None:
        self.chat.say("What is 1 + 2?")
        self.chat.sees("It is 3.")
        self.chat.waits_until_answered()
        self.sidebar()
        bring_tools(self.chat, ASK_PERSON)
        self.chat.button("Your tools").click()

    def approval(self) -> None:
        self.page.keyboard.press("Escape")
        if self.chat.button("Close the list of sessions").is_visible():
            self.chat.button("Close the list of sessions").click()
        self.chat.say("Pay")
        self.chat.button("Approve").wait_for()
        self.page.get_by_text("Change the arguments, or say why not").click()

    def error(self) -> None:
        self.chat.button("Deny").click()
        self.chat.button("Give the result").click()
        self.chat.button("Send again").wait_for()

    def editor(self) -> None:
        self.chat.button("Edit").first.click()

    def rename(self) -> None:
        self.chat.button("Rename").click()

    def delete(self) -> None:
        self.page.keyboard.press("Escape")
        self.chat.button("Delete").click()

    def sidebar(self) -> None:
        self.page.keyboard.press("Escape")
        if self.chat.button("Show the list of sessions").is_visible():
            self.chat.button("Show the list of sessions").click()
