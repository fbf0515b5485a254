import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from command_line import environment, run
from pathors_agent.__main__ import main

pytestmark = pytest.mark.slow

COMMANDS = ["serve", "chat", "demo", "keys create", "keys list", "keys revoke"]
COMMANDS += ["sessions list", "sessions show", "sessions search", "sessions end"]


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_names_the_exit_statuses(command: str) -> None:
    shown = run(*command.split(), "--help")

    assert shown.returncode == 0
    assert shown.stdout.endswith("Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted.\n")


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "swim",
        "serve --swim",
        "serve --port 70000",
        "serve --workers 0",
        "keys",
        "keys revoke",
        "sessions show",
        "sessions list --limit 0",
        "chat --session",
        "check",
        "check http://127.0.0.1:9 --seconds 0",
    ],
)
def test_wrong_usage_is_reported_with_exit_status_2(arguments: str) -> None:
    shown = run(*arguments.split())

    assert shown.returncode == 2
    assert shown.stdout == ""
    assert re.search(r"^Error: .+$|^Usage: ", shown.stderr, re.MULTILINE)


def test_version_is_that_of_the_package() -> None:
    from pathors_agent import __version__

    assert run("--version").stdout == f"pathors-agent {__version__}\n"


def shell(command: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command line of the program, `p`, in a shell."""
    line = command.replace("p ", f"{sys.executable} -m pathors_agent ", 1)
    return subprocess.run(
        ["sh", "-c", line],
        env=environment(**more),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
@pytest.mark.parametrize(
    "command", ["p keys list >&-", "p demo >&- 2>&-", "p chat <&-", "p keys create >&-", "p -h >&-"]
)
def test_command_runs_with_closed_streams(command: str, tmp_path: Path) -> None:
    shown = shell(command, PATHORS_DATA_DIR=str(tmp_path))

    assert shown.returncode == 0
    assert "Traceback" not in shown.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("command", ["p --help", "p --version", "p keys list --json"])
def test_output_that_cannot_be_written_is_one_error(command: str, tmp_path: Path) -> None:
    shown = shell(f"{command} >/dev/full", PATHORS_DATA_DIR=str(tmp_path))

    assert (shown.returncode, shown.stderr.count("\n")) == (1, 1)
    assert "No space left on device" in shown.stderr


def test_ctrl_c_during_the_imports_ends_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Interrupted(ModuleType):
        def __getattr__(self, name: str) -> object:
            raise KeyboardInterrupt

    module = "pathors_agent.cli.app"
    monkeypatch.setitem(sys.modules, module, Interrupted(module))

    assert main([]) == 130


def test_characters_that_the_terminal_lacks_are_replaced(tmp_path: Path) -> None:
    here = {"PATHORS_DATA_DIR": str(tmp_path), "PYTHONIOENCODING": "ascii"}
    run("keys", "create", "caf\u00e9", **here)

    assert "caf?" in run("keys", "list", **here).stdout


def test_script_of_the_package_is_the_same_program() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]

    assert project["scripts"] == {"pathors-agent": "pathors_agent.__main__:main"}


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_load_nothing_heavy(option: str) -> None:
    heavy = {"fastapi", "uvicorn", "sqlalchemy", "httpx2", "pydantic", "rich", "anyio"}

    shown = python(
        "import sys\n"
        "from pathors_agent.__main__ import main\n"
        f"try: main([{option!r}])\n"
        f"finally: print(sorted({heavy!r} & set(sys.modules)))"
    )

    assert shown.stdout.endswith("\n[]\n")


@pytest.mark.parametrize("name", ["typer", "rich"])
def test_missing_extra_is_one_sentence(name: str) -> None:
    listing = ["keys", "list", "--database", "sqlite:///keys.db"]
    command = ["--help"] if name == "typer" else listing
    shown = python(
        "import os, sys, tempfile\n"
        "os.chdir(tempfile.mkdtemp())\n"
        f"sys.modules[{name!r}] = sys.modules['rich.table'] = None\n"
        "from pathors_agent.__main__ import main\n"
        f"sys.exit(main({command!r}))"
    )

    assert shown.returncode == 2
    assert shown.stdout == ""
    assert re.fullmatch(rf"error: .*{name}.*: pip install 'pathors-agent\[cli\]'\n", shown.stderr)


@pytest.mark.parametrize(
    ("module", "extra"), [("fastapi", "server"), ("uvicorn", "server"), ("sqlalchemy", "server")]
)
def test_missing_part_of_the_server_is_one_sentence(module: str, extra: str) -> None:
    shown = python(
        "import sys\n"
        f"sys.modules[{module!r}] = None\n"
        "from pathors_agent.__main__ import main\n"
        "sys.exit(main(['serve', '--database', 'sqlite:////nowhere/x.db']))"
    )

    assert shown.returncode == 2
    assert re.fullmatch(
        rf"error: .*{module}.*: pip install 'pathors-agent\[{extra}\]'\n", shown.stderr.lower()
    )


def test_database_that_cannot_be_opened_is_one_line() -> None:
    shown = run("keys", "list", "--database", "sqlite:////nowhere/at/all.db")
    unknown = run("keys", "list", "--database", "mysql://me:s3cret@x/y")

    assert (shown.returncode, unknown.returncode) == (1, 2)
    assert re.fullmatch(r"error: .*\n", shown.stderr)
    assert "'--database'" in unknown.stderr
    assert "s3cret" not in unknown.stderr
