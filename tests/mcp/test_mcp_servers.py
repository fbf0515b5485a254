"""Tools of MCP servers that others wrote in another language, installed from npm."""

import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from client_programs import Environments, plain_environment
from pathors_agent import Agent, MCPTools, ToolMessage, ToolProgressDelta, ToolRegistry
from pathors_agent.testing import ScriptedTransport, calls
from servers import PATIENCE_SECONDS, ended, free_port

# The first test waits for the installation.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def programs(client_environments: Environments) -> Path:
    """Return the folder of the servers' programs, or skip where they cannot be installed."""
    return client_environments.folder("mcp-servers") / "node_modules" / ".bin"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that the servers may read and write."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def everything(programs: Path, home: Path) -> Iterator[ToolRegistry]:
    with MCPTools.stdio(
        str(programs / "mcp-server-everything"), env=plain_environment(home)
    ) as tools:
        yield tools


@pytest.fixture(scope="module")
def filesystem(programs: Path, home: Path) -> Iterator[ToolRegistry]:
    program = str(programs / "mcp-server-filesystem")
    with MCPTools.stdio(program, [str(home)], env=plain_environment(home)) as tools:
        yield tools


@pytest.fixture(scope="module")
def memory(programs: Path, home: Path) -> Iterator[ToolRegistry]:
    environment = plain_environment(home) | {"MEMORY_FILE_PATH": str(home / "memory.jsonl")}
    with MCPTools.stdio(str(programs / "mcp-server-memory"), env=environment) as tools:
        yield tools


@pytest.fixture
def everything_url(programs: Path, home: Path) -> Iterator[str]:
    """Start the server of everything at a URL."""
    port = free_port()
    environment = {**plain_environment(home), "PORT": str(port)}
    command = [str(programs / "mcp-server-everything"), "streamableHttp"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        for _ in range(int(PATIENCE_SECONDS / 0.05)):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert not ended(process, within=0.05)
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.kill()
        process.wait()


class Used:
    """A run that made one call, what came of it, and how it was sent to the model."""

    def __init__(self, tools: ToolRegistry | MCPTools, name: str, arguments: Any) -> None:
        model = ScriptedTransport(calls((name, arguments)), "Done.")
        with Agent(model, tools=tools) as agent, agent.stream("Go.") as stream:
            items = list(stream)
        self.progress = [item.value for item in items if isinstance(item, ToolProgressDelta)]
        [self.message] = [item for item in items if isinstance(item, ToolMessage)]
        self.sent = json.dumps(model.requests[1]["messages"][2:])


def test_text_of_a_file_is_sent_once(filesystem: ToolRegistry, home: Path) -> None:
    path = home / "poem.txt"
    path.write_text("The first line\nand the second\n")

    used = Used(filesystem, "read_text_file", {"path": str(path)})

    assert used.message.content == "The first line\nand the second\n"


def test_picture_of_a_file_is_sent_once_and_not_as_text(
    filesystem: ToolRegistry, home: Path
) -> None:
    (home / "dot.gif").write_bytes(b"GIF89a" + bytes(range(60)))

    used = Used(filesystem, "read_media_file", {"path": str(home / "dot.gif")})

    assert used.message.outcome == "value"
    assert used.sent.count("R0lGODlhAAECAwQF") == 1


def test_file_is_written_and_the_error_of_another_file_is_reported(
    filesystem: ToolRegistry, home: Path
) -> None:
    written = Used(filesystem, "write_file", {"path": str(home / "new"), "content": "new"})
    refused = Used(filesystem, "read_text_file", {"path": "/etc/hostname"})

    assert (written.message.outcome, (home / "new").read_text()) == ("value", "new")
    assert refused.message.outcome == "error"
    assert "Access denied" in refused.message.text


def test_every_tool_of_the_three_servers_is_there_but_the_one_that_is_a_task(
    filesystem: ToolRegistry, memory: ToolRegistry, everything: ToolRegistry
) -> None:
    assert {"read_text_file", "edit_file", "move_file"} <= {tool.name for tool in filesystem}
    assert {"create_entities", "read_graph"} <= {tool.name for tool in memory}
    assert {"echo", "get-sum", "trigger-long-running-operation"} <= {t.name for t in everything}
    assert "simulate-research-query" not in everything


def test_graph_is_remembered_and_sent_once(memory: ToolRegistry) -> None:
    ada = {"name": "Ada", "entityType": "person", "observations": ["wrote the first program"]}

    created = Used(memory, "create_entities", {"entities": [ada]})
    read = Used(memory, "read_graph", {})

    assert json.loads(created.message.text) == [ada]
    assert json.loads(read.message.text) == {"entities": [ada], "relations": []}
    assert read.sent.count("wrote the first program") == 1


def test_structured_content_that_repeats_the_text_is_sent_once(everything: ToolRegistry) -> None:
    used = Used(everything, "get-structured-content", {"location": "New York"})

    assert json.loads(used.message.text).keys() == {"temperature", "conditions", "humidity"}


def test_progress_reaches_the_stream(everything: ToolRegistry) -> None:
    used = Used(everything, "trigger-long-running-operation", {"duration": 0.1, "steps": 2})

    assert used.progress == [{"progress": 1.0, "total": 2.0}, {"progress": 2.0, "total": 2.0}]
    assert "completed" in used.message.text


@pytest.mark.parametrize("name", ["get-tiny-image", "get-annotated-message"])
def test_picture_is_a_part(everything: ToolRegistry, name: str) -> None:
    arguments = {"get-annotated-message": {"messageType": "success", "includeImage": True}}

    used = Used(everything, name, arguments.get(name, {}))

    assert not isinstance(used.message.content, str)
    assert "image_url" in [part.type for part in used.message.content or ()]


def test_links_to_resources_are_text(everything: ToolRegistry) -> None:
    used = Used(everything, "get-resource-links", {"count": 1})

    assert "at demo://resource/" in used.message.text


def test_server_in_another_language_answers_over_http(everything_url: str) -> None:
    tools = MCPTools.http(everything_url)

    added = Used(tools, "get-sum", {"a": 2, "b": 3})
    counted = Used(tools, "trigger-long-running-operation", {"duration": 0.1, "steps": 2})

    assert "5" in added.message.text
    assert counted.progress == [{"progress": 1.0, "total": 2.0}, {"progress": 2.0, "total": 2.0}]
