"""Show what was said, readably: as HTML for notebooks, and with rich for terminals.

Only these two show message contents; a plain repr counts them.
"""

from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING, NamedTuple

from pathors_agent.messages import (
    AssistantMessage,
    Content,
    Message,
    ToolMessage,
    UserMessage,
    content_text,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

# A file that a tool read is not to fill the page.
MAX_CHARACTERS = 2_000
# The last of a long history are those that are asked about.
MAX_MESSAGES = 100


class _Line(NamedTuple):
    """One row: a role or the like, the text, and a remark beside it."""

    who: str
    text: str
    remark: str = ""


def as_html(messages: Sequence[Message], heading: str = "") -> str:
    """Write messages as HTML, all their text escaped, in the colours of the page around it."""
    head = f'<p style="margin:0 0 .5em;opacity:.75">{escape(heading)}</p>' if heading else ""
    rows = "".join(map(_row, _lines(messages)))
    return f'<div style="max-width:60em">{head}<table style="{_TABLE}">{rows}</table></div>'


def as_rich(messages: Sequence[Message], heading: str = "") -> "Iterator[RenderableType]":
    """Write messages as what rich renders, all their text taken literally."""
    from rich.table import Table
    from rich.text import Text

    if heading:
        yield Text(heading, style="dim")
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for line in _lines(messages):
        who = Text(line.who, style=_STYLES.get(line.who, ""))
        table.add_row(who, Text.assemble(_visible(line.text), (_beside(line), "dim")))
    yield table


_STYLES = {"user": "bold", "call": "cyan", "result": "green", "error": "red", "reasoning": "dim"}

# Notebooks style tables in ways of their own, and JupyterLab removes some styles from notebooks that
# it does not trust: `overflow-wrap`, but not its older name. So the layout depends on no text, and
# the roles have a width that holds the longest one.
_TABLE = "table-layout:fixed;width:100%;border:0"
_CELL = "text-align:left;vertical-align:top;padding:.25em 1em .25em 0;border:0;background:none"
_ROLE = f"{_CELL};opacity:.65;font-weight:500;white-space:nowrap;box-sizing:border-box;width:7em"
_TEXT = f"{_CELL};white-space:pre-wrap;overflow-wrap:anywhere;word-wrap:break-word"
_ROW = (
    f'<tr style="background:none"><th scope="row" style="{_ROLE}">{{who}}</th>'
    f'<td style="{_TEXT}">{{text}}<small style="opacity:.65">{{remark}}</small></td></tr>'
)


def _row(line: _Line) -> str:
    return _ROW.format(who=escape(line.who), text=escape(line.text), remark=escape(_beside(line)))


def _beside(line: _Line) -> str:
    return f"  {line.remark}" if line.remark else ""


def _visible(text: str) -> str:
    """Put a sign in the place of each character that would steer a terminal."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def _lines(messages: Sequence[Message]) -> Iterator[_Line]:
    left_out = len(messages) - MAX_MESSAGES
    if left_out > 0:
        yield _Line("...", f"{left_out} messages before these")
    for message in messages[-MAX_MESSAGES:]:
        yield from _said(message)


def _said(message: Message) -> Iterator[_Line]:
    match message:
        case AssistantMessage():
            yield from _answered(message)
        case ToolMessage(outcome="value"):
            yield _line("result", message.content)
        case ToolMessage():
            outcome = "" if message.outcome == "error" else message.outcome.replace("_", " ")
            yield _line("error", message.content, outcome)
        case UserMessage(feedback=True):
            yield _line("feedback", message.content)
        case _:
            yield _line(message.role, message.content)


def _answered(message: AssistantMessage) -> Iterator[_Line]:
    if message.reasoning:
        yield _line("reasoning", message.reasoning)
    if message.text:
        yield _line("assistant", message.content)
    if message.refusal:
        yield _line("refusal", message.refusal)
    for call in message.tool_calls:
        yield _line("call", f"{call.name}({call.arguments})")


def _line(who: str, content: Content | None, remark: str = "") -> _Line:
    text = content_text(content)
    more = len(text) - MAX_CHARACTERS
    parts = [remark] if remark else []
    if more > 0:
        parts.append(f"and {more:,} more characters")
    if content and not isinstance(content, str):
        parts += [part.type for part in content if part.type != "text"]
    remark = f"({', '.join(parts)})" if parts else ""
    return _Line(who, text[:MAX_CHARACTERS], remark)
