"""What notebooks and rich show of conversations and results: all of it, and nothing but text."""

import io
from html.parser import HTMLParser

import pytest
from rich.console import Console

from pathors_agent import (
    AssistantMessage,
    ContentPart,
    Conversation,
    RunResult,
    SystemMessage,
    ToolCall,
    ToolMessage,
    Usage,
    UserMessage,
)
from pathors_agent.core.run import Status
from pathors_agent.messages import Message

EVIL = '"><script>alert(1)</script><img src=x onerror="x">'

MESSAGES = (
    SystemMessage(content="Be brief."),
    UserMessage(content=(ContentPart(type="text", text="See?"), ContentPart(type="image_url"))),
    AssistantMessage(
        content="One moment.",
        reasoning="I should look.",
        tool_calls=(
            ToolCall(id="c1", name="look", arguments='{"at": "me"}'),
            ToolCall(id="c2", name="wait"),
        ),
    ),
    ToolMessage(tool_call_id="c1", content="It is you."),
    ToolMessage(tool_call_id="c2", content="Too long.", outcome="timeout"),
    AssistantMessage(content="You.", usage=Usage(total_tokens=7)),
)


class Page(HTMLParser):
    """Gathers the tags of a page, and the words of each row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.rows: list[list[str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])

    def handle_data(self, data: str) -> None:
        if self.rows and data.strip():
            self.rows[-1].append(data.strip())


def result(*messages: Message, answer: str = "") -> RunResult[str]:
    return RunResult(Conversation(messages), messages, Status.FINISHED, answer=answer)


def printed(shown: object, *, width: int = 80) -> str:
    text = io.StringIO()
    Console(file=text, width=width, color_system=None).print(shown)
    return "".join(f"{line.rstrip()}\n" for line in text.getvalue().splitlines())


def test_notebook_shows_everything_that_was_said() -> None:
    assert Page(Conversation(MESSAGES)._repr_html_()).rows == [
        ["system", "Be brief."],
        ["user", "See?", "(image_url)"],
        ["reasoning", "I should look."],
        ["assistant", "One moment."],
        ["call", 'look({"at": "me"})'],
        ["call", "wait()"],
        ["result", "It is you."],
        ["error", "Too long.", "(timeout)"],
        ["assistant", "You."],
    ]


def test_rich_shows_the_same() -> None:
    assert printed(Conversation(MESSAGES)).splitlines() == [
        "system     Be brief.",
        "user       See?  (image_url)",
        "reasoning  I should look.",
        "assistant  One moment.",
        'call       look({"at": "me"})',
        "call       wait()",
        "result     It is you.",
        "error      Too long.  (timeout)",
        "assistant  You.",
    ]


def test_printed_transcript_has_every_row_as_text() -> None:
    shown = result(*MESSAGES)

    assert str(shown).splitlines()[1:] == [
        "system     Be brief.",
        "user       See?  (image_url)",
        "reasoning  I should look.",
        "assistant  One moment.",
        'call       look({"at": "me"})',
        "call       wait()",
        "result     It is you.",
        "error      Too long.  (timeout)",
        "assistant  You.",
    ]
    assert (str(shown), str(Conversation(MESSAGES))) == (
        shown.transcript(),
        "\n".join(shown.transcript().splitlines()[1:]),
    )


def test_transcript_indents_lines_and_cannot_steer_the_terminal() -> None:
    conversation = Conversation([UserMessage(content="\x1b[2Jgone\x07\n\nline")])

    assert conversation.transcript() == "user       \ufffd[2Jgone\ufffd\n\n           line"


def test_empty_conversation_has_an_empty_transcript() -> None:
    assert Conversation().transcript() == ""


def test_result_shows_its_status_above_its_messages() -> None:
    shown = result(
        UserMessage(content="Hi"),
        AssistantMessage(
            content="Ho",
            usage=Usage(
                prompt_tokens=5,
                completion_tokens=2,
                total_tokens=7,
                cached_tokens=0,
                reasoning_tokens=0,
            ),
        ),
    )

    assert printed(shown) == "finished, 7 tokens\nuser       Hi\nassistant  Ho\n"
    assert ">finished, 7 tokens</p>" in shown._repr_html_()


def test_text_of_others_is_only_text() -> None:
    shown = result(UserMessage(content=EVIL), AssistantMessage(content=f"[bold]{EVIL}"))
    page = Page(shown._repr_html_())

    assert page.tags == {"div", "p", "table", "tr", "th", "td", "small"}
    assert page.rows == [["user", EVIL], ["assistant", f"[bold]{EVIL}"]]
    assert f"[bold]{EVIL}" in printed(shown)


def test_text_of_others_cannot_steer_the_terminal() -> None:
    assert printed(Conversation([UserMessage(content="\x1b[2Jgone\x07\nline")])) == (
        "user  \ufffd[2Jgone\ufffd\n      line\n"
    )


def test_much_is_cut() -> None:
    conversation = Conversation([UserMessage(content="x" * 2_500)])

    assert Page(conversation._repr_html_()).rows == [
        ["user", "x" * 2_000, "(and 500 more characters)"]
    ]


def test_of_a_long_history_the_last_is_shown() -> None:
    conversation = Conversation([UserMessage(content=str(number)) for number in range(103)])

    rows = Page(conversation._repr_html_()).rows
    assert rows[0] == ["...", "3 messages before these"]
    assert rows[1] == ["user", "3"]
    assert len(rows) == 101


@pytest.mark.parametrize("shown", [Conversation(MESSAGES), result(MESSAGES[1], MESSAGES[-1])])
def test_plain_repr_shows_no_contents(shown: object) -> None:
    assert not [word for word in ("See?", "brief", "You.") if word in repr(shown)]
