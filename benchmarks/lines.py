"""Draw lines over a number, panel under panel, as SVG that is read by day and by night."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 720
HEIGHT = 220
LEFT, RIGHT, TOP, BOTTOM = 60, 170, 34, 30
COLORS = ("#0b6e4f", "#c8553d", "#4a78c9", "#8a5aa8")

# For readers whose system is dark; the colours of the bars and lines are brightened.
NIGHT = """<style>
@media (prefers-color-scheme: dark) {
  .paper { fill: #1b1f2a }
  text { fill: #e6e9f2 }
  text[fill="#555"], text[fill="#777"] { fill: #9aa3b5 }
  line { stroke: #414a60 }
  [fill="#0b6e4f"] { fill: #35a57c }
  [fill="#c8553d"] { fill: #e07a63 }
  [fill="#4a78c9"] { fill: #7ba3ec }
  [fill="#8a5aa8"] { fill: #b98ad6 }
  [stroke="#0b6e4f"] { stroke: #35a57c }
  [stroke="#c8553d"] { stroke: #e07a63 }
  [stroke="#4a78c9"] { stroke: #7ba3ec }
  [stroke="#8a5aa8"] { stroke: #b98ad6 }
}
</style>"""

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """Some lines with a title; `is_log` is of the numbers that they go over."""

    title: str
    lines: Mapping[str, Points]
    percent: bool = False
    is_log: bool = True


def svg(panels: Sequence[Panel]) -> str:
    """Draw the panels."""
    height = HEIGHT * len(panels)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            f'width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="12">',
            NIGHT,
            f'<rect class="paper" width="{WIDTH}" height="{height}" fill="white"/>',
            *(
                line
                for place, panel in enumerate(panels)
                for line in (
                    f'<g transform="translate(0 {place * HEIGHT})">',
                    *_Drawing(panel).all(),
                    "</g>",
                )
            ),
            "</svg>\n",
        ]
    )


class _Drawing:
    def __init__(self, panel: Panel) -> None:
        self._panel = panel
        points = [point for line in panel.lines.values() for point in line]
        self._low, self._high = min(x for x, _ in points), max(x for x, _ in points)
        self._most = 100.0 if panel.percent else max(*(y for _, y in points), 1) * 1.05

    def _x(self, number: float) -> float:
        low, high, here = self._low, self._high, number
        if self._panel.is_log:
            low, high, here = math.log(low), math.log(high), math.log(number)
        return LEFT + (here - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def _y(self, number: float) -> float:
        return HEIGHT - BOTTOM - number / self._most * (HEIGHT - TOP - BOTTOM)

    def all(self) -> Iterator[str]:
        yield f'<text x="10" y="20" font-weight="bold">{escape(self._panel.title)}</text>'
        yield from self._grid()
        for points, color in zip(self._panel.lines.values(), COLORS, strict=False):
            path = " ".join(f"{self._x(x):.1f},{self._y(y):.1f}" for x, y in points)
            yield f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>'
        yield from self._names()

    def _grid(self) -> Iterator[str]:
        unit = "%" if self._panel.percent else ""
        for share in (0, 0.25, 0.5, 0.75, 1):
            y = self._y(share * self._most)
            yield f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
            yield _text(LEFT - 6, y + 4, f"{share * self._most:,.0f}{unit}", "end")
        for number in self._marks():
            yield _text(self._x(number), HEIGHT - BOTTOM + 16, f"{number:,.0f}", "middle")

    def _marks(self) -> list[float]:
        numbers = sorted({x for line in self._panel.lines.values() for x, _ in line})
        step = max(1, len(numbers) // 6)
        return numbers[::step]

    def _names(self) -> Iterator[str]:
        """Write the lines' names beside their ends, apart from each other."""
        ends = [
            (self._y(points[-1][1]), name, color)
            for (name, points), color in zip(self._panel.lines.items(), COLORS, strict=False)
        ]
        last = -math.inf
        for y, name, color in sorted(ends):
            last = max(y, last + 15)
            yield f'<text x="{WIDTH - RIGHT + 6}" y="{last + 4:.1f}" fill="{color}">{escape(name)}</text>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#777">{text}</text>'
