"""Draw the pictures of the docs: the state machine from the code's table, the line of data from
the page that describes it. `python docs/drawings/draw.py` writes them to `docs/images`.
"""

import re
import textwrap
from collections.abc import Iterator
from html import escape
from itertools import pairwise
from math import cos, hypot, radians, sin
from pathlib import Path

from pathors_agent.core.conversation import TRANSITIONS, Event, Role

DOCS = Path(__file__).parents[1]

# Seen on white and on black: an image may take its colours from the system, not from the page.
STYLE = """
text { font: 12.5px system-ui, sans-serif; fill: #1f2430 }
.name { font-weight: 700; fill: #fff; text-anchor: middle }
.event { font: 12px ui-monospace, monospace; text-anchor: middle }
.module { font: 11px ui-monospace, monospace; fill: #3949ab }
.number { font-weight: 700; fill: #fff; text-anchor: middle; font-size: 12px }
.note { font-size: 12px; fill: #6b7280 }
.node, .badge { fill: #3f51b5 }
.edge { fill: none; stroke: #7a869a; stroke-width: 1.6; marker-end: url(#tip) }
.tip { fill: #7a869a }
.box, .label { fill: #f4f6fb; stroke: #c5cce0 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6e9f2 }
  .module { fill: #aab6f5 }
  .note { fill: #9aa3b5 }
  .box, .label { fill: #262b38; stroke: #414a60 }
}
"""
TIP = (
    '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" '
    'markerHeight="8" orient="auto"><path class="tip" d="M0 1 L10 5 L0 9 z"/></marker></defs>'
)

Point = tuple[float, float]

# - the state machine -

RADIUS = 54
PLACES: dict[Role, Point] = {
    Role.USER: (170, 120),
    Role.ASSISTANT: (590, 120),
    Role.TOOL: (380, 370),
}
LOOPS = {Role.USER: 180, Role.ASSISTANT: 0, Role.TOOL: 90}  # degrees, where a role leads to itself


def state_machine() -> str:
    """Draw the role that must speak next, and which message leads where."""
    edges: dict[tuple[Role, Role], list[Event]] = {}
    for role, row in TRANSITIONS.items():
        for event, following in row.items():
            edges.setdefault((role, following), []).append(event)
    shapes = [_edge(a, b, edges) for a, b in edges]
    nodes = [_node(role, place) for role, place in PLACES.items()]
    start = '<path class="edge" d="M170 14 V63"/><text class="note" x="180" y="26">start</text>'
    title = "The role that must speak next, and which message leads there"
    return _picture(760, 500, title, [start, *shapes, *nodes])


def _node(role: Role, place: Point) -> str:
    x, y = place
    return (
        f'<circle class="node" cx="{x}" cy="{y}" r="{RADIUS}"/>'
        f'<text class="name" x="{x}" y="{y + 5}">{role.name}</text>'
    )


def _edge(start: Role, end: Role, edges: dict[tuple[Role, Role], list[Event]]) -> str:
    bow = 76 if (end, start) in edges else 0  # so that the way back has a line of its own
    path, label = _loop(start) if start is end else _curve(PLACES[start], PLACES[end], bow)
    events = [event.name for event in edges[start, end]]
    return f'<path class="edge" d="{path}"/>' + _label(label, events)


def _curve(start: Point, end: Point, height: float) -> tuple[str, Point]:
    """Bow a line to its left."""
    middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
    length = hypot(end[0] - start[0], end[1] - start[1])
    left = ((end[1] - start[1]) / length, (start[0] - end[0]) / length)
    bow = (middle[0] + left[0] * height, middle[1] + left[1] * height)
    first, last = _rim(start, bow), _rim(end, bow)
    label = (middle[0] + left[0] * height / 2, middle[1] + left[1] * height / 2)
    return f"M{_xy(first)} Q{_xy(bow)} {_xy(last)}", label


def _loop(role: Role) -> tuple[str, Point]:
    center, angle = PLACES[role], LOOPS[role]
    first, last = _polar(center, RADIUS, angle - 24), _polar(center, RADIUS, angle + 24)
    bows = _polar(center, RADIUS * 2.5, angle - 32), _polar(center, RADIUS * 2.5, angle + 32)
    return f"M{_xy(first)} C{_xy(bows[0])} {_xy(bows[1])} {_xy(last)}", _polar(
        center, RADIUS * 2.05, angle
    )


def _rim(center: Point, towards: Point) -> Point:
    length = hypot(towards[0] - center[0], towards[1] - center[1])
    return (
        center[0] + (towards[0] - center[0]) * RADIUS / length,
        center[1] + (towards[1] - center[1]) * RADIUS / length,
    )


