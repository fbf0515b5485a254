"""The page on calling the server: its curl lines and its programs run against a live server.

A `json` or `text` block after a `sh` block is what it prints, three dots standing for any text.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from client_programs import ROOT, Environments, plain_environment
from live_server import PATIENCE_SECONDS, Live, live
from pathors_agent.cli.serve import demo_project

# The first test waits until the clients are installed.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PAGE = ROOT / "docs" / "howto" / "call-the-server.md"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Command:
    """A block of the page, and what the block after it says that it prints."""

    language: str
    text: str
    shown: tuple[str, str] | None = None

    def __str__(self) -> str:
        return self.text.replace("\\\n", " ")[:60]


def commands(*languages: str) -> list[Command]:
    found = [(match[1], match[2]) for match in FENCE.finditer(PAGE.read_text())]
    followed = [*pairwise(found), (found[-1], None)]
    return [
        Command(*block, after if after and after[0] in {"json", "text"} else None)
        for block, after in followed
        if block[0] in languages
    ]


def starting(word: str) -> list[Command]:
    return [command for command in commands("sh") if command.text.startswith(f"{word} ")]


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    """Serve what `pathors-agent serve` does."""
    with live(demo_project()) as running:
        yield running


def variables(server: Live, home: Path) -> dict[str, str]:
    return {**plain_environment(home), "BASE_URL": server.base, "API_KEY": server.key}


def printed_by(command: list[str], variables: dict[str, str], home: Path, text: str = "") -> str:
    done = subprocess.run(
        command,
        input=text,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        env=variables,
        cwd=home,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def fits(value: Any, expected: Any) -> bool:
    """Return True if a value is the expected one; three dots in a text match any text."""
    match expected:
        case "...":
            return True
        case dict():
            same = isinstance(value, dict) and value.keys() == expected.keys()
            return same and all(fits(value[name], expected[name]) for name in expected)
        case list():
            same = isinstance(value, list) and len(value) == len(expected)
            return same and all(map(fits, value, expected))
        case str():
            pattern = ".*".join(map(re.escape, expected.split("...")))
            return isinstance(value, str) and re.fullmatch(pattern, value) is not None
        case _:
            return bool(value == expected)


def curl_version() -> tuple[int, ...]:
    """Return the numbers of curl's version, or none without curl."""
    curl = shutil.which("curl")
    if curl is None:
        return ()
    said = subprocess.run([curl, "--version"], capture_output=True, text=True, check=True).stdout
    return tuple(int(number) for number in re.findall(r"\d+", said)[:2])


def test_curl_commands_of_the_page_work(server: Live, tmp_path: Path) -> None:
    if curl_version() < (7, 82):
        pytest.skip("curl is not there, or too old to know --json")
    answers = []
    for command in starting("curl"):
        printed = printed_by(["sh", "-ec", command.text], variables(server, tmp_path), tmp_path)
        answers.append(printed)
        match command.shown:
            case ("json", shown):
                assert fits(json.loads(printed), json.loads(shown)), printed
            case ("text", shown):
                lines = [line for line in printed.splitlines() if line]
                assert fits(lines, [line for line in shown.splitlines() if line]), printed
            case _:
                assert "error" not in json.loads(printed)

    weather, distance, session = (json.loads(text) for text in answers[3:6])
    assert "sunny, 21 degrees" in weather["choices"][0]["message"]["content"]
    assert "6.21" in distance["choices"][0]["message"]["content"]
    roles = [message["role"] for message in session["data"]["messages"]]
    assert roles == [
        "user",
        "assistant",
        "tool",
        "assistant",
        "user",
        "assistant",
        "tool",
        "assistant",
    ]


def test_lines_take_the_address_that_the_server_says_and_a_key() -> None:
    exports = starting("export")[0].text

    assert re.findall(r"export (\w+)=", exports) == ["BASE_URL", "API_KEY"]
    assert '"http://127.0.0.1:8000/v1/projects/demo"' in exports


@pytest.mark.parametrize("command", commands("py", "js"), ids=lambda c: c.text.split("\n")[2])
def test_program_prints_what_it_says(
    command: Command, server: Live, client_environments: Environments, tmp_path: Path
) -> None:
    if command.language == "js":
        folder = client_environments.folder("openai-node")
        (tmp_path / "node_modules").symlink_to(folder / "node_modules")
        runner = [*client_environments.command("openai-node", "node"), "--input-type=module", "-"]
    else:
        name = "langchain" if "langchain" in command.text else "openai"
        runner = [*client_environments.command(name, "python"), "-"]

    printed = printed_by(runner, variables(server, tmp_path), tmp_path, command.text)

    assert printed.splitlines() == re.findall(r"(?:#|//) -> (.*)", command.text)


def test_llm_answers_with_the_pages_settings(
    server: Live, client_environments: Environments, tmp_path: Path
) -> None:
    (settings,) = commands("yaml")
    text = settings.text.replace("http://127.0.0.1:8000", server.url)
    (tmp_path / "extra-openai-models.yaml").write_text(text)
    program = Path(client_environments.command("llm", "llm")[0])
    environment = variables(server, tmp_path) | {"LLM_USER_PATH": str(tmp_path)}
    environment["PATH"] = f"{program.parent}:{environment['PATH']}"

    (command,) = starting("llm")
    printed = printed_by(["sh", "-ec", command.text], environment, tmp_path)

    assert printed.strip() == "2 + 3 = 5."
    assert len(server.stored("order-10")) == 4
