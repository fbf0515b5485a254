"""Transcripts of messages: as text, as HTML for notebooks, and with rich for terminals.

Only a transcript shows the contents of messages; a repr shows their sizes.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from pydantic import ValidationError

from pathors_agent.messages import (
    AssistantMessage,
    Content,
    Message,
    SystemMessage,
    ToolMessage,
    UserMessage,
    content_text,
    parse_message,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

# A file that a tool read must not fill the page.
MAX_CHARACTERS = 2_000
# The last messages of a long history are the interesting ones.
MAX_MESSAGES = 100


class _Row(NamedTuple):
    """One row: a label such as the role, the text, and a remark after it."""

    label: str
    text: str
    remark: str = ""


class Transcribed:
    """An object whose messages are shown when it is printed, in a notebook, and by rich."""

    __slots__ = ()

    def _shown(self) -> tuple[str, Sequence[Message]]:
        """Return the heading of the transcript, and its messages."""
        raise NotImplementedError

    def transcript(self) -> str:
        """Return the messages as text, which `print` shows too. The repr and the logs show no contents.

        Characters that would control a terminal are replaced.
        """
        heading, messages = self._shown()
        rows = list(_rows(messages))
        width = max([_LABEL, *(len(row.label) for row in rows)])
        return "\n".join(filter(None, [heading, *(_text_row(row, width) for row in rows)]))

    def __str__(self) -> str:
        return self.transcript()

    def _repr_html_(self) -> str:
        """Return the messages as HTML with all text escaped, in the colours of the surrounding page."""
        from html import escape  # here: few programs need it

        heading, messages = self._shown()
        head = f'<p style="margin:0 0 .5em;opacity:.75">{escape(heading)}</p>' if heading else ""
        rows = "".join(
            _ROW.format(label=escape(row.label), text=escape(row.text), remark=escape(_remark(row)))
            for row in _rows(messages)
        )
        return f'<div style="max-width:60em">{head}<table style="{_TABLE}">{rows}</table></div>'

    def __rich_console__(self, *_: object) -> "Iterator[RenderableType]":
        """Yield the messages as objects that rich renders; their text is taken literally."""
        from rich.table import Table
        from rich.text import Text

        heading, messages = self._shown()
        if heading:
            yield Text(heading, style="dim")
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for row in _rows(messages):
            label = Text(row.label, style=_STYLES.get(row.label, ""))
            table.add_row(label, Text.assemble(_visible(row.text), (_remark(row), "dim")))
        yield table


def _text_row(row: _Row, width: int) -> str:
    first, *rest = (_visible(row.text) + _remark(row)).splitlines() or [""]
    lines = [f"{row.label:<{width}}  {first}", *(f"{'':<{width}}  {line}" for line in rest)]
    return "\n".join(line.rstrip() for line in lines)


# The labels of answers and reasoning.
_LABEL = 9


_STYLES = {"user": "bold", "call": "cyan", "result": "green", "error": "red", "reasoning": "dim"}

# Notebooks have styles of their own for tables. JupyterLab removes some styles from notebooks that
# it does not trust: `overflow-wrap`, but not its older name. So the layout does not depend on the
# texts, and the column of roles fits the longest one.
_TABLE = "table-layout:fixed;width:100%;border:0"
_CELL = "text-align:left;vertical-align:top;padding:.25em 1em .25em 0;border:0;background:none"
_ROLE = f"{_CELL};opacity:.65;font-weight:500;white-space:nowrap;box-sizing:border-box;width:7em"
_TEXT = f"{_CELL};white-space:pre-wrap;overflow-wrap:anywhere;word-wrap:break-word"
_ROW = (
    f'<tr style="background:none"><th scope="row" style="{_ROLE}">{{label}}</th>'
    f'<td style="{_TEXT}">{{text}}<small style="opacity:.65">{{remark}}</small></td></tr>'
)


def _remark(row: _Row) -> str:
    return f"  {row.remark}" if row.remark else ""


def _visible(text: str) -> str:
    """Replace each character that would control a terminal."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def _rows(messages: Sequence[Message]) -> Iterator[_Row]:
    left_out = len(messages) - MAX_MESSAGES
    if left_out > 0:
        yield _Row("...", f"{left_out} messages before these")
    for message in messages[-MAX_MESSAGES:]:
        yield from _message_rows(message)


def _message_rows(message: Message) -> Iterator[_Row]:
    if isinstance(message, ToolMessage) and message.extra:
        yield from _inner_rows(message)
    match message:
        case AssistantMessage():
            yield from _answer_rows(message)
        case ToolMessage(outcome="value"):
            yield _content_row("result", message.content)
        case ToolMessage(outcome="suspended"):
            yield _content_row("waiting", message.content)
        case ToolMessage():
            outcome = "" if message.outcome == "error" else message.outcome.replace("_", " ")
            yield _content_row("error", message.content, outcome)
        case UserMessage(feedback=True):
            yield _content_row("feedback", message.content)
        case SystemMessage() | UserMessage():
            yield _content_row(message.role, message.content)


def _inner_rows(message: ToolMessage) -> Iterator[_Row]:
    """Yield the rows of an agent's run that the tool ran."""
    run = message.extra.get("run")
    values = run.get("messages") if isinstance(run, dict) else None
    if not isinstance(values, list):
        return
    with suppress(ValidationError):  # a program's own value in `extra`
        for row in _rows([parse_message(value) for value in values]):
            yield row._replace(label=f"> {row.label}")


def _answer_rows(message: AssistantMessage) -> Iterator[_Row]:
    if message.reasoning:
        yield _content_row("reasoning", message.reasoning)
    if message.text:
        yield _content_row("assistant", message.content)
    if message.refusal:
        yield _content_row("refusal", message.refusal)
    for call in message.tool_calls:
        yield _content_row("call", f"{call.name}({call.arguments})")


def _content_row(label: str, content: Content | None, remark: str = "") -> _Row:
    text = content_text(content)
    more = len(text) - MAX_CHARACTERS
    parts = [remark] if remark else []
    if more > 0:
        parts.append(f"and {more:,} more characters")
    if content and not isinstance(content, str):
        parts += [part.type for part in content if part.type != "text"]
    remark = f"({', '.join(parts)})" if parts else ""
    return _Row(label, text[:MAX_CHARACTERS], remark)