def _polar(center: Point, distance: float, angle: float) -> Point:
    return (center[0] + distance * cos(radians(angle)), center[1] + distance * sin(radians(angle)))


def _label(center: Point, lines: list[str]) -> str:
    width = 7.4 * max(map(len, lines)) + 16
    height = 17 * len(lines) + 6
    left, top = center[0] - width / 2, center[1] - height / 2
    rows = (
        f'<text class="event" x="{center[0]:.1f}" y="{top + 16 + 17 * row:.1f}">{line}</text>'
        for row, line in enumerate(lines)
    )
    box = f'<rect class="label" x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height}" rx="6"/>'
    return box + "".join(rows)


# - the line of data -

PER_ROW = 4
BOX = (170, 118)
GAP = (24, 34)
ROW_OF_TABLE = re.compile(r"^\| (\d+) \| (.+?) \| (.+?) \| (.+?) \|$", re.MULTILINE)


def line_of_data() -> str:
    """Draw the table "One straight line" of the architecture, as the circle that it is."""
    page = (DOCS / "explanation" / "architecture.md").read_text()
    section = page.partition("## One straight line")[2].partition("\n## ")[0]
    steps = ROW_OF_TABLE.findall(section)
    corners = [_corner(place) for place in range(len(steps))]
    arrows = [_arrow(a, b) for a, b in pairwise(corners)]
    boxes = [_step(corner, *step) for corner, step in zip(corners, steps, strict=True)]
    height = corners[-1][1] + BOX[1] + 14
    title = "The line of data: from bytes to a message, to tools, and back"
    return _picture(788, height, title, [*arrows, _back(corners[-1]), *boxes])


def _corner(place: int) -> Point:
    """Return the upper left corner of a box; every second row runs from right to left."""
    row, column = divmod(place, PER_ROW)
    column = PER_ROW - 1 - column if row % 2 else column
    return (18 + column * (BOX[0] + GAP[0]), 12 + row * (BOX[1] + GAP[1]))


def _arrow(start: Point, end: Point) -> str:
    if start[1] != end[1]:
        x = start[0] + BOX[0] / 2
        return f'<path class="edge" d="M{x} {start[1] + BOX[1]} V{end[1] - 2}"/>'
    y = start[1] + BOX[1] / 2
    right = end[0] > start[0]
    begin, stop = (start[0] + BOX[0], end[0] - 2) if right else (start[0], end[0] + BOX[0] + 2)
    return f'<path class="edge" d="M{begin} {y} H{stop}"/>'


def _back(last: Point) -> str:
    """Draw the way from the last step to the network, where it begins again."""
    x, y = last[0] + BOX[0], last[1] + BOX[1] / 2
    return (
        f'<path class="edge" d="M{x} {y} H{x + 22}"/>'
        f'<text class="note" x="{x + 28}" y="{y + 4}">the network, and again</text>'
    )


def _step(corner: Point, number: str, _start: str, end: str, modules: str) -> str:
    x, y = corner
    lines = textwrap.wrap(_plain(end), 22)
    if len(lines) > 5:
        raise ValueError(f"step {number} of the line of data is too long to be drawn: {end}")
    words = (
        f'<text x="{x + 10}" y="{y + 24 + 15 * row}">{escape(line)}</text>'
        for row, line in enumerate(lines)
    )
    return (
        f'<rect class="box" x="{x}" y="{y}" width="{BOX[0]}" height="{BOX[1]}" rx="8"/>'
        f'<circle class="badge" cx="{x}" cy="{y}" r="11"/>'
        f'<text class="number" x="{x}" y="{y + 4}">{number}</text>'
        + "".join(words)
        + f'<text class="module" x="{x + 10}" y="{y + BOX[1] - 10}">{escape(_plain(modules))}</text>'
    )


def _plain(text: str) -> str:
    return text.replace("`", "").replace("wire.chat_completions", "wire")


# - all of them -


def _xy(point: Point) -> str:
    return f"{point[0]:.1f} {point[1]:.1f}"


def _picture(width: float, height: float, title: str, shapes: list[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img">'
    )
    lines = [head, f"<title>{title}</title>", f"<style>{STYLE}</style>", TIP, *shapes, "</svg>"]
    return "\n".join(lines) + "\n"


def pictures() -> Iterator[tuple[Path, str]]:
    """Return the content of each picture by its file."""
    yield DOCS / "images" / "state-machine.svg", state_machine()
    yield DOCS / "images" / "line-of-data.svg", line_of_data()


if __name__ == "__main__":
    for path, content in pictures():
        path.write_text(content)
