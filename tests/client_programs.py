"""Programs on clients that others wrote, each in an environment of its own, for tests of the server.

`client_environments` installs them, once and all at the same time, into `.venvs/`; a test whose
client cannot be installed is skipped with the reason. The programs in `clients/programs` stay
alive over the tests: they take a scenario as a line of JSON and answer with one.
"""

import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from servers import PATIENCE_SECONDS

if TYPE_CHECKING:
    from live_server import Live

ROOT = Path(__file__).parent.parent
PROGRAMS = Path(__file__).parent / "clients" / "programs"

PYTHON_PACKAGES = {
    "openai": ["openai>=3.50,<4"],
    "openai-agents": ["openai-agents>=0.24,<1"],
    # With pydantic-ai and the library itself, which reads the histories of all three.
    "langchain": [
        "langchain-openai>=1.7,<2",
        "langchain>=1.5,<2",
        "pydantic-ai-slim>=2.40,<3",
        ".",
    ],
    "litellm": ["litellm>=1.110,<2"],
    "llm": ["llm>=0.36,<1"],
    "mirascope": ["mirascope[openai]>=2.8,<3"],
}
NODE_PACKAGES = {
    "ai-sdk": ["ai@^7", "@ai-sdk/openai-compatible@^3", "zod@^4"],
    "front-ends": [
        *("ai@>=6", "@ai-sdk/react@>=3", "@ag-ui/client@^1"),
        *("react@^19", "react-dom@^19", "esbuild@>=0.25"),
    ],
    "openai-node": ["openai@^7", "zod@^4"],
    "pyright": ["pyright@^1.1.400"],
    # Servers whose tools our client calls.
    "mcp-servers": [
        f"@modelcontextprotocol/server-{name}@>=2026.1"
        for name in ("everything", "filesystem", "memory")
    ],
}

# A first installation on a busy machine; pytest's own limit stands above it.
INSTALL_SECONDS = 240.0


class CannotInstall(Exception):
    """The text says why."""


class Environments:
    """The folders of the clients' packages."""

    def __init__(self, workers: ThreadPoolExecutor) -> None:
        packages = {**PYTHON_PACKAGES, **NODE_PACKAGES}
        self._folders: dict[str, Future[Path]] = {
            name: workers.submit(install, name, wanted) for name, wanted in packages.items()
        }

    def folder(self, name: str) -> Path:
        """Wait for an environment, or skip the test that wants it."""
        try:
            return self._folders[name].result(INSTALL_SECONDS)
        except (CannotInstall, TimeoutError) as error:
            pytest.skip(f"{name} cannot be installed: {str(error) or 'it took too long'}")

    def command(self, name: str, program: str) -> list[str]:
        """Return the command that runs a program in an environment."""
        folder = self.folder(name)
        if name in PYTHON_PACKAGES:
            return [str(folder / "bin" / program)]
        return [str(shutil.which(program))]


def install(name: str, packages: Sequence[str]) -> Path:
    """Install packages into the environment of that name, unless they are there."""
    folder = ROOT / ".venvs" / f"clients-{name}"
    stamp = folder / ".installed"
    wanted = "\n".join([sys.version, *packages])
    with _locked(folder):
        if not (stamp.exists() and stamp.read_text() == wanted):
            shutil.rmtree(folder, ignore_errors=True)
            _install_node(folder, packages) if name in NODE_PACKAGES else _install_python(
                folder, packages
            )
            stamp.write_text(wanted)
    return folder


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other test runs out of a folder."""
    folder.parent.mkdir(exist_ok=True)
    with folder.with_suffix(".lock").open("w") as file:
        if os.name == "posix":
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _install_python(folder: Path, packages: Sequence[str]) -> None:
    uv = shutil.which("uv")
    if uv:
        _call([uv, "venv", "--quiet", "--python", sys.executable, str(folder)])
        pip = [uv, "pip", "install", "--quiet", "--python", str(folder / "bin" / "python")]
    else:
        _call([sys.executable, "-m", "venv", str(folder)])
        # What is imported is compiled then; the rest, most of it, never.
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-qq", "--no-compile"]
        pip.append("--disable-pip-version-check")
    _call([*pip, *(str(ROOT) if package == "." else package for package in packages)])


def _install_node(folder: Path, packages: Sequence[str]) -> None:
    npm, node = shutil.which("npm"), shutil.which("node")
    if not npm or not node:
        raise CannotInstall("node and npm are not there")
    folder.mkdir()
    (folder / "package.json").write_text('{"private": true}')
    options = ["--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"]
    _call([npm, "install", "--prefix", str(folder), *options, *packages])


def _call(command: Sequence[str]) -> None:
    """Run a command; its last line is the reason where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT / ".venvs", check=False)
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines() or [f"{command[0]} failed"]
        raise CannotInstall(lines[-1])


@pytest.fixture(scope="session")
def client_environments() -> Iterator[Environments]:
    """Install the clients in the background, and wait for each where it is used."""
    workers = ThreadPoolExecutor()
    yield Environments(workers)
    # Work without a waiter ends later: the last test's limit of time would count it.
    workers.shutdown(wait=False, cancel_futures=True)


def plain_environment(home: Path) -> dict[str, str]:
    """Variables for a client: no keys, no settings of this user, and a way out that leads nowhere."""
    nowhere = "http://127.0.0.1:9"
    proxies = {"HTTPS_PROXY": nowhere, "HTTP_PROXY": nowhere, "NO_PROXY": "127.0.0.1"}
    return {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8", **proxies}


class ClientProgram:
    """A program that performs scenarios against servers."""

    def __init__(self, command: Sequence[str], variables: Mapping[str, str]) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  (closed by stop)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env=dict(variables),
        )

    def perform(
        self, scenario: str, server: "Live", *, key: str | None = None, **given: Any
    ) -> Any:
        """Let it perform a scenario; return what it saw, as its program says."""
        about = {"scenario": scenario, "base_url": server.base, "key": key or server.key}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({**about, "given": given}).encode() + b"\n")
        self._process.stdin.flush()
        answer = json.loads(self._line())
        assert "failed" not in answer, answer["failed"]
        return answer["seen"]

    def _line(self) -> bytes:
        out = self._process.stdout
        assert out is not None
        ready, _, _ = select.select([out], [], [], PATIENCE_SECONDS)
        line = out.readline() if ready else b""
        if not line:
            self._said.seek(0)
            pytest.fail(f"the client said nothing more: {self._said.read().decode()[-2000:]}")
        return line

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._said.close()


@contextmanager
def running_program(
    environments: Environments, name: str, program: str, home: Path
) -> Iterator[ClientProgram]:
    """Run one of the programs while the block lasts."""
    runner = "node" if program.endswith(".mjs") else "python"
    command = environments.command(name, runner)
    variables = plain_environment(home)
    if runner == "node":
        variables["CLIENT_PACKAGES"] = str(environments.folder(name))
    client = ClientProgram([*command, str(PROGRAMS / program)], variables)
    try:
        yield client
    finally:
        client.stop()
