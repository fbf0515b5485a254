"""Rendered Markdown, decisions about calls, and the chat's commands, without a terminal."""

import io
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from pathors_agent.cli.app import app
from pathors_agent.cli.chat import verdict
from pathors_agent.cli.markdown import MarkdownStream, rendered
from pathors_agent.cli.terminal import Verdict

LABEL = "model   "
OURS = re.compile(r"\x1b\[(\d*)([AJKm])|\x1b\[[\d;]*m")


def screen_after(written: str) -> list[str]:
    """Return the lines of a terminal on which a text was written."""
    lines, row, column, at = [""], 0, 0, 0
    while at < len(written):
        character = written[at]
        if found := OURS.match(written, at):
            at = found.end()
            if found[2] == "A":
                row -= int(found[1])
            elif found[2] in ("J", "K"):
                lines[row] = lines[row][:column]
                del lines[row + 1 :]
            continue
        at += 1
        if character == "\r":
            column = 0
        elif character == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        else:
            lines[row] = lines[row][:column].ljust(column) + character + lines[row][column + 1 :]
            column += 1
    return [line.rstrip() for line in lines]


def shown(*pieces: str) -> list[str]:
    out = io.StringIO()
    stream = MarkdownStream(out, LABEL, len(LABEL), colour=False)
    for piece in pieces:
        stream.write(piece)
    stream.end()
    return screen_after(out.getvalue())


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("LINES", "30")


def test_blocks_are_rendered_behind_one_label() -> None:
    text = "Some *short* text.\n\n- one\n- two\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"

    assert [line.rstrip("\u2500 ") for line in shown(text)] == [
        "model   Some short text.",
        "",
        "         \u2022 one",
        "         \u2022 two",
        "",
        "         a  b",
        "",
        "         1  2",
        "",
    ]


def test_paragraph_is_plain_text_while_it_streams() -> None:
    out = io.StringIO()
    stream = MarkdownStream(out, LABEL, len(LABEL), colour=False)
    stream.write("Some *short")
    assert out.getvalue() == "model   Some *short"

    stream.write("* text.\n\nNext")
    assert screen_after(out.getvalue()) == ["model   Some short text.", "", "        Next"]


def test_fenced_code_keeps_its_empty_lines() -> None:
    lines = shown("```\na\n\nb\n```\n")

    assert [line.removeprefix(LABEL).strip() for line in lines] == ["a", "", "b", ""]
    assert "```" not in "\n".join(lines)


def test_block_that_is_taller_than_the_screen_stays_plain() -> None:
    lines = shown("".join(f"*line* {number}  \n" for number in range(40)))

    assert lines[0] == "model   *line* 0"
    assert lines[39] == "        *line* 39"


def test_link_shows_where_it_leads() -> None:
    (line, *_) = shown("[here](https://example.org/a)")

    assert line == "model   here (https://example.org/a)"


MARKUP = st.text(st.sampled_from("ab *_`#-1.|[]()<>&;x\n\t \u65e5\U0001f600"), max_size=60)


@given(text=MARKUP, cuts=st.lists(st.integers(0, 60), max_size=5))
def test_pieces_of_a_text_end_as_the_whole_does(text: str, cuts: list[int]) -> None:
    places = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    pieces = [text[a:b] for a, b in pairwise(places)]

    assert shown(*pieces) == shown(text)


@pytest.mark.parametrize(
    "entity",
    ["&#27;[2J", "&#x1b;]0;x&#7;", "&#x202e;x", "&#155;2J", "&#8;x", "`&#27;` \u2028&#x200b;"],
)
def test_entities_cannot_control_the_terminal(entity: str) -> None:
    lines = rendered(f"a {entity} b", 60, colour=False)

    left = re.sub(r"\x1b\[[\d;]*m", "", lines)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\u200b]", left)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("y", Verdict(approved=True)),
        (" YES ", Verdict(approved=True)),
        ("", Verdict(approved=False)),
        ("n", Verdict(approved=False)),
        ("No", Verdict(approved=False)),
        ("n too dear", Verdict(approved=False, reason="too dear")),
        ("no, too dear", Verdict(approved=False, reason="too dear")),
        ("not today", Verdict(approved=False, reason="not today")),
        ("yep", Verdict(approved=False, reason="yep")),
        ('{"amount": 5}', Verdict(approved=True, arguments={"amount": 5})),
        ("{}", Verdict(approved=True, arguments={})),
    ],
)
def test_decision_is_read(said: str, expected: Verdict) -> None:
    assert verdict(said) == expected


@pytest.mark.parametrize("said", ["{", "[1]", '{"a": }', "{" * 5_000])
def test_arguments_that_are_no_object_are_asked_for_again(said: str) -> None:
    with pytest.raises(ValueError, match="JSON object"):
        verdict(said)


def chat(lines: str, *options: str) -> Result:
    """Chat with the demo in this process."""
    names = ("PATHORS_BASE_URL", "PATHORS_PROJECT_ID", "PATHORS_API_KEY")
    none = dict.fromkeys(names)
    return CliRunner().invoke(app, ["chat", *options], input=lines, env=none)


def test_without_an_address_the_demo_answers_in_this_process() -> None:
    said = chat("6 * 7\n")

    assert said.exit_code == 0
    assert said.stderr.startswith("No address is given: the demo answers by rules")
    assert said.stdout.endswith("model   6 * 7 = 42.\n")


def test_demo_keeps_no_sessions() -> None:
    said = chat("6 * 7\n", "--session", "s")

    assert said.exit_code == 2
    assert "--session" in said.stderr
    assert "--url" in said.stderr


def test_commands_of_a_conversation() -> None:
    said = chat("1 + 1\n/edit 2 + 3\n/new\n/sessions\n/sessions 1\n/retry\nexit\n9 + 9\n")

    assert said.exit_code == 0
    answers = re.findall(r"^model   (.*)$", said.stdout, re.MULTILINE)
    assert answers == ["1 + 1 = 2.", "2 + 3 = 5.", "2 + 3 = 5.", "2 + 3 = 5."]
    assert "\n  1  4 messages  2 + 3\n" in said.stdout
    assert "9 + 9" not in said.stdout


@pytest.mark.parametrize("command", ["/retry", "/edit x", "/edit", "/tools", "/help", "/session"])
def test_command_before_the_first_question_sends_nothing(command: str) -> None:
    said = chat(f"{command}\n")

    assert said.exit_code == 0
    assert "model   " not in said.stdout


@pytest.mark.parametrize("command", ["/nonsense", "/sessions 7", "/sessions nowhere"])
def test_wrong_command_is_an_error_and_sends_nothing(command: str) -> None:
    said = chat(f"{command}\n1 + 1\n")

    assert said.exit_code == 1
    assert "error: there is no " in said.stderr
    assert said.stdout == ""


def test_two_slashes_send_one() -> None:
    said = chat("//help me: 6 * 7\n/etc/hosts and 2 * 4\n")

    assert "6 * 7 = 42" in said.stdout
    assert "2 * 4 = 8" in said.stdout
