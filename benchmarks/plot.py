"""Draw what an event or a turn costs each contender, on a logarithmic scale, as SVG."""

import math
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import NamedTuple

from benchmarks.lines import NIGHT
from benchmarks.results import Cost

WIDTH = 720
ROW = 20
GROUP = 46
TOP = 56
OURS = "#0b6e4f"
FLOOR = "#9aa0a6"
OTHERS = "#c8553d"


class Plot(NamedTuple):
    """What a plot shows: its title, and the width of its labels."""

    title: str
    labels: int


EVENTS = Plot("Microseconds of CPU per streamed event", 170)
TURNS = Plot("Microseconds of CPU per served turn", 320)


def write(path: Path, plot: Plot, costs: list[Cost], caption: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(svg(plot, costs, caption))


def svg(plot: Plot, costs: list[Cost], caption: str) -> str:
    """Draw a group of bars for every case, cheapest first."""
    cases = list(dict.fromkeys(cost.case for cost in costs))
    groups = [
        sorted((c for c in costs if c.case == case), key=lambda c: c.microseconds) for case in cases
    ]
    height = TOP + sum(GROUP + ROW * len(group) for group in groups) + 10
    scale = _Scale([cost.microseconds for cost in costs], plot.labels)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="12">',
        NIGHT,
        f'<rect class="paper" width="{WIDTH}" height="{height}" fill="white"/>',
        '<text x="10" y="20" font-size="15" font-weight="bold">'
        f"{plot.title} (logarithmic; shorter is better)</text>",
        f'<text x="10" y="38" fill="#555">{escape(caption)}</text>',
        *scale.grid(height),
        *_groups(groups, scale),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


class _Scale:
    """Where a number of microseconds lies between the labels and the right edge."""

    def __init__(self, numbers: list[float], labels: int) -> None:
        self.start = labels
        self._low = math.floor(math.log10(min(numbers, default=1)) * 2) / 2 - 0.5
        self._high = math.log10(max(numbers, default=10)) + 0.15

    def width(self, number: float) -> float:
        share = (math.log10(number) - self._low) / (self._high - self._low)
        return share * (WIDTH - self.start - 60)

    def grid(self, height: int) -> Iterator[str]:
        for power in range(math.ceil(self._low), math.floor(self._high) + 1):
            x = self.start + self.width(10.0**power)
            yield (
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{height - 6}" stroke="#ddd"/>'
                f'<text x="{x + 3:.1f}" y="{TOP}" fill="#777">{10.0**power:g} µs</text>'
            )


def _groups(groups: list[list[Cost]], scale: _Scale) -> Iterator[str]:
    y = TOP
    for group in groups:
        y += GROUP - 12
        yield f'<text x="10" y="{y - 6}" font-weight="bold">{escape(group[0].case)}</text>'
        for cost in group:
            yield from _bar(cost, y, scale)
            y += ROW
        y += 12


def _bar(cost: Cost, y: int, scale: _Scale) -> Iterator[str]:
    start, width = scale.start, scale.width(cost.microseconds)
    color = FLOOR if cost.contender.startswith("floor") else OTHERS
    if cost.contender.startswith("pathors"):
        color = OURS
    yield (
        f'<text x="{start - 8}" y="{y + 13}" text-anchor="end">{escape(cost.contender)}</text>'
        f'<rect x="{start}" y="{y + 2}" width="{width:.1f}" height="{ROW - 6}" fill="{color}"/>'
        f'<text x="{start + width + 5:.1f}" y="{y + 13}">{_shown(cost.microseconds)}</text>'
    )


def _shown(number: float) -> str:
    """Write three digits, without an exponent."""
    return f"{float(f'{number:.3g}'):,.0f}" if number >= 100 else f"{number:.3g}"
