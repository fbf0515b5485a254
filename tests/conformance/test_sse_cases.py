"""The event-stream cases of web-platform-tests, the HTML standard and other parsers."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the runner leaves its file open
def test_every_event_stream_case_passes_however_it_is_cut(
    conformance_data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])  # the runner adds to it
    spec = importlib.util.spec_from_file_location("check_sse", conformance_data / "check_sse.py")
    assert spec is not None
    assert spec.loader is not None
    runner = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(runner)
    cases = json.loads((conformance_data / "sse" / "cases.json").read_text())["cases"]
    assert len(cases) >= 57

    code = runner.main(["conformance.sse_adapter:events", "-v"])

    assert capsys.readouterr().out == f"{len(cases)} passed, 0 failed\n"
    assert code == 0
