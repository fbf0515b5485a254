"""What ran when, drawn: each call a bar, with what it waited for, in words too."""

import re
import time
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from anyio.lowlevel import checkpoint

from pathors_agent import Agent, Limits, TransportError, tool
from pathors_agent.telemetry.timeline import Chart, TimedCall, duration, page
from pathors_agent.testing import ScriptedTransport, answer, calls, http_error
from ways import Way

EVIL = '"><script>alert(1)</script><img src=x onerror="x">'


class Tags(HTMLParser):
    """Gathers the tags of a page with their attributes, and the words of each row."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])

    def handle_endtag(self, tag: str) -> None:
        if tag == "tbody":
            self.rows.append([])  # what follows is in no row

    def handle_data(self, data: str) -> None:
        if self.rows and data.strip():
            self.rows[-1].append(data.strip())


def read(text: str) -> Tags:
    tags = Tags()
    tags.feed(text)
    return tags


def bars(text: str) -> list[tuple[str, float, float]]:
    """Return each bar's kind, and where it begins and ends in hundredths of the chart."""
    found = re.findall(r'<b class="([^"]+)" style="left:([\d.]+)%;width:([\d.]+)%">', text)
    return [(kind, float(left), float(left) + float(width)) for kind, left, width in found]


def chart(*timed: TimedCall) -> str:
    return page(Chart("Run", "finished", timed))


MODEL = TimedCall("model", "small", "model/0", 100.0, 101.0, "value")


def test_calls_side_by_side_have_bars_side_by_side() -> None:
    first = TimedCall("tool", "look", "tool/0/0", 101.0, 104.0, "value")
    second = TimedCall("tool", "ask", "tool/0/1", 101.0, 103.0, "error")

    assert bars(chart(MODEL, second, first)) == [
        ("model value", 0.0, 25.0),
        ("tool value", 25.0, 100.0),
        ("tool error", 25.0, 75.0),
    ]


def test_waits_and_the_first_of_an_answer_are_seen_and_said() -> None:
    notes = ("sent again: 503",)
    call = TimedCall("model", "m", "model/0", 0.0, 10.0, "value", 8.0, ((1.0, 5.0),), notes)
    text = chart(call)

    assert bars(text) == [("model value", 0.0, 100.0), ("before", 0.0, 80.0), ("wait", 10.0, 50.0)]
    assert read(text).rows[1] == [
        *("m", "model/0", "done", "sent again: 503", "waited 4.00 s"),
        *("0 ms", "10.00 s", "first after 8.00 s"),
    ]


def test_tool_that_waited_for_a_place_has_the_wait_before_its_bar() -> None:
    call = TimedCall("tool", "look", "tool/0/1", 1.0, 2.0, "value", waits=((0.0, 1.0),))

    assert bars(chart(call)) == [("tool value", 50.0, 100.0), ("wait", 0.0, 50.0)]


def test_call_that_runs_has_a_bar_to_the_end() -> None:
    running = TimedCall("tool", "look", "tool/0/0", 100.5, None, "running")

    assert bars(chart(MODEL, running)) == [
        ("model value", 0.0, 100.0),
        ("tool running", 50.0, 100.0),
    ]


def test_call_that_took_no_time_is_seen_inside_the_chart() -> None:
    last = TimedCall("tool", "look", "tool/0/0", 101.0, 101.0, "not_run")
    _, (kind, start, end) = bars(chart(MODEL, last))

    assert kind == "tool not_run"
    assert 0 < end - start < 1
    assert end <= 100


def test_page_escapes_all_that_others_wrote() -> None:
    evil = TimedCall(EVIL, EVIL, EVIL, 0.0, 1.0, EVIL, notes=(EVIL,))
    tags = read(page(Chart(EVIL, EVIL, [evil])))

    assert not {"script", "img"} & {tag for tag, _ in tags.found}
    assert EVIL in tags.rows[1]


def test_page_needs_nothing_from_elsewhere() -> None:
    text = chart(MODEL)

    assert "default-src 'none'" in text
    assert not re.search(r"\b(src|href)=|url\(|@import|https?:", text)


def test_page_has_a_table_for_screen_readers() -> None:
    tags = read(chart(MODEL))
    heads = [attrs["scope"] for tag, attrs in tags.found if tag == "th"]

    assert heads == ["col", "col", "col", "col", "col", "row"]
    assert "caption" in [tag for tag, _ in tags.found]
    hidden = [tag for tag, attrs in tags.found if attrs.get("aria-hidden") == "true"]
    assert hidden == ["td", "dl"]


