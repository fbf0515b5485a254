"""Every benchmark runs, once and small, and what it times is checked. No time is judged here."""

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parent.parent

# But for litellm's: it runs in an environment of its own, which `make bench` makes.
SECTIONS = [
    *("stream_path", "partial_arguments", "outgoing", "growth"),
    *("round_trip", "loopback", "server", "server_turns", "served_peers", "durable"),
    *("imports", "installs"),
]


@pytest.fixture(autouse=True)
def _project_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(PROJECT)


@pytest.mark.timeout(600)  # some start a dozen processes, one after another
@pytest.mark.parametrize("section", SECTIONS)
def test_section_runs_and_writes_its_results(section: str, tmp_path: Path) -> None:
    files = {"--json": tmp_path / "found.json", "--svg": tmp_path / "found.svg"}
    files["--turns-svg"] = tmp_path / "turns.svg"
    options = [str(word) for pair in files.items() for word in pair]
    command = [sys.executable, "-m", "benchmarks", "--quick", "--only", section, *options]

    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert "not how fast" in done.stdout
    found = json.loads(files["--json"].read_text())
    assert found["targets"] or found["skipped"]
    assert all(row["median"] > 0 and row["reached"] is None for row in found["targets"])
    if section == "served_peers":
        assert "pathors_agent, SQLite" in files["--turns-svg"].read_text()
    if section == "stream_path":
        assert ElementTree.parse(files["--svg"]).getroot().tag.endswith("svg")
        assert "pathors_agent reader" in files["--svg"].read_text()


def test_every_section_is_in_the_list() -> None:
    from benchmarks.__main__ import SECTIONS as WRITTEN

    assert sorted(WRITTEN) == sorted([*SECTIONS, "litellm_peer"])


def test_contender_with_another_result_gets_an_error() -> None:
    from benchmarks.rounds import WrongResult, measure

    with pytest.raises(WrongResult, match="bout: second gave something else: 2"):
        measure("bout", {"first": lambda: 1, "second": lambda: 2}, rounds=1, check=lambda n: n == 1)


def test_each_round_runs_every_contender_once() -> None:
    from benchmarks.rounds import measure

    calls: list[str] = []
    contenders = {name: (lambda name=name: calls.append(name)) for name in "abc"}

    timings = measure("bout", contenders, rounds=5, check=lambda _: True)

    warmed, *rounds = (calls[at : at + 3] for at in range(0, len(calls), 3))
    assert warmed == ["a", "b", "c"]
    assert [sorted(names) for names in rounds] == [["a", "b", "c"]] * 5
    assert [len(timings.seconds[name]) for name in "abc"] == [5, 5, 5]


def test_contender_that_clocks_itself_is_believed() -> None:
    from benchmarks.rounds import Clocked, Contender, measure

    contenders: dict[str, Contender[int]] = {"a": lambda: Clocked(1, 0.25)}

    timings = measure("bout", contenders, rounds=2, check=lambda n: n == 1)

    assert timings.seconds == {"a": [0.25, 0.25]}


def test_ratios_are_taken_within_a_round() -> None:
    from benchmarks.rounds import Timings

    timings = Timings({"ours": [1.0, 4.0], "less": [0.5, 1.0], "floor": [2.0, 1.0]})

    assert timings.ratio("ours", "floor") == [0.5, 4.0]
    assert timings.ratio("ours", "floor", minus="less") == [0.25, 3.0]


def test_target_is_judged_by_the_median() -> None:
    from benchmarks.results import Row

    values = [1.0, 2.0, 9.0]

    assert Row("T", "what", values, 2.0).reached
    assert not Row("T", "what", values, 1.9).reached
    assert Row("T", "what", values, 2.0, at_least=True).reached
    assert not Row("T", "what", values, 2.1, at_least=True).reached
    assert Row("T", "what", values).reached is None
    assert Row("T", "what", values).quartiles == (1.5, 5.5)
    assert Row("T", "what", [3.0]).quartiles == (3.0, 3.0)


@pytest.mark.parametrize("stream", ["text", "arguments", "8 calls", "CR LF, comments"])
def test_cutting_a_stream_loses_nothing_of_it(stream: str) -> None:
    from benchmarks import corpora, stream_path
    from benchmarks.results import Settings

    body = stream_path.bodies(Settings.of(quick=True))[stream]

    for size in (None, 1, 1_024):
        assert b"".join(corpora.reads(body, size)) == body


def test_expected_answers_are_those_of_the_streams() -> None:
    from benchmarks.answers import answer_in
    from benchmarks.corpora import arguments_text, openai_calls, openai_text

    assert answer_in(openai_text(4)) == (" The quick brown fox", ())
    text, calls = answer_in(openai_calls(2, 40))
    assert (text, calls) == (
        "",
        (("lookup_0", arguments_text(40)), ("lookup_1", arguments_text(40))),
    )


def test_simulated_fleet_is_saturated_where_its_database_is() -> None:
    from benchmarks.simulate_fleet import Figures, Fleet, simulate

    figures = Figures(writes_a_second=100, reads_a_second=1_000, idle_transactions_a_second=1)
    fleet = Fleet(
        figures=figures,
        workers=10,
        seconds=60,
        model_median=0.1,
        model_p95=0.2,
        tool_median=0.1,
        tool_p95=0.2,
    )
    # 11 transactions of a run on the mean: 5 runs a second take half of the database's time.
    half, twice, divided = (
        simulate(fleet, conversations_a_day=load, databases=databases)
        for load, databases in ((43_200, 1), (172_800, 1), (172_800, 4))
    )

    assert (half.is_saturated, twice.is_saturated, divided.is_saturated) == (False, True, False)
    assert 0.4 < half.busiest < 0.7
    assert twice.busiest > 0.95
    assert divided.busiest < 0.8
    assert 0.9 < len(half.seconds) / half.came <= 1


def test_simulated_loss_of_a_zone_loses_no_run() -> None:
    from benchmarks.simulate_fleet import Figures, Fleet, simulate

    figures = Figures(writes_a_second=1_000, reads_a_second=9_000, idle_transactions_a_second=1)
    fleet = Fleet(figures=figures, workers=30, seconds=90, conversations_a_day=40_000)
    whole, lost = simulate(fleet), simulate(fleet, lost_at=20.0)

    assert lost.taken_over > 0
    assert lost.percentile(1) > fleet.takeover > whole.percentile(0.9)
    assert len(lost.seconds) > whole.came * 0.8
