"""Draw the calls of runs as bars on an HTML page: when each one ran, and its waits."""

import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import NamedTuple

import msgspec

# Hundredths of the chart: the shortest calls stay visible.
_NARROWEST = 0.4
_MOST_TICKS = 6


class TimedCall(msgspec.Struct, frozen=True, gc=False):
    """One call of a model or tool, with its times in seconds of one clock.

    `kind` is "model" or "tool"; `key` is the key of the effect (`tool/3/0`). `end` is None while
    the call runs. `outcome` is that of the tool message, or "failed". `first` is when the first
    part of an answer arrived. `waits` are the times between retries, or in the queue before the
    call; `notes` describe anything unusual.
    """

    kind: str
    name: str
    key: str
    start: float
    end: float | None
    outcome: str
    first: float | None = None
    waits: tuple[tuple[float, float], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float | None:
        """The duration of the call; None while it runs."""
        return None if self.end is None else self.end - self.start


class Chart(NamedTuple):
    """The calls of one run; `subtitle` stands below the title."""

    title: str
    subtitle: str
    calls: Sequence[TimedCall]


def page(*charts: Chart) -> str:
    """Return charts, one below another, as one HTML page without scripts or other files."""
    title = escape(charts[0].title) if charts else "Nothing ran"
    return _PAGE.format(title=title, charts="\n".join(map(_chart, charts)) or "<p>Nothing ran.</p>")


def duration(seconds: float) -> str:
    """Return a duration as text: `0.4 ms`, `120 ms`, `2.51 s`, `3 min 20 s`."""
    if 0 < seconds < 0.01:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


def _tick(seconds: float) -> str:
    return f"{seconds:g} s" if seconds >= 1 else f"{seconds * 1000:g} ms" if seconds else "0"


class _Scale:
    """The position of times on a chart, in hundredths of its width."""

    def __init__(self, calls: Sequence[TimedCall]) -> None:
        self.start = min((start for call in calls for start in _starts(call)), default=0.0)
        self.end = max((call.end or call.start for call in calls), default=self.start)
        self._whole = max(self.end - self.start, 1e-6)

    def style(self, start: float, end: float | None) -> str:
        left = min(self._place(start), 100 - _NARROWEST)
        width = max(self._place(self.end if end is None else end) - left, _NARROWEST)
        return f"left:{left:.2f}%;width:{min(width, 100 - left):.2f}%"

    @property
    def step(self) -> float:
        """The time between two ticks: 1, 2 or 5 of a unit."""
        least = self._whole / _MOST_TICKS
        unit = 10.0 ** math.floor(math.log10(least))
        return next(unit * count for count in (1, 2, 5, 10) if unit * count >= least)

    def ticks(self) -> Iterator[str]:
        for tick in range(math.floor(self._whole / self.step) + 1):
            place = 100 * tick * self.step / self._whole
            if place < 95:  # otherwise the label has no room
                yield f'<i style="left:{place:.2f}%">{_tick(tick * self.step)}</i>'

    def distance(self) -> str:
        return f"{100 * self.step / self._whole:.2f}%"

    def _place(self, time: float) -> float:
        return 100 * (time - self.start) / self._whole


def _starts(call: TimedCall) -> Iterator[float]:
    yield call.start
    yield from (start for start, _ in call.waits)


def _chart(chart: Chart) -> str:
    scale = _Scale(chart.calls)
    return _CHART.format(
        title=escape(chart.title),
        subtitle=escape(chart.subtitle),
        took=duration(scale.end - scale.start),
        distance=scale.distance(),
        ticks="".join(scale.ticks()),
        rows="\n".join(
            _row(call, scale)
            for call in sorted(chart.calls, key=lambda call: (call.start, call.key))
        ),
    )


def _row(call: TimedCall, scale: _Scale) -> str:
    waited = sum(end - start for start, end in call.waits)
    texts = [*call.notes, *([f"waited {duration(waited)}"] if waited else [])]
    notes = "".join(f"<em>{escape(text)}</em>" for text in texts)
    took = "" if call.seconds is None else duration(call.seconds)
    if call.first is not None:
        took += f"<small>first after {duration(call.first - call.start)}</small>"
    return (
        f'<tr role="row"><th scope="row" role="rowheader">{escape(call.name)}<small>{escape(call.key)}</small></th>'
        f'<td class="lane" role="cell" aria-hidden="true">{_bars(call, scale)}</td>'
        f'<td role="cell">{escape(_OUTCOMES.get(call.outcome, call.outcome))}{notes}</td>'
        f'<td role="cell">{duration(call.start - scale.start)}</td>'
        f'<td role="cell">{took}</td></tr>'
    )


def _bars(call: TimedCall, scale: _Scale) -> str:
    kind = "model" if call.kind == "model" else "tool"
    outcome = call.outcome if call.outcome in _OUTCOMES else "failed"
    bars = [_bar(f"{kind} {outcome}", scale.style(call.start, call.end))]
    if call.first is not None:
        bars.append(_bar("before", scale.style(call.start, call.first)))
    bars += [_bar("wait", scale.style(start, end)) for start, end in call.waits]
    return "".join(bars)


def _bar(kinds: str, style: str) -> str:
    return f'<b class="{kinds}" style="{style}"></b>'


_OUTCOMES = {
    "value": "done",
    "error": "error",
    "timeout": "timed out",
    "cancelled": "cancelled",
    "not_run": "not run",
    "unknown": "unknown",
    "running": "running",
    "open": "open",
    "failed": "failed",
}

_CHART = """<section>
<h1>{title}</h1>
<p>{subtitle}</p>
<table role="table" style="--step:{distance}">
<caption>Calls in the order in which they began; {took} in all</caption>
<thead role="rowgroup"><tr role="row"><th scope="col" role="columnheader">Call</th>\
<th scope="col" role="columnheader" class="lane ticks" aria-label="Time">{ticks}</th>\
<th scope="col" role="columnheader">Outcome</th><th scope="col" role="columnheader">Begun after</th>\
<th scope="col" role="columnheader">Took</th></tr></thead>
<tbody role="rowgroup">
{rows}
</tbody>
</table>
</section>"""

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>
:root {{ color-scheme: light dark;
  --text: #1f2328; --faint: #59636e; --page: #fff; --line: #d8dde3; --note: #fdeccb;
  --model: #3f6fc4; --tool: #2c8450; --bad: #c93c3c; --off: #8b949e; --doubt: #c27d12; --over: #ffffffb8 }}
@media (prefers-color-scheme: dark) {{ :root {{
  --text: #e6edf3; --faint: #9aa4af; --page: #0d1117; --line: #30363d; --note: #4a3a12;
  --model: #5b8def; --tool: #3fa368; --bad: #f0605d; --off: #7d8590; --doubt: #d9952f; --over: #0d1117b8 }} }}
body {{ font: 14px/1.4 system-ui, sans-serif; margin: 2em; color: var(--text); background: var(--page) }}
section {{ margin-bottom: 3em; overflow-x: auto }}
h1 {{ font-size: 1.2em; margin: 0; overflow-wrap: anywhere }}
p, caption, small {{ color: var(--faint) }}
p {{ margin: .2em 0 1em }}
caption {{ text-align: left; padding-bottom: .6em }}
table {{ border-collapse: collapse; width: 100%; min-width: 40em }}
th, td {{ text-align: left; font-weight: 500; padding: 3px 1em 3px 0; white-space: nowrap }}
thead th {{ color: var(--faint); font-weight: 400; border-bottom: 1px solid var(--line) }}
tbody th {{ min-width: 12em; max-width: 14em; white-space: normal; overflow-wrap: anywhere }}
small {{ display: block; font-weight: 400 }}
td:nth-last-child(-n+2), th:nth-last-child(-n+2) {{ text-align: right; font-variant-numeric: tabular-nums }}
.lane {{ position: relative; width: 55%; padding: 0; \
background: linear-gradient(90deg, var(--line) 1px, transparent 1px) 0 0 / var(--step) 100% }}
.ticks i {{ position: absolute; bottom: 3px; font-style: normal; padding-left: 4px }}
td + td, th:nth-child(3) {{ padding-left: 1em }}
b {{ position: absolute; top: calc(50% - .75em); height: 1.5em; min-width: 2px; border-radius: 2px; background: var(--tool) }}
.model {{ background: var(--model) }}
.error, .timeout, .failed {{ background: var(--bad) }}
.cancelled, .not_run {{ background: var(--off) }}
.unknown {{ background: repeating-linear-gradient(45deg, var(--doubt) 0 6px, transparent 6px 10px) }}
.running, .open {{ background: repeating-linear-gradient(90deg, var(--off) 0 4px, transparent 4px 8px) }}
.before {{ background: var(--over) ; border-radius: 0 }}
.wait {{ background: repeating-linear-gradient(45deg, var(--off) 0 2px, var(--page) 2px 6px); border-radius: 0 }}
em {{ display: block; width: max-content; font: .85em/1.4 system-ui, sans-serif; background: var(--note); border-radius: 3px; padding: 0 .4em; margin-left: -.4em }}
dl {{ color: var(--faint); display: flex; flex-wrap: wrap; gap: .4em 1.5em }}
dl div {{ display: flex; align-items: center; gap: .5em }}
dt {{ position: relative; width: 2.5em; height: 1em }} dt b {{ top: 15%; height: 70%; width: 100% }}
dd {{ margin: 0 }}
@media (max-width: 60em) {{
body {{ margin: 1em }}
section {{ overflow: visible }}
table {{ display: block; min-width: 0 }}
caption, thead, tbody {{ display: block }}
tr {{ display: grid; grid-template-columns: 1fr auto; column-gap: 1em; padding: .5em 0; border-bottom: 1px solid var(--line) }}
th, td, td + td, th:nth-child(3) {{ padding: 0; white-space: normal }}
tbody th {{ min-width: 0; max-width: none }}
thead th {{ border: 0 }}
thead th:not(.lane) {{ position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%) }}
.lane {{ grid-area: 2 / 1 / auto / -1; width: auto; height: 2em; margin: .25em 0 }}
.ticks {{ height: 1.2em; margin: 0; font-size: .8em }}
td:nth-child(3) {{ grid-area: 3 / 1 }}
td:nth-child(4) {{ grid-area: 3 / 2; text-align: right; color: var(--faint) }}
td:nth-child(4)::before {{ content: "begun after " }}
td:nth-child(5) {{ grid-area: 1 / 2; text-align: right }}
em {{ display: inline-block; margin: 0 0 0 .5em }}
}}
</style></head>
<body>
{charts}
<dl aria-hidden="true">
<div><dt><b class="model"></b></dt><dd>the model</dd></div>
<div><dt><b class="model"></b><b class="before"></b></dt><dd>before its answer began</dd></div>
<div><dt><b class="tool"></b></dt><dd>a tool</dd></div>
<div><dt><b class="wait"></b></dt><dd>waiting: for a retry, or in the queue</dd></div>
<div><dt><b class="failed"></b></dt><dd>failed, or timed out</dd></div>
</dl>
</body></html>
"""