def test_several_runs_are_drawn_on_one_page_each_on_its_own_scale() -> None:
    later = TimedCall("model", "small", "model/1", 900.0, 901.0, "value")
    text = page(Chart("One", "", [MODEL]), Chart("Two", "", [later]))

    assert bars(text) == [("model value", 0.0, 100.0)] * 2
    assert re.findall("<h1>(.*)</h1>", text) == ["One", "Two"]


@pytest.mark.parametrize("text", [page(), chart()])
def test_nothing_is_a_page_too(text: str) -> None:
    assert bars(text) == []
    assert text.startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0.0, "0 ms"), (0.0004, "0.4 ms"), (0.0099, "9.9 ms"), (0.12, "120 ms")),
        *((2.514, "2.51 s"), (59.99, "59.99 s"), (200.4, "3 min 20 s")),
    ],
)
def test_lengths_of_time_are_written_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("end", "ticks"),
    [
        (100.1, ["0", "20 ms", "40 ms", "60 ms", "80 ms"]),
        (102.51, ["0", "500 ms", "1 s", "1.5 s", "2 s"]),
        (400.0, ["0", "50 s", "100 s", "150 s", "200 s", "250 s"]),
    ],
)
def test_ticks_are_round(end: float, ticks: list[str]) -> None:
    text = chart(TimedCall("model", "small", "model/0", 100.0, end, "value"))

    assert re.findall(r"<i [^>]*>([^<]*)</i>", text) == ticks


# - the times of a run -


@tool
def look(at: str) -> str:
    """Look at something."""
    if at == "nothing":
        raise ValueError(at)
    return at


def test_run_keeps_the_times_of_its_calls(way: Way) -> None:
    script = calls(("look", {"at": "me"}), ("look", {"at": "nothing"}), ("look", {}), ("no", {}))
    result = way.run(script, "Done.", prompt="Go.", tools=[look], model="small")

    times = sorted(result.times, key=lambda timed: timed.key)
    assert [(t.kind, t.name, t.key, t.outcome) for t in times] == [
        ("model", "small", "model/0", "value"),
        ("model", "small", "model/1", "value"),
        ("tool", "look", "tool/0/0", "value"),
        ("tool", "look", "tool/0/1", "error"),
        ("tool", "look", "tool/0/2", "error"),
        ("tool", "no", "tool/0/3", "error"),
    ]
    first, second, *tools = times
    assert first.first is not None
    assert first.start <= first.first <= (first.end or 0)
    assert all((first.end or 0) <= timed.start <= (timed.end or 0) for timed in tools)
    assert max(timed.end or 0 for timed in tools) <= second.start
    assert {kind for kind, _, _ in bars(result.timeline())} == {
        *("model value", "before", "tool value", "tool error")
    }


def test_comparison_of_results_ignores_their_times(way: Way) -> None:
    result = way.run("Done.", prompt="Go.")

    assert replace(result, times=()) == result
    assert "times" not in repr(result)


@pytest.mark.parametrize("name", ["asyncio", "trio"])
def test_wait_of_a_tool_for_a_place_is_reported(name: str) -> None:
    waits = Way(name)
    both = calls(("pause", {}), ("pause", {}))
    result = waits.run(both, "Done.", prompt="Go.", tools=[pause], limits=Limits(max_concurrency=1))

    tools = [timed for timed in result.times if timed.kind == "tool"]
    [waited] = [timed for timed in tools if timed.waits]
    [(start, end)] = waited.waits
    assert start < end == waited.start


@tool
async def pause() -> str:
    """Pause."""
    until = time.monotonic() + 0.002
    while time.monotonic() < until:
        await checkpoint()
    return "over"


def test_failed_and_left_calls_have_times(way: Way) -> None:
    left = way.stream(answer("One two", chunk_size=3), prompt="Go.", stop_after=1)

    assert [(t.key, t.outcome) for t in left.times] == [("model/0", "cancelled")]


def test_stream_that_fails_keeps_its_times() -> None:

    stream = Agent(ScriptedTransport(http_error(500, "gone"))).stream("Go.")
    with pytest.raises(TransportError), stream:
        list(stream)

    assert [(t.key, t.outcome) for t in stream.result.times] == [("model/0", "failed")]
