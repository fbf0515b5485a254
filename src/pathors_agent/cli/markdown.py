"""Render Markdown on a terminal: plain text while a block streams, the rendered block at its end."""

import io
import re
import shutil

from rich.cells import cell_len
from rich.console import Console
from rich.markdown import Markdown
from rich.segment import Segment, Segments

from pathors_agent.cli.output import Output, printable

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
# A larger block stays plain text: its markup takes too long to parse.
MAX_BLOCK_CHARACTERS = 20_000
_TAB = " " * 4


class MarkdownStream:
    """Writes a text that grows, and replaces each finished block by its rendered form.

    Blocks end at an empty line, except in fenced code and before indented lines. A block that is
    taller than the screen stays plain, because its first lines can no longer be replaced.
    """

    def __init__(self, out: Output, label: str, label_width: int, *, colour: bool) -> None:
        self._out = out
        self._label = label  # before the first line of the first block
        self._indent = " " * label_width
        self._colour = colour
        self._line = ""  # the last line as far as it came
        self._block = ""  # the other lines of the block
        self._fence = ""
        self._is_over = False  # an empty line came: the next line decides
        self._begin_block()

    def _begin_block(self) -> None:
        self._size = shutil.get_terminal_size()
        self._block, self._fence, self._is_over = "", "", False
        self._rows, self._column = 1, 0
        self._has_prefix = False

    def write(self, text: str) -> None:
        """Write a piece of the text."""
        shown: list[str] = []
        for character in text:
            if self._is_over and character not in " \t\n":
                self._out.write("".join(shown))
                shown.clear()
                self._end_block()
                self._out.write("\n")
            if character != "\n" or self._block or self._line:
                self._show(character, shown)
                self._take(character)
        self._out.write("".join(shown))
        self._out.flush()

    def end(self) -> None:
        """Render the last block."""
        self._end_block()
        self._out.flush()

    def _take(self, character: str) -> None:
        if character != "\n":
            self._is_over = False
            self._line += character
            return
        if found := _FENCE.match(self._line):
            mark = found[1]
            if not self._fence:
                self._fence = mark
            elif mark.startswith(self._fence) and not self._line.strip().strip(mark[0]):
                self._fence = ""
        self._block += f"{self._line}\n"
        self._is_over = not self._fence and not self._line.strip()
        self._line = ""

    def _show(self, character: str, shown: list[str]) -> None:
        """Add a character as plain text, in lines that fit the screen so that they can be counted."""
        if not self._has_prefix:
            shown.append(self._label or self._indent)
            self._has_prefix = True
        if character == "\n":
            self._next_row(shown)
            return
        character = _TAB if character == "\t" else character
        width = cell_len(character)
        if len(self._indent) + self._column + width >= self._size.columns:
            self._next_row(shown)
        shown.append(character)
        self._column += width

    def _next_row(self, shown: list[str]) -> None:
        shown.append(f"\n{self._indent}")
        self._rows += 1
        self._column = 0

    def _end_block(self) -> None:
        text, self._line = self._block + self._line, ""
        if text.strip():
            is_whole = self._rows < self._size.lines and self._size == shutil.get_terminal_size()
            if is_whole and len(text) <= MAX_BLOCK_CHARACTERS:
                up = f"\x1b[{self._rows - 1}A" if self._rows > 1 else ""
                self._out.write(f"\r{up}\x1b[J{self._rendered(text)}")
            else:
                self._out.write("\n" if self._column else "\r\x1b[K")
            self._label = ""
        self._begin_block()

    def _rendered(self, text: str) -> str:
        width = max(self._size.columns - len(self._indent) - 1, 10)
        lines = rendered(text, width, colour=self._colour).splitlines()
        label = self._label or self._indent
        return "".join(
            f"{label if not at else self._indent}{line}\n" for at, line in enumerate(lines)
        )


def rendered(text: str, width: int, *, colour: bool) -> str:
    """Render Markdown as lines with colours; links show where they lead.

    Characters that control a terminal are replaced after the rendering, which decodes entities.
    """
    console = Console(
        file=io.StringIO(), force_terminal=True, width=width, no_color=not colour, highlight=False
    )
    markup = Markdown(text, hyperlinks=False, code_theme="ansi_dark")
    segments = [
        Segment(printable(segment.text), segment.style)
        for segment in console.render(markup)
        if not segment.control
    ]
    with console.capture() as captured:
        console.print(Segments(segments), end="")
    lines = captured.get().rstrip().splitlines()
    while lines and not re.sub(r"\x1b\[[\d;]*m", "", lines[0]).strip():
        del lines[0]
    return "\n".join(lines)
