"""The JSON Schema test suite, published tools with right and damaged calls, hostile schemas."""

import importlib.util
import sys
from contextlib import suppress
from pathlib import Path
from time import process_time
from types import ModuleType

import pytest

from conformance.json_schema_adapter import is_valid
from pathors_agent.schema.arguments import ArgumentsRefused
from pathors_agent.schema.bounds import InvalidSchema
from pathors_agent.schema.validator import TooMuchWork

MOST_SECONDS = 2.5


@pytest.fixture
def runner(conformance_data: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [*sys.path])  # the runner adds to it
    file = conformance_data / "check_schemas.py"
    spec = importlib.util.spec_from_file_location("check_schemas", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the runner leaves its files open
@pytest.mark.parametrize(
    ("arguments", "passed", "refused"),
    [
        # Refused: what is elsewhere, a name that means several places, unknown vocabularies.
        (
            ["is_valid", "--part", "suite"],
            1225,
            {"dynamicRef.json 30", "vocabulary.json 5", "defs.json 2", "ref.json 2"}
            | {"unevaluatedItems.json 2", "unevaluatedProperties.json 2"},
        ),
        (
            ["is_valid_draft7", "--part", "suite", "--draft", "draft7"],
            900,
            {"definitions.json 2", "ref.json 2"},
        ),
        (["is_valid", "--part", "bfcl"], 3520, set()),
    ],
    ids=["draft 2020-12", "draft 7", "calls"],
)
def test_no_answer_is_wrong(
    arguments: list[str],
    passed: int,
    refused: set[str],
    runner: ModuleType,
    capsys: pytest.CaptureFixture[str],
) -> None:
    function, *options = arguments

    code = runner.main([f"conformance.json_schema_adapter:{function}", *options, "-v"])

    *others, last = capsys.readouterr().out.splitlines()
    assert last == f"{passed} passed, 0 failed"
    assert code == 0
    assert {name for line in others for name in line.partition(": ")[2].split(", ")} == refused


# The time of the processor: a busy machine takes none of it. A tracer of coverage does.
@pytest.mark.slow
def test_hostile_schemas_are_answered_in_time(runner: ModuleType) -> None:
    seconds = {}
    for label, schema, value in runner.bombs():
        began = process_time()
        with suppress(InvalidSchema, ArgumentsRefused, TooMuchWork):
            assert is_valid(schema, value) in (True, False)
        seconds[label] = process_time() - began

    assert len(seconds) == 51
    assert {label: spent for label, spent in seconds.items() if spent >= MOST_SECONDS} == {}
