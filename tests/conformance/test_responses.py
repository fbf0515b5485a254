"""Answers in one piece, recorded from many providers: completions and errors."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the runner leaves its files open
def test_every_recorded_answer_is_a_message_or_the_providers_error(
    conformance_data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(conformance_data)])  # it imports the other
    path = conformance_data / "check_responses.py"
    spec = importlib.util.spec_from_file_location("check_responses", path)
    assert spec is not None
    assert spec.loader is not None
    runner = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(runner)
    folder = conformance_data / "responses"
    cases = sum(len(json.loads(file.read_text())["cases"]) for file in folder.glob("*.json"))
    assert cases >= 212

    code = runner.main(["conformance.stream_adapter:message_of_response", "--strict"])

    assert capsys.readouterr().out == f"{cases} passed, 0 failed\n"
    assert code == 0
