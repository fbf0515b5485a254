"""Streams as servers really send them: recorded ones where they are at hand, and our own quirks."""

import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest

from conformance.stream_adapter import WireMessage, message_of_stream
from pathors_agent.agents.agent import Agent
from pathors_agent.errors import IncompleteResponse, TransportError
from pathors_agent.messages import ToolMessage
from pathors_agent.testing import ScriptedTransport, raw
from pathors_agent.tools.tool import Tool

QUIRKS = sorted((Path(__file__).parent / "quirks").iterdir())


def load_runner(folder: Path, name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the runner leaves its files open
@pytest.mark.timeout(300)  # every recorded stream, a byte at a time and at 40 early ends
def test_every_recorded_stream_is_the_same_message_in_any_cut(
    conformance_data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])  # the runner adds to it
    runner = load_runner(conformance_data, "check_streams")
    cases = len([*conformance_data.glob("streams/*/body.sse")])
    cases += len([*conformance_data.glob("quirks/*/body.sse")])
    assert cases >= 349

    code = runner.main(["conformance.stream_adapter:message_of_stream", "--prefixes", "--strict"])

    assert capsys.readouterr().out == f"{cases} passed, 0 failed\n"
    assert code == 0


def cuts(body: bytes) -> Iterator[list[bytes]]:
    """Cut a body whole, by the byte, by the line, and inside each line."""
    yield [body]
    yield [body[i : i + 1] for i in range(len(body))]
    yield body.splitlines(keepends=True)
    yield re.split(rb"([\r\n])", body)
    yield [body[i : i + 7] for i in range(0, len(body), 7)]


@pytest.mark.parametrize("folder", QUIRKS, ids=lambda folder: folder.name)
def test_quirk_is_read_as_expected_however_it_is_cut(folder: Path) -> None:
    expected = json.loads((folder / "expected.json").read_text())
    body = (folder / "body.sse").read_bytes()

    for pieces in cuts(body):
        check(expected, pieces)


def check(expected: dict[str, Any], pieces: list[bytes]) -> None:
    match expected["outcome"]:
        case "message":
            assert_message(expected, message_of_stream(pieces))
        case "error":
            with pytest.raises(TransportError) as failed:
                message_of_stream(pieces)
            for words in expected["error_contains"]:
                assert words in str(failed.value)
        case "incomplete":
            with pytest.raises(IncompleteResponse) as broken:
                message_of_stream(pieces)
            assert broken.value.partial is not None
            assert broken.value.partial.content == expected.get("partial_content")
        case other:
            raise AssertionError(other)


def assert_message(expected: dict[str, Any], got: WireMessage) -> None:
    wanted = expected["message"]
    contents = expected.get("content_any", [wanted["content"]])
    assert (got["content"] or None) in [content or None for content in contents]
    assert got["finish_reason"] in expected.get("finish_any", [wanted["finish_reason"]])
    for field in ("reasoning", "refusal"):
        if field in expected:
            assert got[field] == expected[field]
    for name, count in expected.get("usage", {}).items():
        assert isinstance(got["usage"], dict)
        assert got["usage"][name] == count
    assert_calls(expected, got["tool_calls"])
    assert_other_choices(expected, got)


def assert_calls(expected: dict[str, Any], calls: Any) -> None:
    wanted_calls = expected["message"]["tool_calls"]
    if expected.get("nameless_ok"):
        assert [call["function"]["name"] for call in calls] == [""]
        return
    if expected.get("order_any"):
        calls, wanted_calls = (sorted(c, key=name_of) for c in (calls, wanted_calls))
    for call, wanted in zip_longest(calls, wanted_calls):
        assert name_of(call) == name_of(wanted)
        assert call["id"] == (wanted["id"] or call["id"])
        assert call["id"]
        assert_arguments(expected, call["function"]["arguments"], wanted["function"]["arguments"])
        for name, value in expected.get("extra_kept", {}).items():
            assert call[name] == value
    assert len({call["id"] for call in calls}) == len(calls)


def name_of(call: dict[str, Any]) -> str:
    return str(call["function"]["name"])


def assert_arguments(expected: dict[str, Any], got: str, wanted: str) -> None:
    if expected.get("empty_args_ok") or not wanted.strip():
        assert got.strip() in ("", "{}")
    elif expected.get("arguments_json"):
        assert json.loads(got) == json.loads(wanted)
    else:
        assert got in expected.get("arguments_any", [wanted])


def assert_other_choices(expected: dict[str, Any], got: WireMessage) -> None:
    choices: Any = got["choices"]
    wanted = expected.get("other_choices", {})
    for index, other in wanted.items():
        assert choices[int(index)]["content"] == other["content"]
        assert choices[int(index)]["finish_reason"] == other["finish_reason"]
    assert len(choices) == 1 + len(wanted)


QUIRKS_OF_TOOLS = [
    folder for folder in QUIRKS if '"runs_tools"' in (folder / "expected.json").read_text()
]
PLACE = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "additionalProperties": False,
}


def test_there_are_quirks_that_say_whether_tools_run() -> None:
    assert len(QUIRKS_OF_TOOLS) >= 8


@pytest.mark.parametrize("folder", QUIRKS_OF_TOOLS, ids=lambda folder: folder.name)
def test_tools_run_only_where_a_quirk_leaves_no_doubt_of_the_call(folder: Path) -> None:
    expected = json.loads((folder / "expected.json").read_text())
    ran: list[dict[str, Any]] = []
    tools = [
        Tool(name=name, parameters=PLACE, function=lambda **arguments: ran.append(arguments))
        for name in ("get_weather", "get_time")
    ]
    body = (folder / "body.sse").read_bytes()
    agent = Agent(ScriptedTransport(raw(body), "It is cold."), tools=tools)

    if expected["outcome"] == "error":
        with pytest.raises(TransportError):
            agent.run("What is the weather?")
    else:
        result = agent.run("What is the weather?")
        results = [m for m in result.messages if isinstance(m, ToolMessage)]
        assert all(m.is_error for m in results) is not expected["runs_tools"]

    assert bool(ran) is expected["runs_tools"]
