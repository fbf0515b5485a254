"""Texts of models and users cannot forge what the terminal shows: labels, lines, tables, prompts."""

import io
import sys
import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathors_agent.cli.output import (
    Screen,
    one_line,
    printable,
    write_line,
    write_note,
    write_table,
)
from pathors_agent.cli.terminal import RunDisplay, described
from pathors_agent.messages import AssistantMessage, ToolCall, ToolMessage, UserMessage

LABELS = ("you     ", "model   ", "call    ", "result  ", "error   ", "system  ", "note    ")
BREAKS = ("\n", "\r", "\r\n", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029")
INVISIBLE = tuple(
    "\x00\x1b\x7f\x9b\xad\u034f\u061c\u115f\u180e\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c"
    "\u202d\u202e\u2060\u2061\u2064\u2066\u2067\u2068\u2069\u206a\u2800\u3164\ufe00\ufe0f\ufeff\uffa0"
    "\ufff9\U000e0001\U000e0041\U000e0100\ud800\udfff"
)
SIGN = "\N{REPLACEMENT CHARACTER}"

texts = st.lists(
    st.sampled_from((*LABELS, *BREAKS, *INVISIBLE, "\t", "ok", "é", "👩")) | st.text(max_size=3),
    max_size=20,
).map("".join)


def lines_of(shown: str) -> list[str]:
    """Return the lines of a text as any program may count them."""
    assert shown.endswith("\n")
    return shown.splitlines()


def shown_by(show: Callable[[Screen], None]) -> str:
    out = io.StringIO()
    show(Screen(out))
    return out.getvalue()


def check_one_label(shown: str, label: str) -> None:
    first, *others = lines_of(shown)
    assert first.startswith(label)
    assert all(line.startswith(" " * 8) for line in others)


@given(texts)
def test_text_of_a_line_forges_no_other(text: str) -> None:
    check_one_label(shown_by(lambda screen: screen.line("you", text)), "you     ")


@given(st.lists(texts, min_size=1, max_size=5))
def test_pieces_of_a_stream_forge_no_line(pieces: list[str]) -> None:
    def show(screen: Screen) -> None:
        for piece in pieces:
            screen.stream("model", piece)
        screen.end_line()

    check_one_label(shown_by(show), "model   ")


@given(texts)
def test_nothing_invisible_is_printed(text: str) -> None:
    for line in lines_of(printable(text) + "\n"):
        for before, character in zip("a" + line, line, strict=False):
            joins = character in "\u200c\u200d\ufe0e\ufe0f" and not before.isascii()
            kind = unicodedata.category(character)
            assert joins or character == "\t" or kind not in ("Cc", "Zl", "Zp", "Cs")
            assert joins or character not in INVISIBLE


@pytest.mark.parametrize("character", INVISIBLE, ids=ascii)
def test_invisible_character_is_shown_as_a_sign(character: str) -> None:
    assert printable(f"pay{character}pal") == f"pay{SIGN}pal"


@pytest.mark.parametrize(
    "text",
    [
        "👩\u200d👩\u200d👧",
        "❤\ufe0f",
        "1\ufe0f\u20e3",
        "\u0645\u06cc\u200c\u062e\u0648",
        "a\tb",
        "naïve",
        "日本語",
    ],
)
def test_scripts_and_emoji_stay_as_they_are(text: str) -> None:
    assert printable(text) == text

    def show(screen: Screen) -> None:
        for character in text:
            screen.stream("you", character)

    pieces = shown_by(show)
    assert pieces.startswith("you     ")
    if "\u20e3" not in text:
        assert pieces.removeprefix("you     ") == text


def test_windows_line_ends_are_line_ends() -> None:
    assert printable("a\r\nb") == "a\nb"
    assert one_line("a\r\nb\nc") == "a↵b↵c"


@given(texts)
def test_lines_and_notes_stay_one_line(text: str) -> None:
    for write, name in ((write_line, "stdout"), (write_note, "stderr")):
        with pytest.MonkeyPatch.context() as patched:
            out = io.StringIO()
            patched.setattr(sys, name, out)
            write(text)
        assert len(lines_of(out.getvalue())) == 1


@given(st.lists(texts, min_size=2, max_size=4))
def test_cells_of_a_table_stay_in_their_row(cells: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patched:
        out = io.StringIO()
        patched.setattr(sys, "stdout", out)
        write_table(["a"] * len(cells), [cells, cells], empty="nothing")
    assert len(lines_of(out.getvalue())) == 3  # titles, two rows


def test_table_in_a_pipe_has_a_line_for_each_row_and_no_padding_at_its_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [("[DONE] ends a stream", "holds", ""), ("天気", "no", "x" * 300), ("a", None, "b")]

    write_table(("rule", "seen", "remark"), rows, empty="nothing")

    assert capsys.readouterr().out.splitlines() == [
        "rule                   seen    remark",
        "[DONE] ends a stream   holds",
        f"天気                   no      {'x' * 300}",
        "a                              b",
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown_on_a_terminal(
    rows: list[tuple[str, str, str]], monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    out = Terminal()
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(sys, "stdout", out)
    write_table(("rule", "seen", "remark"), rows, empty="nothing")
    return out.getvalue().splitlines()


def test_terminal_wraps_the_last_column(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [("[DONE]", "holds", " ".join(["remark"] * 9)), ("usage", "no", "")]

    assert shown_on_a_terminal(rows, monkeypatch) == [
        "rule     seen    remark",
        "[DONE]   holds   remark remark remark remark remark remark",
        "                 remark remark remark",
        "usage    no",
    ]


def test_terminal_without_room_shows_rows_as_blocks_with_whole_ids(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [("i" * 40, "holds", "r" * 40), ("a", "", "b")]

    assert shown_on_a_terminal(rows, monkeypatch) == [
        f"rule     {'i' * 40}",
        "seen     holds",
        f"remark   {'r' * 40}",
        "",
        "rule     a",
        "remark   b",
    ]


@given(name=texts, arguments=texts)
def test_call_that_waits_for_approval_is_one_line(name: str, arguments: str) -> None:
    call = ToolCall(id="1", name=name, arguments=arguments)

    assert len(lines_of(described(call) + " waits for your approval.\n")) == 1


@given(texts)
def test_demo_labels_outside_texts(text: str) -> None:
    call = ToolCall(id="1", name="pay", arguments=text)
    shows: list[tuple[str, Callable[[RunDisplay], None]]] = [
        ("you", lambda display: display.show_message(UserMessage(content=text))),
        ("call", lambda display: display.show(AssistantMessage(tool_calls=(call,)))),
        ("result", lambda display: display.show(ToolMessage(tool_call_id="1", content=text))),
        ("note", lambda display: display.show_activity({"progress": {"value": text}})),
    ]
    for label, show in shows:
        shown = shown_by(lambda screen, show=show: show(RunDisplay(screen)))  # type: ignore[misc]
        check_one_label(shown, f"{label:8}")
