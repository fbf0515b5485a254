import json
import os
import pty
import signal
import subprocess
from collections.abc import Iterator, Sequence

import pytest

from command_line import PATIENCE_SECONDS, PROGRAM, environment, run, until
from live_server import Live, live
from pathors_agent.offline import AsyncOfflineTransport, OfflineTransport
from pathors_agent.server import Project
from pathors_agent.transports.base import Request
from servers import STALL, FakeLLMServer, Received, ScriptedServer, Step, answer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    with live(Project(id="demo", transport=AsyncOfflineTransport())) as running:
        yield running


COMPLETION = {
    "id": "1",
    "object": "chat.completion",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "Hello \x1b[2J there."},
        }
    ],
}


class NoTools(ScriptedServer):
    """Answers whole, and refuses tools."""

    def script_for(self, request: Received) -> Sequence[Step]:
        if b'"tools"' not in request.body:
            return [answer(json.dumps(COMPLETION).encode(), Content_Type="application/json")]
        error = b'{"error":{"message":"No \\u001b[2Jtools."}}'
        return [answer(error, "400 Bad Request", Content_Type="application/json")]


@pytest.fixture
def no_tools() -> Iterator[NoTools]:
    serving = NoTools()
    yield serving
    serving.stop()


def test_table_and_profile_are_written(server: Live) -> None:
    shown = run("check", server.base, PATHORS_API_KEY=server.key)

    assert (shown.returncode, shown.stderr) == (5, "")
    lines = [line.rstrip() for line in shown.stdout.splitlines()]
    assert lines[0].split() == ["rule", "seen", "remark"]
    assert "tool call in a stream" in lines[10]
    assert lines[10].endswith("holds")
    assert lines[-2:] == [
        "profile=EndpointProfile(requires_calls=False)",
        "Agents have what they need here with this profile.",
    ]


def test_json_is_one_line(server: Live) -> None:
    shown = run("check", server.base, "--key", server.key, "--json", "--model", "any")

    told = json.loads(shown.stdout)
    assert shown.stdout.count("\n") == 1
    assert told["model"] == "any"
    assert (told["holds"], told["works"]) == (False, True)
    assert told["profile"] == {"requires_calls": False}
    assert len(told["findings"]) == 36
    assert server.key not in shown.stdout


def test_missing_feature_has_exit_status_3(no_tools: NoTools) -> None:
    shown = run("check", no_tools.url, "--key", "")

    assert shown.returncode == 3
    assert "\x1b" not in shown.stdout
    assert "MISSING" in shown.stdout
    assert "No \N{REPLACEMENT CHARACTER}[2Jtools." in shown.stdout
    said = shown.stdout.splitlines()[-1]
    assert said.startswith("Agents lack what they need here, and no profile helps: ")
    assert "tool call in a whole answer" in said


def test_rule_that_was_not_seen_has_exit_status_4(fakellm_server: FakeLLMServer) -> None:
    both = [{"name": "get_weather", "arguments": {"city": c}} for c in ("Oslo", "Rome")]
    fakellm_server.rules(
        {"name": "done", "when": {"tool_result_contains": "21"}, "respond": {"content": "Warm."}},
        {"name": "call", "when": {"tools_include": "get_weather"}, "respond": {"tool_calls": both}},
    )

    shown = run("check", fakellm_server.url, "--key", "")

    assert shown.returncode == 4
    assert "NOT SEEN" in shown.stdout
    assert shown.stdout.splitlines()[-1] == (
        "Not everything that agents need was seen here: "
        "call without arguments; a whole agent, with this profile."
    )


class Obedient(ScriptedServer):
    """Answers by rules, and calls a tool if `tool_choice` asks for a call."""

    def script_for(self, request: Received) -> Sequence[Step]:
        fields = json.loads(request.body) if b'"messages":[' in request.body else None
        if fields is None:
            return [answer(b'{"error":{"message":"No."}}', "400 Bad Request")]
        if fields.get("tool_choice") == "required":
            fields["messages"] = [{"role": "user", "content": "What is the weather in Oslo?"}]
        with OfflineTransport().send(Request(body=json.dumps(fields).encode())) as response:
            kind = response.headers["content-type"]
            return [answer(b"".join(response.pieces), Content_Type=kind)]


def test_endpoint_where_every_rule_holds_ends_with_0() -> None:
    obedient = Obedient()
    try:
        shown = run("check", obedient.url, "--key", "")
    finally:
        obedient.stop()

    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.splitlines()[-2:] == [
        "profile=EndpointProfile()",
        "Agents have what they need here.",
    ]


def test_endpoint_that_cannot_be_asked_ends_with_1(server: Live) -> None:
    refused = run("check", server.base, "--key", "sk_wrong")
    no_server = run("check", "http://127.0.0.1:9/v1", "--key", "")

    assert (
        (refused.returncode, refused.stdout) == (no_server.returncode, no_server.stdout) == (1, "")
    )
    assert refused.stderr == (
        "error: the provider answered 401: Invalid authentication; "
        "check the key (--key, PATHORS_API_KEY)\n"
    )
    assert no_server.stderr.startswith("error: No connection to http://127.0.0.1:9")


def test_silence_ends_it_in_time() -> None:
    with_silence = ScriptedServer(*[[STALL]] * 8)
    try:
        shown = run("check", with_silence.url, "--key", "", "--seconds", "1")
    finally:
        with_silence.stop()

    assert shown.returncode == 1
    assert "within 1 s" in shown.stderr


def test_ctrl_c_ends_it() -> None:
    with_silence = ScriptedServer([STALL])
    command = [*PROGRAM, "check", with_silence.url, "--key", ""]
    try:
        with subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE) as process:
            until(lambda: with_silence.requests)
            process.send_signal(signal.SIGINT)
            errors = process.communicate(timeout=PATIENCE_SECONDS)[1]
    finally:
        with_silence.stop()

    assert (process.returncode, errors) == (130, b"")


def test_bar_shows_on_a_terminal_only(server: Live) -> None:
    ours, theirs = pty.openpty()
    command = [*PROGRAM, "check", server.base, "--json"]
    variables = environment(PATHORS_API_KEY=server.key, TERM="xterm")
    process = subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    shown = "".join(iter(lambda: read(ours), ""))
    assert process.stdout is not None
    told = process.stdout.read()
    process.stdout.close()

    assert process.wait(PATIENCE_SECONDS) == 5
    assert "%" in shown
    assert "streamed answer" in shown or "tool call" in shown
    assert b"%" not in told
    assert json.loads(told)["works"]


def read(terminal: int) -> str:
    try:
        return os.read(terminal, 65536).decode(errors="replace")
    except OSError:  # the error of Linux for a terminal that no other process has open
        os.close(terminal)
        return ""
