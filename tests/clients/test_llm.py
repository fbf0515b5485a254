"""The command line `llm` against the server; it has no way to name a session in the body."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from client_programs import Environments, plain_environment
from live_server import PATIENCE_SECONDS, Live, live, project
from pathors_agent import Usage, tool
from pathors_agent.testing import answer, calls

# The first test waits until the clients are installed.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

WEATHER = """
def weather(city: str) -> str:
    "Get the weather in a city."
    return "sunny in " + city
"""
OSLO = ("weather", {"city": "Oslo"})


@dataclass
class LLM:
    """The command, with settings and a history of its own."""

    program: str
    home: Path

    def ask(self, server: Live, *words: str, key: str | None = None) -> str:
        """Return its output."""
        done = self.run(server, *words, key=key or server.key)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def run(self, server: Live, *words: str, key: str) -> "subprocess.CompletedProcess[str]":
        model = {
            "model_id": "served",
            "model_name": "any",
            "api_base": server.base,
            "api_key_name": "served",
            "supports_tools": True,
            "supports_schema": True,
            "headers": {"X-Session-ID": "s1"},
        }
        # YAML reads JSON.
        (self.home / "extra-openai-models.yaml").write_text(json.dumps([model]))
        return subprocess.run(
            [self.program, "-m", "served", "--key", key, *words],
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            env=plain_environment(self.home) | {"LLM_USER_PATH": str(self.home)},
            stdin=subprocess.DEVNULL,
            check=False,
        )


@pytest.fixture
def llm(client_environments: Environments, tmp_path: Path) -> LLM:
    return LLM(os.fspath(client_environments.command("llm", "llm")[0]), tmp_path)


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def stored(server: Live) -> list[tuple[str, str]]:
    return [(m["role"], m["content"] or "") for m in server.stored("s1")]


FORMS = pytest.mark.parametrize("form", [["--no-stream"], []], ids=["plain", "streamed"])


@FORMS
def test_answer_is_printed_and_its_usage(llm: LLM, form: list[str]) -> None:
    usage = Usage(prompt_tokens=3, completion_tokens=2, total_tokens=5)
    with live(project(answer("Grüße, 世界", chunk_size=3, usage=usage))) as server:
        done = llm.run(server, "Hi", "-u", *form, key=server.key)

        assert done.stdout.strip() == "Grüße, 世界"
        assert "3 input, 2 output" in done.stderr
        assert stored(server) == [("user", "Hi"), ("assistant", "Grüße, 世界")]


@FORMS
def test_clients_tool_is_called_and_its_result_used(llm: LLM, form: list[str]) -> None:
    with live(project(calls(OSLO), "Sunny.")) as server:
        assert llm.ask(server, "Weather?", "--functions", WEATHER, *form) == "Sunny."

        assert stored(server) == [
            ("user", "Weather?"),
            ("assistant", ""),
            ("tool", "sunny in Oslo"),
            ("assistant", "Sunny."),
        ]


def test_projects_tool_runs_before_and_together_with_the_clients(llm: LLM) -> None:
    add_two = ("add", {"a": 1, "b": 2})
    script = (calls(add_two), calls(OSLO, add_two), "3, and sunny.")
    with live(project(*script, tools=[add])) as server:
        assert llm.ask(server, "Weather?", "--functions", WEATHER) == "3, and sunny."

        assert [text for role, text in stored(server) if role == "tool"] == [
            "3",
            "3",
            "sunny in Oslo",
        ]


def test_continued_conversation_adds_only_new_messages(llm: LLM) -> None:
    with live(project("one", calls(OSLO), "Sunny.", "three")) as server:
        llm.ask(server, "first")
        llm.ask(server, "-c", "second", "--functions", WEATHER)
        llm.ask(server, "-c", "third")

        assert [text for _, text in stored(server)] == [
            "first",
            "one",
            "second",
            "",
            "sunny in Oslo",
            "Sunny.",
            "third",
            "three",
        ]


def test_answer_of_a_schema_is_asked_for(llm: LLM) -> None:
    with live(project('{"city": "Oslo"}')) as server:
        assert llm.ask(server, "Where?", "--schema", "city str") == '{"city": "Oslo"}'

        transport: Any = server.app.state.runtime.projects["demo"].transport
        asked = transport.requests[0]["response_format"]
        assert asked["json_schema"]["schema"]["properties"] == {"city": {"type": "string"}}


def test_wrong_key_is_reported(llm: LLM) -> None:
    with live(project()) as server:
        done = llm.run(server, "Hi", key="sk_wrong")

        assert done.returncode == 1
        assert "Invalid authentication" in done.stderr


def test_bad_request_is_reported(llm: LLM) -> None:
    with live(project(tools=[add])) as server:
        functions = "def add(a: int, b: int) -> int:\n    'Add.'\n    return 0\n"
        done = llm.run(server, "Hi", "--functions", functions, key=server.key)

        assert done.returncode == 1
        assert "A tool of the request has the name of one of the project's own" in done.stderr
