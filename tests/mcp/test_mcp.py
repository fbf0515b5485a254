"""Tools of real servers of the mcp package, in child processes, over stdio and over HTTP."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from mcp_connections import LEAVES_GENERATORS, HTTPServerProcess, call, over_stdio, wait_for
from pathors_agent import MCPTools, ToolRegistry, tool
from pathors_agent.mcp import connection as connection_module
from servers import free_port

pytestmark = [pytest.mark.slow, pytest.mark.anyio]

# - the registry -


async def test_registry_holds_the_tools_of_the_server(over_http: Callable[..., MCPTools]) -> None:
    async with over_http() as tools:
        definition = tools["add"].definition["function"]

    assert definition["description"] == "Add two numbers."
    assert definition["parameters"]["required"] == ["a", "b"]


async def test_names_are_prefixed_and_mended(connect: Callable[..., MCPTools]) -> None:
    async with connect(prefix="test_") as tools:
        names = [tool.name for tool in tools]
        message = await call(tools, "test_wetter_f_r_morgen", city="Rome")

    assert names == [
        "test_add",
        "test_wetter_f_r_morgen",
        "test_wetter_f_r_morgen_2",
        "test_fail",
        "test_picture",
        "test_summary",
        "test_variable",
        "test_process",
        "test_learn",
        "test_die",
        "test_wait",
        "test_learn_now",
        "test_count",
    ]
    assert json.loads(message.text) == {"city": "Rome", "sun": True}


async def test_names_that_become_equal_stay_different(over_http: Callable[..., MCPTools]) -> None:
    async with over_http() as tools:
        assert (await call(tools, "wetter_f_r_morgen_2")).text == "the other one"


async def test_unusable_definition_is_left_out_with_an_event(
    over_http: Callable[..., MCPTools], events: Callable[[str], list[dict[str, object]]]
) -> None:
    server = over_http(prefix="test_")
    async with server as tools:
        assert "test_bad" not in tools

    assert events("mcp_tool_refused") == [
        {"server": server._shown, "tool": "bad", "path": "parameters/properties/x/type"}
    ]


async def test_registry_composes_with_others(over_http: Callable[..., MCPTools]) -> None:
    @tool
    def double(number: int) -> int:
        """Double a number."""
        return 2 * number

    async with over_http() as tools:
        both = tools.filtered(lambda tool: tool.name == "add") + ToolRegistry([double])

        assert [tool.name for tool in both] == ["add", "double"]
        assert (await call(both, "add", a=1, b=2)).content == "3"


def test_prefix_that_no_name_may_have_is_refused() -> None:
    with pytest.raises(ValueError, match="prefix should be at most 32 of the characters"):
        over_stdio(prefix="my.")


# - a lost connection -


async def test_call_that_the_server_died_in_is_unknown_and_the_next_one_reconnects(
    events: Callable[[str], list[dict[str, object]]],
) -> None:
    async with over_stdio() as tools:
        before = await call(tools, "process")
        broken = await call(tools, "die")
        after = await call(tools, "process")

    assert (broken.outcome, broken.content) == (
        "unknown",
        "The connection to the tool's server broke (Connection closed). "
        "It is unknown whether the tool did its work.",
    )
    assert (after.outcome, before.text != after.text) == ("value", True)
    assert len(events("mcp_connected")) == 2


async def test_server_killed_between_calls_is_started_again_without_a_lost_call(
    events: Callable[[str], list[dict[str, object]]],
) -> None:
    async with over_stdio() as tools:
        process = int((await call(tools, "process")).text)
        os.kill(process, 9)
        await wait_for(lambda: events("mcp_connection_lost"))
        after = await call(tools, "process")

    assert after.outcome == "value"
    assert int(after.text) != process


@LEAVES_GENERATORS
@pytest.mark.parametrize("kind", ["http", "old-http"])
async def test_http_server_that_died_in_a_call_leaves_it_unknown_and_is_found_again(
    kind: str, start_server: Callable[[str], HTTPServerProcess]
) -> None:
    server = start_server(kind)
    async with MCPTools.http(server.url) as tools:
        broken = await call(tools, "die")
        down = await call(tools, "add", a=1, b=2)
        server.start()
        after = await call(tools, "add", a=1, b=2)

    assert (broken.outcome, after.content) == ("unknown", "3")
    assert (down.outcome, f"no MCP server answers at {server.url}" in down.text) == ("error", True)


@LEAVES_GENERATORS
@pytest.mark.parametrize("kind", ["http", "old-http"])
async def test_http_server_may_restart_between_calls(
    kind: str, start_server: Callable[[str], HTTPServerProcess]
) -> None:
    server = start_server(kind)
    async with MCPTools.http(server.url) as tools:
        await call(tools, "add", a=1, b=2)
        server.kill()
        server.start()
        after = await call(tools, "add", a=1, b=2)

    assert (after.outcome, after.content) == ("value", "3")


async def test_http_server_that_stopped_between_calls_is_reported_as_unreachable(
    start_server: Callable[[str], HTTPServerProcess],
) -> None:
    server = start_server("http")
    async with MCPTools.http(server.url) as tools:
        server.kill()
        message = await call(tools, "add", a=1, b=2)

    assert message.outcome == "error"
    assert f"no MCP server answers at {server.url}" in message.text


# - time -


async def test_call_over_its_time_is_a_timeout_and_is_cancelled_at_the_server(
    connect: Callable[..., MCPTools], tmp_path: Path
) -> None:
    async with connect(timeout=0.5) as tools:
        message = await call(
            tools, "wait", started=str(tmp_path / "started"), stopped=str(tmp_path / "stopped")
        )
        await wait_for((tmp_path / "stopped").exists)

    assert (message.outcome, message.content) == (
        "timeout",
        "The tool returned no result within 0.5 s. It is unknown whether the tool did its work.",
    )


async def test_cancelled_call_is_cancelled_at_the_server(
    connect: Callable[..., MCPTools], tmp_path: Path
) -> None:
    async with connect() as tools:
        async with anyio.create_task_group() as tasks:
            files = {name: str(tmp_path / name) for name in ("started", "stopped")}
            tasks.start_soon(lambda: call(tools, "wait", **files))
            await wait_for((tmp_path / "started").exists)
            tasks.cancel_scope.cancel()
        await wait_for((tmp_path / "stopped").exists)

        assert (await call(tools, "add", a=1, b=2)).content == "3"


# - connecting -


async def test_command_that_does_not_exist_is_a_connection_error() -> None:
    with pytest.raises(ConnectionError, match="no MCP server answers at no-such-command: File"):
        async with MCPTools.stdio("no-such-command"):
            pass


async def test_process_that_is_no_server_is_a_connection_error() -> None:
    with pytest.raises(ConnectionError, match="Connection closed"):
        async with MCPTools.stdio(sys.executable, ["-c", ""]):
            pass


async def test_server_that_says_nothing_is_a_connection_error_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection_module, "CONNECT_SECONDS", 0.2)
    # It ends with its input, as servers do.
    silent = "import sys; sys.stdin.read()"

    with pytest.raises(ConnectionError, match=r"within 0\.2 s"):
        async with MCPTools.stdio(sys.executable, ["-c", silent]):
            pass


async def test_no_server_at_the_port_is_a_connection_error() -> None:
    url = f"http://127.0.0.1:{free_port()}/mcp"

    with pytest.raises(ConnectionError, match=f"no MCP server answers at {url}"):
        async with MCPTools.http(url):
            pass


async def test_keys_are_not_shown() -> None:
    key = "sk-secret"
    url = f"http://user:{key}@127.0.0.1:{free_port()}/mcp?key={key}"
    tools = MCPTools.http(url, headers={"Authorization": key})

    with pytest.raises(ConnectionError) as caught:
        async with tools:
            pass

    assert key not in f"{tools!r} {caught.value} {tools._connection._server!r}"
    assert key not in repr(MCPTools.stdio("server", [key], env={"KEY": key}))


async def test_server_process_gets_env_and_a_few_of_our_variables(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OUR_KEY", "secret")

    async with over_stdio(env={"ITS_KEY": "given"}) as tools:
        assert (await call(tools, "variable", key="ITS_KEY")).content == "given"
        assert (await call(tools, "variable", key="OUR_KEY")).content == "(none)"


async def test_process_has_ended_when_the_tools_are_closed() -> None:
    async with over_stdio() as tools:
        process = int((await call(tools, "process")).text)

    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


async def test_error_in_the_block_is_raised_unchanged(connect: Callable[..., MCPTools]) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with connect():
            raise KeyError("mine")


async def test_tools_may_be_connected_again_after_they_were_closed(
    over_http: Callable[..., MCPTools],
) -> None:
    server = over_http()
    for _ in range(2):
        async with server as tools:
            assert (await call(tools, "add", a=1, b=2)).content == "3"


async def test_second_connection_at_the_same_time_is_refused(
    over_http: Callable[..., MCPTools],
) -> None:
    server = over_http()
    async with server:
        with pytest.raises(RuntimeError, match="is already connected"):
            async with server:
                pass


FORKED = """
import os
from mcp_connections import plain_server
from pathors_agent import Agent
from pathors_agent.testing import ScriptedTransport, calls

script = [calls(("process", {})), "parent", calls(("process", {})), "again"]
with Agent(ScriptedTransport(*script), tools=plain_server()) as agent:
    said = [agent.run("Go.").output]
    child = os.fork()
    if child == 0:
        try:
            agent.run("Go.")
        except RuntimeError as error:
            os._exit(int("was connected by another process" not in str(error)))
        os._exit(2)
    said.append(os.waitpid(child, 0)[1])
    print(*said, agent.run("Go.").output)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system that forks")
def test_forked_process_is_told_that_the_connection_is_its_parents() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKED],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.stdout, done.stderr) == ("parent 0 again\n", "")
